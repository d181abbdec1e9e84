"""The data: the four sets that Distilling Step-by-Step published, a user's own, the toy task.

Hsieh et al. 2023 (arXiv 2305.02301) published texts, labels and a teacher's raw answers for e-SNLI,
ANLI (round 1), CQA and SVAMP. They are parsed and split by the rules of the authors' code, as
`tests/test_data.py` checks on the files; the README and tests/MEASUREMENTS.md list differences.

Letters: B batch, S source length, T target length. Ids: 0 <pad>, 1 </s>, 2 <unk>.
"""

import ast
import hashlib
import io
import itertools
import json
import math
import operator
import os
import re
import socket
import sys
import tempfile
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path

import numpy as np
import sentencepiece
import torch

import t5
from t5 import EOS, MAX_TARGET, PAD, UNK, InputError, check


@dataclass(frozen=True)
class Example:
    input: str
    label: str  # gold
    rationale: str  # the teacher's
    llm_label: str  # the teacher's; "" where its text could not be parsed


# ------------------------------------------------------------------------------------------------
# examples and parsers

NLI_LABELS = ("entailment", "neutral", "contradiction")
MARKERS = {  # the teacher's words between rationale and label; the start of another problem
    "esnli": ("Answer:", None),
    "anli1": ("So the answer is", "Premise:"),
    "cqa": ("So the answer is", "Q:"),
    "svamp": ("The answer is", "Q:"),
    "toy": ("The answer is", "Q:"),
}
EQUATIONS = ("svamp", "toy")  # the sets with equations as labels, compared by value


def is_own_data(name):  # a user's folder, rather than a published set or the toy task
    return str(name) not in MARKERS


def parse_teacher(name, text):
    """Split the teacher's raw text -> (rationale, label), each "" where the text has none."""
    marker, run_on = MARKERS[name]
    if name == "esnli":
        after = text.partition("Answer: ")[2]  # with the space, as in the authors' code
        label = re.split("Answer: |Premise", after)[0]
        return text.split(marker)[0].strip(), label.strip()
    parts = text.split(run_on)[0].split(marker)
    if len(parts) != 2:
        return "", ""
    rationale, label = parts[0].strip(), parts[1].strip()
    if name == "anli1":
        return rationale, label[:-1]  # without the full stop
    if name == "cqa":  # (d) math problem.
        after = re.split(r"\(.\)", label)[1:]
        return rationale, after[0].strip().removesuffix(".") if after else ""
    equation = re.search(r"\(.*\)", label)  # on one line
    return rationale, equation[0] if equation else ""


def is_text(value):  # half of a surrogate pair, such as "\ud83d", can't be tokenised
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def text_of(line, field):
    value = line.get(field)
    advice = ": quote it" if isinstance(value, (int, float)) and abs(value) < math.inf else ""
    found = f"{value!r:.60}{advice}" if field in line else "no such field"
    check(is_text(value), f"expected a text as '{field}', found {found}")
    return value


def input_and_label(name, line):
    """Return (input, label) of a published file's line, a dict. Raises InputError."""
    if name in ("esnli", "anli1"):
        label = line.get("label")
        good = type(label) is int and 0 <= label <= 2
        check(good, f"expected 0, 1 or 2 as 'label', found {label!r:.60}")
        return f"{text_of(line, 'premise')}</s>{text_of(line, 'hypothesis')}", NLI_LABELS[label]
    if name == "cqa":
        choices = line.get("choices")
        good = isinstance(choices, list) and len(choices) == 5 and all(map(is_text, choices))
        check(good, f"expected 5 texts as 'choices', found {choices!r:.60}")
        rows = [f"({letter}) {choice}" for letter, choice in zip("abcde", choices)]
        text = "\n".join([text_of(line, "question"), "Answer Choices:", *rows])
        return text, text_of(line, "answer")
    return text_of(line, "input"), text_of(line, "label")


