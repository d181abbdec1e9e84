"""eval.py: statistics against independent computations; the command line on runs, exports,
own data and mistakes. tests/test_judge.py has the judge.

    python -m pytest tests/test_eval.py
"""

import contextlib
import gc
import importlib.util
import io
import json
import math
import re
import shutil
import weakref

import numpy as np
import pytest
import torch

import data
import eval as evaluation
import t5
import train


def printed(*argv):
    """What eval.py prints, in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        evaluation.main([str(value) for value in argv])
    return out.getvalue()


def refused(*argv):
    """The one line of a user's mistake, with status 2."""
    argv = [str(value) for value in argv]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status = evaluation.run_for_user("eval.py", lambda: evaluation.main(argv))
        except SystemExit as end:
            status = end.code
    message = err.getvalue()
    assert status == 2 and re.fullmatch("eval.py: .*\n", message), message
    return message


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def moods(toy, tmp_path_factory):
    """A run on own data of two classes, short and overfitted to, so that the student stops."""
    folder, lines = tmp_path_factory.mktemp("own") / "moods", []
    folder.mkdir()
    for i in range(60):
        name, thing = data.NAMES[i % len(data.NAMES)], data.THINGS[7 * i % len(data.THINGS)]
        verb, label = (("bought", "pos"), ("lost", "neg"))[i % 2]
        text = f"{name} {verb} {thing}."
        lines.append({"input": text, "label": label, "rationale": text})
    for split, rows in (("train", lines), ("valid", lines[:10]), ("test", lines[:40])):
        write_lines(folder / f"{split}.jsonl", rows)
    flags = ["--dataset", folder, "--size", "tiny", "--from-scratch", "--out", folder / "runs"]
    flags += ["--tokenizer", toy / "toy" / "spiece.model", "--lr", "4e-3", "--batch-size", "32"]
    train.main([str(flag) for flag in [*flags, "--steps", "150", "--eval-every", "150"]])
    [run] = (folder / "runs").glob("*")
    return run


def student_of(run, *flags):
    args = evaluation.parse([str(run), *flags])
    return evaluation.with_weights(evaluation.load_student(run, args), args)


def inputs(student):
    return [example.input for example in student.examples]


