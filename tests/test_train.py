"""train.py from the command line to a run: python -m pytest tests/test_train.py

The runs are real and small: the toy task, a handful of steps.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import data
import gradients
import t5
import train

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def run(root, out, *flags):
    """Run train.py in this process -> the run's folder: a new one, or the one that is there."""
    before = set(out.glob("*")) if out.exists() else set()
    argv = ["--data-root", str(root), "--out", str(out), "--steps", "6", "--eval-every", "3",
            "--batch-size", "8", *map(str, flags)]  # fmt: skip
    train.main(argv)
    (folder,) = set(out.glob("*")) - before or before
    return folder


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights_of(folder):
    return t5.read_safetensors(folder / "model.safetensors")


def command_line(*flags, **kwargs):
    command = [sys.executable, str(ROOT / "train.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def test_a_run_folder_holds_what_the_design_says(toy, tmp_path):
    folder = run(toy, tmp_path)
    assert folder.name == "toy-tiny-mi-steps_6-batch_size_8-eval_every_3-s0"
    log, metrics = log_of(folder), json.loads((folder / "metrics.json").read_text())
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert [line["examples"] for line in log] == [8, 16, 24, 32, 40, 48]
    assert [line["lr"] for line in log] == pytest.approx([4e-3 * (6 - i) / 6 for i in range(6)])
    for line in log:
        whole = 0.5 * line["prediction"] + 0.5 * line["generation"] + 0.1 * line["mi"]
        assert line["loss"] == pytest.approx(whole, abs=1e-5)
        assert ("validation_accuracy" in line) == (line["step"] in (3, 6))
    assert metrics["validation_accuracy"] == max(log[i]["validation_accuracy"] for i in (2, 5))
    assert set(metrics) >= {"test_accuracy", "test_accuracy_last", "validation_accuracy"}
    assert metrics["examples"] == 48 and metrics["seconds"] > 0
    assert json.loads((folder / "settings.json").read_text())["mi"] == "paper"
    assert not (folder / "state.pt").exists()  # nothing to resume
    card = (folder / "README.md").read_text()
    assert f"{metrics['test_accuracy']:.2%}" in card and "python train.py --data-root" in card
    assert card.startswith(f"# {folder.name}\n") and "toy with `--method mi`, from random" in card
    assert f"python eval.py {folder} --ask" in card


@pytest.mark.parametrize("flags", [("--method", "dss"), ("--mi", "released"), ("--mi", "kl")])
def test_every_run_of_two_tasks_logs_the_third_term_on_validation(toy, tmp_path, flags):
    """Against one plain pass over the validation set, with the weights of the last step."""
    folder = run(toy, tmp_path, *flags, "--steps", 3)
    model, tokenizer = t5.load(folder / "last"), data.Tokenizer(folder / "spiece.model")
    _, valid = data.train_and_valid("toy", toy)
    ids = data.encode(valid, tokenizer, "dss")
    form = flags[1] if flags[0] == "--mi" else "paper"
    total = 0.0
    for first in range(0, len(ids), 8):  # `released` depends on a batch's padding
        (sources, targets) = data.collate(ids[first : first + 8], "cpu")[0][0]
        B = len(targets[0])
        logits = [model(sources[i * B : (i + 1) * B], targets[i]) for i in (0, 1)]
        masks = [target != 0 for target in targets]
        total += train.mi_loss.mi_loss(*logits, *masks, form).item() * B
    assert log_of(folder)[-1]["validation_mi"] == pytest.approx(total / len(ids), abs=1e-4)


def test_a_run_of_one_task_has_no_third_term(toy, tmp_path):
    assert "validation_mi" not in log_of(run(toy, tmp_path, "--method", "finetune"))[-1]


def test_transformers_loads_a_run_and_computes_the_same_logits(toy, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = run(toy, tmp_path)
    source, target = torch.randint(3, 300, (3, 11)), torch.randint(3, 300, (3, 5))
    for path in (folder, folder / "last"):
        theirs = transformers.T5ForConditionalGeneration.from_pretrained(path).eval()
        expected = theirs(input_ids=source, labels=target).logits
        assert torch.allclose(t5.load(path)(source, target), expected, atol=1e-4)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(toy, tmp_path):
    folders = [run(toy, tmp_path / str(i), "--seed", seed) for i, seed in enumerate((3, 3, 4))]
    losses = [[line["loss"] for line in log_of(folder)] for folder in folders]
    assert losses[0] == losses[1] != losses[2]
    a, b = weights_of(folders[0]), weights_of(folders[1])
    assert all(torch.equal(a[name], b[name]) for name in a)


METHODS = [
    ("--method", "finetune"), ("--method", "single"), ("--method", "dss"), ("--mi", "released"),
    ("--mi", "kl"), ("--reduce", "mean"), ("--labels", "llm"), ("--subsample", "0.5"),
]  # fmt: skip


@pytest.mark.parametrize("flags", METHODS, ids=" ".join)
def test_every_method_trains(toy, tmp_path, flags):
    folder = run(toy, tmp_path, *flags)
    log = log_of(folder)
    assert log[-1]["loss"] < log[0]["loss"]
    assert (log[0]["generation"] is None) == (flags[1] in ("finetune", "single"))
    assert (log[0]["mi"] is None) == (flags[0] == "--method")
    assert ("mi_overlap" in log[0]) == (flags[1] == "released")
    assert flags[1] in folder.name


def test_twenty_steps_are_those_of_transformers_with_the_same_batches(toy, tmp_path):
    """`--mi released` against a plain loop over transformers' model and torch's AdamW.

    All inputs, all labels and all rationales have one length, so nothing is padded, and the
    released code's missing mask makes no difference. Losses within 1e-4 at every step.
    """
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = [name for name in data.NAMES + data.THINGS]
    folder, steps, B = tmp_path / "own", 20, 4
    folder.mkdir()
    for split in ("train", "test"):
        lines = []
        for i in range(40):
            x = [words[(i * k + k * k) % len(words)] for k in range(1, 8)]
            lines.append(dict(input=" ".join(x), label=x[1], rationale=" ".join(x[2:5])))
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))

    config = transformers.T5Config(vocab_size=512, d_model=32, d_kv=8, d_ff=48, num_layers=2,
                                   num_heads=3, dropout_rate=0.0,
                                   decoder_start_token_id=0)  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(config)
    theirs.save_pretrained(tmp_path / "weights")
    folder = run(toy, tmp_path / "out", "--dataset", folder, "--weights", tmp_path / "weights",
                 "--tokenizer", toy / "toy" / "spiece.model", "--mi", "released", "--steps", steps,
                 "--batch-size", B, "--lr", 1e-3)  # fmt: skip

    tokenizer = data.Tokenizer(toy / "toy" / "spiece.model")
    examples, _ = data.train_and_valid(tmp_path / "own")
    ids = data.encode(examples, tokenizer, "mi")
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-3, weight_decay=0.0)
    for step, rows in zip(range(steps), data.batches(len(ids), B, seed=0)):
        logits, loss = [], 0.0
        for task in (0, 1):
            source = torch.tensor([ids[i][0][task] for i in rows])
            out = theirs(input_ids=source, labels=torch.tensor([ids[i][1][task] for i in rows]))
            logits.append(out.logits)
            loss = loss + 0.5 * out.loss
        f_V, f_Z = (x.softmax(-1).max(1).values for x in logits)
        loss = loss + 0.1 * torch.nn.CrossEntropyLoss()(f_Z, f_V.detach())
        assert loss.item() == pytest.approx(log_of(folder)[step]["loss"], abs=1e-4)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()


