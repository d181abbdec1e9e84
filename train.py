"""Train a student: `training_loss` is the method's data flow, `main` a run from flags to test.

    python train.py                                      # the toy task, no network
    python train.py --dataset svamp --size small         # real data, the authors' settings
    python train.py --dataset svamp --size small --method dss --seed 1
    torchrun --nproc_per_node 2 train.py --dataset svamp --size base

Letters: B batch, S source length, T target length, D model width, V vocabulary.
"""

import hashlib
import json
import math
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import data
import eval as evaluation
import mi_loss
import t5
from t5 import check


def training_loss(model, sources, targets, alphas, form, reduce, totals=None):
    """Return the loss of a batch, to minimise, and its terms by name, detached, in nats.

    sources: (B, S) ids of the texts, or for two tasks (2 B, S): B times `predict: TEXT`, then B
    times `explain: TEXT`. targets: [(B, T) ids] for each task: labels, then rationales (`single`:
    both in one sequence, whose loss is the term "prediction"). For the other arguments see
    `mi_loss.objective`; with one task only totals[0] is used.
    """
    B = len(targets[0])
    encoded = model.encode(sources)  # all tasks in one pass: (B, S, D) or (2 B, S, D)
    logits = []  # one (B, T, V) per task; position t is decoded from the targets before t
    for target, task_encoded, source in zip(targets, encoded.split(B), sources.split(B)):
        logits.append(model.logits(model.decode(target, task_encoded, source)))
    if len(targets) == 2:
        return mi_loss.objective(logits, targets, alphas, form, reduce, totals)
    # one task: finetune, TEXT -> LABEL, or single, TEXT -> RATIONALE and LABEL
    tokens = totals[0] if totals else (targets[0] != 0).sum()
    loss = mi_loss.token_cross_entropy(mi_loss.log_softmax(logits[0]), targets[0], tokens)
    return loss, {"loss": loss.detach(), "prediction": loss.detach()}


# ------------------------------------------------------------------------------------------------
# settings

AUTHORS = {"steps": 10_000, "lr": 5e-5}  # the authors' code's defaults; the paper states neither
TOY = {"steps": 1_500, "lr": 4e-3}
ALPHAS = [0.5, 0.5, 0.1]  # the paper's
FORMS = ("paper", "eq9", "kl", "released")  # of L_CE
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TERMS = ("loss", "prediction", "generation", "mi")
KEPT = "what was saved before is kept"
PRINT_EVERY, SAVE_EVERY = 5, 600  # seconds, unless a validation comes sooner
# not added to a run's name: some have a fixed place in it, the tokenizer is compared by its
# content, and the others change only paths, rounding and the random numbers of dropout
UNNAMED = "dataset size weights method seed data_root out resume device tokenizer micro_batch"


