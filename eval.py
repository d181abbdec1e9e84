"""Evaluate trained students: accuracy, calibration, rationale quality; compare and tabulate runs.

    python eval.py runs/toy-tiny-mi-s0                       # accuracy and calibration (Table 6)
    python eval.py runs/toy-tiny-mi-s? --against runs/toy-tiny-dss-s?
    python eval.py runs/toy-tiny-mi-s0 --rationales          # what they contain; --judge: Table 7
    python eval.py runs/toy-tiny-mi-s0 --ask "Anna had 30 pens. Ben gave Anna 12 pens. ..."
    python eval.py runs/toy-tiny-mi-s0 --predict in.jsonl --to out.jsonl
    python eval.py runs/toy-tiny-mi-s0 --curves -            # its losses, drawn in the terminal
    python eval.py --table runs                              # mean and deviation over seeds
    python eval.py EXPORT --dataset svamp --method mi        # a T5 folder not written by train.py

Confidence, `--confidence sequence`: the product of the probabilities of the answer's tokens, </s>
included (`single`: the rationale's too). `closed`: the answer's share when the student scores every
candidate label of the example (NLI: three, CQA: five, own data: the training labels), else 0.
Not included: choosing a model by what is measured here. The test set is for the last look.
"""

import argparse
import csv
import hashlib
import http.client
import importlib.util
import json
import math
import os
import re
import shutil
import statistics
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from string import ascii_uppercase
from textwrap import wrap
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch
import torch.nn.functional as F

import data
import t5
from t5 import InputError, check

MAX_RATIONALE = t5.MAX_NEW_TOKENS  # ids that a student may write for a rationale
RESAMPLES, PERMUTATIONS = 2_000, 10_000


# ------------------------------------------------------------------------------------------------
# asking the student


class Student(NamedTuple):
    model: t5.T5
    tokenizer: data.Tokenizer
    method: str  # finetune, single, dss or mi
    by_value: bool  # answers are arithmetic and compared by value
    label_limit: int  # ids that it may write for a label


class Answer(NamedTuple):
    text: str
    rationale: str  # of `single`, which writes it with the label; else "", see `explain`
    log_prob: float


def find_device(name=None):
    """The device of this name, never another; None: cuda if there is one, else cpu."""
    found = ["cpu"] + ["mps"] * torch.backends.mps.is_available()
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    name = name or ("cuda" if "cuda" in found else "cpu")
    check(name in found, f"--device {name}: not found here; expected {' or '.join(found)}")
    return torch.device(name)


def decoding_batch(student):  # how many texts it answers at once
    return 512 if next(student.model.parameters()).is_cuda else 64


def generate_text(student, texts, max_new_tokens):
    """What the student writes for each text -> [(text, log-probability)].

    In fp32 without tf32, whatever the precision of training, so that train.py and eval.py agree.
    """
    device = next(student.model.parameters()).device
    sources = [student.tokenizer.encode(text, data.MAX_SOURCE) for text in texts]
    written = [None] * len(texts)
    # texts of similar length are decoded together: little padding
    order = sorted(range(len(texts)), key=lambda i: len(sources[i]))
    size, precision = decoding_batch(student), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    while order:
        rows = order[:size]
        source = data.pad([sources[i] for i in rows]).to(device)
        try:
            ids, log_probs = student.model.generate(source, max_new_tokens)
        except torch.OutOfMemoryError:  # of CUDA: half as many at once
            if len(rows) == 1:
                raise
            size = len(rows) // 2
            continue
        totals = log_probs.cpu().double().sum(1).tolist()
        for i, row, log_prob in zip(rows, ids.tolist(), totals):
            written[i] = student.tokenizer.decode(row), log_prob
        order = order[size:]
    torch.set_float32_matmul_precision(precision)
    return written


def split_answer(student, text):
    """What was written for the first prompt -> (label, rationale); `single` joins the two."""
    if student.method != "single":
        return text, ""
    rationale, _, label = text.rpartition(student.tokenizer.normalise(data.JOINER))
    return label.strip(), rationale.strip()


def answer(student, examples):
    """The student's answers -> [Answer]."""
    texts = [data.prompts(example.input, student.method)[0] for example in examples]
    limit = MAX_RATIONALE if student.method == "single" else student.label_limit
    written = generate_text(student, texts, limit)
    return [Answer(*split_answer(student, text), log_prob) for text, log_prob in written]


def explain(student, examples, answers):
    """The student's rationales -> [str]: `single` wrote them with its answers, `finetune` none."""
    if student.method in ("single", "finetune"):
        return [answer.rationale for answer in answers]
    texts = [data.prompts(example.input, student.method)[1] for example in examples]
    return [text for text, _ in generate_text(student, texts, MAX_RATIONALE)]


def readable_labels(student, examples):
    """The gold labels, each as it reads where a student writes its exact ids -> [str]."""
    joiner = f"{data.JOINER} " if student.method == "single" else ""
    texts = [student.tokenizer.normalise(joiner + example.label) for example in examples]
    return [split_answer(student, text)[0] for text in texts]


def correct(student, examples, answers):
    """Whether each answer is right -> [bool]."""
    labels = readable_labels(student, examples)
    return [data.is_correct(answer.text, label, student.by_value)
            for answer, label in zip(answers, labels)]  # fmt: skip


def candidates(settings, examples):
    """The labels that each example may have -> [list]. Raises InputError if they are unknown."""
    found = []
    for example in examples:
        labels = settings.get("candidates")  # of own data: the training labels
        _, marker, choices = example.input.rpartition("Answer Choices:\n")
        if settings["dataset"] in ("esnli", "anli1"):
            labels = list(data.NLI_LABELS)
        elif settings["dataset"] == "cqa" and marker:  # "(a) a zoo" -> "a zoo"
            labels = list(dict.fromkeys(row[4:] for row in choices.split("\n")))
        check(labels, "--confidence closed: expected candidate labels, found none: NLI, CQA and "
              "runs on own data with at most 20 labels have them (by-value runs have not); use "
              "--confidence sequence")  # fmt: skip
        found.append(labels)
    return found


