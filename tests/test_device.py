"""The lines that depend on the device, on each device at hand: the CPU, and CUDA or MPS.

    python -m pytest tests/test_device.py              # a minute and a half on one CPU core
    python -m pytest tests/test_device.py -k cuda      # on a card

The reference is the CPU in fp32, in fp32 tests one example at a time: logits agree with it within
1e-4, terms within 1e-4 of their value, each gradient within 1e-3 of its norm, greedy ids exactly.
eval.py finds exactly the accuracies that train.py found on the same device.
"""

import io
import json
import random
import re
import signal
from contextlib import nullcontext, redirect_stdout
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import data
import eval as evaluation
import t5
import train
from test_survival import command, finish, log_of, stop_in_batch, the_run, torchrun
from test_t5 import TINY, TINY_V1_1, assert_near, both_versions, lively

CUDA, MPS = torch.cuda.is_available(), torch.backends.mps.is_available()
DEVICES = ["cpu", *["cuda"] * CUDA, *["mps"] * MPS]
on_each_device = pytest.mark.parametrize("device", DEVICES)


def made_up(config, lengths):
    """Rows as `data.make_rows` gives them, of random ids: [([source] * 2, [target] * 2)]."""
    rng = random.Random(0)

    def ids(n):
        return [*(rng.randrange(2, config.num_tokens) for _ in range(n - 1)), t5.EOS]

    return [([ids(s), ids(s + 1)], [ids(t), ids(u)]) for s, t, u in lengths]


LENGTHS = [(3, 2, 9), (30, 6, 21), (11, 3, 4), (64, 9, 64)]  # of source, label and rationale


def terms_and_gradients(
    model, rows, device="cpu", dtype=None, micro_batch=None, mi="paper", reduce="max"
):
    """What train.py computes of a batch, without dropout: {term: number}, {parameter: gradient}."""
    model, terms = deepcopy(model).to(device).eval(), {}
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    micro_batches, totals = data.collate(rows, device, 0, 1, micro_batch, mi != "released")
    for sources, targets in micro_batches:
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss, parts = train.training_loss(
                model, sources, targets, train.ALPHAS, mi, reduce, totals
            )
        scaler.scale(loss).backward()
        for name, part in parts.items():
            terms[name] = terms.get(name, 0.0) + part.item()
    scale = scaler.get_scale()
    return terms, {name: p.grad.cpu() / scale for name, p in model.named_parameters()}


# ---- fp32: the CPU's numbers


@on_each_device
@both_versions
def test_logits_are_those_of_the_cpu_one_row_at_a_time(device, config):
    model, rows = lively(t5.T5, config), made_up(config, LENGTHS)
    sources, targets = (data.pad([row[side][1] for row in rows]) for side in (0, 1))
    alone = [model(*(torch.tensor(ids[1])[None] for ids in row))[0] for row in rows]
    found = model.to(device)(sources.to(device), targets.to(device)).cpu()
    for logits, expected in zip(found, alone):
        assert_near(logits[: len(expected)], expected, atol=1e-4)


@on_each_device
@both_versions
@pytest.mark.parametrize("mi", train.FORMS)
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_terms_and_gradients_are_those_of_the_cpu_one_example_at_a_time(device, config, mi, reduce):
    model, rows = lively(t5.T5, config), made_up(config, LENGTHS)
    settings = dict(mi=mi, reduce=reduce)
    expected, gradients = terms_and_gradients(model, rows, micro_batch=1, **settings)
    terms, found = terms_and_gradients(model, rows, device, **settings)
    assert terms == pytest.approx(expected, rel=1e-4)
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() < 1e-3 * gradient.norm(), name


@on_each_device
@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20)])
def test_relative_buckets_are_those_of_the_cpu(device, num_buckets, max_distance):
    distance = torch.arange(-1_500, 1_500)
    for bidirectional in True, False:
        settings = bidirectional, num_buckets, max_distance
        found = t5.relative_bucket(distance.to(device), *settings).cpu()
        assert torch.equal(found, t5.relative_bucket(distance, *settings))


@on_each_device
def test_greedy_ids_are_those_of_the_cpu_alone_and_among_512(device):
    model = lively(t5.T5, TINY_V1_1)
    rows = [row[0][0] for row in made_up(TINY_V1_1, [(n, 1, 1) for n in range(2, 34)])]
    model.head.weight.data[t5.EOS] = model.head.weight.data[27]  # an id that many rows hold
    model.head.weight.data[27] = 0
    alone = [model.generate(torch.tensor([row]), 20)[0][0] for row in rows]
    ended = [t5.EOS in ids for ids in alone]
    assert any(ended) and not all(ended)
    model.to(device)
    many = model.generate(data.pad(16 * rows).to(device), 20)[0].cpu()
    for i, ids in enumerate(16 * alone):
        assert torch.equal(many[i], F.pad(ids, (0, 20 - len(ids))))
    for row, ids in zip(rows, alone):
        assert torch.equal(model.generate(torch.tensor([row], device=device), 20)[0][0].cpu(), ids)