CASES = [("paper", "max"), ("paper", "mean"), ("kl", "max"), ("kl", "mean"),
         ("released", "max"), ("released", "mean"), (None, "max")]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("form, reduce", CASES)
def test_micro_batches_are_the_plain_objective_on_the_whole_batch(toy, form, reduce, precision):
    """Loss and every gradient within 1e-5 (bf16, which rounds to 3 digits: 2e-2) of the largest."""
    torch.manual_seed(0)
    method = "mi" if form else "finetune"
    tokenizer = data.Tokenizer(toy / "toy" / "spiece.model")
    rows = data.encode(data.load("toy", "train", toy)[:11], tokenizer, method)
    config = replace(t5.PRESETS["tiny"], vocab_size=512, num_tokens=len(tokenizer))
    model, results = t5.T5(config), []
    args = argparse.Namespace(method=method, mi=form, reduce=reduce, alpha3=0.1)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    for micro_batch in (11, 4, 1):
        micro_batches, totals = data.collate(rows, "cpu", 0, 1, micro_batch, form != "released")
        whole = 0.0
        for sources, targets in micro_batches:
            with autocast:
                whole_batch = totals if len(micro_batches) > 1 else {}
                loss, parts = train.training_loss(model, sources, targets, args, **whole_batch)
            loss.backward()
            whole += parts["loss"]
        results.append((whole, [p.grad for p in model.parameters()]))
        model.zero_grad()
    loss, grads = results[0]
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    for other, other_grads in results[1:]:
        assert abs(loss - other) < tolerance * abs(loss)
        for a, b in zip(grads, other_grads):
            assert (a - b).abs().max() < tolerance * max(1.0, a.abs().max())