def copy_of(run, folder, **settings):
    """A run's folder elsewhere, with other settings."""
    shutil.copytree(run, folder)
    settings = json.loads((run / "settings.json").read_text()) | settings
    t5.write_json(folder / "settings.json", settings)
    return folder


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, in order; they are written, too."""
    Figure, found = pytest.importorskip("matplotlib.figure").Figure, []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (found.append(f), save(f, *a, **k)))
    return found


# ------------------------------------------------------------------------------------------------
# statistics


def ece_in_loops(confidence, correct, bins=10):
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if min(math.floor(c * bins), bins - 1) == b]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            average = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - average)
    return total


def test_calibration_by_hand():
    """0.15 and 0.85 lie alone in their bins, 0.9 and 1.0 share the last: ECE
    (|0 - 0.15| + |0 - 0.85| + 2 |1/2 - 0.95|) / 4."""
    confidence, right = np.array([0.9, 0.85, 0.15, 1.0]), np.array([True, False, False, False])
    rows = np.stack(evaluation.reliability(confidence, right), 1)
    assert rows == pytest.approx(np.array([(1, 1, 0.15, 0), (8, 1, 0.85, 0), (9, 2, 0.95, 0.5)]))
    ece = evaluation.expected_calibration_error(confidence, right)
    assert ece == pytest.approx((0.15 + 0.85 + 0.9) / 4)


def test_calibration_error_equals_plain_loops_on_random_cases():
    rng = np.random.default_rng(0)
    for case in range(3_000):
        n, bins = int(rng.integers(1, 12)), int(rng.integers(1, 16))
        confidence = rng.random(n).round(case % 4)  # 0, 1 and edges in most of them
        correct = rng.random(n) < 0.5
        expected = ece_in_loops(confidence.tolist(), correct.tolist(), bins)
        ece = evaluation.expected_calibration_error(confidence, correct, bins)
        assert abs(ece - expected) < 1e-12


@pytest.mark.parametrize("correct", [[], [True, False], [True]])
@pytest.mark.parametrize("confidence", [[], [1.1], [-0.1], [math.nan]])
def test_calibration_error_refuses_what_is_no_confidence(confidence, correct):
    with pytest.raises(ValueError, match="expected"):
        evaluation.expected_calibration_error(confidence, correct)


def test_five_percent_of_calibrated_students_lie_above_the_quantile_of_their_errors():
    """Of 4,000 students of 200 answers, each right with a probability of its confidence."""
    rng, above = np.random.default_rng(0), []
    for spread in np.repeat([0.5, 1.0, 4.0, 16.0], 5):  # from extreme confidences to equal ones
        confidence = rng.beta(spread, spread / 2, size=200)
        limit = evaluation.ece_limit(confidence)
        for right in rng.random((200, 200)) < confidence:
            above.append(evaluation.expected_calibration_error(confidence, right) > limit)
    assert 0.03 < np.mean(above) < 0.07


def test_a_paired_interval_is_that_of_the_examples_differences():
    """a and b differ on 100 of 1,000 examples, 70 to 30: 0.04 ± 1.96 sqrt((0.1 - 0.04^2) / 1000)
    = 0.04 ± 0.0194. Unpaired it would be more than twice as wide."""
    a, b = np.arange(1_000) < 570, np.arange(1_000) < 500
    b[970:] = True
    interval = evaluation.difference_interval(a[:, None], b[:, None])
    assert interval == pytest.approx((0.04 - 0.0194, 0.04 + 0.0194), abs=0.003)
    # 8 runs that disagree far more than examples do: of 8 drawn anew, 1 to 7 are good
    good, bad = np.ones((1_000, 4), bool), np.zeros((1_000, 4), bool)
    interval = evaluation.difference_interval(np.concatenate([good, bad], 1), bad[:, :1])
    assert interval == pytest.approx((1 / 8, 7 / 8), abs=0.003)


@pytest.mark.parametrize("a, b", [(1, 1), (0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("n, runs", [(1, 1), (20, 1), (20, 3)])
def test_no_difference_has_an_interval_of_zero_width(a, b, n, runs):
    left, right = np.full((n, runs), a, bool), np.full((n, 2), b, bool)
    low, high = evaluation.difference_interval(left, right)
    assert -1 <= low <= a - b <= high <= 1 and high - low > 2 / (n + 2)


def test_the_interval_of_a_correlation_is_fishers():
    """r = 0.5, n = 28: atanh(0.5) = 0.5493, plus and minus 1.96 / 5, gives 0.156 to 0.736."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=28)
    e = rng.normal(size=28)
    e -= np.polynomial.Polynomial.fit(x, e, 1)(x)  # uncorrelated with x
    y = 0.5 * x / x.std() + math.sqrt(0.75) * e / e.std()
    assert evaluation.pearson(x, y) == pytest.approx((0.5, 0.156, 0.736), abs=1e-3)
    # grades and boolean judgements: deviations -2, 0, 2, 0 and -1/2, 1/2, 1/2, -1/2
    r, low, high = evaluation.pearson([1, 3, 5, 3], np.array([False, True, True, False]))
    assert r == pytest.approx(1 / math.sqrt(2)) and -1 < low < r < high < 1
    assert np.isnan(evaluation.pearson([10 / 3] * 50, np.arange(50) % 2 == 0)).all()


# ------------------------------------------------------------------------------------------------
# asking the student


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cuda:-1", "cpu:x", "CUDA", "meta", " "])
def test_a_device_is_the_one_that_is_named_or_refused(name):
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert evaluation.find_device() == torch.device(best)
    with pytest.raises(t5.InputError, match=re.escape(f"--device {name}: ") + ".*cpu"):
        evaluation.find_device(name)


def test_texts_come_back_in_their_order_however_many_are_decoded_at_once(runs, toy, monkeypatch):
    monkeypatch.setattr(t5, "MAX_TARGET", 8)
    student, generate, sizes = student_of(runs["mi"]), t5.T5.generate, []
    examples = data.load("toy", "train", toy)[:60]
    texts = [f"predict: {example.input}" for example in examples] + ["explain: a"]

    def counted(model, source, limit):
        sizes.append(len(source))
        assert len(source) * (source.shape[1] + limit) <= evaluation.BATCH_IDS or len(source) == 1
        return generate(model, source, limit)

    monkeypatch.setattr(t5.T5, "generate", counted)
    expected = evaluation.generate_text(student, texts)
    assert sizes == [61]
    for ids, most in ((500, 20), (1, 1)):
        sizes.clear()
        monkeypatch.setattr(evaluation, "BATCH_IDS", ids)
        found = evaluation.generate_text(student, texts)
        assert sum(sizes) == 61 and max(sizes) <= most
        assert [text for text, _ in found] == [text for text, _ in expected]
        assert [p for _, p in found] == pytest.approx([p for _, p in expected], abs=1e-4)
    assert evaluation.generate_text(student, []) == []


