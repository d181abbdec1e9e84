"""Train a student: `training_loss` is the method's data flow, `main` a run from flags to test.

    python train.py                                      # the toy task, no network
    python train.py --dataset svamp --size small         # real data, the released settings
    python train.py --dataset svamp --size small --method dss --seed 1
    torchrun --nproc_per_node 2 train.py --dataset svamp --size base

Letters: B batch, S source length, T target length, D model width, V vocabulary.
"""

import argparse
import hashlib
import json
import math
import os
import shlex
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
import eval as evaluation
import mi_loss
import t5
from t5 import check


def training_loss(model, sources, targets, args, label_tokens=None, rationale_tokens=None,
                  examples=None):  # fmt: skip
    """The loss that a step minimises -> L and its terms by name, detached, in nats.

    sources: (B, S) ids of the texts, or for two tasks (2 B, S): B times `predict: TEXT`, then B
    times `explain: TEXT`. targets: [(B, T) ids], the labels, then the rationales, if the method has
    them. The last three arguments are those of `mi_loss.objective`.
    """
    B = len(targets[0])
    encoded = model.encode(sources)  # both tasks in one pass: (2 B, S, D)
    logits = []  # of each task: (B, T, V); the decoder reads the targets before each position
    for ids, memory, source in zip(targets, encoded.split(B), sources.split(B)):
        logits.append(model.logits(model.decode(ids, memory, source)))
    if len(targets) == 1:  # finetune: TEXT -> LABEL; single: TEXT -> RATIONALE and LABEL
        loss = mi_loss.token_cross_entropy(logits[0], targets[0], label_tokens)
        return loss, {"loss": loss.detach(), "prediction": loss.detach()}
    return mi_loss.objective(
        logits[0], targets[0], logits[1], targets[1],
        alpha3=args.alpha3 if args.method == "mi" else 0.0, form=args.mi, reduce=args.reduce,
        label_tokens=label_tokens, rationale_tokens=rationale_tokens,
        examples=examples)  # fmt: skip


# ------------------------------------------------------------------------------------------------
# settings

RELEASED = {"steps": 10_000, "lr": 5e-5}  # the released code's defaults; the paper states neither
TOY = {"steps": 1_500, "lr": 4e-3}
FORMS = ("paper", "kl", "released")
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")  # tf32: fp32 with tf32 matrix products
TERMS = ("loss", "prediction", "generation", "mi")
SAVE_EVERY = 600  # seconds between saved states, where no validation comes sooner
# flags left out of a run's name: they have a place of their own in it or (tokenizer) are compared
# by content, or they change no more than rounding and the draws of dropout
UNNAMED = {"dataset", "size", "weights", "method", "seed", "data_root", "out", "resume", "device",
           "tokenizer", "micro_batch"}  # fmt: skip
stop_signals = []  # the numbers of the signals that asked for a stop


