"""Judge trained students: accuracy, calibration, rationale quality, two runs compared, tables.

    python eval.py runs/toy-tiny-mi-s0                       # accuracy and calibration (Table 6)
    python eval.py runs/toy-tiny-mi-s? --against runs/toy-tiny-dss-s?
    python eval.py runs/toy-tiny-mi-s0 --rationales          # what they contain; --judge: Table 7
    python eval.py runs/toy-tiny-mi-s0 --ask "Anna had 30 pens. Ben gave Anna 12 pens. ..."
    python eval.py --table runs                              # mean and deviation over seeds
    python eval.py EXPORT --dataset svamp --method mi        # a T5 folder train.py did not write

Every interval is a bootstrap over examples (comparing groups of runs, over runs too): the 2.5% and
97.5% points of RESAMPLES resamples.
The confidence of an answer, `--confidence`:
  sequence  the product of the probabilities of the tokens written for it, </s> included
            (`single`: the rationale's too)
  closed    its share when every candidate label of its example (NLI: three, CQA: the five choices)
            is scored by the student; 0 for an answer that is no candidate
Left out: choosing a model by what is measured here. Test is for the last look.
"""

import argparse
import csv
import hashlib
import http.client
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
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

import numpy as np
import torch
import torch.nn.functional as F

import data
import t5
from t5 import InputError

MAX_LABEL, MAX_RATIONALE = 64, 256  # new ids; 64 is the released code's limit
RESAMPLES, PERMUTATIONS = 2_000, 10_000


# ------------------------------------------------------------------------------------------------
# asking the student


def in_batches(rows, size):
    """Indices of `rows` (lists) by length, so that a batch of `size` has little padding."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [order[first : first + size] for first in range(0, len(order), size)]


def write(model, tokenizer, texts, max_new_tokens):
    """What the student writes to each text -> [(text, log-probability)]."""
    device = next(model.parameters()).device
    ids = [tokenizer.encode(text, data.MAX_SOURCE) for text in texts]
    if not ids:
        return []
    out, log_probs = model.generate(data.pad(ids).to(device), max_new_tokens)
    return list(zip(map(tokenizer.decode, out.tolist()), log_probs.double().sum(1).tolist()))


@torch.no_grad()
def score(model, tokenizer, texts, targets):
    """The log-probability that the student writes each target, and </s>, to its text -> [float]."""
    device = next(model.parameters()).device
    sources = [tokenizer.encode(text, data.MAX_SOURCE) for text in texts]
    targets = [tokenizer.encode(target, data.MAX_TARGET) for target in targets]
    scores = [0.0] * len(sources)
    for rows in in_batches(sources, 32):
        source, target = (data.pad([ids[i] for i in rows]).to(device) for ids in (sources, targets))
        logits = model(source, target).float().transpose(1, 2)  # (B, V, T)
        cost = F.cross_entropy(logits, target, ignore_index=0, reduction="none").double()
        for i, value in zip(rows, cost.sum(1).tolist()):
            scores[i] = -value
    return scores


def answer(model, tokenizer, examples, method):
    """The student's answers -> [(answer, rationale, log-probability)].

    The rationale is "" unless the method writes it on the way (`single`); see `explain`.
    """
    texts = [data.prompts(example.input, method)[0] for example in examples]
    length = MAX_RATIONALE if method == "single" else MAX_LABEL
    answers = []
    for text, log_prob in write(model, tokenizer, texts, length):
        rationale, _, label = text.rpartition(data.JOINER) if method == "single" else ("", "", text)
        answers.append((label.strip(), rationale.strip(), log_prob))
    return answers


def explain(model, tokenizer, examples, method, answers):
    """The student's rationales -> [text]: `single` wrote them with its answers, `finetune` none."""
    if method in ("single", "finetune"):
        return [rationale for _, rationale, _ in answers]
    texts = [data.prompts(example.input, method)[1] for example in examples]
    return [text for text, _ in write(model, tokenizer, texts, MAX_RATIONALE)]


