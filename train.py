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
import shlex
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import combinations
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
    logits = []  # of each task: (B, T, V); the decoder reads the targets before each position
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
FORMS = {  # of L_CE
    "paper": "-sum P ln Q, the label's features P are the target",
    "eq9": "-sum Q ln P, the rationale's features Q are the target",
    "kl": "KL(P || Q), Table 5",
    "released": "as in the authors' code",
}
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")  # tf32: fp32 with tf32 matrix products
TERMS = ("loss", "prediction", "generation", "mi")
KEPT = "what was saved before is kept"
SAVE_EVERY = 600  # seconds between saved states, where no validation comes sooner
# not repeated in a run's name: some have their own place in it, the tokenizer is compared by its
# content, and the rest change no more than rounding and what dropout draws
UNNAMED = (
    "dataset size weights method seed data_root out resume device tokenizer micro_batch".split()
)


def parse(argv=None):
    about = "Train a T5 student on labels and rationales. Without flags: the toy task."
    parser = evaluation.OneLineParser(prog="train.py", description=about)
    add = parser.add_argument_group("what is trained").add_argument
    add("--dataset", default="toy", help="toy (default), svamp, cqa, anli1, esnli, or a folder")
    add("--size", choices=t5.PRESETS, help="default: tiny for toy, else small")
    add("--method", choices=evaluation.METHODS, default="mi", help="Tables 1, 2; default: mi")
    forms = "; ".join(f"{form}: {words}" for form, words in FORMS.items())
    add("--mi", choices=FORMS, default="paper", help=f"L_CE, Eq. 11. {forms}. Default: paper")
    add("--reduce", choices=["max", "mean"], default="max", help="max by default; mean: Table 4")
    add("--labels", choices=["gold", "llm"], default="gold", help="llm: the teacher's (Table 3)")
    add("--subsample", type=float, default=1.0, metavar="F", help="share of train (Figures 2, 3)")
    add("--by-value", action="store_true", help="compare a folder's answers as arithmetic")
    add = parser.add_argument_group("how it is trained").add_argument
    add("--steps", type=int, metavar="N", help="default: 10,000; toy: 1,500")
    add("--batch-size", type=int, default=64, metavar="N", help="examples a step; default: 64")
    add("--lr", type=float, metavar="X", help="falls linearly to 0; default: 5e-5; toy: 4e-3")
    add("--alphas", type=float, nargs=3, default=ALPHAS, metavar="A", help="Eq. 10; 0.5 0.5 0.1")
    add("--eval-every", type=int, default=250, metavar="N", help="steps between validations")
    add("--seed", type=int, default=0, metavar="N", help="of weights, order, dropout, --subsample")
    add("--micro-batch", type=int, metavar="N", help="examples computed at once, to fit memory")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 on CUDA, else fp32")
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps; default: cuda if present, else cpu")
    add("--compile", action="store_true", help="torch.compile the loss: slow to start, then faster")
    add = parser.add_argument_group("where things are").add_argument
    add("--data-root", default="datasets", metavar="FOLDER", help="of the published sets")
    add("--weights", metavar="FOLDER|NAME", help="a T5 folder, or a hub name: google/flan-t5-small")
    add("--from-scratch", action="store_true", help="random weights; toy with tiny always has them")
    add("--tokenizer", metavar="FILE", help="a spiece.model, if not that of the weights")
    add("--out", default="runs", metavar="FOLDER", help="of the runs' folders; default: runs")
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
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')}: expected more than 0, found {value}")
    if args.subsample > 1:
        parser.error(f"--subsample: expected at most 1, found {args.subsample}")
    if not all(0 <= number < 2**63 for number in (*args.alphas, args.seed)):
        parser.error("--alphas, --seed: expected at least 0 and below 2**63")
    if args.method == "dss":
        args.alphas = [*args.alphas[:2], 0.0]  # Eq. 10 without L_CE
    if args.compile and not shutil.which(os.environ.get("CXX", "g++")):
        parser.error("--compile: found no C++ compiler: install g++, or name yours in CXX")
    return args