@torch.no_grad()
def confidences(student, examples, answers, candidates=None):
    """The confidence of each answer -> (n,) array: `sequence`; with candidates `closed`."""
    if candidates is None:
        return np.exp([answer.log_prob for answer in answers])
    model, shares = student.model, []
    device = next(model.parameters()).device
    for example, answer, labels in zip(examples, answers, candidates):
        # `single` scores a label after the rationale that it wrote
        asked = [data.Example(example.input, label, answer.rationale, "") for label in labels]
        rows = data.encode(asked, student.tokenizer, student.method)
        source = data.pad([sources[0] for sources, _ in rows]).to(device)
        target = data.pad([targets[0] for _, targets in rows]).to(device)
        encoded = model.encode(source[:1]).expand(len(rows), -1, -1)  # the rows are equal
        logits = model.logits(model.decode(target, encoded, source)).float()
        loss = F.cross_entropy(logits.mT, target, ignore_index=t5.PAD, reduction="none")
        probabilities = (-loss.sum(1)).softmax(0).tolist()
        written = readable_labels(student, asked)
        shares.append(sum(p for p, label in zip(probabilities, written) if label == answer.text))
    return np.array(shares)


# ------------------------------------------------------------------------------------------------
# statistics


def bin_of(confidence, bins):  # of equal width; an edge belongs to the upper one, 1.0 to the last
    return np.minimum((confidence * bins).astype(int), bins - 1)


