"""eval.py: statistics against independent computations; the command line on runs, exports,
own data and mistakes. tests/test_judge.py has the judge.

    python -m pytest tests/test_eval.py
"""

import contextlib
import csv
import io
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import eval as evaluation
import t5
import train

SCRIPT = Path(evaluation.__file__)


def printed(*argv):
    """What eval.py prints, in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        evaluation.main([str(value) for value in argv])
    return out.getvalue()


def refused(*argv):
    """The one line of a user's mistake, from the real command line: status 2, no output."""
    done = subprocess.run([sys.executable, SCRIPT, *map(str, argv)], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr.startswith("eval.py: ") and len(done.stderr.splitlines()) == 1
    return done.stderr


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def own_run(folder, toy, lines, *flags):
    """A student that has overfitted to a few short examples of own data, so that it stops."""
    folder.mkdir()
    for split, rows in (("train", lines), ("valid", lines[:10]), ("test", lines[:40])):
        write_lines(folder / f"{split}.jsonl", rows)
    train.main(["--dataset", str(folder), "--size", "tiny", "--from-scratch", "--tokenizer",
                str(toy / "toy" / "spiece.model"), "--steps", "200", "--batch-size", "32", "--lr",
                "4e-3", "--eval-every", "200", "--out", str(folder / "runs"), *flags])
    (run,) = (folder / "runs").glob("*")
    return run


@pytest.fixture(scope="session")
def moods(toy, tmp_path_factory):
    """A run on own data of two classes."""
    lines = []
    for i in range(60):
        name, thing = data.NAMES[i % len(data.NAMES)], data.THINGS[7 * i % len(data.THINGS)]
        verb, label = (("bought", "pos"), ("lost", "neg"))[i % 2]
        text = f"{name} {verb} {thing}."
        lines.append({"input": text, "label": label, "rationale": text})
    return own_run(tmp_path_factory.mktemp("own") / "moods", toy, lines)


@pytest.fixture(scope="session")
def sums(toy, tmp_path_factory):
    """A run on own arithmetic, compared by value."""
    lines = []
    for i in range(60):
        n, name = 2 + i % 6, data.NAMES[i % len(data.NAMES)]
        lines.append({"input": f"{name} has {n} pens and gets 2 more.", "label": f"( {n} + 2 )",
                      "rationale": f"( {n} + 2 ) = {n + 2} pens."})  # fmt: skip
    return own_run(tmp_path_factory.mktemp("own") / "sums", toy, lines, "--by-value")


def student_of(run, **fields):
    settings = json.loads((run / "settings.json").read_text())
    student = evaluation.Student(t5.load(run), data.Tokenizer(run / "spiece.model"),
                                 settings["method"], settings["by_value"], 64)  # fmt: skip
    return student._replace(**fields)


# ------------------------------------------------------------------------------------------------
# statistics


def ece_in_loops(confidence, correct, bins):
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if min(math.floor(c * bins), bins - 1) == b]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            average = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - average)
    return total


def test_calibration_error_by_hand():
    """0.95, 0.85 and 0.15 lie alone in their bins: (|1 - .95| + |0 - .85| + |0 - .15|) / 3."""
    ece = evaluation.expected_calibration_error([0.95, 0.85, 0.15], [True, False, False])
    assert ece == pytest.approx((0.05 + 0.85 + 0.15) / 3, abs=1e-12)


def test_calibration_error_equals_plain_loops_on_10_000_random_cases():
    rng = np.random.default_rng(0)
    for case in range(10_000):
        n, bins = int(rng.integers(1, 12)), int(rng.integers(1, 16))
        confidence = rng.random(n).round(case % 4)  # 0, 1 and edges in most of them
        correct = rng.random(n) < 0.5
        expected = ece_in_loops(confidence.tolist(), correct.tolist(), bins)
        ece = evaluation.expected_calibration_error(confidence, correct, bins)
        assert abs(ece - expected) < 1e-12


@pytest.mark.parametrize("confidence, correct, ece", [
    ([0.0], [False], 0.0), ([0.0], [True], 1.0), ([1.0], [True], 0.0), ([1.0], [False], 1.0),
    ([0.1, 0.1], [True, False], 0.4),  # an edge: both in the second bin
    ([1.0, 0.95], [True, True], 0.025), ([0.5] * 4, [True, True, False, False], 0.0),
])  # fmt: skip
def test_calibration_error_at_the_edges(confidence, correct, ece):
    found = evaluation.expected_calibration_error(confidence, correct)
    assert found == pytest.approx(ece, abs=1e-12)


@pytest.mark.parametrize("confidence, correct", [
    ([], []), ([0.5], [True, False]), ([1.1], [True]), ([-0.1], [True]), ([math.nan], [True])])
def test_calibration_error_refuses_what_is_no_confidence(confidence, correct):
    with pytest.raises(ValueError, match="expected"):
        evaluation.expected_calibration_error(confidence, correct)


def test_a_bootstrap_interval_of_a_mean_is_the_normal_one():
    """1,000 judgements, 700 right: 0.7 ± 1.96 sqrt(0.7 * 0.3 / 1000) = 0.7 ± 0.0284."""
    right = np.arange(1_000) < 700
    low, high = evaluation.bootstrap(np.mean, right)
    assert low == pytest.approx(0.7 - 0.0284, abs=0.003)
    assert high == pytest.approx(0.7 + 0.0284, abs=0.003)


def test_a_paired_interval_is_that_of_the_examples_differences():
    """a and b differ on 100 of 1,000 examples, 70 to 30: 0.04 ± 1.96 sqrt((0.1 - 0.04^2) / 1000)
    = 0.04 ± 0.0194. Unpaired it would be more than twice as wide."""
    a, b = np.arange(1_000) < 570, np.arange(1_000) < 500
    b[970:] = True
    low, high = evaluation.difference_interval(a[:, None], b[:, None])
    assert low == pytest.approx(0.04 - 0.0194, abs=0.003)
    assert high == pytest.approx(0.04 + 0.0194, abs=0.003)
    # two groups whose runs disagree far more than examples do: the interval has to know
    good, bad = np.ones(1_000, bool), np.zeros(1_000, bool)
    low, high = evaluation.difference_interval(np.stack([good, bad], 1), np.stack([bad, bad], 1))
    assert low == 0 and high == 1


