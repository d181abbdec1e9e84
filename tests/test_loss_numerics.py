"""The loss in number formats, on devices, in parts of a batch and at tiny probabilities.

python -m pytest tests/test_loss_numerics.py
"""

import math

import pytest
import torch
from torch.autograd import grad

from mi_loss import log_softmax, mi_loss, objective

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


@pytest.mark.parametrize("p", [1e-30, 1e-44, 1e-50])
def test_log_space_is_exact_at_probabilities_that_fp32_cannot_hold(p):
    """At a single position f is the softmax, which sums to 1."""
    logits = torch.tensor([[[0.0, 2.0, 1.0]]]), torch.tensor([[[0.0, math.log(p), 1.0]]])
    P, Q = (x.double().softmax(-1) for x in logits)
    exact = -(P * Q.log()).sum().float()
    assert close(mi_loss(*map(log_softmax, logits), ONE, ONE), exact)


@each_form
def test_a_row_of_one_token_has_a_finite_loss_and_gradient(form):
    """A blank rationale is the one token </s>; logits far apart saturate its softmax."""
    logits = [(100.0 * torch.randn(1, 1, 11)).requires_grad_() for _ in range(2)]
    loss = mi_loss(*map(log_softmax, logits), ONE, ONE, form)
    to_both = grad(loss, logits, allow_unused=True)  # `released` has none into the label
    assert loss.isfinite() and all(g is None or g.isfinite().all() for g in to_both)