def parse(argv=None):
    about = "Train a T5 student on labels and rationales. Without flags: the toy task."
    parser = evaluation.OneLineParser(prog="train.py", description=about)
    add = parser.add_argument_group("what is trained").add_argument
    add("--dataset", default="toy", metavar="NAME|FOLDER",
        help="toy (default), svamp, cqa, anli1, esnli, or a folder of JSON lines")  # fmt: skip
    add("--size", choices=t5.PRESETS, help="default: tiny for toy, else small")
    add("--method", choices=evaluation.METHODS, default="mi", help="Tables 1, 2; default: mi")
    add("--mi", choices=FORMS, default="paper",
        help="the reading of Eq. 11 (kl: Table 5); default: paper")  # fmt: skip
    add("--reduce", choices=["max", "mean"], default="max",
        help="how f reduces over positions (Table 4); default: max")  # fmt: skip
    add("--labels", choices=["gold", "llm"], default="gold",
        help="llm: the teacher's (Table 3); default: gold")  # fmt: skip
    add("--subsample", type=float, default=1.0, metavar="F",
        help="share of the training set, in (0, 1] (Figures 2, 3); default: 1")  # fmt: skip
    add("--by-value", action="store_true", help="compare a folder's answers as arithmetic")
    add = parser.add_argument_group("how it is trained").add_argument
    add("--steps", type=int, metavar="N", help="default: 10,000; toy: 1,500")
    add("--batch-size", type=int, default=64, metavar="N", help="examples a step; default: 64")
    add("--lr", type=float, metavar="X", help="falls linearly to 0; default: 5e-5; toy: 4e-3")
    add("--alpha3", type=float, default=0.1, metavar="X", help="weight of L_CE; default: 0.1")
    add("--eval-every", type=int, default=250, metavar="N",
        help="steps between validations; default: 250")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N",
        help="of weights, order, dropout and --subsample; default: 0")  # fmt: skip
    add("--micro-batch", type=int, metavar="N",
        help="examples computed at once, to fit memory; default: by vocabulary and device")
    add("--precision", choices=PRECISIONS, default="auto",
        help="of training; default: fp32; on CUDA bf16, or fp16 without bf16")  # fmt: skip
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps; default: cuda if present, else cpu")
    add("--compile", action="store_true", help="torch.compile the loss: slow to start, then faster")
    add = parser.add_argument_group("where things are").add_argument
    add("--data-root", default="datasets", metavar="FOLDER",
        help="of the released sets, downloaded if absent; default: datasets")  # fmt: skip
    add("--weights", metavar="FOLDER|NAME", help="a T5 folder, or a hub name: google/flan-t5-small")
    add("--from-scratch", action="store_true", help="random weights; toy with tiny always has them")
    add("--tokenizer", metavar="FILE", help="a spiece.model, if not that of the weights")
    add("--out", default="runs", metavar="FOLDER", help="of the runs' folders; default: runs")
    add("--resume", action="store_true", help="go on from the run's last saved state")
    args = parser.parse_args(argv)
    toy = args.dataset == "toy"
    if data.is_folder(args.dataset):  # settings.json names it for whoever reads it elsewhere
        args.dataset = os.path.abspath(args.dataset)
    if args.weights and (args.size or args.from_scratch):
        parser.error("--weights has a size of its own: leave --size and --from-scratch out")
    if args.weights:
        args.size = data.title(args.weights)
    args.size = args.size or ("tiny" if toy else "small")
    for name, value in (TOY if toy else RELEASED).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("steps", "batch_size", "micro_batch", "eval_every", "lr", "subsample"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')}: expected more than 0, found {value}")
    if args.subsample > 1:
        parser.error(f"--subsample: expected at most 1, found {args.subsample}")
    if not 0 <= args.alpha3 < math.inf or not 0 <= args.seed < 2**63:
        parser.error("--alpha3, --seed: expected 0 or more")
    return args


def run_name(args):
    """dataset-size-method, every other setting that changes the result, and the seed."""
    defaults = parse(["--dataset", args.dataset])
    name = f"{data.title(args.dataset)}-{args.size}-{args.method}"
    for flag, value in vars(args).items():
        if flag not in UNNAMED and value != getattr(defaults, flag):
            name += f"-{flag}" if value is True else f"-{flag}_{value}"
    return f"{name}-s{args.seed}"


def student(args):
    """The model to train, its tokenizer, and where its weights come from."""
    toy, folder, origin = args.dataset == "toy" and args.size == "tiny", None, "random weights"
    if args.weights:
        folder, origin = data.find_weights(args.weights), args.weights
    elif not args.from_scratch and not toy:
        folder, origin = data.published(args.size), data.PUBLISHED[args.size][0]
    vocabulary = args.tokenizer
    if not vocabulary and toy:
        vocabulary = Path(args.data_root) / "toy" / "spiece.model"
    elif not vocabulary:  # the presets have one vocabulary
        vocabulary = (folder or data.published("small", ["spiece.model"])) / "spiece.model"
    tokenizer = data.Tokenizer(vocabulary)
    torch.manual_seed(args.seed)
    if folder:
        model = t5.load(folder)
    else:
        rows = -len(tokenizer) // 128 * -128  # as T5's own 32,100 tokens have 32,128 rows
        config = replace(t5.PRESETS[args.size], vocab_size=rows, num_tokens=len(tokenizer))
        model = t5.T5(config)
    rows, pieces = model.config.vocab_size, len(tokenizer.pieces)
    check(pieces <= rows, f"{vocabulary}: {pieces:,} pieces, and the model has {rows:,} rows")
    return model, tokenizer, origin


def default_micro_batch(device, V):
    """How many examples make 2**23 logits, on a GPU 2**28, where targets are 64 ids long.

    On the CPU a larger tensor than these 32 MB is mapped anew, page by page, each time it is made.
    """
    return max(1, (2**23 if device.type == "cpu" else 2**28) // (64 * V))


def ask_to_stop(number, frame):
    """The first signal lets the loop save its state and end; the second ends it at once."""
    if stop_signals:
        sys.exit(128 + number)
    stop_signals.append(number)
    os.write(2, b"train.py: stopping after this micro-batch, or the validation under way, and "
                b"saving; a second signal stops at once\n")


def write(path, text):
    t5.replace_file(path, lambda file: file.write(text.encode()))


def clock(seconds):  # 3661 -> 1:01:01
    return str(timedelta(seconds=int(seconds)))


CARD = """# {run}

A T5 student that was trained on {dataset} with `--method {method}`, from {origin}.

* made with `{command}`
* test accuracy {accuracy:.2%} of {n:,} examples (95% interval, Wilson: {low:.2%} to {high:.2%})
  with the weights of step {step}, the best on validation
* reads {prompts}; ask it with `python eval.py {folder} --ask TEXT`, or load it with
  transformers' T5ForConditionalGeneration and AutoTokenizer
* settings.json has every setting, log.jsonl every step, metrics.json the results
"""


def main(argv=None):
    args = parse(argv)
    # torchrun starts `world` processes of which this is number `rank`; without it they are 1 and 0
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    say = print if rank == 0 else lambda *_, **__: None
    run = Path(args.out) / run_name(args)
    check(not (run / "metrics.json").exists(), f"{run} is finished and stays as it is: see it with "
          f"`python eval.py {run}`, or train another with --seed or --out")
    check(args.resume or not run.exists(),
          f"{run} was begun: go on with --resume, or begin another with --seed or --out")
    check(not args.resume or run.exists(),
          f"--resume: expected the run {run}, found none: repeat the flags that it was begun with, "
          "or leave --resume out to begin it")
    device = evaluation.find_device(args.device)
    if device.type == "cuda":
        check(world == 1 or device.index is None,
              f"--device {device} for {world} processes: leave the number out, each takes its own")
        index = os.environ.get("LOCAL_RANK", 0) if device.index is None else device.index
        device = evaluation.find_device(f"cuda:{index}")
        torch.cuda.set_device(device)
    precision = args.precision
    if precision == "auto" and device.type == "cuda":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    precision = "fp32" if precision == "auto" else precision
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    autocast = partial(torch.autocast, device.type, dtype, enabled=dtype is not None)
    compiler = os.environ.get("CXX", "g++")
    check(not args.compile or shutil.which(compiler), f"--compile needs a C++ compiler, found no "
          f"{compiler}: install it, name another in CXX, or leave --compile out")
    check(world <= args.batch_size,
          f"--batch-size {args.batch_size} can't be shared by {world} processes")
    if "RANK" in os.environ:  # numbers on the CPU go by gloo, which does not wait for the GPU
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))

    # --------------------------------------------------------------------------------------------
    # the data and the student; process 0 first, so that it alone downloads

    if rank > 0:
        dist.barrier()
    train, valid = data.train_and_valid(args.dataset, args.data_root, args.subsample, args.seed)
    test = data.load(args.dataset, "test", args.data_root)
    known = any(example.llm_label for example in train)
    check(known or args.labels == "gold", f"{args.dataset}: --labels llm needs the teacher's "
          "labels (`llm_label`), found none")
    check(args.batch_size <= len(train), f"--batch-size: expected at most {len(train)}, the number "
          f"of training examples, found {args.batch_size}")
    for label in sorted({e.label for e in train + valid + test} if args.by_value else ()):
        check(data.evaluate_equation(label) is not None, "--by-value: expected arithmetic as "
              f"labels, found {label!r:.60}: leave the flag out")
    model, tokenizer, origin = student(args)
    if rank == 0 and dist.is_initialized():
        dist.barrier()
    by_value = args.by_value or data.by_value(args.dataset)
    if not by_value:
        data.check_labels(train + valid + test, tokenizer, args.labels)
    teacher = sum(data.is_correct(e.llm_label, e.label, by_value) for e in train) / len(train)
    say(f"{args.dataset}: {len(train):,} train, {len(valid):,} valid, {len(test):,} test examples; "
        f"the teacher's labels: {f'{teacher:.2%} of train are right' if known else 'none'}")
    if rank == 0:
        for split, examples in (("train", train), ("valid", valid), ("test", test)):
            kind = args.labels if split == "train" else "gold"
            for line in data.losses(examples, tokenizer, args.method, kind):
                print(f"{split}: {line}")
    labels = sorted({example.label for example in train})
    candidates = labels if len(labels) <= 20 and not by_value else None
    unseen = [e.label for e in test if candidates and e.label not in candidates]
    if unseen:
        say(f"test: {len(unseen):,} of {len(test):,} labels are in no training example, such as "
            f"{unseen[0]!r:.60}")
    ids = data.encode(train, tokenizer, args.method, args.labels)
    valid_ids = data.encode(valid, tokenizer, args.method, args.labels)
    model.to(device).train()
    torch.manual_seed(args.seed + rank)  # each process draws its own dropout
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    # --------------------------------------------------------------------------------------------
    # the run's settings, its folder, and its state if there is one

    settings = vars(args) | {
        "precision": precision,
        "by_value": by_value,
        "vocabulary": hashlib.sha256(tokenizer.serialized).hexdigest(),
        "train_examples": data.digest(train),
        "valid_examples": data.digest(valid),
        "test_examples": data.digest(test),
        "label_limit": data.label_limit(train + valid + test, tokenizer),
        "candidates": candidates,
    }
    step, best, log, earlier_seconds = 0, {"accuracy": -1.0, "step": 0}, [], 0.0
    if (run / "state.pt").exists():
        state = torch.load(run / "state.pt", map_location=device, weights_only=True)
        before = state["settings"]
        changed = [k for k in settings if k not in UNNAMED and settings[k] != before.get(k)]
        changes = [f"{k} was {before.get(k)!s:.16}, is {settings[k]!s:.16}" for k in changed]
        check(not changed, f"{run} was begun with other settings: {', '.join(changes)}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        torch.manual_seed(args.seed + rank + 1_000_003 * state["step"])
        if rank == 0:  # only its random state is saved: the others begin another stream
            torch.set_rng_state(state["random"][0].cpu())
            for cuda_state in state["random"][1:]:
                torch.cuda.set_rng_state(cuda_state.cpu(), device)
        step, best, earlier_seconds = state["step"], state["best"], state["seconds"]
        # what was logged after the saved step is cut off: those steps are taken again
        log = (run / "log.jsonl").read_text().splitlines(keepends=True)[:step]
    if rank == 0:
        run.mkdir(parents=True, exist_ok=args.resume)
        for folder in (run, run / "last"):
            folder.mkdir(exist_ok=True)
            write(folder / "settings.json", json.dumps(settings, indent=2))
            tokenizer.save(folder)
        write(run / "log.jsonl", "".join(log))
    size = sum(p.numel() for p in model.parameters())
    epochs = args.steps * args.batch_size / len(train)
    say(f"{args.size}: {size:,} parameters, {origin}; {precision} on {world} x {device.type}; "
        f"{args.steps:,} steps of {args.batch_size} are {epochs:,.1f} epochs; {run}")

    def random_state():
        on_cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        return [torch.get_rng_state(), *on_cuda]

    def sum_over_processes(number):
        total = torch.tensor(float(number))
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.item()

    trained = evaluation.Student(model, tokenizer, args.method, by_value, settings["label_limit"])

    def accuracy(student, examples):
        share = examples[rank::world]
        right = evaluation.correct(student, share, evaluation.answer(student, share))
        return sum_over_processes(sum(right)) / len(examples)

    @torch.no_grad()
    def mean_mi(ids):  # L_CE, computed for dss too, which is not trained on it
        mi_only = argparse.Namespace(method="mi", alpha3=1.0, mi=args.mi, reduce=args.reduce)
        total = 0.0
        for first in range(0, len(ids), args.batch_size):
            batch = ids[first : first + args.batch_size]
            for sources, targets in data.collate(batch, device, rank, world, micro_batch, trim)[0]:
                with autocast():
                    # examples=1: the sum over the examples, not their mean
                    _, terms = training_loss(model.eval(), sources, targets, mi_only, examples=1)
                total += terms["mi"].item()
        model.train()
        return sum_over_processes(total) / len(ids)

    # --------------------------------------------------------------------------------------------
    # the loop

    start, pending = step, []
    began = last_print = last_save = time.time()
    batches = data.batches(len(ids), args.batch_size, args.seed, start)
    micro_batch = args.micro_batch or default_micro_batch(device, model.config.vocab_size)
    loss_of = torch.compile(training_loss, dynamic=True) if args.compile else training_loss
    trim = not (args.method == "mi" and args.mi == "released")  # its loss depends on the padding
    say(f"{'step':>13}" + "".join(f"{term:>12}" for term in TERMS) + "  examples/s      left")
    while step < args.steps:
        # the next batch: this process's share of it, and what its losses are divided by
        random = random_state()
        batch = [ids[i] for i in next(batches)]
        micro_batches, totals = data.collate(batch, device, rank, world, micro_batch, trim)

        # forward and backward in micro-batches: losses and gradients add up to the batch's
        terms = {}
        for sources, targets in micro_batches:
            if stop_signals:
                break
            with autocast():
                loss, parts = loss_of(model, sources, targets, args, **totals)
            scaler.scale(loss).backward()
            for term, part in parts.items():
                terms[term] = terms.get(term, 0.0) + part

        # a signal to one process stops all of them, and this step is not taken
        stopping = sum_over_processes(len(stop_signals)) > 0
        if not stopping:
            if dist.is_initialized():  # the processes' gradients and terms add up as well
                shares = [*(p.grad for p in model.parameters()), *terms.values()]
                flat = torch.cat([share.flatten() for share in shares])  # all in one message
                dist.all_reduce(flat)
                for share, total in zip(shares, flat.split([share.numel() for share in shares])):
                    share.copy_(total.view_as(share))
            # one step of AdamW, at a rate that falls to 0, on gradients clipped to a norm of 1
            lr = args.lr * (1 - step / args.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            random = random_state()
            step += 1
            record = {"step": step, "seconds": round(earlier_seconds + time.time() - began, 3),
                      "examples": step * args.batch_size, "lr": lr}
            pending.append(record | dict.fromkeys(TERMS) | terms)  # None: a term the method lacks
        optimizer.zero_grad()
        validating = not stopping and (step % args.eval_every == 0 or step == args.steps)
        saving = stopping or validating or time.time() - last_save > SAVE_EVERY
        if not saving and time.time() - last_print < 5:
            continue

        # the log: reading a loss waits for the GPU, so all since the last line are read at once
        kept = "the saved state is kept" if (run / "state.pt").exists() else "nothing was saved yet"
        for record in pending:
            for term in [term for term, value in record.items() if torch.is_tensor(value)]:
                record[term] = record[term].item()
                check(math.isfinite(record[term]), f"step {record['step']}: {term} is "
                      f"{record[term]}; lower --lr, or take --precision fp32; {kept}")
        # fp16's scale is halved at every step that overflows
        check(not scaler.is_enabled() or scaler.get_scale() >= 1, f"step {step}: fp16 overflows at "
              f"every step; take --precision bf16 or fp32; {kept}")
        progress = f"{step:6}/{args.steps:<6}"
        if pending:
            last_print, rate = time.time(), (step - start) / (time.time() - began)
            columns = ("-" if record[term] is None else f"{record[term]:.4f}" for term in TERMS)
            left = clock((args.steps - step) / rate)
            say(progress + "".join(f"{column:>12}" for column in columns)
                + f"{rate * args.batch_size:12.1f}{left:>10}", flush=True)

        # validation, and the best weights so far
        if validating:
            found = record["validation_accuracy"] = accuracy(trained, valid)
            if len(valid_ids[0][1]) == 2:  # two tasks
                record["validation_mi"] = mean_mi(valid_ids)
            say(f"{progress} validation accuracy {found:.2%}", flush=True)
            if found >= best["accuracy"]:  # of equals the later, which has learned for longer
                best = {"accuracy": found, "step": step}
                if rank == 0:
                    t5.save(model, run)

        # the log, then the state to go on from, which holds no step that the log lacks
        if rank == 0:
            with open(run / "log.jsonl", "a") as file:
                file.writelines(json.dumps(record) + "\n" for record in pending)
        pending = []
        if rank == 0 and saving:
            state = {"step": step, "best": best, "seconds": earlier_seconds + time.time() - began,
                     "settings": settings, "random": random, "model": model.state_dict(),
                     "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
            t5.replace_file(run / "state.pt", lambda file: torch.save(state, file))
        last_save = time.time() if saving else last_save
        if stopping:
            say(f"stopped after step {step}, which is saved: go on with --resume")
            if dist.is_initialized():
                dist.barrier()  # none leaves before the state is on disk
            return 128 + (stop_signals or [signal.SIGTERM])[0]

    # --------------------------------------------------------------------------------------------
    # the test set, once: with the weights that were best on validation and with the last

    seconds = earlier_seconds + time.time() - began
    metrics = {"validation_accuracy": best["accuracy"], "best_step": best["step"],
               "examples": args.steps * args.batch_size, "seconds": round(seconds, 1)}
    if scaler.is_enabled():
        taken = optimizer.state[next(model.parameters())]["step"]
        metrics["skipped_steps"] = args.steps - int(taken)  # those that overflowed
    metrics["test_accuracy_last"] = accuracy(trained, test)
    if rank == 0:
        t5.save(model, run / "last")
    if dist.is_initialized():
        dist.barrier()  # the best weights are on disk
    chosen = trained._replace(model=t5.load(run).to(device))
    metrics["test_accuracy"] = accuracy(chosen, test)
    if rank == 0:
        evaluation.show_samples(chosen, test[:3])
        low, high = evaluation.wilson(round(metrics["test_accuracy"] * len(test)), len(test))
        given = sys.argv[1:] if argv is None else argv
        command = shlex.join(["python", "train.py", *(f for f in given if f != "--resume")])
        prompts = " and ".join(f"`{text}`" for text in data.prompts("TEXT", args.method))
        write(run / "README.md", CARD.format(
            run=run.name, dataset=data.title(args.dataset), method=args.method, origin=origin,
            command=command, accuracy=metrics["test_accuracy"], n=len(test), low=low, high=high,
            step=best["step"], prompts=prompts, folder=run))
        write(run / "metrics.json", json.dumps(metrics, indent=2))
        (run / "state.pt").unlink()
    say(f"test accuracy {metrics['test_accuracy']:.2%} with the weights of step {best['step']}, "
        f"the best on validation, {metrics['test_accuracy_last']:.2%} with the last\n"
        f"{run} was trained in {clock(seconds)}")
    if dist.is_initialized():
        dist.barrier()  # none leaves while another still needs it
        dist.destroy_process_group()


if __name__ == "__main__":
    for name in {"SIGINT", "SIGTERM", "SIGUSR1"} & set(dir(signal)):  # the last not on Windows
        signal.signal(getattr(signal, name), ask_to_stop)
    sys.exit(evaluation.run_for_user("train.py", main))
