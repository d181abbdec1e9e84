"""train.py from the command line to a run: python -m pytest tests/test_train.py

The runs are real and small: the toy task, a handful of steps.
"""

import io
import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import data
import eval as evaluation
import gradients
import mi_loss
import t5
import train
from test_survival import assert_same_run, log_of, stop_in_batch

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def run(root, out, flags=""):
    """Run train.py in this process -> the run's folder: a new one, or the one that is there."""
    before = set(out.glob("*"))
    few = f"--data-root {root} --out {out} --steps 6 --eval-every 3 --batch-size 8"
    train.main(f"{few} {flags}".split())
    (folder,) = set(out.glob("*")) - before or before
    return folder


@pytest.fixture(scope="module", autouse=True)
def short_texts():  # students that have hardly learned do not end their texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t5, "MAX_TARGET", 16)
        yield


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The folder of a run without other flags."""
    return run(toy, tmp_path_factory.mktemp("whole"))


def json_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def spiece(root):
    return root / "toy" / "spiece.model"


def write_own(folder, lines):
    """Own data with these lines in both files -> the flags that name it."""
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return f"--dataset {folder}"


def own_folder(folder, labels):
    """Flags of a run on own data, in which two labels take turns as two words do."""
    lines = []
    for i in range(40):
        word = ["apples", "books"][i % 2]
        text = f"{data.NAMES[i % 16]} had {i % 7 + 2} {word}."
        lines.append({"input": text, "label": labels[i % 2], "rationale": f"It says {word}."})
    return f"{write_own(folder, lines)} --size tiny --from-scratch"


# ---- what is computed


def test_a_run_folder_holds_what_the_design_says(whole):
    assert whole.name == "toy-tiny-mi-steps_6-batch_size_8-eval_every_3-s0"
    log, metrics, settings = log_of(whole), json_of(whole, "metrics"), json_of(whole, "settings")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert [line["examples"] for line in log] == [8, 16, 24, 32, 40, 48]
    assert [line["lr"] for line in log] == pytest.approx([4e-3 * (6 - i) / 6 for i in range(6)])
    for line in log:
        assert ("validation_accuracy" in line) == (line["step"] in (3, 6))
    assert metrics["validation_accuracy"] == max(log[i]["validation_accuracy"] for i in (2, 5))
    assert 0 <= metrics["test_accuracy"] <= 1 and 0 <= metrics["test_accuracy_last"] <= 1
    assert metrics["examples"] == 48 and metrics["seconds"] > 0
    assert settings["mi"] == "paper" and settings["by_value"] and settings["micro_batch"] > 8
    assert not (whole / "state.pt").exists()  # nothing to resume


def test_the_alphas_are_the_weights_of_eq_10_and_with_alpha3_zero_it_is_dss(toy, whole, tmp_path):
    flags = ("--alphas 0.2 0.7 0.3", "--alphas 0.5 0.5 0", "--method dss")
    other, zero, dss = (run(toy, tmp_path, flag) for flag in flags)
    terms = ("prediction", "generation", "mi")
    for folder, alphas in (whole, (0.5, 0.5, 0.1)), (other, (0.2, 0.7, 0.3)):
        for line in log_of(folder):
            L = sum(alpha * line[term] for alpha, term in zip(alphas, terms))
            assert line["loss"] == pytest.approx(L, abs=1e-5)
    one, another = (log_of(folder)[0] for folder in (whole, other))  # the weights are the same
    assert [one[term] for term in terms] == [another[term] for term in terms]
    assert_same_run(zero, dss)


def validation_mi(folder, valid):
    """One plain pass over the validation set, with the gold labels and a run's last weights."""
    model, tokenizer = t5.load(folder / "last"), data.Tokenizer(folder / "spiece.model")
    (ids, _), total = data.make_rows(valid, tokenizer, "dss"), 0.0
    for first in range(0, len(ids), 8):  # `released` depends on the padding of the batch of 8
        [(sources, targets)], _ = data.collate(ids[first : first + 8], "cpu")
        B = len(targets[0])
        logits = [model(sources[i * B : (i + 1) * B], targets[i]) for i in (0, 1)]
        log_p, masks = [x.log_softmax(-1) for x in logits], [ids != 0 for ids in targets]
        form = json_of(folder, "settings")["mi"]
        total += mi_loss.mi_loss(*log_p, *masks, form).item() * B
    return pytest.approx(total / len(ids), abs=1e-5)