def correct(name, tokenizer, examples, answers):
    """Whether each answer is right -> [bool]. Labels are compared as the tokeniser writes them."""
    labels = [tokenizer.decode(tokenizer.encode(example.label)) for example in examples]
    return [data.is_correct(name, found[0], label) for found, label in zip(answers, labels)]


def count_correct(model, tokenizer, examples, name, method):
    """How many of the examples the student answers correctly."""
    return sum(correct(name, tokenizer, examples, answer(model, tokenizer, examples, method)))


def candidates(name, text):
    """The labels that an example of NLI or CQA may have."""
    if name in ("esnli", "anli1"):
        return list(data.NLI_LABELS)
    if name != "cqa":
        raise InputError(f"--confidence closed needs candidate labels, which {name} has not: "
                         "take esnli, anli1 or cqa, or --confidence sequence")
    choices = text.rpartition("Answer Choices:\n")[2]
    return list(dict.fromkeys(row[4:] for row in choices.split("\n")))  # "(a) a zoo" -> "a zoo"


def closed_confidence(model, tokenizer, examples, name, method, answers):
    """`closed` (see the top) of each answer -> [float]. `single` is scored after its rationale."""
    texts, targets, groups = [], [], []
    for example, (_, rationale, _) in zip(examples, answers):
        labels = candidates(name, example.input)
        before = f"{rationale} {data.JOINER} " if method == "single" else ""
        texts += [data.prompts(example.input, method)[0]] * len(labels)
        targets += [before + label for label in labels]
        groups.append([tokenizer.decode(tokenizer.encode(label)) for label in labels])
    scores, shares = iter(score(model, tokenizer, texts, targets)), []
    for (label, _, _), group in zip(answers, groups):
        share = torch.tensor([next(scores) for _ in group], dtype=torch.double).softmax(0).tolist()
        shares.append(sum(p for p, candidate in zip(share, group) if candidate == label))
    return shares


# ------------------------------------------------------------------------------------------------
# statistics


def bin_of(confidence, bins):  # of equal width; an edge is in the upper one, 1.0 in the last
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


def bootstrap(measure, *columns):
    """95% interval of measure(*columns) over resampled rows; columns: arrays of n rows each."""
    rng, n = np.random.default_rng(0), len(columns[0])
    draws = (rng.integers(n, size=n) for _ in range(RESAMPLES))
    return np.quantile([measure(*(c[rows] for c in columns)) for rows in draws], [0.025, 0.975])


def difference_interval(a, b):
    """95% interval of mean(a) - mean(b); (n, runs) judgements of the same n examples.

    Paired: a resample takes the same examples of both. Where there are several runs it draws them
    anew as well, so that the interval is one for other seeds and not only for other examples.
    """
    rng = np.random.default_rng(0)

    def mean(x):
        return x[:, rng.integers(x.shape[1], size=x.shape[1])].mean()

    return bootstrap(lambda x, y: mean(x) - mean(y), a, b)


