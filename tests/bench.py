"""How fast and how light: this code against transformers doing what the authors' code does.

    python tests/bench.py                       # the CPU: about an hour; or name parts of it
    python tests/bench.py --device cuda         # a card: not yet timed
    python tests/bench.py --quick               # once, small: three minutes on the CPU

Real SVAMP examples, the real vocabulary, random weights. A rate is the median of rounds in which
the sides take turns in one process; a ratio is the median of the rounds' ratios, beside the
smallest and the largest. Whole procedures are compared.

memory     The peak of two steps on the longest rationales, in a process of its own: on the CPU with
           all that it imports, in fp32; on CUDA what torch allocates, in bf16.
training   Steps on the same random batches, all of which both sides take once to warm up. Ours
           encodes both tasks in one pass, with `--mi paper`; theirs makes two passes and computes
           the authors' loss. The CPU: 5 rounds of one step of 32 examples, in fp32 and in bf16.
           CUDA: 3 rounds of 20 steps of 64 in bf16, sizes small and base; cuDNN's attention is off
           on both sides, for the reason that t5.py gives.
decoding   From texts to texts, size small, batches of eval.py's size on both sides. Ours sorts the
           texts by length and drops a row when it ends; theirs takes the file's order. The student
           is overfitted to a twentieth of SVAMP, so that most of its texts end.
profile    The operators that take most of our step's time.
"""

import argparse
import contextlib
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from itertools import compress, cycle, islice, product
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import eval as evaluation
import t5
import train

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Plan(NamedTuple):
    sizes: list
    batch: int
    precisions: list
    rounds: int
    steps: int  # of each side in a round
    texts: int  # to decode


PLANS = {
    "cpu": Plan(["small"], 32, ["fp32", "bf16"], rounds=5, steps=1, texts=200),
    "cuda": Plan(["small", "base"], 64, ["bf16"], rounds=3, steps=20, texts=512),
}
PARTS = ["memory", "training", "decoding", "profile"]
QUICK = {"sizes": ["tiny"], "batch": 8, "precisions": ["bf16"], "rounds": 1, "steps": 1, "texts": 9}


def parse():
    parser = argparse.ArgumentParser(description="Speed and memory against transformers.")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--device", default="cpu", choices=PLANS)
    parser.add_argument("--data-root", default="datasets", help="with svamp/, or it is downloaded")
    parser.add_argument("--tokenizer", help="T5's spiece.model, if not the published one")
    parser.add_argument("--quick", action="store_true")
    one_peak = ("SIDE", "BATCH")
    parser.add_argument("--measure", nargs=2, metavar=one_peak, help="the peak of two steps alone")
    args = parser.parse_args()
    if set(args.parts) - set(PARTS):
        parser.error(f"expected of the parts {', '.join(PARTS)}")
    args.plan = PLANS[args.device]
    if args.quick:
        args.plan = args.plan._replace(**QUICK)
    return args


def encoded(args):
    examples, _ = data.train_and_valid("svamp", args.data_root)
    return data.make_rows(examples, data.Tokenizer(args.tokenizer), "mi")[0]


# ---- the two sides' steps


class Case(NamedTuple):
    rows: list  # of `data.make_rows`
    batch: int
    device: torch.device
    batches: int = 1  # how many different ones, before they come again
    size: str = "small"
    precision: str = "fp32"

    def autocast(self):
        return torch.autocast(self.device.type, DTYPES[self.precision], self.precision != "fp32")

    def step_of(self, model, make_losses):
        """-> a function that takes a step of AdamW on the next random batch: `make_losses(rows)`
        are the losses of its micro-batches, which add up to the batch's."""
        optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.0, fused=True)
        batches = cycle(islice(data.batches(len(self.rows), self.batch, seed=0), self.batches))

        def step():
            for loss in make_losses([self.rows[i] for i in next(batches)]):
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step


def our_micro_batch(device):
    return train.default_micro_batch(device, t5.PRESETS["small"].vocab_size)


def our_step(case):
    """train.py's step."""
    torch.manual_seed(0)
    model = t5.T5(t5.PRESETS[case.size]).to(case.device).train()
    micro_batch = our_micro_batch(case.device)

    def losses(rows):
        micro_batches, totals = data.collate(rows, case.device, micro_batch=micro_batch)
        for sources, targets in micro_batches:
            with case.autocast():
                loss, _ = train.training_loss(
                    model, sources, targets, train.ALPHAS, "paper", "max", totals
                )
            yield loss

    return case.step_of(model, losses)


