"""How fast and how light: this code against transformers running the released computation.

    python tests/bench.py                            # training, decoding, memory: half an hour
    python tests/bench.py training                   # one of them
    python tests/bench.py decoding --student RUN     # also with a student that stops
    python tests/bench.py --quick                    # a look: one round, batch 8 only

Full `small` size with random weights, real SVAMP examples and the real vocabulary. A rate is the
median of rounds in which the sides take turns; a ratio is the median of the rounds' ratios, beside
the smallest and the largest. Whole procedures are compared. Training, on the same random batches:
ours encodes both tasks in one pass, with `--mi paper`, in micro-batches; theirs makes two passes
and computes the released loss, then does so in our micro-batches; then both again in bf16.
Decoding, in batches of 64: ours sorts the texts by length and drops a row when it ends; theirs
takes them in the order of the file. Memory: the peak of two steps on the longest rationales, once,
in a process of its own, with all that it imports. RUN is a student of size small that train.py
trained on SVAMP with this vocabulary; the labels that it ends are timed alone as well.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import compress
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import eval as evaluation
import t5
import train

VOCABULARY = t5.PRESETS["small"].vocab_size


def parse():
    parser = argparse.ArgumentParser(description="Speed and memory against transformers.")
    parts = ["training", "decoding", "memory"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: {', '.join(parts)}")
    parser.add_argument("--data-root", default="datasets", help="with svamp/, or it is downloaded")
    parser.add_argument("--tokenizer", help="T5's spiece.model, if not the published one")
    parser.add_argument("--student", type=Path, help="a run on SVAMP, to decode as it stops")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs=3, metavar=("SIDE", "BATCH", "VOCABULARY"),
                        help="only this: print the peak memory of two steps")  # fmt: skip
    args = parser.parse_args()
    if unknown := set(args.parts) - set(parts):
        parser.error(f"unknown part {unknown.pop()}; expected some of {', '.join(parts)}")
    args.parts = args.parts or parts
    args.rounds = 1 if args.quick else args.rounds
    args.tokenizer = args.tokenizer or data.published("small", ["spiece.model"]) / "spiece.model"
    return args


def encoded(args):
    examples, _ = data.train_and_valid("svamp", args.data_root)
    return data.encode(examples, data.Tokenizer(args.tokenizer), "mi")


def micro_batch_of(vocabulary):  # as train.py on the CPU
    return max(1, 2**23 // (64 * vocabulary))


def our_step(ids, batch_size, vocabulary=VOCABULARY, dtype=None):
    """-> a function that takes one of train.py's steps on the next batch."""
    settings = train.parse(["--dataset", "svamp"])
    torch.manual_seed(0)
    model = t5.T5(replace(t5.PRESETS["small"], vocab_size=vocabulary)).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.0, fused=True)
    batches, micro_batch = data.batches(len(ids), batch_size, 0), micro_batch_of(vocabulary)

    def step():
        rows = [ids[i] for i in next(batches)]
        micro_batches, totals = data.collate(rows, "cpu", micro_batch=micro_batch)
        for sources, targets in micro_batches:
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss, _ = train.training_loss(model, sources, targets, settings, **totals)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(ids, batch_size, vocabulary=VOCABULARY, micro_batch=None, dtype=None):
    """-> a function that takes the released code's step, over transformers' model: random batches
    padded to their longest, two whole passes, the maximum over all positions, both losses. The
    batches are those of our step; with `micro_batch` it takes our micro-batches too."""
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=vocabulary, decoder_start_token_id=0, use_cache=False)
    model = transformers.T5ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.0, fused=True)
    batches = data.batches(len(ids), batch_size, 0)

    def loss_of(rows):
        loss, logits = 0.0, []
        for task in (0, 1):
            source, target = (data.pad([row[side][task] for row in rows]) for side in (0, 1))
            out = model(input_ids=source, attention_mask=(source != 0).long(),
                        labels=target.masked_fill(target == 0, -100))  # fmt: skip
            loss = loss + 0.5 * out.loss
            logits.append(out.logits)
        label = logits[0].detach().softmax(-1).max(1).values
        rationale = logits[1].softmax(-1).max(1).values
        return loss + 0.1 * F.cross_entropy(rationale, label)

    def step():
        rows = sorted((ids[i] for i in next(batches)), key=lambda row: len(row[1][1]))
        for first in range(0, batch_size, micro_batch or batch_size):
            share = rows[first : first + (micro_batch or batch_size)]
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss = loss_of(share) * len(share) / batch_size
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def in_turn(functions, rounds):
    """[seconds of each function] of each round, after one to warm up."""
    for function in functions:
        function()
    return [[seconds(function) for function in functions] for _ in range(rounds)]