def expected_calibration_error(confidence, correct, bins=10):
    """ECE (Guo et al. 2017): the mean over examples of |accuracy - confidence| of their bin.

    confidence: n numbers in [0, 1]; correct: n booleans; `bins` of equal width, an edge in the
    upper one and 1.0 in the last; empty ones cost nothing. -> in [0, 1]. Raises ValueError.
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if confidence.shape != correct.shape or confidence.ndim != 1 or not len(confidence):
        raise ValueError("expected as many confidences as judgements, at least one")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("expected confidences between 0 and 1")
    gaps = np.bincount(bin_of(confidence, bins), correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def wilson(right, n):
    """Wilson's 95% interval of a proportion, `right` of n -> (low, high) in [0, 1]."""
    p, z2 = right / n, 1.959964**2
    centre = p + z2 / (2 * n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))
    low, high = ((centre + half * sign) / (1 + z2 / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def bootstrap(measure, *columns, least=0.0):
    """95% interval of measure(*columns), in [least, 1], over resampled rows -> (low, high).

    columns: arrays of n rows each. Where one of them is constant (all answers are right) or all
    resamples are equal, they can't show what n examples leave open: Wilson's interval is given.
    """
    rng, n = np.random.default_rng(0), len(columns[0])
    draws = (rng.integers(n, size=n) for _ in range(RESAMPLES))
    values = [measure(*(column[rows] for column in columns)) for rows in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    constant = any(column.ndim == 1 and np.all(column == column[0]) for column in columns)
    value = measure(*columns)
    if constant or high - low < 1e-4:
        gain = wilson(max(value, 0) * n, n)
        loss = wilson(max(-value, 0) * n, n) if least < 0 else (0.0, 0.0)
        low, high = gain[0] - loss[1], gain[1] - loss[0]
    return min(low, value), max(high, value)  # resamples of a calibration error lie above it


def difference_interval(a, b):
    """95% interval of mean(a) - mean(b); (n, runs) judgements of the same n examples.

    Paired: a resample takes the same examples of both. Where there are several runs it draws them
    anew as well, so that the interval covers other seeds and not only other examples.
    """
    rng = np.random.default_rng(0)

    def mean(x):
        return x[:, rng.integers(x.shape[1], size=x.shape[1])].mean()

    return bootstrap(lambda x, y: mean(x) - mean(y), a, b, least=-1.0)


def mcnemar(a, b):
    """Exact McNemar test of two runs' judgements, n booleans each -> two-sided p.

    Null hypothesis: of the examples on which they differ, each run is right on half.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def pearson(x, y, seed=0):
    """Pearson's r and its two-sided p by permutation; (nan, 1.0) where either is constant."""
    x, y = (np.asarray(v, float) - np.mean(v) for v in (x, y))
    scale = math.sqrt((x @ x) * (y @ y))
    if scale < 1e-12:
        return math.nan, 1.0
    rng, r = np.random.default_rng(seed), x @ y / scale
    by_chance = np.array([rng.permutation(x) @ y / scale for _ in range(PERMUTATIONS)])
    return r, (1 + (abs(by_chance) >= abs(r) - 1e-12).sum()) / (1 + PERMUTATIONS)


def label_scores(labels, answers):
    """Precision, recall and F1 of each distinct label, sorted, and the confusion counts.

    -> names (k,), an array (k, 3), an array (k, k + 1): a row for the examples of each label, a
    column for each answer, the last one for answers that are no label.
    """
    names = sorted(set(labels))
    counts = np.zeros((len(names), len(names) + 1), int)
    for label, text in zip(labels, answers):
        counts[names.index(label), names.index(text) if text in names else -1] += 1
    hits, answered, present = counts.diagonal(), counts.sum(0)[:-1], counts.sum(1)
    precision, recall = hits / np.maximum(answered, 1), hits / present
    return names, np.stack([precision, recall, 2 * hits / (answered + present)], 1), counts


# ------------------------------------------------------------------------------------------------
# rationale quality: what a rationale contains, and what a judge says of it

JUDGED, ASKED = 50, 4  # rationales, and times that the judge is asked about each (Table 7, ++)
PATIENCE = 180  # seconds for the judge to answer
PAUSES = (1, 2, 4, 8, 16, 32)  # seconds before a request that failed is sent again
RUBRIC = """Below are a task, its correct answer and a rationale that somebody wrote for the task. \
Grade the rationale with one whole number:
1 - it makes no sense, or is about something else
2 - parts of it make sense or belong to the task
3 - it makes sense, but brings a reader no nearer to the answer
4 - it brings a reader somewhat nearer to the answer
5 - it leads a reader to the answer and explains why it is right

Task: {task}
Answer: {label}
Rationale: {rationale}

Think briefly, then end with a line of the form `Score: N`."""

# 12, 3.5, .5, 1,000 and 1 000; not a part of 1,5 or 12:30 or 1.2.3
DIGITS = (
    r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?![,.:'’⁄]?\d|[½⅓⅔¼¾])")  # fmt: skip
# with sign, currency and denominator: -$5, $-5, 3/4
NUMBER = rf"(?<![\w.])(?<!\d[,:/'’⁄])(?:(?<![\w)])-)?[$€£]?-?{DIGITS}(?:/{DIGITS})?(?!/\d)"
WORD = rf"{DIGITS}|[\u0e00-\u0e7f\u3040-\u9fff]|[^\W\d]+|\w|\S"  # Thai, Chinese: by character
# after a number: the rest of an expression, or of 2 1/2, 3x, 1.5e3, 5th
ORDINAL = r"(?:st|nd|rd|th)\b"
GOES_ON = (
    r"\**[ \t]*(?:[-+*/^:x×÷·–][ \t]*[$(]?)?\.?[\d½⅓⅔¼¾]"
    rf"|\)[ \t]*[-+*/^x×÷][ \t]*[\d(]|x\b|[π√²³]|e[-+]?\d|{ORDINAL}")  # fmt: skip


def plain_number(text):  # "-$1,000" -> "-1000"
    return re.sub(r"[$€£, ]", "", text)


def contains(rationale, label):
    """Whether the label stands in the rationale, as whole words and numbers; case is ignored."""
    rationale, label = rationale.replace("−", "-"), label.strip().replace("−", "-")
    value = data.evaluate_equation(plain_number(label)) if re.fullmatch(NUMBER, label) else None
    if value is not None:
        numbers = re.findall(rf"{NUMBER}(?!{ORDINAL})", rationale)
        return value in [data.evaluate_equation(plain_number(number)) for number in numbers]
    texts = []
    for text in (rationale, label):
        tokens = re.findall(WORD, text.casefold())
        tokens = [float(plain_number(t)) if t[-1].isdecimal() else t for t in tokens]
        texts.append(" ".join(map(str, tokens)))
    return texts[1] != "" and f" {texts[1]} " in f" {texts[0]} "


def last_result(rationale):
    """The number that follows the last `=` of a rationale, whole, as text; "" if there is none."""
    _, equals, after = rationale.replace("−", "-").rpartition("=")
    found = re.match(rf"[\s*`]*({NUMBER})(?!{GOES_ON})", after)
    return plain_number(found[1]) if equals and found else ""


def judge_requests(examples, rationales, model):
    """What a judge is asked -> [(row of the example, line in OpenAI's Batch format)].

    ASKED lines for each of JUDGED examples; a custom_id holds a hash of the body, the row and the
    number of the repetition.
    """
    requests = []
    for row in np.random.default_rng(0).permutation(len(examples))[:JUDGED].tolist():
        example = examples[row]
        text = RUBRIC.format(task=example.input, label=example.label, rationale=rationales[row])
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
        for repeat in range(ASKED):
            requests.append((row, {"custom_id": f"{digest}-{row}-{repeat}", "method": "POST",
                                   "url": "/v1/chat/completions", "body": body}))  # fmt: skip
    return requests


def reply_text(reply):
    """The text of a chat reply: an object, its JSON, or the text alone; "" where there is none."""
    try:
        if isinstance(reply, str) and reply.lstrip().startswith("{"):
            reply = json.loads(reply)
        text = reply if isinstance(reply, str) else reply["choices"][0]["message"]["content"]
        return text if isinstance(text, str) else ""
    except (ValueError, RecursionError):  # a text that begins with a bracket
        return reply
    except (LookupError, TypeError):
        return ""


def grade(reply):
    """The score, 1 to 5, of a chat reply (as in `reply_text`), or None: nothing is guessed.

    The score is the last line after any thinking, `Score: N`, or the whole reply is the number.
    """
    *before, last = reply_text(reply).rpartition("</think>")[2].strip().splitlines() or [""]
    word = r"score[\s*_`:=]*" if before else r"(?:score[\s*_`:=]*)?"
    verdict = rf"[\s*_`#>]*{word}([1-5])[\s*_`]*(?:/\s*5)?[\s*_`.]*"
    found = re.fullmatch(verdict, last, re.IGNORECASE)
    return int(found[1]) if found and not any("<think>" in line for line in before) else None


def read_replies(path):
    """A file of Batch lines -> {custom_id: reply}, of the replies that have a text."""
    replies = {}
    for text in data.read_text(path).split("\n"):
        try:
            line = json.loads(text)
            status, reply = line["response"]["status_code"], line["response"]["body"]
            cut = isinstance(reply, dict) and reply["choices"][0].get("finish_reason") == "length"
            if status == 200 and reply_text(reply).strip() and not (cut and grade(reply) is None):
                replies[line["custom_id"]] = reply
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass  # a request, or half a line of a process that was killed
    return replies


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # the key goes to no other host


def post(url, body, key):
    """Send a chat request -> the reply, an object. Failures that may pass are tried again."""
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    for pause in (*PAUSES, None):  # None: this try is the last
        wait = ""
        try:
            with urllib.request.build_opener(NoRedirect).open(request, timeout=PATIENCE) as answer:
                found = answer.read().decode("utf-8", "replace")
            reply = dict(json.loads(found))
            if isinstance(reply.get("choices"), list) and not reply.get("error"):
                return reply
            error = reply.get("error", reply)  # sent with status 200: its own code counts
            code = str(error.get("code", "")) if isinstance(error, dict) else ""
        except urllib.error.HTTPError as error:
            found, code = f"{error} {error.read(300).decode('latin1')}", str(error.code)
            wait = error.headers.get("Retry-After", "")
        except (OSError, ValueError, TypeError, RecursionError, http.client.HTTPException) as error:
            found, code = repr(error), "503"
        if pause is None or not re.fullmatch("408|429|5..", code):
            raise InputError(f"{url}: expected a chat reply, found {found:.300}")
        time.sleep(min(int(wait), 60) if wait.isdecimal() else pause)


def ask_judge(url, requests, path):
    """Send each request whose reply is not in `path` yet; append it there with its reply."""
    parts, key = urlsplit(url), "".join(os.environ.get("OPENAI_API_KEY", "").split())
    route = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    path.touch()
    replies = read_replies(path)
    with open(path, "a", encoding="utf-8") as file:
        if data.read_text(path)[-1:] not in ("", "\n"):  # a process was killed while it wrote
            file.write("\n")
        for number, (_, request) in enumerate(requests, 1):
            if request["custom_id"] in replies:
                continue
            try:
                body = post(parts._replace(path=route).geturl(), request["body"], key)
            except InputError as error:
                why = repr(str(error)).replace(key or "<key>", "<key>")
                raise InputError(f"{why}; the replies so far are in {path}, and the same command "
                                 "asks for the rest") from None
            line = request | {"response": {"status_code": 200, "body": body}, "error": None}
            file.write(json.dumps(line).replace(key or "<key>", "<key>") + "\n")
            file.flush()
            if sys.stderr.isatty():
                print(f"\rjudge: {number} of {len(requests)}", end="", file=sys.stderr)


def judge_rationales(run, args):
    """Print a judge's grades of the rationales, Table 7, and their correlations, Table 8."""
    student, examples, path = run.student, run.examples, Path(args.judge)
    rationales = [example.rationale for example in examples]
    if not args.judge_teacher:
        answers = answer(student, examples)
        rationales = explain(student, examples, answers)
        right = np.array(correct(student, examples, answers))
    model = args.judge_model or "gpt-4o"
    requests = judge_requests(examples, rationales, model)
    if "://" in args.judge:
        path = run.path / "judge.jsonl"
        ask_judge(args.judge, requests, path)
    elif not path.exists():
        lines = "".join(json.dumps(request) + "\n" for _, request in requests)
        t5.replace_file(path, lambda file: file.write(lines.encode()))
        print(f"{path}: {len(requests)} requests in OpenAI's Batch format. Have them answered, as "
              f"by `vllm run-batch -i {path} -o replies.jsonl --model {model}`, then give the same "
              "command with --judge replies.jsonl")  # fmt: skip
        return
    replies, grades = read_replies(path), {}
    for row, request in requests:
        if request["custom_id"] in replies:
            grades.setdefault(row, []).append(grade(replies[request["custom_id"]]))
    scores = {row: [n for n in found if n] for row, found in grades.items() if any(found)}
    count = sum(map(len, grades.values()))
    check(scores, f"{path}: expected replies with a score to these requests (the same run, --split "
          f"and --judge-model), found {count} replies and no score")  # fmt: skip
    print_losses(run)
    whose = "the teacher's" if args.judge_teacher else run.path
    print(f"{whose}: rationales graded 1 to 5 on {run.settings['dataset']} {args.split}")
    for name, quality in [
        ("plain: the first score alone", [numbers[0] for numbers in scores.values()]),
        ("++: the mean of all replies", [statistics.mean(numbers) for numbers in scores.values()]),
    ]:
        print(f"{name:29} grade {mean_and_deviation(quality)}")
        if not args.judge_teacher:
            r, p = pearson(quality, right[list(scores)])
            print(f"{'':29} Pearson correlation with a right answer {r:.2f}, p = {p:.4f}")
    spread = statistics.mean(statistics.pstdev(numbers) for numbers in scores.values())
    print(f"replies {count} of {len(requests)}, without a score "
          f"{count - sum(map(len, scores.values()))}; the replies to one deviate by {spread:.2f}")


# ------------------------------------------------------------------------------------------------
# a run, and what is printed of it: report, comparison, predictions, curves, tables


class Run(NamedTuple):
    path: Path
    settings: dict
    student: Student
    examples: list  # that it is judged on


def open_run(path, args):
    """Load a run's folder, or another T5 folder, and the examples that it is judged on -> Run."""
    settings = {"data_root": "datasets", "subsample": 1.0, "seed": 0}
    if (path / "settings.json").exists():
        settings |= t5.read_json(path / "settings.json")
    trained_on = settings.get("dataset")
    if args.dataset and data.is_folder(args.dataset):  # as train.py writes it
        args.dataset = os.path.abspath(args.dataset)
    for name in ("dataset", "method", "data_root"):
        settings[name] = getattr(args, name) or settings.get(name)
    dataset, root, split = settings["dataset"], settings["data_root"], args.split
    known = settings if dataset == trained_on else {}  # settings that hold for this set
    if not known and not data.is_folder(dataset):
        settings["candidates"] = None
    begun = "it has no weights yet: finish it with train.py's --resume"
    check((path / "config.json").exists(), f"{path}: expected a run's folder, or another with a "
          f"T5: {begun if (path / 'state.pt').exists() else 'no config.json is there'}")
    model = t5.load(path).to(find_device(args.device))
    check(settings["method"], f"{path} has no settings.json, so --method is needed")
    vocabulary = args.tokenizer or path / "spiece.model"
    tokenizer = data.Tokenizer(vocabulary)
    digest = hashlib.sha256(tokenizer.serialized).hexdigest()
    check(settings.get("vocabulary", digest) == digest, f"{vocabulary}: not the vocabulary that "
          "the run was trained with, whose sha256 stands in settings.json")  # fmt: skip
    check(len(tokenizer.pieces) <= model.config.vocab_size, f"{vocabulary}: more pieces than the "
          f"{model.config.vocab_size:,} rows of the model's embedding")  # fmt: skip
    by_value = args.by_value or known.get("by_value", data.by_value(dataset))
    limit = settings.get("label_limit", data.MIN_LABEL_LIMIT)
    student = Student(model, tokenizer, settings["method"], by_value, limit)
    if args.ask is not None or args.predict is not None:
        return Run(path, settings, student, [])

    check(dataset, f"{path} has no settings.json, so --dataset is needed")
    if split == "test":
        examples = data.load(dataset, split, root)
    else:
        both = data.train_and_valid(dataset, root, settings["subsample"], settings["seed"])
        examples = both[split == "valid"]
    digest = data.digest(examples)
    if settings.get(f"{split}_examples") == digest:  # the run's own set, though its folder moved
        by_value = args.by_value or settings.get("by_value", by_value)
    elif known.get(f"{split}_examples", digest) != digest:
        print(f"{path}: its {split} examples have changed since it was trained")
    if not by_value:
        data.check_labels(examples, tokenizer)
    if args.confidence == "closed":
        candidates(settings, examples)
    limit = max(limit, data.label_limit(examples, tokenizer))
    return Run(path, settings, student._replace(by_value=by_value, label_limit=limit), examples)


def print_losses(run):
    for line in data.losses(run.examples, run.student.tokenizer, run.student.method):
        print(f"data: {line}")


def show_samples(student, examples):
    """Print each example's input, the student's rationale and answer, and the gold label."""
    answers = answer(student, examples)
    rationales, right = explain(student, examples, answers), correct(student, examples, answers)
    for i, example in enumerate(examples):
        print("\n  " + example.input.replace("\n", "\n  "))
        if rationales[i]:
            print(f"  rationale: {rationales[i]}")
        verdict = "right" if right[i] else f"wrong, gold: {example.label}"
        confidence = math.exp(answers[i].log_prob)
        print(f"  answer:    {answers[i].text}   ({verdict}; confidence {confidence:.2f})")
    print()


def save_picture(path, xlabel, panels):
    """Write a picture of panels, three a row, each a title and {name of a line: (x, y)}."""
    from matplotlib.figure import Figure

    columns, rows = min(3, len(panels)), math.ceil(len(panels) / 3)
    figure = Figure(figsize=(5 * columns, 4 * rows), layout="tight")
    for place, (title, lines) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        for name, (x, y) in lines.items():
            axes.plot(x, y, ".-", label=name)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel(xlabel, fontsize=8)
    figure.axes[0].legend(fontsize=6)
    figure.savefig(path, dpi=150)


def print_reliability(confidence, right, title, path):
    """The reliability diagram as text, and as a picture if `path` is not None."""
    place, averages, accuracies = bin_of(confidence, 10), [], []
    print("\nconfidence  examples  accuracy  0%  #: accuracy  |: average confidence  100%")
    for b in sorted(set(place.tolist())):
        inside = place == b
        average, accuracy = confidence[inside].mean(), right[inside].mean()
        bar, at = f"{'#' * round(40 * accuracy):40}", min(39, int(40 * average))
        bar = f"{bar[:at]}|{bar[at + 1 :]}".rstrip()
        print(f"{b / 10:.1f} to {(b + 1) / 10:.1f}{inside.sum():10,}{accuracy:10.1%}  {bar}")
        averages.append(average)
        accuracies.append(accuracy)
    if path:
        lines = {"accuracy of a bin": (averages, accuracies), "calibrated": ([0, 1], [0, 1])}
        save_picture(path, "average confidence of a bin", [(title, lines)])


def print_label_scores(labels, answers):
    names, scores, counts = label_scores(labels, answers)
    numbers = "".join(f"{number:6}" for number in range(1, len(names) + 1))
    print(f"\n{'label':25}precision  recall      F1 answered{numbers}  none")
    for i, name in enumerate(names):
        shares = "".join(f"{100 * share:8.2f}" for share in scores[i])
        row = "".join(f"{count:6}" for count in counts[i])
        print(f"{i + 1:2} {' '.join(name.split()):23.22}{shares}         {row}")
    print(f"macro-F1, %{100 * scores[:, 2].mean():39.2f}")


def report(run, args):
    """Print accuracy and calibration (Table 6), each with its interval, and what was asked for."""
    student, examples, n = run.student, run.examples, len(run.examples)
    answers = answer(student, examples)
    right = np.array(correct(student, examples, answers))
    closed = candidates(run.settings, examples) if args.confidence == "closed" else None
    confidence = confidences(student, examples, answers, closed)
    measures = [
        ("confidence minus accuracy, %", 100, -1.0, lambda c, r: c.mean() - r.mean()),
        ("expected calibration error, %", 100, 0.0, expected_calibration_error),
        ("Brier score", 1, 0.0, lambda c, r: ((c - r) ** 2).mean()),
    ]
    rows = [("accuracy, %", 100, right.mean(), *wilson(right.sum(), n)),
            (f"average confidence, {args.confidence}, %", 100, confidence.mean(),
             *bootstrap(np.mean, confidence))]  # fmt: skip
    for name, scale, least, measure in measures:
        interval = bootstrap(measure, confidence, right, least=least)
        rows.append((name, scale, measure(confidence, right), *interval))
    title = f"{run.path} on {run.settings['dataset']} {args.split}, {n:,} examples"
    print_losses(run)
    print(f"{title}\n{'':33}value    95% interval")
    for name, scale, *numbers in rows:
        value, low, high = (f"{scale * x:.{2 if scale == 100 else 4}f}" for x in numbers)
        print(f"{name:31}{value:>7}{low:>9} to {high}")
    print("Intervals: accuracy, Wilson; the others, bootstrap over examples (Wilson where "
          "judgements or confidences are all equal).")  # fmt: skip
    if student.by_value:
        bad = sum(data.evaluate_equation(answer.text) is None for answer in answers)
        print(f"answers that have no value {bad:11,}")
    if args.confidence == "closed":
        print(f"answers that are no candidate {(confidence == 0).sum():8,}")
    print_reliability(confidence, right, title, args.plot)
    labels = readable_labels(student, examples)
    if len(set(labels)) <= 20 and not student.by_value:
        print_label_scores(labels, [answer.text for answer in answers])
    if args.rationales:
        texts = explain(student, examples, answers)
        inside = [contains(text, answer.text) for text, answer in zip(texts, answers)]
        print(f"\nrationales with the answer that was given {np.mean(inside):8.2%}")
        if student.by_value:
            equal = [data.is_correct(last_result(text), answer.text, True)
                     for text, answer in zip(texts, answers)]  # fmt: skip
            print(f"rationales whose last result is its value {np.mean(equal):8.2%}")
        print(f"the student's rationales that are blank   {texts.count('') / n:8.2%}")
    show_samples(student, examples[: args.samples])


def deviation(values):  # of a sample; None of a single value
    return statistics.stdev(values) if len(values) > 1 else None


def mean_and_deviation(values):
    """The mean ± the sample standard deviation (the number of values)."""
    spread = f" ± {deviation(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"


def compare(ours, theirs, count):
    """Print the difference in accuracy of two groups of runs, and examples that tell them apart."""
    runs, examples = [*ours, *theirs], ours[0].examples
    check(all(run.examples == examples for run in runs),
          "the runs are judged on different examples: name one set with --dataset")
    check(len({run.student.by_value for run in runs}) == 1,
          "some of the runs compare answers by value and some as text: give --by-value")
    print_losses(runs[0])
    answers = [answer(run.student, examples) for run in runs]
    right = np.stack([correct(run.student, examples, found)
                      for run, found in zip(runs, answers)], 1)  # fmt: skip
    a, b = right[:, : len(ours)], right[:, len(ours) :]
    for letter, side, group in (("A", a, ours), ("B", b, theirs)):
        paths = " ".join(str(run.path) for run in group)
        print(f"{letter}  {mean_and_deviation(100 * side.mean(0))}  {paths}")
    low, high = difference_interval(a, b)
    print(f"A minus B, {len(a):,} examples: {100 * (a.mean() - b.mean()):+.2f} points, "
          f"95% interval {100 * low:+.2f} to {100 * high:+.2f}")
    if len(runs) == 2:
        print(f"only A is right on {(a & ~b).sum()}, only B on {(b & ~a).sum()}: "
              f"exact McNemar p = {mcnemar(a, b):.4f}")
    width = (min(shutil.get_terminal_size((100, 24)).columns, 160) - 4) // 3
    for i in np.flatnonzero(a[:, 0] != b[:, 0])[:count].tolist():  # Figures 4, 5
        print(f"\n[{i}] {examples[i].input}\n")
        columns = [["gold", *wrap(examples[i].rationale, width), f"=> {examples[i].label}"]]
        for letter, place in (("A", 0), ("B", len(ours))):
            found = answers[place][i]
            [rationale] = explain(runs[place].student, [examples[i]], [found])
            columns.append([f"{letter}, {'right' if right[i, place] else 'wrong'}",
                            *wrap(rationale, width), *wrap(f"=> {found.text}", width)])
        for texts in zip_longest(*columns, fillvalue=""):
            print("  ".join(text.ljust(width) for text in texts).rstrip())


def answer_lines(run, lines, kind):
    """Lines of `input` -> the same with `answer`, `rationale` and `confidence`."""
    examples = [data.Example(line["input"], "", "", "") for line in lines]
    closed = candidates(run.settings, examples) if kind == "closed" else None
    answers = answer(run.student, examples)
    rationales = explain(run.student, examples, answers)
    shares = confidences(run.student, examples, answers, closed)
    # where the vocabulary can't write a label, the label itself stands for how it reads
    known = [data.Example("", label, "", "") for label in run.settings.get("candidates") or []]
    labels = dict(zip(readable_labels(run.student, known), (e.label for e in known)))
    texts = [labels.get(found.text, found.text) for found in answers]
    return [line | {"answer": texts[i], "rationale": rationales[i],
                    "confidence": float(shares[i])} for i, line in enumerate(lines)]  # fmt: skip


def line_to_answer(line):
    """A line of --predict's file: its own fields of the names that are added get another."""
    data.text_of(line, "input")
    for name in ("answer", "rationale", "confidence"):
        if name in line:
            other = f"input_{name}"
            while other in line:
                other = f"input_{other}"
            line = {other if key == name else key: value for key, value in line.items()}
    return line


def predict(run, source, target, kind):
    """Write each line of `source` to `target` with the student's answer, batch by batch.

    What an interrupted command wrote is kept, except for half a line: its lines must be those of
    `source`, and its last batch, which is computed again, must be the same.
    """
    lines = data.read_lines(source, line_to_answer)
    starts, n = [json.dumps(line)[:-1] for line in lines], len(lines)
    if kind == "closed":
        candidates(run.settings, [data.Example(line["input"], "", "", "") for line in lines])
    content = target.read_bytes() if target.exists() else b""
    *done, half = content.decode(errors="replace").split("\n")
    ours = len(done) <= n and all(map(str.startswith, done, starts))
    # half a line is ours if it is shorter than its line would be, or goes on with our fields
    start = f'{starts[len(done)]}, "answer": ' if len(done) < n else ""
    check(ours and half[: len(start)] == start[: len(half)], f"{target}: holds other lines than "
          f"those of {source}; name another file with --to")  # fmt: skip
    if len(done) == n:
        print(f"{target}: all {n:,} lines of {source} are there already")
        return
    size, began = decoding_batch(run.student), time.time()
    begin = max(0, len(done) - 1) // size * size
    with open(target, "ab") as file:
        for first in range(begin, n, size):
            answered = answer_lines(run, lines[first : first + size], kind)
            texts, kept = [json.dumps(line) for line in answered], done[first : first + size]
            check(texts[: len(kept)] == kept, f"{target}: holds the answers of another student, or "
                  "from another device; name another file with --to")  # fmt: skip
            if first == begin:  # half a line goes only when the whole ones are known to be ours
                file.truncate(content.rfind(b"\n") + 1)
            file.write("".join(f"{text}\n" for text in texts[len(kept) :]).encode())
            file.flush()
            end = first + len(texts)
            left = timedelta(seconds=int((time.time() - began) / (end - begin) * (n - end)))
            print(f"{target}: {end:,} of {n:,} lines, {left} left", file=sys.stderr)


def ask(run, text, kind):
    """Print the student's rationale and answer for a text; `-` is standard input."""
    text = sys.stdin.read().strip() if text == "-" else text
    check(text, "--ask -: expected a text on standard input, found none")
    check(data.is_text(text), f"--ask: expected UTF-8, found {text!r:.60}")
    [line] = answer_lines(run, [{"input": text}], kind)
    print(f"rationale:  {line['rationale'] or '-'}\nanswer:     {line['answer']}\n"
          f"confidence: {line['confidence']:.2f}")


CURVES = "loss prediction generation mi validation_mi validation_accuracy".split()
SPANS = 72  # of steps: a curve's points are averages over them


def read_curve(log, name, last):
    """A term's values in a run's log -> (steps, averages), at most SPANS of each."""
    spans = {}
    for record in log:
        if record.get(name) is not None:
            spans.setdefault((record["step"] - 1) * SPANS // last, []).append(record[name])
    steps = [(span + 0.5) * last / SPANS for span in spans]
    return steps, [statistics.fmean(values) for values in spans.values()]


def print_curves(title, curves, last, height=10):
    """Draw curves as text, a letter each."""
    values = [value for _, curve in curves for value in curve]
    low, high = min(values), max(values)
    rows = [[" "] * SPANS for _ in range(height)]
    for letter, (steps, curve) in zip(ascii_uppercase, curves):
        for step, value in zip(steps, curve):
            row = round((high - value) / (high - low or 1) * (height - 1))
            rows[row][int(step * SPANS / last)] = letter
    print(f"\n{title}")
    for edge, row in zip([f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"], rows):
        print(f"{edge:>10} |{''.join(row)}".rstrip())
    print(f"{'step 1':>18}{last:{SPANS - 6},}")


def check_step(record):
    check(isinstance(record.get("step"), int), "expected a number as 'step', as train.py logs it")
    return record


def draw_curves(runs, path):
    """Draw each of CURVES against the steps, the runs over one another: a picture, or (-) text."""
    check(path != "-" or len(runs) <= 26, "--curves -: expected at most 26 runs, a letter each")
    logs = [data.read_lines(run / "log.jsonl", check_step) for run in runs]
    last, panels = max(log[-1]["step"] for log in logs), []
    for name in CURVES:
        curves = [read_curve(log, name, last) for log in logs]
        if any(steps for steps, _ in curves):
            panels.append((name, curves))
    if path != "-":
        names = [str(run) for run in runs]
        panels = [(title, dict(zip(names, curves))) for title, curves in panels]
        return save_picture(path, "step", panels)
    for letter, run in zip(ascii_uppercase, runs):
        print(f"{letter}  {run}")
    for title, curves in panels:
        print_curves(title, curves, last)
    print("\nLosses in nats, accuracy as a share; where curves meet, the last letter is shown.")


METHODS, SETS = ["finetune", "single", "dss", "mi"], ["esnli", "anli1", "cqa", "svamp"]
PAPER = {  # the paper's accuracy in %: size, method[, what differs]: one a set
    "base finetune": (88.38, 43.58, 62.19, 62.63),  # Table 1
    "base single": (88.88, 43.50, 61.37, 63.00),
    "base dss": (89.51, 49.58, 63.29, 65.50),
    "base mi": (89.50, 51.20, 63.88, 68.00),
    "small finetune": (82.90, 42.00, 43.16, 45.00),  # Table 2
    "small dss": (83.43, 42.90, 43.24, 48.00),
    "small mi": (83.23, 43.70, 43.90, 52.50),
    "base dss llm": (82.65, 42.80),  # Table 3
    "base mi llm": (82.81, 45.50),
    "base mi mean": (89.34, 51.40, 63.88, 66.50),  # Table 4
    "base mi kl": (89.42, 42.00, 62.49, 67.00),  # Table 5
}


def paper_number(settings):
    """The paper's accuracy for these settings, or None if they are not the paper's."""
    if settings["subsample"] != 1 or settings["from_scratch"] or settings["alpha3"] != 0.1:
        return None
    words = [settings["size"].removeprefix("v1_1-"), settings["method"]]
    words += ["llm"] * (settings["labels"] == "llm")
    if settings["method"] == "mi":
        words += ["mean"] * (settings["reduce"] == "mean") + ["kl"] * (settings["mi"] == "kl")
    found = dict(zip(SETS, PAPER.get(" ".join(words), ())))
    return found.get(settings["dataset"])


def read_result(run):
    """A finished run's folder -> what the tables show of it."""
    settings, metrics = t5.read_json(run / "settings.json"), t5.read_json(run / "metrics.json")
    try:
        dataset, size = settings["dataset"], settings["size"]
        method = re.sub(r"-s-?\d+$", "", run.name)
        # a folder of data is titled by its name and a hash of its path, which the run's name keeps
        own = re.escape(Path(dataset).name) + r"(?:\.\w{6})?"
        named = re.fullmatch(f"({own})-{re.escape(size)}-(.*)", method)
        title, method = named.groups() if named else (data.title(dataset), method)
        return {"dataset": title, "size": size, "method": method, "paper": paper_number(settings),
                "accuracy": 100 * metrics["test_accuracy"],
                "accuracy_last": 100 * metrics["test_accuracy_last"]}  # fmt: skip
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{run}: not as train.py leaves a run ({error!r})") from None


def paper_order(result):  # of a table's rows: a size, and a method with what else its name says
    method = result["method"].split("-")[0]
    place = METHODS.index(method) if method in METHODS else len(METHODS)
    return result["size"], place, result["method"]


def table(folder, path=None):
    """Print a folder's finished runs laid out as the paper's tables, in Markdown; to `path` as CSV.

    A row is a size and a method, a column a set; the seeds share a cell.
    """
    results = [read_result(file.parent) for file in sorted(Path(folder).glob("*/metrics.json"))]
    check(results, f"{folder}: expected finished runs, folders with metrics.json; found none")
    found = {result["dataset"] for result in results}
    datasets = [name for name in SETS if name in found] + sorted(found - set(SETS))
    published = {result["dataset"] for result in results if result["paper"]}
    lines, cells = [["size, method"]], []
    for dataset in datasets:
        lines[0] += [dataset] + ["the paper's"] * (dataset in published)
    for row in sorted({paper_order(result) for result in results}):
        size, _, method = row
        lines.append([f"{size}, {method}"])
        for dataset in datasets:
            seeds = [r for r in results if paper_order(r) == row and r["dataset"] == dataset]
            best, last = ([r[name] for r in seeds] for name in ("accuracy", "accuracy_last"))
            paper = seeds[0]["paper"] if seeds else None
            lines[-1].append(mean_and_deviation(best) if seeds else "")
            if dataset in published:
                lines[-1].append(f"{paper:.2f}" if paper else "")
            if seeds:
                cells.append({
                    "dataset": dataset, "size": size, "method": method, "seeds": len(seeds),
                    "accuracy": statistics.mean(best), "deviation": deviation(best),
                    "accuracy_last": statistics.mean(last), "deviation_last": deviation(last),
                    "paper": paper})  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines)]
    print("Test accuracy in %, mean ± standard deviation (seeds), best weights on validation; the "
          "paper's numbers are of its own settings.\n")
    for line in [lines[0], ["-" * width for width in widths], *lines[1:]]:
        print("| " + " | ".join(map(str.ljust, line, widths)) + " |")
    if path:
        with open(path, "w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, cells[0])
            out.writeheader()
            out.writerows(cells)


# ------------------------------------------------------------------------------------------------
# the command line


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):  # without the usage
        self.exit(2, f"{self.prog}: {message}\n")


def parse(argv=None):
    about = "Evaluate trained students: by default, accuracy and calibration on the test set."
    parser = OneLineParser(prog="eval.py", description=about)
    parser.add_argument("run", type=Path, nargs="*", help="a run's folder, or another T5 folder")
    add = parser.add_argument_group("what is judged").add_argument
    add("--dataset", metavar="NAME|FOLDER",
        help="default: the run's own; anli1 on an e-SNLI run: out of domain, Table 6")
    add("--split", choices=["train", "valid", "test"], default="test", help="default: test")
    add("--data-root", metavar="FOLDER", help="of the released sets; default: the run's own")
    add("--method", choices=METHODS, help="how the student is asked; default: the run's own")
    add("--by-value", action="store_true",
        help="compare answers as arithmetic, by value; default: as in the run's training")
    add("--tokenizer", metavar="FILE", help="a spiece.model; default: the one in the folder")
    add("--device", help="cpu, cuda, cuda:N or mps; default: cuda if there is one, else cpu")
    add = parser.add_argument_group("the report").add_argument
    add("--confidence", choices=["sequence", "closed"], default="sequence",
        help="of an answer, 0 to 1: the product of its tokens' probabilities (default), or its "
             "share among the candidate labels (NLI, CQA, own data with at most 20 labels)")
    add("--samples", type=int, default=3, metavar="N", help="examples to print; default: 3")
    add("--rationales", action="store_true", help="measure what the rationales contain")
    add("--plot", metavar="FILE", help="the reliability diagram as a picture (needs matplotlib)")
    group = parser.add_argument_group("in place of the report, one of")
    add = group.add_mutually_exclusive_group().add_argument
    add("--against", type=Path, nargs="+", metavar="RUN",
        help="compare RUN or RUNs with these; print --samples examples on which they differ")
    add("--ask", metavar="TEXT",
        help="answer one text, or standard input (-); NLI: 'PREMISE</s>HYPOTHESIS'")
    add("--predict", metavar="FILE", help="answer the `input` of each line of a JSON-lines file")
    add("--judge", metavar="URL|FILE",
        help="have rationales graded 1 to 5 by a language model, Tables 7 and 8: through an "
             "OpenAI-compatible endpoint (https://HOST/v1; key in OPENAI_API_KEY), or by files: a "
             "new .jsonl gets requests in OpenAI's Batch format, a file of replies is read")
    add("--curves", metavar="FILE", help="draw losses and validation accuracy against the steps: "
        "a picture (needs matplotlib), or text in the terminal (-)")
    add("--table", metavar="FOLDER", help="tabulate the finished runs in a folder")
    add = parser.add_argument_group("with these").add_argument
    add("--to", metavar="FILE",
        help="of --predict: gets its lines with `answer`, `rationale`, `confidence` (own fields of "
             "these names become `input_...`); after a stop the same command goes on")
    add("--judge-model", metavar="NAME", help="of --judge: the model asked; default: gpt-4o")
    add("--judge-teacher", action="store_true", help="of --judge: grade the teacher's rationales")
    add("--csv", metavar="FILE", help="of --table: write it as CSV too")
    args = parser.parse_args(argv)

    one = args.plot or args.judge or args.predict is not None or args.ask is not None
    modes = args.against, args.ask, args.predict, args.judge, args.curves, args.table
    for wrong, message in [
        (bool(args.run) == (args.table is not None),
         "expected runs to judge, or --table FOLDER, and not both"),
        (one and len(args.run) != 1, "--plot, --judge, --predict and --ask take one run"),
        (args.samples < 0, f"--samples: expected 0 or more, found {args.samples}"),
        (args.ask is not None and not args.ask.strip(), "--ask: expected a text, found none"),
        ((args.predict is None) != (args.to is None), "--predict and --to need each other"),
        ((args.plot or args.rationales) and any(mode is not None for mode in modes),
         "--plot and --rationales belong to the report, which another flag replaces"),
        (args.csv and args.table is None, "--csv needs --table"),
        ((args.judge_model or args.judge_teacher) and args.judge is None,
         "--judge-model and --judge-teacher need --judge"),
    ]:  # fmt: skip
        if wrong:
            parser.error(message)
    return args


def check_places(args):
    """Refuse, before anything is computed, a URL that is none and files that can't be written."""
    url = re.fullmatch(r"https?://([\w.-]+|\[[\da-f:]+\])(:\d+)?([/?]\S*)?", args.judge or "")
    file = "://" not in (args.judge or "") and Path(args.judge or "").suffix in (".jsonl", ".json")
    check(args.judge is None or url or file, f"--judge {args.judge}: expected a URL, as "
          "https://HOST/v1, or a .jsonl file")  # fmt: skip
    for flag in ("plot", "curves", "to", "csv", "judge"):
        path = getattr(args, flag)
        if path is None or (flag, path) == ("curves", "-") or (flag == "judge" and url):
            continue
        good = Path(path).absolute().parent.is_dir() and path != "-" and not Path(path).is_dir()
        check(good, f"--{flag} {path}: expected a file in a folder that is there")
        if flag in ("plot", "curves"):
            advice = "; or draw in the terminal: --curves -" if flag == "curves" else ""
            check(importlib.util.find_spec("matplotlib"),
                  f"--{flag} needs matplotlib: pip install matplotlib{advice}")
            check(path.endswith((".png", ".pdf", ".svg")),
                  f"--{flag} {path}: expected a name that ends in .png, .pdf or .svg")
    check(not args.to or Path(args.to).resolve() != Path(args.predict).resolve(),
          "--to: expected another file than --predict's")


def main(argv=None):
    args = parse(argv)
    check_places(args)
    find_device(args.device)
    if args.table is not None:
        return table(args.table, args.csv)
    if args.curves is not None:
        return draw_curves(args.run, args.curves)
    runs = [open_run(path, args) for path in [*args.run, *(args.against or [])]]
    if args.against:
        return compare(runs[: len(args.run)], runs[len(args.run) :], args.samples)
    if args.judge is not None:
        return judge_rationales(runs[0], args)
    if args.predict is not None:
        return predict(runs[0], Path(args.predict), Path(args.to), args.confidence)
    if args.ask is not None:
        return ask(runs[0], args.ask, args.confidence)
    for run in runs:
        report(run, args)


def run_for_user(program, main):
    """Run a script's main -> its exit status. A user's mistake is one line, without a traceback."""
    try:
        return main()
    except BrokenPipeError:  # the reader of what is printed has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return 130
    except (InputError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
    except (RuntimeError, MemoryError) as error:
        if "Connection closed by peer" in str(error):  # another process ended, and has said why
            return 1
        if not re.search("out of memory|allocate memory|^$", str(error)):
            raise
        print(f"{program}: out of memory: lower train.py's --micro-batch, or take a smaller "
              "--size, or --device cpu", file=sys.stderr)  # fmt: skip
    return 2


if __name__ == "__main__":
    sys.exit(run_for_user("eval.py", main))
