"""The paper's objective: two cross-entropies and the mutual-information term (Eq. 10 and 11).

Chen et al. 2024, "Learning to Maximize Mutual Information for Chain-of-Thought Distillation",
Findings of ACL. Pure functions of tensors that need no other file; `test_mi_loss.py` teaches them.

    L         alpha1 L_prediction + alpha2 L_generation + alpha3 L_CE (Eq. 10)
    B, T, V   batch, target length (each task has its own), vocabulary (the paper's d)
    v, z      the two tasks: label prediction and rationale generation
    f         softmax over the vocabulary at each position, then the maximum over positions
              (Table 4: or the mean); f_v and f_z, in the paper f(V) and f(Z), are f of the
              label's and of the rationale's logits
    L_CE      l(f_z, f_v) (Eq. 11)

`form` names the reading of l, with P = f_v / sum f_v and Q = f_z / sum f_z:
    paper     the cross-entropy -sum P ln Q
    kl        KL(P || Q): our reading of Table 5's baseline
    released  what the authors' code computes
The paper says softmax, maximum and cross-entropy only. That `paper` and `kl` mask padding, divide
by the sums and let the gradient reach both tasks is this project's reading.
Everything starts from log p: the logarithm commutes with the maximum, so a probability that fp32
can't hold (1e-50) costs neither precision nor an infinity.
"""

import math

import torch
import torch.nn.functional as F


def log_softmax(logits):  # (B, T, V) of any floating type -> log p: (B, T, V) in fp32
    return logits.log_softmax(-1, dtype=torch.float32)


def log_f(log_p, mask, reduce):  # (B, T, V), (B, T) or None -> log f: (B, V)
    if mask is not None:
        log_p = log_p.masked_fill(~mask[..., None], -math.inf)  # p = 0 at padding
    if reduce == "max":
        return log_p.max(1).values  # log max p = max log p
    assert reduce == "mean", f"reduce is max or mean, not {reduce}"
    return log_p.logsumexp(1) - math.log(log_p.shape[1])  # dividing by the sum will cancel this T


def mi_loss(label_log_p, rationale_log_p, label_mask, rationale_mask, form="paper", reduce="max"):
    """L_CE (Eq. 11): the mean over the batch of l(f_z, f_v) -> scalar, in nats.

    (B, T, V) log-probabilities, (B, T) bool masks that are true where the target is not padding,
    at least once a row; the two T differ.
    """
    if form in ("paper", "kl"):
        log_f_v = log_f(label_log_p, label_mask, reduce)  # our reading: the mask, and no detach
        log_f_z = log_f(rationale_log_p, rationale_mask, reduce)
        log_P = log_f_v.log_softmax(-1)  # our reading: log(f_v / sum f_v), maxima may sum to T
        log_Q = log_f_z.log_softmax(-1)
        if form == "paper":
            return -(log_P.exp() * log_Q).sum(-1).mean()  # Eq. 11
        return (log_P.exp() * (log_P - log_Q)).sum(-1).mean()  # Table 5
    assert form == "released", f"form is paper, kl or released, not {form}"
    f_v = log_f(label_log_p, None, reduce).exp().detach()  # no mask, not divided by the sum
    f_z = log_f(rationale_log_p, None, reduce).exp()
    return F.cross_entropy(f_z, f_v)  # Eq. 11, released: takes f_z for logits, softmax once more


@torch.no_grad()
def released_parts(label_log_p, rationale_log_p, reduce):
    """What the `released` value is made of: a part without gradient and the overlap, scalars.

    With C the sum of f_v they are C ln V and <f_v, f_z>, nearly all that is learned. The value is
    the first minus the second plus C ln(mean exp f_z), which is at most 1.72 C T / V.
    """
    f_v = log_f(label_log_p, None, reduce).exp()
    f_z = log_f(rationale_log_p, None, reduce).exp()
    constant, overlap = f_v.sum(-1) * math.log(f_v.shape[-1]), (f_v * f_z).sum(-1)
    return constant.mean(), overlap.mean()


def token_cross_entropy(log_p, ids, tokens=None):
    """The mean cross-entropy of the targets that are not padding (id 0) -> scalar, in nats.

    (B, T, V) log-probabilities, (B, T) ids. `tokens`: the number to divide by, if not their own.
    """
    total = F.nll_loss(log_p.flatten(0, 1), ids.flatten(), ignore_index=0, reduction="sum")
    return total / (tokens or (ids != 0).sum())


def objective(
    label_logits,
    label_ids,
    rationale_logits,
    rationale_ids,
    alphas=(0.5, 0.5, 0.1),
    form="paper",
    reduce="max",
    totals=None,
):
    """The three-term objective (Eq. 10) -> L, to minimise; {name: term}, detached, L included.

    (B, T, V) logits, (B, T) target ids; terms in nats. With alpha3 = 0 it is Distilling
    Step-by-Step, and L_CE is not computed. Where the rows are a part of a batch, `totals` are the
    batch's numbers of label tokens, rationale tokens and examples: the parts' losses then add up
    to the batch's (`released`: if each part keeps the padding of the batch).
    """
    alpha1, alpha2, alpha3 = alphas
    label_tokens, rationale_tokens, examples = totals or (None, None, len(label_ids))
    label_log_p = log_softmax(label_logits)  # one a task, which serves both of its terms
    rationale_log_p = log_softmax(rationale_logits)
    L_prediction = token_cross_entropy(label_log_p, label_ids, label_tokens)
    L_generation = token_cross_entropy(rationale_log_p, rationale_ids, rationale_tokens)
    L_CE, terms = 0.0, {"prediction": L_prediction, "generation": L_generation}
    if alpha3:
        share = len(label_ids) / examples
        masks = label_ids != 0, rationale_ids != 0
        L_CE = share * mi_loss(label_log_p, rationale_log_p, *masks, form, reduce)
        terms["mi"] = L_CE
        if form == "released":
            constant, overlap = released_parts(label_log_p, rationale_log_p, reduce)
            terms |= {"mi_constant": share * constant, "mi_overlap": share * overlap}
    L = alpha1 * L_prediction + alpha2 * L_generation + alpha3 * L_CE  # Eq. 10
    terms = {"loss": L} | terms
    return L, {name: term.detach() for name, term in terms.items()}