def own_example(line):
    """Return the Example in a line, a dict, of a user's own file. Raises InputError."""
    texts = [text_of(line, field) for field in ("input", "label", "rationale")]
    return Example(*texts, text_of(line, "llm_label") if "llm_label" in line else "")


def parse(raw, where):
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # another encoding is a ValueError, too
        raise InputError(f"{where}: expected JSON in UTF-8 ({error}), found {raw[:40]!r}") from None


def read_lines(path, make):
    """Return [make(object)] of the objects in a file of JSON lines. Raises OSError, InputError."""
    rows = []
    for number, raw in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        if raw.strip():
            where = f"{path}, line {number}"
            line = parse(raw, where)
            check(isinstance(line, dict), f"{where}: expected an object, found {line!r:.60}")
            try:
                rows.append(make(line))
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
    check(rows, f"{path}: expected lines of JSON, found none")
    return rows


def own_file(folder, split):
    """Return the path of a split of the user's own data, or None."""
    names = ("valid", "validation") if split == "valid" else (split,)
    found = [path for name in names if (path := Path(folder, f"{name}.jsonl")).exists()]
    check(len(found) < 2, f"{folder}: found valid.jsonl and validation.jsonl: keep one of them")
    return found[0] if found else None


def load(name_or_folder, split, root="datasets"):
    """Return the examples of a split, in the order of the file.

    name_or_folder: a published set (downloaded to `root` if missing), `toy` (written to `root` if
    missing), or a folder with train.jsonl, test.jsonl and optionally valid.jsonl (or
    validation.jsonl). Their lines hold `input`, `label`, `rationale` and optionally `llm_label`.
    split: train, valid or test; for a set without a validation file see `split_validation`.
    Raises OSError, InputError.
    """
    name, root = str(name_or_folder), Path(root)
    if is_own_data(name):
        path, known = own_file(name, split), ", ".join(MARKERS)
        check(path, f"{name}/{split}.jsonl: not found; a dataset is {known}, or a folder")
        return read_lines(path, own_example)
    path, llm = root / name / f"{name}_{split}.json", root / name / "llm"
    if not path.exists() and name == "toy":
        write_toy(root)
    elif not path.exists():
        download_sets(root, path)
    lines = read_lines(path, lambda line: input_and_label(name, line))
    raw, files = [], 0
    while (part := llm / f"{split}_CoT_{files}.json").exists():
        texts = parse(part.read_bytes(), part)
        good = isinstance(texts, list) and all(map(is_text, texts))
        check(good, f"{part}: expected a JSON array of texts, found {texts!r:.60}")
        raw += texts
        files += 1
    found = f"{len(raw)} teacher's texts in {files} files {split}_CoT_*.json"
    check(len(raw) == len(lines), f"{llm}: {found}, expected {len(lines)}, one per line of {path}")
    return [Example(*line, *parse_teacher(name, text)) for line, text in zip(lines, raw)]


def digest(examples):
    """Return the sha256 of all fields of the examples, in order."""
    fields = json.dumps([vars(example) for example in examples])
    return hashlib.sha256(fields.encode()).hexdigest()


# ------------------------------------------------------------------------------------------------
# splits


def train_and_valid(name_or_folder, root="datasets", fraction=1.0, seed=0):
    """Return the examples of a run's training and those of its validation."""
    train = whole = load(name_or_folder, "train", root)
    if fraction != 1:  # the whole set keeps its order: all seeds share one validation set
        train = subsample(train, fraction, seed)
    own = is_own_data(name_or_folder) and own_file(name_or_folder, "valid")
    if own or name_or_folder in ("esnli", "anli1"):
        valid = load(name_or_folder, "valid", root)
    else:
        train, valid = split_validation(train)
    check(train, f"{name_or_folder}: no example of {len(whole)} is left to train on")
    return train, valid


def subsample(examples, fraction, seed):
    """Drop the first ceil((1 - fraction) n) of a seeded order; return the rest in that order."""
    assert 0 < fraction <= 1, f"expected a share in (0, 1], found {fraction}"
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[math.ceil((1 - fraction) * len(order)) :]]