def test_compile_takes_the_loss_as_one_graph_with_the_same_gradients(toy):
    """Up to the code that a C++ compiler makes of the graph, which takes minutes."""
    torch.manual_seed(0)
    tokenizer = data.Tokenizer(toy / "toy" / "spiece.model")
    rows = data.encode(data.load("toy", "train", toy)[:11], tokenizer, "mi")
    model = t5.T5(replace(t5.PRESETS["tiny"], vocab_size=512, num_layers=1, num_decoder_layers=1))
    args = train.parse([])
    options = dict(dynamic=True, fullgraph=True, backend="eager")
    compiled = torch.compile(train.training_loss, **options)
    micro_batches, totals = data.collate(rows, "cpu", 0, 1, 4)
    for sources, targets in micro_batches:
        results = []
        for loss_of in train.training_loss, compiled:
            loss, terms = loss_of(model, sources, targets, args, **totals)
            grads = torch.autograd.grad(loss, list(model.parameters()))
            results.append((*terms.values(), *grads))
        for a, b in zip(*results):
            assert (a - b).abs().max() < 1e-5 * max(1.0, a.abs().max())


def test_dss_is_the_objective_with_alpha3_zero(toy, tmp_path):
    dss = run(toy, tmp_path, "--method", "dss")
    zero = run(toy, tmp_path, "--alpha3", "0")
    assert [line["loss"] for line in log_of(dss)] == [line["loss"] for line in log_of(zero)]


MISTAKES = [
    (["--dataset", "nowhere"], "nowhere/train.jsonl: not there"),
    (["--dataset", "toy", "--size", "tiny", "--tokenizer", "none"], "none: not there"),
    (["--dataset", "{own}", "--batch-size", "4"], "--weights"),
    (["--dataset", "{own}", "--size", "tiny", "--tokenizer", "{spiece}", "--batch-size", "4"],
     "--from-scratch"),
    (["--weights", "{own}"], "spiece.model: not there"),
    (["--weights", "{own}", "--tokenizer", "{spiece}"], "config.json"),
    (["--weights", "no/such-model"], "no/such-model"),
    (["--out", "{spiece}"], "Not a directory"),
]


