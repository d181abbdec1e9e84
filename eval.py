"""Evaluate trained students: accuracy, calibration, rationale quality; compare and tabulate runs.

    python eval.py runs/toy-tiny-mi-s0                       # accuracy and calibration (Table 6)
    python eval.py runs/toy-tiny-mi-s0 --plot mi.png         # and its losses, as a picture
    python eval.py runs/toy-tiny-mi-s? --against runs/toy-tiny-dss-s?
    python eval.py runs/toy-tiny-mi-s0 --judge https://api.openai.com/v1     # Tables 7 and 8
    python eval.py runs/toy-tiny-mi-s0 --ask "Anna had 30 pens. Ben gave Anna 12 pens. ..."
    python eval.py runs/toy-tiny-mi-s0 --predict in.jsonl --to out.jsonl
    python eval.py --table runs                              # mean and deviation over seeds
    python eval.py EXPORT --dataset svamp --method mi        # a T5 folder not written by train.py

The confidence of an answer is the product of the probabilities of its tokens, </s> included
(`single`: the rationale's too). Not included: choosing a model by what is measured here. The test
set is for the last look.
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import re
import shlex
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import data
import t5
from t5 import InputError, check

METHODS = ["finetune", "single", "dss", "mi"]
RESAMPLES, PERMUTATIONS = 2_000, 10_000


# ------------------------------------------------------------------------------------------------
# asking the student


class Student(NamedTuple):
    model: t5.T5
    tokenizer: data.Tokenizer
    method: str  # one of METHODS
    by_value: bool  # answers are arithmetic and compared by value
    path: Path = None  # of its folder
    examples: list = []  # that it is judged on
    judged_on: str = ""  # their dataset and split


class Answer(NamedTuple):
    label: str
    rationale: str  # "" where the method writes none, or none was asked for
    confidence: float


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


def show_progress(what, done, total):
    if sys.stderr.isatty():
        print(f"\r{what} {done:,} of {total:,}", end="\n" * (done == total), file=sys.stderr)


def generate_text(student, texts):
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
            ids, log_probs = student.model.generate(source, t5.MAX_TARGET)
        except torch.OutOfMemoryError:  # of CUDA: half as many at once
            if len(rows) == 1:
                raise
            size = len(rows) // 2
            continue
        totals = log_probs.cpu().double().sum(1).tolist()
        for i, row, log_prob in zip(rows, ids.tolist(), totals):
            written[i] = student.tokenizer.decode(row), log_prob
        order = order[size:]
        if len(texts) > size:
            show_progress("decoded", len(texts) - len(order), len(texts))
    torch.set_float32_matmul_precision(precision)
    return written


def split_text(student, text):
    """What was written for the first prompt -> (label, rationale); `single` joins the two."""
    if student.method != "single":
        return text, ""
    rationale, _, label = text.rpartition(student.tokenizer.normalise(data.JOINER))
    return label.strip(), rationale.strip()


def answer_texts(student, texts, explain=True):
    """The student's answers -> [Answer]; without `explain`, two tasks write the label only."""
    asked = [data.prompts(text, student.method) for text in texts]
    written = generate_text(student, [prompts[0] for prompts in asked])
    answers = [Answer(*split_text(student, text), math.exp(log_p)) for text, log_p in written]
    if explain and student.method in ("dss", "mi"):
        written = generate_text(student, [prompts[1] for prompts in asked])
        pairs = zip(answers, written)
        answers = [answer._replace(rationale=text) for answer, (text, _) in pairs]
    return answers


def readable_labels(student, examples):
    """The gold labels, encoded and decoded, as a student's exact answer reads -> [str]."""
    joiner = f"{data.JOINER} " if student.method == "single" else ""
    texts = [student.tokenizer.normalise(joiner + example.label) for example in examples]
    return [split_text(student, text)[0] for text in texts]


def mark_answers(student, examples, answers):
    """Whether each answer is right -> (n,) bool array."""
    pairs = zip(answers, readable_labels(student, examples))
    right = [data.is_correct(answer.label, label, student.by_value) for answer, label in pairs]
    return np.array(right, bool)


# ------------------------------------------------------------------------------------------------
# statistics