FORMS = "--method dss,--mi eq9,--mi released --micro-batch 3,--labels llm"


@pytest.mark.parametrize("flags", FORMS.split(","))
def test_every_run_of_two_tasks_logs_the_third_term_on_validation(toy, tmp_path, flags):
    folder = run(toy, tmp_path, f"--steps 3 {flags}")
    _, valid = data.train_and_valid("toy", toy)
    assert log_of(folder)[-1]["validation_mi"] == validation_mi(folder, valid)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(toy, whole, tmp_path):
    assert_same_run(whole, run(toy, tmp_path, "--seed 0"))
    assert log_of(whole)[0]["loss"] != log_of(run(toy, tmp_path, "--seed 1"))[0]["loss"]


def test_twenty_steps_are_those_of_transformers_with_the_same_batches(toy, tmp_path):
    """`--mi released` against a plain loop over transformers' model and torch's AdamW.

    All inputs, all labels and all rationales have one length, so nothing is padded, and the
    released code's missing mask makes no difference. Losses within 1e-4 at every step.
    """
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words, lines, steps, B = data.NAMES + data.THINGS, [], 20, 4
    for i in range(40):
        x = [words[(i * k + k * k) % len(words)] for k in range(1, 8)]
        lines.append({"input": " ".join(x), "label": x[1], "rationale": " ".join(x[2:5])})

    size = dict(vocab_size=512, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=3)
    config = transformers.T5Config(**size, dropout_rate=0.0, decoder_start_token_id=0)
    theirs = transformers.T5ForConditionalGeneration(config)
    theirs.save_pretrained(tmp_path / "weights")
    flags = write_own(tmp_path / "own", lines)
    flags += f" --weights {tmp_path / 'weights'} --tokenizer {spiece(toy)}"
    flags += f" --mi released --steps {steps} --batch-size {B} --lr 1e-3"
    log = log_of(run(toy, tmp_path / "out", flags))

    examples, _ = data.train_and_valid(tmp_path / "own")
    ids, _ = data.make_rows(examples, data.Tokenizer(spiece(toy)), "mi")
    optimizer = torch.optim.AdamW(theirs.parameters(), 1e-3, weight_decay=0.0)
    for step, rows in zip(range(steps), data.batches(len(ids), B, seed=0)):
        logits, loss = [], 0.0
        for task in (0, 1):
            source, target = (torch.tensor([ids[i][side][task] for i in rows]) for side in (0, 1))
            out = theirs(input_ids=source, labels=target)
            logits.append(out.logits)
            loss = loss + 0.5 * out.loss
        f_v, f_z = (x.softmax(-1).max(1).values for x in logits)
        loss = loss + 0.1 * torch.nn.CrossEntropyLoss()(f_z, f_v.detach())
        assert loss.item() == pytest.approx(log[step]["loss"], abs=1e-4)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()


def model_and_rows(toy, method="mi"):
    """A tiny random student, and 11 rows of `data.make_rows`."""
    torch.manual_seed(0)
    tokenizer = data.Tokenizer(spiece(toy))
    rows, _ = data.make_rows(data.load("toy", "train", toy)[:11], tokenizer, method)
    size = dict(vocab_size=512, num_layers=1, num_decoder_layers=1)
    return t5.T5(replace(t5.PRESETS["tiny"], **size)), rows