def split_validation(examples, seed=0):
    """Return (train, valid) in a seeded order, of which the first ceil(n / 10) are valid."""
    order = np.random.default_rng(seed).permutation(len(examples))
    n = math.ceil(0.1 * len(order))
    return [examples[i] for i in order[n:]], [examples[i] for i in order[:n]]


# ------------------------------------------------------------------------------------------------
# the equation reader

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
OPERATORS |= {ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv}
OPERATORS |= {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate_equation(text):
    """Return the value of a text of numbers, brackets and OPERATORS, or None; execute nothing."""

    def value(node):
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp):
            return OPERATORS[type(node.op)](value(node.operand))
        check(isinstance(node, ast.Constant), "not arithmetic")  # such as `()`, `2(3)`
        return float(node.value)

    try:
        check(re.fullmatch(r"[-+*/().\d\s]{1,256}", text, re.ASCII), "not arithmetic")
        found = value(ast.parse(text.strip(), mode="eval").body)
    except Exception:  # the parser and the arithmetic raise many kinds
        return None
    return found if math.isfinite(found) else None


def is_correct(answer, label, by_value):
    """Return whether an answer is right: an equal text or, by value, an equal value."""
    if not by_value:
        return answer == label
    found, expected = evaluate_equation(answer), evaluate_equation(label)
    if found is None or expected is None:
        return False
    return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-12)


# ------------------------------------------------------------------------------------------------
# the tokenizer and batches

MAX_SOURCE = 1_024  # ids, as in the authors' code; so is MAX_TARGET
SENTINELS = 100  # <extra_id_0> to <extra_id_99> follow the pieces in every T5 vocabulary
JOINER = "The answer is"  # between rationale and label in the single sequence


