"""The loss, taught by tests: read from the top to learn the method, run to check it.

    python -m pytest test_mi_loss.py                     # a few seconds on a CPU
    python -m pytest test_mi_loss.py -k worked_example

In order: an example worked by hand; the method again in plain loops, without tensors; properties,
one a test, whose name is the claim; a tiny T5 that learns. Letters, as in `mi_loss.py`: B batch,
T target length, V vocabulary; but in f(V), f(Z) they name the label's and the rationale's task.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import grad

from mi_loss import features, mi_loss, mi_terms, objective, token_cross_entropy
from t5 import PRESETS, T5

each_form = pytest.mark.parametrize("form", ["paper", "kl", "released"])
each_reduce = pytest.mark.parametrize("reduce", ["max", "mean"])
EVERY = torch.tensor([[True, True]])  # a mask: two positions, no padding


def close(a, b, tolerance=2e-6):
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


# --- a worked example: B = 1, V = 3, T = 2 in both tasks; as logits, logarithms of probabilities
LABEL = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2]]]).log()
RATIONALE = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4]]]).log()


def test_worked_example_of_the_features_and_the_three_forms():
    """The maxima sum to 5/4 in both tasks; divided by it, f(V) = 2/5 1/5 2/5, f(Z) = 2/5 2/5 1/5.

    paper     -sum f(V) ln f(Z) = 3/5 ln(5/2) + 2/5 ln 5 = 0.54977 + 0.64378 = 1.19355
    kl        sum f(V) ln(f(V) / f(Z)) = 2/5 ln 1 + 1/5 ln(1/2) + 2/5 ln 2 = 1/5 ln 2 = 0.13863
    released  the maxima as they are, f(Z) taken for logits; its log-softmax subtracts
              ln(2 e^(1/2) + e^(1/4)) = ln(3.29744 + 1.28403) = 1.52202 from each:
              5/4 * 1.52202 - (1/2 * 1/2 + 1/4 * 1/2 + 1/2 * 1/4) = 1.90253 - 0.5 = 1.40253
    """
    assert close(features(LABEL, EVERY), [[1 / 2, 1 / 4, 1 / 2]])
    assert close(features(RATIONALE, EVERY), [[1 / 2, 1 / 2, 1 / 4]])
    assert close(features(LABEL, EVERY, "mean"), [[3 / 8, 1 / 4, 3 / 8]])
    for form, expected in ("paper", 1.19355), ("kl", 0.13863), ("released", 1.40253):
        assert close(mi_loss(LABEL, RATIONALE, EVERY, EVERY, form), expected, 5e-6)


def test_worked_example_of_the_objective():
    """The target ids are 1, 2 in both tasks (0 is padding).

    prediction  -(ln 1/4 + ln 1/2) / 2 = 3/2 ln 2 = 1.03972
    generation  -(ln 1/4 + ln 1/4) / 2 = 2 ln 2 = 1.38629
    L           0.5 * 1.03972 + 0.5 * 1.38629 + 0.1 * 1.19355 = 1.33236
    """
    ids = torch.tensor([[1, 2]])
    L, terms = objective(LABEL, ids, RATIONALE, ids)
    assert list(terms) == ["loss", "prediction", "generation", "mi"]
    assert L == terms["loss"]
    assert close([*terms.values()], [1.33236, 1.03972, 1.38629, 1.19355], 5e-6)


# --- the oracle: one example at a time, in loops over lists of numbers
def softmax(logits):
    return [math.exp(x) / sum(map(math.exp, logits)) for x in logits]


def features_in_loops(logits, mask, reduce):  # T lists of V numbers, T booleans -> V numbers
    positions = [softmax(row) for row, counts in zip(logits, mask) if counts]
    words = zip(*positions)  # V tuples: a word's probability at each position
    return [max(p) if reduce == "max" else sum(p) / len(p) for p in words]


def mi_loss_in_loops(label_logits, rationale_logits, label_mask, rationale_mask, form, reduce):
    total, every = 0.0, [True] * len(rationale_mask[0])
    for b in range(len(label_logits)):
        masks = (every, every) if form == "released" else (label_mask[b], rationale_mask[b])
        f_V = features_in_loops(label_logits[b], masks[0], reduce)
        f_Z = features_in_loops(rationale_logits[b], masks[1], reduce)
        if form == "released":
            f_Z = softmax(f_Z)
        else:
            f_V, f_Z = [p / sum(f_V) for p in f_V], [p / sum(f_Z) for p in f_Z]
        for v, z in zip(f_V, f_Z):
            total += v * math.log(v / z) if form == "kl" else -v * math.log(z)
    return total / len(label_logits)


# B = 3, T = 4 and 7, V = 11; label targets of 4, 1, 2 tokens and rationales of 3, 7, 5
torch.manual_seed(0)
LOGITS = [(3 * torch.randn(3, T, 11)).requires_grad_() for T in (4, 7)]  # label's, rationale's
MASKS = [torch.arange(4) < torch.tensor([[4], [1], [2]]),
         torch.arange(7) < torch.tensor([[3], [7], [5]])]  # fmt: skip
IDS = [mask * torch.randint(1, 11, mask.shape) for mask in MASKS]
BATCH = *LOGITS, *MASKS  # what mi_loss takes
TARGETS = LOGITS[0], IDS[0], LOGITS[1], IDS[1]  # what objective takes


@each_form
@each_reduce
def test_features_and_mi_loss_equal_the_loops(form, reduce):
    batch = [x.tolist() for x in BATCH]
    for b, f in enumerate(features(LOGITS[1], MASKS[1], reduce)):
        assert close(f, features_in_loops(batch[1][b], batch[3][b], reduce))
    assert close(mi_loss(*BATCH, form, reduce), mi_loss_in_loops(*batch, form, reduce))


def test_token_cross_entropy_is_the_mean_over_the_tokens_that_are_not_padding():
    pairs = zip(LOGITS[0].flatten(0, 1).tolist(), IDS[0].flatten().tolist())
    expected = sum(-math.log(softmax(row)[i]) for row, i in pairs if i != 0) / (4 + 1 + 2)
    assert close(token_cross_entropy(LOGITS[0], IDS[0]), expected)
    assert close(torch.nn.CrossEntropyLoss(ignore_index=0)(LOGITS[0].mT, IDS[0]), expected)


# --- properties of the objective (Eq. 10)
def test_alpha3_0_is_distilling_step_by_step_to_the_last_bit(monkeypatch):
    monkeypatch.setattr("mi_loss.mi_terms", None)  # calling it would fail
    DSS = 0.5 * token_cross_entropy(*TARGETS[:2]) + 0.5 * token_cross_entropy(*TARGETS[2:])
    L, terms = objective(*TARGETS, alpha3=0.0)
    assert L == DSS and list(terms) == ["loss", "prediction", "generation"]
    assert all(map(torch.equal, grad(L, LOGITS), grad(DSS, LOGITS)))


@each_form
@each_reduce
def test_the_terms_are_the_parts_of_L_and_detached(form, reduce):
    L, terms = objective(*TARGETS, form=form, reduce=reduce)
    assert L == 0.5 * terms["prediction"] + 0.5 * terms["generation"] + 0.1 * terms["mi"]
    assert close(terms["mi"], mi_loss(*BATCH, form, reduce))
    assert L.requires_grad and not any(term.requires_grad for term in terms.values())


@each_form
def test_shares_of_a_batch_in_any_order_add_up_to_the_whole_when_told_its_totals(form):
    whole, terms = objective(*TARGETS, form=form)
    shares = [objective(*(x[rows] for x in TARGETS), form=form, totals=(4 + 1 + 2, 3 + 7 + 5, 3))
              for rows in ([2], [1, 0])]  # fmt: skip
    L = sum(share for share, _ in shares)
    assert close(L, whole) and all(map(close, grad(L, LOGITS), grad(whole, LOGITS)))
    assert all(close(sum(parts[name] for _, parts in shares), terms[name]) for name in terms)


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_everything_is_computed_in_fp32_whatever_the_logits(form, dtype):
    label_logits, rationale_logits = (x.to(dtype) for x in LOGITS)
    exact, _ = objective(label_logits.float(), IDS[0], rationale_logits.float(), IDS[1], form=form)
    for enabled in True, False:
        with torch.autocast("cpu", dtype, enabled=enabled):
            L, _ = objective(label_logits, IDS[0], rationale_logits, IDS[1], form=form)
        assert L.dtype == torch.float32 and L == exact
    assert features(label_logits, MASKS[0]).dtype == torch.float32


@each_form
@each_reduce
def test_every_tensor_is_made_on_the_device_of_the_logits(form, reduce):
    L, terms = objective(*(x.to("meta") for x in TARGETS), form=form, reduce=reduce)
    assert {x.device.type for x in (L, *terms.values())} == {"meta"}


# --- properties of the features (Eq. 9)
def test_a_mean_sums_to_1_and_a_maximum_to_between_1_and_T():
    assert close(features(LOGITS[0], MASKS[0], "mean").sum(-1), [1.0, 1.0, 1.0])
    sums = features(LOGITS[0], MASKS[0]).sum(-1)
    assert 1 < sums[0] < 4 and close(sums[1], 1.0) and 1 < sums[2] < 2  # T = 4, 1, 2
    undecided, certain = torch.zeros(1, 2, 5), 100 * torch.eye(2, 5)[None]
    assert close(features(undecided, EVERY), [[1 / 5] * 5])  # 1 / V each: their sum is 1
    assert close(features(certain, EVERY), [[1.0, 1.0, 0.0, 0.0, 0.0]])  # their sum is T


def test_the_28_ids_that_name_no_token_enter_the_softmax():
    logits = torch.zeros(1, 2, 32_128, requires_grad=True)
    f = features(logits, EVERY)
    assert close(f[0, 5] * 32_128, 1.0) and close(f[0, 32_100:].sum() * 32_128, 28.0)
    assert (grad(f[0, 5], logits)[0][0, 0, 32_100:] < 0).all()


def test_with_max_a_position_that_holds_no_words_maximum_gets_no_gradient():
    """The maxima are 0.6 (t = 0), 0.3 (t = 0) and 0.7 (t = 1); t = 2 hedges and holds none."""
    p = torch.tensor([[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.4, 0.2, 0.4]]])
    logits = p.roll(1, -1).log().requires_grad_(), p.log().requires_grad_()
    mask = torch.tensor([[True, True, True]])
    for reduce, moves in ("max", [True, True, False]), ("mean", [True, True, True]):
        loss = mi_loss(*logits, mask, mask, "paper", reduce)
        assert [g[0].any(-1).tolist() for g in grad(loss, logits)] == [moves, moves]


@pytest.mark.parametrize("p", [1e-30, 1e-44, 1e-50])
def test_a_probability_too_small_for_fp32_costs_no_precision_and_no_infinity(p):
    def step_by_step(logits):  # softmax, maximum, renormalisation, logarithm
        f_V, f_Z = (x.softmax(-1).max(1).values for x in logits)
        return -(f_V / f_V.sum() * (f_Z / f_Z.sum()).log()).sum()

    logits = torch.tensor([[[0.0, 2.0, 1.0]]]), torch.tensor([[[0.0, math.log(p), 1.0]]])
    exact = step_by_step([x.double() for x in logits]).float()
    assert close(mi_loss(*logits, EVERY[:, :1], EVERY[:, :1]), exact)
    assert close(step_by_step(logits), exact, 1e-4) == (p > 1e-38)  # fp32's smallest normal number


# --- what tells the three forms of Eq. 11 apart
def gradients(form, reduce="max"):  # into the label's logits (None: not at all), the rationale's
    return grad(mi_loss(*BATCH, form, reduce), LOGITS, allow_unused=True)


@each_form
@each_reduce
def test_padding_changes_nothing_but_released_where_neighbours_lengths_matter(form, reduce):
    alone = [x[2:, :T] for x, T in zip(BATCH, (2, 5, 2, 5))]  # the third example, not padded
    in_batch = mi_terms(*BATCH, form, reduce)["mi"][2]
    assert close(mi_loss(*alone, form, reduce), in_batch) == (form != "released")
    assert gradients(form, reduce)[1][~MASKS[1]].any() == (form == "released")


def test_paper_asks_the_rationale_for_every_word_of_the_label_and_for_few_others():
    """Three certain words are the label: f(V) = 1/3 each. A rationale that says n certain words,
    these among them, has f(Z) = 1/n each, and L_CE = ln n: 1.10 for n = 3, 1.61 for n = 5. Where
    one of the three is nowhere more probable than p, 1/3 ln(1/p) is added. Descent then raises
    that word at the one position where it is most probable, whatever the target is there: a
    student whose rationales lack the label's `)` may learn to add it.
    """

    def says(words, p):  # (1, T, 12) logits; word 6 has p at position 1, elsewhere less
        logits = torch.full((1, len(words), 12), -40.0)
        logits[0, range(len(words)), words] = 0.0
        logits[0, 1, 6] = max(logits[0, 1, 6], math.log(p))
        return logits.requires_grad_()

    def L_CE(rationale):
        label = says([5, 6, 1], 1.0)
        masks = (torch.ones(1, x.shape[1], dtype=torch.bool) for x in (label, rationale))
        return mi_loss(label, rationale, *masks)

    assert close(L_CE(says([5, 6, 1], 1.0)), math.log(3))
    assert close(L_CE(says([7, 6, 8, 5, 1], 1.0)), math.log(5))
    lacks = says([7, 9, 8, 5, 1], 1e-9)
    assert close(L_CE(lacks), math.log(5) + math.log(1e9) / 3)
    to_word_6 = grad(L_CE(lacks), lacks)[0][0, :, 6]
    assert to_word_6.argmin() == 1 and to_word_6[1] < -0.3 and (to_word_6 < -1e-6).sum() == 1


@each_form
@each_reduce
def test_gradient_reaches_both_tasks_but_in_released_the_rationale_alone(form, reduce):
    to_label, to_rationale = gradients(form, reduce)
    assert to_rationale.flatten(1).any(1).all()
    assert to_label is None if form == "released" else to_label.flatten(1).any(1).all()


@each_reduce
def test_kl_has_the_gradient_of_paper_but_for_what_reaches_the_label(reduce):
    """They differ by the entropy of f(V), a constant where the target is detached (Table 5)."""
    kl, paper = gradients("kl", reduce), gradients("paper", reduce)
    assert close(kl[1], paper[1], 1e-6) and not close(kl[0], paper[0], 1e-3)


def test_released_is_pytorchs_cross_entropy_given_probabilities_in_place_of_logits():
    f_V, f_Z = LOGITS[0].detach().softmax(-1).max(1).values, LOGITS[1].softmax(-1).max(1).values
    expected = torch.nn.CrossEntropyLoss()(f_Z, f_V)
    assert close(mi_loss(*BATCH, "released"), expected)
    assert close(gradients("released")[1], grad(expected, LOGITS[1])[0], 1e-6)
    terms = mi_terms(*BATCH, "released", "max")  # in parts: S ln V - overlap + S ln(mean exp f(Z))
    rest = f_V.sum(-1) * f_Z.exp().mean(-1).log()
    assert close(terms["mi"], terms["mi_constant"] - terms["mi_overlap"] + rest)


def test_nine_tenths_of_released_is_a_constant_and_the_rest_rewards_overlap():
    """V = 32,128; three label tokens with p = 0.9 each, the rest of p spread over other words.

    S = the sum of f(V) = 3 * 0.9 + 0.1 = 2.8, and the constant S ln V = 2.8 * 10.3775 = 29.06.
    A rationale with none of the three tokens: overlap 0; with all, at 0.9: 3 * 0.9 * 0.9 = 2.43;
    at 1: 2.7. Since f(Z) <= 1, none lowers it by more than S, a part 1 / ln V = 0.096 of it.
    """

    def says(words, p):  # (1, T, V) logits
        logits = torch.full((1, 3, 32_128), math.log((1 - p) / 32_127))
        logits[0, range(3), words] = math.log(p)
        return logits

    mask, best = torch.tensor([[True] * 3]), 1 - 1e-6
    for words, p, overlap in ([7, 8, 9], 0.9, 0), ([6, 5, 1], 0.9, 2.43), ([6, 5, 1], best, 2.7):
        terms = mi_terms(says([5, 6, 1], 0.9), says(words, p), mask, mask, "released", "max")
        assert close([*terms.values()], [29.06 - overlap, 29.06, overlap], 2e-4)
        assert terms["mi"] > (1 - 1 / math.log(32_128)) * terms["mi_constant"]


# --- a tiny T5 on four random examples
def thirty_steps(seed, alpha3):
    torch.manual_seed(seed)
    model = T5(replace(PRESETS["tiny"], vocab_size=40, num_layers=1, num_decoder_layers=1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    predict, explain = torch.randint(2, 40, (2, 4, 9))
    label_ids, rationale_ids = torch.randint(2, 40, (4, 3)), torch.randint(2, 40, (4, 7))
    label_ids[0, 2:] = rationale_ids[1, 5:] = 0
    log = []
    for _ in range(30):
        logits = model(predict, label_ids), model(explain, rationale_ids)
        L, terms = objective(logits[0], label_ids, logits[1], rationale_ids, alpha3=alpha3)
        optimiser.zero_grad()
        L.backward()
        optimiser.step()
        log.append({"loss": L.item()} | {name: term.item() for name, term in terms.items()})
    return log


def test_a_tiny_t5_learns_the_three_terms_and_the_same_again_from_the_same_seed():
    log, without = thirty_steps(seed=0, alpha3=0.1), thirty_steps(seed=0, alpha3=1e-9)
    assert all(log[-1][name] < log[0][name] for name in ("loss", "prediction", "generation", "mi"))
    assert log[-1]["mi"] < 0.8 * without[-1]["mi"]  # alone, the cross-entropies don't lower it
    assert log == thirty_steps(seed=0, alpha3=0.1)
