"""Train a student: one flat main() from settings to a judged run.

    python train.py                                      # the toy task, no network
    python train.py --dataset svamp --size small         # a run of the paper's
    python train.py --dataset svamp --size small --method dss --seed 1
    torchrun --nproc_per_node 2 train.py --dataset svamp --size base

Letters: B batch, S source length, T target length, V vocabulary.
"""

import argparse
import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

import data
import eval as judge
import mi_loss
import t5
from t5 import InputError

PAPER = {"steps": 10_000, "lr": 5e-5}
TOY = {"steps": 1_500, "lr": 4e-3}
TERMS = ("loss", "prediction", "generation", "mi")
SAVE_EVERY = 600  # seconds, where validation does not come sooner
stop_asked = []  # the numbers of the signals that ask for a stop
# flags that change a result by rounding and by the draws of dropout at most, and those with a place
# of their own in a run's name
UNNAMED = {"dataset", "size", "method", "seed", "data_root", "out", "resume", "device", "tokenizer",
           "micro_batch"}  # fmt: skip


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a T5 student on labels and rationales. Without flags: the toy task.")
    add = parser.add_argument_group("what is trained").add_argument
    add("--dataset", default="toy", help="toy, svamp, cqa, anli1, esnli, or a folder of JSON lines")
    add("--size", choices=t5.PRESETS, help="default: tiny for toy, else small")
    add("--method", choices=["finetune", "single", "dss", "mi"], default="mi", help="Tables 1, 2")
    add("--mi", choices=["paper", "released", "kl"], default="paper",
        help="the reading of Eq. 11; kl: Table 5")  # fmt: skip
    add("--reduce", choices=["max", "mean"], default="max", help="over positions; Table 4")
    add("--labels", choices=["gold", "llm"], default="gold", help="llm: the teacher's; Table 3")
    add("--subsample", type=float, default=1.0, metavar="F",
        help="the share of the training set to keep, (0, 1]; Figures 2, 3")  # fmt: skip
    add = parser.add_argument_group("how it is trained").add_argument
    add("--steps", type=int, help="default: 10,000; toy: 1,500")
    add("--batch-size", type=int, default=64, help="of all processes together")
    add("--lr", type=float, help="of AdamW, falls linearly to 0; default: 5e-5; toy: 4e-3")
    add("--alpha3", type=float, default=0.1, help="weight of L_CE in Eq. 10; the others are 0.5")
    add("--micro-batch", type=int, metavar="N", help="examples computed at once; the result is the "
        "same but for rounding and dropout's draws; default: by vocabulary and device")  # fmt: skip
    add("--window", type=int, default=1, metavar="N",
        help="batches whose examples are sorted by length together; 1: random batches")
    add("--eval-every", type=int, default=250, metavar="N", help="steps between validations")
    add("--seed", type=int, default=0, help="of weights, order, dropout and --subsample")
    add("--precision", choices=["auto", "fp32", "tf32", "bf16", "fp16"],
        default="auto", help="auto: fp32 on the CPU; on CUDA bf16, or fp16 where the card has no "
        "bf16; tf32: fp32 with tf32 matrix products where the card has them")  # fmt: skip
    add("--device", help="default: cuda if there is one, else cpu")
    add("--compile", action="store_true",
        help="torch.compile the loss: minutes at first, then faster; dropout draws other numbers")
    add = parser.add_argument_group("where things are").add_argument
    add("--data-root", default="datasets", help="the released files, downloaded if not there")
    add("--weights", metavar="FOLDER", help="a T5: config.json, weights, spiece.model")
    add("--from-scratch", action="store_true", help="random weights; toy with tiny always has them")
    add("--tokenizer", metavar="FILE", help="a spiece.model, if not that of the weights")
    add("--out", default="runs", help="the folder of the runs")
    add("--resume", action="store_true", help="go on from the run's last saved state")
    args = parser.parse_args(argv)
    toy = args.dataset == "toy"
    args.size = args.size or ("tiny" if toy else "small")
    for name, value in (TOY if toy else PAPER).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("steps", "batch_size", "micro_batch", "window", "eval_every", "lr"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')}: expected more than 0")
    return args


def run_name(args):
    """dataset-size-method, every other setting that changes the result, and the seed."""
    defaults = parse(["--dataset", args.dataset])
    name = f"{Path(args.dataset).name}-{args.size}-{args.method}"
    for flag, value in vars(args).items():
        if flag not in UNNAMED and value != getattr(defaults, flag):
            name += f"-{flag}" if value is True else f"-{flag}_{Path(str(value)).name}"
    return f"{name}-s{args.seed}"


def find_tokenizer(args):
    if args.tokenizer:
        return Path(args.tokenizer)
    if args.weights:
        return Path(args.weights) / "spiece.model"
    if args.dataset == "toy" and args.size == "tiny":
        return Path(args.data_root) / "toy" / "spiece.model"
    size = args.size if args.size in data.PUBLISHED else "small"  # all have the same
    return data.published(size, ["spiece.model"]) / "spiece.model"


def student(args, tokenizer):
    """The model to train, and where its weights come from."""
    if args.weights:
        return t5.load(args.weights), args.weights
    if args.from_scratch or (args.dataset == "toy" and args.size == "tiny"):
        rows = -len(tokenizer) // 128 * -128  # as T5's own 32,100 tokens have 32,128 rows
        config = replace(t5.PRESETS[args.size], vocab_size=rows, num_tokens=len(tokenizer))
        return t5.T5(config), "random weights"
    if args.size not in data.PUBLISHED:
        raise InputError(f"{args.size} has no published weights; add --from-scratch")
    folder = data.published(args.size)
    return t5.load(folder), folder


def ask_to_stop(number, frame):
    """The first signal lets the loop finish its step and save; the second stops at once."""
    if stop_asked:
        sys.exit(128 + number)
    stop_asked.append(number)
    os.write(2, b"train.py: stopping after this step, which is saved; again to stop at once\n")


def write_json(path, value):
    t5.replace_file(path, lambda file: file.write(json.dumps(value, indent=2).encode()))


def clock(seconds):  # 3661 -> 1:01:01
    return str(timedelta(seconds=int(seconds)))


def training_loss(model, sources, targets, args, totals=(None, None, None)):
    """The loss that a step minimises and its terms by name, detached.

    sources: (B or 2 B, S) ids, the tasks below one another; targets: (B, T) ids for each task.
    """
    encoded, B, logits = model.encode(sources), len(targets[0]), []
    for ids, memory, source in zip(targets, encoded.split(B), sources.split(B)):
        logits.append(model.logits(model.decode(ids, memory, source)))
    if len(targets) == 1:  # finetune, single
        loss = mi_loss.token_cross_entropy(logits[0], targets[0], totals[0])
        return loss, {"loss": loss.detach(), "prediction": loss.detach()}
    alpha3 = args.alpha3 if args.method == "mi" else 0.0
    return mi_loss.objective(logits[0], targets[0], logits[1], targets[1], alpha3=alpha3,
                             form=args.mi, reduce=args.reduce, totals=totals)  # fmt: skip


def main(argv=None):
    args = parse(argv)
    # torchrun starts `world` processes of which this is number `rank`; without it they are 1 and 0
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    device = torch.device(gpu if args.device in (None, "cuda") else args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    precision = args.precision
    if precision == "auto" and device.type == "cuda":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    elif precision == "auto":
        precision = "fp32"
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    autocast = partial(torch.autocast, device.type, dtype, enabled=dtype is not None)
    if args.compile and not shutil.which(compiler := os.environ.get("CXX", "g++")):
        raise InputError(f"--compile needs a C++ compiler, and there is no {compiler}: install it, "
                         "name another in CXX, or leave --compile out")
    if world > args.batch_size:
        raise InputError(f"--batch-size {args.batch_size} can't be shared by {world} processes")
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    say = print if rank == 0 else lambda *_, **__: None

    # --------------------------------------------------------------------------------------------
    # the data and the student

    name = args.dataset
    train, valid = data.train_and_valid(name, args.data_root, args.subsample, args.seed)
    test = data.load(name, "test", args.data_root)
    teacher = sum(data.is_correct(name, e.llm_label, e.label) for e in train) / len(train)
    blank = sum(not e.rationale for e in train)
    known = any(e.llm_label for e in train)
    if args.labels == "llm" and not known:
        raise InputError(f"{name}: --labels llm needs the teacher's labels, and there are none")
    say(f"{name}: {len(train):,} train, {len(valid):,} valid, {len(test):,} test examples; of the "
        f"teacher's train labels {f'{teacher:.2%} are right' if known else 'none is known'}, "
        f"{blank} rationales are blank")
    tokenizer = data.Tokenizer(find_tokenizer(args))
    ids = data.encode(train, tokenizer, args.method, args.labels)

    torch.manual_seed(args.seed)
    model, origin = student(args, tokenizer)
    if len(tokenizer.pieces) > model.config.vocab_size:
        raise InputError(f"the tokenizer has {len(tokenizer.pieces):,} pieces, more than the "
                         f"{model.config.vocab_size:,} rows of the model's embedding")
    model.to(device).train()
    torch.manual_seed(args.seed + rank)  # each process has a dropout of its own
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    # --------------------------------------------------------------------------------------------
    # the run's folder, and its state if there is one

    run = Path(args.out) / run_name(args)
    vocabulary = hashlib.sha256(tokenizer.serialized).hexdigest()
    settings = vars(args) | {"precision": precision, "vocabulary": vocabulary}
    if (run / "metrics.json").exists():
        raise InputError(f"{run} is finished and stays as it is: see it with `python eval.py {run}`"
                         ", or train another with --seed or --out")
    if (run / "state.pt").exists() and not args.resume:
        raise InputError(f"{run} was begun: go on with --resume, or begin another with --out")
    step, best, log, spent = 0, {"accuracy": -1.0, "step": 0}, [], 0.0
    if (run / "state.pt").exists():
        state = torch.load(run / "state.pt", map_location=device, weights_only=True)
        before = state["settings"]
        if changed := [k for k in settings if k not in UNNAMED and settings[k] != before.get(k)]:
            changes = ", ".join(f"{k} was {before.get(k)}, is {settings[k]}" for k in changed)
            raise InputError(f"{run} was begun with other settings: {changes}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        if rank == 0:  # only its state is saved: the other processes begin another stream
            torch.set_rng_state(state["random"].cpu())
            if device.type == "cuda" and "random_cuda" in state:
                torch.cuda.set_rng_state(state["random_cuda"].cpu(), device)
        else:
            torch.manual_seed(args.seed + rank + 1_000_003 * state["step"])
        step, best, spent = state["step"], state["best"], state["spent"]
        # what was logged after the saved step is cut off: those steps are taken again
        log = (run / "log.jsonl").read_text().splitlines(keepends=True)[:step]
    if rank == 0:
        (run / "last").mkdir(parents=True, exist_ok=True)
        lock = open(run / "lock", "a+")  # held, by the name of its holder, until this process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise InputError(f"{run} is being trained by process {lock.read()}: wait, or begin "
                             "another with --seed or --out") from None
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
        for folder in (run, run / "last"):
            write_json(folder / "settings.json", settings)
            t5.replace_file(folder / "spiece.model", lambda file: file.write(tokenizer.serialized))
        t5.replace_file(run / "log.jsonl", lambda file: file.write("".join(log).encode()))
    say(f"{args.size}: {sum(p.numel() for p in model.parameters()):,} parameters, {origin}; "
        f"{precision} on {world} x {device.type}; {args.steps:,} steps of {args.batch_size} are "
        f"{args.steps * args.batch_size / len(train):,.1f} epochs; {run}")

    def accuracy(student, examples):  # each process answers its share; generate has no dropout
        share = examples[rank::world]
        with autocast():
            right = judge.count_correct(student, tokenizer, share, name, args.method)
        right = torch.tensor(right, device=device)
        if world > 1:
            dist.all_reduce(right)
        return right.item() / len(examples)

    # --------------------------------------------------------------------------------------------
    # the loop

    began = shown = saved = time.time()
    start, pending = step, []
    lengths = [max(map(len, sources)) for sources, _ in ids]
    batches = data.batches(lengths, args.batch_size, args.seed, start, args.window)
    # as many examples at once as make about `most` logits where targets are 64 ids long; on the CPU
    # 32 MB of them, since Linux maps a larger tensor anew, page by page, each time it is made
    most = 2**23 if device.type == "cpu" else 2**28
    micro_batch = args.micro_batch or max(1, most // (64 * model.config.vocab_size))
    loss_of = torch.compile(training_loss, dynamic=True) if args.compile else training_loss
    trim = not (args.method == "mi" and args.mi == "released")  # its loss depends on the padding
    say(f"{'step':>13}" + "".join(f"{term:>12}" for term in TERMS) + "  examples/s      left")
    while step < args.steps:
        batch = [ids[i] for i in next(batches)]
        micro_batches, totals = data.collate(batch, device, rank, world, micro_batch, trim)
        terms = {}
        for sources, targets in micro_batches:  # their losses and gradients add up to the batch's
            with autocast():
                loss, parts = loss_of(model, sources, targets, args, totals)
            scaler.scale(loss).backward()
            for term, part in parts.items():
                terms[term] = terms.get(term, 0.0) + part
        if world > 1:  # and so do the processes'
            for share in (*(p.grad for p in model.parameters()), *terms.values()):
                dist.all_reduce(share)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * (1 - step / args.steps)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

        step += 1
        record = {"step": step, "seconds": round(time.time() - began, 3),
                  "examples": (step - start) * len(batch[rank::world])}
        pending.append(record | dict.fromkeys(TERMS) | terms)  # None: a term the method lacks
        due = step % args.eval_every == 0 or step == args.steps
        save = due or stop_asked or time.time() - saved > SAVE_EVERY
        if not save and time.time() - shown < 5:
            continue

        # the log: reading a loss makes a GPU wait for it, so all since the last line at once
        for record in pending:
            for term, value in record.items():
                if torch.is_tensor(value):
                    record[term] = value.item()
                    if not math.isfinite(record[term]):
                        raise InputError(f"step {record['step']}: {term} is {record[term]}; lower "
                                         "--lr, or take --precision fp32. The saved state is kept")
        if scaler.is_enabled() and scaler.get_scale() < 1:  # halved at every step that overflows
            raise InputError(f"step {step}: fp16 overflows at every step; take --precision bf16 or "
                             "fp32. The saved state is kept")
        shown = time.time()
        rate = (step - start) / (shown - began)
        columns = ("-" if record[term] is None else f"{record[term]:.4f}" for term in TERMS)
        say(f"{step:6}/{args.steps:<6}" + "".join(f"{column:>12}" for column in columns)
            + f"{rate * args.batch_size:12.1f}{clock((args.steps - step) / rate):>10}", flush=True)
        if rank == 0:
            with open(run / "log.jsonl", "a") as file:
                file.writelines(json.dumps(record) + "\n" for record in pending)
        pending = []
        if not save:
            continue

        # validation and the best weights; the state to go on from
        if due:
            found = accuracy(model, valid)
            say(f"{step:6}/{args.steps:<6} validation accuracy {found:.2%}", flush=True)
            if found >= best["accuracy"]:  # of equals the later, which has learned for longer
                best = {"accuracy": found, "step": step}
                if rank == 0:
                    t5.save(model, run)
        if rank == 0:
            state = {"step": step, "best": best, "spent": spent + time.time() - began,
                     "settings": settings, "model": model.state_dict(),
                     "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                     "random": torch.get_rng_state()}
            if device.type == "cuda":
                state["random_cuda"] = torch.cuda.get_rng_state(device)
            t5.replace_file(run / "state.pt", lambda file: torch.save(state, file))
        saved = time.time()
        if stop_asked and step < args.steps:
            say(f"stopped after step {step}, all of it saved: go on with --resume")
            return 128 + stop_asked[0]

    # --------------------------------------------------------------------------------------------
    # the last look: test, with the weights that were best on validation and with the last

    took = spent + time.time() - began
    metrics = {"validation_accuracy": best["accuracy"], "best_step": best["step"],
               "examples": args.steps * args.batch_size, "seconds": round(took, 1)}
    if scaler.is_enabled():
        taken = optimizer.state[next(model.parameters())]["step"]
        metrics["skipped_steps"] = args.steps - int(taken)  # those that overflowed
    metrics["test_accuracy_last"] = accuracy(model, test)
    if rank == 0:
        t5.save(model, run / "last")
    if world > 1:
        dist.barrier()  # the best weights are on disk
    chosen = t5.load(run).to(device)
    metrics["test_accuracy"] = accuracy(chosen, test)
    if rank == 0:
        judge.show_samples(chosen, tokenizer, test[:3], name, args.method)
        write_json(run / "metrics.json", metrics)
        (run / "state.pt").unlink()
        (run / "lock").unlink()
    say(f"test accuracy {metrics['test_accuracy']:.2%} with the weights of step {best['step']}, "
        f"the best on validation, {metrics['test_accuracy_last']:.2%} with the last\n"
        f"{run} was trained in {clock(took)}")
    if world > 1:
        dist.barrier()  # none leaves while another still needs it
        dist.destroy_process_group()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    sys.exit(judge.run_for_user("train.py", main))