def their_step(case, micro_batch=None):
    """The authors' step, over transformers' model: batches padded to their longest, two
    whole passes, the maximum over all positions, both losses."""
    import transformers

    torch.manual_seed(0)
    config = asdict(t5.PRESETS[case.size]) | {"decoder_start_token_id": t5.PAD, "use_cache": False}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**config))
    model.to(case.device).train()
    size = micro_batch or case.batch

    def to_device(ids):  # as in data.collate
        pinned = ids.pin_memory() if case.device.type == "cuda" else ids
        return pinned.to(case.device, non_blocking=True)

    def loss_of(rows):
        tasks = []
        for task in (0, 1):
            source, target = (data.pad([row[side][task] for row in rows]) for side in (0, 1))
            labels = target.masked_fill(target == 0, -100)
            tasks.append([to_device(ids) for ids in (source, (source != 0).long(), labels)])
        label, rationale = (
            model(input_ids=ids, attention_mask=mask, labels=labels) for ids, mask, labels in tasks
        )
        f_v = label.logits.detach().softmax(-1).max(1).values
        f_z = rationale.logits.softmax(-1).max(1).values
        return 0.5 * label.loss + 0.5 * rationale.loss + 0.1 * F.cross_entropy(f_z, f_v)

    def losses(rows):
        rows = sorted(rows, key=lambda row: len(row[1][1]))
        for first in range(0, case.batch, size):
            share = rows[first : first + size]
            with case.autocast():
                loss = loss_of(share) * len(share) / case.batch
            yield loss

    return case.step_of(model, losses)


# ---- time and memory