class Tokenizer:
    """sentencepiece with T5's </s>; the ids equal those of transformers' legacy T5 tokenizer."""

    def __init__(self, path, rows=math.inf):  # rows: of the model's embedding
        path = Path(path)
        if not path.is_file():
            why = "; tokenizer.json is not read: add its spiece.model, or train.py --tokenizer FILE"
            beside = why if (path.parent / "tokenizer.json").is_file() else ""
            raise FileNotFoundError(f"{path}: expected a sentencepiece model{beside}")
        self.serialized = path.read_bytes()
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_proto=self.serialized)
            ids = [self.pieces.pad_id(), self.pieces.eos_id(), self.pieces.unk_id()]
        except (RuntimeError, ValueError):
            ids = "no sentencepiece model"
        expected = "a vocabulary with ids 0 <pad>, 1 </s>, 2 <unk>"
        check(ids == [PAD, EOS, UNK], f"{path}: expected {expected}, found {ids}")
        n = len(self.pieces)
        check(n <= rows, f"{path}: {n:,} pieces, but the model has {rows:,} rows")

    def __len__(self):
        return len(self.pieces) + SENTINELS

    def encode(self, text, max_length=None):
        """Return the text's ids, which end in </s>, cut to max_length. A </s> inside is kept."""
        ids = []
        for part in text.split("</s>"):  # one by one: a list of texts starts a pool of threads
            ids += [*self.pieces.encode(part), EOS]
        return ids if max_length is None else cut(ids, max_length)

    def decode(self, ids):
        """Return the text of ids without <pad>, </s>, sentinels, and white space at its ends."""
        return self.pieces.decode([int(i) for i in ids if EOS < i < len(self.pieces)]).strip()

    def normalise(self, text):
        """Return the text after a round trip through the tokenizer."""
        return self.decode(self.encode(text))

    def save(self, folder):
        """Write spiece.model and the settings with which AutoTokenizer gives the same ids."""
        config = {"tokenizer_class": "T5Tokenizer", "legacy": True, "extra_ids": SENTINELS}
        config |= {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        config |= {"model_max_length": MAX_SOURCE}
        t5.write_json(Path(folder) / "tokenizer_config.json", config)
        t5.replace_file(Path(folder) / "spiece.model", lambda file: file.write(self.serialized))


def cut(ids, length):
    """Return ids that end in </s>, at most `length` of them; </s> stays at the end."""
    return ids if len(ids) <= length else [*ids[: length - 1], EOS]


def prompts(text, method):
    """Return the student's inputs: one for the label and, with two tasks, one for the rationale."""
    return [f"predict: {text}", f"explain: {text}"] if method in ("dss", "mi") else [text]


def flaws(kind, ids, room):
    """Yield what is wrong with a text, given its uncut ids, of which `room` are kept."""
    if ids == [EOS]:
        yield f"{kind} are blank"
    if UNK in ids:
        yield f"{kind} have characters that the vocabulary lacks"
    if len(ids) > room:
        yield f"{kind} are too long and lose their ends"
    if EOS in ids[:-1] and kind != "inputs":  # in an input it stands between two texts
        yield f"{kind} hold </s>, where a student stops"


def make_rows(examples, tokenizer, method, labels="gold"):
    """Return the ids of the examples, and a line per kind of text that is cut or read differently.

    The ids are one row per example, (sources, targets): each one list of ids per task of the
    method, the label's first. labels: gold, or llm for the teacher's.
    """
    rows, counts, rewritten = [], Counter(), []
    prefix = len(tokenizer.encode(prompts("", method)[0])) - 1  # ids before the text
    joiner = tokenizer.encode(JOINER)[:-1] if method == "single" else []
    for example in examples:
        sources = [tokenizer.encode(text) for text in prompts(example.input, method)]
        text = example.label if labels == "gold" else example.llm_label
        label, rationale = tokenizer.encode(text), tokenizer.encode(example.rationale)
        targets, room = [label, rationale][: len(sources)], MAX_TARGET
        if method == "single":  # a rationale that is too long loses its end, not the label
            end = cut(joiner + label, MAX_TARGET)
            room = MAX_TARGET - len(end) + 1
            targets = [cut(rationale, room)[:-1] + end]
        counts.update(flaws("inputs", sources[0][prefix:], MAX_SOURCE - prefix))
        if method != "finetune":
            counts.update(flaws("rationales", rationale, room))
        counts.update(flaws("labels", label, MAX_TARGET - len(joiner)))
        back = tokenizer.decode(label)
        if back != text and UNK not in label and EOS not in label[:-1]:
            rewritten.append(f"{text!r:.60} as {back!r:.60}")
        sources = [cut(ids, MAX_SOURCE) for ids in sources]
        rows.append((sources, [cut(ids, MAX_TARGET) for ids in targets]))
    if rewritten:
        counts[f"labels read back differently: {min(rewritten, key=len)}"] = len(rewritten)
    return rows, [f"{n:,} of {len(examples):,} {what}" for what, n in sorted(counts.items())]


def check_labels(examples, tokenizer, labels="gold"):
    """Refuse labels that no student could write or tell apart. Raises InputError."""
    texts = {example.label for example in examples}
    if labels == "llm":  # a teacher's white space may vary: only unknown characters matter
        teachers = {example.llm_label for example in examples}
        texts |= {text for text in teachers if UNK in tokenizer.encode(text)}
    originals = {}  # decoded text -> original label
    for text in sorted(texts):
        check("</s>" not in text, f"the label {text!r:.80} can't be written: </s> ends an answer")
        decoded = tokenizer.decode(tokenizer.encode(text, MAX_TARGET))
        other = originals.setdefault(decoded, text)
        both = f"the labels {other!r:.80} and {text!r:.80}"
        check(other == text, f"{both} have the same ids in this vocabulary: rename one of them")


def pad(rows, width=0):
    """Return lists of ids as a (B, T) tensor of int64, padded with 0 to at least `width`."""
    batch = np.full((len(rows), max(width, *map(len, rows))), PAD, np.int64)
    for row, ids in zip(batch, rows):
        row[: len(ids)] = ids
    return torch.from_numpy(batch)


def collate(batch, device, rank=0, world=1, micro_batch=None, trim_padding=True):
    """Return the micro-batches of one process's share of a batch, rows of `make_rows`, and totals.

    A micro-batch is a pair: sources, (b, S) or (2 b, S), first those of the label task, then those
    of the rationale task; and targets, one (b, T) per task. Rows are sorted by the length of their
    last target, then of their source, so that a micro-batch needs little padding. It is padded to
    its own longest row; without `trim_padding` its targets are padded to the longest of the whole
    batch. totals: the target tokens of each task and the number of examples in the whole batch,
    over all processes, by which the losses are divided.
    """
    # a row is (sources, targets)
    batch = sorted(batch, key=lambda row: (len(row[1][-1]), max(map(len, row[0]))))
    tasks = range(len(batch[0][1]))
    lengths = [[len(targets[task]) for _, targets in batch] for task in tasks]
    totals = (*map(sum, lengths), len(batch))
    widths = [0 if trim_padding else max(task) for task in lengths]
    share, micro_batches = batch[rank::world], []
    size = micro_batch or len(share)
    pinned = torch.device(device).type == "cuda"  # from pinned memory a copy runs in the background

    def to_device(ids):
        return (ids.pin_memory() if pinned else ids).to(device, non_blocking=True)

    for first in range(0, len(share), size):
        rows = share[first : first + size]
        sources = pad([ids[task] for task in tasks for ids, _ in rows])
        targets = [pad([ids[task] for _, ids in rows], widths[task]) for task in tasks]
        micro_batches.append((to_device(sources), [to_device(ids) for ids in targets]))
    return micro_batches, totals


def batches(n, batch_size, seed, start=0):
    """Yield endlessly arrays of batch_size indices below n, from batch number `start` on.

    They run through one seeded permutation after another; a batch may span two or more. So each
    batch is full, and depends on the seed and its own number alone.
    """

    @lru_cache(2)  # drawn once per epoch, although a batch may end one and begin the next
    def order(epoch):
        return np.random.default_rng([seed, epoch]).permutation(n)

    for number in itertools.count(start):
        epoch, begin = divmod(number * batch_size, n)
        last = ((number + 1) * batch_size - 1) // n
        orders = [order(e) for e in range(epoch, last + 1)]
        yield np.concatenate(orders)[begin : begin + batch_size]


# ------------------------------------------------------------------------------------------------
# the toy task

NAMES = "Anna Ben Carla David Emma Frank Grace Henry Iris Jack Kate Leo Mia Noah Olga Paul".split()
THINGS = "apples books cards coins eggs flowers keys lemons marbles pens shells stamps".split()
BOXES = "bags boxes baskets jars trays drawers".split()
KINDS = [  # the story, the question, the equation, the teacher's reasoning
    "{a} had {n} {x}.{b} gave {a} {m} {x}.|How many {x} does {a} have now?"
    "|{n} + {m}|{a} had {n} {x} and {b} gave {a} {m} more.",
    "{a} had {n} {x}.{a} lost {m} {x} on the way.|How many {x} does {a} have left?"
    "|{n} - {m}|{a} had {n} {x} and lost {m} of them.",
    "{a} has {p} {y}.Each of the {y} holds {q} {x}.|How many {x} does {a} have in the {y}?"
    "|{p} * {q}|{a} has {p} {y} with {q} {x} in each.",
    "{a} has {r} {x}.{a} put the {x} in {p} {y}.|How many {x} are in each of the {y}?"
    "|{r} / {p}|{a} shared {r} {x} between {p} {y}.",
    "{a} has {n} {x}.{b} has {m} {x}.|How many more {x} does {a} have than {b}?"
    "|{n} - {m}|{a} has {n} {x} and {b} has {m}.",
    "{a} has {n} {x}.{b} has {m} more {x} than {a}.|How many {x} does {b} have?"
    "|{n} + {m}|{b} has {m} more than the {n} {x} of {a}.",
    "{a} sold {m} {x}.Now {a} has {n} {x}.|How many {x} did {a} have before?"
    "|{n} + {m}|{a} has {n} {x} left and sold {m}.",
    "{a} had {n} {x}.{a} bought {p} {y} with {q} {x} in each.|How many {x} does {a} have now?"
    "|{n} + ( {p} * {q} )|{a} had {n} {x} and bought {p} {y} of {q}.",
]


def toy_problem(random):
    """A word problem with a distracting sentence -> (text, equation, the teacher's raw text)."""
    kind = KINDS[random.integers(len(KINDS))]
    a, b, c = random.choice(NAMES, 3, replace=False)
    x, other = random.choice(THINGS, 2, replace=False)
    n, m, p, q = random.integers([20, 2, 2, 2], [60, 20, 10, 10])
    fill = dict(a=a, b=b, x=x, y=random.choice(BOXES), n=n, m=m, p=p, q=q, r=p * q)
    story, question, equation, reasoning = kind.format(**fill).split("|")
    asides = f"{c} has {random.integers(2, 99)} {x}.", f"{a} has {random.integers(2, 99)} {other}."
    sentences = [sentence + "." for sentence in story.split(".")[:-1]]
    sentences.insert(random.integers(3), asides[random.integers(2)])
    answer = equation
    if random.random() < 0.05:  # the teacher errs at times
        answer = equation.translate(str.maketrans("+-*/", "-+++"))
    value = evaluate_equation(answer)
    raw = f"{reasoning} ( {answer} ) = {value:g} {x}. The answer is ( {answer} )."
    if random.random() < 0.02:  # or forgets to answer
        raw = raw.split(" The")[0]
    return " ".join(sentences) + "\n" + question, f"( {equation} )", raw


def write_toy(root, sizes={"train": 8_000, "test": 500}, seed=0):
    """Write toy/ below `root` in the layout of SVAMP, and toy/spiece.model trained on it."""
    random, folder = np.random.default_rng(seed), Path(root) / "toy"
    (folder / "llm").mkdir(parents=True, exist_ok=True)
    files, corpus = {}, [f"predict: explain: {JOINER}", *map(str, range(2, 100))] * 9
    for split, size in sizes.items():
        texts, labels, raw = zip(*(toy_problem(random) for _ in range(size)))
        corpus += [text for example in zip(texts, labels, raw) for text in example]
        raw = [f"{text}\n\nQ: {run_on[:60]}" for text, run_on in zip(raw, texts[1:] + texts[:1])]
        lines = [json.dumps({"input": t, "label": label}) for t, label in zip(texts, labels)]
        files[f"toy_{split}.json"] = "\n".join(lines)
        files[f"llm/{split}_CoT_0.json"] = json.dumps(raw)
    # sentencepiece only learns pieces seen in two contexts: add one for each word and sign
    corpus += [f"{word}( {word})" for word in sorted(set(re.findall(r"\w+|\S", " ".join(corpus))))]
    model = io.BytesIO()
    settings = dict(vocab_size=400, hard_vocab_limit=False, character_coverage=1.0, minloglevel=2)
    settings |= dict(pad_id=PAD, eos_id=EOS, unk_id=UNK, bos_id=-1)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, **settings
    )
    t5.replace_file(folder / "spiece.model", lambda file: file.write(model.getvalue()))
    for name, text in reversed(files.items()):  # toy_train.json last: a set with it is complete
        t5.replace_file(folder / name, lambda file: file.write(text.encode()))