@pytest.mark.parametrize("method", ["finetune", "single", "mi"])
def test_confidence_is_the_product_of_all_tokens_probabilities_with_the_end(moods, method):
    student = student_of(moods, "--method", method)
    answers = evaluation.answer_texts(student, inputs(student)[:5], explain=False)
    for text, answer in zip(inputs(student), answers):
        prompt = f"predict: {text}" if method == "mi" else text
        source = data.pad([student.tokenizer.encode(prompt)])
        ids, _ = student.model.generate(source, t5.MAX_TARGET)
        probabilities = student.model(source, ids).softmax(-1)[0, range(ids.shape[1]), ids[0]]
        assert answer.confidence == pytest.approx(probabilities.prod().item(), rel=1e-4)
        assert method == "single" or answer.label == student.tokenizer.decode(ids[0])


TAGS, ACCENTS, BRACES = ["<pos>", "<neg>"], ["tromsø", "oslo"], ['{"s": "pos"}', '{"s": "neg"}']
JOINED = ["the answer is pos", "The answer is neg"]


@pytest.mark.parametrize("labels", [TAGS, ACCENTS, BRACES, [" pos ", "neg"], JOINED])
@pytest.mark.parametrize("method", ["finetune", "single", "mi"])
def test_a_student_that_writes_a_labels_exact_ids_is_right(runs, labels, method, monkeypatch):
    """Whatever characters the vocabulary lacks: answer and label are read by one function."""
    student = student_of(runs["mi"])._replace(method=method, by_value=False)
    examples = [data.Example("text", label, "Because.", "") for label in labels * 40]
    rows, _ = data.make_rows(examples, student.tokenizer, method)
    targets = [targets[0] for _, targets in rows]

    def write_targets(source, max_new_tokens):  # what a perfect student generates
        rows = [targets.pop(0) for _ in range(len(source))]
        return data.pad(rows), torch.zeros(len(rows), 1)

    monkeypatch.setattr(student.model, "generate", write_targets)
    answers = evaluation.answer_texts(student, ["text"] * 80, explain=False)
    assert evaluation.mark_answers(student, examples, answers).all()
    swapped = [data.Example("text", label, "", "") for label in labels[::-1] * 40]
    assert not evaluation.mark_answers(student, swapped, answers).any()


def test_transformers_generates_our_labels_and_rationales_with_its_defaults(moods):
    transformers = pytest.importorskip("transformers")
    student = student_of(moods)
    tokenizer = transformers.AutoTokenizer.from_pretrained(moods)
    model = transformers.T5ForConditionalGeneration.from_pretrained(moods)
    answers = evaluation.answer_texts(student, inputs(student))
    assert evaluation.mark_answers(student, student.examples, answers).all() and len(answers) == 40
    for prompt, field in (("predict", "label"), ("explain", "rationale")):
        prompts = [f"{prompt}: {text}" for text in inputs(student)]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        ids = model.generate(**batch)
        assert (ids == t5.EOS).any(1).all()  # every row stops
        theirs = tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert [text.strip() for text in theirs] == [getattr(answer, field) for answer in answers]


def test_probabilities_that_are_no_numbers_are_refused_and_not_written(moods, tmp_path):
    run = copy_of(moods, tmp_path / "run")
    model = t5.load(run)
    torch.nn.init.constant_(model.decoder_norm.weight, math.nan)
    t5.save(model, run)
    for flags in ([], ["--ask", "a"], ["--against", moods]):
        assert "probabilities are no numbers" in refused(run, *flags)


# ------------------------------------------------------------------------------------------------
# the report


@pytest.mark.parametrize("method", ["finetune", "single", "mi"])
def test_a_run_is_judged_as_it_was_at_the_end_of_its_training(runs, method):
    out = printed(runs[method], "--samples", 2)
    metrics = json.loads((runs[method] / "metrics.json").read_text())
    assert f"\naccuracy: {metrics['test_accuracy']:.2%} (95% interval " in out
    assert out.count("answer:") == out.count("rationale:") == 2