def mcnemar(a, b):
    """Exact McNemar test of two runs' judgements, n booleans each -> two-sided p.

    Of the examples on which they differ, each run is right on half but for chance.
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


# ------------------------------------------------------------------------------------------------
# rationale quality: what a rationale contains, and what a judge says of it

JUDGED, ASKED = 50, 4  # rationales, and times that each is asked about (self-consistency)
PATIENCE = 60  # seconds for the judge to answer
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


def contains(rationale, label):  # but for case and spaces
    label, rationale = ("".join(text.split()).casefold() for text in (label, rationale))
    return label != "" and label in rationale


def last_result(rationale):
    """The number that follows the last `=` of a rationale, as text; "" where there is none."""
    after = re.match(r"[\s$]*(-?[\d,]*\.?\d+)", rationale.rpartition("=")[2])
    return after[1].replace(",", "") if after and "=" in rationale else ""


def chat_requests(examples, rationales, model):
    """What a judge is asked: [(row of the example, body of a chat request)], ASKED of each row."""
    asked = []
    for row in np.random.default_rng(0).permutation(len(examples))[:JUDGED].tolist():
        example = examples[row]
        text = RUBRIC.format(task=example.input, label=example.label, rationale=rationales[row])
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        asked += [(row, body)] * ASKED
    return asked


def read_replies(path):
    """A file of JSON lines with `request` and `reply` -> {request, as JSON: [reply]}."""
    replies = {}
    for line in data.read_text(path).split("\n"):
        try:
            line = json.loads(line)
            if line["reply"] is not None:
                replies.setdefault(json.dumps(line["request"]), []).append(str(line["reply"]))
        except (ValueError, LookupError, TypeError):
            pass  # half a line, left by a process that was killed: it is asked again
    return replies


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # the key goes to no other host


def post(url, body, key):
    """Send a chat request -> the raw reply. What a second try can mend is tried again."""
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    for pause in (*PAUSES, None):
        try:
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            with urllib.request.build_opener(NoRedirect).open(request, timeout=PATIENCE) as reply:
                return reply.read().decode("utf-8", "replace")
        except (OSError, ValueError, http.client.HTTPException) as error:
            wait, said, again = "", "", not isinstance(error, ValueError)  # ValueError: a bad URL
            if isinstance(error, urllib.error.HTTPError):
                wait, said = error.headers.get("Retry-After", ""), error.read(300).decode("latin1")
                again = error.code in (408, 429) or error.code >= 500
            if not again or pause is None:
                raise InputError(f"{url}: {error} {said}") from None
            time.sleep(min(int(wait), 60) if wait.isdecimal() else pause)


def ask_judge(url, asked, log, key):
    """Append to `log` each request that it has no reply to, with its raw reply."""
    url = url.rstrip("/") + "/chat/completions"
    hidden = lambda text: text.replace(key, "<key>") if key else text
    log.touch()
    had = read_replies(log)
    with open(log, "a", encoding="utf-8") as file:
        for number, (_, body) in enumerate(asked, 1):
            if waiting := had.get(json.dumps(body)):
                waiting.pop()
                continue
            try:
                reply = post(url, body, key)
            except InputError as error:
                raise InputError(f"{hidden(str(error))!r}; the replies so far are in {log}, and "
                                 "the same command asks for the rest") from None
            line = {"request": body, "reply": hidden(reply)}
            # on a line of its own, even after half a line of a process that was killed
            file.write("\n" * (file.tell() > 0) + json.dumps(line))
            file.flush()
            os.fsync(file.fileno())
            if sys.stderr.isatty():
                print(f"\rjudge: {number} of {len(asked)}", end="", file=sys.stderr)


def grade(reply):
    """The 1 to 5 in a reply, raw or its text alone, or None: nothing is guessed."""
    try:
        reply = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        pass
    found = re.findall(r"score\W*([1-5])(?!\d|[.,]\d)", str(reply), re.IGNORECASE)
    found = found or re.findall(r"^\s*([1-5])\.?\s*$", str(reply))
    return int(found[-1]) if found else None


def judge_rationales(student, args):
    """Print a judge's grades of the rationales, Table 7, and what they correlate with, Table 8."""
    examples, model, log = student.examples, args.judge_model, student.run / "judge.jsonl"
    texts = [example.rationale for example in examples]
    asked = chat_requests(examples, texts if args.judge_teacher else student.rationales(), model)
    if "://" in args.judge:
        ask_judge(args.judge, asked, log, "".join(os.environ.get("OPENAI_API_KEY", "").split()))
    elif not (log := Path(args.judge)).exists():
        lines = [json.dumps({"request": body, "reply": None}) + "\n" for _, body in asked]
        t5.replace_file(log, lambda file: file.write("".join(lines).encode()))
        print(f"{log}: {len(lines)} requests. Put a judge's text into each line's `reply`, and "
              "give the same command again.")
        return
    replies, found, grades = read_replies(log), [], {}
    for row, body in asked:
        if waiting := replies.get(json.dumps(body)):  # replies to it that are not yet taken
            found.append(number := grade(waiting.pop(0)))
            if number:
                grades.setdefault(row, []).append(number)
    if not grades:
        raise InputError(f"{log}: expected replies with a score to these requests, found none")
    quality = [statistics.mean(numbers) for numbers in grades.values()]
    within = statistics.mean(statistics.pstdev(numbers) for numbers in grades.values())
    whose = "the teacher's" if args.judge_teacher else student.run
    print(f"{whose}: rationales graded 1 to 5 on {student.name} {args.split}\n"
          f"grade {mean_and_deviation(quality)}; the replies to one deviate by {within:.2f}\n"
          f"replies {len(found)} of {len(asked)}, without a score {found.count(None)}")
    if not args.judge_teacher:
        r, p = pearson(quality, student.right[list(grades)])
        print(f"Pearson correlation of grade and correct answer {r:.2f}, p = {p:.4f}")


