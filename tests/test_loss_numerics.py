"""The loss in number formats, on devices, in parts of a batch and at tiny probabilities.

python -m pytest tests/test_loss_numerics.py
"""

import math

import pytest
import torch
from torch.autograd import grad

from mi_loss import log_f, log_softmax, mi_loss, objective, token_cross_entropy

each_form = pytest.mark.parametrize("form", ["paper", "kl", "released"])
each_reduce = pytest.mark.parametrize("reduce", ["max", "mean"])

# B = 3, T = 4 and 7, V = 11; label targets of 4, 1, 2 tokens and rationales of 3, 7, 5
torch.manual_seed(0)
LOGITS = [(3 * torch.randn(3, T, 11)).requires_grad_() for T in (4, 7)]  # label's, rationale's
MASKS = [torch.arange(T) < torch.tensor([n]).T for T, n in ((4, [4, 1, 2]), (7, [3, 7, 5]))]
IDS = [mask * torch.randint(1, 11, mask.shape) for mask in MASKS]
TARGETS = LOGITS[0], IDS[0], LOGITS[1], IDS[1]  # what objective takes
TOTALS = 4 + 1 + 2, 3 + 7 + 5, 3  # label tokens, rationale tokens, examples
ONE = torch.tensor([[True]])  # a mask: one position


def close(a, b, tolerance=2e-6):
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


@each_form
def test_parts_of_a_batch_in_any_order_add_up_to_the_whole(form):
    whole, terms = objective(*TARGETS, form=form)
    slices = [[x[rows] for x in TARGETS] for rows in ([2], [1, 0])]
    parts = [objective(*part, form=form, totals=TOTALS) for part in slices]
    L = sum(loss for loss, _ in parts)
    assert close(L, whole) and all(map(close, grad(L, LOGITS), grad(whole, LOGITS)))
    for name, term in terms.items():
        assert close(sum(part[name] for _, part in parts), term)


@each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_everything_is_computed_in_fp32_whatever_the_logits(form, dtype):
    label_logits, rationale_logits = (x.to(dtype) for x in LOGITS)
    exact, _ = objective(label_logits.float(), IDS[0], rationale_logits.float(), IDS[1], form=form)
    for enabled in True, False:
        with torch.autocast("cpu", dtype, enabled=enabled):
            L, _ = objective(label_logits, IDS[0], rationale_logits, IDS[1], form=form)
        assert L.dtype == torch.float32 and L == exact


@each_form
@each_reduce
def test_every_tensor_is_made_on_the_device_of_the_logits(form, reduce):
    targets = [x.to("meta") for x in TARGETS]
    L, terms = objective(*targets, form=form, reduce=reduce, totals=TOTALS)
    assert {x.device.type for x in (L, *terms.values())} == {"meta"}
    assert token_cross_entropy(log_softmax(targets[0]), targets[1]).is_meta


@each_form
@each_reduce
def test_the_shared_log_softmax_gives_the_value_and_gradients_of_one_a_term(form, reduce):
    """One log-softmax serves all terms of a task; here each term computes its own."""
    L, _ = objective(*TARGETS, form=form, reduce=reduce)
    apart = sum(0.5 * token_cross_entropy(log_softmax(x), ids) for x, ids in zip(LOGITS, IDS))
    apart = apart + 0.1 * mi_loss(*map(log_softmax, LOGITS), *MASKS, form, reduce)
    assert close(L, apart, 1e-6)
    for ours, expected in zip(grad(L, LOGITS), grad(apart, LOGITS)):
        assert close(ours, expected, 1e-6)


def test_the_28_ids_that_name_no_token_enter_the_softmax():
    logits = torch.zeros(1, 2, 32_128, requires_grad=True)
    f = log_f(log_softmax(logits), None, "max").exp()
    assert close(f[0, 5] * 32_128, 1.0) and close(f[0, 32_100:].sum() * 32_128, 28.0)
    assert (grad(f[0, 5], logits)[0][0, 0, 32_100:] < 0).all()


def step_by_step(logits):  # softmax, maximum, division by the sum, logarithm
    f_v, f_z = (x.softmax(-1).max(1).values for x in logits)
    return -(f_v / f_v.sum() * (f_z / f_z.sum()).log()).sum()


@pytest.mark.parametrize("p, fp32_is_enough", [(1e-30, True), (1e-44, False), (1e-50, False)])
def test_log_space_is_exact_at_probabilities_that_fp32_cannot_hold(p, fp32_is_enough):
    logits = torch.tensor([[[0.0, 2.0, 1.0]]]), torch.tensor([[[0.0, math.log(p), 1.0]]])
    exact = step_by_step([x.double() for x in logits]).float()
    assert close(mi_loss(*map(log_softmax, logits), ONE, ONE), exact)
    assert close(step_by_step(logits), exact, 1e-4) == fp32_is_enough


@each_form
def test_a_row_of_one_token_has_a_finite_loss_and_gradient(form):
    """A blank rationale is the one token </s>; logits far apart saturate its softmax."""
    logits = [(100.0 * torch.randn(1, 1, 11)).requires_grad_() for _ in range(2)]
    loss = mi_loss(*map(log_softmax, logits), ONE, ONE, form)
    (to_rationale,) = grad(loss, logits[1:])
    assert loss.isfinite() and to_rationale.isfinite().all()
