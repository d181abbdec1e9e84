"""The data: the four released sets of Distilling Step-by-Step, a user's own, and the toy task.

Hsieh et al. 2023 (arXiv 2305.02301) released texts, labels and a teacher's raw answers for e-SNLI,
ANLI (round 1), CQA and SVAMP. They are parsed and split by the rules of the released code, as
`tests/test_data.py` checks on its files; the README and tests/MEASUREMENTS.md list differences.

Letters: B batch, S source length, T target length. Ids: 0 <pad>, 1 </s>, 2 <unk>.
"""

import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.request
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import sentencepiece
import torch

from t5 import EOS, PAD, UNK, InputError, check, read_json, replace_file, shards


@dataclass(frozen=True)
class Example:
    input: str
    label: str  # gold
    rationale: str  # the teacher's
    llm_label: str  # the teacher's; "" where its text could not be parsed


# ------------------------------------------------------------------------------------------------
# examples and parsers

NLI_LABELS = ("entailment", "neutral", "contradiction")
MARKERS = {  # what the teacher writes between rationale and label, and where its text runs on
    "esnli": ("Answer:", None),
    "anli1": ("So the answer is", "Premise:"),
    "cqa": ("So the answer is", "Q:"),
    "svamp": ("The answer is", "Q:"),
    "toy": ("The answer is", "Q:"),
}
VALIDATION = ("valid", "validation", "dev", "val")  # names of a user's validation file


def is_folder(name):  # a user's folder, rather than a released set or the toy task
    return str(name) not in MARKERS


def by_value(name):  # whether the labels are equations, whose values are compared
    return str(name) in ("svamp", "toy")


def title(path_or_name):
    """What run names and tables call a dataset, weights or a tokenizer.

    A user's folder or file gets 6 digits of its path's sha256, so that two of one name differ.
    """
    path = Path(os.path.abspath(path_or_name))
    if not is_folder(path_or_name) or is_hub_name(path_or_name):
        return str(path_or_name).replace("/", "--")
    return f"{path.name}.{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]}"


def parse_teacher(name, text):
    """The teacher's raw text -> (rationale, label), each "" where the text doesn't show it."""
    marker, run_on = MARKERS[name]
    if name == "esnli":
        rationale, _, label = text.partition(marker)
        return rationale.strip(), label.split("Premise")[0].strip()
    parts = text.split(run_on)[0].split(marker)
    if len(parts) != 2:
        return "", ""
    rationale, label = parts[0].strip(), parts[1].strip()
    if name == "anli1":
        return rationale, label[:-1]
    if name == "cqa":  # (d) math problem.
        after = re.split(r"\(.\)", label)[1:]
        return rationale, after[0].strip().removesuffix(".") if after else ""
    equation = re.search(r"\(.*\)", label, re.DOTALL)
    return rationale, equation[0] if equation else ""


def is_text(value):  # half a surrogate pair, as a cut-off \\ud83d gives, can't be tokenised
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def text_of(line, field):
    value = line.get(field)
    advice = ": quote it" if isinstance(value, (int, float)) else ""
    found = f"{value!r:.60}{advice}" if field in line else "no such field"
    check(is_text(value), f"expected a text as '{field}', found {found}")
    return value


def input_and_label(name, line):
    """A line of a released file -> (input, label)."""
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
    """A line of a user's own file -> Example."""
    texts = [text_of(line, field) for field in ("input", "label", "rationale")]
    return Example(*texts, text_of(line, "llm_label") if "llm_label" in line else "")


def read_text(path):
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: expected UTF-8, found another encoding") from None


def parse(text, place):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: expected JSON ({error}), found {text[:40]!r}") from None


def read_lines(path, make):
    """A file of JSON lines -> what `make` makes of each line's object."""
    rows = []
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if text.strip():
            place = f"{path}, line {number}"
            line = parse(text, place)
            check(isinstance(line, dict), f"{place}: expected an object, found {line!r:.60}")
            try:
                rows.append(make(line))
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
    check(rows, f"{path}: expected lines of JSON, found none")
    return rows