# ------------------------------------------------------------------------------------------------
# a student, and what is printed of one, of two groups, of a folder of runs


class Student:
    """A run's folder, or another T5 folder; `answered` adds `examples`, its `answers` to them and
    whether each is `right`."""

    def __init__(self, run, args):
        self.run, self.settings = run, {"data_root": "datasets", "subsample": 1.0, "seed": 0}
        if (path := run / "settings.json").exists():
            self.settings |= read_json(path)
        for key in ("dataset", "method", "data_root"):
            self.settings[key] = getattr(args, key) or self.settings.get(key)
        self.name, self.method = self.settings["dataset"], self.settings["method"]
        self.model = t5.load(run).to(args.device)
        if self.method is None:
            raise InputError(f"{run} has no settings.json, so --method is needed")
        self.tokenizer = data.Tokenizer(run / "spiece.model")
        found = hashlib.sha256(self.tokenizer.serialized).hexdigest()
        if found != self.settings.get("vocabulary", found):
            raise InputError(f"{run / 'spiece.model'}: not the vocabulary that the run was trained "
                             "with, whose sha256 stands in settings.json")

    def answered(self, split):
        if self.name is None:
            raise InputError(f"{self.run} has no settings.json, so --dataset is needed")
        root, fraction, seed = (self.settings[key] for key in ("data_root", "subsample", "seed"))
        if split == "test":
            self.examples = data.load(self.name, split, root)
        else:
            both = data.train_and_valid(self.name, root, fraction, seed)
            self.examples = both[split == "valid"]
        self.answers = answer(self.model, self.tokenizer, self.examples, self.method)
        self.right = np.array(correct(self.name, self.tokenizer, self.examples, self.answers))
        return self

    def rationales(self, rows=None):
        rows = range(len(self.examples)) if rows is None else rows
        chosen = [self.examples[i] for i in rows], self.method, [self.answers[i] for i in rows]
        return explain(self.model, self.tokenizer, *chosen)

    def confidence(self, kind):
        if kind == "closed":
            asked = self.examples, self.name, self.method, self.answers
            return np.array(closed_confidence(self.model, self.tokenizer, *asked))
        return np.exp([log_prob for _, _, log_prob in self.answers])


def read_json(path):
    try:
        return dict(json.loads(Path(path).read_text()))
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected a JSON object, as train.py writes it") from None


def show_samples(model, tokenizer, examples, name, method):
    """Print each example's input, the student's rationale and answer, and the gold label."""
    answers = answer(model, tokenizer, examples, method)
    rationales = explain(model, tokenizer, examples, method, answers)
    right = correct(name, tokenizer, examples, answers)
    for example, (label, _, log_prob), rationale, good in zip(examples, answers, rationales, right):
        print("\n  " + example.input.replace("\n", "\n  "))
        if rationale:
            print(f"  rationale: {rationale}")
        verdict = "right" if good else f"wrong, gold: {example.label}"
        print(f"  answer:    {label}   ({verdict}; confidence {math.exp(log_prob):.2f})")
    print()


def reliability(confidence, right):
    """What a reliability diagram shows: [(tenth, n, average confidence, accuracy)], none empty."""
    where = bin_of(confidence, 10)
    inside = [(b, where == b) for b in range(10)]
    return [(b, i.sum(), confidence[i].mean(), right[i].mean()) for b, i in inside if i.any()]


