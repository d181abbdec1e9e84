"""The data: the four released sets of Distilling Step-by-Step, a user's own, and the toy task.

Hsieh et al. 2023 (arXiv 2305.02301) released texts, labels and a teacher's raw answers for e-SNLI,
ANLI (round 1), CQA and SVAMP. Here: download, parse, split, tokenise, batch; the rules that decide
a result are those of the released code, checked on its files in `tests/test_data.py`.

Letters: B batch, S source length, T target length. Ids: 0 <pad>, 1 </s>, 2 <unk>.
"""

import fcntl
import hashlib
import http.client
import io
import json
import math
import os
import re
import shutil
import sys
import time
import urllib.request
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch

from t5 import EOS, PAD, InputError, replace_file, unique


@dataclass(frozen=True)
class Example:
    input: str
    label: str  # gold
    rationale: str  # the teacher's
    llm_label: str  # the teacher's; "" where its text could not be parsed


# ------------------------------------------------------------------------------------------------
# the released sets

NLI_LABELS = ("entailment", "neutral", "contradiction")
MARKERS = {  # what the teacher writes between rationale and label, and where its text runs on
    "esnli": ("Answer:", None),
    "anli1": ("So the answer is", "Premise:"),
    "cqa": ("So the answer is", "Q:"),
    "svamp": ("The answer is", "Q:"),
    "toy": ("The answer is", "Q:"),
}


def parse_teacher(name, text):
    """The teacher's raw text -> (rationale, label), each "" where it can't be told."""
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


def expect(what, found, good):
    if not good:
        raise ValueError(f"expected {what}, found {found!r:.60}")
    return found


def is_text(value):  # half a surrogate pair, as a cut-off \\ud83d gives, can't be tokenised
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def text_of(line, field):
    return expect(f"a text as '{field}'", line[field], is_text(line[field]))


def input_and_label(name, line):
    if name in ("esnli", "anli1"):
        label = line["label"]
        expect("0, 1 or 2 as 'label'", label, type(label) is int and 0 <= label <= 2)
        return f"{text_of(line, 'premise')}</s>{text_of(line, 'hypothesis')}", NLI_LABELS[label]
    if name == "cqa":
        choices = line["choices"]
        good = isinstance(choices, list) and [type(choice) for choice in choices] == [str] * 5
        expect("5 texts as 'choices'", choices, good)
        rows = [f"({letter}) {choice}" for letter, choice in zip("abcde", choices)]
        text = "\n".join([text_of(line, "question"), "Answer Choices:", *rows])
        return text, text_of(line, "answer")
    return text_of(line, "input"), text_of(line, "label")


def own_example(line):  # of a user's own data
    texts = [text_of(line, field) for field in ("input", "label", "rationale")]
    return Example(*texts, text_of(line, "llm_label") if "llm_label" in line else "")


def read_text(path):
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: expected UTF-8, found another encoding") from None


def parse(text):
    try:
        return json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected JSON ({error})") from None


def read_lines(path, make):
    """A file of JSON lines -> what `make` makes of each line's object."""
    rows = []
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if text.strip():
            try:
                line = parse(text)
                rows.append(make(expect("an object", line, isinstance(line, dict))))
            except (ValueError, KeyError) as error:
                why = f"expected a field {error}" if isinstance(error, KeyError) else error
                raise InputError(f"{path}, line {number}: {why}; it begins {text[:40]!r}") from None
    if not rows:
        raise InputError(f"{path}: expected lines of JSON, found none")
    return rows


def read_array(path):
    text = read_text(path)
    try:
        texts = parse(text)
        return expect("texts", texts, isinstance(texts, list) and all(map(is_text, texts)))
    except ValueError as error:
        raise InputError(f"{path}: not a JSON array of texts: {error}") from None


