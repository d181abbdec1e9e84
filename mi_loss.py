"""The paper's objective: two cross-entropies and the mutual-information term (Eq. 10 and 11).

Chen et al. 2024, "Learning to Maximize Mutual Information for Chain-of-Thought Distillation",
Findings of ACL. Pure functions of tensors that need no other file; `test_mi_loss.py` teaches them.

    B, T, V   batch, target length (each task has its own), vocabulary (the paper's d)
    v, z      the tasks, V and Z in the paper: label prediction and rationale generation
    f         softmax over the vocabulary at each position, then the maximum over positions
              (Table 4: or the mean); f_v is f of the label's logits, f_z of the rationale's
    P, Q      f_v / sum f_v and f_z / sum f_z
    L_CE      l(f_z, f_v), in the paper a cross-entropy (Eq. 11); `form` is what is computed:
    paper     -sum P ln Q: the label's features are the target. Eq. 11 is read as PyTorch's
              cross_entropy(input, target), which is also the authors' call
    eq9       -sum Q ln P: the rationale's features are the target. Eq. 9 and 11 are read as
              CE(p, q) = -sum p ln q, with the rationale's features for p(z|v)
    kl        KL(P || Q): our reading of Table 5's baseline
    released  what the authors' code computes

The paper says softmax, maximum and cross-entropy only. The mask on padding, the division by the
sums and the gradient into both tasks are our reading, in every form but `released`.
"""

import math

import torch
import torch.nn.functional as F


def log_softmax(logits):  # (B, T, V) of any floating type -> log p: (B, T, V) in fp32
    return logits.log_softmax(-1, dtype=torch.float32)  # as log p, a p of 1e-50 keeps its digits


def log_f(log_p, mask, reduce):  # (B, T, V), (B, T) or None -> log f: (B, V)
    if mask is not None:
        log_p = log_p.masked_fill(~mask[..., None], -math.inf)  # p = 0 at padding
    if reduce == "max":
        return log_p.max(1).values  # log max p = max log p; amax would share a gradient among ties
    assert reduce == "mean", f"reduce is max or mean, not {reduce}"
    return log_p.logsumexp(1) - math.log(log_p.shape[1])  # padded T, which log_normalize cancels


def log_normalize(log_x):  # (B, V) -> log(x / sum x): (B, V); a factor of x, such as 1 / T, cancels
    return log_x.log_softmax(-1)  # the softmax of log x is exp(log x) / sum exp(log x)


def mi_loss(label_log_p, rationale_log_p, label_mask, rationale_mask, form="paper", reduce="max"):
    """Return L_CE (Eq. 11), the mean over the batch of l(f_z, f_v): a scalar, in nats.

    (B, T, V) log-probabilities; (B, T) bool masks, false at padding, with a true in every row.
    """
    if form == "released":
        return released_mi_loss(label_log_p, rationale_log_p, reduce)  # without masks
    log_P = log_normalize(log_f(label_log_p, label_mask, reduce))
    log_Q = log_normalize(log_f(rationale_log_p, rationale_mask, reduce))
    P, Q = log_P.exp(), log_Q.exp()
    if form == "kl":
        return (P * (log_P - log_Q)).sum(-1).mean()  # Table 5
    if form == "eq9":
        return -(Q * log_P).sum(-1).mean()  # Eq. 9 and 11, as mathematics
    assert form == "paper", f"form is paper, eq9, kl or released, not {form}"
    return -(P * log_Q).sum(-1).mean()  # Eq. 11, as the authors' call


def released_mi_loss(label_log_p, rationale_log_p, reduce="max"):
    """Return L_CE as the authors' code computes it: a scalar, in nats.

    Padding counts, nothing is divided by its sum, and the label gets no gradient. The lines are
    those of model_utils.py in github.com/xinchen9/cot_distillation_ACL2024 at commit 20eb846.
    """
    f_v = log_f(label_log_p, None, reduce).exp().detach()  # lines 62, 64 and 67
    f_z = log_f(rationale_log_p, None, reduce).exp()  # lines 63, 65 and 68
    return F.cross_entropy(f_z, f_v)  # line 72: f_z is taken for logits, so softmax once more


def token_cross_entropy(log_p, ids, tokens):  # (B, T, V), (B, T) -> scalar, in nats
    """Return the sum of the cross-entropies of all ids but padding (0), divided by `tokens`."""
    total = F.nll_loss(log_p.flatten(0, 1), ids.flatten(), ignore_index=0, reduction="sum")
    return total / tokens


def objective(logits, targets, alphas=(0.5, 0.5, 0.1), form="paper", reduce="max", totals=None):
    """Return the loss L (Eq. 10), and L and its terms by name, detached: scalars, in nats.

    Pairs, the label's first: (B, T, V) logits, (B, T) target ids. alpha3 = 0 is Distilling
    Step-by-Step, without L_CE. For a part of a batch (`released`: padded like the batch), `totals`
    are the batch's label tokens, rationale tokens and examples: the parts' losses sum to its L.
    """
    alpha1, alpha2, alpha3 = alphas
    masks = [ids != 0 for ids in targets]
    log_p = [log_softmax(x) for x in logits]  # once per task, used by both of its terms
    rows = len(masks[0])
    label_tokens, rationale_tokens, examples = totals or (masks[0].sum(), masks[1].sum(), rows)
    L_prediction = token_cross_entropy(log_p[0], targets[0], label_tokens)
    L_generation = token_cross_entropy(log_p[1], targets[1], rationale_tokens)
    terms = {"prediction": L_prediction, "generation": L_generation}
    L_CE = 0.0
    if alpha3:
        L_CE = terms["mi"] = rows / examples * mi_loss(*log_p, *masks, form, reduce)
    L = terms["loss"] = alpha1 * L_prediction + alpha2 * L_generation + alpha3 * L_CE  # Eq. 10
    return L, {name: term.detach() for name, term in terms.items()}