def own_file(folder, split):
    """The file of a split of the user's own data, or None."""
    names = VALIDATION if split == "valid" else (split,)
    found = [Path(folder, f"{name}.jsonl") for name in names]
    found = [path for path in found if path.exists()]
    both = " and ".join(path.name for path in found)
    check(len(found) < 2, f"{folder}: expected one validation set, found {both}: keep one of them")
    return found[0] if found else None


def load(name_or_folder, split, root="datasets"):
    """The examples of a set's split, in the order of its file.

    The set is a released one by its name (below `root`, downloaded if it is missing), `toy` (below
    `root`, written if it is missing), or a folder with train.jsonl, test.jsonl and optionally
    valid.jsonl, whose lines hold `input`, `label`, `rationale` and optionally `llm_label`. split:
    train, valid or test; a set without a validation file has no valid: see `split_validation`.
    Raises FileNotFoundError, InputError.
    """
    name, root = str(name_or_folder), Path(root)
    if is_folder(name):
        path = own_file(name, split)
        if path is None:
            raise FileNotFoundError(f"{Path(name, split)}.jsonl: not there; a dataset is "
                                    f"{', '.join(MARKERS)}, or a folder with train.jsonl and "
                                    "test.jsonl")  # fmt: skip
        return read_lines(path, own_example)
    path, llm = root / name / f"{name}_{split}.json", root / name / "llm"
    if not path.exists() and name == "toy":
        write_toy(root)
    elif not path.exists():
        download_sets(path, root)
    lines = read_lines(path, lambda line: input_and_label(name, line))
    raw, files = [], 0
    while (part := llm / f"{split}_CoT_{files}.json").exists():
        texts = parse(read_text(part), part)
        good = isinstance(texts, list) and all(map(is_text, texts))
        check(good, f"{part}: expected a JSON array of texts, found {texts!r:.60}")
        raw += texts
        files += 1
    check(len(raw) == len(lines), f"{llm}: {len(raw)} teacher's texts in {files} files "
          f"{split}_CoT_*.json, expected {len(lines)}, one for each line of {path}")  # fmt: skip
    return [Example(*line, *parse_teacher(name, text)) for line, text in zip(lines, raw)]


def digest(examples):
    """The sha256 of a list of examples: of all their fields, in order."""
    fields = json.dumps([vars(example) for example in examples])
    return hashlib.sha256(fields.encode()).hexdigest()


# ------------------------------------------------------------------------------------------------
# splits

def train_and_valid(name_or_folder, root="datasets", fraction=1.0, seed=0):
    """What a run trains on and what it chooses its weights by -> two lists of examples."""
    train = whole = load(name_or_folder, "train", root)
    if fraction != 1:  # the whole set keeps its order, so every seed has the same validation set
        train = subsample(train, fraction, seed)
    own = is_folder(name_or_folder) and own_file(name_or_folder, "valid")
    if own or name_or_folder in ("esnli", "anli1"):
        valid = load(name_or_folder, "valid", root)
    else:
        train, valid = split_validation(train)
    check(train, f"{name_or_folder}: expected examples to train on, found {len(whole)} in all, "
                 "of which none is left")  # fmt: skip
    return train, valid


def subsample(examples, fraction, seed):
    """Drop the first ceil((1 - fraction) n) of a seeded order; keep the rest in that order."""
    check(0 < fraction <= 1, f"the share of the training set to keep: expected more than 0 and at "
                             f"most 1, found {fraction}")  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[math.ceil((1 - fraction) * len(order)) :]]


def split_validation(examples, seed=0):
    """(train, valid): the first ceil(n / 10) of a seeded order validate; both keep that order."""
    order = np.random.default_rng(seed).permutation(len(examples))
    cut = math.ceil(0.1 * len(order))
    return [examples[i] for i in order[cut:]], [examples[i] for i in order[:cut]]


# ------------------------------------------------------------------------------------------------
# the equation reader