def load(name_or_folder, split, root="datasets"):
    """The examples of a set's split, in the order of its file.

    A name of a released set (files below `root`, downloaded if they are not there), `toy` (written
    there), or a folder with train.jsonl, test.jsonl and perhaps valid.jsonl, whose lines hold
    `input`, `label`, `rationale` and perhaps `llm_label` (else ""). split: train, valid or test; a
    set without a valid file has none: see `split_validation`. Raises FileNotFoundError, InputError.
    """
    name, root = str(name_or_folder), Path(root)
    if name not in MARKERS:
        path = Path(name) / f"{split}.jsonl"
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there; a dataset is {', '.join(MARKERS)}, "
                                    "or a folder with train.jsonl and test.jsonl")  # fmt: skip
        return read_lines(path, own_example)
    path = root / name / f"{name}_{split}.json"
    if not path.exists() and name == "toy":
        write_toy(root)
    elif not path.exists():
        download_sets(path, root)
    lines = read_lines(path, lambda line: input_and_label(name, line))
    llm, raw, files = root / name / "llm", [], 0
    while (part := llm / f"{split}_CoT_{files}.json").exists():
        raw += read_array(part)
        files += 1
    if len(raw) != len(lines):
        raise InputError(f"{llm}: {len(raw)} teacher texts in {files} files "
                         f"{split}_CoT_*.json, expected {len(lines)}, one a line of {path}")
    return [Example(*line, *parse_teacher(name, text)) for line, text in zip(lines, raw)]


def train_and_valid(name_or_folder, root="datasets", fraction=1.0, seed=0):
    """What a run trains on and what it chooses its weights by -> two lists of examples."""
    train = whole = load(name_or_folder, "train", root)
    if fraction != 1:  # the whole set keeps its order, and so the same tenth validates every seed
        train = subsample(train, fraction, seed)
    if name_or_folder in ("esnli", "anli1") or Path(name_or_folder, "valid.jsonl").exists():
        valid = load(name_or_folder, "valid", root)
    else:
        train, valid = split_validation(train)
    if not train:
        raise InputError(f"{name_or_folder}: expected examples to train on, found {len(whole)} "
                         "in all, of which none is left")
    return train, valid


def subsample(examples, fraction, seed):
    """Drop the first ceil((1 - fraction) n) of a seeded order; keep the rest in that order."""
    if not 0 < fraction <= 1:
        raise InputError(f"the share of the training set to keep must be in (0, 1], not {fraction}")
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[math.ceil((1 - fraction) * len(order)) :]]


def split_validation(examples, seed=0):
    """(train, valid): the first ceil(n / 10) of a seeded order validate; both keep that order."""
    order = np.random.default_rng(seed).permutation(len(examples))
    cut = math.ceil(0.1 * len(order))
    return [examples[i] for i in order[cut:]], [examples[i] for i in order[:cut]]


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


def is_correct(name, answer, label):
    """SVAMP and toy: equal values. The other sets: equal texts."""
    if name not in ("svamp", "toy"):
        return answer == label
    found, expected = evaluate_equation(answer), evaluate_equation(label)
    if found is None or expected is None:
        return False
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)


# ------------------------------------------------------------------------------------------------
# published files

GITHUB = "https://github.com"
DSS = "google-research/distilling-step-by-step/raw/ef944263c9ddfd40a9888557f3e7d17513fd1a7e"
DSS_BLOB = "fb9d88a0b44c2daac1ec1639f0bdae993e7e5bcd"  # what git calls datasets.zip
SPIECE_SHA256 = "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86"
PUBLISHED = {  # size: repository on the hub @ revision, weights, their sha256 or None
    "small": (
        "google-t5/t5-small@df1b051c49625cf57a3d0d8d3863ed4d13564fe4", "model.safetensors",
        "bd944e5f1b3ad9b70dd9d00010a517059e19265671076b8b0a4a58d9491842bc"),
    "base": (
        "google-t5/t5-base@a9723ea7f1b39c1eae772870f3b547bf6ef7e6c1", "model.safetensors",
        "a90903540cc02cbeb7ff9f823f1a80eb778c7e22426a0e620b01c77a5ec8f5b4"),
    "v1_1-small": ("google/t5-v1_1-small@main", "pytorch_model.bin", None),
    "v1_1-base": (
        "google/t5-v1_1-base@b5fc947a416ea3cb079532cb3c2bbadeb7f800fc", "pytorch_model.bin", None),
}  # fmt: skip