# ------------------------------------------------------------------------------------------------
# published files

DSS = "https://github.com/google-research/distilling-step-by-step/raw"
DSS += "/ef944263c9ddfd40a9888557f3e7d17513fd1a7e/datasets.zip"
DSS_BLOB = "fb9d88a0b44c2daac1ec1639f0bdae993e7e5bcd"  # git's name of it, a sha1
PUBLISHED = {  # repository on the hub, revision
    "small": ("google-t5/t5-small", "df1b051c49625cf57a3d0d8d3863ed4d13564fe4"),
    "base": ("google-t5/t5-base", "a9723ea7f1b39c1eae772870f3b547bf6ef7e6c1"),
    "v1_1-small": ("google/t5-v1_1-small", "main"),
    "v1_1-base": ("google/t5-v1_1-base", "b5fc947a416ea3cb079532cb3c2bbadeb7f800fc"),
}
SHA256 = {  # of model.safetensors and, the same for all, of spiece.model
    "small": "bd944e5f1b3ad9b70dd9d00010a517059e19265671076b8b0a4a58d9491842bc",
    "base": "a90903540cc02cbeb7ff9f823f1a80eb778c7e22426a0e620b01c77a5ec8f5b4",
    "spiece.model": "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86",
}
WEIGHTS = "--weights FOLDER (config.json, weights, spiece.model) or --from-scratch --tokenizer FILE"