def plot(bins, title, path):
    """Write a reliability diagram as a picture, of the type that the file's name ends in."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    where, _, confidence, accuracy = zip(*bins)
    pyplot.figure(figsize=(4, 4))
    pyplot.plot([0, 1], [0, 1], ":", color="gray")
    pyplot.bar([b / 10 + 0.05 for b in where], accuracy, 0.09)
    pyplot.plot(confidence, accuracy, "ko", markersize=4)
    pyplot.title(title, fontsize=8)
    pyplot.xlabel("average confidence of a bin")
    pyplot.ylabel("accuracy")
    try:
        pyplot.savefig(path, dpi=150, bbox_inches="tight")
    except ValueError as error:  # a type that matplotlib can't write
        raise InputError(f"--plot {path}: {error}") from None


def report(student, args):
    """Print accuracy and calibration (Table 6), each with its interval, and what was asked for."""
    right, confidence = student.right, student.confidence(args.confidence)
    title = f"{student.run} on {student.name} {args.split}, {len(right):,} examples"
    print(f"{title}\n{'':32}value    95% interval")
    for what, measure in {
        "accuracy, %": lambda c, r: 100 * r.mean(),
        f"average confidence, {args.confidence}, %": lambda c, r: 100 * c.mean(),
        "confidence less accuracy, %": lambda c, r: 100 * (c.mean() - r.mean()),
        "expected calibration error, %": lambda c, r: 100 * expected_calibration_error(c, r),
        "Brier score": lambda c, r: ((c - r) ** 2).mean(),
    }.items():
        value, (low, high) = measure(confidence, right), bootstrap(measure, confidence, right)
        digits = 3 if what == "Brier score" else 2
        print(f"{what:31}{value:7.{digits}f}{low:9.{digits}f} to {high:.{digits}f}")
    if student.name in ("svamp", "toy"):
        bad = sum(data.evaluate_equation(label) is None for label, _, _ in student.answers)
        print(f"answers that have no value {bad:10,}")
    if args.confidence == "closed":
        print(f"answers that are no candidate {(confidence == 0).sum():7,}")
    bins = reliability(confidence, right)
    print("\nconfidence  examples  accuracy  0%  #: accuracy  |: average confidence  100%")
    for b, n, at, accuracy in bins:
        bar, at = f"{'#' * round(40 * accuracy):40}", min(39, int(40 * at))
        bar = f"{bar[:at]}|{bar[at + 1 :]}".rstrip()
        print(f"{b / 10:.1f} to {(b + 1) / 10:.1f}{n:10,}{accuracy:10.1%}  {bar}")
    if args.plot:
        plot(bins, title, args.plot)
    if args.rationales:
        texts, labels = student.rationales(), [label for label, _, _ in student.answers]
        inside = np.mean([contains(text, label) for text, label in zip(texts, labels)])
        print(f"\nrationales with the answer that was given {inside:8.2%}")
        if student.name in ("svamp", "toy"):
            equal = [data.is_correct(student.name, last_result(t), a)
                     for t, a in zip(texts, labels)]  # fmt: skip
            print(f"rationales whose last result is its value {np.mean(equal):8.2%}")
        print(f"rationales that are blank                 {texts.count('') / len(texts):8.2%}")
    show_samples(student.model, student.tokenizer, student.examples[: args.samples], student.name,
                 student.method)  # fmt: skip


def mean_and_deviation(values):
    """The mean ± the sample standard deviation (the number of values)."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} ({len(values)})"