PATIENCE = 10  # seconds for a server to answer, and for each 16 KB of the answer
PAUSES = (1, 2, 4)  # seconds before a download whose connection was lost is tried again
UNPACKED = 2 * 10**9  # bytes that an archive may hold


def receive(url, file, pinned):
    """Append to `file` what it lacks of the url's content, by one request."""
    had = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"Range": f"bytes={had}-"} if had else {})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        headers, length = answer.headers, answer.headers.get("Content-Length")
        if answer.status != 206:  # what comes is the whole
            file.seek(0)
            file.truncate()
        elif not headers.get("Content-Range", "").startswith(f"bytes {had}-"):
            raise ConnectionError(f"asked for bytes {had}-, got {headers.get('Content-Range')}")
        if not (pinned or length or "Transfer-Encoding" in headers):  # cut, it would look whole
            raise ConnectionError("it comes without a length, and no checksum is known")
        mark = start = file.tell()
        size = start + int(length) if length else None
        began = alive = shown = time.time()
        while block := answer.read1(1 << 20):
            file.write(block)
            done, now = file.tell(), time.time()
            if done - mark >= 1 << 14:
                mark, alive = done, now
            elif now - alive > PATIENCE:
                raise TimeoutError(f"fewer than 16 KB came in {PATIENCE} seconds")
            if sys.stderr.isatty() and now - shown > 0.2:
                shown, rate = now, (done - start) / (now - began) / 1e6
                line = f"{done / 1e6:.1f} of {(size or 0) / 1e6:.1f} MB, {rate:.1f} MB/s"
                print(f"\r{file.name}: {line}", end="", file=sys.stderr)
    if file.tell() == 0 or size not in (None, file.tell()):
        raise ConnectionError(f"{file.tell():,} bytes came of {size or 'some'}")


def download(url, path, digest):
    """Download to `path`, whole and checked, or leave nothing there.

    What comes before a connection is lost waits in `path`.part for the next try or call, which
    asks for the rest; without a checksum only for the next try, as it may be of another version.
    """
    part = f"{path}.part"
    with open(part, "a+b" if digest else "w+b") as file:
        for pause in (*PAUSES, None):  # None: this try was the last
            began, had = time.time(), file.seek(0, os.SEEK_END)
            try:
                receive(url, file, digest)
                break
            except (OSError, http.client.HTTPException, ValueError) as error:
                code = getattr(error, "code", 400 if isinstance(error, ValueError) else 500)
                size = file.seek(0, os.SEEK_END)
                silent = size == had and time.time() - began >= PATIENCE
                if pause is None or silent or code < 500 and code != 416:
                    if not (digest and size):
                        os.remove(part)
                    # repr: what is no HTTP may be of several lines
                    raise error if isinstance(error, OSError) else OSError(repr(error)) from None
                if code == 416:  # the server has no such bytes: begin again
                    file.truncate(0)
            time.sleep(pause)
        found, size = hashlib.sha256(), file.seek(0, os.SEEK_END)
        if digest and len(digest) == 40:
            found = hashlib.sha1(b"blob %d\0" % size)
        file.seek(0)
        while block := file.read(1 << 20):
            found.update(block)
        if digest and found.hexdigest() != digest:
            os.remove(part)
            raise InputError(f"{url}: the checksum is {found.hexdigest()}, expected {digest}; "
                             "nothing is kept")  # fmt: skip
        os.fsync(file.fileno())
    os.replace(part, path)
    print(f"{path}: {size:,} bytes from {url}", file=sys.stderr)