def download(url, path, advice, sha256=None):
    """Write the content of a url to a file. Raises OSError; InputError that ends in the advice."""
    os.makedirs(path.parent, exist_ok=True)
    socket.setdefaulttimeout(10)  # seconds without a byte
    try:
        torch.hub.download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, HTTPException, ValueError) as error:  # Runtime: another sha256
        why = " ".join(str(error).split())
        raise InputError(f"{url} is unavailable ({why}): {advice}") from None


def download_sets(root, missing):
    """Write the splits of the published sets that are not below `root`, from their archive.

    A split whose lines are there is left alone: a user may have edited it. missing: the path
    that an error names. Raises OSError, InputError.
    """
    advice = f"{missing} is missing: give --data-root FOLDER, which has the sets"
    os.makedirs(root, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:  # fails at once if nothing can be written
        download(DSS, Path(folder) / "datasets.zip", advice)
        content = (Path(folder) / "datasets.zip").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    check(blob == DSS_BLOB, f"{DSS}: its checksum is {blob}, expected {DSS_BLOB}; {advice}")
    bundle = zipfile.ZipFile(io.BytesIO(content))
    # groups: 1 the path below `root`, without parent folders; 2 the set; 3 or 4 the split
    ours = r"(?:.*/)?((\w+)/(?:\2_(train|valid|test)|llm/(train|valid|test)_CoT_\d+)\.json)"
    # the teacher's texts first: a split with its lines is then complete
    for member in sorted(bundle.namelist(), key=lambda member: "/llm/" not in member):
        found = re.fullmatch(ours, member)
        if found and found[2] in MARKERS:
            path, split = root / found[1], found[3] or found[4]
            if not path.exists() and not (root / found[2] / f"{found[2]}_{split}.json").exists():
                os.makedirs(path.parent, exist_ok=True)
                t5.replace_file(path, lambda file: file.write(bundle.read(member)))


def published(size, names=None, folder="weights"):
    """Return the folder of a preset's model; download those of its files `names` that it lacks."""
    check(size in PUBLISHED, f"{size} has no published weights: add --from-scratch")
    repository, revision = PUBLISHED[size]
    hub = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    folder = Path(folder) / size
    weights = "model.safetensors" if size in SHA256 else "pytorch_model.bin"
    for name in names or ["spiece.model", weights]:
        if not (folder / name).exists():
            url = f"{hub}/{repository}/resolve/{revision}/{name}"
            sha256 = SHA256.get(size if name == weights else name)
            download(url, folder / name, f"give {WEIGHTS}", sha256)
    if not (folder / "config.json").exists():  # it is known
        t5.write_json(folder / "config.json", asdict(t5.PRESETS[size]))
    return folder


def title(path_or_name):
    """Return the name of a dataset or of weights in run names and tables."""
    if not is_own_data(path_or_name):
        return str(path_or_name)
    path = Path(os.path.abspath(path_or_name))
    # digits of the path's sha256, so that two folders of one name differ
    return f"{path.name}.{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:6]}"