def run_name(args):
    """dataset-size-method, every other setting that changes the result, and the seed."""
    defaults = parse(["--dataset", args.dataset, "--method", args.method])
    name = f"{data.title(args.dataset)}-{args.size}-{args.method}"
    for flag, value in vars(args).items():
        if flag not in UNNAMED and value != getattr(defaults, flag):
            values = value if isinstance(value, list) else [value]
            name += f"-{flag}" if value is True else f"-{flag}_{'_'.join(map(str, values))}"
    return f"{name}-s{args.seed}"


def run_folder(args):
    """The folder of a run. Raises InputError if it can't be begun, or gone on with, as asked."""
    run = Path(args.out) / run_name(args)
    done, begun = (run / "metrics.json").exists(), run.exists()
    other = "another with --seed or --out"
    see = f"`python eval.py {shlex.quote(str(run))}`"
    check(not done, f"{run} is finished: see it with {see}, or train {other}")
    check(args.resume or not begun, f"{run} was begun: go on with --resume, or begin {other}")
    check(begun or not args.resume, f"--resume: expected the run {run}, found none")
    return run


# ------------------------------------------------------------------------------------------------
# processes

RANK = int(os.environ.get("RANK", 0))  # torchrun starts WORLD of them, of which this is RANK
WORLD = int(os.environ.get("WORLD_SIZE", 1))


def say(text):
    if RANK == 0:
        try:
            print(text, flush=True)
        except OSError:  # a signal may have ended the terminal, or what reads the pipe, as well
            if not stop_signals:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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
    """The first signal lets the loop save its state and end; Ctrl-C after it ends it at once."""
    if stop_signals and number == signal.SIGINT:
        sys.exit(128 + number)
    stop_signals.append(number)
    with suppress(OSError):  # of a closed terminal
        os.write(2, b"train.py: stopping once a step is saved; a second Ctrl-C stops at once\n")


# ------------------------------------------------------------------------------------------------
# what a run is made of


def choose_device(name):
    """The device of this process: of several on CUDA, each takes its own."""
    device = evaluation.find_device(name)
    if device.type == "cuda":
        alone = WORLD == 1 or device.index is None
        check(alone, f"--device {device} for {WORLD} processes: leave the number out")
        index = os.environ.get("LOCAL_RANK", 0) if device.index is None else device.index
        device = evaluation.find_device(f"cuda:{index}")
        torch.cuda.set_device(device)
    return device