@pytest.mark.parametrize("flags, says", MISTAKES, ids=lambda value: str(value)[:40])
def test_a_path_that_leads_nowhere_gets_one_line_and_status_2(toy, tmp_path, flags, says):
    own = tmp_path / "own"
    own.mkdir()
    line = json.dumps(dict(input="a", label="b", rationale="c")) + "\n"
    for split in ("train", "test"):
        (own / f"{split}.jsonl").write_text(line * 20)
    flags = [flag.format(own=own, spiece=toy / "toy" / "spiece.model") for flag in flags]
    env = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    flags = ["--data-root", toy, "--out", tmp_path / "out", *flags]
    done = command_line(*flags, env=env, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()
    assert says in said[-1] and (len(said) == 1 or said[0].startswith("usage: "))


WRONG_FLAGS = [
    *[([f"--{flag}", value], f"--{flag}: expected more than 0, found") for flag, value in (
        ("steps", "0"), ("steps", "-3"), ("batch-size", "0"), ("micro-batch", "-1"), ("lr", "0"),
        ("lr", "nan"), ("lr", "inf"), ("eval-every", "0"), ("subsample", "0"))],
    *[([f"--{flag}", value], "--alpha3, --seed: expected 0 or more")
      for flag, value in (("alpha3", "-1"), ("alpha3", "nan"), ("seed", "-1"),
                          ("seed", "99999999999999999999"))],
    (["--subsample", "1.5"], "--subsample: expected at most 1, found 1.5"),
    (["--seed", "x"], "invalid int value"), (["--size", "huge"], "invalid choice"),
    *[(["--weights", "x", *flags], "--weights has a size of its own: leave --size and --from-scrat")
      for flags in (["--size", "small"], ["--from-scratch"])],
]  # fmt: skip


@pytest.mark.parametrize("flags, says", WRONG_FLAGS, ids=lambda value: " ".join(value)[:30])
def test_a_flag_that_makes_no_sense_is_refused_before_anything_is_read(tmp_path, capsys, flags,
                                                                       says):  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        train.main([*flags, "--out", str(tmp_path / "out"), "--data-root", str(tmp_path / "none")])
    assert says in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.iterdir())


REFUSED = [  # what can't be done as asked: no folder is made, nothing else is done in its place
    (["--device", "cuda"], "--device cuda"), (["--device", "cuda:1"], "--device cuda:1"),
    (["--device", "mps"], "--device mps"), (["--device", "xpu"], "--device xpu"),
    (["--device", "gpu"], "--device gpu"), (["--device", "cuda:x"], "--device cuda:x"),
    (["--device", "meta"], "--device meta"),
    (["--batch-size", "181"], "--batch-size: expected at most 180"),
    (["--resume"], "--resume: expected the run"),
    (["--dataset", "{own}", "--labels", "llm"], "--labels llm needs the teacher's labels"),
    (["--dataset", "{own}", "--subsample", "0.01"], "expected examples to train on"),
    (["--dataset", "{own}", "--by-value", "--batch-size", "4"],
     "--by-value: expected arithmetic as labels, found 'blue'"),
]