def evaluate_equation(text):
    """The value of numbers, + - * /, unary minus and brackets, or None where there is none.

    Reads by recursive descent: nothing is executed. At most 256 characters, brackets 32 deep.
    """
    if len(text) > 256 or not text.isascii():
        return None
    tokens = re.findall(r"[0-9]+\.?[0-9]*|\.[0-9]+|\S", text)[::-1]  # the next is the last

    def total(depth):  # product {(+ | -) product}
        value = product(depth)
        while tokens and tokens[-1] in "+-":
            value += product(depth) if tokens.pop() == "+" else -product(depth)
        return value

    def product(depth):  # factor {(* | /) factor}
        value = factor(depth)
        while tokens and tokens[-1] in "*/":
            value = value * factor(depth) if tokens.pop() == "*" else value / factor(depth)
        return value

    def factor(depth):  # number | - factor | ( total )
        token = tokens.pop()
        if token == "-" and depth < 32:
            return -factor(depth + 1)
        if token != "(":
            return float(token)
        value = total(depth + 1) if depth < 32 else math.nan
        return value if tokens.pop() == ")" else math.nan

    try:
        value = total(0)
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) and not tokens else None


def is_correct(answer, label, by_value):
    """Whether an answer is right: equal texts or, by value, equations of equal value."""
    if not by_value:
        return answer == label
    found, expected = evaluate_equation(answer), evaluate_equation(label)
    if found is None or expected is None:
        return False
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)


# ------------------------------------------------------------------------------------------------
# the tokenizer and batches

MAX_SOURCE, MAX_TARGET = 1_024, 256  # ids, as in the released code
MIN_LABEL_LIMIT = 64  # ids that an answer may have, unless a label of the set has more
SENTINELS = 100  # <extra_id_0> to <extra_id_99> follow the pieces in every T5 vocabulary
JOINER = "The answer is"  # between rationale and label in the single sequence


class Tokenizer:
    """sentencepiece, with T5's </s>. Ids are those of transformers' T5 tokenizer (legacy form)."""

    def __init__(self, path):
        path = Path(path)
        if not path.is_file():
            why = "expected a sentencepiece model"
            if (path.parent / "tokenizer.json").is_file():
                why += ", and tokenizer.json is not read: give its spiece.model by --tokenizer FILE"
            raise FileNotFoundError(f"{path}: not there; {why}")
        self.serialized = path.read_bytes()
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_proto=self.serialized)
            ids = [self.pieces.pad_id(), self.pieces.eos_id(), self.pieces.unk_id()]
            check(ids == [PAD, EOS, UNK], f"found {ids}")
            self.pieces.id_to_piece(list(range(len(self.pieces))))  # each is UTF-8
        except (RuntimeError, ValueError):  # UnicodeDecodeError is one
            raise InputError(f"{path}: not a T5 vocabulary (sentencepiece; ids 0 <pad>, 1 </s>, "
                             "2 <unk>)") from None  # fmt: skip
        refuse_added_tokens(path.parent, self.pieces)

    def __len__(self):
        return len(self.pieces) + SENTINELS

    def encode(self, text, max_length=None):
        """Text -> ids that end in </s> and number at most max_length. A </s> inside is kept."""
        ids = []
        for part in text.split("</s>"):  # one by one: a list of texts starts a pool of threads
            ids += [*self.pieces.encode(part), EOS]
        return ids if max_length is None else ids[:-1][: max_length - 1] + [EOS]

    def decode(self, ids):
        """Ids -> text, without <pad>, </s>, the sentinels, and white space at the ends."""
        return self.pieces.decode([int(i) for i in ids if EOS < i < len(self.pieces)]).strip()

    def normalise(self, text):
        """The text as a student's exact answer reads: encoded, then decoded."""
        return self.decode(self.encode(text))

    def save(self, folder):
        """Write spiece.model and what transformers' AutoTokenizer needs to give the same ids."""
        config = {
            "tokenizer_class": "T5Tokenizer", "legacy": True, "extra_ids": SENTINELS,
            "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
            "model_max_length": MAX_SOURCE,
        }  # fmt: skip
        text = json.dumps(config, indent=2).encode()
        replace_file(Path(folder) / "spiece.model", lambda file: file.write(self.serialized))
        replace_file(Path(folder) / "tokenizer_config.json", lambda file: file.write(text))


