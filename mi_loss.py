"""The paper's objective: two cross-entropies and the mutual-information term (Eq. 9-11).

Chen et al. 2024, "Learning to Maximize Mutual Information for Chain-of-Thought Distillation",
Findings of ACL. Pure functions of tensors; needs no other file. Taught by `test_mi_loss.py`.

f: softmax over the vocabulary at each decoder position, then a maximum (Table 4: or a mean) over
positions; l: cross-entropy. In f(V) and f(Z) the letters are the paper's: the features of label
prediction and of rationale generation. Elsewhere: B batch, T target length, V vocabulary (the
paper's d). Id 0 is padding.

`form` names the reading of Eq. 11:
  paper     padding masked, f(V) and f(Z) renormalised to distributions, gradient into both tasks
  released  what the authors' code runs: no mask, no renormalisation, f(V) detached, and f(Z),
            already probabilities, given to a cross-entropy that applies log-softmax once more
  kl        Table 5's baseline: KL(f(V) || f(Z)) with the features of `paper`
`paper` and `kl` stay in log space, since the logarithm commutes with the maximum: a probability
below fp32's range (1e-38) costs neither precision nor an infinity.
"""

import math

import torch
import torch.nn.functional as F


def log_features(logits, mask, reduce="max"):  # (B, T, V), (B, T) -> (B, V)
    # a masked position gets log 0: it changes neither a maximum nor a sum
    log_p = logits.float().log_softmax(-1).masked_fill(~mask[..., None], -math.inf)
    if reduce == "max":
        return log_p.max(1).values  # log max p = max log p
    assert reduce == "mean", f"reduce is max or mean, not {reduce}"
    return log_p.logsumexp(1) - mask.sum(1, keepdim=True).log()


def features(logits, mask, reduce="max"):
    """f: each word's largest (or mean) probability over the positions where `mask` is true.

    (B, T, V) logits, (B, T) bool with a true in each row -> (B, V) in [0, 1], in fp32. The sum of
    a row is 1 for the mean and up to T for the maximum: renormalising is left to the loss.
    """
    return log_features(logits, mask, reduce).exp()


def mi_terms(label_logits, rationale_logits, label_mask, rationale_mask, form, reduce):
    """{"mi": (B,)}. For `released` also its parts: mi = mi_constant - mi_overlap + a remainder,
    S ln(mean exp f(Z)), a few hundredths at most with T5's vocabulary on the released sets."""
    if form == "released":
        f_V = features(label_logits, torch.ones_like(label_mask), reduce).detach()
        f_Z = features(rationale_logits, torch.ones_like(rationale_mask), reduce)
        return {
            "mi": F.cross_entropy(f_Z, f_V, reduction="none"),  # Eq. 11, released code
            "mi_constant": f_V.sum(-1) * math.log(f_V.shape[-1]),  # S ln V: no gradient
            "mi_overlap": (f_V * f_Z).sum(-1).detach(),  # <f(V), f(Z)>: what is learned
        }
    log_f_V = log_features(label_logits, label_mask, reduce).log_softmax(-1)  # renormalised
    log_f_Z = log_features(rationale_logits, rationale_mask, reduce).log_softmax(-1)
    if form == "kl":
        return {"mi": (log_f_V.exp() * (log_f_V - log_f_Z)).sum(-1)}  # Table 5
    assert form == "paper", f"form is paper, released or kl, not {form}"
    return {"mi": -(log_f_V.exp() * log_f_Z).sum(-1)}  # Eq. 11, the paper


def mi_loss(label_logits, rationale_logits, label_mask, rationale_mask, form="paper", reduce="max"):
    """L_CE (Eq. 11), the mean over the batch of l(f(Z), f(V)), in nats.

    (B, T, V) logits and (B, T) bool masks, true where the target is not padding; the two T differ.
    Each row of a mask has a true; `released` ignores the masks.
    """
    batch = label_logits, rationale_logits, label_mask, rationale_mask
    return mi_terms(*batch, form, reduce)["mi"].mean()


def token_cross_entropy(logits, ids, total=None):
    """The mean cross-entropy (nats) of the non-padding targets: Eq. 10's first two terms.

    (B, T, V), (B, T) -> scalar. `total`: the number to divide by, if not that of these targets.
    """
    logits, ids = logits.float().flatten(0, 1), ids.flatten()
    loss = F.cross_entropy(logits, ids, ignore_index=0, reduction="sum")
    return loss / ((ids != 0).sum() if total is None else total)


def objective(label_logits, label_ids, rationale_logits, rationale_ids, alpha1=0.5, alpha2=0.5,
              alpha3=0.1, form="paper", reduce="max", totals=(None, None, None)):  # fmt: skip
    """The three-term objective (Eq. 10) -> L to minimise; L and its terms by name, detached.

    (B, T, V) logits, (B, T) target ids. With alpha3 = 0 it is Distilling Step-by-Step, and L_CE
    is not computed. `totals`: label tokens, rationale tokens and examples of the whole batch,
    where these rows are a share of it; the shares' losses then add up to the batch's (`released`:
    if each share keeps the batch's padding).
    """
    L_prediction = token_cross_entropy(label_logits, label_ids, totals[0])
    L_generation = token_cross_entropy(rationale_logits, rationale_ids, totals[1])
    terms, L_CE = {"prediction": L_prediction, "generation": L_generation}, 0.0
    if alpha3:
        batch = label_logits, rationale_logits, label_ids != 0, rationale_ids != 0
        mi = mi_terms(*batch, form, reduce)
        terms |= {name: rows.sum() / (totals[-1] or len(rows)) for name, rows in mi.items()}
        L_CE = terms["mi"]
    L = alpha1 * L_prediction + alpha2 * L_generation + alpha3 * L_CE  # Eq. 10
    return L, {name: term.detach() for name, term in ({"loss": L} | terms).items()}