CASES = list(itertools.product(train.FORMS, ("max", "mean")))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("form, reduce", [*CASES, (None, "max")])
def test_micro_batches_are_the_plain_objective_on_the_whole_batch(toy, form, reduce, precision):
    """Loss and every gradient within 1e-5 (bf16, which rounds to 3 digits: 2e-2) of the largest."""
    results = []
    model, rows = model_and_rows(toy, "mi" if form else "finetune")
    for micro_batch in (11, 4, 1):
        micro_batches, totals = data.collate(rows, "cpu", 0, 1, micro_batch, form != "released")
        whole = 0.0
        for sources, targets in micro_batches:
            parts_of = totals if len(micro_batches) > 1 else None
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss, parts = train.training_loss(
                    model, sources, targets, train.ALPHAS, form, reduce, parts_of
                )
            loss.backward()
            whole += parts["loss"]
        results.append((whole, [p.grad for p in model.parameters()]))
        model.zero_grad()
    (loss, grads), *others = results
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    for other, other_grads in others:
        assert abs(loss - other) < tolerance * abs(loss)
        for a, b in zip(grads, other_grads):
            assert (a - b).abs().max() < tolerance * max(1.0, a.abs().max())


def test_tests_gradients_measures_the_terms_of_training(toy, monkeypatch, capsys):
    flags = ["--data-root", str(toy), "--batch-size", "8"]
    monkeypatch.setattr(sys, "argv", ["gradients.py", *flags])
    gradients.main()
    assert len(capsys.readouterr().out.splitlines()) == 3 + 14
    model, rows = model_and_rows(toy)
    [(sources, targets)], _ = data.collate(rows, "cpu")
    terms = gradients.weighted_terms(model, sources, targets, "max")
    for form, row in ("paper", 2), ("eq9", 5), ("released", 8), ("kl", 11):
        loss, _ = train.training_loss(model, sources, targets, train.ALPHAS, form, "max")
        assert loss.item() == pytest.approx(sum(terms[i][1].item() for i in (0, 1, row)), abs=1e-5)
    table = gradients.measures(model, terms)
    assert torch.allclose(table[:, 1], table[:, 2:5].norm(dim=1), rtol=1e-4)  # no part forgotten


# ---- what is refused


def refusal(flags, capsys):
    """What train.py says, in one line and with status 2, where it can't do as asked."""
    try:
        status = evaluation.run_for_user("train.py", lambda: train.main(flags.split()))
    except SystemExit as stop:  # a flag's value
        status = stop.code
    said = capsys.readouterr().err
    assert status == 2 and said.count("\n") == 1, said
    return said


WRONG = "steps 0,batch-size 181,lr nan,subsample 1.5,alphas 0 0 nan,size huge,device cuda,resume"
REFUSED = [  # flags, and what the line names
    *[(f"--{flag}", f"--{flag.split()[0]}") for flag in WRONG.split(",")],
    ("--from-scratch --weights x", "--weights"),
    ("--dataset nowhere", "nowhere/train.jsonl"),
    ("--tokenizer none", "none"),
    ("--weights {own}", "config.json"),
    ("--weights google/t5", "hf download google/t5 --local-dir FOLDER"),
    ("--out {spiece}", "Not a directory"),
    ("--dataset {own} --size tiny --batch-size 4", "--from-scratch"),
    ("{tiny} --labels llm", "--labels llm"),
    ("{tiny} --subsample 0.01", "left to train on"),
    ("{tiny} --by-value --batch-size 4", "'blue'"),
]