def choose_precision(name, device):
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def default_micro_batch(device, V):
    """How many examples make 2**23 logits, on a GPU 2**28, where targets are 64 ids long.

    On the CPU a larger tensor than these 32 MB is mapped anew, page by page, each time it is made.
    """
    return max(1, (2**23 if device.type == "cpu" else 2**28) // (64 * V))


def load_data(args):
    """The examples to train on, to choose weights by, and to judge them on once."""
    train, valid = data.train_and_valid(args.dataset, args.data_root, args.subsample, args.seed)
    test = data.load(args.dataset, "test", args.data_root)
    known = any(example.llm_label for example in train)
    why = f"{args.dataset}: --labels llm needs the teacher's labels (`llm_label`), found none"
    check(known or args.labels == "gold", why)
    n = len(train)
    sizes = f"expected {WORLD} (a process each) to {n} (all training examples)"
    check(WORLD <= args.batch_size <= n, f"--batch-size {args.batch_size}: {sizes}")
    for label in sorted({e.label for e in train + valid + test}):
        good = not args.by_value or data.evaluate_equation(label) is not None
        check(good, f"--by-value: expected arithmetic as labels, found {label!r:.60}")
    right = sum(data.is_correct(e.llm_label, e.label, args.by_value) for e in train) / n
    teacher = f"{right:.2%} of train are right" if known else "none"
    sizes = f"{n:,} train, {len(valid):,} valid, {len(test):,} test examples"
    say(f"{args.dataset}: {sizes}; the teacher's labels: {teacher}")
    return train, valid, test


def load_model(args):
    """The model to train, its tokenizer, and where its weights come from."""
    toy = args.dataset == "toy" and args.size == "tiny"
    if not args.weights and (toy or args.from_scratch):
        folder = Path(args.data_root) / "toy" if toy else Path(args.tokenizer or ".").parent
        if not toy and not args.tokenizer:  # the presets have one vocabulary
            folder = data.published("small", ["spiece.model"])
        tokenizer = data.load_tokenizer(folder, args.tokenizer)
        rows = -len(tokenizer) // 128 * -128  # as T5's own 32,100 tokens have 32,128 rows
        config = replace(t5.PRESETS[args.size], vocab_size=rows, num_tokens=len(tokenizer))
        torch.manual_seed(args.seed)
        return t5.T5(config), tokenizer, "random weights"
    folder = data.find_weights(args.weights) if args.weights else data.published(args.size)
    model = t5.load(folder)
    tokenizer = data.load_tokenizer(folder, args.tokenizer, model.config.vocab_size)
    return model, tokenizer, args.weights or data.PUBLISHED[args.size][0]


def check_texts(args, tokenizer, train, valid, test):
    """Refuse labels that can't be learned; count inputs that leak and texts that are cut."""
    if not args.by_value:
        data.check_labels(train + valid + test, tokenizer, args.labels)
    splits = {"train": train, "valid": valid, "test": test}
    inputs = {split: [" ".join(e.input.split()) for e in splits[split]] for split in splits}
    for earlier, split in combinations(splits, 2):
        seen, texts = set(inputs[earlier]), inputs[split]
        leaked = sum(text in seen for text in texts)
        if leaked:
            say(f"{split}: {leaked:,} of {len(texts):,} inputs are in {earlier} too")
    for split, examples in splits.items():
        labels = args.labels if split == "train" else "gold"
        for line in data.text_warnings(examples, tokenizer, args.method, labels):
            say(f"{split}: {line}")


def load_state(run, settings, model, optimizer, scaler):
    """Go on from a run's saved state -> its step, best, seconds; of a new run, those of the start.

    Raises InputError where a setting that changes the result is another.
    """
    if not (run / "state.pt").exists():
        return 0, {"accuracy": -1.0, "step": 0}, 0.0
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    before = state["settings"]
    changed = [k for k in settings if k not in UNNAMED and settings[k] != before.get(k)]
    changes = [f"{k} was {before.get(k)!s:.16}, is {settings[k]!s:.16}" for k in changed]
    check(not changed, f"{run} was begun with other settings: {', '.join(changes)}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    if RANK == 0 and state["best"]["step"] == state["step"]:  # it may have been killed here
        t5.save(model, run)
    return state["step"], state["best"], state["seconds"]


def read_terms(records):
    """Fetch the terms of logged steps from the device. Raises InputError if one is not finite."""
    for record in records:
        for term in [term for term, value in record.items() if torch.is_tensor(value)]:
            record[term] = record[term].item()
            good, where = math.isfinite(record[term]), f"step {record['step']}: {term}"
            check(good, f"{where} is {record[term]}: lower --lr, or take --precision fp32; {KEPT}")


def accuracy(student, examples):
    """The share of right answers; each process asks for its share of the examples."""
    share = examples[RANK::WORLD]
    answers = evaluation.answer_texts(student, [e.input for e in share], explain=False)
    right = evaluation.mark_answers(student, share, answers)
    return sum_over_processes(right.sum()) / len(examples)


@torch.no_grad()
def validation_mi(model, rows, args, collate, autocast):
    """L_CE of the validation set, of `dss` too, which is not trained on it."""
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


def clock(seconds):  # 3661 -> 1:01:01
    return str(timedelta(seconds=int(seconds)))


def main(argv=None):
    args = parse(argv)
    run = run_folder(args)

    # the device, and the precision of training there
    device = choose_device(args.device)
    args.precision = choose_precision(args.precision, device)
    torch.set_float32_matmul_precision("high" if args.precision == "tf32" else "highest")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)
    autocast = partial(torch.autocast, device.type, dtype, enabled=dtype is not None)
    if "RANK" in os.environ:  # numbers on the CPU go by gloo, which does not wait for the GPU
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))

    # the data and the student; process 0 first, so that it alone downloads
    args.by_value = args.by_value or args.dataset in data.EQUATIONS
    if RANK > 0:
        wait_for_all()
    train, valid, test = load_data(args)
    model, tokenizer, origin = load_model(args)
    if RANK == 0:
        wait_for_all()
    check_texts(args, tokenizer, train, valid, test)
    train_rows = data.encode(train, tokenizer, args.method, args.labels)
    valid_rows = data.encode(valid, tokenizer, args.method, args.labels)
    model.to(device).train()
    args.micro_batch = args.micro_batch or default_micro_batch(device, model.config.vocab_size)
    student = evaluation.Student(model, tokenizer, args.method, args.by_value)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")

    # the run's folder, and its state if there is one
    settings = vars(args) | {
        "vocabulary": hashlib.sha256(tokenizer.serialized).hexdigest(),
        "train_examples": data.digest(train),
        "valid_examples": data.digest(valid),
        "test_examples": data.digest(test),
    }
    start, best, seconds = load_state(run, settings, model, optimizer, scaler)
    if RANK == 0:
        run.mkdir(parents=True, exist_ok=args.resume)  # another command may have begun it meanwhile
        for folder in (run, run / "last"):
            folder.mkdir(exist_ok=True)
            t5.write_json(folder / "settings.json", settings)
            tokenizer.save(folder)
        # what was logged after the saved step is cut off: those steps are taken again
        log = (run / "log.jsonl").read_bytes().splitlines(True) if start else []
        t5.replace_file(run / "log.jsonl", lambda file: file.writelines(log[:start]))
    parameters = sum(p.numel() for p in model.parameters())
    epochs = args.steps * args.batch_size / len(train)
    say(
        f"{args.size}: {parameters:,} parameters, {origin}; {args.precision} on {WORLD} x "
        f"{device.type}; {args.steps:,} steps of {args.batch_size} are {epochs:,.1f} epochs; {run}"
    )

    # the loop
    step, pending = start, []
    began = time.monotonic() - seconds  # the time before a resume counts, too
    last_print = last_save = time.monotonic()
    batches = data.batches(len(train_rows), args.batch_size, args.seed, start)
    loss_of = torch.compile(training_loss, dynamic=True) if args.compile else training_loss

    def collate(batch):
        trim_padding = args.mi != "released"  # its loss depends on the padding
        return data.collate(batch, device, RANK, WORLD, args.micro_batch, trim_padding)

    say(f"{'step':>13}" + "".join(f"{term:>12}" for term in TERMS) + "    examples      time")
    while step < args.steps:
        # the next batch: this process's share of it, and what its losses are divided by
        micro_batches, totals = collate([train_rows[i] for i in next(batches)])

        # seed what dropout draws by the step, so that a resumed run draws the same
        draws = np.random.SeedSequence([args.seed, step, RANK]).generate_state(1, np.uint64)
        torch.manual_seed(int(draws[0]))

        # forward and backward in micro-batches: losses and gradients add up to the batch's
        terms = {}
        for sources, targets in micro_batches:
            with autocast():
                loss, parts = loss_of(
                    model, sources, targets, args.alphas, args.mi, args.reduce, totals
                )
            scaler.scale(loss).backward()
            for term, part in parts.items():
                terms[term] = terms.get(term, 0.0) + part
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
        seconds = time.monotonic() - began
        record = {"step": step, "seconds": round(seconds, 3), "examples": step * args.batch_size}
        record |= {"lr": lr} | dict.fromkeys(TERMS) | terms  # None: a term the method lacks
        pending.append(record)

        # what is due: a signal to one process stops all of them
        stop_now = sum_over_processes(len(stop_signals)) > 0
        validate_now = step % args.eval_every == 0 or step == args.steps
        save_now = stop_now or validate_now or time.monotonic() - last_save > SAVE_EVERY
        if not save_now and time.monotonic() - last_print < 5:
            continue

        # the log: reading a loss waits for the GPU, so all since the last line are read at once
        read_terms(pending)
        good = not scaler.is_enabled() or scaler.get_scale() >= 1  # it is halved at each overflow
        check(good, f"step {step}: fp16 overflows at every step: take --precision bf16; {KEPT}")
        columns = ("-" if record[term] is None else f"{record[term]:.4f}" for term in TERMS)
        rate, left = step / seconds, clock((args.steps - step) * seconds / step)
        say(
            f"{step:6}/{args.steps:<6}"
            + "".join(f"{column:>12}" for column in columns)
            + f"{rate * args.batch_size:10.1f}/s  {left:>8} left"
        )
        last_print = time.monotonic()

        # validation, and whether these are the best weights so far
        if validate_now:
            record["validation_accuracy"] = accuracy(student, valid)
            if args.method in ("dss", "mi"):
                record["validation_mi"] = validation_mi(model, valid_rows, args, collate, autocast)
            found = record["validation_accuracy"]
            say(f"{step:6}/{args.steps:<6} validation accuracy {found:.2%}")
            if found >= best["accuracy"]:  # of equal ones the later, which has learned for longer
                best = {"accuracy": found, "step": step}

        # the log, then the state, which holds no step that the log lacks, then the best weights
        if RANK == 0:
            with open(run / "log.jsonl", "a") as file:
                file.writelines(json.dumps(line) + "\n" for line in pending)
        if RANK == 0 and save_now:
            seconds = time.monotonic() - began
            state = {"step": step, "best": best, "seconds": seconds, "settings": settings}
            trained = {"model": model, "optimizer": optimizer, "scaler": scaler}
            state |= {name: part.state_dict() for name, part in trained.items()}
            t5.replace_file(run / "state.pt", lambda file: torch.save(state, file))
            if best["step"] == step:
                t5.save(model, run)
        pending = []
        last_save = time.monotonic() if save_now else last_save
        if stop_now:
            say(f"stopped after step {step}, which is saved: go on with --resume")
            wait_for_all()  # none leaves before the state is on disk
            return 128 + (stop_signals or [signal.SIGTERM])[0]

    # the test set, once: with the last weights and with those that were best on validation
    seconds = time.monotonic() - began
    metrics = {"validation_accuracy": best["accuracy"], "best_step": best["step"]}
    metrics |= {"examples": args.steps * args.batch_size, "seconds": round(seconds, 1)}
    if scaler.is_enabled():
        taken = optimizer.state[next(model.parameters())]["step"]
        metrics["skipped_steps"] = args.steps - int(taken)  # those that overflowed
    metrics["test_accuracy_last"] = accuracy(student, test)
    if RANK == 0:
        t5.save(model, run / "last")
    wait_for_all()  # the best weights are on disk
    chosen = student._replace(model=t5.load(run).to(device))
    metrics["test_accuracy"] = accuracy(chosen, test)
    if RANK == 0:
        t5.write_json(run / "metrics.json", metrics)
        (run / "state.pt").unlink()
        evaluation.show_samples(chosen, test[:3])
    say(
        f"test accuracy {metrics['test_accuracy']:.2%} with the weights of step {best['step']}, "
        f"the best on validation, {metrics['test_accuracy_last']:.2%} with the last\n"
        f"{run} was trained in {clock(seconds)}"
    )
    wait_for_all()  # none leaves while another still needs it
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    for name in {"SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"} & set(dir(signal)):  # two on Windows
        if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup asks
            signal.signal(getattr(signal, name), ask_to_stop)
    sys.exit(evaluation.run_for_user("train.py", main))