def wait_for(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(function, device):
    wait_for(device)
    began = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - began


def repeat(step, times):
    for _ in range(times):
        step()


def in_turn(sides, args):
    """Time the sides in turn -> for each side, its seconds in every round."""
    rounds = [[seconds(side, args.device) for side in sides] for _ in range(args.plan.rounds)]
    return list(zip(*rounds))


def print_rates(name, n, ours, theirs):
    """A row: how many of n were done a second, from each side's seconds in every round."""
    ratios = sorted(b / a for a, b in zip(ours, theirs))
    a, b = statistics.median(ours), statistics.median(theirs)
    row(name, n / a, n / b, statistics.median(ratios), f"{ratios[0]:.2f}-{ratios[-1]:.2f}")


def row(name, ours, theirs, ratio, spread=""):
    print(f"{name:<50}{ours:>9.2f}{theirs:>14.2f}{ratio:>8.2f} x  {spread}", flush=True)


def matrix_peak(device, dtype):
    """The machine's best TFLOP/s in one large matrix product."""
    n = 8_192 if device.type == "cuda" else 2_048
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    return 2 * n**3 / min(seconds(lambda: a @ b, device) for _ in range(10)) / 1e12


def print_products(case, steps):
    counted, timed = our_step(case), our_step(case)  # the same batches
    counted(), timed()
    with FlopCounterMode(display=False) as counter:
        repeat(counted, steps)
    took = seconds(partial(repeat, timed, steps), case.device)
    rate = counter.get_total_flops() / took / 1e12
    peak = matrix_peak(case.device, DTYPES[case.precision])
    print(f"    TFLOP/s in products: {rate:.3g} in our step, {peak:.3g} in one large product")


# ---- the parts


def bench_training(args):
    for size, precision in product(args.plan.sizes, args.plan.precisions):
        count = args.plan.rounds * args.plan.steps
        case = Case(encoded(args), args.plan.batch, args.device, count, size, precision)
        title = f"training, examples/s, {size}, {precision}, batch {case.batch}"
        theirs = {title: their_step(case)}
        micro_batch = our_micro_batch(args.device)
        if micro_batch < case.batch:
            theirs["    theirs in our micro-batches"] = their_step(case, micro_batch)
        steps = [our_step(case), *theirs.values()]
        for step in steps:
            repeat(step, count)  # no shape is new when time is taken
        ours, *others = in_turn([partial(repeat, step, args.plan.steps) for step in steps], args)
        for name, other in zip(theirs, others):
            print_rates(name, args.plan.steps * case.batch, ours, other)
        print_products(case, args.plan.steps)


def bench_profile(args):
    for size in args.plan.sizes:
        step = our_step(Case(encoded(args), args.plan.batch, args.device, 1, size, "bf16"))
        step()
        with torch.profiler.profile() as profile:
            step()
        rows = profile.key_averages()
        print(f"our step, {size}, bf16, batch {args.plan.batch}: what takes its time")
        print(rows.table(f"self_{args.device.type}_time_total", 24, max_name_column_width=40))


def decode_in_turn(texts, name, weights, length, args):
    """Decode the texts on both sides, print rates -> of each text whether theirs ended."""
    import transformers

    tokenizer, model = data.Tokenizer(args.tokenizer), t5.load(weights).to(args.device)
    student = evaluation.Student(model, tokenizer, "mi", True)
    longest = max(len(tokenizer.encode(text)) for text in texts)
    t5.MAX_TARGET = length  # ids that `generate_text` writes at most
    size = evaluation.BATCH_IDS // (longest + length)  # of our first batch
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(weights).to(args.device).eval()
    written, rows = {}, []

    def we():
        written["ours"] = [text for text, _ in evaluation.generate_text(student, texts)]

    def they():
        rows.clear()
        for first in range(0, len(texts), size):
            source = data.pad([tokenizer.encode(text) for text in texts[first : first + size]])
            source = source.to(args.device)
            mask = (source != 0).long()
            out = theirs.generate(
                input_ids=source, attention_mask=mask, do_sample=False, max_new_tokens=length
            )
            rows.extend(out[:, 1:].tolist())
        written["theirs"] = [tokenizer.decode(row) for row in rows]

    we(), they()  # to warm up
    print_rates(f"decoding, rows/s, {name}", len(texts), *in_turn([we, they], args))
    same = sum(a == b for a, b in zip(written["ours"], written["theirs"]))
    ended = [t5.EOS in row for row in rows]
    ids = sum(i != t5.PAD for row in rows for i in row) / len(rows)
    print(
        f"    {same} of {len(rows)} outputs identical; {ids:.1f} ids a row, "
        f"{len(rows) - sum(ended)} rows cut at {length}"
    )
    return ended


def train_student(args, folder):
    flags = f"--dataset svamp --size {args.plan.sizes[0]} --from-scratch --method dss --lr 5e-4"
    flags += f" --subsample 0.05 --steps {20 if args.quick else 400} --batch-size 8"
    flags += f" --eval-every 400 --precision bf16 --device {args.device.type}"
    files = ["--data-root", args.data_root, "--tokenizer", args.tokenizer, "--out", folder]
    with contextlib.redirect_stdout(io.StringIO()):
        train.main([*flags.split(), *map(str, files)])
    (run,) = Path(folder).glob("svamp-*")
    return run


def bench_decoding(args):
    splits = [data.load("svamp", split, args.data_root) for split in ("test", "train")]
    examples = [*splits[0], *splits[1]][: args.plan.texts]
    labels, rationales = (
        [f"{task}: {example.input}" for example in examples] for task in ("predict", "explain")
    )
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        own_head = dict(tie_word_embeddings=False, scale_decoder_outputs=False)
        preset = t5.PRESETS[args.plan.sizes[0]]
        model = t5.T5(replace(preset, **own_head))  # tied, it repeats what it reads
        with torch.no_grad():  # never the most probable: no end, and no id that names no token
            model.head.weight[: t5.EOS + 1] = model.head.weight[model.config.num_tokens :] = 0.0
        t5.save(model, folder)
        decode_in_turn(labels, "fixed 48 tokens", folder, 48, args)
    with tempfile.TemporaryDirectory() as folder:
        student = train_student(args, folder)
        ended = decode_in_turn(labels, "labels", student, 64, args)
        decode_in_turn(rationales, "rationales", student, 64, args)
        if 0 < sum(ended) < len(labels):
            labels = list(compress(labels, ended))
            decode_in_turn(labels, "the labels that end", student, 64, args)


def measure_in_process(args, side, batch):
    """Peak memory (GiB) of two steps in a process of its own."""
    files = ["--data-root", args.data_root, "--tokenizer", args.tokenizer]
    command = [sys.executable, __file__, *files, "--device", args.device, "--measure", side, batch]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def print_peak_memory(args):
    side, batch = args.measure[0], int(args.measure[1])
    longest = sorted(encoded(args), key=lambda row: len(row[1][1]))[-batch:]
    case = Case(longest, batch, args.device, precision=args.plan.precisions[0])
    alike = partial(their_step, micro_batch=our_micro_batch(args.device))
    step = {"ours": our_step, "theirs": their_step, "alike": alike}[side](case)
    step(), step()
    if args.device.type == "cuda":
        return print(torch.cuda.max_memory_allocated() / 2**30)
    status = Path("/proc/self/status").read_text()  # getrusage's peak counts the parent's too
    print(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**20)


def bench_memory(args):
    small = args.quick or args.device.type == "cuda"
    for batch in [args.plan.batch] if small else [8, 16, 32, 64]:
        ours, theirs, alike = (
            measure_in_process(args, side, batch) for side in ("ours", "theirs", "alike")
        )
        row(f"peak memory, GiB, batch {batch}", ours, theirs, theirs / ours)
        row("    theirs in our micro-batches", ours, alike, alike / ours)


def main():
    args = parse()
    args.tokenizer = args.tokenizer or data.published("small", ["spiece.model"]) / "spiece.model"
    args.device = evaluation.find_device(args.device)
    if args.measure:
        return print_peak_memory(args)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    cpu = f"the CPU, {torch.get_num_threads()} threads"
    card = torch.cuda.get_device_name() if args.device.type == "cuda" else cpu
    print(
        f"{card}, torch {torch.__version__}, transformers {transformers.__version__}\n"
        f"{'':50}{'ours':>9}{'transformers':>14}{'ratio':>10}"
    )
    for part in args.parts or PARTS:
        globals()[f"bench_{part}"](args)


if __name__ == "__main__":
    sys.exit(evaluation.run_for_user("bench.py", main))
