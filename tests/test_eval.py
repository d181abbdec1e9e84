"""eval.py: statistics against independent computations, and the command line on runs, exports
and nonsense. The judge has tests/test_judge.py.

    python -m pytest tests/test_eval.py
"""

import contextlib
import io
import csv
import json
import math
import re
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import eval as judge
import t5
import train


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
    ece = judge.expected_calibration_error([0.95, 0.85, 0.15], [True, False, False])
    assert ece == pytest.approx((0.05 + 0.85 + 0.15) / 3, abs=1e-12)


def test_calibration_error_equals_plain_loops_on_10_000_random_cases():
    rng = np.random.default_rng(0)
    for case in range(10_000):
        n, bins = int(rng.integers(1, 12)), int(rng.integers(1, 16))
        confidence = rng.random(n).round(case % 4)  # 0, 1 and edges in most of them
        correct = rng.random(n) < 0.5
        expected = ece_in_loops(confidence.tolist(), correct.tolist(), bins)
        assert abs(judge.expected_calibration_error(confidence, correct, bins) - expected) < 1e-12


@pytest.mark.parametrize("confidence, correct, ece", [
    ([0.0], [False], 0.0), ([0.0], [True], 1.0), ([1.0], [True], 0.0), ([1.0], [False], 1.0),
    ([0.1, 0.1], [True, False], 0.4),  # an edge: both in the second bin
    ([1.0, 0.95], [True, True], 0.025), ([0.5] * 4, [True, True, False, False], 0.0),
])  # fmt: skip
def test_calibration_error_at_the_edges(confidence, correct, ece):
    assert judge.expected_calibration_error(confidence, correct) == pytest.approx(ece, abs=1e-12)


@pytest.mark.parametrize("confidence, correct", [
    ([], []), ([0.5], [True, False]), ([1.1], [True]), ([-0.1], [True]), ([math.nan], [True])])
def test_calibration_error_refuses_what_is_no_confidence(confidence, correct):
    with pytest.raises(ValueError, match="expected"):
        judge.expected_calibration_error(confidence, correct)


def test_confidence_is_the_product_of_the_answers_token_probabilities_with_the_end(runs):
    model, tokenizer = t5.load(runs["mi"]), data.Tokenizer(runs["mi"] / "spiece.model")
    examples = data.load("toy", "test", runs["mi"].parent.parent)[:5]
    answers = judge.answer(model, tokenizer, examples, "mi")
    for example, (label, _, log_prob) in zip(examples, answers):
        source = data.pad([tokenizer.encode(f"predict: {example.input}")])
        ids, _ = model.generate(source, judge.MAX_LABEL)
        probabilities = model(source, ids).softmax(-1)[0, range(ids.shape[1]), ids[0]]
        assert math.exp(log_prob) == pytest.approx(probabilities.prod().item(), rel=1e-4)
        assert label == tokenizer.decode(ids[0])


def test_a_target_is_scored_as_the_student_scored_it_when_it_wrote_it(runs):
    model, tokenizer = t5.load(runs["mi"]), data.Tokenizer(runs["mi"] / "spiece.model")
    examples = data.load("toy", "test", runs["mi"].parent.parent)
    texts = [f"predict: {example.input}" for example in examples]
    written = judge.write(model, tokenizer, texts, judge.MAX_LABEL)
    whole = [i for i, (text, _) in enumerate(written) if len(tokenizer.encode(text)) < 30]
    scores = judge.score(model, tokenizer, texts, [text for text, _ in written])
    assert len(whole) > 10
    for i in whole:
        assert scores[i] == pytest.approx(written[i][1], abs=1e-4)


CHOICES = data.Example("How many?\nAnswer Choices:\n(a) 30\n(b) 7\n(c) pens\n(d) eggs\n(e) 7",
                       "7", "", "")  # fmt: skip


@pytest.mark.parametrize("name, example, labels", [
    ("cqa", CHOICES, ["30", "7", "pens", "eggs"]),
    ("anli1", data.Example("Ann has pens.</s>Ann has eggs.", "neutral", "", ""), data.NLI_LABELS)])