def rates(name, rounds, ours, theirs):
    """A row: how many were done a second, where our time was for `ours` and theirs for `theirs`."""
    a, b = (statistics.median(column) for column in zip(*rounds))
    ratios = sorted(ours / x / (theirs / y) for x, y in rounds)
    row(name, ours / a, theirs / b, statistics.median(ratios), f"{ratios[0]:.2f}-{ratios[-1]:.2f}")


def row(name, ours, theirs, ratio, spread=""):
    print(f"{name:<44}{ours:>9.2f}{theirs:>14.2f}{ratio:>8.2f} x  {spread}", flush=True)


def matrix_peak():
    """The machine's best GFLOP/s in an fp32 product of two (2048, 2048) matrices."""
    a, b = torch.randn(2_048, 2_048), torch.randn(2_048, 2_048)
    return 2 * 2_048**3 / min(seconds(lambda: a @ b) for _ in range(10)) / 1e9


def measure_in_process(args, side, batch_size, vocabulary):
    """Peak memory (GiB) of two steps in a process of its own."""
    files = ["--data-root", args.data_root, "--tokenizer", args.tokenizer]
    command = [sys.executable, __file__, *files, "--measure", side, batch_size, vocabulary]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return float(done.stdout)


def bench_training(args):
    ids, B = encoded(args), 8 if args.quick else 32
    for name, dtype in ("fp32", None), ("bf16", torch.bfloat16):
        ours, theirs = our_step(ids, B, dtype=dtype), their_step(ids, B, dtype=dtype)
        alike = their_step(ids, B, micro_batch=micro_batch_of(VOCABULARY), dtype=dtype)
        rounds = in_turn([ours, theirs, alike], args.rounds)
        rates(f"training, examples/s, batch {B}, {name}", [(a, b) for a, b, _ in rounds], B, B)
        rates("    theirs in our micro-batches", [(a, c) for a, _, c in rounds], B, B)
    counted, timed = our_step(ids, B), our_step(ids, B)  # the same batches
    with FlopCounterMode(display=False) as counter:
        counted()
    timed()  # warms up on the first batch, which the other took
    rate = counter.get_total_flops() / seconds(timed) / 1e9
    print(f"    GFLOP/s in products: {rate:.0f} in our step, {matrix_peak():.0f} in one large one")


def in_turn_on(texts, name, weights, length, args):
    """Decode the texts on both sides -> the rounds' seconds, and of each text whether it ended."""
    import transformers

    tokenizer, model = data.Tokenizer(args.tokenizer), t5.load(weights)
    student = evaluation.Student(model, tokenizer, "mi", True, length)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(weights).eval()
    ids = [tokenizer.encode(text) for text in texts]
    ours, found = [], []

    def we():
        ours[:] = [text for text, _ in evaluation.generate_text(student, texts, length)]

    def they():
        found.clear()
        for first in range(0, len(ids), 64):
            source = data.pad(ids[first : first + 64])
            out = theirs.generate(input_ids=source, attention_mask=(source != 0).long(),
                                  do_sample=False, max_new_tokens=length)  # fmt: skip
            found.extend(out[:, 1:].tolist())

    rounds = in_turn([we, they], args.rounds)
    rates(f"decoding, rows/s, {name}", rounds, len(ids), len(ids))
    same = sum(text == tokenizer.decode(row) for text, row in zip(ours, found))
    ended = [t5.EOS in row for row in found]
    written = sum(i != t5.PAD for row in found for i in row) / len(ids)
    print(f"    {same} of {len(ids)} outputs identical; {written:.1f} ids a row, "
          f"{len(ids) - sum(ended)} rows cut at {length}")  # fmt: skip
    return rounds, ended