def reliability(confidence, right, bins=10):
    """[(lower edge, examples, average confidence, accuracy)] of the bins that hold an example.

    The bins are of equal width; an edge belongs to the upper one, 1.0 to the last.
    """
    numbers, rows = np.minimum((confidence * bins).astype(int), bins - 1), []
    for number in np.unique(numbers):
        inside = numbers == number
        rows.append((number / bins, inside.sum(), confidence[inside].mean(), right[inside].mean()))
    return rows


def expected_calibration_error(confidence, correct, bins=10):
    """ECE (Guo et al. 2017): the mean over examples of |accuracy - confidence| of their bin.

    confidence: n numbers in [0, 1]; correct: n booleans; bins: see `reliability`. -> in [0, 1].
    Raises ValueError.
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if confidence.shape != correct.shape or confidence.ndim != 1 or not len(confidence):
        raise ValueError("expected as many confidences as judgements, at least one")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("expected confidences between 0 and 1")
    rows = reliability(confidence, correct, bins)
    return float(sum(n * abs(average - right) for _, n, average, right in rows) / len(confidence))


def wilson(right, n):
    """Wilson's 95% interval of a proportion, `right` of n -> (low, high) in [0, 1]."""
    p, z2 = right / n, 1.959964**2
    centre = p + z2 / (2 * n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))
    low, high = ((centre + half * sign) / (1 + z2 / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def bootstrap(measure, *columns):
    """95% interval of measure(*columns) over resampled rows; arrays of n rows -> (low, high)."""
    rng, n = np.random.default_rng(0), len(columns[0])
    draws = (rng.integers(n, size=n) for _ in range(RESAMPLES))
    values = [measure(*(column[rows] for column in columns)) for rows in draws]
    return tuple(np.quantile(values, [0.025, 0.975]))


def calibration_interval(confidence, right):
    """95% bootstrap interval of the ECE -> (low, high).

    If all answers are right, or all wrong, or all resamples agree, resampling shows no uncertainty:
    the interval is then widened by that of Wilson for n right answers of n.
    """
    low, high = bootstrap(expected_calibration_error, confidence, right)
    low = min(low, expected_calibration_error(confidence, right))  # most resamples lie above it
    alike = right.all() or not right.any() or high - low < 1e-4
    gap = 1 - wilson(len(right), len(right))[0] if alike else 0.0
    return max(0.0, low - gap), min(1.0, high + gap)


def difference_interval(a, b):
    """95% interval of mean(a) - mean(b); (n, runs) judgements of the same n examples.

    Paired: a resample takes the same examples of both. Where there are several runs it draws them
    anew as well, so that the interval covers other seeds and not only other examples. Two invented
    examples, one that only a gets right and one that only b does, keep it from a width of zero.
    """
    rng = np.random.default_rng(0)
    a_too, b_too = (np.ones((1, x.shape[1]), bool) for x in (a, b))
    more_a, more_b = np.concatenate([a, a_too, ~a_too]), np.concatenate([b, ~b_too, b_too])

    def mean(x):
        return x[:, rng.integers(x.shape[1], size=x.shape[1])].mean()

    return bootstrap(lambda x, y: mean(x) - mean(y), more_a, more_b)


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


def mean_and_deviation(values):
    """The mean ± the sample standard deviation (the number of values)."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"


# ------------------------------------------------------------------------------------------------
# a student's report, the comparison of two groups, the picture


def load_student(path, args):
    """A run's folder, or another T5 folder, and the examples that it is judged on -> Student."""
    settings = {"data_root": "datasets", "subsample": 1.0, "seed": 0}
    if (path / "settings.json").exists():
        settings |= t5.read_json(path / "settings.json")
    begun = "it has no weights yet: finish it with train.py's --resume"
    why = begun if (path / "state.pt").exists() else "no config.json is there"
    check((path / "config.json").exists(), f"{path}: expected a folder with a T5: {why}")
    model = t5.load(path).to(find_device(args.device))
    file = args.tokenizer or path / "spiece.model"
    tokenizer = data.Tokenizer(file, model.config.vocab_size)
    digest = hashlib.sha256(tokenizer.serialized).hexdigest()
    same = settings.get("vocabulary", digest) == digest
    check(same, f"{args.tokenizer or path}: not the vocabulary that the run was trained with")
    dataset = args.dataset or settings.get("dataset")
    method = args.method or settings.get("method")
    check(method, f"{path} has no settings.json, so --method is needed")
    if args.ask is not None or args.predict is not None:
        return Student(model, tokenizer, method, False, path)

    check(dataset, f"{path} has no settings.json, so --dataset is needed")
    root, split = args.data_root or settings["data_root"], args.split
    if split == "test":
        examples = data.load(dataset, split, root)
    else:
        both = data.train_and_valid(dataset, root, settings["subsample"], settings["seed"])
        examples = both[split == "valid"]
    same = settings.get(f"{split}_examples") == data.digest(examples)
    own = same or dataset == settings.get("dataset")  # a folder may have moved
    if own and not same:
        print(f"{path}: its {split} examples have changed since it was trained")
    by_value = args.by_value or (own and settings["by_value"]) or dataset in data.EQUATIONS
    if not by_value:
        data.check_labels(examples, tokenizer)
    return Student(model, tokenizer, method, by_value, path, examples, f"{dataset} {split}")


def print_warnings(student, inputs_alone=False):
    _, lines = data.make_rows(student.examples, student.tokenizer, student.method)
    for line in lines:
        if " inputs " in line or not inputs_alone:
            print(f"{student.judged_on}: {line}")


def show_samples(student, examples):
    """Print each example's input, the student's rationale and answer, and the gold label."""
    answers = answer_texts(student, [example.input for example in examples])
    right = mark_answers(student, examples, answers)
    for example, answer, good in zip(examples, answers, right):
        print("\n  " + example.input.replace("\n", "\n  "))
        if answer.rationale:
            print(f"  rationale: {answer.rationale}")
        verdict = "right" if good else f"wrong, gold: {example.label}"
        print(f"  answer:    {answer.label}   ({verdict}; confidence {answer.confidence:.2f})")
    print()


def report(student, samples):
    """Print accuracy and calibration (Table 6), each with its interval -> the reliability rows."""
    examples, n = student.examples, len(student.examples)
    answers = answer_texts(student, [example.input for example in examples], explain=False)
    right = mark_answers(student, examples, answers)
    confidence = np.array([answer.confidence for answer in answers])
    ece = expected_calibration_error(confidence, right)
    measures = [
        ("accuracy, %", right.mean(), wilson(right.sum(), n)),
        ("average confidence, %", confidence.mean(), bootstrap(np.mean, confidence)),
        ("expected calibration error, %", ece, calibration_interval(confidence, right)),
    ]
    print_warnings(student)
    print(f"{student.path} on {student.judged_on}, {n:,} examples\n{'':33}value    95% interval")
    for name, value, (low, high) in measures:
        print(f"{name:31}{100 * value:7.2f}{100 * low:9.2f} to {100 * high:.2f}")
    print("Intervals: accuracy, Wilson; confidence, bootstrap over examples; calibration, both.")
    if student.by_value:
        bad = sum(data.evaluate_equation(answer.label) is None for answer in answers)
        print(f"answers that have no value {bad:11,}")
    rows = reliability(confidence, right)
    print("\nconfidence  examples  average  accuracy")
    for edge, count, average, accuracy in rows:
        print(f"{edge:.1f} to {edge + 0.1:.1f}{count:10,}{average:9.1%}{accuracy:10.1%}")
    show_samples(student, examples[:samples])
    return rows


def compare(ours, theirs, count):
    """Print the difference in accuracy of two groups of runs, and examples that tell them apart."""
    students, examples = [*ours, *theirs], ours[0].examples
    same = all(student.examples == examples for student in students)
    check(same, "the runs are judged on different examples: name one set with --dataset")
    same = len({student.by_value for student in students}) == 1
    check(same, "some of the runs compare answers by value and some as text: give --by-value")
    print_warnings(students[0])
    texts = [example.input for example in examples]
    answers = [answer_texts(student, texts, explain=False) for student in students]
    marks = [mark_answers(student, examples, found) for student, found in zip(students, answers)]
    right = np.stack(marks, 1)  # (n, runs)
    a, b = right[:, : len(ours)], right[:, len(ours) :]
    for letter, side, group in (("A", a, ours), ("B", b, theirs)):
        paths = " ".join(str(student.path) for student in group)
        print(f"{letter}  {mean_and_deviation(100 * side.mean(0))}  {paths}")
    low, high = difference_interval(a, b)
    difference = f"{100 * (a.mean() - b.mean()):+.2f} points"
    interval = f"95% interval {100 * low:+.2f} to {100 * high:+.2f}"
    print(f"A minus B, {len(a):,} examples: {difference}, {interval}")
    if len(students) == 2:
        wins = f"only A is right on {(a & ~b).sum()}, only B on {(b & ~a).sum()}"
        print(f"{wins}: exact McNemar p = {mcnemar(a, b):.4f}")
    for i in np.flatnonzero(a[:, 0] != b[:, 0])[:count].tolist():  # Figures 4, 5
        print(f"\n[{i}] {examples[i].input}")
        print(f"  gold: {examples[i].rationale} => {examples[i].label}")
        for letter, student, good in (("A", ours[0], a[i, 0]), ("B", theirs[0], b[i, 0])):
            [answer] = answer_texts(student, [examples[i].input])
            verdict = "right" if good else "wrong"
            print(f"  {letter}, {verdict}: {answer.rationale} => {answer.label}")


CURVES = "loss prediction generation mi validation_mi validation_accuracy".split()


def plot_runs(students, reliabilities, path):
    """A row of pictures for each run: its losses, its validation accuracy, its reliability."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5 * len(students)), layout="tight")
    pictures = figure.subplots(len(students), 3, squeeze=False)
    for (losses, accuracy, diagram), student, rows in zip(pictures, students, reliabilities):
        log = student.path / "log.jsonl"
        records = data.read_lines(log, dict) if log.exists() else []
        for name in CURVES:
            points = [(line["step"], line[name]) for line in records if line.get(name) is not None]
            if points:
                axes = accuracy if name == "validation_accuracy" else losses
                axes.plot(*zip(*points), ".-" if "validation" in name else "-", label=name)
                axes.legend(fontsize=6)
        _, _, average, right = zip(*rows)
        diagram.plot([0, 1], [0, 1], "--", average, right, "o-")
        losses.set(title=student.path.name, xlabel="step", ylabel="nats")
        accuracy.set(title="validation accuracy", xlabel="step")
        diagram.set(title=student.judged_on, xlabel="average confidence", ylabel="accuracy")
    figure.savefig(path, dpi=150)


# ------------------------------------------------------------------------------------------------
# rationale quality: what a judge, a language model, says of the rationales (Tables 7 and 8)

JUDGED, ASKED = 50, 4  # rationales, and times that the judge is asked about each (Table 7, ++)
PLACE = r"\{(task|label|rationale)\}"  # of a text in the prompt
# its five levels say in our words what those of the prompt in Table 7 say
RUBRIC = """Below are a task, its correct answer and a rationale that somebody wrote for the task. \
How good is the rationale? Grade it with one whole number:
1 - it makes no sense at all and has nothing to do with the task
2 - parts of it make no sense or have nothing to do with the task
3 - it makes sense and belongs to the task, but does not help to find the answer
4 - it helps somewhat to find the answer
5 - it helps to find the answer and explains it well

Task: {task}
Answer: {label}
Rationale: {rationale}

Think briefly, then end with a line of the form `Score: N`."""


def read_judge_prompt(path):
    """The user's own prompt in place of RUBRIC."""
    prompt = Path(path).read_text("utf-8", "surrogateescape")
    good = data.is_text(prompt) and len({*re.findall(PLACE, prompt)}) == 3
    check(good, f"{path}: expected a text in UTF-8 with {{task}}, {{label}} and {{rationale}}")
    return prompt


def judge_requests(examples, rationales, model, prompt=RUBRIC):
    """What a judge is asked -> ASKED lines in OpenAI's Batch format for each rationale.

    A custom_id holds a hash of the body and the numbers of the rationale and the repetition.
    """
    requests = []
    for number, (example, rationale) in enumerate(zip(examples, rationales)):
        texts = {"task": example.input, "label": example.label, "rationale": rationale}
        text = re.sub(PLACE, lambda place: texts[place[1]], prompt)  # leaves other brackets
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
        request = {"method": "POST", "url": "/v1/chat/completions", "body": body}
        for repeat in range(ASKED):
            requests.append({"custom_id": f"{digest}-{number}-{repeat}"} | request)
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
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
            status, reply = line["response"]["status_code"], line["response"]["body"]
            if status == 200 and reply_text(reply).strip():
                replies[line["custom_id"]] = reply
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass  # a request, or half a line of a process that was killed
    return replies


def why_no_score(path, count, ours):
    """What is wrong with a file of `count` replies, `ours` of them to these requests."""
    if ours:
        return f"no score in {ours} replies: expected `Score: N`, 1 to 5, as their last line"
    if count:
        same = "the same run, --split, --judge-model and --judge-prompt"
        return f"{count} replies, none of them to these requests, which need {same}"
    text = path.read_text("utf-8", "replace")
    error = re.search(r'"(?:message|error|detail)":\s*("(?:[^"\\]|\\.)+")', text)
    if error:
        return f"no reply; the first error is {error[1]:.300}"
    if '"messages"' in text and '"response":' not in text:
        return "these are requests: have them answered, then give the file of the replies"
    return "expected lines in OpenAI's Batch format, found no reply with a text"


def ask_judge(url, requests, path):
    """Send each request whose reply is not in `path` yet; append it there with its reply."""
    import openai

    key = os.environ.get("OPENAI_API_KEY") or "none"  # a local server needs none
    path.touch()
    replies = read_replies(path)
    with open(path, "ab") as file:
        try:
            client = openai.OpenAI(base_url=url, api_key=key, max_retries=6, timeout=180)
            for number, request in enumerate(requests, 1):
                if request["custom_id"] not in replies:
                    reply = client.chat.completions.create(**request["body"]).model_dump()
                    line = request | {"response": {"status_code": 200, "body": reply}}
                    # a line break first: a process that was killed may have left half a line
                    file.write(b"\n" + json.dumps(line).encode())
                    file.flush()
                    show_progress("judged", number, len(requests))
        except Exception as error:  # of openai, of httpx, or of a web page in place of a reply
            why = " ".join(f"{url}: no chat reply: {error} {error.__cause__ or ''}".split())
            rest = f"the replies so far are in {path}: the same command asks for the rest"
            raise InputError(f"{why:.400}; {rest}") from None


def judge_rationales(student, args):
    """Print a judge's grades of the rationales, Table 7, and their correlations, Table 8."""
    prompt = read_judge_prompt(args.judge_prompt) if args.judge_prompt else RUBRIC
    order = np.random.default_rng(0).permutation(len(student.examples))
    examples = [student.examples[i] for i in order[:JUDGED]]
    rationales = [example.rationale for example in examples]
    if not args.judge_teacher:
        answers = answer_texts(student, [example.input for example in examples])
        rationales = [answer.rationale for answer in answers]
        right = mark_answers(student, examples, answers)
    path = Path(args.judge)
    requests = judge_requests(examples, rationales, args.judge_model, prompt)
    if "://" in args.judge:
        path = student.path / "judge.jsonl"
        ask_judge(args.judge, requests, path)
    elif not path.exists():
        path.write_text("".join(json.dumps(request) + "\n" for request in requests))
        command = f"vllm run-batch -i {shlex.quote(str(path))} -o replies.jsonl"
        command += f" --model {shlex.quote(args.judge_model)}"
        print(f"{path}: {len(requests)} requests in OpenAI's Batch format. Have them answered,")
        print(f"as by `{command}`, then repeat the command with --judge replies.jsonl")
        return
    replies = read_replies(path)
    found = [replies.get(request["custom_id"]) for request in requests]
    scores = np.array([grade(reply) or math.nan for reply in found], float).reshape(-1, ASKED)
    rated = np.isfinite(scores).any(1)  # the rationales that have a score
    count = len(found) - found.count(None)
    check(rated.any(), f"{path}: {why_no_score(path, len(replies), count)}")
    scores = scores[rated]
    print_warnings(student)
    whose = "the teacher" if args.judge_teacher else student.path
    print(f"rationales of {whose} on {student.judged_on}, graded 1 to 5")
    first = [row[np.isfinite(row)][0] for row in scores]
    for name, quality in (
        ("plain: the first score", first),
        ("++: the mean", np.nanmean(scores, 1)),
    ):
        print(f"{name:24} grade {mean_and_deviation(quality)}")
        if not args.judge_teacher:
            r, p = pearson(quality, right[rated])
            print(f"{'':24} Pearson correlation with a right answer {r:.2f}, p = {p:.4f}")
    spread, missing = np.nanstd(scores, 1).mean(), count - np.isfinite(scores).sum()
    print(f"{count} of {len(requests)} replies, {missing} without a score")
    print(f"standard deviation of one rationale's scores, on average: {spread:.2f}")


# ------------------------------------------------------------------------------------------------
# a user's own texts


PREDICTED = ("predicted_label", "predicted_rationale", "predicted_confidence")


def print_input_warnings(student, texts, where):
    examples = [data.Example(text, "", "", "") for text in texts]
    print_warnings(student._replace(examples=examples, judged_on=where), inputs_alone=True)


def line_to_answer(line):
    """A line of --predict's file: it has an input, and none of the fields that are added."""
    data.text_of(line, "input")
    taken = [name for name in PREDICTED if name in line]
    check(not taken, f"has {' and '.join(taken)} already: rename it")
    return line


def predict(student, source, target):
    """Write each line of `source` to `target` with the student's Answer, batch by batch.

    A stopped command goes on after the last whole line, if there is one.
    """
    lines = data.read_lines(source, line_to_answer)
    starts = [json.dumps(line | {PREDICTED[0]: ""})[:-2].encode() for line in lines]
    *done, half = target.read_bytes().split(b"\n") if target.exists() else [b""]
    ours = len(done) <= len(lines) and all(map(bytes.startswith, done, starts))
    other = f"{target}: holds other lines than those of {source}: name another file with --to"
    check(ours and (done or not half), other)
    print_input_warnings(student, [line["input"] for line in lines], source)
    size = decoding_batch(student)
    with open(target, "ab") as file:
        file.truncate(file.tell() - len(half))
        for first in range(len(done), len(lines), size):
            batch = lines[first : first + size]
            answers = answer_texts(student, [line["input"] for line in batch])
            for line, answer in zip(batch, answers):
                file.write(json.dumps(line | dict(zip(PREDICTED, answer))).encode() + b"\n")
            file.flush()
            show_progress("answered", first + len(batch), len(lines))
    print(f"{target}: {len(lines):,} lines, of which {len(done):,} were there before")


def ask(student, text):
    """Print the student's rationale and answer for a text; `-` is standard input."""
    if text == "-":
        text = sys.stdin.buffer.read().decode(errors="surrogateescape").strip()
    good = text.strip() and data.is_text(text)
    check(good, f"--ask: expected a text in UTF-8, found {text!r:.60}")
    print_input_warnings(student, [text], "--ask")
    [answer] = answer_texts(student, [text])
    print(f"rationale:  {answer.rationale or '-'}\nanswer:     {answer.label}")
    print(f"confidence: {answer.confidence:.2f}")


# ------------------------------------------------------------------------------------------------
# tables

SETS = ["esnli", "anli1", "cqa", "svamp"]
PAPER = {  # the paper's accuracy in % on each of SETS, by what a run's name says: see paper_row
    "base-finetune": (88.38, 43.58, 62.19, 62.63),  # Table 1
    "base-single": (88.88, 43.50, 61.37, 63.00),
    "base-dss": (89.51, 49.58, 63.29, 65.50),
    "base-mi": (89.50, 51.20, 63.88, 68.00),
    "small-finetune": (82.90, 42.00, 43.16, 45.00),  # Table 2
    "small-dss": (83.43, 42.90, 43.24, 48.00),
    "small-mi": (83.23, 43.70, 43.90, 52.50),
    "base-dss-labels_llm": (82.65, 42.80),  # Table 3
    "base-mi-labels_llm": (82.81, 45.50),
    "base-mi-reduce_mean": (89.34, 51.40, 63.88, 66.50),  # Table 4
    "base-mi-mi_kl": (89.42, 42.00, 62.49, 67.00),  # Table 5
}


def read_results(folder):
    """A folder's finished runs -> {(what their names say, dataset): the seeds' accuracies in %}.

    A name holds every setting that is not a default: without the dataset and the seed it names what
    was trained.
    """
    results, tests = {}, {}
    logs = Path(folder).glob("*/log.jsonl")
    begun = sum(not log.with_name("metrics.json").exists() for log in logs)
    for path in sorted(Path(folder).glob("*/metrics.json")):
        settings, metrics = t5.read_json(path.parent / "settings.json"), t5.read_json(path)
        good = "size" in settings and "dataset" in settings and "test_accuracy" in metrics
        check(good, f"{path.parent}: not as train.py leaves a run")
        name, size = re.sub(r"-s\d+$", "", path.parent.name), settings["size"]
        dataset, _, method = name.rpartition(f"-{size}-")
        column = dataset or data.title(settings["dataset"])
        test = settings.get("test_examples")
        other, digest = tests.setdefault(column, (path.parent, test))
        check(test == digest, f"{path.parent}: not the test set of {other}: tabulate them apart")
        seeds = results.setdefault((f"{size}-{method}", column), [])
        seeds.append(100 * metrics["test_accuracy"])
    check(results, f"{folder}: expected finished runs; found none, and {begun} that were begun")
    if begun:
        print(f"Runs that were begun, are not finished and are left out: {begun}.\n")
    return results


def paper_order(row):  # of rows: size, method, what else a run's name says
    method = next((method for method in METHODS if f"-{method}" in row), "")
    return row.partition(f"-{method}")[0], METHODS.index(method or "mi"), row


def paper_row(row):
    """Return a row's name without what the paper leaves open: it may be a key of PAPER.

    T5's version and the form of L_CE are open, since the paper's text and code differ and Eq. 11
    can be read in two directions; and so is the precision.
    """
    return re.sub(r"^v1_1-|-mi_(eq9|released)|-precision_[a-z0-9]+", "", row)


def print_table(results):
    """Print runs laid out as the paper's tables, in Markdown: the seeds share a cell."""
    found = {dataset for _, dataset in results}
    datasets = [name for name in SETS if name in found] + sorted(found - set(SETS))
    lines = [["size-method"]]
    for dataset in datasets:
        lines[0] += [dataset] + ["the paper's"] * (dataset in SETS)
    for row in sorted({row for row, _ in results}, key=paper_order):
        lines.append([row])
        paper = dict(zip(SETS, PAPER.get(paper_row(row), ())))
        for dataset in datasets:
            seeds = results.get((row, dataset))
            lines[-1].append(mean_and_deviation(seeds) if seeds else "")
            if dataset in SETS:
                lines[-1].append(f"{paper[dataset]:.2f}" if dataset in paper else "")
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    print("Test accuracy in %, mean ± standard deviation (seeds), best weights on validation.\n")
    for line in lines:
        print("| " + " | ".join(map(str.ljust, line, widths)) + " |")


def plot_shares(results, path):
    """Figures 2 and 3: accuracy against the share of the training data, a line for each method."""
    from matplotlib.figure import Figure

    datasets = sorted({dataset for _, dataset in results})
    figure = Figure(figsize=(5 * len(datasets), 4), layout="tight")
    for axes, name in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets):
        lines = {}  # {method: [(share, mean, deviation)]}
        for (row, dataset), seeds in results.items():
            if dataset == name:
                before, share, after = (re.split(r"-subsample_([\d.]+)", row) + ["1", ""])[:3]
                spread = statistics.stdev(seeds) if len(seeds) > 1 else 0.0
                point = float(share), statistics.mean(seeds), spread
                lines.setdefault(before + after, []).append(point)
        for method, points in lines.items():
            axes.errorbar(*zip(*sorted(points)), label=method, marker="o", capsize=3)
        axes.set(title=name, xlabel="share of the training data", ylabel="test accuracy, %")
        axes.legend(fontsize=6)
    figure.savefig(path, dpi=150)


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
    add("--dataset", metavar="NAME|FOLDER", help="default: the run's own (Table 6: another)")
    add("--split", choices=["train", "valid", "test"], default="test", help="default: test")
    add("--data-root", metavar="FOLDER", help="of the published sets; default: the run's own")
    add("--method", choices=METHODS, help="how the student is asked; default: the run's own")
    add("--by-value", action="store_true", help="compare answers as arithmetic, by value")
    add("--tokenizer", metavar="FILE", help="a spiece.model; default: the one in the folder")
    add("--device", help="cpu, cuda, cuda:N or mps; default: cuda if there is one, else cpu")
    group = parser.add_argument_group("in place of the report, one of")
    add = group.add_mutually_exclusive_group().add_argument
    add("--against", type=Path, nargs="+", metavar="RUN", help="compare RUN or RUNs with these")
    add("--ask", metavar="TEXT", help="one text, or standard input (-); NLI: PREMISE</s>HYPOTHESIS")
    add("--predict", metavar="FILE", help="answer the `input` of each line of a JSON-lines file")
    add("--judge", metavar="URL|FILE", help="grade rationales, Tables 7, 8: see the README")
    add("--table", metavar="FOLDER", help="tabulate the finished runs in a folder")
    add = parser.add_argument_group("with these").add_argument
    add("--plot", metavar="FILE", help="a picture of the report; of --table: Figures 2, 3")
    add("--samples", type=int, default=3, metavar="N", help="examples to print; default: 3")
    add("--to", metavar="FILE", help=f"of --predict: gets its lines with {', '.join(PREDICTED)}")
    add("--judge-model", metavar="NAME", default="gpt-4o", help="default: gpt-4o; paper: GPT-4")
    add("--judge-prompt", metavar="FILE", help="with {task}, {label}, {rationale}; default: ours")
    add("--judge-teacher", action="store_true", help="grade the teacher's rationales")
    args = parser.parse_args(argv)
    modes = [args.against, args.ask, args.predict, args.judge]
    one = modes[1:] != [None] * 3
    for wrong, message in [
        (bool(args.run) == bool(args.table), "expected either runs to judge or --table FOLDER"),
        (one and len(args.run) != 1, "--ask, --predict and --judge take one run"),
        ((args.predict is None) != (args.to is None), "--predict and --to need each other"),
        (args.plot and modes != [None] * 4, "--plot belongs to the report and to --table"),
    ]:
        if wrong:
            parser.error(message)
    if args.dataset and data.is_own_data(args.dataset):  # as train.py writes it
        args.dataset = os.path.abspath(args.dataset)
    return args


def check_before(args):
    """Refuse, before anything is computed, what would fail after it."""
    find_device(args.device)
    url = "://" in (args.judge or "")
    for flag, wanted, package in (("judge", url, "openai"), ("plot", args.plot, "matplotlib")):
        found = not wanted or importlib.util.find_spec(package)
        check(found, f"--{flag} needs a package more: pip install {package}")
    for path in (args.plot, args.predict, args.to, None if url else args.judge):
        new = path and not Path(path).exists() and Path(path).absolute().parent.is_dir()
        file = path and Path(path).is_file() and not os.path.samestat(os.stat(path), os.fstat(1))
        good = path is None or new or file  # no folder, pipe or terminal, and not what is printed
        check(good, f"{path}: expected a regular file in a folder, not standard output")
    good = not args.plot or args.plot.endswith((".png", ".pdf", ".svg"))
    check(good, f"--plot {args.plot}: expected a file that ends in .png, .pdf or .svg")


def main(argv=None):
    args = parse(argv)
    check_before(args)
    if args.table:
        results = read_results(args.table)
        print_table(results)
        return plot_shares(results, args.plot) if args.plot else None
    students = [load_student(path, args) for path in [*args.run, *(args.against or [])]]
    if args.against:
        compare(students[: len(args.run)], students[len(args.run) :], args.samples)
    elif args.judge is not None:
        judge_rationales(students[0], args)
    elif args.predict is not None:
        predict(students[0], Path(args.predict), Path(args.to))
    elif args.ask is not None:
        ask(students[0], args.ask)
    else:
        reliabilities = [report(student, args.samples) for student in students]
        if args.plot:
            plot_runs(students, reliabilities, args.plot)


def run_for_user(program, main):
    """Run a script's main -> its exit status. A user's mistake is one line, without a traceback."""
    if hasattr(sys.stdout, "reconfigure"):  # what the terminal can't show, it shows as \uXXXX
        sys.stdout.reconfigure(errors="backslashreplace")
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
        advice = "lower train.py's --micro-batch, or take a smaller --size, or --device cpu"
        print(f"{program}: out of memory: {advice}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run_for_user("eval.py", main))