def compare(ours, theirs, count):
    """Print the difference in accuracy of two groups of runs, and examples that tell them apart."""
    if any(student.examples != ours[0].examples for student in ours + theirs):
        raise InputError("the runs are judged on different examples: name one set with --dataset")
    a, b = (np.stack([student.right for student in side], 1) for side in (ours, theirs))
    for letter, right, side in zip("AB", (a, b), (ours, theirs)):
        runs = " ".join(str(student.run) for student in side)
        print(f"{letter}  {mean_and_deviation(100 * right.mean(0))}  {runs}")
    low, high = 100 * difference_interval(a, b)
    print(f"A less B, {len(a):,} examples: {100 * (a.mean() - b.mean()):+.2f} points, "
          f"95% interval {low:+.2f} to {high:+.2f}")
    a, b = a[:, 0], b[:, 0]
    if len(ours) == len(theirs) == 1:
        print(f"only A is right on {(a & ~b).sum()}, only B on {(b & ~a).sum()}: "
              f"exact McNemar p = {mcnemar(a, b):.4f}")
    rows = np.flatnonzero(a != b)[:count].tolist()  # Figures 4, 5
    written = [side[0].rationales(rows) for side in (ours, theirs)]
    width = (min(shutil.get_terminal_size((100, 24)).columns, 160) - 4) // 3
    for i, *rationales in zip(rows, *written):
        example = ours[0].examples[i]
        columns = [["gold", *wrap(example.rationale, width), f"=> {example.label}"]]
        for letter, side, rationale in zip("AB", (ours, theirs), rationales):
            verdict = "right" if side[0].right[i] else "wrong"
            label = wrap(f"=> {side[0].answers[i][0]}", width)
            columns.append([f"{letter}, {verdict}", *wrap(rationale, width), *label])
        print(f"\n[{i}] {example.input}\n")
        for texts in zip_longest(*columns, fillvalue=""):
            print("  ".join(text.ljust(width) for text in texts).rstrip())


