"""The loss, taught by tests: read from the top to learn the method, run to check it.

    python -m pytest test_mi_loss.py                     # a few seconds on a CPU
    python -m pytest test_mi_loss.py -k worked_example

In order: an example worked by hand; the method again in plain loops, without tensors; properties,
one per test, whose name is the claim; a tiny T5 that learns. The letters are those of `mi_loss.py`.
Number formats, devices and parts of a batch are tested in `tests/test_loss_numerics.py`.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import grad

from mi_loss import log_f, log_softmax, mi_loss, objective, token_cross_entropy
from t5 import PRESETS, T5

each_form = pytest.mark.parametrize("form", ["paper", "eq9", "kl", "released"])
each_reduce = pytest.mark.parametrize("reduce", ["max", "mean"])
EVERY = torch.tensor([[True, True]])  # a mask: two positions, no padding


def close(a, b, tolerance=2e-6):
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def f(logits, mask, reduce="max"):  # (B, T, V), (B, T) -> (B, V)
    return log_f(log_softmax(logits), mask, reduce).exp()


# --- a worked example: B = 1, V = 3, T = 2 in both tasks; log p, which serves as logits too
LABEL = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2]]]).log()
RATIONALE = torch.tensor([[[3 / 4, 1 / 8, 1 / 8], [1 / 4, 1 / 2, 1 / 4]]]).log()


def test_worked_example_of_f_and_the_four_forms():
    """f takes each word's maximum: f_v = 1/2 1/4 1/2, f_z = 3/4 1/2 1/4. They sum to 5/4 and 3/2.
    All forms but `released` divide by the sums: P = 2/5 1/5 2/5, Q = 1/2 1/3 1/6.

    paper     -sum P ln Q = 2/5 ln 2 + 1/5 ln 3 + 2/5 ln 6
              = 4/5 ln 2 + 3/5 ln 3 = 0.55452 + 0.65917 = 1.21369
    eq9       -sum Q ln P = 1/2 ln(5/2) + 1/3 ln 5 + 1/6 ln(5/2)
              = 2/3 ln(5/2) + 1/3 ln 5 = 0.61086 + 0.53648 = 1.14734
    kl        sum P ln(P / Q) = 2/5 ln(4/5) + 1/5 ln(3/5) + 2/5 ln(12/5)
              = -0.08926 - 0.10217 + 0.35019 = 0.15876
    released  f_z is passed as logits: log-softmax subtracts
              ln(e^(3/4) + e^(1/2) + e^(1/4)) = ln(2.11700 + 1.64872 + 1.28403) = 1.61934 from each;
              5/4 * 1.61934 - (1/2 * 3/4 + 1/4 * 1/2 + 1/2 * 1/4) = 2.02417 - 0.625 = 1.39917
    """
    assert close(f(LABEL, EVERY), [[1 / 2, 1 / 4, 1 / 2]])
    assert close(f(RATIONALE, EVERY), [[3 / 4, 1 / 2, 1 / 4]])
    assert close(f(LABEL, EVERY, "mean"), [[3 / 8, 1 / 4, 3 / 8]])
    expected = {"paper": 1.21369, "eq9": 1.14734, "kl": 0.15876, "released": 1.39917}
    for form, value in expected.items():
        assert close(mi_loss(LABEL, RATIONALE, EVERY, EVERY, form), value, 5e-6)


def test_worked_example_of_the_objective():
    """The target ids are 1, 2 in both tasks (0 is padding).

    prediction  -(ln 1/4 + ln 1/2) / 2 = 3/2 ln 2 = 1.03972
    generation  -(ln 1/8 + ln 1/4) / 2 = 5/2 ln 2 = 1.73287
    L           0.5 * 1.03972 + 0.5 * 1.73287 + 0.1 * 1.21369 = 1.50766
    """
    ids = torch.tensor([[1, 2]])
    L, terms = objective([LABEL, RATIONALE], [ids, ids])
    expected = {"prediction": 1.03972, "generation": 1.73287, "mi": 1.21369, "loss": 1.50766}
    assert L == terms["loss"] and terms.keys() == expected.keys()
    assert all(close(terms[name], expected[name], 5e-6) for name in terms)


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
    if form == "eq9":
        P, Q = Q, P
    return sum(-p * math.log(q) for p, q in zip(P, Q))


# B = 3, T = 4 and 7, V = 11; label targets of 4, 1, 2 tokens and rationales of 3, 7, 5
torch.manual_seed(0)
LOGITS = [(3 * torch.randn(3, T, 11)).requires_grad_() for T in (4, 7)]  # label's, rationale's
MASKS = [torch.arange(T) < torch.tensor([n]).T for T, n in ((4, [4, 1, 2]), (7, [3, 7, 5]))]
IDS = [mask * torch.randint(1, 11, mask.shape) for mask in MASKS]


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


def test_token_cross_entropy_sums_over_all_but_padding_and_divides_by_tokens():
    pairs = zip(LOGITS[0].flatten(0, 1).tolist(), IDS[0].flatten().tolist())
    expected = sum(-math.log(softmax(row)[i]) for row, i in pairs if i != 0) / (4 + 1 + 2)
    assert close(token_cross_entropy(log_softmax(LOGITS[0]), IDS[0], 7), expected)


# --- properties of the objective (Eq. 10)
def test_alpha3_0_is_distilling_step_by_step_to_the_last_bit(monkeypatch):
    monkeypatch.setattr("mi_loss.mi_loss", None)  # calling it fails
    label, rationale = map(log_softmax, LOGITS)  # targets of 4 + 1 + 2 and 3 + 7 + 5 tokens
    DSS = 0.5 * token_cross_entropy(label, IDS[0], 7)
    DSS = DSS + 0.5 * token_cross_entropy(rationale, IDS[1], 15)
    L, terms = objective(LOGITS, IDS, alphas=(0.5, 0.5, 0.0))
    assert L == DSS and list(terms) == ["prediction", "generation", "loss"]
    assert all(map(torch.equal, grad(L, LOGITS), grad(DSS, LOGITS)))
    with pytest.raises(TypeError):
        objective(LOGITS, IDS)


@each_form
@each_reduce
def test_objective_runs_mi_loss_and_its_terms_are_the_parts_of_L_detached(form, reduce):
    L, terms = objective(LOGITS, IDS, form=form, reduce=reduce)
    assert terms["mi"] == L_CE(form, reduce)
    assert L == 0.5 * terms["prediction"] + 0.5 * terms["generation"] + 0.1 * terms["mi"]
    assert L.requires_grad and not any(term.requires_grad for term in terms.values())


# --- properties of f in Eq. 11
def test_without_padding_a_mean_sums_to_1_and_a_maximum_to_between_1_and_T():
    assert close(f(LOGITS[0], None, "mean").sum(-1), [1.0, 1.0, 1.0])
    assert close(f(LOGITS[0], MASKS[0], "mean").sum(-1), [4 / 4, 1 / 4, 2 / 4])  # p = 0 at padding
    sums = f(LOGITS[0], MASKS[0]).sum(-1)
    assert 1 < sums[0] < 4 and close(sums[1], 1.0) and 1 < sums[2] < 2  # T = 4, 1, 2
    undecided, certain = torch.zeros(1, 2, 5), 100 * torch.eye(2, 5)[None]
    assert close(f(undecided, EVERY).sum(-1), [1.0]) and close(f(certain, EVERY).sum(-1), [2.0])


def test_with_max_only_positions_that_hold_a_maximum_get_a_gradient():
    """The maxima are 0.6 (t = 1), 0.3 (t = 1) and 0.7 (t = 2); t = 3 hedges and holds none."""
    p = torch.tensor([[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.4, 0.2, 0.4]]])
    logits = p.roll(1, -1).log().requires_grad_(), p.log().requires_grad_()
    mask = torch.tensor([[True, True, True]])
    for reduce, moves in ("max", [True, True, False]), ("mean", [True, True, True]):
        loss = mi_loss(*map(log_softmax, logits), mask, mask, "paper", reduce)
        assert [g[0].any(-1).tolist() for g in grad(loss, logits)] == [moves, moves]


# --- what tells the forms of Eq. 11 apart
def gradients(form, reduce="max"):  # into the label's logits (None: not at all), the rationale's
    return grad(L_CE(form, reduce), LOGITS, allow_unused=True)


@each_form
@each_reduce
def test_padding_counts_in_released_alone_where_an_example_depends_on_its_neighbours(form, reduce):
    longer = [torch.cat([x, 9 * torch.eye(2, 11).expand(3, 2, 11)], 1) for x in LOGITS]
    masks = [torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], 1) for mask in MASKS]
    same = close(mi_loss(*map(log_softmax, longer), *masks, form, reduce), L_CE(form, reduce))
    at_padding = gradients(form, reduce)[1][~MASKS[1]]
    assert same == (not at_padding.any()) == (form != "released")


@each_reduce
def test_eq9_is_paper_with_the_two_tasks_exchanged(reduce):
    log_p = [log_softmax(x) for x in LOGITS]
    assert L_CE("eq9", reduce) == mi_loss(*log_p[::-1], *MASKS[::-1], "paper", reduce)


def test_paper_asks_the_rationale_for_the_labels_words_and_eq9_the_label_for_the_rationales():
    """The label is three certain words, with P = 1/3 each; all other words have a logit of -40. A
    rationale of n certain words, the three among them, has Q = 1/n for each.

    paper: ln n, 1.10 for n = 3 and 1.61 for n = 5. If one of the three has at most p at every
    position, at least 1/3 ln(1/p) is added. Gradient descent then raises that word at the one
    position where it is most probable, whatever the target is there: a student whose rationales
    lack the label's `)` may learn to add it.
    eq9: ln 3, plus 40 times the share of the rationale's words that the label lacks: 1.10 for n = 3
    and 17.10 for n = 5. Gradient descent raises those words in the label.
    """

    def says(words, p=1.0):  # (1, T, 12) logits; word 6 has p at position 1, elsewhere less
        logits = torch.full((1, len(words), 12), -40.0)
        logits[0, range(len(words)), words] = 0.0
        logits[0, 1, 6] = max(logits[0, 1, 6], math.log(p))
        return logits.requires_grad_()

    def L_CE_of(rationale, form="paper"):
        masks = (torch.ones(1, x.shape[1], dtype=torch.bool) for x in (label, rationale))
        return mi_loss(log_softmax(label), log_softmax(rationale), *masks, form)

    label, same, more = says([5, 6, 1]), says([5, 6, 1]), says([7, 6, 8, 5, 1])
    assert close(L_CE_of(same), math.log(3)) and close(L_CE_of(more), math.log(5))
    lacks = says([7, 9, 8, 5, 1], 1e-9)
    assert close(L_CE_of(lacks), math.log(5) + math.log(1e9) / 3)
    to_word_6 = grad(L_CE_of(lacks), lacks)[0][0, :, 6]
    assert to_word_6.argmin() == 1 and to_word_6[1] < -0.3 and (to_word_6 < -1e-6).sum() == 1

    assert close(L_CE_of(same, "eq9"), math.log(3))
    assert close(L_CE_of(more, "eq9"), math.log(3) + 40 * 2 / 5)
    to_label = grad(L_CE_of(more, "eq9"), label)[0][0].sum(0)
    assert (to_label < -0.1).nonzero().flatten().tolist() == [7, 8]


@each_form
@each_reduce
def test_the_gradient_reaches_both_tasks_but_in_released_the_rationale_alone(form, reduce):
    to_label, to_rationale = gradients(form, reduce)
    assert to_rationale.flatten(1).any(1).all()
    assert to_label is None if form == "released" else to_label.flatten(1).any(1).all()


@each_reduce
def test_kl_and_paper_have_the_same_gradient_except_into_the_label(reduce):
    """They differ by the entropy of P, which does not depend on the rationale."""
    kl, paper = gradients("kl", reduce), gradients("paper", reduce)
    assert close(kl[1], paper[1], 1e-6) and not close(kl[0], paper[0], 1e-3)


def test_released_is_a_constant_minus_an_overlap_of_at_most_a_tenth_of_it():
    """With C the sum of f_v, `released` is C ln V, which has no gradient, minus the overlap
    <f_v, f_z>, plus C ln(mean exp f_z), the mean over words. This rest is below (e - 1) C T / V =
    1.72 C T / V, with the rationale's T: e^x is at most 1 + (e - 1) x from 0 to 1, f_z sums to at
    most T, and ln(1 + y) is at most y. As f_z is at most 1, the overlap is at most C, a fraction
    1 / ln V of C ln V.

    Here V is 32,128, so 1 / ln V = 0.096. The label is three tokens with p = 0.9 each, the rest of
    p spread over all other words: C is 3 * 0.9 + 0.1 = 2.8, and C ln V is 2.8 * 10.3775 = 29.06. A
    rationale with none of the three has overlap 0 (2e-5), with all of them at 0.9 it has
    3 * 0.9 * 0.9 = 2.43, at 1 it has 2.7.
    """

    def log_p_of(words, p):  # (1, T, V); in fp64, as the rest is below 1e-3
        log_p = torch.full((1, len(words), V), math.log((1 - p) / (V - 1)), dtype=torch.float64)
        log_p[0, range(len(words)), words] = math.log(p)
        return log_p

    V, one = 32_128, 1 - 1e-6
    cases = ([7, 8, 9, 4], 0.9, 0), ([6, 5, 7, 1], 0.9, 2.43), ([6, 5, 1], one, 2.7)
    for words, p, expected in cases:
        log_p = log_p_of([5, 6, 1], 0.9), log_p_of(words, p)
        f_v, f_z = (log_f(x, None, "max").exp() for x in log_p)
        value, C, overlap = mi_loss(*log_p, None, None, "released"), f_v.sum(), (f_v * f_z).sum()
        assert [C * math.log(V), overlap] == pytest.approx([29.06, expected], abs=5e-3)
        rest = value - (C * math.log(V) - overlap)
        assert close(rest, C * f_z.exp().mean().log(), 1e-9)
        assert rest < (math.e - 1) * C * len(words) / V


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
        L, terms = objective(logits, [label_ids, rationale_ids], (0.5, 0.5, alpha3))
        optimiser.zero_grad()
        L.backward()
        optimiser.step()
        log.append({name: term.item() for name, term in terms.items()})
    return log


def test_a_tiny_t5_learns_the_three_terms_and_the_same_again_from_the_same_seed():
    log, without = thirty_steps(seed=0, alpha3=0.1), thirty_steps(seed=0, alpha3=1e-9)
    assert all(log[-1][name] < log[0][name] for name in ("loss", "prediction", "generation", "mi"))
    assert log[-1]["mi"] < log[0]["mi"] < without[-1]["mi"]  # alone, the cross-entropies raise it
    assert log == thirty_steps(seed=0, alpha3=0.1)