@pytest.mark.parametrize("method", ["mi", "single"])
def test_closed_confidence_is_the_share_among_the_candidates(runs, name, example, labels, method):
    """Against one plain pass a candidate: exp of the sum of its log-probabilities, normalised."""
    model, tokenizer = t5.load(runs[method]), data.Tokenizer(runs[method] / "spiece.model")
    source = data.pad([tokenizer.encode(data.prompts(example.input, method)[0])])
    before = "They are many. The answer is " if method == "single" else ""
    weights = []
    for label in labels:
        target = torch.tensor([tokenizer.encode(before + label)])
        with torch.no_grad():
            log_p = model(source, target).double().log_softmax(-1)
        weights.append(math.exp(sum(log_p[0, t, i].item() for t, i in enumerate(target[0]))))
    written = [tokenizer.decode(tokenizer.encode(label)) for label in labels]
    answers = [(label, "They are many.", 0.0) for label in [*written, "none of them"]]
    asked = model, tokenizer, [example] * len(answers), name, method, answers
    expected = [weight / sum(weights) for weight in weights] + [0.0]
    assert judge.closed_confidence(*asked) == pytest.approx(expected, rel=1e-4)
    assert sum(expected) == pytest.approx(1)


def test_closed_confidence_needs_candidates(runs):
    with pytest.raises(t5.InputError, match="candidate labels, which toy has not"):
        printed(runs["mi"], "--confidence", "closed")


def test_a_bootstrap_interval_of_a_mean_is_the_normal_one():
    """1,000 judgements, 700 right: 0.7 ± 1.96 sqrt(0.7 * 0.3 / 1000) = 0.7 ± 0.0284."""
    right = np.arange(1_000) < 700
    low, high = judge.bootstrap(np.mean, right)
    assert low == pytest.approx(0.7 - 0.0284, abs=0.003)
    assert high == pytest.approx(0.7 + 0.0284, abs=0.003)


def test_a_paired_interval_is_that_of_the_examples_differences():
    """a and b differ on 100 of 1,000 examples, 70 to 30: 0.04 ± 1.96 sqrt((0.1 - 0.04^2) / 1000)
    = 0.04 ± 0.0194. Unpaired it would be more than twice as wide."""
    a, b = np.arange(1_000) < 570, np.arange(1_000) < 500
    b[970:] = True
    low, high = judge.difference_interval(a[:, None], b[:, None])
    assert low == pytest.approx(0.04 - 0.0194, abs=0.003)
    assert high == pytest.approx(0.04 + 0.0194, abs=0.003)
    # two groups whose runs disagree far more than examples do: the interval has to know
    good, bad = np.ones(1_000, bool), np.zeros(1_000, bool)
    low, high = judge.difference_interval(np.stack([good, bad], 1), np.stack([bad, bad], 1))
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
        assert judge.mcnemar(a, b) == pytest.approx(p, abs=1e-12)
    assert judge.mcnemar(np.ones(3, bool), np.ones(3, bool)) == 1.0  # they never differ
    assert judge.mcnemar(np.ones(9_000, bool), np.zeros(9_000, bool)) == 0.0  # below fp64's range
    assert judge.mcnemar(np.arange(5) < 5, np.arange(5) < 0) == 2 / 2**5


def test_a_permutation_p_value_is_right_with_a_correlation_and_uniform_without(monkeypatch):
    rng = np.random.default_rng(0)
    for share in (0.1, 0.3, 0.6):  # correlations of normal data, whose p Fisher's z tells
        x = rng.normal(size=50)
        y = share * x + math.sqrt(1 - share**2) * rng.normal(size=50)
        r, p = judge.pearson(x, y)
        assert r == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
        z = math.atanh(abs(r)) * math.sqrt(50 - 3)
        assert p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.015)
    x, y = np.arange(5.0), np.array([1.0, 0.0, 2.0, 3.0, 4.0])  # r = 0.9 or more either way:
    assert judge.pearson(x, y)[1] == pytest.approx(10 / 120, abs=0.015)  # 10 of 120 orders
    monkeypatch.setattr(judge, "PERMUTATIONS", 199)
    values = np.sort([judge.pearson(rng.normal(size=20), rng.random(20) < 0.5, seed)[1]
                      for seed in range(600)])  # fmt: skip
    distance = abs(values - np.arange(1, 601) / 600).max()  # Kolmogorov and Smirnov's
    assert distance < 1.63 / math.sqrt(600)  # its 1% point
    r, p = judge.pearson([3.0, 3.0, 3.0], [1, 0, 1])
    assert math.isnan(r) and p == 1.0