def test_mcnemar_equals_an_exact_binomial_computed_another_way():
    """The two-sided p is the weight of all splits of the n differing examples that are no more
    probable than the one found, a fair coin for each."""
    rng = np.random.default_rng(0)
    for case in range(500):
        a, b = rng.random((2, rng.integers(1, 80))) < rng.random((2, 1))
        n, found = int((a != b).sum()), int((a & ~b).sum())
        chance = [Fraction(math.comb(n, k), 2**n) for k in range(n + 1)]
        p = float(sum(c for c in chance if c <= chance[found]))
        assert evaluation.mcnemar(a, b) == pytest.approx(p, abs=1e-12)
    assert evaluation.mcnemar(np.ones(3, bool), np.ones(3, bool)) == 1.0  # they never differ
    ones = np.ones(9_000, bool)
    assert evaluation.mcnemar(ones, ~ones) == 0.0  # below the range of fp64
    assert evaluation.mcnemar(np.arange(5) < 5, np.arange(5) < 0) == 2 / 2**5


def test_a_permutation_p_value_is_right_with_a_correlation_and_uniform_without(monkeypatch):
    rng = np.random.default_rng(0)
    for share in (0.1, 0.3, 0.6):  # correlations of normal data, whose p Fisher's z tells
        x = rng.normal(size=50)
        y = share * x + math.sqrt(1 - share**2) * rng.normal(size=50)
        r, p = evaluation.pearson(x, y)
        assert r == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
        z = math.atanh(abs(r)) * math.sqrt(50 - 3)
        assert p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.015)
    x, y = np.arange(5.0), np.array([1.0, 0.0, 2.0, 3.0, 4.0])  # r = 0.9 or more either way:
    assert evaluation.pearson(x, y)[1] == pytest.approx(10 / 120, abs=0.015)  # 10 of 120 orders
    monkeypatch.setattr(evaluation, "PERMUTATIONS", 199)
    values = np.sort([evaluation.pearson(rng.normal(size=20), rng.random(20) < 0.5, seed)[1]
                      for seed in range(600)])  # fmt: skip
    distance = abs(values - np.arange(1, 601) / 600).max()  # Kolmogorov and Smirnov's
    assert distance < 1.63 / math.sqrt(600)  # its 1% point
    r, p = evaluation.pearson([3.0, 3.0, 3.0], [1, 0, 1])
    assert math.isnan(r) and p == 1.0


