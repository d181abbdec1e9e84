"""The paper's objective: two cross-entropies and the mutual-information term (Eq. 10 and 11).

Chen et al. 2024, "Learning to Maximize Mutual Information for Chain-of-Thought Distillation",
Findings of ACL. Pure functions of tensors that need no other file; `test_mi_loss.py` teaches them.

    L         alpha1 L_prediction + alpha2 L_generation + alpha3 L_CE (Eq. 10)
    B, T, V   batch, target length (each task has its own), vocabulary (the paper's d)
    v, z      the two tasks: label prediction and rationale generation
    f         softmax over the vocabulary at each position, then the maximum over positions
    f_v, f_z  the features of the label and of the rationale; f(V) and f(Z) in the paper
    L_CE      l(f_z, f_v), where l is the cross-entropy (Eq. 11)

`form` names the reading of Eq. 11:
    paper     padding is masked, f_v and f_z are renormalised to distributions, and the gradient
              reaches both tasks
    kl        KL(f_v || f_z) with the features of `paper`: our reading of Table 5's baseline
    released  what the authors' code computes: no mask, no renormalisation, f_v detached, and f_z,
              although it holds probabilities, passed as logits to a cross-entropy
All terms are computed from log p. The logarithm commutes with the maximum, so a probability
that fp32 can't hold (1e-50) costs neither precision nor an infinity.
"""

import math

import torch
import torch.nn.functional as F


def log_probabilities(logits):  # (B, T, V) of any floating type -> (B, T, V) in fp32
    return logits.log_softmax(-1, dtype=torch.float32)


def log_features(log_p, mask, reduce):  # (B, T, V), (B, T) -> (B, V)
    log_p = log_p.masked_fill(~mask[..., None], -math.inf)  # changes neither a maximum nor a sum
    if reduce == "max":
        return log_p.max(1).values  # log max p = max log p
    assert reduce == "mean", f"reduce is max or mean, not {reduce}"
    return log_p.logsumexp(1) - mask.sum(1, keepdim=True).log()


def features(logits, mask, reduce="max"):
    """f: the largest probability (Table 4: or the mean) of each word where `mask` is true.

    (B, T, V) logits, (B, T) bool with at least one true in a row -> (B, V) in [0, 1], fp32. A row
    of means sums to 1, a row of maxima to between 1 and T: the loss does the renormalising.
    """
    return log_features(log_probabilities(logits), mask, reduce).exp()


def mi_terms(label_log_p, rationale_log_p, label_mask, rationale_mask, form, reduce):
    """L_CE of each example: {"mi": (B,)}, in nats, from log-probabilities (B, T, V).

    `released` returns two parts of its value as well. Where C is the sum of f_v, they are C ln V
    ("mi_constant", without gradient) and <f_v, f_z> ("mi_overlap", what is learned): the value is
    the first minus the second plus C ln(mean exp f_z), which is at most 1.72 C T / V.
    """
    if form != "released":
        log_f_v = log_features(label_log_p, label_mask, reduce).log_softmax(-1)  # log(f / sum f)
        log_f_z = log_features(rationale_log_p, rationale_mask, reduce).log_softmax(-1)  # likewise
        if form == "paper":
            return {"mi": -(log_f_v.exp() * log_f_z).sum(-1)}  # Eq. 11, the paper
        assert form == "kl", f"form is paper, kl or released, not {form}"
        return {"mi": (log_f_v.exp() * (log_f_v - log_f_z)).sum(-1)}  # Table 5
    f_v = log_features(label_log_p, torch.ones_like(label_mask), reduce).exp().detach()
    f_z = log_features(rationale_log_p, torch.ones_like(rationale_mask), reduce).exp()
    return {
        # Eq. 11, released code: cross_entropy takes f_z for logits and applies softmax once more
        "mi": F.cross_entropy(f_z, f_v, reduction="none"),
        "mi_constant": f_v.sum(-1) * math.log(f_v.shape[-1]),
        "mi_overlap": (f_v * f_z).sum(-1).detach(),
    }


def mi_loss(label_logits, rationale_logits, label_mask, rationale_mask, form="paper", reduce="max"):
    """L_CE (Eq. 11): the mean over the batch of l(f_z, f_v) -> scalar, in nats.

    (B, T, V) logits, (B, T) bool masks that are true where the target is not padding, at least
    once a row; the two T differ. `released` ignores the masks.
    """
    log_p = log_probabilities(label_logits), log_probabilities(rationale_logits)
    return mi_terms(*log_p, label_mask, rationale_mask, form, reduce)["mi"].mean()


def mean_nll(log_p, ids, tokens):  # (B, T, V), (B, T) -> scalar; id 0 is padding
    total = F.nll_loss(log_p.flatten(0, 1), ids.flatten(), ignore_index=0, reduction="sum")
    return total / (tokens or (ids != 0).sum())


def token_cross_entropy(logits, ids, tokens=None):
    """The mean cross-entropy of the targets that are not padding (id 0) -> scalar, in nats.

    (B, T, V) logits, (B, T) ids. `tokens`: the number to divide by, if it is not their own.
    """
    return mean_nll(log_probabilities(logits), ids, tokens)


def objective(label_logits, label_ids, rationale_logits, rationale_ids, alpha1=0.5, alpha2=0.5,
              alpha3=0.1, form="paper", reduce="max", label_tokens=None, rationale_tokens=None,
              examples=None):  # fmt: skip
    """The three-term objective (Eq. 10) -> L, to minimise; {name: term}, detached, L included.

    (B, T, V) logits, (B, T) target ids; terms in nats. With alpha3 = 0 it is Distilling
    Step-by-Step, and L_CE is not computed. Where the rows are a part of a batch, the last three
    arguments are the whole batch's numbers of target tokens and examples: the parts' losses then
    add up to the batch's (`released`: if each part keeps the padding of the batch).
    """
    label_log_p = log_probabilities(label_logits)  # one log-softmax a task serves all terms
    rationale_log_p = log_probabilities(rationale_logits)
    L_prediction = mean_nll(label_log_p, label_ids, label_tokens)
    L_generation = mean_nll(rationale_log_p, rationale_ids, rationale_tokens)
    L_CE, terms = 0.0, {"prediction": L_prediction, "generation": L_generation}
    if alpha3:
        masks = label_ids != 0, rationale_ids != 0
        rows = mi_terms(label_log_p, rationale_log_p, *masks, form, reduce)
        terms |= {name: row.sum() / (examples or len(row)) for name, row in rows.items()}
        L_CE = terms["mi"]
    L = alpha1 * L_prediction + alpha2 * L_generation + alpha3 * L_CE  # Eq. 10
    return L, {name: term.detach() for name, term in ({"loss": L} | terms).items()}