@pytest.mark.parametrize("rationale, label, inside, result", [
    ("He had 3 - 1 = 2 pens.", "( 3 - 1 )", False, "2"),
    ("He had ( 3 - 1 ) = 2 pens, so 2 + 1,000 = $1,002.", "(3 - 1)", True, "1002"),
    ("The Zoo  is closed.", "zoo is", True, ""), ("3 pens", "", False, ""), ("", "a", False, ""),
    ("3 - 5 = -2.5", "( 3 - 5 )", False, "-2.5"), ("so 5 = x", "5", True, ""),
])  # fmt: skip
def test_what_a_rationale_contains(rationale, label, inside, result):
    assert judge.contains(rationale, label) is inside
    assert judge.last_result(rationale) == result


def printed(*argv):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        judge.main([str(value) for value in argv])
    return out.getvalue()


@pytest.mark.parametrize("method", ["finetune", "single", "mi"])
def test_a_run_is_judged_as_it_was_at_the_end_of_its_training(runs, method):
    out = printed(runs[method], "--samples", 2)
    metrics = json.loads((runs[method] / "metrics.json").read_text())
    (accuracy,) = [line.split()[2] for line in out.splitlines() if line.startswith("accuracy")]
    assert accuracy == f"{100 * metrics['test_accuracy']:.2f}"
    assert out.count("answer:") == 2 and ("rationale:" in out or method != "mi")
    assert "on toy valid, 20 examples" in printed(runs[method], "--split", "valid")