METHODS, SETS = ["finetune", "single", "dss", "mi"], ["esnli", "anli1", "cqa", "svamp"]
PAPER = {  # the paper's accuracy in %, one run a cell: size, method[, what differs]: one a set
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
    """The paper's accuracy for these settings, or None. Its runs on a share of the data: none."""
    words = [settings["size"].removeprefix("v1_1-"), settings["method"]]
    words += ["llm"] * (settings["labels"] == "llm")
    if settings["method"] == "mi":
        words += ["mean"] * (settings["reduce"] == "mean") + ["kl"] * (settings["mi"] == "kl")
    found = dict(zip(SETS, PAPER.get(" ".join(words), ())))
    return found.get(settings["dataset"]) if settings["subsample"] == 1 else None


def place(word, order):
    return order.index(word) if word in order else len(order)  # others come last


def table(folder, path=None):
    """Print a folder's finished runs laid out as the paper's tables, in Markdown; to `path` as CSV.

    A row is a size and what else the runs' names say, a column a set; seeds share a cell.
    """
    groups, papers = {}, {}
    for file in sorted(Path(folder).glob("*/metrics.json")):
        settings, metrics = read_json(file.parent / "settings.json"), read_json(file)
        try:
            size, set_ = settings["size"], Path(settings["dataset"]).name
            name = re.sub(r"-s-?\d+$", "", file.parent.name).removeprefix(f"{set_}-{size}-")
            values = 100 * metrics["test_accuracy"], 100 * metrics["test_accuracy_last"]
            papers[size, name, set_] = paper_number(settings)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{file.parent}: not as train.py leaves a run ({error!r})") from None
        groups.setdefault((size, name, set_), []).append(values)
    if not groups:
        raise InputError(f"{folder}: expected finished runs, folders with metrics.json; found none")
    columns = {}  # {(the set's place, set, "" or "the paper's"): {(size, name): cell}}
    for (size, name, s), runs in groups.items():
        cells = {"": mean_and_deviation([best for best, _ in runs])}
        if published := papers[size, name, s]:
            cells["the paper's"] = f"{published:.2f}"
        for paper, cell in cells.items():
            columns.setdefault((place(s, SETS), s, paper), {})[size, name] = cell
    columns = dict(sorted(columns.items()))
    rows = [["size, method", *(paper or s for _, s, paper in columns)]]
    methods = lambda key: (key[0], place(key[1].split("-")[0], METHODS), key[1])  # as Table 1
    for key in sorted({key[:2] for key in groups}, key=methods):
        rows.append([", ".join(key), *(column.get(key, "") for column in columns.values())])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    print("Test accuracy in %, mean ± standard deviation (seeds), best weights on validation.\n")
    for row in rows:
        print("| " + " | ".join(map(str.ljust, row, widths)) + " |")
    if path:
        with open(path, "w", newline="") as file:
            out = csv.writer(file)
            out.writerow("dataset size method seeds accuracy deviation accuracy_last "
                         "deviation_last paper".split())  # fmt: skip
            for (size, name, s), runs in groups.items():
                numbers = []
                for column in zip(*runs):
                    deviation = statistics.stdev(column) if len(column) > 1 else None
                    numbers += [statistics.mean(column), deviation]
                out.writerow([s, size, name, len(runs), *numbers, papers[size, name, s]])


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Judge trained students.")
    parser.add_argument("run", type=Path, nargs="*", help="a run's folder, or another T5 folder")
    add = parser.add_argument_group("what is judged").add_argument
    add("--dataset", help="default: the run's own; anli1 on an e-SNLI run: out of domain, Table 6")
    add("--split", choices=["train", "valid", "test"], default="test")
    add("--data-root", help="default: the run's own")
    add("--method", choices=METHODS, help="how it is asked; default: the run's own")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add = parser.add_argument_group("how").add_argument
    add("--confidence", choices=["sequence", "closed"], default="sequence",
        help="of an answer: its tokens' product, or its share among the candidates")  # fmt: skip
    add("--plot", metavar="FILE", help="the reliability diagram as a picture (needs matplotlib)")
    add("--samples", type=int, default=3, metavar="N", help="examples to print")
    add("--rationales", action="store_true", help="measure what the rationales contain")
    add("--judge", metavar="URL|FILE", help="grade rationales, Tables 7, 8: an OpenAI-compatible "
        "endpoint (https://HOST/v1; its key in OPENAI_API_KEY), or a file: of requests to write, "
        "then of replies to read")  # fmt: skip
    add("--judge-model", default="gpt-4o", metavar="NAME", help="that the endpoint is asked for")
    add("--judge-teacher", action="store_true", help="grade the teacher's rationales instead")
    add = parser.add_argument_group("instead").add_argument
    add("--against", type=Path, nargs="+", metavar="RUN", help="compare RUN or RUNs with these")
    add("--ask", metavar="TEXT", help="answer one text; NLI: 'PREMISE</s>HYPOTHESIS'")
    add("--table", metavar="FOLDER", help="tabulate the finished runs in a folder")
    add("--csv", metavar="FILE", help="with --table: write it as CSV too")
    args = parser.parse_args(argv)
    if bool(args.run) == bool(args.table):
        parser.error("expected runs to judge, or --table FOLDER")
    if (args.plot or args.judge or args.ask) and len(args.run) != 1:
        parser.error("--plot, --judge and --ask take one run")
    return args


def main(argv=None):
    args = parse(argv)
    if args.table:
        return table(args.table, args.csv)
    if args.ask:
        student, examples = Student(args.run[0], args), [data.Example(args.ask, "", "", "")]
        asked = student.model, student.tokenizer, examples, student.method
        answers = answer(*asked)
        [(label, _, log_prob)], [rationale] = answers, explain(*asked, answers)
        print(f"rationale:  {rationale or '-'}")
        print(f"answer:     {label}\nconfidence: {math.exp(log_prob):.2f}")
        return
    if args.against:
        ours, theirs = ([Student(run, args).answered(args.split) for run in runs]
                        for runs in (args.run, args.against))  # fmt: skip
        return compare(ours, theirs, args.samples)
    for run in args.run:
        student = Student(run, args).answered(args.split)
        if args.judge:
            judge_rationales(student, args)
        else:
            report(student, args)


def run_for_user(program, main):
    """Run a script's main -> its exit status. A user's mistake is one line, without a traceback."""
    try:
        return main()
    except BrokenPipeError:  # the reader of what is printed has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (InputError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
    except (RuntimeError, MemoryError) as error:
        if not re.search("out of memory|allocate memory|^$", str(error)):
            raise
        print(f"{program}: out of memory: lower train.py's --micro-batch, or take a smaller "
              "--size, or --device cpu", file=sys.stderr)  # fmt: skip
    return 2


if __name__ == "__main__":
    sys.exit(run_for_user("eval.py", main))