@pytest.mark.parametrize("right, n, low, high", [
    (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (0, 1, 0.0, 0.7935),
    (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Table I, method 3: 81 of 263
    (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)])  # fmt: skip
def test_wilsons_interval_equals_published_ones(right, n, low, high):
    assert evaluation.wilson(right, n) == pytest.approx((low, high), abs=1e-4)


def test_wilsons_interval_holds_the_proportions_that_a_score_test_does_not_refuse():
    for right, n in ((0, 7), (3, 20), (199, 200), (200, 200)):
        for edge in evaluation.wilson(right, n):
            if 0 < edge < 1:
                error = math.sqrt(edge * (1 - edge) / n)
                assert abs(right / n - edge) == pytest.approx(1.959964 * error, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("columns, measure, least", [
    ([np.ones(20)], np.mean, 0.0), ([np.zeros(20)], np.mean, 0.0), ([np.ones(1)], np.mean, 0.0),
    ([np.zeros(20)], np.mean, -1.0), ([np.ones(20)], np.mean, -1.0), ([-np.ones(5)], np.mean, -1.0),
    ([np.full(20, 0.3)], np.mean, 0.0), ([np.linspace(0.9999, 1, 20)], np.mean, 0.0),
    ([np.ones(9), np.ones(9)], evaluation.expected_calibration_error, 0.0),
    ([np.ones(9), np.zeros(9)], evaluation.expected_calibration_error, 0.0)])  # fmt: skip
def test_no_interval_has_zero_width_where_all_examples_agree(columns, measure, least):
    low, high = evaluation.bootstrap(measure, *columns, least=least)
    assert high - low > 1 / len(columns[0]) / 10
    assert least <= low <= measure(*columns) + 1e-12 and measure(*columns) - 1e-12 <= high <= 1


@pytest.mark.parametrize("a, b", [(1, 1), (0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("n, runs", [(1, 1), (20, 1), (20, 3)])
def test_no_difference_has_an_interval_of_zero_width(a, b, n, runs):
    left, right = np.full((n, runs), a, bool), np.full((n, 2), b, bool)
    low, high = evaluation.difference_interval(left, right)
    assert -1 <= low <= a - b <= high <= 1 and high - low > 3 / (n + 4)


def test_label_scores_by_hand():
    """a: 2 of its 3 examples are found, 2 of 3 answers are right; b: 1 of 2, 1 of 1; one of b's
    answers is no label."""
    labels, answers = ["a", "a", "a", "b", "b"], ["a", "a", "c", "b", "a"]
    names, scores, counts = evaluation.label_scores(labels, answers)
    assert names == ["a", "b"] and counts.tolist() == [[2, 0, 1], [1, 1, 0]]
    assert scores.ravel() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1, 1 / 2, 2 / 3])
    _, [[precision, recall, f1], _], _ = evaluation.label_scores(["a", "b"], ["b", "b"])
    assert precision == recall == f1 == 0  # a label that is never answered


# ------------------------------------------------------------------------------------------------
# what a rationale contains


@pytest.mark.parametrize("rationale, label, inside", [
    ("I don't know.", "no", False), ("No, it is not.", "no", True), ("nothing", "no", False),
    ("He had 15 pens.", "5", False), ("3.5 pens", "5", False), ("3.5 pens", "3", False),
    ("3.5 pens", "3.5", True), ("5 pens", "5", True), ("so it is 5.", "5", True),
    ("1,000 pens", "1000", True), ("1 000 pens", "1000", True), ("1000 pens", "1,000", True),
    ("1,000 pens", "1", False), ("1,000 pens", "000", False), ("1,0000", "1", False),
    ("3/4 of them", "3", False), ("3/4 of them", "3/4", True), ("at 12:30", "30", False),
    ("it cost $5", "5", True), ("it was -5 degrees", "5", False), ("10-5 = 5", "10", True),
    ("on the 5th of May", "5", False), ("5kg of flour", "5", True), ("room 5b", "5b", True),
    ("He had 3 - 1 = 2 pens.", "( 3 - 1 )", False), ("( 84 / 2 ) = 42", "( 84.0 / 2.0 )", True),
    ("He had (3 - 1)= 2 pens.", "( 3 - 1 )", True), ("(13 - 1)", "3 - 1", False),
    ("The Zoo  is closed.", "zoo is", True), ("The zoology", "zoo", False), ("3 pens", "", False),
    ("", "a", False), ("so 5 = x", "5", True), ("<pos>", "pos", True), ("postive", "pos", False),
    ("这是正面的评价", "正面", True), ("这是正面的评价", "负面", False),
    ("in 1.2.3", "2", False),
])  # fmt: skip
def test_a_rationale_contains_whole_words_and_numbers(rationale, label, inside):
    assert evaluation.contains(rationale, label) is inside


@pytest.mark.parametrize("rationale, result", [
    ("He had ( 3 - 1 ) = 2 pens, so 2 + 1,000 = $1,002.", "1002"), ("3 pens", ""), ("", ""),
    ("= 3/4", "3/4"), ("= 1 000", "1000"), ("= 1,000", "1000"), ("= -$5", "-5"), ("= $-5", "-5"),
    ("= **12**", "12"), ("= **$12.50**.", "12.50"), ("= 3.5", "3.5"), ("= 3.5.", "3.5"),
    ("= .5", ".5"), ("= 5kg", "5"), ("= 5 apples", "5"), ("= 12%", "12"), ("3 - 5 = -2.5", "-2.5"),
    ("= 3 + 4", ""), ("= 3 x 4", ""), ("= 2 1/2", ""), ("= 1,00", ""), ("= 1.5e3", ""),
    ("= 3x", ""), ("= 12:30", ""), ("= 1/2/3", ""), ("= 10-12", ""), ("= 3^2", ""),
    ("= about 5", ""), ("x = 5 =", ""), ("= 1,234,567.25 dollars", "1234567.25"),
    ("= 5\n3. Next", "5"),
    ("= 5, so", "5"), ("= €7", "7"), ("= 1.2.3", ""), ("= 1 000 000", "1000000"),
    ("= −4", "-4"),
    ("= 5th", ""), ("= 10 000 km", "10000"), ("= 1'000", ""), ("= 3⁄4", ""), ("= 5½", ""),
    ("= 12)/3", ""), ("= 12) - so", "12"), ("= 2π", "")])  # fmt: skip
def test_the_last_result_is_a_whole_number_or_none(rationale, result):
    assert evaluation.last_result(rationale) == result


# ------------------------------------------------------------------------------------------------
# asking the student


@pytest.mark.parametrize("name", ["cpu", None])
def test_the_default_device_is_the_one_that_is_there(name):
    expected = "cuda" if name is None and torch.cuda.is_available() else "cpu"
    assert evaluation.find_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["gpu", "xpu", "cuda:99", "cuda:-1", "cpu:x", "CUDA", "meta", " "])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(t5.InputError, match=re.escape(f"--device {name}: ") + ".*cpu"):
        evaluation.find_device(name)


def test_texts_come_back_in_their_order_whatever_their_lengths(runs, toy):
    student = student_of(runs["mi"])
    texts = [f"predict: {example.input}" for example in data.load("toy", "train", toy)]
    written = evaluation.generate_text(student, texts, 8)  # 200 texts, four batches
    for i in range(0, len(texts), 20):
        [(text, log_prob)] = evaluation.generate_text(student, [texts[i]], 8)
        assert written[i][0] == text and written[i][1] == pytest.approx(log_prob, abs=1e-4)
    assert evaluation.generate_text(student, [], 8) == []


def test_confidence_is_the_product_of_the_answers_token_probabilities_with_the_end(runs, toy):
    student = student_of(runs["mi"])
    model, tokenizer = student.model, student.tokenizer
    examples = data.load("toy", "test", toy)[:5]
    for example, answer in zip(examples, evaluation.answer(student, examples)):
        source = data.pad([tokenizer.encode(f"predict: {example.input}")])
        ids, _ = model.generate(source, student.label_limit)
        probabilities = model(source, ids).softmax(-1)[0, range(ids.shape[1]), ids[0]]
        assert math.exp(answer.log_prob) == pytest.approx(probabilities.prod().item(), rel=1e-4)
        assert answer.text == tokenizer.decode(ids[0])


CHOICES = data.Example("How many?\nAnswer Choices:\n(a) 30\n(b) 7\n(c) pens\n(d) eggs\n(e) 7",
                       "7", "", "")  # fmt: skip


@pytest.mark.parametrize("settings, example, labels", [
    ({"dataset": "cqa"}, CHOICES, ["30", "7", "pens", "eggs"]),
    ({"dataset": "mine", "candidates": ["eggs", "pens"]}, CHOICES, ["eggs", "pens"]),
    ({"dataset": "anli1"}, data.Example("Ann has pens.</s>Ann has eggs.", "neutral", "", ""),
     data.NLI_LABELS)])  # fmt: skip
@pytest.mark.parametrize("method", ["mi", "single"])
def test_closed_confidence_is_the_share_among_the_candidates(
        runs, settings, example, labels, method):  # fmt: skip
    """Against one plain pass a candidate: exp of the sum of its log-probabilities, normalised."""
    student = student_of(runs[method])
    model, tokenizer = student.model, student.tokenizer
    assert evaluation.candidates(settings, [example, example]) == [list(labels)] * 2
    source = data.pad([tokenizer.encode(data.prompts(example.input, method)[0])])
    before = "They are many. The answer is " if method == "single" else ""
    weights = []
    for label in labels:
        target = torch.tensor([tokenizer.encode(before + label)])
        with torch.no_grad():
            log_p = model(source, target).double().log_softmax(-1)
        weights.append(math.exp(sum(log_p[0, t, i].item() for t, i in enumerate(target[0]))))
    answers = [evaluation.Answer(tokenizer.normalise(label), "They are many.", 0.0)
               for label in [*labels, "none of them"]]  # fmt: skip
    asked = student, [example] * len(answers), answers, [labels] * len(answers)
    expected = [weight / sum(weights) for weight in weights] + [0.0]
    assert evaluation.confidences(*asked) == pytest.approx(expected, rel=1e-4)
    assert sum(expected) == pytest.approx(1)


@pytest.mark.parametrize("labels", [["<pos>", "<neg>"], ["pos~", "neg~"], ["tromsø", "oslo"],
                                    ['{"s": "pos"}', '{"s": "neg"}'], [" pos ", "neg"],
                                    ["the answer is pos", "The answer is neg"]])  # fmt: skip
@pytest.mark.parametrize("method", ["finetune", "single", "mi"])
def test_a_student_that_writes_a_labels_exact_ids_is_right(runs, labels, method, monkeypatch):
    """Whatever characters the vocabulary lacks: answer and label are read by one function."""
    student = student_of(runs["mi"], method=method, by_value=False)
    examples = [data.Example("text", label, "Because.", "") for label in labels * 40]
    targets = [targets[0] for _, targets in data.encode(examples, student.tokenizer, method)]

    def write_targets(source, max_new_tokens):  # what a perfect student generates, two batches
        rows = [targets.pop(0) for _ in range(len(source))]
        return data.pad(rows), torch.zeros(len(rows), 1)

    monkeypatch.setattr(student.model, "generate", write_targets)
    answers = evaluation.answer(student, examples)
    assert evaluation.correct(student, examples, answers) == [True] * 80
    swapped = [data.Example("text", label, "", "") for label in labels[::-1] * 40]
    assert evaluation.correct(student, swapped, answers) == [False] * 80


@pytest.mark.parametrize("kind", ["moods", "sums"])
def test_transformers_generates_our_labels_and_rationales_with_its_defaults(kind, request):
    transformers = pytest.importorskip("transformers")
    run = request.getfixturevalue(kind)
    student, examples = student_of(run), data.load(run.parent.parent, "test")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    model = transformers.T5ForConditionalGeneration.from_pretrained(run)
    answers = evaluation.answer(student, examples)
    texts = [answer.text for answer in answers]
    assert all(evaluation.correct(student, examples, answers)) and len(examples) == 40
    rationales = evaluation.explain(student, examples, answers)
    for prompt, ours in (("predict", texts), ("explain", rationales)):
        prompts = [f"{prompt}: {example.input}" for example in examples]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        expected = data.pad([student.tokenizer.encode(text) for text in prompts])
        assert torch.equal(batch["input_ids"], expected)
        ids = model.generate(**batch)
        assert (ids == t5.EOS).any(1).all()  # every row stops
        theirs = tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert [text.strip() for text in theirs] == ours and all(ours)


# ------------------------------------------------------------------------------------------------
# the report


@pytest.mark.parametrize("method", ["finetune", "single", "mi"])
def test_a_run_is_judged_as_it_was_at_the_end_of_its_training(runs, method):
    out = printed(runs[method], "--samples", 2)
    metrics = json.loads((runs[method] / "metrics.json").read_text())
    [accuracy] = [line.split()[2] for line in out.splitlines() if line.startswith("accuracy, %")]
    assert accuracy == f"{100 * metrics['test_accuracy']:.2f}"
    assert out.count("answer:") == 2 and ("rationale:" in out or method != "mi")


def test_a_bare_export_needs_dataset_and_method_and_is_judged_the_same(runs, toy, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.T5ForConditionalGeneration.from_pretrained(runs["mi"]).save_pretrained(tmp_path)
    vocabulary = runs["mi"] / "spiece.model"
    flags = tmp_path, "--data-root", toy, "--tokenizer", vocabulary
    with pytest.raises(t5.InputError, match="so --method is needed"):
        printed(*flags)
    with pytest.raises(t5.InputError, match="so --dataset is needed"):
        printed(*flags, "--method", "mi")
    out = printed(*flags, "--dataset", "toy", "--method", "mi")
    after = "95% interval\n"
    assert out.partition(after)[2] == printed(runs["mi"]).partition(after)[2] != ""


def test_what_is_printed_of_calibration_is_what_the_answers_give(runs, toy, monkeypatch):
    """Against plain loops over the student's own answers, with made-up judgements among them."""
    found = iter([True, False] * 10)
    monkeypatch.setattr(data, "is_correct", lambda *_: next(found))
    out = printed(runs["dss"], "--samples", 0)
    answers = evaluation.answer(student_of(runs["dss"]), data.load("toy", "test", toy))
    c, r = [math.exp(answer.log_prob) for answer in answers], [1.0, 0.0] * 10
    for name, value in {
        "accuracy, %": 50.0, "average confidence, sequence, %": 5 * sum(c),
        "confidence minus accuracy, %": 5 * sum(c) - 50,
        "expected calibration error, %": 100 * ece_in_loops(c, r, 10),
        "Brier score": sum((x - y) ** 2 for x, y in zip(c, r)) / 20,
    }.items():  # fmt: skip
        [line] = [line for line in out.splitlines() if line.startswith(name)]
        shown, low, _, high = line[len(name) :].replace("to", "0").split()
        assert float(shown) == pytest.approx(value, abs=0.006)
        assert float(low) <= float(shown) <= float(high) and float(low) < float(high)
    # the diagram holds every example once
    rows = re.findall(r"^0\.\d to [01]\.\d +(\d+) ", out, re.MULTILINE)
    assert sum(map(int, rows)) == 20


def test_all_answers_right_leave_no_interval_of_zero_width(moods):
    out = printed(moods, "--samples", 0, "--confidence", "closed")
    assert re.search(r"accuracy, % +100.00 +91.24 to 100.00", out)
    rows = re.findall(r"^.{31} *-?[\d.]+ +(-?[\d.]+) to (-?[\d.]+)$", out, re.MULTILINE)
    assert len(rows) == 5 and all(float(low) < float(high) for low, high in rows)
    # 40 right answers leave an accuracy of 92% open, and so a gap of as much
    [[low, high]] = re.findall(r"minus accuracy, % +-0.0\d +(-?[\d.]+) to (-?[\d.]+)$", out, re.M)
    assert float(low) < -8 and float(high) > 8
    assert "Wilson" in out and "answers that are no candidate        0" in out
    out = printed(moods, "--against", moods, "--samples", 1)
    assert "A minus B, 40 examples: +0.00 points, 95% interval -8.76 to +8.76" in out


def test_a_set_with_few_labels_has_a_confusion_matrix(moods, runs, monkeypatch):
    whole = evaluation.answer

    def wrong_at_times(student, examples):  # three wrong answers, one of them no label
        answers = whole(student, examples)
        for i, text in ((0, "neg"), (1, "pos"), (3, "maybe")):
            if i < len(answers):
                answers[i] = answers[i]._replace(text=text)
        return answers

    monkeypatch.setattr(evaluation, "answer", wrong_at_times)
    out = printed(moods, "--samples", 0)
    # of 20 neg: 18 found, 1 as pos, 1 as no label; of 20 pos: 19 found; F1 36 / 39, 38 / 40
    assert re.search(r"^ 1 neg +94.74   90.00   92.31 +18 +1 +1$", out, re.MULTILINE)
    assert re.search(r"^ 2 pos +95.00   95.00   95.00 +1 +19 +0$", out, re.MULTILINE)
    assert re.search(r"^macro-F1, % +93.65$", out, re.MULTILINE)
    monkeypatch.undo()
    assert "macro-F1" not in printed(runs["mi"], "--samples", 0)  # arithmetic has no classes


def test_rationales_are_measured(runs, toy):
    out = printed(runs["mi"], "--samples", 0, "--rationales")
    student, examples = student_of(runs["mi"]), data.load("toy", "test", toy)
    answers = evaluation.answer(student, examples)
    texts = evaluation.explain(student, examples, answers)
    inside = sum(evaluation.contains(text, answer.text) for answer, text in zip(answers, texts))
    assert f"rationales with the answer that was given {inside / 20:8.2%}" in out
    assert "rationales that are blank" in out and "whose last result" in out


def test_what_is_cut_or_unknown_or_changed_is_said_in_a_line(moods, tmp_path):
    line = {"input": "Ä " + "pens " * 1_100, "label": "pos", "rationale": ""}
    own = tmp_path / "moods"
    own.mkdir()
    write_lines(own / "test.jsonl", [line] * 3)
    out = printed(moods, "--dataset", own, "--samples", 0)
    assert "3 of 3 inputs are too long for 1,024 ids" in out
    assert "3 of 3 inputs have characters that" in out and "3 of 3 rationales are blank" in out
    assert "changed since" not in out  # another set than the run's own
    test = moods.parent.parent / "test.jsonl"
    kept = test.read_text()
    try:
        test.write_text(kept + kept.splitlines()[0] + "\n")
        assert "have changed since" in printed(moods, "--samples", 0)
    finally:
        test.write_text(kept)
    assert "have changed since" not in printed(moods, "--samples", 0)


def test_a_label_that_is_longer_than_64_ids_can_be_right(moods, tmp_path, monkeypatch):
    """The limit follows the longest label of the judged set."""
    own, seen = tmp_path / "long", []
    own.mkdir()
    write_lines(own / "test.jsonl", [{"input": "a", "label": "pens " * 100, "rationale": "b"}])
    generate = t5.T5.generate
    monkeypatch.setattr(t5.T5, "generate", lambda model, source, limit: (
        seen.append(limit), generate(model, source, limit))[1])  # fmt: skip
    printed(moods, "--dataset", own, "--samples", 0)
    assert seen == [len(student_of(moods).tokenizer.encode("pens " * 100))] and seen[0] > 64


def test_the_runs_own_folder_keeps_its_settings_however_it_is_named(sums, monkeypatch):
    folder = Path(json.loads((sums / "settings.json").read_text())["dataset"])
    expected = printed(sums, "--samples", 0).splitlines()
    assert "answers that have no value" in "".join(expected)
    monkeypatch.chdir(folder.parent)
    assert printed(sums, "--samples", 0, "--dataset", folder.name).splitlines() == expected


def test_own_arithmetic_is_compared_by_value_where_the_run_says_so(sums, tmp_path):
    lines = [json.loads(line) for line in (sums.parent.parent / "test.jsonl").open()]
    other = tmp_path / "other"
    other.mkdir()
    lines = [line | {"label": line["label"].replace(" ", "")} for line in lines]
    write_lines(other / "test.jsonl", lines)
    assert re.search(r"accuracy, % +100.00", printed(sums))
    flags = sums, "--dataset", other, "--samples", 0
    assert re.search(r"accuracy, % +0.00", printed(*flags))
    assert re.search(r"accuracy, % +100.00", printed(*flags, "--by-value"))


def test_a_picture_is_drawn(runs, tmp_path):
    pytest.importorskip("matplotlib")
    printed(runs["mi"], "--plot", tmp_path / "diagram.png")
    printed(runs["mi"], runs["dss"], "--curves", tmp_path / "curves.png")
    for name in ("diagram.png", "curves.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_curves_are_drawn_as_text_from_what_was_logged(runs, tmp_path):
    out = printed(runs["mi"], runs["dss"], runs["finetune"], "--curves", "-")
    panels = dict(re.findall(r"\n\n(\w+)\n(.*?)\n *step 1", out, re.DOTALL))
    assert list(panels) == evaluation.CURVES
    assert set("ABC") <= set(panels["loss"]) and "C" not in panels["generation"]
    assert "A" in panels["mi"] and "B" not in panels["mi"]  # DSS has no third term,
    assert {"A", "B"} & set(panels["validation_mi"])  # but its value on validation is logged
    # a made-up log: 720 steps that rise from 1 to 720, averaged over spans of ten
    write_lines(tmp_path / "log.jsonl", [{"step": i, "loss": i, "mi": None} for i in range(1, 721)])
    out = printed(tmp_path, "--curves", "-").splitlines()
    rows = [row.partition("|")[2] for row in out if "|" in row]
    assert out[3].split()[0] == "715.5" and out[12].split()[0] == "5.5" and len(rows) == 10
    for column in range(72):
        [row] = [i for i in range(10) if rows[i].ljust(72)[column] == "A"]
        assert row == round((71 - column) / 71 * 9)
    with pytest.raises(t5.InputError, match="log.jsonl, line 1: "):
        write_lines(tmp_path / "log.jsonl", [{"loss": 1}])
        printed(tmp_path, "--curves", "-")


def test_two_runs_are_compared_and_the_examples_that_tell_them_apart_shown(runs, toy, monkeypatch):
    right = {"finetune": [1] * 12 + [0] * 8, "mi": [1] * 10 + [0] * 9 + [1]}
    found = iter(right["mi"] + right["finetune"])
    monkeypatch.setattr(data, "is_correct", lambda *_: bool(next(found)))
    out = printed(runs["mi"], "--against", runs["finetune"], "--samples", 2)
    assert "A  55.00 (1)" in out and "B  60.00 (1)" in out
    assert "A minus B, 20 examples: -5.00 points" in out
    assert "only A is right on 1, only B on 2: exact McNemar p = 1.0000" in out
    examples = data.load("toy", "test", toy)
    assert f"[10] {examples[10].input}" in out and "[11]" in out and "[19]" not in out
    assert out.count("A, wrong") == out.count("B, right") == 2 and f"=> {examples[10].label}" in out
    assert max(map(len, out.splitlines()[3:])) <= 160


def test_groups_of_runs_are_compared(runs):
    out = printed(runs["mi"], runs["single"], "--against", runs["finetune"], runs["dss"])
    accuracies = [100 * json.loads((runs[m] / "metrics.json").read_text())["test_accuracy"]
                  for m in ("mi", "single", "finetune", "dss")]  # fmt: skip
    value = np.mean(accuracies[:2]) - np.mean(accuracies[2:])
    assert f"A minus B, 20 examples: {value:+.2f} points" in out and "McNemar" not in out
    assert f"A  {evaluation.mean_and_deviation(accuracies[:2])}" in out


def copy_of(run, folder):
    folder.mkdir(exist_ok=True)
    for path in run.glob("*.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_runs_on_different_examples_are_not_compared(runs, moods, toy, tmp_path):
    with pytest.raises(t5.InputError, match="different examples"):
        printed(runs["mi"], "--against", moods)
    assert "on toy test" in printed(moods, "--dataset", "toy", "--data-root", toy)
    other = copy_of(runs["mi"], tmp_path)
    (other / "settings.json").write_text("[1")
    with pytest.raises(t5.InputError, match="settings.json: expected a JSON object"):
        printed(other)


def test_a_vocabulary_that_is_not_the_runs_own_is_refused(runs, tmp_path):
    run = copy_of(runs["mi"], tmp_path / "run")
    data.write_toy(tmp_path / "other", {"train": 100, "test": 5}, seed=1)
    other = tmp_path / "other" / "toy" / "spiece.model"
    with pytest.raises(t5.InputError, match="spiece.model: not the vocabulary"):
        printed(run, "--tokenizer", other)
    (run / "spiece.model").write_bytes(other.read_bytes())
    with pytest.raises(t5.InputError, match="spiece.model: not the vocabulary"):
        printed(run)


# ------------------------------------------------------------------------------------------------
# texts of one's own


def test_one_text_is_answered_from_the_command_line_or_standard_input(runs, toy, monkeypatch):
    text = data.load("toy", "test", toy)[0].input
    sample, asked = printed(runs["mi"], "--samples", 1), printed(runs["mi"], "--ask", text)
    answer, rationale, confidence = (
        next(line for line in asked.splitlines() if line.startswith(word)).split(":", 1)[1].strip()
        for word in ("answer", "rationale", "confidence"))  # fmt: skip
    assert f"answer:    {answer}" in sample and f"rationale: {rationale}" in sample
    assert f"confidence {confidence})" in sample
    monkeypatch.setattr(sys, "stdin", io.StringIO(text + "\n"))
    assert printed(runs["mi"], "--ask", "-") == asked
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    with pytest.raises(t5.InputError, match="standard input, found none"):
        printed(runs["mi"], "--ask", "-")


def test_predictions_keep_every_field_and_equal_the_students_answers(moods, tmp_path):
    lines = [json.loads(line) for line in (moods.parent.parent / "train.jsonl").open()]
    more = {"answer": None, "more": {"ä": [1.5]}}
    lines = [line | more | {"id": i} for i, line in enumerate(lines)]
    source, target = write_lines(tmp_path / "in.jsonl", lines * 2), tmp_path / "out.jsonl"
    printed(moods, "--predict", source, "--to", target)
    student = student_of(moods)
    examples = [data.Example(line["input"], "", "", "") for line in lines]
    answers = evaluation.answer(student, examples)
    rationales = evaluation.explain(student, examples, answers)
    found = [json.loads(line) for line in target.open()]
    assert len(found) == 120
    for line, given, answer, rationale in zip(found, lines * 2, answers * 2, rationales * 2):
        assert line["answer"] == answer.text and line["rationale"] == rationale
        assert line["confidence"] == pytest.approx(math.exp(answer.log_prob), abs=1e-4)
        assert line["input_rationale"] == given["rationale"] and line["input_answer"] is None
        assert all(line[name] == given[name] for name in ("input", "label", "id", "more"))
    before = target.stat().st_mtime_ns, target.read_bytes()
    assert "all 120 lines" in printed(moods, "--predict", source, "--to", target)
    assert before == (target.stat().st_mtime_ns, target.read_bytes())
    closed = tmp_path / "closed.jsonl"
    printed(moods, "--predict", source, "--to", closed, "--confidence", "closed")
    assert all(json.loads(line)["confidence"] > 0.9 for line in closed.open())


def test_predictions_that_were_killed_go_on_to_the_same_file(moods, tmp_path):
    lines = [json.loads(line) for line in (moods.parent.parent / "train.jsonl").open()]
    random.Random(0).shuffle(lines)
    lines = [line | {"id": i} for i, line in enumerate(lines * 30)]
    source = write_lines(tmp_path / "in.jsonl", lines)
    whole, target, chance = tmp_path / "whole.jsonl", tmp_path / "out.jsonl", random.Random(1)
    printed(moods, "--predict", source, "--to", whole)
    command = [sys.executable, SCRIPT, moods, "--predict", source, "--to", target]
    kills = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        had = target.stat().st_size if target.exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and (not target.exists() or target.stat().st_size <= had):
            time.sleep(0.005)
        time.sleep(chance.random() * 0.2)
        process.send_signal(number)
        kills += process.wait() != 0
        assert "Traceback" not in process.stderr.read()
        content = target.read_bytes()
        assert whole.read_bytes().startswith(content)
        target.write_bytes(content[: -chance.randrange(90)])  # as a kill inside a write leaves it
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1,800 of 1,800 lines, 0:00:00 left" in done.stderr
    assert target.read_bytes() == whole.read_bytes() and kills == 3


@pytest.mark.parametrize("content", [
    b'{"input": "other", "answer": "a", "rationale": "b", "confidence": 1.0}\n', b"my notes",
    b"my notes\n", b"\n", b'{"input": "Anna', b"\xff\xfe\n"])  # fmt: skip
def test_predictions_never_touch_a_file_of_other_lines(moods, tmp_path, content):
    source = write_lines(tmp_path / "in.jsonl", [{"input": "Ben"}, {"input": "Ben"}])
    target = tmp_path / "out.jsonl"
    target.write_bytes(content)
    with pytest.raises(t5.InputError, match="out.jsonl: holds other lines than those of"):
        printed(moods, "--predict", source, "--to", target)
    assert target.read_bytes() == content


def test_predictions_keep_a_users_own_last_line_without_a_line_end(moods, tmp_path):
    lines = [{"input": "Ben"}, {"input": "Anna", "mine": "precious"}]
    source = write_lines(tmp_path / "in.jsonl", lines)
    for content in (source.read_bytes().rstrip(), b'{"input": "Ben", "gold": "mine"}'):
        (tmp_path / "out.jsonl").write_bytes(content)
        with pytest.raises(t5.InputError, match="out.jsonl: holds"):
            printed(moods, "--predict", source, "--to", tmp_path / "out.jsonl")
        assert (tmp_path / "out.jsonl").read_bytes() == content


def test_predictions_name_a_label_that_the_vocabulary_cant_write(toy, tmp_path):
    lines = [{"input": f"{name} {verb} pens.", "label": label, "rationale": verb}
             for name in data.NAMES for verb, label in (("bought", "{pos}"), ("lost", "neg~"))]
    run = own_run(tmp_path / "braces", toy, lines, "--method", "dss")
    printed(run, "--predict", tmp_path / "braces" / "test.jsonl", "--to", tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert len(found) == 32 and all(line["answer"] == line["label"] for line in found)


def test_a_run_keeps_its_way_of_comparing_where_its_folder_has_moved(sums, tmp_path):
    shutil.copy(sums.parent.parent / "test.jsonl", tmp_path / "test.jsonl")
    out = printed(sums, "--dataset", tmp_path, "--samples", 0)
    assert "answers that have no value" in out


def test_runs_that_compare_by_value_and_as_text_are_not_compared(sums, moods):
    flags = "--dataset", sums.parent.parent, "--samples", 0
    with pytest.raises(t5.InputError, match="by value and some as text: give --by-value"):
        settings = json.loads((sums / "settings.json").read_text())
        other = sums.parent / "text"
        shutil.copytree(sums, other)
        (other / "settings.json").write_text(
            json.dumps(settings | {"by_value": False}))  # as a run without --by-value
        printed(sums, "--against", other, *flags)


def test_the_predictions_of_two_students_are_not_mixed_in_one_file(moods, sums, tmp_path):
    source = write_lines(tmp_path / "in.jsonl", [{"input": "Anna lost pens."}] * 3)
    target = tmp_path / "out.jsonl"
    printed(moods, "--predict", source, "--to", target)
    target.write_text("".join(target.open().readlines()[:2]))
    content = target.read_bytes()
    with pytest.raises(t5.InputError, match="holds the answers of another student"):
        printed(sums, "--predict", source, "--to", target)
    assert target.read_bytes() == content


@pytest.mark.parametrize("text, words", [
    ('{"input": "a"}\n{"text": "b"}\n', "line 2: expected a text as 'input', found no such field"),
    ('{"input": 3}\n', "line 1: expected a text as 'input', found 3"), ("[1]\n", "line 1: "),
    ('{"input": "a"}\n{"inp\n', "line 2: expected JSON"), ("", "expected lines of JSON")])
def test_a_mistake_in_the_file_to_answer_names_file_line_and_field(moods, tmp_path, text, words):
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(t5.InputError, match="in.jsonl.*" + re.escape(words)):
        printed(moods, "--predict", tmp_path / "in.jsonl", "--to", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


# ------------------------------------------------------------------------------------------------
# tables


def fabricate(folder, name, accuracy, **settings):
    """A finished run's two files, as train.py leaves them."""
    run = folder / name
    run.mkdir()
    defaults = vars(train.parse(["--dataset", settings["dataset"]]))
    (run / "settings.json").write_text(json.dumps(defaults | settings))
    metrics = {"test_accuracy": accuracy, "test_accuracy_last": accuracy - 0.01}
    (run / "metrics.json").write_text(json.dumps(metrics))


def test_a_table_has_a_row_a_method_and_a_cell_a_set_with_mean_deviation_and_seeds(tmp_path):
    for seed, accuracy in enumerate((0.50, 0.52, 0.57)):
        fabricate(tmp_path, f"svamp-small-mi-s{seed}", accuracy, dataset="svamp", size="small")
    fabricate(tmp_path, "svamp-small-mi-mi_kl-s0", 0.4, dataset="svamp", mi="kl")
    fabricate(tmp_path, "cqa-small-finetune-s0", 0.43, dataset="cqa", method="finetune")
    fabricate(tmp_path, "cqa-base-dss-labels_llm-s0", 0.6, dataset="cqa", size="base",
              method="dss", labels="llm")  # fmt: skip
    fabricate(tmp_path, "svamp-base-mi-reduce_mean-s0", 0.6, dataset="svamp", size="base",
              reduce="mean")  # fmt: skip
    fabricate(tmp_path, "svamp-base-mi-subsample_0.5-s0", 0.6, dataset="svamp", size="base",
              subsample=0.5)  # fmt: skip
    fabricate(tmp_path, "my-small-set-small-dss-s0", 0.7, dataset="a/my-small-set", method="dss")
    fabricate(tmp_path, "renamed", 0.8, dataset="svamp")
    (tmp_path / "unfinished").mkdir()
    out = printed("--table", tmp_path, "--csv", tmp_path / "table.csv")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[2:]]
    paper = "the paper's"
    assert rows[0] == ["size, method", "cqa", paper, "svamp", paper, "my-small-set"]
    assert rows[2:] == [
        ["base, dss-labels_llm", "60.00 (1)", "", "", "", ""],  # Table 3 has no CQA
        ["base, mi-reduce_mean", "", "", "60.00 (1)", "66.50", ""],
        ["base, mi-subsample_0.5", "", "", "60.00 (1)", "", ""],
        ["small, finetune", "43.00 (1)", "43.16", "", "", ""],
        ["small, dss", "", "", "", "", "70.00 (1)"],
        ["small, mi", "", "", "53.00 ± 3.61 (3)", "52.50", ""],
        ["small, mi-mi_kl", "", "", "40.00 (1)", "", ""],
        ["small, renamed", "", "", "80.00 (1)", "52.50", ""],
    ]
    with open(tmp_path / "table.csv", newline="") as file:
        [line] = [r for r in csv.DictReader(file) if (r["size"], r["method"]) == ("small", "mi")]
    assert line["seeds"] == "3" and line["paper"] == "52.5" and line["dataset"] == "svamp"
    assert float(line["deviation"]) == pytest.approx(np.std([50, 52, 57], ddof=1))
    assert float(line["accuracy_last"]) == pytest.approx(52)


def test_two_folders_of_one_name_do_not_share_a_cell(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    for folder, accuracy in (("A/mine", 0.1), ("B/mine", 0.9)):  # as train.py names them
        Path(folder).mkdir(parents=True)
        name = train.run_name(train.parse(["--dataset", folder]))
        fabricate(tmp_path / "runs", name, accuracy, dataset=folder)
    for place in (tmp_path, tmp_path / "runs"):  # whatever the folder that the command is given in
        monkeypatch.chdir(place)
        header, _, row = printed("--table", tmp_path / "runs").splitlines()[2:]
        assert header.count("mine.") == 2 and "10.00 (1)" in row and "90.00 (1)" in row


def test_a_table_of_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(t5.InputError, match="expected finished runs"):
        printed("--table", tmp_path)
    fabricate(tmp_path, "svamp-small-mi-s0", 0.5, dataset="svamp")
    (tmp_path / "svamp-small-mi-s0" / "metrics.json").write_text("{}")
    with pytest.raises(t5.InputError, match="not as train.py leaves a run"):
        printed("--table", tmp_path)


# ------------------------------------------------------------------------------------------------
# mistakes


@pytest.mark.parametrize("flags, words", [
    ([], "expected runs"), (["RUN", "--table", "runs"], "expected runs"),
    (["RUN", "RUN", "--ask", "x"], "take one run"), (["RUN", "RUN", "--plot", "x.png"], "one run"),
    (["RUN", "RUN", "--judge", "x.jsonl"], "take one run"),
    (["RUN", "RUN", "--predict", "IN", "--to", "OUT.jsonl"], "take one run"),
    (["RUN", "--plot", "x.png"], "--plot needs matplotlib: pip install matplotlib"),
    (["RUN", "--curves", "x.png"], "--curves needs matplotlib: pip install matplotlib; or draw in "
     "the terminal: --curves -"),
    (["RUN", "--confidence", "closed"], "expected candidate labels, found none"),
    (["RUN", "--confidence", "closed", "--predict", "IN", "--to", "OUT.jsonl"], "candidate labels"),
    (["RUN", "--confidence", "closed", "--ask", "Anna"], "expected candidate labels, found none"),
    (["RUN", "--judge", "localhost:8000/v1"], "--judge localhost:8000/v1: expected a URL"),
    (["RUN", "--judge", "gpt-4o"], "expected a URL"), (["RUN", "--judge", ""], "expected a URL"),
    (["RUN", "--judge", "ftp://host/v1"], "expected a URL"),
    (["RUN", "--judge", "https://"], "expected a URL"),
    (["RUN", "--judge", "http://[bad"], "expected a URL"),
    (["RUN", "--judge", "none/requests.jsonl"], "expected a file in a folder that is there"),
    (["RUN", "--judge-model", "m"], "need --judge"), (["RUN", "--judge-teacher"], "need --judge"),
    (["RUN", "--ask", ""], "--ask: expected a text"), (["RUN", "--ask", " \n"], "expected a text"),
    (["RUN", "--csv", "x.csv"], "--csv needs --table"),
    (["--table", "runs", "--csv", "none/x.csv"], "--csv none/x.csv: expected a file in a folder"),
    (["RUN", "--samples", "-1"], "--samples: expected 0 or more, found -1"),
    (["RUN", "--samples", "x"], "invalid int value: 'x'"),
    (["RUN", "--predict", "IN"], "need each other"), (["RUN", "--to", "x"], "need each other"),
    (["RUN", "--predict", "none.jsonl", "--to", "OUT.jsonl"], "none.jsonl"),
    (["RUN", "--predict", "IN", "--to", "IN"], "another file"),
    (["RUN", "--predict", "IN", "--to", "none/x.jsonl"], "--to none/x.jsonl: expected a file"),
    (["RUN", "--ask", "x", "--predict", "IN", "--to", "x"], "not allowed with argument"),
    (["RUN", "--ask", "x", "--plot", "x.png"], "belong to the report"),
    (["RUN", "--device", "gpu"], "--device gpu: "), (["RUN", "--device", "cuda:9"], "cuda:9: "),
    (["RUN", "--tokenizer", "none.model"], "none.model: not there"), (["none"], "none"),
    (["RUN", "--dataset", "none"], "none/test.jsonl: not there"),
    (["RUN", "--split", "x"], "--split"),
    (["none", "--curves", "-"], "log.jsonl"), (["--table", "none"], "expected finished runs"),
])  # fmt: skip
def test_a_mistake_is_one_line_with_status_2_before_anything_is_decoded(
        runs, tmp_path, monkeypatch, capsys, flags, words):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    monkeypatch.delattr(t5.T5, "generate")
    source = write_lines(tmp_path / "in.jsonl", [{"input": "Anna lost pens."}])
    names = {"RUN": str(runs["mi"]), "IN": str(source)}
    argv = [names.get(flag, flag) for flag in flags]
    try:
        status = evaluation.run_for_user("eval.py", lambda: evaluation.main(argv))
    except SystemExit as end:
        status = end.code
    message = capsys.readouterr().err
    assert status == 2 and message.startswith("eval.py: ") and message.count("\n") == 1, message
    assert words in message
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]  # nothing was written


def test_the_real_command_line_says_a_mistake_in_one_line(tmp_path):
    assert "config.json" in refused(tmp_path)
    assert "--samples: expected 0 or more" in refused(tmp_path, "--samples", "-1")


def test_a_picture_of_an_unknown_kind_is_refused(runs, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(t5.InputError, match="diagram.nonsense: expected a name that ends in"):
        printed(runs["mi"], "--plot", tmp_path / "diagram.nonsense")


@pytest.mark.parametrize("flags", [
    ["--method", "finetune"], ["--method", "single"], ["--method", "dss"], [],
    ["--mi", "released"], ["--mi", "kl"], ["--reduce", "mean"], ["--mi", "released", "--reduce",
    "mean"], ["--labels", "llm"], ["--method", "dss", "--labels", "llm"], ["--subsample", "0.5"],
    ["--dataset", "OWN", "--size", "tiny", "--from-scratch", "--tokenizer", "TOY"],
])  # fmt: skip
def test_every_kind_of_experiment_runs_from_end_to_end(toy, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(evaluation, "MAX_RATIONALE", 32)  # a student of two steps never stops
    for split in ("train", "test"):
        write_lines(tmp_path / f"{split}.jsonl", map(vars, data.load("toy", split, toy)[:20]))
    paths = {"OWN": str(tmp_path), "TOY": str(toy / "toy" / "spiece.model")}
    small = ["--steps", "2", "--batch-size", "4", "--data-root", str(toy)]
    train.main([*small, "--out", str(tmp_path / "runs"), *(paths.get(f, f) for f in flags)])
    [run] = (tmp_path / "runs").glob("*")
    out = printed(run, "--samples", 1, "--rationales")
    assert "accuracy" in out and "rationales with the answer" in out
    assert "(1) " in printed("--table", tmp_path / "runs").splitlines()[-1]