def test_a_bare_export_needs_dataset_and_method_and_is_judged_the_same(runs, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.T5ForConditionalGeneration.from_pretrained(runs["mi"]).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes((runs["mi"] / "spiece.model").read_bytes())
    root = runs["mi"].parent.parent
    with pytest.raises(t5.InputError, match="so --method is needed"):
        printed(tmp_path, "--data-root", root)
    with pytest.raises(t5.InputError, match="so --dataset is needed"):
        printed(tmp_path, "--data-root", root, "--method", "mi")
    out = printed(tmp_path, "--data-root", root, "--dataset", "toy", "--method", "mi")
    assert out.splitlines()[1:] == printed(runs["mi"]).splitlines()[1:]


def test_a_folder_that_is_no_run_is_one_line_and_status_2(tmp_path):
    script = Path(judge.__file__)
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "config.json" in done.stderr


def test_what_is_printed_of_calibration_is_what_the_answers_give(runs, monkeypatch):
    """Against plain loops over the student's own answers, with made-up judgements among them."""
    found = iter([True, False] * 10)
    monkeypatch.setattr(data, "is_correct", lambda *_: next(found))
    out = printed(runs["dss"], "--samples", 0)
    model, tokenizer = t5.load(runs["dss"]), data.Tokenizer(runs["dss"] / "spiece.model")
    examples = data.load("toy", "test", runs["dss"].parent.parent)
    answers = judge.answer(model, tokenizer, examples, "dss")
    c, r = [math.exp(p) for _, _, p in answers], [1.0, 0.0] * 10
    for name, value in {
        "accuracy, %": 50.0, "average confidence, sequence, %": 5 * sum(c),
        "confidence less accuracy, %": 5 * sum(c) - 50,
        "expected calibration error, %": 100 * ece_in_loops(c, r, 10),
        "Brier score": sum((x - y) ** 2 for x, y in zip(c, r)) / 20,
    }.items():  # fmt: skip
        (line,) = [line for line in out.splitlines() if line.startswith(name)]
        shown, low, _, high = map(lambda x: x.replace("to", "0"), line[len(name) :].split())
        assert float(shown) == pytest.approx(value, abs=0.006)
        assert float(low) <= float(shown) <= float(high)
    # the diagram holds every example once
    rows = re.findall(r"^0\.\d to [01]\.\d +(\d+) ", out, re.MULTILINE)
    assert sum(map(int, rows)) == 20


def test_rationales_are_measured(runs):
    out = printed(runs["mi"], "--samples", 0, "--rationales")
    model, tokenizer = t5.load(runs["mi"]), data.Tokenizer(runs["mi"] / "spiece.model")
    examples = data.load("toy", "test", runs["mi"].parent.parent)
    answers = judge.answer(model, tokenizer, examples, "mi")
    texts = judge.explain(model, tokenizer, examples, "mi", answers)
    inside = sum(label.replace(" ", "") in text.replace(" ", "")
                 for (label, _, _), text in zip(answers, texts))  # fmt: skip
    assert f"rationales with the answer that was given {inside / 20:8.2%}" in out
    assert "rationales that are blank" in out


def test_a_picture_needs_matplotlib_and_says_so(runs, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    with pytest.raises(t5.InputError, match="--plot needs matplotlib: pip install matplotlib"):
        printed(runs["mi"], "--plot", tmp_path / "diagram.png")


def test_a_picture_is_drawn(runs, tmp_path):
    pytest.importorskip("matplotlib")
    printed(runs["mi"], "--plot", tmp_path / "diagram.png")
    assert (tmp_path / "diagram.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(t5.InputError, match="diagram.nonsense"):
        printed(runs["mi"], "--plot", tmp_path / "diagram.nonsense")


def test_two_runs_are_compared_and_the_examples_that_tell_them_apart_shown(runs, monkeypatch):
    right = {"finetune": [1] * 12 + [0] * 8, "mi": [1] * 10 + [0] * 9 + [1]}
    found = iter(right["mi"] + right["finetune"])
    monkeypatch.setattr(data, "is_correct", lambda *_: bool(next(found)))
    out = printed(runs["mi"], "--against", runs["finetune"], "--samples", 2)
    assert "A  55.00 (1)" in out and "B  60.00 (1)" in out
    assert "A less B, 20 examples: -5.00 points" in out
    assert "only A is right on 1, only B on 2: exact McNemar p = 1.0000" in out
    examples = data.load("toy", "test", runs["mi"].parent.parent)
    assert f"[10] {examples[10].input}" in out and "[11]" in out and "[19]" not in out
    assert out.count("A, wrong") == out.count("B, right") == 2 and f"=> {examples[10].label}" in out
    assert max(map(len, out.splitlines()[3:])) <= 160


def test_groups_of_runs_are_compared(runs):
    out = printed(runs["mi"], runs["single"], "--against", runs["finetune"], runs["dss"])
    accuracies = [100 * json.loads((runs[m] / "metrics.json").read_text())["test_accuracy"]
                  for m in ("mi", "single", "finetune", "dss")]  # fmt: skip
    value = np.mean(accuracies[:2]) - np.mean(accuracies[2:])
    assert f"A less B, 20 examples: {value:+.2f} points" in out and "McNemar" not in out
    assert f"A  {judge.mean_and_deviation(accuracies[:2])}" in out


def test_runs_on_different_examples_are_not_compared(runs, tmp_path):
    lines = '{"input": "1", "label": "2", "rationale": "3"}\n'
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(lines * 20)
    other = tmp_path / "run"
    other.mkdir()
    for path in runs["mi"].glob("*.*"):
        (other / path.name).write_bytes(path.read_bytes())
    settings = json.loads((other / "settings.json").read_text()) | {"dataset": str(tmp_path)}
    (other / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(t5.InputError, match="different examples"):
        printed(runs["mi"], "--against", other)
    assert "on toy test" in printed(other, "--dataset", "toy")  # another set than its own
    (other / "settings.json").write_text("[1")
    with pytest.raises(t5.InputError, match="settings.json: expected a JSON object"):
        printed(other)


def test_a_vocabulary_that_is_not_the_runs_own_is_refused(runs, tmp_path):
    for path in runs["mi"].glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data.write_toy(tmp_path / "other", {"train": 100, "test": 5}, seed=1)
    other = (tmp_path / "other" / "toy" / "spiece.model").read_bytes()
    (tmp_path / "spiece.model").write_bytes(other)
    with pytest.raises(t5.InputError, match="spiece.model: not the vocabulary"):
        printed(tmp_path)


def test_one_text_is_answered(runs):
    text = data.load("toy", "test", runs["mi"].parent.parent)[0].input
    sample = printed(runs["mi"], "--samples", 1)
    asked = printed(runs["mi"], "--ask", text)
    answer, rationale, confidence = (
        next(line for line in asked.splitlines() if line.startswith(word)).split(":", 1)[1].strip()
        for word in ("answer", "rationale", "confidence"))  # fmt: skip
    assert f"answer:    {answer}" in sample and f"rationale: {rationale}" in sample
    assert f"confidence {confidence})" in sample


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
        (line,) = [r for r in csv.DictReader(file) if (r["size"], r["method"]) == ("small", "mi")]
    assert line["seeds"] == "3" and line["paper"] == "52.5" and line["dataset"] == "svamp"
    assert float(line["deviation"]) == pytest.approx(np.std([50, 52, 57], ddof=1))
    assert float(line["accuracy_last"]) == pytest.approx(52)


def test_a_table_of_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(t5.InputError, match="expected finished runs"):
        printed("--table", tmp_path)
    fabricate(tmp_path, "svamp-small-mi-s0", 0.5, dataset="svamp")
    (tmp_path / "svamp-small-mi-s0" / "metrics.json").write_text("{}")
    with pytest.raises(t5.InputError, match="not as train.py leaves a run"):
        printed("--table", tmp_path)


@pytest.mark.parametrize("flags, words", [
    ([], "expected runs"), (["RUN", "--table", "runs"], "expected runs"),
    (["A", "B", "--ask", "x"], "take one run"), (["A", "B", "--plot", "x.png"], "take one run"),
    (["A", "B", "--judge", "x.jsonl"], "take one run")])  # fmt: skip
def test_a_command_line_that_makes_no_sense_has_status_2(flags, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        judge.main(flags)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("flags", [
    ["--method", "finetune"], ["--method", "single"], ["--method", "dss"], [],
    ["--mi", "released"], ["--mi", "kl"], ["--reduce", "mean"], ["--mi", "released", "--reduce",
    "mean"], ["--labels", "llm"], ["--method", "dss", "--labels", "llm"], ["--subsample", "0.5"],
    ["--dataset", "OWN", "--size", "tiny", "--from-scratch", "--tokenizer", "TOY"],
])  # fmt: skip
def test_every_kind_of_experiment_runs_from_end_to_end(runs, tmp_path, flags):
    root = runs["mi"].parent.parent
    for split in ("train", "test"):
        lines = [vars(example) for example in data.load("toy", split, root)[:40]]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{split}.jsonl").write_text(text)
    paths = {"OWN": str(tmp_path), "TOY": str(root / "toy" / "spiece.model")}
    small = ["--steps", "2", "--batch-size", "4", "--data-root", str(root)]
    train.main([*small, "--out", str(tmp_path / "runs"), *(paths.get(f, f) for f in flags)])
    (run,) = (tmp_path / "runs").glob("*")
    out = printed(run, "--samples", 1, "--rationales")
    assert "accuracy" in out and "rationales with the answer" in out
    assert "(1) " in printed("--table", tmp_path / "runs").splitlines()[-1]


def test_every_command_of_the_readme_is_one_that_the_programs_take():
    readme = (Path(judge.__file__).parent / "README.md").read_text()
    found = re.findall(r"python (train|eval)\.py([^`;|\n]*)", readme)
    assert len(re.findall(r"^\| .*\| `python ", readme, re.MULTILINE)) > 15  # of the paper's
    for program, flags in found:
        flags = flags.replace("--method $m", "--method mi").replace("$s", "0").replace("$f", "0.5")
        {"train": train, "eval": judge}[program].parse(shlex.split(flags))