def test_a_bare_export_needs_dataset_and_method_and_is_judged_the_same(runs, toy, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.T5ForConditionalGeneration.from_pretrained(runs["mi"]).save_pretrained(tmp_path)
    shutil.copy(runs["mi"] / "spiece.model", tmp_path)
    flags = tmp_path, "--data-root", toy
    assert "--method" in refused(*flags) and "--dataset" in refused(*flags, "--method", "mi")
    out = printed(*flags, "--dataset", "toy", "--method", "mi")
    after = "20 examples\n"
    assert out.partition(after)[2] == printed(runs["mi"]).partition(after)[2] != ""


def test_what_is_printed_of_calibration_is_what_the_answers_give(runs, monkeypatch):
    """Against plain loops over the student's own answers, with made-up judgements among them."""
    found = iter([True, False] * 10)
    monkeypatch.setattr(data, "is_correct", lambda *_: next(found))
    out = printed(runs["dss"], "--samples", 0)
    student = student_of(runs["dss"])
    answers = evaluation.answer_texts(student, inputs(student), explain=False)
    c, r = np.array([answer.confidence for answer in answers]), [1.0, 0.0] * 10
    # (10 + 2) of (20 + 4) and 1.96 standard errors, Agresti and Coull's interval
    assert "accuracy: 50.00% (95% interval 30.00% to 70.00%)" in out
    assert f"average confidence: {c.mean():.2%}\n" in out
    limit = evaluation.ece_limit(c)
    verdict = "miscalibrated" if ece_in_loops(c, r) > limit else "no sign of miscalibration"
    assert f"expected calibration error: {ece_in_loops(c, r):.2%}, {verdict}\n" in out
    assert f"is below {limit:.2%} in 95% of cases" in out
    # the diagram holds every example once
    rows = re.findall(r"^\d+ to \d+% +(\d+) ", out, re.MULTILINE)
    assert sum(map(int, rows)) == 20


def test_all_answers_right_leave_no_interval_of_zero_width(moods):
    out = printed(moods, "--samples", 0)
    assert "accuracy: 100.00% (95% interval 89.30% to 100.00%)" in out  # 42 of 44, as above
    out = printed(moods, "--against", moods, "--samples", 1)
    interval = r"A minus B, 40 examples: \+0.00 points, 95% interval -([\d.]+) to \+([\d.]+)"
    assert all(1 < float(edge) < 10 for edge in re.search(interval, out).groups())


def test_what_is_cut_or_unknown_or_changed_is_said_in_a_line(moods, tmp_path):
    line = {"input": "Ä " + "pens " * 1_100, "label": "pos", "rationale": ""}
    write_lines(tmp_path / "test.jsonl", [line] * 3)
    out = printed(moods, "--dataset", tmp_path, "--samples", 0)
    for what in ("inputs are too long", "inputs have characters that"):
        assert f"{tmp_path} test: 3 of 3 {what}" in out
    assert "changed since" not in out  # another set than the run's own
    run = copy_of(moods, tmp_path / "run", test_examples="another digest")
    assert "have changed since" in printed(run, "--samples", 0)
    assert "have changed since" not in printed(moods, "--samples", 0)


def test_own_arithmetic_is_compared_by_value_where_it_should_be(runs, tmp_path, monkeypatch):
    """The labels are the student's own answers, written without spaces."""
    student, own, value = student_of(runs["mi"]), tmp_path / "own", data.evaluate_equation
    own.mkdir()
    answers = zip(inputs(student), evaluation.answer_texts(student, inputs(student)))
    pairs = [(text, answer.label) for text, answer in answers if value(answer.label) is not None]
    lines = [{"input": a, "label": b.replace(" ", ""), "rationale": "c"} for a, b in pairs]
    write_lines(own / "test.jsonl", lines)
    run = copy_of(runs["mi"], tmp_path / "run", dataset=str(own), by_value=True)
    other = copy_of(runs["mi"], tmp_path / "other", dataset="elsewhere", by_value=True)
    monkeypatch.chdir(tmp_path)
    for percent, *flags in [
        ("100.00", run),
        ("100.00", run, "--dataset", "own"),  # its own folder, however it is named
        ("0.00", other, "--dataset", own),
        ("100.00", other, "--dataset", own, "--by-value"),
    ]:
        assert f"accuracy: {percent}% " in printed(*flags, "--samples", 0)
    assert "give --dataset and --by-value" in refused(run, "--against", other, "--dataset", own)


def test_a_picture_shows_each_runs_losses_accuracy_and_reliability(runs, tmp_path, figures):
    bare = shutil.copytree(runs["dss"], tmp_path / "a $name$ with dollars")
    (bare / "log.jsonl").unlink()
    out = printed(runs["mi"], bare, "--plot", tmp_path / "runs.png", "--samples", 0)
    assert (tmp_path / "runs.png").read_bytes()[:4] == b"\x89PNG" and "accuracy: " in out
    [figure] = figures
    losses, accuracy, diagram, empty = figure.axes[:4]
    log = read_lines(runs["mi"] / "log.jsonl")
    points = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    names = ("loss", "prediction", "generation", "mi", "validation_mi")
    assert points == {k: [[x["step"], x[k]] for x in log if x.get(k) is not None] for k in names}
    assert accuracy.lines[0].get_xydata().tolist() == [[60, 100 * log[-1]["validation_accuracy"]]]
    assert accuracy.get_ylim() == (0, 100)
    assert not empty.lines and empty.get_title() == "no log.jsonl"
    assert figure.axes[5].get_title().startswith(r"a \$name\$ with dollars: ECE")
    student = student_of(runs["mi"])
    answers = evaluation.answer_texts(student, inputs(student), explain=False)
    confidence = np.array([answer.confidence for answer in answers])
    marks = evaluation.mark_answers(student, student.examples, answers)
    _, counts, average, right = evaluation.reliability(confidence, marks)
    [bins] = diagram.collections
    assert np.allclose(bins.get_offsets(), 100 * np.stack([average, right], 1))
    assert [text.get_text().strip() for text in diagram.texts] == [str(n) for n in counts]
    assert (np.argsort(bins.get_sizes()) == np.argsort(counts)).all()
    ece = evaluation.expected_calibration_error(confidence, marks)
    assert diagram.get_title() == f"{runs['mi'].name}: ECE {ece:.1%}\ntoy test"


def test_two_runs_are_compared_and_the_examples_that_tell_them_apart_shown(runs, toy, monkeypatch):
    right = {"finetune": [1] * 12 + [0] * 8, "mi": [1] * 10 + [0] * 9 + [1]}
    found = iter(right["mi"] + right["finetune"])
    monkeypatch.setattr(data, "is_correct", lambda *_: bool(next(found)))
    out = printed(runs["mi"], "--against", runs["finetune"], "--samples", 2)
    assert "A 55.00 (1) " in out and "B 60.00 (1) " in out
    assert "A minus B, 20 examples: -5.00 points" in out
    assert "covers other examples, but not other seeds" in out
    examples = data.load("toy", "test", toy)
    assert f"[10] {examples[10].input}" in out and "[11]" in out and "[19]" not in out
    assert (
        out.count("A, wrong") == out.count("B, right") == 2
        and f"gold: {examples[10].label};" in out
    )


def test_groups_of_runs_are_compared_with_one_student_in_memory_at_a_time(runs, monkeypatch):
    load, alive = t5.load, weakref.WeakSet()

    def counted(path):
        gc.collect()
        assert not alive
        alive.add(model := load(path))
        return model

    monkeypatch.setattr(t5, "load", counted)
    out = printed(runs["mi"], runs["single"], "--against", runs["finetune"], runs["dss"])
    metrics = [runs[m] / "metrics.json" for m in ("mi", "single", "finetune", "dss")]
    accuracies = [100 * json.loads(path.read_text())["test_accuracy"] for path in metrics]
    value = np.mean(accuracies[:2]) - np.mean(accuracies[2:])
    assert f"A minus B, 20 examples: {value:+.2f} points" in out and "other seeds" not in out
    assert f"A {evaluation.mean_and_deviation(accuracies[:2])}" in out


def test_runs_on_different_examples_are_not_compared(runs, moods, toy):
    assert f"{moods}: not tested as {runs['mi']}" in refused(runs["mi"], "--against", moods)
    assert "on toy test" in printed(moods, "--dataset", "toy", "--data-root", toy)


# ------------------------------------------------------------------------------------------------
# texts of one's own


def test_one_text_is_answered_from_the_command_line(runs, toy):
    text = data.load("toy", "test", toy)[0].input
    sample, asked = printed(runs["mi"], "--samples", 1), printed(runs["mi"], "--ask", text)
    form = r"rationale:  (.*)\nanswer:     (.*)\nconfidence: (.*)\n"
    rationale, answer, confidence = re.fullmatch(form, asked).groups()
    assert f"answer:    {answer}" in sample and f"rationale: {rationale}" in sample
    assert f"confidence {confidence})" in sample
    assert "--ask: expected a text in UTF-8" in refused(runs["mi"], "--ask", "caf\udce9")
    assert "--ask: 1 of 1 inputs are blank\n" in printed(runs["mi"], "--ask", " ")


def test_inputs_that_are_cut_or_unknown_are_counted_where_one_asks(moods, tmp_path):
    long, cut = " ".join(["57"] * 1_100), "inputs are too long and lose their ends\n"
    assert printed(moods, "--ask", long).startswith(f"--ask: 1 of 1 {cut}")
    lines = [{"input": text} for text in (f"{long} 2", f"{long} 3", "\u6b63", "Anna is glad.")]
    source, target = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    out = printed(moods, "--predict", source, "--to", target).splitlines(True)
    assert f"{source}: 2 of 4 {cut}" in out and len(out) == 3
    assert f"{source}: 1 of 4 inputs have characters that the vocabulary lacks\n" in out
    one, other, *_ = read_lines(target)
    assert one["predicted_confidence"] == pytest.approx(other["predicted_confidence"], rel=1e-5)


def test_predictions_keep_every_field_and_equal_the_students_answers(moods, tmp_path):
    lines = read_lines(moods.parent.parent / "train.jsonl") * 2
    lines = [line | {"answer": None, "more": {"ä": [1.5]}, "id": i} for i, line in enumerate(lines)]
    source, target = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    printed(moods, "--predict", source, "--to", target)
    answers = evaluation.answer_texts(student_of(moods), [line["input"] for line in lines])
    for line, given, answer in zip(read_lines(target), lines, answers, strict=True):
        assert line.pop("predicted_confidence") == pytest.approx(answer.confidence, abs=1e-4)
        texts = {"predicted_label": answer.label, "predicted_rationale": answer.rationale}
        assert line == given | texts
    # what has predictions already isn't given them twice, and no file is written over
    message = refused(moods, "--predict", target, "--to", tmp_path / "twice.jsonl")
    assert (
        f"{target}: has predicted_label and" in message and not (tmp_path / "twice.jsonl").exists()
    )
    before = target.read_bytes()
    assert f"{target} is there" in refused(moods, "--predict", source, "--to", target)
    assert target.read_bytes() == before


def test_a_stopped_prediction_leaves_no_file(moods, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt  # Ctrl-C

    monkeypatch.setattr(evaluation, "answer_texts", stop)
    source = write_lines(tmp_path / "in.jsonl", [{"input": "Ben"}])
    flags = [str(moods), "--predict", str(source), "--to", str(tmp_path / "out.jsonl")]
    assert evaluation.run_for_user("eval.py", lambda: evaluation.main(flags)) == 130
    assert capsys.readouterr().err == "eval.py: stopped\n"
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


NO_INPUTS = [
    ('{"input": "a"}\n{"text": "b"}\n', "line 2: expected a text as 'input', found no"),
    ('{"input": "a"}\n{"inp\n', "line 2: expected JSON"),
    ("", "expected lines of JSON"),
]


@pytest.mark.parametrize("text, words", NO_INPUTS)
def test_a_mistake_in_the_file_to_answer_names_file_line_and_field(moods, tmp_path, text, words):
    (tmp_path / "in.jsonl").write_text(text)
    message = refused(moods, "--predict", tmp_path / "in.jsonl", "--to", tmp_path / "out.jsonl")
    assert "in.jsonl" in message and words in message
    assert not (tmp_path / "out.jsonl").exists()


# ------------------------------------------------------------------------------------------------
# tables


def fabricate(folder, accuracy, flags, test_examples="a digest"):
    """A finished run's two files, in a folder that train.py names."""
    args = train.parse(flags.split())
    run = folder / train.run_name(args)
    run.mkdir()
    t5.write_json(run / "settings.json", vars(args) | {"test_examples": test_examples})
    t5.write_json(run / "metrics.json", {"test_accuracy": accuracy})
    (run / "log.jsonl").touch()
    return run


def cells(folder):
    rows = printed("--table", folder).splitlines()[2:]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


def test_a_table_has_a_row_a_method_and_a_cell_a_set_with_mean_deviation_and_seeds(tmp_path):
    for seed, accuracy in enumerate((0.50, 0.52, 0.57)):
        fabricate(tmp_path, accuracy, f"--dataset svamp --seed {seed}")
    fabricate(tmp_path, 0.4, "--dataset svamp --mi kl")
    fabricate(tmp_path, 0.43, "--dataset cqa --method finetune")
    fabricate(tmp_path, 0.7, f"--dataset {tmp_path}/my-small-set --method dss")
    (tmp_path / "unfinished").mkdir()
    header, _, *rows = cells(tmp_path)
    assert header[:-1] == ["size-method", "cqa", "the paper's", "svamp", "the paper's"]
    assert header[-1].startswith("my-small-set.")
    assert rows == [
        ["small-dss", "", "43.24", "", "48.00", "70.00 (1)"],
        ["small-finetune", "43.00 (1)", "43.16", "", "45.00", ""],
        ["small-mi", "", "43.90", "53.00 ± 3.61 (3)", "52.50", ""],
        ["small-mi-mi_kl", "", "", "40.00 (1)", "", ""],
    ]


def test_runs_on_different_test_sets_are_not_averaged_and_unfinished_ones_counted(runs, tmp_path):
    """Nor do they share a column, in which one would compare them."""
    one, other = f"--dataset {tmp_path / 'mine'}", f"--dataset {tmp_path / 'other'}"
    fabricate(tmp_path, 0.2, one)
    fabricate(tmp_path, 0.3, f"{one} --seed 1")
    fabricate(tmp_path, 0.4, other, "another digest")
    begun = fabricate(tmp_path, 0.9, f"{one} --seed 2", "another digest")
    (begun / "metrics.json").unlink()
    out = printed("--table", tmp_path)
    assert "25.00 ± 7.07 (2)" in out and "40.00 (1)" in out and "90.00" not in out
    assert "Unfinished runs, left out: 1.\n" in out
    for flags in ("--seed 3", "--method dss"):
        edited = fabricate(tmp_path, 0.1, f"{one} {flags}", "another digest")
        said = refused("--table", tmp_path)
        assert ": not the test set of " in said and str(edited) in said
        shutil.rmtree(edited)
    (tmp_path / "alone").mkdir()
    begun.rename(tmp_path / "alone" / begun.name)
    assert "found no finished run, and 1 unfinished" in refused("--table", tmp_path / "alone")
    assert "found no finished run, and 0 unfinished" in refused("--table", runs["mi"])  # has last/


NAMED = [
    ("--size base --seed 3", "base-mi", "68.00"),
    ("--size base --method dss --batch-size 64", "base-dss", "65.50"),
    ("--size v1_1-base --method single", "v1_1-base-single", "63.00"),
    ("--size base --mi eq9", "base-mi-mi_eq9", "68.00"),
    ("--size base --precision bf16", "base-mi-precision_bf16", "68.00"),
    (
        "--size v1_1-base --mi released --precision fp32",  # as in the authors' code
        "v1_1-base-mi-mi_released-precision_fp32",
        "68.00",
    ),
    ("--size base --mi eq9 --reduce mean", "base-mi-mi_eq9-reduce_mean", "66.50"),
    ("--size v1_1-small --method dss --precision fp32", "v1_1-small-dss-precision_fp32", "48.00"),
    ("--size base --reduce mean", "base-mi-reduce_mean", "66.50"),
    ("--size base --mi kl", "base-mi-mi_kl", "67.00"),
    ("--size base --labels llm", "base-mi-labels_llm", ""),  # Table 3 has no SVAMP
    ("--size base --mi kl --reduce mean", "base-mi-mi_kl-reduce_mean", ""),
    ("--size base --mi released --lr 1e-4", "base-mi-mi_released-lr_0.0001", ""),
    ("--size base --steps 2", "base-mi-steps_2", ""),
    ("--size base --alphas 1 1 0", "base-mi-alphas_1.0_1.0_0.0", ""),
    ("--size base --subsample 0.5", "base-mi-subsample_0.5", ""),
    ("--size base --from-scratch", "base-mi-from_scratch", ""),
    ("--weights ../flan", f"{data.title('../flan')}-mi", ""),
]


@pytest.mark.parametrize("flags, row, paper", NAMED)
def test_the_papers_number_stands_beside_every_reading_of_its_settings_and_no_others(
    tmp_path, flags, row, paper
):
    fabricate(tmp_path, 0.5, f"--dataset svamp {flags}")
    assert cells(tmp_path)[2:] == [[row, "50.00 (1)", paper]]


def test_a_picture_of_a_table_shows_accuracy_against_the_share_of_the_data(tmp_path, figures):
    for seed, share, accuracy in ((0, 0.5, 0.3), (1, 0.5, 0.4), (0, 1, 0.6)):
        fabricate(tmp_path, accuracy, f"--dataset svamp --seed {seed} --subsample {share}")
    fabricate(tmp_path, 0.2, "--dataset svamp --method dss --subsample 0.25 --steps 9")
    fabricate(tmp_path, 0.9, "--dataset cqa --method dss --steps 9")
    printed("--table", tmp_path, "--plot", tmp_path / "shares.svg")
    assert "<svg" in (tmp_path / "shares.svg").read_text()
    [figure] = figures
    assert [axes.get_title() for axes in figure.axes] == ["cqa", "svamp"]
    drawn = {bars.get_label(): bars for bars in figure.axes[1].containers}
    assert drawn.keys() == {"small-mi", "small-dss-steps_9"}
    line, _, [deviations] = drawn["small-mi"]
    assert line.get_xydata() == pytest.approx(np.array([(50, 35), (100, 60)]))
    lengths = [np.ptp(segment[:, 1]) for segment in deviations.get_segments()]
    assert lengths == pytest.approx([2 * 5 * math.sqrt(2), 0])
    assert drawn["small-dss-steps_9"][0].get_xydata() == pytest.approx(np.array([(25, 20)]))
    [other] = figure.axes[0].containers  # the same method, in the same colour
    assert other[0].get_color() == drawn["small-dss-steps_9"][0].get_color() != line.get_color()


# ------------------------------------------------------------------------------------------------
# mistakes

MISTAKES = [
    ("", "expected either runs"),
    ("RUN --table runs", "expected either runs"),
    ("RUN RUN --ask x", "--ask takes one run"),
    ("RUN --ask x --predict IN --to x", "not allowed with argument"),
    ("RUN --ask x --plot x.png", "--plot is for"),
    ("RUN --judge-teacher", "--judge-teacher needs --judge"),
    ("RUN --samples -1", "--samples: expected 0 or more"),
    ("RUN --plot x.png", "pip install matplotlib"),
    ("RUN --judge http://127.0.0.1:1/v1", "pip install openai"),
    ("RUN --judge requests.jsonl", "--judge: expected a URL"),
    ("RUN --plot none/x.png", "none/x.png: expected a file in a folder"),
    ("RUN --plot x.nonsense", "--plot: expected a .png"),
    ("RUN --predict IN", "need each other"),
    ("RUN --to x", "need each other"),
    ("RUN --predict none.jsonl --to OUT.jsonl", "none.jsonl"),
    ("RUN --predict IN --to IN", "--to: in.jsonl is there"),
    ("RUN --predict IN --to none/x.jsonl", "none/x.jsonl: expected a file in a folder"),
    ("RUN --predict IN --to /dev/stdout", "--to: /dev/stdout is there"),
    ("RUN --device cuda:99", "--device cuda:99: "),
    ("RUN --dataset none", "none/test.jsonl: not found"),
    ("none", "none: expected a folder with a T5"),
    ("RUN --against none", "none: expected a folder with a T5"),
    ("--table none", "found no finished run"),
]


@pytest.mark.parametrize("flags, words", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_decoded(runs, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    if "pip install" in words:  # as where the optional packages are absent
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delattr(t5.T5, "generate")
    write_lines(tmp_path / "in.jsonl", [{"input": "Anna lost pens."}])
    names = {"RUN": runs["mi"], "IN": "in.jsonl"}
    assert words in refused(*(names.get(flag, flag) for flag in flags.split()))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]  # nothing was written


OWN = "--dataset OWN --size tiny --from-scratch --tokenizer TOY"
METHODS = ["--method finetune", "--method single", "--method dss", "--method dss --labels llm"]
FORMS = ["", "--mi eq9", "--mi released", "--mi kl", "--reduce mean", "--mi released --reduce mean"]


@pytest.mark.parametrize("flags", METHODS + FORMS + ["--labels llm", "--subsample 0.5", OWN])
def test_every_kind_of_experiment_runs_from_end_to_end(toy, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(t5, "MAX_TARGET", 16)  # a student of two steps never stops
    for split in ("train", "test"):
        write_lines(tmp_path / f"{split}.jsonl", map(vars, data.load("toy", split, toy)[:20]))
    paths = {"OWN": str(tmp_path), "TOY": str(toy / "toy" / "spiece.model")}
    small = ["--steps", "2", "--batch-size", "4", "--data-root", str(toy)]
    flags = [paths.get(flag, flag) for flag in flags.split()]
    train.main([*small, "--out", str(tmp_path / "runs"), *flags])
    [run] = (tmp_path / "runs").glob("*")
    assert "accuracy: " in printed(run, "--samples", 1)
    assert "(1) " in printed("--table", tmp_path / "runs").splitlines()[-1]