@pytest.mark.parametrize("flags, says", REFUSED, ids=lambda value: " ".join(value)[:30])
def test_what_cant_be_done_as_asked_is_refused(toy, tmp_path, monkeypatch, flags, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    own = own_folder(tmp_path / "own", ["red", "blue"])
    flags = [flag.format(own=own) for flag in flags]
    if str(own) in flags:
        flags += ["--size", "tiny", "--from-scratch", "--tokenizer", str(toy / "toy/spiece.model")]
    with pytest.raises(t5.InputError) as error:
        train.main(["--data-root", str(toy), "--out", str(tmp_path / "out"), *flags])
    assert says in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def own_folder(folder, labels, n=40):
    """A folder of own data: the label is the colour that the text names."""
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        lines = []
        for i in range(n):
            word = ["apples", "books"][i % 2]
            label = labels[i % len(labels)]
            text = f"{data.NAMES[i % 16]} had {i % 7 + 2} {word}."
            lines.append(json.dumps(dict(input=text, label=label, rationale=f"It says {word}.")))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("flags, name", [
    ("", "toy-tiny-mi-s0"), ("--dataset svamp --size base --seed 3", "svamp-base-mi-s3"),
    ("--dataset svamp --weights google/flan-t5-small", "svamp-google--flan-t5-small-mi-s0"),
    ("--mi kl --reduce mean --alpha3 0.2", "toy-tiny-mi-mi_kl-reduce_mean-alpha3_0.2-s0"),
    ("--micro-batch 4 --device cpu --out x --method dss", "toy-tiny-dss-s0")])  # fmt: skip
def test_a_runs_name_has_every_setting_that_changes_its_result(flags, name):
    assert train.run_name(train.parse(flags.split())) == name


def test_test_labels_that_no_training_example_has_are_counted(toy, tmp_path, capsys):
    own = own_folder(tmp_path / "own", ["red", "blue"])
    (own / "test.jsonl").write_text((own / "test.jsonl").read_text().replace("red", "Red", 3))
    run(toy, tmp_path / "out", "--dataset", own, "--size", "tiny", "--from-scratch", "--tokenizer",
        toy / "toy" / "spiece.model", "--steps", 1)  # fmt: skip
    said = capsys.readouterr().out
    assert "test: 3 of 40 labels are in no training example, such as 'Red'" in said


def test_two_folders_of_one_name_have_runs_of_their_own(toy, tmp_path):
    flags = ["--size", "tiny", "--from-scratch", "--tokenizer", toy / "toy" / "spiece.model"]
    names = {run(toy, tmp_path / "out", "--dataset", own_folder(tmp_path / letter / "mine",
             ["red", "blue"]), *flags).name for letter in "AB"}  # fmt: skip
    assert len(names) == 2 and all(name.startswith("mine") for name in names)


@pytest.mark.parametrize("split, field", [
    ("train", "rationale"), ("train", "label"), ("train", "input"), ("test", "label")])
def test_a_run_does_not_go_on_with_other_examples(toy, tmp_path, monkeypatch, split, field):
    own = own_folder(tmp_path / "own", ["red", "blue"])
    flags = ["--dataset", own, "--size", "tiny", "--from-scratch", "--tokenizer",
             toy / "toy" / "spiece.model"]  # fmt: skip
    stop_after(2, monkeypatch)
    folder = run(toy, tmp_path / "out", *flags)
    settings = (folder / "settings.json").read_bytes()
    lines = (own / f"{split}.jsonl").read_text().split("\n")
    changed = json.loads(lines[0]) | {field: "red and blue"}
    (own / f"{split}.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]))
    monkeypatch.setattr(train, "stop_signals", [])
    with pytest.raises(t5.InputError, match=f"begun with other settings: .*{split}_examples was"):
        run(toy, tmp_path / "out", *flags, "--resume")
    assert (folder / "settings.json").read_bytes() == settings


LABELS = [  # two classes, and whether T5's vocabulary can tell them apart
    (("pos", "neg"), True), (("<pos>", "<neg>"), True), (('{"s": "pos"}', '{"s": "neg"}'), True),
    (("正面", "负面"), False), (("a < b", "a { b"), False),
]  # fmt: skip


@pytest.mark.skipif(not SHARED.exists(), reason="needs the released vocabulary")
@pytest.mark.parametrize("labels, distinct", LABELS, ids=lambda value: str(value)[:30])
def test_labels_that_the_vocabulary_cant_write_are_learned_or_refused(
        toy, tmp_path, labels, distinct, capsys):  # fmt: skip
    own = own_folder(tmp_path / "own", labels)
    flags = ["--dataset", own, "--size", "tiny", "--from-scratch", "--tokenizer",
             SHARED / "t5" / "spiece.model", "--steps", 40, "--eval-every", 20, "--lr", "3e-3",
             "--method", "dss"]  # fmt: skip
    if distinct:
        folder = run(toy, tmp_path / "out", *flags)
        assert json.loads((folder / "metrics.json").read_text())["test_accuracy"] == 1.0
        unknown = "characters" in capsys.readouterr().out
        assert unknown == ("p" != labels[0][0])
    else:
        with pytest.raises(t5.InputError) as error:
            run(toy, tmp_path / "out", *flags)
        assert all(label in str(error.value) for label in labels)
        assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_finished_run_stays_and_a_begun_one_asks_for_resume(toy, tmp_path):
    folder = run(toy, tmp_path)
    kept = (folder / "model.safetensors").read_bytes()
    for flags in ((), ("--resume",)):
        with pytest.raises(t5.InputError, match="is finished and stays as it is"):
            run(toy, tmp_path, *flags)
    assert (folder / "model.safetensors").read_bytes() == kept
    (folder / "metrics.json").unlink()
    with pytest.raises(t5.InputError, match="was begun: go on with --resume"):
        run(toy, tmp_path)
    with pytest.raises(t5.InputError, match="--resume: expected the run .*-s5, found none"):
        run(toy, tmp_path, "--seed", 5, "--resume")


def test_a_run_that_was_killed_before_its_first_save_resumes_from_the_start(toy, tmp_path):
    folder = run(toy, tmp_path)
    expected = weights_of(folder)
    for path in folder.rglob("*.*"):
        path.unlink()
    assert run(toy, tmp_path, "--resume") == folder
    assert all(torch.equal(weights_of(folder)[name], expected[name]) for name in expected)


def stop_after(losses, monkeypatch):
    """Ask the run to stop, as a signal does, once so many losses have been computed."""
    seen, training_loss, signals = [], train.training_loss, []
    monkeypatch.setattr(train, "stop_signals", signals)

    def watched(*batch, **settings):
        seen.append(1)
        signals.extend([15] * (len(seen) == losses))
        return training_loss(*batch, **settings)

    monkeypatch.setattr(train, "training_loss", watched)


def test_a_stop_before_the_first_micro_batch_of_a_step_keeps_the_steps_before(toy, tmp_path,
                                                                              monkeypatch):
    collate, signals, calls = data.collate, [], []
    monkeypatch.setattr(train, "stop_signals", signals)

    def watched(*batch):
        calls.append(1)
        signals.extend([15] * (len(calls) == 3))
        return collate(*batch)

    monkeypatch.setattr(data, "collate", watched)
    folder = run(toy, tmp_path, "--eval-every", 6)
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["step"] == 2 == len(log_of(folder)) and log_of(folder)[1]["mi"] > 0


def test_a_stop_waits_for_a_micro_batch_only_and_the_broken_step_is_taken_again(
        toy, tmp_path, monkeypatch):  # fmt: skip
    """Four micro-batches a step, dropout included: the signal comes in the second of step 3."""
    torch.manual_seed(0)
    rows = -len(data.Tokenizer(toy / "toy" / "spiece.model")) // 128 * -128
    t5.save(t5.T5(replace(t5.PRESETS["tiny"], vocab_size=rows, dropout_rate=0.3)), tmp_path / "w")
    flags = ("--weights", tmp_path / "w", "--tokenizer", toy / "toy" / "spiece.model",
             "--micro-batch", 2, "--eval-every", 6, "--method", "finetune")  # fmt: skip
    whole = run(toy, tmp_path / "whole", *flags)
    with monkeypatch.context() as patch:
        stop_after(4 + 4 + 2, patch)
        cut = run(toy, tmp_path / "cut", *flags)
    assert torch.load(cut / "state.pt", weights_only=True)["step"] == 2 == len(log_of(cut))
    run(toy, tmp_path / "cut", *flags, "--resume")
    assert all(torch.equal(p, weights_of(cut)[name]) for name, p in weights_of(whole).items())
    for one, other in zip(log_of(whole), log_of(cut), strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_mixed_precision_resumes_to_the_same_run(toy, tmp_path, monkeypatch, precision):
    flags = ["--precision", precision, "--alpha3", "1e4"]  # so that fp16 overflows at first
    whole = run(toy, tmp_path / "whole", *flags)
    stop_after(3, monkeypatch)
    cut = run(toy, tmp_path / "cut", *flags)
    assert torch.load(cut / "state.pt", weights_only=True)["step"] == 2
    monkeypatch.setattr(train, "stop_signals", [])
    assert run(toy, tmp_path / "cut", *flags, "--resume") == cut
    for part in (".", "last"):
        one, other = weights_of(whole / part), weights_of(cut / part)
        assert all(torch.equal(one[name], other[name]) for name in one)
    metrics = [json.loads((f / "metrics.json").read_text()) | {"seconds": 0} for f in (whole, cut)]
    assert metrics[0] == metrics[1] and metrics[0].get("skipped_steps", 1) > 0


def test_the_steps_that_fp16_skips_are_counted(toy, tmp_path, monkeypatch):
    halved, update = [], torch.amp.GradScaler.update

    def watched(scaler):
        before = scaler.get_scale()
        update(scaler)
        halved.append(scaler.get_scale() < before)

    monkeypatch.setattr(torch.amp.GradScaler, "update", watched)
    folder = run(toy, tmp_path, "--precision", "fp16", "--alpha3", "1e3", "--steps", "20")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["skipped_steps"] == sum(halved) < len(halved) == 20


def test_fp16_that_overflows_at_every_step_stops_the_run(toy, tmp_path):
    says = "step 24: fp16 overflows at every step; take --precision bf16 .*; nothing was saved yet"
    with pytest.raises(t5.InputError, match=says):
        run(toy, tmp_path, "--precision", "fp16", "--alpha3", "1e30", "--steps", "24",
            "--eval-every", "24")  # fmt: skip


def test_a_term_that_is_not_finite_is_named_with_its_step_and_the_last_good_state_kept(
        toy, tmp_path, monkeypatch):  # fmt: skip
    steps, objective = [0], train.mi_loss.objective

    def fails_at_step_4(*batch, **settings):
        steps.append(steps[-1] + torch.is_grad_enabled())  # validation is no step
        loss, terms = objective(*batch, **settings)
        factor = math.nan if steps[-1] == 4 else 1.0
        return loss * factor, terms | {"mi": terms["mi"] * factor}

    monkeypatch.setattr(train.mi_loss, "objective", fails_at_step_4)
    with pytest.raises(t5.InputError, match="step 4: mi is nan;.*; the saved state is kept"):
        run(toy, tmp_path)
    (folder,) = tmp_path.glob("*")
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["step"] == 3 == len(log_of(folder))
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    run(toy, tmp_path, "--resume")  # the fault is gone: it goes on from there to its end
    assert len(log_of(folder)) == 6 and (folder / "metrics.json").exists()


def test_out_of_memory_is_one_line_that_says_what_to_lower(toy, tmp_path):
    program = """if True:
        import resource, sys
        import eval as evaluation, train
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
        sys.exit(evaluation.run_for_user("train.py", lambda: train.main(sys.argv[1:])))"""
    flags = ["--data-root", toy, "--out", tmp_path, "--size", "base", "--from-scratch",
             "--tokenizer", toy / "toy" / "spiece.model"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, *map(str, flags)], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("train.py: out of memory: lower train.py's --micro-batch")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not SHARED.exists(), reason="needs the released data and vocabulary")
def test_real_data_with_the_real_vocabulary(tmp_path):
    folder = run(SHARED / "dss", tmp_path, "--dataset", "svamp", "--size", "tiny", "--from-scratch",
                 "--tokenizer", SHARED / "t5" / "spiece.model", "--subsample", "0.02",
                 "--lr", "3e-3", "--steps", "2", "--eval-every", "2")  # fmt: skip
    config = t5.read_config(folder / "config.json")
    assert (config.vocab_size, config.num_tokens) == (32_128, 32_100)
    assert log_of(folder)[-1]["loss"] < log_of(folder)[0]["loss"]


def test_the_gradients_of_tests_gradients_add_up_and_released_reaches_one_task(toy, monkeypatch,
                                                                               capsys):  # fmt: skip
    flags = ["--data-root", str(toy), "--batch-size", "8"]
    monkeypatch.setattr(sys, "argv", ["gradients.py", *flags])
    gradients.main()
    assert len(capsys.readouterr().out.splitlines()) == 3 + 11
    args = train.parse(flags)
    model, tokenizer, _ = train.student(args)
    model.eval()
    ids = data.encode(data.load("toy", "test", toy), tokenizer, "mi")
    [(sources, targets)], _ = data.collate(ids[:8], "cpu")
    for form, row in ("paper", 2), ("released", 5), ("kl", 8):
        args.mi = form
        terms = gradients.weighted_terms(model, sources, targets, "max")
        loss, _ = train.training_loss(model, sources, targets, args)
        assert loss.item() == pytest.approx(sum(terms[i][1].item() for i in (0, 1, row)), abs=1e-5)
        weights = list(model.parameters())
        whole, label, rationale = (
            torch.autograd.grad(terms[i][1], weights, retain_graph=True, materialize_grads=True)
            if terms[i][1].requires_grad else [torch.zeros_like(p) for p in weights]
            for i in (row, row + 1, row + 2))  # fmt: skip
        for a, b, c in zip(whole, label, rationale):
            assert torch.allclose(a, b + c, atol=1e-6)
        assert any(g.any() for g in label) == (form != "released")
    table = gradients.measures(model, terms)
    assert torch.allclose(table[:, 1], table[:, 2:5].norm(dim=1), rtol=1e-4)  # no part forgotten
    assert torch.allclose(table[[0, 1, 2], [5, 6, 7]], torch.ones(3, dtype=torch.float64))