@contextmanager
def alone(folder):
    """Of the processes that come with the same folder, one at a time goes on; the others wait."""
    os.makedirs(folder, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def fetch(url, path, digest=None):
    """Download to `path`, if another process does not, or leave nothing there.

    digest: a sha256, or the 40 digits that git names the file by (a sha1 of its size and bytes).
    Raises OSError, InputError.
    """
    with alone(Path(path).parent):
        if not Path(path).exists():
            download(url, path, digest)


def unpack(archive, root):
    """Write the archive's sets below `root`, if all of it is sound. Raises what zipfile does."""
    ours = re.compile(r"(?:.*/)?((\w+)/(?:\2_(?:train|valid|test)|llm/\w+_CoT_\d+)\.json)")
    with zipfile.ZipFile(archive) as bundle:
        members = bundle.infolist()
        # the pinned checksum lets nothing else in: this is for the day that the pin is changed
        for name in (member.filename for member in members):
            parts = re.split(r"[/\\]", name)
            expect("members below its own folder", name, parts[0] and ".." not in parts)
        size = sum(member.file_size for member in members)
        expect(f"at most {UNPACKED:,} bytes unpacked", size, size <= UNPACKED)
        expect("members with their checksums", bad := bundle.testzip(), bad is None)
        # a set's lines after its teacher texts: where the lines are, the texts are too
        for member in sorted(members, key=lambda m: "/llm/" not in m.filename):
            match = ours.fullmatch(member.filename)
            if match and match[2] in MARKERS:
                target = Path(root) / match[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(member) as source:
                    replace_file(target, lambda file: shutil.copyfileobj(source, file))


def download_sets(wanted, root):
    """Fetch the archive of the four released sets and unpack it below `root`."""
    url, archive = f"{GITHUB}/{DSS}/datasets.zip", Path(root) / "datasets.zip"
    with alone(root):
        if wanted.exists():  # another process was faster
            return
        try:
            download(url, archive, DSS_BLOB)
        except OSError as error:
            raise InputError(
                f"no {wanted}, and {url} can't be had ({error}). Go on with --data-root FOLDER "
                "where the released files are, or with `python train.py`, the toy task") from None
        try:
            unpack(archive, root)
        except Exception as error:  # whatever a damaged archive makes zipfile meet, or a full disk
            raise InputError(f"{url}: can't be unpacked: {error!r}; it is not kept") from None
        finally:
            archive.unlink()
    if not wanted.exists():
        raise FileNotFoundError(f"{wanted}: not in {url}")


def published(size, names=None, folder="weights"):
    """The folder with a published model's config.json, weights and spiece.model.

    A copy in the hub's cache is used first; else they are downloaded to `folder`/`size`.
    `names`: the files that are needed, if not all three.
    """
    source, weights, sha256 = PUBLISHED[size]
    repository, revision = source.split("@")
    names = names or ["config.json", "spiece.model", weights]
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = Path(home) / "hub" / f"models--{repository.replace('/', '--')}"
    branch = cache / "refs" / revision  # of a branch: a file that holds its commit
    cached = cache / "snapshots" / (branch.read_text().strip() if branch.exists() else revision)
    if all((cached / name).exists() for name in names):
        return cached
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    for name in names:
        path, url = Path(folder) / size / name, f"{hub}/{repository}/resolve/{revision}/{name}"
        try:
            if not path.exists():
                fetch(url, path, {weights: sha256, "spiece.model": SPIECE_SHA256}.get(name))
        except OSError as error:
            raise InputError(
                f"no {name} of {repository} in {cached} or {path.parent}, and {url} can't be had "
                f"({error}). Go on with --weights FOLDER (config.json, weights, spiece.model), or "
                "with random weights: --from-scratch --tokenizer FILE (a spiece.model)"
            ) from None
    return Path(folder) / size


# ------------------------------------------------------------------------------------------------
# ids and batches

MAX_SOURCE, MAX_TARGET = 1_024, 256  # ids, as in the released code
SENTINELS = 100  # <extra_id_0> to <extra_id_99> follow the pieces in every T5 vocabulary
JOINER = "The answer is"  # between rationale and label in the single sequence


class Tokenizer:
    """sentencepiece, with T5's </s>. Ids are those of transformers' T5 tokenizer (legacy form)."""

    def __init__(self, path):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: not there; expected a sentencepiece model")
        self.serialized = Path(path).read_bytes()
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_proto=self.serialized)
            ids = [self.pieces.pad_id(), self.pieces.eos_id(), self.pieces.unk_id()]
            expect("0 <pad>, 1 </s>, 2 <unk>", ids, ids == [0, 1, 2])
            self.pieces.id_to_piece(list(range(len(self.pieces))))  # each is UTF-8
        except (RuntimeError, ValueError):  # UnicodeDecodeError is one
            raise InputError(f"{path}: not a T5 vocabulary (sentencepiece; ids 0 <pad>, 1 </s>, "
                             "2 <unk>)") from None  # fmt: skip

    def __len__(self):
        return len(self.pieces) + SENTINELS

    def encode(self, text, max_length=None):
        """Text -> ids that end in </s> and number at most max_length. A </s> inside is kept."""
        first, *others = self.pieces.encode(text.split("</s>"))
        ids = first + [i for part in others for i in (EOS, *part)]
        return ids[: None if max_length is None else max_length - 1] + [EOS]

    def decode(self, ids):
        """Ids -> text, without <pad>, </s> and the sentinels."""
        return self.pieces.decode([int(i) for i in ids if EOS < i < len(self.pieces)])


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
        texts = prompts(example.input, method)
        encoded.append(([tokenizer.encode(text, MAX_SOURCE) for text in texts], targets))
    return encoded


def pad(rows, width=0):
    """Lists of ids -> (B, T), padded with 0 to the longest, or to `width`."""
    batch = np.full((len(rows), max(width, *map(len, rows))), PAD)
    for row, ids in zip(batch, rows):
        row[: len(ids)] = ids
    return torch.from_numpy(batch)


def collate(batch, device, rank=0, world=1, micro_batch=None, trim=True):
    """Rows of `encode` -> the micro-batches of one process's share of them, and the totals.

    A micro-batch: sources (b or 2 b, S), the tasks below one another, and targets, (b, T) for each
    task. Rows of like length come together and each micro-batch is padded to its own longest; with
    trim=False its targets are as wide as the whole batch's. totals: the whole batch's numbers of
    target ids, task by task, and of examples: what the losses are divided by.
    """
    batch = sorted(batch, key=lambda row: len(row[1][-1]))
    tasks = list(zip(*(targets for _, targets in batch)))  # each task's targets
    totals = [sum(map(len, task)) for task in tasks] + [len(batch)]
    widths = [0 if trim else max(map(len, task)) for task in tasks]
    share, micro_batches = batch[rank::world], []
    size = micro_batch or len(share)
    pinned = torch.device(device).type == "cuda"  # its copies then need not be waited for

    def moved(ids):
        return (ids.pin_memory() if pinned else ids).to(device, non_blocking=True)

    for first in range(0, len(share), size):
        # rows of (sources, targets) -> all sources and all targets, each task by task
        sources, targets = (list(zip(*part)) for part in zip(*share[first : first + size]))
        sources = pad([ids for task in sources for ids in task])
        targets = [pad(task, width) for task, width in zip(targets, widths)]
        micro_batches.append((moved(sources), list(map(moved, targets))))
    return micro_batches, totals


def batches(lengths, batch_size, seed, start=0, window=1):
    """Endless arrays of batch_size indices into `lengths`, from batch `start` on.

    One seeded permutation after another, cut into windows of `window` batches that may span two;
    a window's indices are sorted by length, so that a batch holds little padding, and its batches
    shuffled. Each batch is full, and depends on the seed and its number alone.
    """
    n, size = len(lengths), window * batch_size
    for number in range(start // window, sys.maxsize):
        epoch, place = divmod(number * size, n)  # where the window begins
        epochs = range(epoch, epoch + math.ceil((place + size) / n))
        orders = [np.random.default_rng([seed, e]).permutation(n) for e in epochs]
        rows = np.concatenate(orders)[place : place + size]
        rows = rows[np.argsort(np.asarray(lengths)[rows], kind="stable")]
        rows = rows.reshape(window, batch_size)
        rows = np.random.default_rng([seed, number, 1]).permutation(rows)  # the batches' order
        yield from rows[max(0, start - number * window) :]


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
    # a piece must be met in two contexts: show every word and sign in two, so that each is one
    corpus += [f"{word}( {word})" for word in sorted(set(re.findall(r"\w+|\S", " ".join(corpus))))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, vocab_size=400, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0, minloglevel=2)  # fmt: skip
    replace_file(folder / "spiece.model", lambda file: file.write(model.getvalue()))
    for name, text in reversed(files.items()):  # toy_train.json last: where it is, all is
        replace_file(folder / name, lambda file: file.write(text.encode()))