def refuse_added_tokens(folder, pieces=None):
    """Refuse a folder whose files, as transformers writes them, add tokens to T5's own.

    pieces: the folder's sentencepiece model, if it has one; a token that is its piece is accepted.
    """
    names = ("tokenizer_config.json", "tokenizer.json", "added_tokens.json")
    config, fast, added = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in names)
    try:
        tokens = [*config.get("added_tokens_decoder", {}).values(), *fast.get("added_tokens", [])]
        found = {token["content"] for token in tokens} | added.keys()
        found = {t for t in found if not re.fullmatch(r"<pad>|</s>|<unk>|<extra_id_\d\d?>", t)}
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{folder}: expected tokens, each with its content, in "
                         f"{' and '.join(names[:2])}") from None  # fmt: skip
    found = sorted(t for t in found if pieces is None or pieces.piece_to_id(t) == UNK)
    check(not found, f"{folder}: {len(found)} tokens were added to the vocabulary, {found[:9]}, "
                     "which is not supported: choose weights without them")  # fmt: skip


def prompts(text, method):
    """What a method's student reads: for the label and, with two tasks, for the rationale."""
    return [f"predict: {text}", f"explain: {text}"] if method in ("dss", "mi") else [text]


def encode(examples, tokenizer, method, labels="gold"):
    """[(sources, targets)]: an example's ids for each task of the method, the label's first."""
    encoded = []
    for example in examples:
        label = example.label if labels == "gold" else example.llm_label
        targets = [tokenizer.encode(label, MAX_TARGET)]
        if method in ("dss", "mi"):
            targets.append(tokenizer.encode(example.rationale, MAX_TARGET))
        elif method == "single":  # a rationale that is too long loses its end, not the label
            end = tokenizer.encode(f"{JOINER} {label}", MAX_TARGET)
            rationale = tokenizer.encode(example.rationale)[:-1]
            targets = [rationale[: MAX_TARGET - len(end)] + end]
        sources = [tokenizer.encode(text, MAX_SOURCE) for text in prompts(example.input, method)]
        encoded.append((sources, targets))
    return encoded


def losses(examples, tokenizer, method, labels="gold"):
    """What `encode` loses of the examples' texts -> a line for each kind of loss that occurs."""
    label_texts = [e.label if labels == "gold" else e.llm_label for e in examples]
    # with each text: the ids that share its room, of the prompt or, for `single`, of the label
    prompt, ends = len(tokenizer.encode(prompts("", method)[0])) - 1, [0] * len(examples)
    if method == "single":
        ends = [len(tokenizer.encode(f"{JOINER} {label}")) - 1 for label in label_texts]
    kinds = [("inputs", [e.input for e in examples], [prompt] * len(examples), MAX_SOURCE),
             ("rationales", [e.rationale for e in examples], ends, MAX_TARGET),
             ("labels", label_texts, [0] * len(examples), MAX_TARGET)]  # fmt: skip
    lines = []
    for kind, texts, shared, limit in kinds:
        if kind == "rationales" and method == "finetune":
            continue
        ids = [tokenizer.encode(text) for text in texts]
        counts = {
            "are blank": sum(row == [EOS] for row in ids),
            "have characters that the vocabulary lacks": sum(UNK in row for row in ids),
            f"are too long for {limit:,} ids and lose their ends":
                sum(len(row) + n > limit for row, n in zip(ids, shared)),
            "hold </s>, where a student stops":  # but between premise and hypothesis it belongs
                sum(EOS in row[:-1] for row in ids if kind != "inputs"),
        }  # fmt: skip
        lines += [f"{n:,} of {len(texts):,} {kind} {what}" for what, n in counts.items() if n]
    return lines