def bench_decoding(args):
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    examples = data.load("svamp", "test", args.data_root)
    labels, rationales = ([f"{task}: {example.input}" for example in examples]
                          for task in ("predict", "explain"))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        own_head = dict(tie_word_embeddings=False, scale_decoder_outputs=False)
        model = t5.T5(replace(t5.PRESETS["small"], **own_head))  # tied, it repeats what it reads
        with torch.no_grad():  # never the most probable: no end, and no id that names no token
            model.head.weight[: t5.EOS + 1] = model.head.weight[model.config.num_tokens :] = 0.0
        t5.save(model, folder)
        in_turn_on(labels, "fixed 48 tokens", folder, 48, args)
    if args.student:
        one, ended = in_turn_on(labels, "labels", args.student, 64, args)
        other, _ = in_turn_on(rationales, "rationales", args.student, 64, args)
        both = [(a + c, b + d) for (a, b), (c, d) in zip(one, other)]
        rates("decoding, rows/s, both", both, len(labels), len(labels))
        if 0 < sum(ended) < len(labels):
            labels = list(compress(labels, ended))
            in_turn_on(labels, "the labels that end", args.student, 64, args)


def bench_memory(args):
    """The peaks by batch and by vocabulary, and what an example more costs with each vocabulary."""
    twice = 2 * VOCABULARY
    plan = {VOCABULARY: [8]} if args.quick else {VOCABULARY: [8, 16, 32, 64], twice: [8, 16, 32]}
    for vocabulary, sizes in plan.items():
        peaks = [[measure_in_process(args, side, size, vocabulary) for side in ("ours", "theirs")]
                 for size in sizes]  # fmt: skip
        for size, (ours, theirs) in zip(sizes, peaks):
            row(f"peak memory, GiB, batch {size}, V = {vocabulary:,}", ours, theirs, theirs / ours)
        if 32 in sizes:
            growth = [1024 * (b - a) / 24 for a, b in zip(peaks[0], peaks[2])]
            name = "    MiB for each example more, from 8 to 32"
            print(f"{name:44}{growth[0]:>9.1f}{growth[1]:>14.1f}")
            alike, (ours, _) = measure_in_process(args, "alike", 32, vocabulary), peaks[2]
            row("    theirs in our micro-batches, batch 32", ours, alike, alike / ours)


def main():
    args = parse()
    if args.measure:
        side, batch_size, vocabulary = args.measure[0], *map(int, args.measure[1:])
        longest = sorted(encoded(args), key=lambda row: len(row[1][1]))[-batch_size:]
        alike = partial(their_step, micro_batch=micro_batch_of(vocabulary))
        make = {"ours": our_step, "theirs": their_step, "alike": alike}[side]
        step = make(longest, batch_size, vocabulary)
        step(), step()
        status = Path("/proc/self/status").read_text()  # getrusage's peak counts the parent's too
        print(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**20)
        return
    benches = {"training": bench_training, "decoding": bench_decoding, "memory": bench_memory}
    if wanted := [benches[part] for part in args.parts if part in benches]:
        import transformers

        print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
              f"{torch.get_num_threads()} threads, small, SVAMP\n"
              f"{'':44}{'ours':>9}{'transformers':>14}{'ratio':>10}")  # fmt: skip
        for bench in wanted:
            bench(args)


if __name__ == "__main__":
    sys.exit(evaluation.run_for_user("bench.py", main))
