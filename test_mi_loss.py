"""The loss, taught by tests: read from the top to learn the method, run to check it.

    python -m pytest test_mi_loss.py                     # a few seconds on a CPU
    python -m pytest test_mi_loss.py -k worked_example

In order: an example worked by hand; the method again in plain loops, without tensors; properties,
one a test, whose name is the claim; a tiny T5 that learns. The letters are those of `mi_loss.py`.
Number formats, devices and parts of a batch are tested in `tests/test_loss_numerics.py`.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import grad

from mi_loss import log_f, log_softmax, mi_loss, objective, released_parts, token_cross_entropy
from t5 import PRESETS, T5

each_form = pytest.mark.parametrize("form", ["paper", "kl", "released"])
each_reduce = pytest.mark.parametrize("reduce", ["max", "mean"])
EVERY = torch.tensor([[True, True]])  # a mask: two positions, no padding


def close(a, b, tolerance=2e-6):
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def f(logits, mask, reduce="max"):  # (B, T, V), (B, T) -> (B, V)
    return log_f(log_softmax(logits), mask, reduce).exp()


# --- a worked example: B = 1, V = 3, T = 2 in both tasks; log p, which serves as logits too
LABEL = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2]]]).log()
RATIONALE = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4]]]).log()


def test_worked_example_of_f_and_the_three_forms():
    """f takes each word's maximum: f_v = 1/2 1/4 1/2, f_z = 1/2 1/2 1/4. Both sum to 5/4.
    `paper` and `kl` divide by 5/4: P = 2/5 1/5 2/5, Q = 2/5 2/5 1/5. `released` does not.

    paper     -sum P ln Q = 3/5 ln(5/2) + 2/5 ln 5 = 0.54977 + 0.64378 = 1.19355
    kl        sum P ln(P / Q) = 2/5 ln 1 + 1/5 ln(1/2) + 2/5 ln 2 = 1/5 ln 2 = 0.13863
    released  f_z is passed as logits: log-softmax subtracts
              ln(2 e^(1/2) + e^(1/4)) = ln(3.29744 + 1.28403) = 1.52202 from each;
              5/4 * 1.52202 - (1/2 * 1/2 + 1/4 * 1/2 + 1/2 * 1/4) = 1.90252 - 0.5 = 1.40252
    """
    assert close(f(LABEL, EVERY), [[1 / 2, 1 / 4, 1 / 2]])
    assert close(f(RATIONALE, EVERY), [[1 / 2, 1 / 2, 1 / 4]])
    assert close(f(LABEL, EVERY, "mean"), [[3 / 8, 1 / 4, 3 / 8]])
    for form, expected in ("paper", 1.19355), ("kl", 0.13863), ("released", 1.40252):
        assert close(mi_loss(LABEL, RATIONALE, EVERY, EVERY, form), expected, 5e-6)


def test_worked_example_of_the_objective():
    """The target ids are 1, 2 in both tasks (0 is padding).

    prediction  -(ln 1/4 + ln 1/2) / 2 = 3/2 ln 2 = 1.03972
    generation  -(ln 1/4 + ln 1/4) / 2 = 2 ln 2 = 1.38629
    L           0.5 * 1.03972 + 0.5 * 1.38629 + 0.1 * 1.19355 = 1.33236
    """
    ids = torch.tensor([[1, 2]])
    L, terms = objective(LABEL, ids, RATIONALE, ids)
    assert L == terms["loss"] and list(terms) == ["loss", "prediction", "generation", "mi"]
    assert close([*terms.values()], [1.33236, 1.03972, 1.38629, 1.19355], 5e-6)


# --- the oracle: one example at a time, in loops over lists of numbers
def softmax(logits):
    return [math.exp(x) / sum(map(math.exp, logits)) for x in logits]


def f_in_loops(logits, mask, reduce):  # T lists of V numbers, T booleans -> V numbers
    positions = [softmax(row) for row, counts in zip(logits, mask) if counts]
    words = zip(*positions)  # V tuples: a word's probability at each position
    return [max(p) if reduce == "max" else sum(p) / len(logits) for p in words]


def mi_loss_in_loops(label_logits, rationale_logits, label_mask, rationale_mask, form, reduce):
    if form == "released":  # padding counts
        label_mask, rationale_mask = [True] * len(label_mask), [True] * len(rationale_mask)
    f_v = f_in_loops(label_logits, label_mask, reduce)
    f_z = f_in_loops(rationale_logits, rationale_mask, reduce)
    if form == "released":
        P, Q = f_v, softmax(f_z)
    else:
        P, Q = [p / sum(f_v) for p in f_v], [p / sum(f_z) for p in f_z]
    if form == "kl":
        return sum(p * math.log(p / q) for p, q in zip(P, Q))
    return sum(-p * math.log(q) for p, q in zip(P, Q))


# B = 3, T = 4 and 7, V = 11; label targets of 4, 1, 2 tokens and rationales of 3, 7, 5
torch.manual_seed(0)
LOGITS = [(3 * torch.randn(3, T, 11)).requires_grad_() for T in (4, 7)]  # label's, rationale's
MASKS = [torch.arange(T) < torch.tensor([n]).T for T, n in ((4, [4, 1, 2]), (7, [3, 7, 5]))]
IDS = [mask * torch.randint(1, 11, mask.shape) for mask in MASKS]
TARGETS = LOGITS[0], IDS[0], LOGITS[1], IDS[1]  # what objective takes


def L_CE(form, reduce="max"):
    return mi_loss(*map(log_softmax, LOGITS), *MASKS, form, reduce)


@each_form
@each_reduce
def test_f_and_mi_loss_equal_the_loops(form, reduce):
    examples = list(zip(*(x.tolist() for x in (*LOGITS, *MASKS))))
    f_z = [f_in_loops(logits, mask, reduce) for _, logits, _, mask in examples]
    assert close(f(LOGITS[1], MASKS[1], reduce), f_z)
    losses = [mi_loss_in_loops(*example, form, reduce) for example in examples]
    assert close(L_CE(form, reduce), sum(losses) / 3)


def test_token_cross_entropy_is_the_mean_over_the_tokens_that_are_not_padding():
    pairs = zip(LOGITS[0].flatten(0, 1).tolist(), IDS[0].flatten().tolist())
    expected = sum(-math.log(softmax(row)[i]) for row, i in pairs if i != 0) / (4 + 1 + 2)
    assert close(token_cross_entropy(log_softmax(LOGITS[0]), IDS[0]), expected)


# --- properties of the objective (Eq. 10)
def test_alpha3_0_is_distilling_step_by_step_to_the_last_bit(monkeypatch):
    monkeypatch.setattr("mi_loss.mi_loss", None)  # calling it fails
    DSS = sum(0.5 * token_cross_entropy(log_softmax(x), ids) for x, ids in zip(LOGITS, IDS))
    L, terms = objective(*TARGETS, alphas=(0.5, 0.5, 0.0))
    assert L == DSS and list(terms) == ["loss", "prediction", "generation"]
    assert all(map(torch.equal, grad(L, LOGITS), grad(DSS, LOGITS)))
    with pytest.raises(TypeError):
        objective(*TARGETS)


@each_form
@each_reduce
def test_objective_runs_mi_loss_and_its_terms_are_the_parts_of_L_detached(form, reduce):
    L, terms = objective(*TARGETS, form=form, reduce=reduce)
    assert terms["mi"] == L_CE(form, reduce)
    assert L == 0.5 * terms["prediction"] + 0.5 * terms["generation"] + 0.1 * terms["mi"]
    assert L.requires_grad and not any(term.requires_grad for term in terms.values())


# --- properties of f in Eq. 11
def test_a_mean_sums_to_1_and_a_maximum_to_between_1_and_T():
    assert close(f(LOGITS[0], None, "mean").sum(-1), [1.0, 1.0, 1.0])
    assert close(f(LOGITS[0], MASKS[0], "mean").sum(-1), [4 / 4, 1 / 4, 2 / 4])  # p = 0 at padding
    sums = f(LOGITS[0], MASKS[0]).sum(-1)
    assert 1 < sums[0] < 4 and close(sums[1], 1.0) and 1 < sums[2] < 2  # T = 4, 1, 2
    undecided, certain = torch.zeros(1, 2, 5), 100 * torch.eye(2, 5)[None]
    assert close(f(undecided, EVERY).sum(-1), [1.0]) and close(f(certain, EVERY).sum(-1), [2.0])


def test_with_max_only_positions_that_hold_a_maximum_get_a_gradient():
    """The maxima are 0.6 (t = 0), 0.3 (t = 0) and 0.7 (t = 1); t = 2 hedges and holds none."""
    p = torch.tensor([[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.4, 0.2, 0.4]]])
    logits = p.roll(1, -1).log().requires_grad_(), p.log().requires_grad_()
    mask = torch.tensor([[True, True, True]])
    for reduce, moves in ("max", [True, True, False]), ("mean", [True, True, True]):
        loss = mi_loss(*map(log_softmax, logits), mask, mask, "paper", reduce)
        assert [g[0].any(-1).tolist() for g in grad(loss, logits)] == [moves, moves]


# --- what tells the three forms of Eq. 11 apart
def gradients(form, reduce="max"):  # into the label's logits (None: not at all), the rationale's
    return grad(L_CE(form, reduce), LOGITS, allow_unused=True)


def L_CE_without_padding(form, reduce):  # each example alone
    losses = []
    for b in range(3):
        row = [x[b : b + 1, mask[b]] for x, mask in zip((*LOGITS, *MASKS), MASKS * 2)]
        losses.append(mi_loss(*map(log_softmax, row[:2]), *row[2:], form, reduce))
    return sum(losses) / 3


@pytest.mark.parametrize("form", ["paper", "kl"])
@each_reduce
def test_padding_changes_nothing(form, reduce):
    assert close(L_CE(form, reduce), L_CE_without_padding(form, reduce))
    assert not gradients(form, reduce)[1][~MASKS[1]].any()


@each_reduce
def test_in_released_padding_counts_so_an_examples_loss_depends_on_its_neighbours(reduce):
    assert not close(L_CE("released", reduce), L_CE_without_padding("released", reduce), 1e-3)
    assert gradients("released", reduce)[1][~MASKS[1]].any()


def test_paper_asks_the_rationale_for_every_word_of_the_label_and_for_few_others():
    """The label is three certain words: f_v over its sum is 1/3 each. A rationale of n certain
    words that has the three among them gives 1/n each, and L_CE = ln n: 1.10 for n = 3, 1.61 for
    n = 5. If one of the three is nowhere more probable than p, 1/3 ln(1/p) is added. Gradient
    descent then raises that word at the one position where it is most probable, whatever the target
    is there: a student whose rationales lack the label's `)` may learn to add it.
    """

    def says(words, p):  # (1, T, 12) logits; word 6 has p at position 1, elsewhere less
        logits = torch.full((1, len(words), 12), -40.0)
        logits[0, range(len(words)), words] = 0.0
        logits[0, 1, 6] = max(logits[0, 1, 6], math.log(p))
        return logits.requires_grad_()

    def L_CE_of(rationale):
        log_p = log_softmax(says([5, 6, 1], 1.0)), log_softmax(rationale)
        return mi_loss(*log_p, *(torch.ones(1, x.shape[1], dtype=torch.bool) for x in log_p))

    assert close(L_CE_of(says([5, 6, 1], 1.0)), math.log(3))
    assert close(L_CE_of(says([7, 6, 8, 5, 1], 1.0)), math.log(5))
    lacks = says([7, 9, 8, 5, 1], 1e-9)
    assert close(L_CE_of(lacks), math.log(5) + math.log(1e9) / 3)
    to_word_6 = grad(L_CE_of(lacks), lacks)[0][0, :, 6]
    assert to_word_6.argmin() == 1 and to_word_6[1] < -0.3 and (to_word_6 < -1e-6).sum() == 1


@each_form
@each_reduce
def test_the_gradient_reaches_both_tasks_but_in_released_the_rationale_alone(form, reduce):
    to_label, to_rationale = gradients(form, reduce)
    assert to_rationale.flatten(1).any(1).all()
    assert to_label is None if form == "released" else to_label.flatten(1).any(1).all()


@each_reduce
def test_kl_and_paper_have_the_same_gradient_except_into_the_label(reduce):
    """They differ by the entropy of f_v over its sum, a constant for the rationale (Table 5)."""
    kl, paper = gradients("kl", reduce), gradients("paper", reduce)
    assert close(kl[1], paper[1], 1e-6) and not close(kl[0], paper[0], 1e-3)


def test_released_is_pytorchs_cross_entropy_given_probabilities_in_place_of_logits():
    f_v, f_z = LOGITS[0].detach().softmax(-1).max(1).values, LOGITS[1].softmax(-1).max(1).values
    expected = torch.nn.CrossEntropyLoss()(f_z, f_v)
    assert close(L_CE("released"), expected)
    assert close(gradients("released")[1], grad(expected, LOGITS[1])[0], 1e-6)
    _, terms = objective(*TARGETS, form="released")
    rest = (f_v.sum(-1) * f_z.exp().mean(-1).log()).mean()
    assert close(terms["mi"], terms["mi_constant"] - terms["mi_overlap"] + rest)
    assert 0 < rest < 1.72 * f_v.sum(-1).mean() * 7 / 11  # T = 7, V = 11


def test_nine_tenths_of_released_is_a_constant_and_the_rest_rewards_overlap():
    """V = 32,128; three label tokens with p = 0.9 each, the rest of p spread over other words.

    C, the sum of f_v, is 3 * 0.9 + 0.1 = 2.8, and the constant C ln V = 2.8 * 10.3775 = 29.06.
    A rationale with none of the three tokens has overlap 0, with all of them at 0.9 it has
    3 * 0.9 * 0.9 = 2.43, at 1 it has 2.7. Since f_z is at most 1, no rationale lowers the value
    by more than C: at most a fraction 1 / ln V = 0.096 of the constant.
    """

    def says(words, p):  # (1, T, V) log p
        log_p = torch.full((1, 3, 32_128), math.log((1 - p) / 32_127))
        log_p[0, range(3), words] = math.log(p)
        return log_p

    mask, best = torch.tensor([[True] * 3]), 1 - 1e-6
    for words, p, overlap in ([7, 8, 9], 0.9, 0), ([6, 5, 1], 0.9, 2.43), ([6, 5, 1], best, 2.7):
        log_p = says([5, 6, 1], 0.9), says(words, p)
        value, parts = mi_loss(*log_p, mask, mask, "released"), released_parts(*log_p, "max")
        assert close([value, *parts], [29.06 - overlap, 29.06, overlap], 2e-4)
        assert value > (1 - 1 / math.log(32_128)) * parts[0]


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
        L, terms = objective(logits[0], label_ids, logits[1], rationale_ids, (0.5, 0.5, alpha3))
        optimiser.zero_grad()
        L.backward()
        optimiser.step()
        log.append({name: term.item() for name, term in terms.items()})
    return log


def test_a_tiny_t5_learns_the_three_terms_and_the_same_again_from_the_same_seed():
    log, without = thirty_steps(seed=0, alpha3=0.1), thirty_steps(seed=0, alpha3=1e-9)
    assert all(log[-1][name] < log[0][name] for name in ("loss", "prediction", "generation", "mi"))
    assert log[-1]["mi"] < 0.8 * without[-1]["mi"]  # alone, the cross-entropies don't lower it
    assert log == thirty_steps(seed=0, alpha3=0.1)