def check_labels(examples, tokenizer, labels="gold"):
    """Refuse labels that no student could write or tell apart. Raises InputError."""
    texts = {example.label for example in examples}
    if labels == "llm":  # a teacher's white space may vary: only unknown characters matter
        teachers = {example.llm_label for example in examples}
        texts |= {text for text in teachers if UNK in tokenizer.encode(text)}
    read = {}  # what an answer reads as -> the label that it reads as
    for text in sorted(texts):
        check("</s>" not in text, f"the label {text!r:.80} can't be written: </s> ends an answer")
        other = read.setdefault(tokenizer.decode(tokenizer.encode(text, MAX_TARGET)), text)
        check(other == text, f"the labels {other!r:.80} and {text!r:.80} have the same ids in "
              "this vocabulary, so no student can tell them apart: rename one of them in the data")


def label_limit(examples, tokenizer):
    """How many ids an answer may have: as many as the longest label, but 64 to 256."""
    longest = max(len(tokenizer.encode(text)) for text in {e.label for e in examples})
    return min(max(longest, MIN_LABEL_LIMIT), MAX_TARGET)


def pad(rows, width=0):
    """Lists of ids -> (B, T), padded with 0 to the longest, or to `width`."""
    batch = np.full((len(rows), max(width, *map(len, rows))), PAD)
    for row, ids in zip(batch, rows):
        row[: len(ids)] = ids
    return torch.from_numpy(batch)


def collate(batch, device, rank=0, world=1, micro_batch=None, trim=True):
    """Rows of `encode` -> the micro-batches of one process's share of them, and the totals.

    A micro-batch is a pair: sources, (b, S) or (2 b, S), first the rows of the label task, then of
    the rationale task; and targets, a list of (b, T), one for each task. Rows are sorted by the
    length of their last target, then of their source, so that a micro-batch needs little padding.
    It is padded to its own longest row; with trim=False its targets are padded to the longest of
    the whole batch. totals: what the losses are divided by, the numbers of the whole batch, over
    all processes, under the names of `mi_loss.objective`.
    """
    batch = sorted(batch, key=lambda row: (len(row[1][-1]), max(map(len, row[0]))))
    tasks = range(len(batch[0][1]))
    lengths = [[len(targets[task]) for _, targets in batch] for task in tasks]
    totals = dict(zip(("label_tokens", "rationale_tokens"), map(sum, lengths)))
    totals["examples"] = len(batch)
    widths = [0 if trim else max(task) for task in lengths]
    share, micro_batches = batch[rank::world], []
    size = micro_batch or len(share)
    pinned = torch.device(device).type == "cuda"  # from pinned memory a copy runs in the background

    def to_device(ids):
        return (ids.pin_memory() if pinned else ids).to(device, non_blocking=True)

    for first in range(0, len(share), size):
        rows = share[first : first + size]
        sources = pad([sources[task] for task in tasks for sources, _ in rows])
        targets = [pad([targets[task] for _, targets in rows], widths[task]) for task in tasks]
        micro_batches.append((to_device(sources), [to_device(ids) for ids in targets]))
    return micro_batches, totals


def batches(n, batch_size, seed, start=0):
    """Endless arrays of batch_size indices below n, from batch number `start` on.

    They run through one seeded permutation after another, and a batch may span two or more: each
    is full, and depends on the seed and its own number alone.
    """
    for number in itertools.count(start):
        epoch, place = divmod(number * batch_size, n)  # where the batch begins
        epochs = range(epoch, epoch + math.ceil((place + batch_size) / n))
        orders = [np.random.default_rng([seed, e]).permutation(n) for e in epochs]
        yield np.concatenate(orders)[place : place + batch_size]


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
    # sentencepiece makes a piece of what occurs in two contexts: show each word and sign in two
    corpus += [f"{word}( {word})" for word in sorted(set(re.findall(r"\w+|\S", " ".join(corpus))))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, vocab_size=400, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0, minloglevel=2)  # fmt: skip
    replace_file(folder / "spiece.model", lambda file: file.write(model.getvalue()))
    for name, text in reversed(files.items()):  # toy_train.json last: a set that has it is whole
        replace_file(folder / name, lambda file: file.write(text.encode()))


