"""The loss in number formats, on devices, in parts of a batch and at tiny probabilities.

python -m pytest tests/test_loss_numerics.py
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from mi_loss import log_f, log_softmax, mi_loss, objective, token_cross_entropy

each_form = pytest.mark.parametrize("form", ["paper", "eq9", "kl", "released"])
each_reduce = pytest.mark.parametrize("reduce", ["max", "mean"])

# B = 3, T = 4 and 7, V = 11; label targets of 4, 1, 2 tokens and rationales of 3, 7, 5
torch.manual_seed(0)
LOGITS = [(3 * torch.randn(3, T, 11)).requires_grad_() for T in (4, 7)]  # label's, rationale's
MASKS = [torch.arange(T) < torch.tensor([n]).T for T, n in ((4, [4, 1, 2]), (7, [3, 7, 5]))]
IDS = [mask * torch.randint(1, 11, mask.shape) for mask in MASKS]
TOTALS = 4 + 1 + 2, 3 + 7 + 5, 3  # label tokens, rationale tokens, examples
ONE = torch.tensor([[True]])  # a mask: one position


def close(a, b, tolerance=2e-6):
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


@each_form
def test_parts_of_a_batch_in_any_order_add_up_to_the_whole(form):
    whole, terms = objective(LOGITS, IDS, form=form)
    parts = []
    for rows in ([2], [1, 0]):
        logits, ids = ([x[rows] for x in pair] for pair in (LOGITS, IDS))
        parts.append(objective(logits, ids, form=form, totals=TOTALS))
    L = sum(loss for loss, _ in parts)
    assert close(L, whole) and all(map(close, grad(L, LOGITS), grad(whole, LOGITS)))
    for name, term in terms.items():
        assert close(sum(part[name] for _, part in parts), term)


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_everything_is_computed_in_fp32_whatever_the_logits(form, dtype):
    logits = [x.to(dtype) for x in LOGITS]
    exact, _ = objective([x.float() for x in logits], IDS, form=form)
    for enabled in True, False:
        with torch.autocast("cpu", dtype, enabled=enabled):
            L, _ = objective(logits, IDS, form=form)
        assert L.dtype == torch.float32 and L == exact


@each_form
@each_reduce
def test_every_tensor_is_made_on_the_device_of_the_logits(form, reduce):
    logits, ids = ([x.to("meta") for x in pair] for pair in (LOGITS, IDS))
    for totals in TOTALS, None:
        L, terms = objective(logits, ids, form=form, reduce=reduce, totals=totals)
        assert {x.device.type for x in (L, *terms.values())} == {"meta"}


@each_form
@each_reduce
def test_the_shared_log_softmax_gives_the_value_and_gradients_of_one_a_term(form, reduce):
    """One log-softmax serves all terms of a task; here each term computes its own."""
    L, _ = objective(LOGITS, IDS, form=form, reduce=reduce)
    triples = zip(LOGITS, IDS, TOTALS)
    apart = sum(0.5 * token_cross_entropy(log_softmax(x), ids, n) for x, ids, n in triples)
    apart = apart + 0.1 * mi_loss(*map(log_softmax, LOGITS), *MASKS, form, reduce)
    assert close(L, apart, 1e-6)
    for ours, expected in zip(grad(L, LOGITS), grad(apart, LOGITS)):
        assert close(ours, expected, 1e-6)


def test_the_28_ids_that_name_no_token_enter_the_softmax():
    logits = torch.zeros(1, 2, 32_128, requires_grad=True)
    f = log_f(log_softmax(logits), None, "max").exp()
    assert close(f[0, 5] * 32_128, 1.0) and close(f[0, 32_100:].sum() * 32_128, 28.0)
    assert (grad(f[0, 5], logits)[0][0, 0, 32_100:] < 0).all()


def step_by_step(logits, masks, form="paper", reduce="max"):
    """softmax, mask, maximum or mean, division by the sum, logarithm: each by itself."""
    features = []
    for x, mask in zip(logits, masks):
        p = x.softmax(-1)
        if form != "released":
            p = p * mask[..., None]
        features.append(p.amax(1) if reduce == "max" else p.mean(1))
    f_v, f_z = features
    if form == "released":
        return torch.nn.CrossEntropyLoss()(f_z, f_v.detach())
    P, Q = (x / x.sum(-1, keepdim=True) for x in (f_v, f_z))
    if form == "kl":
        return F.kl_div(Q.log(), P, reduction="batchmean")
    target, prediction = (P, Q) if form == "paper" else (Q, P)
    return -torch.einsum("bv,bv->b", target, prediction.log()).mean()


@each_form
@each_reduce
def test_every_form_is_its_formula_with_its_gradients_in_fp64(form, reduce):
    logits = [x.detach().double().requires_grad_() for x in LOGITS]
    ours = mi_loss(*(x.log_softmax(-1) for x in logits), *MASKS, form, reduce)
    plain = step_by_step(logits, MASKS, form, reduce)
    assert close(ours, plain, 1e-12)
    for a, b in zip(*(grad(loss, logits, allow_unused=True) for loss in (ours, plain))):
        assert (a is b is None) or close(a, b, 1e-12)
    assert ours.dtype == torch.float64


@pytest.mark.parametrize("p, fp32_is_enough", [(1e-30, True), (1e-44, False), (1e-50, False)])
def test_log_space_is_exact_at_probabilities_that_fp32_cannot_hold(p, fp32_is_enough):
    logits = torch.tensor([[[0.0, 2.0, 1.0]]]), torch.tensor([[[0.0, math.log(p), 1.0]]])
    exact = step_by_step([x.double() for x in logits], [ONE, ONE]).float()
    assert close(mi_loss(*map(log_softmax, logits), ONE, ONE), exact)
    assert close(step_by_step(logits, [ONE, ONE]), exact, 1e-4) == fp32_is_enough


@each_form
def test_a_row_of_one_token_has_a_finite_loss_and_gradient(form):
    """A blank rationale is the one token </s>; logits far apart saturate its softmax."""
    logits = [(100.0 * torch.randn(1, 1, 11)).requires_grad_() for _ in range(2)]
    loss = mi_loss(*map(log_softmax, logits), ONE, ONE, form)
    to_both = grad(loss, logits, allow_unused=True)  # `released` has none into the label
    assert loss.isfinite() and all(g is None or g.isfinite().all() for g in to_both)