def parse(argv=None):
    about = "Train a T5 student on labels and rationales. Without flags: the toy task."
    parser = evaluation.OneLineParser(prog="train.py", description=about)
    add = parser.add_argument_group("what is trained").add_argument
    add("--dataset", default="toy", help="toy (default), svamp, cqa, anli1, esnli, or a folder")
    add("--size", choices=t5.PRESETS, help="default: tiny for toy, else small")
    add("--method", choices=evaluation.METHODS, default="mi", help="Tables 1, 2; default: mi")
    forms = "paper: -sum P ln Q, the label's features P are the target (default); "
    forms += "eq9: -sum Q ln P, the rationale's features Q are; "
    forms += "kl: KL(P || Q), Table 5; released: as in the authors' code"
    add("--mi", choices=FORMS, default="paper", help=f"L_CE, Eq. 11. {forms}")
    add("--reduce", choices=["max", "mean"], default="max", help="mean: Table 4; default: max")
    add("--labels", choices=["gold", "llm"], default="gold", help="llm: the teacher's (Table 3)")
    add("--subsample", type=float, default=1.0, metavar="F", help="share of train (Figures 2, 3)")
    add("--by-value", action="store_true", help="compare a folder's answers as arithmetic")
    add = parser.add_argument_group("how it is trained").add_argument
    add("--steps", type=int, metavar="N", help="default: 10,000; toy: 1,500")
    add("--batch-size", type=int, default=64, metavar="N", help="examples per step; default: 64")
    add("--lr", type=float, metavar="X", help="falls linearly to 0; default: 5e-5; toy: 4e-3")
    add("--alphas", type=float, nargs=3, default=ALPHAS, metavar="A", help="Eq. 10 (0.5 0.5 0.1)")
    add("--eval-every", type=int, default=250, metavar="N", help="steps between validations")
    add("--seed", type=int, default=0, metavar="N", help="of weights, order, dropout, --subsample")
    add("--micro-batch", type=int, metavar="N", help="examples computed at once, to fit memory")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 on CUDA, else fp32")
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps; default: cuda if present, else cpu")
    add = parser.add_argument_group("where things are").add_argument
    add("--data-root", default="datasets", metavar="FOLDER", help="for the published sets")
    add("--weights", metavar="FOLDER", help="any other T5: config.json, weights, spiece.model")
    add("--from-scratch", action="store_true", help="random weights; toy with tiny always has them")
    add("--tokenizer", metavar="FILE", help="a spiece.model, if not that of the weights")
    add("--out", default="runs", metavar="FOLDER", help="for the runs; default: runs")
    add("--resume", action="store_true", help="go on from the run's last saved state")
    args = parser.parse_args(argv)
    toy = args.dataset == "toy"
    args.data_root = os.path.abspath(args.data_root)  # eval.py reads it, from any folder
    if data.is_own_data(args.dataset):
        args.dataset = os.path.abspath(args.dataset)
    if args.weights and (args.size or args.from_scratch):
        parser.error("--weights has a size of its own: leave --size and --from-scratch out")
    args.size = data.title(args.weights) if args.weights else args.size
    args.size = args.size or ("tiny" if toy else "small")
    for name, value in (TOY if toy else AUTHORS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("steps", "batch_size", "micro_batch", "eval_every", "lr", "subsample"):
        value, flag = getattr(args, name), "--" + name.replace("_", "-")
        most = 1 if name == "subsample" else 10**9
        if value is not None and not 0 < value <= most:
            parser.error(f"{flag}: expected more than 0 and at most {most:,}, found {value}")
    if not all(0 <= number < 2**63 for number in (*args.alphas, args.seed)):
        parser.error("--alphas, --seed: expected at least 0 and below 2**63")
    if args.method == "dss":
        args.alphas = [*args.alphas[:2], 0.0]  # Eq. 10 without L_CE
    args.by_value = args.by_value or args.dataset in data.EQUATIONS
    return args


def run_name(args):
    """Return dataset-size-method, every other setting that changes the result, and the seed."""
    defaults = parse(["--dataset", args.dataset, "--method", args.method])
    name = f"{data.title(args.dataset)}-{args.size}-{args.method}"
    for flag, value in vars(args).items():
        if flag not in UNNAMED.split() and value != getattr(defaults, flag):
            values = value if isinstance(value, list) else [value]
            name += f"-{flag}" if value is True else f"-{flag}_{'_'.join(map(str, values))}"
    return f"{name}-s{args.seed}"


def run_folder(args):
    """Return the folder of a run. Raises InputError if it can't begin, or go on, as asked."""
    run = Path(args.out) / run_name(args)
    done, begun = (run / "metrics.json").exists(), run.exists()
    other = "another with --seed or --out"
    check(not done, f"{run} is finished: see it with eval.py, or train {other}")
    check(args.resume or not begun, f"{run} was begun: go on with --resume, or begin {other}")
    check(begun or not args.resume, f"--resume: expected the run {run}, found none")
    return run


# ------------------------------------------------------------------------------------------------
# processes

RANK = int(os.environ.get("RANK", 0))  # torchrun starts WORLD processes; this is number RANK
WORLD = int(os.environ.get("WORLD_SIZE", 1))


def say(text):
    if RANK == 0:
        print(text, flush=True)


def wait_for_all():
    if dist.is_initialized():
        dist.barrier()


def sum_over_processes(number):
    total = torch.tensor(float(number))
    if dist.is_initialized():
        dist.all_reduce(total)
    return total.item()


def sum_gradients(model, terms):
    """Add up, over the processes, the gradients and the terms of their shares of a batch."""
    if dist.is_initialized():
        tensors = [*(p.grad for p in model.parameters()), *terms.values()]
        flat = torch.cat([tensor.flatten() for tensor in tensors])  # all in one message
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(total.view_as(tensor))


stop_signals = []  # the numbers of the signals that asked for a stop


def ask_to_stop(number, frame):
    """Let the loop save its state and end; at a second Ctrl-C end at once."""
    if stop_signals and number == signal.SIGINT:
        sys.exit(128 + number)
    stop_signals.append(number)
    with suppress(OSError):  # `2>&1 | tee log`: Ctrl-C has ended tee
        os.write(2, b"train.py: stopping once a step is saved; a second Ctrl-C stops at once\n")


# ------------------------------------------------------------------------------------------------
# what a run is made of, in the order of `main`


def choose_device(name):
    """Return the device of this process: on CUDA each process of torchrun has its own."""
    device = evaluation.find_device(name)
    if device.type == "cuda":
        index = os.environ.get("LOCAL_RANK", 0) if device.index is None else device.index
        device = evaluation.find_device(f"cuda:{index}")
        torch.cuda.set_device(device)
    return device


def choose_precision(name, device):
    if name == "auto" and device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "fp32" if name == "auto" else name


def load_data(args):
    """Return {split: examples} of train, valid and test."""
    say(f"{args.dataset}: reading and tokenising the texts")
    train, valid = data.train_and_valid(args.dataset, args.data_root, args.subsample, args.seed)
    test = data.load(args.dataset, "test", args.data_root)
    known = any(example.llm_label for example in train)
    check(known or args.labels == "gold", f"{args.dataset}: --labels llm: found no `llm_label`")
    n = len(train)
    limits = f"expected {WORLD} (one per process) to {n} (all training examples)"
    check(WORLD <= args.batch_size <= n, f"--batch-size {args.batch_size}: {limits}")
    if args.by_value:
        for label in sorted({e.label for e in train + valid + test}):
            good = data.evaluate_equation(label) is not None
            check(good, f"--by-value: expected arithmetic as labels, found {label!r:.60}")
    right = sum(data.is_correct(e.llm_label, e.label, args.by_value) for e in train) / n
    teacher = f"{right:.2%} of train are right" if known else "none"
    sizes = f"{n:,} train, {len(valid):,} valid, {len(test):,} test examples"
    say(f"{args.dataset}: {sizes}; the teacher's labels: {teacher}")
    return {"train": train, "valid": valid, "test": test}


def load_model(args):
    """Return the model to train, its tokenizer, and the origin of its weights."""
    toy = args.dataset == "toy" and args.size == "tiny"
    if args.weights:
        folder, origin = Path(args.weights), args.weights
        hub = f"`hf download {origin} --local-dir FOLDER` (of huggingface_hub) makes one"
        check(folder.is_dir(), f"--weights {origin}: expected a folder; {hub}")
    elif not toy and not args.from_scratch:
        folder, origin = data.published(args.size), data.PUBLISHED[args.size][0]
    else:
        folder = Path(args.data_root) / "toy"
        if not toy and not args.tokenizer:  # the presets have one vocabulary
            folder = data.published("small", ["spiece.model"])
        tokenizer = data.Tokenizer(args.tokenizer or folder / "spiece.model")
        rows = 128 * math.ceil(len(tokenizer) / 128)  # as T5's own 32,100 tokens have 32,128 rows
        config = replace(t5.PRESETS[args.size], vocab_size=rows, num_tokens=len(tokenizer))
        torch.manual_seed(args.seed)
        return t5.T5(config), tokenizer, "random weights"
    model = t5.load(folder)
    file = args.tokenizer or folder / "spiece.model"
    return model, data.Tokenizer(file, model.config.vocab_size), origin


def tokenise(args, tokenizer, splits):
    """Return the rows of each split; count texts that are cut, and inputs that two splits share."""
    if not args.by_value:
        data.check_labels(sum(splits.values(), []), tokenizer, args.labels)
    rows, inputs = {}, {}
    for split, examples in splits.items():
        labels = args.labels if split == "train" else "gold"
        rows[split], lines = data.make_rows(examples, tokenizer, args.method, labels)
        texts = [" ".join(example.input.split()) for example in examples]
        for earlier, known in inputs.items():
            if shared := sum(text in known for text in texts):
                lines.append(f"{shared:,} of {len(texts):,} inputs are in {earlier} too")
        inputs[split] = set(texts)
        for line in lines:
            say(f"{split}: {line}")
    return rows


def default_micro_batch(device, V):
    """Return how many examples with targets of 64 ids make 2**23 logits (on a GPU 2**28)."""
    logits = 2**23 if device.type == "cpu" else 2**28  # more than 32 MB are slow to get on a CPU
    return max(1, logits // (64 * V))


def is_validation_step(step, args):
    return step > 0 and (step % args.eval_every == 0 or step == args.steps)


def open_run(run, settings, tokenizer, parts, args):
    """Make a run's folder or load its state into `parts`; return progress. Raises InputError."""
    progress = {"step": 0, "seconds": 0.0, "best": {"accuracy": -1.0, "step": 0}, "record": {}}
    log = []  # the lines of the saved steps; later steps come again
    if (run / "state.pt").exists():
        progress = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
        before = progress.pop("settings")
        changed = [k for k in settings if k not in UNNAMED.split() and settings[k] != before.get(k)]
        changes = [f"{k} was {before.get(k)!s:.16}, is {settings[k]!s:.16}" for k in changed]
        check(not changed, f"{run} was begun with other settings: {', '.join(changes)}")
        for name, part in parts.items():
            part.load_state_dict(progress.pop(name))
        log = (run / "log.jsonl").read_bytes().splitlines(True)[: progress["step"]]
        if len(log) == progress["step"] and log[-1].endswith(b"\n"):  # with its validation, if any
            progress["record"] = json.loads(log[-1])
        else:  # it was killed before its validation was logged
            log = log[: progress["step"] - 1]
    if RANK == 0:
        run.mkdir(parents=True, exist_ok=args.resume)  # another command may have begun it meanwhile
        for folder in (run, run / "last"):
            folder.mkdir(exist_ok=True)
            t5.write_json(folder / "settings.json", settings)
            tokenizer.save(folder)
        t5.replace_file(run / "log.jsonl", lambda file: file.writelines(log))
    return progress


def accuracy(student, examples):
    """Return the share of right answers; each process answers its share of the examples."""
    share = examples[RANK::WORLD]
    answers = evaluation.answer_texts(student, [e.input for e in share], explain=False)
    right = evaluation.mark_answers(student, share, answers)
    return sum_over_processes(right.sum()) / len(examples)


@torch.no_grad()
def validation_mi(model, rows, args, collate, autocast):
    """Return L_CE on the validation set, in nats; also for `dss`, whose loss lacks it."""
    total, alphas = 0.0, (0.0, 0.0, 1.0)  # L_CE alone
    model.eval()
    for first in range(0, len(rows), args.batch_size):
        micro_batches, _ = collate(rows[first : first + args.batch_size])
        for sources, targets in micro_batches:
            with autocast():
                _, terms = training_loss(model, sources, targets, alphas, args.mi, args.reduce)
            total += terms["mi"].item() * len(targets[0])
    model.train()
    return sum_over_processes(total) / len(rows)


def read_terms(records, scaler):
    """Fetch the terms of steps from the device. Raises InputError if training has broken down."""
    for record in records:
        for name, term in record.items():
            if torch.is_tensor(term):
                value = record[name] = term.item()
                found = f"step {record['step']}: {name} is {value}"
                advice = f"lower --lr, or take --precision fp32; {KEPT}"
                check(math.isfinite(value), f"{found}: {advice}")
    # each overflow of fp16 halves the scale
    check(scaler.get_scale() >= 1, f"fp16 overflows at every step: take --precision bf16; {KEPT}")


def append_to_log(run, records):
    if RANK == 0:
        with open(run / "log.jsonl", "a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)


def save_state(run, progress, settings, parts):
    if RANK == 0:
        state = progress | {name: part.state_dict() for name, part in parts.items()}
        state["settings"] = settings
        t5.replace_file(run / "state.pt", lambda file: torch.save(state, file))


def print_progress(record, steps):
    """Print the terms of a step, the examples per second, and the time left."""
    step, seconds = record["step"], record["seconds"]
    terms = "".join("-".rjust(12) if record[t] is None else f"{record[t]:12.4f}" for t in TERMS)
    rate = record["examples"] / max(seconds, 1e-3)
    left = timedelta(seconds=int((steps - step) * seconds / step))
    say(f"{step:6}/{steps:<6}{terms}{rate:10.1f}/s  {left!s:>8} left")


def final_test(run, student, test, device, metrics):
    """Test the last weights and the best on validation, once each; write metrics.json."""
    metrics["test_accuracy_last"] = accuracy(student, test)
    if RANK == 0:
        t5.save(student.model, run / "last")
    wait_for_all()  # the best weights are on disk
    best_student = student._replace(model=t5.load(run).to(device))
    metrics["test_accuracy"] = accuracy(best_student, test)
    if RANK == 0:
        t5.write_json(run / "metrics.json", metrics)
        (run / "state.pt").unlink()
        evaluation.show_samples(best_student, test[:3])
    best, last = metrics["test_accuracy"], metrics["test_accuracy_last"]
    where = f"with the weights of step {metrics['best_step']}, the best on validation"
    say(f"test accuracy {best:.2%} {where}, {last:.2%} with the last")
    say(f"{run} was trained in {timedelta(seconds=int(metrics['seconds']))}")


def main(argv=None):
    args = parse(argv)
    run = run_folder(args)

    # ---- device and precision
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    # with fp16, what stays in fp32, such as a feed-forward matrix, is multiplied in tf32
    torch.set_float32_matmul_precision("high" if precision == "fp16" else "highest")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    autocast = partial(torch.autocast, device.type, dtype, enabled=dtype is not None)
    if "RANK" in os.environ:  # numbers on the CPU go by gloo, which does not wait for the GPU
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))

    # ---- data and student; process 0 comes first, so that it alone downloads
    if RANK > 0:
        wait_for_all()
    splits = load_data(args)
    model, tokenizer, origin = load_model(args)
    if RANK == 0:
        wait_for_all()
    rows = tokenise(args, tokenizer, splits)
    model.to(device).train()
    student = evaluation.Student(model, tokenizer, args.method, args.by_value)
    micro_batch = args.micro_batch or default_micro_batch(device, model.config.vocab_size)
    trim_padding = args.mi != "released"  # the value of this form depends on the padding
    layout = dict(rank=RANK, world=WORLD, micro_batch=micro_batch, trim_padding=trim_padding)
    collate = partial(data.collate, device=device, **layout)

    # ---- optimizer, and the state and the folder of the run
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    parts = {"model": model, "optimizer": optimizer, "scaler": scaler}
    settings = vars(args) | {"precision": precision, "micro_batch": micro_batch}
    settings["vocabulary"] = hashlib.sha256(tokenizer.serialized).hexdigest()
    settings |= {f"{split}_examples": data.digest(splits[split]) for split in splits}
    progress = open_run(run, settings, tokenizer, parts, args)
    step, best, record = progress["step"], progress["best"], progress["record"]
    parameters = sum(p.numel() for p in model.parameters())
    epochs = f"{args.steps * args.batch_size / len(rows['train']):,.1f} epochs"
    say(f"{args.size}: {parameters:,} parameters, {origin}; {precision} on {WORLD} x {device.type}")
    say(f"{run}: {args.steps:,} steps of {args.batch_size} examples, {epochs}")

    # ---- the loop
    batches = data.batches(len(rows["train"]), args.batch_size, args.seed, step)
    pending = []  # records of steps that are not in the log yet
    began = time.monotonic() - progress["seconds"]  # the time before a resume counts, too
    last_print = last_save = time.monotonic()
    say(f"{'step':>13}" + "".join(f"{term:>12}" for term in TERMS) + "    examples      time")
    while True:
        # validation, if the step before asks for it (after a resume: the saved one)
        if is_validation_step(step, args):
            if "validation_accuracy" not in record:  # else it was killed after this was logged
                record["validation_accuracy"] = accuracy(student, splits["valid"])
                if args.method in ("dss", "mi"):
                    L_CE = validation_mi(model, rows["valid"], args, collate, autocast)
                    record["validation_mi"] = L_CE
                append_to_log(run, [record])
            found = record["validation_accuracy"]
            say(f"{step:6}/{args.steps:<6} validation accuracy {found:.2%}")
            if found >= best["accuracy"]:  # on ties the later step
                best = {"accuracy": found, "step": step}
                if RANK == 0:
                    t5.save(model, run)
        if step == args.steps:
            break

        # this process's share of the next batch, and the divisors of its losses
        micro_batches, totals = collate([rows["train"][i] for i in next(batches)])
        # the random numbers of dropout depend on the step, so that a resumed run draws the same
        seeds = np.random.SeedSequence([args.seed, step, RANK]).generate_state(1, np.uint64)
        torch.manual_seed(int(seeds[0]))

        # forward and backward in micro-batches: losses and gradients add up to the batch's
        terms = {}
        for sources, targets in micro_batches:
            with autocast():
                loss, micro_terms = training_loss(
                    model, sources, targets, args.alphas, args.mi, args.reduce, totals
                )
            scaler.scale(loss).backward()
            for name, term in micro_terms.items():
                terms[name] = terms.get(name, 0.0) + term
        sum_gradients(model, terms)

        # one step of AdamW, at a rate that falls to 0, on gradients clipped to a norm of 1
        lr = args.lr * (1 - step / args.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        step += 1
        record = {"step": step, "seconds": round(time.monotonic() - began, 3)}
        record |= {"examples": step * args.batch_size, "lr": lr}
        record |= dict.fromkeys(TERMS) | terms  # None: a term that the method lacks
        pending.append(record)

        # the log and the state, if due; a signal to one process stops all of them
        stop_now = sum_over_processes(len(stop_signals)) > 0
        validate_next = is_validation_step(step, args)
        save_now = stop_now or validate_next or time.monotonic() - last_save > SAVE_EVERY
        if save_now or time.monotonic() - last_print > PRINT_EVERY:
            read_terms(pending, scaler)  # waits for the GPU, so it reads many steps at once
            append_to_log(run, pending[:-1] if validate_next else pending)  # validation adds to it
            pending = []
            if save_now:
                progress = {"step": step, "seconds": time.monotonic() - began}
                save_state(run, progress | {"best": best, "record": record}, settings, parts)
                last_save = time.monotonic()
            print_progress(record, args.steps)
            last_print = time.monotonic()
        if stop_now:
            say(f"stopped after step {step}, which is saved: go on with --resume")
            wait_for_all()  # no process leaves before the state is on disk
            number = stop_signals[0] if stop_signals else signal.SIGTERM  # to another process
            return 128 + number

    # ---- the test set
    metrics = {"validation_accuracy": best["accuracy"], "best_step": best["step"]}
    metrics["examples"] = args.steps * args.batch_size
    metrics["seconds"] = round(time.monotonic() - began, 1)
    final_test(run, student, splits["test"], device, metrics)
    wait_for_all()  # no process leaves while another needs it
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    sys.exit(evaluation.run_for_user("train.py", main))