# ------------------------------------------------------------------------------------------------
# published files

GITHUB = "https://github.com"
DSS = "google-research/distilling-step-by-step/raw/ef944263c9ddfd40a9888557f3e7d17513fd1a7e"
DSS_BLOB = "fb9d88a0b44c2daac1ec1639f0bdae993e7e5bcd"  # what git calls datasets.zip
SPIECE_SHA256 = "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86"
PUBLISHED = {  # repository on the hub, revision, weights, and their sha256 if it is known
    "small": ("google-t5/t5-small", "df1b051c49625cf57a3d0d8d3863ed4d13564fe4", "model.safetensors",
              "bd944e5f1b3ad9b70dd9d00010a517059e19265671076b8b0a4a58d9491842bc"),
    "base": ("google-t5/t5-base", "a9723ea7f1b39c1eae772870f3b547bf6ef7e6c1", "model.safetensors",
             "a90903540cc02cbeb7ff9f823f1a80eb778c7e22426a0e620b01c77a5ec8f5b4"),
    "v1_1-small": ("google/t5-v1_1-small", "main", "pytorch_model.bin", None),
    "v1_1-base": ("google/t5-v1_1-base", "b5fc947a416ea3cb079532cb3c2bbadeb7f800fc",
                  "pytorch_model.bin", None),
}  # fmt: skip
MODEL = [  # the files of any model on the hub; where a line names several, the first that exists
    ["config.json"], ["spiece.model", "tokenizer.json"],
    ["model.safetensors", "model.safetensors.index.json",
     "pytorch_model.bin", "pytorch_model.bin.index.json"],
]  # fmt: skip
PATIENCE, PAUSE = 10, 2  # seconds: to wait for a server, and between two tries
SLOWEST = 10_000  # bytes a second, on average, below which a download is given up


def download(url, file, pinned=None):
    """Write the whole content of a url to an open file, in at most three tries, and check it.

    pinned: its sha256, or the 40 digits by which git names it: a sha1 over its size and bytes.
    Raises OSError, or InputError if the checksum differs.
    """
    for tries_left in (2, 1, 0):
        file.seek(0)
        file.truncate()
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                length, began = answer.headers.get("Content-Length"), time.time()
                while block := answer.read1(1 << 20):
                    file.write(block)
                    if time.time() - began > PATIENCE + file.tell() / SLOWEST:
                        raise TimeoutError(f"fewer than {SLOWEST:,} bytes a second came")
                    if sys.stderr.isatty():
                        print(f"{file.tell():,} of {length} bytes", end="\r", file=sys.stderr)
                # without one of these, a file that was cut off would look whole
                can_tell = length or pinned or "Transfer-Encoding" in answer.headers
            if not (can_tell and 0 < file.tell() == int(length or file.tell())):
                raise OSError(f"{file.tell():,} of {length or 'an unknown number of'} bytes came")
            break
        except (OSError, HTTPException, ValueError) as error:  # ValueError: it is not a URL
            if tries_left == 0 or getattr(error, "code", 500) < 500:  # a 404 would stay one
                raise error if isinstance(error, OSError) else OSError(repr(error)) from None
            time.sleep(PAUSE)
    size = file.tell()
    found = hashlib.sha1(b"blob %d\0" % size) if len(pinned or "") == 40 else hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        found.update(block)
    good = pinned in (None, found.hexdigest())
    check(good, f"{url}: its checksum is {found.hexdigest()}, expected {pinned}; it is not kept")
    print(f"{url}: {size:,} bytes", file=sys.stderr)


