"""eval.py: calibration against plain loops, and the command line on runs, exports and nonsense.

    python -m pytest tests/test_eval.py
"""

import contextlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
import eval as judge
import t5
import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{method: the folder of a small run}, trained on one toy set."""
    folder, runs = tmp_path_factory.mktemp("runs"), {}
    data.write_toy(folder, {"train": 200, "test": 20})
    for method in ("finetune", "single", "mi"):
        flags = ["--steps", "30", "--batch-size", "8", "--eval-every", "30", "--method", method]
        train.main([*flags, "--data-root", str(folder), "--out", str(folder / method)])
        (runs[method],) = (folder / method).glob("*")
    return runs


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


def printed(*argv):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        judge.main([str(value) for value in argv])
    return out.getvalue()


@pytest.mark.parametrize("method", ["finetune", "single", "mi"])
def test_a_run_is_judged_as_it_was_at_the_end_of_its_training(runs, method):
    out = printed(runs[method], "--samples", 2)
    metrics = json.loads((runs[method] / "metrics.json").read_text())
    (accuracy,) = [line.split()[1] for line in out.splitlines() if line.startswith("accuracy")]
    assert accuracy == f"{metrics['test_accuracy']:.2%}"
    assert out.count("answer:") == 2 and ("rationale:" in out or method != "mi")
    assert "on toy valid, 20 examples" in printed(runs[method], "--split", "valid")


def test_a_bare_export_needs_dataset_and_method_and_is_judged_the_same(runs, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.T5ForConditionalGeneration.from_pretrained(runs["mi"]).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes((runs["mi"] / "spiece.model").read_bytes())
    root = runs["mi"].parent.parent
    with pytest.raises(t5.InputError, match="so --dataset is needed"):
        printed(tmp_path, "--data-root", root)
    out = printed(tmp_path, "--data-root", root, "--dataset", "toy", "--method", "mi")
    assert out.splitlines()[1:] == printed(runs["mi"]).splitlines()[1:]


def test_a_folder_that_is_no_run_is_one_line_and_status_2(tmp_path):
    script = Path(judge.__file__)
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "config.json" in done.stderr