@pytest.mark.parametrize("flags, says", REFUSED, ids=lambda value: value)
def test_what_cant_be_done_is_refused_in_one_line(toy, tmp_path, monkeypatch, capsys, flags, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    own, out = tmp_path / "own", tmp_path / "out"
    tiny = f"{own_folder(own, ['red', 'blue'])} --tokenizer {spiece(toy)}"
    flags = flags.format(own=own, spiece=spiece(toy), tiny=tiny)
    assert says in refusal(f"--data-root {toy} --out {out} {flags}", capsys)
    assert not out.exists()  # nothing is begun


@pytest.mark.skipif(not SHARED.exists(), reason="needs the released vocabulary")
def test_labels_that_the_vocabulary_cant_write_are_learned_or_refused(toy, tmp_path, capsys):
    """The labels of the first folder hold unknown characters and differ all the same."""
    few = f"--tokenizer {SHARED / 't5/spiece.model'} --batch-size 8 --method dss --lr 3e-3"
    own = own_folder(tmp_path / "own", ["<pos>", "<neg>"])
    folder = run(toy, tmp_path / "out", f"{own} {few} --steps 40 --eval-every 20")
    assert json_of(folder, "metrics")["test_accuracy"] == 1.0
    config = t5.read_config(folder / "config.json")
    assert (config.vocab_size, config.num_tokens) == (32_128, 32_100)
    assert "labels have characters that the vocabulary lacks" in capsys.readouterr().out
    other = own_folder(tmp_path / "other", ["正面", "负面"])
    said = refusal(f"{other} {few} --out {tmp_path / 'none'}", capsys)
    assert "正面" in said and "负面" in said and not (tmp_path / "none").exists()


def test_out_of_memory_is_one_line_that_says_what_to_lower(toy, tmp_path):
    program = """if True:
        import resource, sys
        import eval as evaluation, train
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
        sys.exit(evaluation.run_for_user("train.py", lambda: train.main(sys.argv[1:])))"""
    flags = f"--data-root {toy} --out {tmp_path} --size base --from-scratch --batch-size 8"
    command = [sys.executable, "-c", program, *flags.split(), "--tokenizer", str(spiece(toy))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "out of memory" in done.stderr and "--micro-batch" in done.stderr


def test_inputs_that_two_splits_share_are_counted(toy, tmp_path, capsys):
    """White space aside: a student reads it as one blank."""
    flags = own_folder(tmp_path / "own", ["red", "blue"]) + f" --tokenizer {spiece(toy)}"
    test = tmp_path / "own" / "test.jsonl"
    test.write_text(test.read_text().replace(" had ", "  had "))
    run(toy, tmp_path / "out", flags)
    said = capsys.readouterr().out
    assert "test: 36 of 40 inputs are in train too\n" in said
    assert "test: 4 of 40 inputs are in valid too\n" in said
    run(toy, tmp_path / "toy")
    assert "too\n" not in capsys.readouterr().out


def test_the_data_root_is_found_from_any_folder(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(toy.parent)
    folder = run(toy.name, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert json_of(folder, "settings")["data_root"] == str(toy)
    evaluation.main([str(folder), "--samples", "0"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_terminal_cannot_show_ends_no_run(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    evaluation.run_for_user("train.py", lambda: print("\u2192"))
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"\\u2192\n"


# ---- names, and what becomes of a run that is there


def test_a_runs_name_has_every_setting_that_changes_its_result():
    flags = "--micro-batch 4 --device cpu --out x --method dss --alphas 1 1 0.1 --seed 3"
    assert train.run_name(train.parse(flags.split())) == "toy-tiny-dss-alphas_1.0_1.0_0.0-s3"


def test_a_finished_run_stays_and_a_begun_one_asks_for_resume(toy, whole, tmp_path):
    kept = (whole / "model.safetensors").read_bytes()
    for flags in ("", "--resume"):
        with pytest.raises(t5.InputError, match="is finished"):
            run(toy, whole.parent, flags)
    assert (whole / "model.safetensors").read_bytes() == kept
    (tmp_path / whole.name).mkdir()
    with pytest.raises(t5.InputError, match="was begun: go on with --resume"):
        run(toy, tmp_path)


def test_a_run_does_not_go_on_with_another_vocabulary_or_other_examples(toy, tmp_path):
    own = tmp_path / "own"
    flags = f"{own_folder(own, ['red', 'blue'])} --tokenizer"
    with stop_in_batch(2):
        folder = run(toy, tmp_path / "out", f"{flags} {spiece(toy)}")
    settings = (folder / "settings.json").read_bytes()
    changed = (own / "train.jsonl").read_text().replace("It says", "He says", 1)
    (own / "train.jsonl").write_text(changed)
    data.write_toy(tmp_path / "other", {"train": 200, "test": 20}, seed=1)
    with pytest.raises(t5.InputError, match="other settings: vocabulary was .*train_examples was"):
        run(toy, tmp_path / "out", f"{flags} {spiece(tmp_path / 'other')} --resume")
    assert (folder / "settings.json").read_bytes() == settings


# ---- stops, kills, numbers that are not finite


def test_a_run_that_was_killed_before_its_first_save_resumes_from_the_start(toy, whole, tmp_path):
    (tmp_path / whole.name / "last").mkdir(parents=True)
    assert_same_run(whole, run(toy, tmp_path, "--resume"))


def test_a_stopped_run_with_dropout_resumes_to_the_same_run_without_a_random_state(toy, tmp_path):
    """Four micro-batches a step; the step in which the signal comes is taken and saved."""
    torch.manual_seed(0)
    config = replace(t5.PRESETS["tiny"], vocab_size=512, dropout_rate=0.3)
    weights = tmp_path / "weights"
    t5.save(t5.T5(config), weights)
    flags = f"--weights {weights} --tokenizer {spiece(toy)} --eval-every 6 --micro-batch 2"
    whole = run(toy, tmp_path / "whole", flags)
    with stop_in_batch(3):
        cut = run(toy, tmp_path / "cut", flags)
    state = torch.load(cut / "state.pt", weights_only=True)
    parts = {"step", "seconds", "best", "record", "settings", "model", "optimizer", "scaler"}
    assert state["step"] == 3 == len(log_of(cut)) and state.keys() == parts
    torch.manual_seed(1)
    run(toy, tmp_path / "cut", f"{flags} --resume")
    assert_same_run(whole, cut)


KILLS = [(torch, "save", 3), (train, "accuracy", 6), (t5, "save", 6), (train, "final_test", 6)]


@pytest.mark.parametrize("module, function, saved_step", KILLS, ids=lambda value: str(value)[:20])
def test_a_kill_after_the_last_step_loses_nothing(
    toy, whole, tmp_path, monkeypatch, module, function, saved_step
):
    """While its state is written, in its validation, while the best weights are, and after it."""
    wanted, calls = getattr(module, function), []

    def killed_at_step_6(*what):
        calls.append(what)
        if len(calls) == 2 or function == "final_test":
            raise KeyboardInterrupt
        return wanted(*what)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, function, killed_at_step_6)
        run(toy, tmp_path)
    state = torch.load(tmp_path / whole.name / "state.pt", weights_only=True)
    assert state["step"] == saved_step
    assert_same_run(whole, run(toy, tmp_path, "--resume"))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_mixed_precision_resumes_although_fp16_overflows(toy, tmp_path, monkeypatch, precision):
    scales, update = [], torch.amp.GradScaler.update

    def watched(scaler):
        update(scaler)
        scales.append(scaler.get_scale())  # 2**16 at first, and halved by a step that overflows

    monkeypatch.setattr(torch.amp.GradScaler, "update", watched)
    flags = f"--precision {precision} --alphas 0.5 0.5 30"
    whole = run(toy, tmp_path / "whole", flags)
    if precision == "fp16":
        assert 2**10 < scales[-1] < 2**14  # some steps were skipped, and not all
    with stop_in_batch(2):
        cut = run(toy, tmp_path / "cut", flags)
    run(toy, tmp_path / "cut", f"{flags} --resume")
    assert_same_run(whole, cut)


def test_fp16_that_overflows_at_every_step_stops_the_run(toy, tmp_path):
    flags = "--precision fp16 --alphas 0.5 0.5 1e18 --steps 24 --eval-every 24"
    with pytest.raises(t5.InputError, match="fp16 overflows at every step: .*bf16"):
        run(toy, tmp_path, flags)


def test_a_term_that_is_not_finite_is_named_with_its_step_and_the_last_good_state_kept(
    toy, tmp_path, monkeypatch
):
    steps, objective = [0], mi_loss.objective

    def fails_at_step_4(*batch):
        steps.append(steps[-1] + torch.is_grad_enabled())  # validation is no step
        loss, terms = objective(*batch)
        factor = math.nan if steps[-1] == 4 else 1.0
        return loss * factor, terms | {"mi": terms["mi"] * factor}

    monkeypatch.setattr(mi_loss, "objective", fails_at_step_4)
    with pytest.raises(t5.InputError, match="step 4: mi is nan: .*; .* is kept"):
        run(toy, tmp_path)
    (folder,) = tmp_path.glob("*")
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["step"] == 3 == len(log_of(folder))
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    run(toy, tmp_path, "--resume")  # the fault is gone: it goes on from there to its end
    assert len(log_of(folder)) == 6 and (folder / "metrics.json").exists()