def download_sets(wanted, root):
    """Write the four released sets below `root`, `wanted` among them, from their archive."""
    url = f"{GITHUB}/{DSS}/datasets.zip"
    # group 1 is the path below `root`: a set's name and a file, whatever folders stand before it
    ours = re.compile(r"(?:.*/)?((\w+)/(?:\2_(?:train|valid|test)|llm/\w+_CoT_\d+)\.json)")
    try:
        os.makedirs(root, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            download(url, file, DSS_BLOB)
            archive = zipfile.ZipFile(file)
            # a set's lines are written after its teacher's texts, so that a set with lines is whole
            for name in sorted(archive.namelist(), key=lambda name: "/llm/" not in name):
                match = ours.fullmatch(name)
                if match and match[2] in MARKERS:
                    os.makedirs((root / match[1]).parent, exist_ok=True)
                    with archive.open(name) as member:
                        replace_file(root / match[1], lambda file: shutil.copyfileobj(member, file))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"no {wanted}, and {url} is unavailable ({error}): give --data-root FOLDER"
                         ", which has the released files, or try `python train.py`, the toy task"
                         ) from None  # fmt: skip
    check(wanted.exists(), f"{wanted}: not there, nor in {url}")


def hub_cache(repository, revision):
    """Where the hub's own client keeps a revision of a repository."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{home}/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    folder = cache / f"models--{repository.replace('/', '--')}"
    branch = folder / "refs" / revision  # of a branch: a file that holds its commit
    return folder / "snapshots" / (branch.read_text().strip() if branch.exists() else revision)


def fetch_hub(repository, revision, folder, names=None, pinned={}):
    """The folder with a repository's files `names` or, if there are no names, with its model.

    It is the hub's cache if that has all of them, else `folder`, with what it lacked downloaded.
    """
    wanted = [[name] for name in names] if names else MODEL
    cache = hub_cache(repository, revision)
    for place in (cache, folder):
        found = [next((n for n in options if (place / n).exists()), None) for options in wanted]
        if all(found) and all((place / file).exists() for file in shards(place / found[-1])):
            return place
    hub = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")

    def fetch(name, needed=True):  # -> whether `folder` has it now
        url = f"{hub}/{repository}/resolve/{revision}/{name}"
        try:
            if not (folder / name).exists():
                if offline:
                    raise OSError("HF_HUB_OFFLINE is set")
                os.makedirs(folder, exist_ok=True)
                replace_file(folder / name, lambda file: download(url, file, pinned.get(name)))
            return True
        except OSError as error:
            if not needed and getattr(error, "code", None) == 404:
                return False
            raise InputError(
                f"{repository}: not a folder, not complete in {cache} or {folder}, and {url} is "
                f"unavailable ({error}): give --weights FOLDER (config.json, weights, "
                "spiece.model), or --from-scratch --tokenizer FILE for random weights"
            ) from None

    if not names:  # optional files, which say whether tokens were added
        for name in ("tokenizer_config.json", "added_tokens.json", "tokenizer.json"):
            fetch(name, needed=False)
    for options in wanted:  # the weights, or their index, last
        for name in options:
            if fetch(name, needed=name == options[-1]):
                break
    for file in shards(folder / name):
        fetch(file)
    return folder


def published(size, names=None, folder="weights"):
    """The folder of a preset's published model, or at least of its files `names`."""
    check(size in PUBLISHED, f"{size} has no published weights: add --from-scratch")
    repository, revision, weights, sha256 = PUBLISHED[size]
    names = names or ["config.json", "spiece.model", weights]
    pinned = {"spiece.model": SPIECE_SHA256, weights: sha256}
    return fetch_hub(repository, revision, Path(folder) / size, names, pinned)


def is_hub_name(name):  # OWNER/NAME, and no file or folder here
    return not Path(name).exists() and bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)))


def find_weights(name_or_folder, folder="weights"):
    """The folder of a T5: a local one as it is, or a model of the hub by its name, OWNER/NAME."""
    path = Path(name_or_folder)
    if is_hub_name(name_or_folder):
        path = fetch_hub(str(path), "main", Path(folder) / str(path).replace("/", "--"))
    check(path.is_dir(), f"{path}: expected a folder with config.json, weights and spiece.model, "
                         "or a name on the hub, such as google/flan-t5-small")  # fmt: skip
    if not (path / "spiece.model").exists():  # else `Tokenizer` does this
        refuse_added_tokens(path)
    return path