# ---- half precision


@cache
def small():
    torch.manual_seed(0)
    model = t5.T5(t5.PRESETS["small"])
    rows = made_up(model.config, LENGTHS)
    return model, rows, terms_and_gradients(model, rows)


def joined(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).double()


@on_each_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_stays_near_fp32(device, dtype):
    """`small`, random weights: terms within 1%, the angle between the gradients below 8 degrees."""
    model, rows, (expected, gradients) = small()
    terms, found = terms_and_gradients(model, rows, device, dtype)
    assert terms == pytest.approx(expected, rel=0.01) and terms != expected
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert F.cosine_similarity(joined(found), joined(gradients), 0) > 0.99


@on_each_device
@both_versions
def test_fp16_survives_a_feed_forward_product_beyond_its_range(device, config):
    """T5's own weights pass 65,504, fp16's largest number, at `down`; these at gate * up too."""
    model, products = lively(t5.T5, config), []
    for block in [*model.encoder, *model.decoder]:
        torch.nn.init.constant_(block.feed_forward.down.weight, 60_000)
        block.feed_forward.down.register_forward_hook(
            lambda down, h, _: products.append(F.linear(h[0].half(), down.weight.half()))
        )
        if block.feed_forward.gate:
            block.feed_forward.gate.weight.data *= 1_000
            block.feed_forward.up.weight.data *= 1_000
    rows = made_up(config, LENGTHS)
    terms, gradients = terms_and_gradients(model, rows, device, torch.float16)
    assert len(products) == 3 + 2 * 2 and not any(p.isfinite().all() for p in products)
    assert all(abs(term) < float("inf") for term in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@on_each_device
@pytest.mark.parametrize(
    "dtype", [None, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
def test_masked_scores_give_finite_gradients(device, dtype):
    """64 positions, of which a row uses all, one or, in a source of padding alone, none; the scores
    of self-attention, and those of padding alone, are far below 0, which changes no softmax. There
    cuDNN's attention has given NaN on H100 (pytorch/pytorch#196678)."""
    torch.manual_seed(0)
    model = t5.T5(replace(t5.PRESETS["tiny"], vocab_size=TINY.vocab_size))
    for bias in (model.encoder_bias, model.decoder_bias):
        bias.weight.data -= 100
    rows = made_up(TINY, [(63, 64, 64), (1, 1, 1), (1, 1, 1)])
    rows[2] = ([[t5.PAD], [t5.PAD]], rows[2][1])
    _, gradients = terms_and_gradients(model, rows, device, dtype)
    _, expected = terms_and_gradients(model, rows)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert F.cosine_similarity(joined(gradients), joined(expected), 0) > 0.99


@on_each_device
def test_fused_attention_takes_every_mask(device, monkeypatch):
    """On CUDA no other kernel is allowed; it refuses a mask whose last dimension has a stride."""
    attention, strides = F.scaled_dot_product_attention, set()

    def watched(q, k, v, mask, *settings, **scale):
        strides.add(mask.stride(-1))
        return attention(q, k, v, mask, *settings, **scale)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    model, rows = t5.T5(t5.PRESETS["tiny"]), made_up(TINY, LENGTHS)
    fused = sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION) if device == "cuda" else nullcontext()
    with fused:
        terms_and_gradients(model, rows, device, torch.bfloat16)
        model.to(device).generate(data.pad([row[0][0] for row in rows]).to(device), 9)
    assert strides == {1}


# ---- whole runs


@pytest.fixture(scope="module")
def gifts(toy, tmp_path_factory):
    """Flags of a run on own data that 60 steps teach halfway: who got what, in a tiny student."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("data") / "gifts"
    folder.mkdir()
    for split, n in (("train", 400), ("test", 300)):
        lines = []
        for _ in range(n):
            (a, b), x = rng.sample(data.NAMES, 2), rng.choice(data.THINGS)
            texts = {
                "input": f"{a} gave {b} {x}.",
                "label": f"{b} {x}",
                "rationale": f"{a} had {x}",
            }
            lines.append(json.dumps(texts) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    flags = "--size tiny --from-scratch --lr 4e-3 --batch-size 32 --steps 60 --eval-every 60"
    files = ["--dataset", str(folder), "--tokenizer", str(toy / "toy" / "spiece.model")]
    return [*flags.split(), *files]


@pytest.fixture(autouse=True)
def plain_fp32():  # after a run in fp16
    yield
    torch.set_float32_matmul_precision("highest")


def accuracy_of(run, device, *flags):
    """The accuracy that `eval.py RUN` prints, in %."""
    with redirect_stdout(io.StringIO()) as out:
        evaluation.main([str(run), "--device", device, "--samples", "0", *flags])
    return re.search(r"accuracy: (\S+)%", out.getvalue())[1]


@on_each_device
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_eval_finds_the_accuracies_of_a_run_that_was_stopped_and_resumed(
    gifts, tmp_path, monkeypatch, device, precision
):
    """All texts are written in plain fp32, in whatever precision the student is trained."""
    generate, written_in = t5.T5.generate, set()

    def watched(*batch):
        autocast = torch.is_autocast_enabled(device)
        written_in.add((autocast, torch.get_float32_matmul_precision()))
        return generate(*batch)

    monkeypatch.setattr(t5.T5, "generate", watched)
    flags = [*gifts, "--precision", precision, "--device", device, "--out", str(tmp_path)]
    with stop_in_batch(20):
        assert train.main(flags) == 128 + signal.SIGTERM
    run = the_run(tmp_path)
    assert len(log_of(run)) == 20 == torch.load(run / "state.pt", weights_only=True)["step"]
    train.main([*flags, "--resume"])
    log, metrics = log_of(run), json.loads((run / "metrics.json").read_text())
    assert [line["step"] for line in log] == list(range(1, 61))
    assert log[59]["loss"] < log[20]["loss"] < log[0]["loss"]
    assert 0.2 < metrics["test_accuracy"] < 0.9  # so that some answers are close calls
    for path, name in ((run, "test_accuracy"), (run / "last", "test_accuracy_last")):
        assert accuracy_of(path, device) == f"{100 * metrics[name]:.2f}"
    assert written_in == {(False, "highest")}
    expected = "high" if precision == "fp16" else "highest"  # in training
    assert torch.get_float32_matmul_precision() == expected or precision == "auto"


@on_each_device
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_never_waits_for_the_device(gifts, tmp_path, monkeypatch, device, precision):
    """From a batch to its step of AdamW: on CUDA, whatever would wait there raises an error."""
    collate, zero_grad, steps = data.collate, torch.optim.AdamW.zero_grad, []

    def waiting(mode):
        if device == "cuda":
            torch.cuda.set_sync_debug_mode(mode)

    def begin(*batch, **settings):
        if torch.is_grad_enabled():  # not in validation
            waiting("error")
        return collate(*batch, **settings)

    def end(optimizer):
        waiting("default")
        steps.append(optimizer)
        zero_grad(optimizer)

    monkeypatch.setattr(data, "collate", begin)
    monkeypatch.setattr(torch.optim.AdamW, "zero_grad", end)
    flags = [*gifts, "--out", str(tmp_path), "--device", device, "--precision", precision]
    try:
        train.main([*flags, "--steps", "3"])
    finally:
        waiting("default")
    assert len(steps) == 3


PROCESSES = [
    (device, n, mi, size)
    for device, least, most in (("cpu", 2, 2), ("cuda", 1, torch.cuda.device_count()))
    for n, mi, size in ((1, "paper", 8), (2, "paper", 8), (2, "released", 7))
    if least <= n <= most
]


@pytest.mark.parametrize("device, n, mi, size", PROCESSES)
def test_processes_of_torchrun_give_the_losses_of_one_at_the_same_batch(
    toy, tmp_path, device, n, mi, size
):
    # a small rate: each step of training magnifies the rounding of the steps before
    flags = f"--steps 10 --lr 2e-4 --mi {mi} --batch-size {size} --device {device} --precision fp32"
    flags += " --eval-every 10"
    train.main(list(map(str, command(toy, tmp_path / "one", *flags.split())[2:])))
    done = finish(torchrun(n, *command(toy, tmp_path / "many", *flags.split())[1:]))
    assert done.returncode == 0 and done.stdout.count("test accuracy") == 1, done.stderr
    one, many = the_run(tmp_path / "one"), the_run(tmp_path / "many")
    for line, other in zip(log_of(one), log_of(many), strict=True):
        for term in ("loss", "prediction", "generation", "mi"):
            assert line[term] == pytest.approx(other[term], abs=1e-5 if device == "cpu" else 1e-4)
    one, many = (json.loads((run / "metrics.json").read_text()) for run in (one, many))
    assert one["test_accuracy_last"] == many["test_accuracy_last"]
