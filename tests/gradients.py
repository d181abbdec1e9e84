"""What each term of Eq. 10 asks of the student: the size and the direction of its gradient.

    python tests/gradients.py                                   # toy, random weights
    python tests/gradients.py --weights runs/toy-tiny-dss-s0    # toy, a trained student

Takes train.py's flags of data, weights and seed. For each term with its weight (0.5, 0.5, 0.1),
without dropout, the medians over nine training batches of: its value, the norm of its gradient, the
norms of what reaches the embedding, the encoder and the decoder, and the cosines of the angles to
the gradients of the first three terms. L_CE also as it comes through the label's logits, or the
rationale's, alone.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import eval as evaluation
import train
from mi_loss import mi_loss, token_cross_entropy

PARTS = ("", ("embedding", "head"), "encoder", "decoder")  # how their parameters' names begin


def weighted_terms(model, sources, targets, reduce):
    """[(name, scalar)], those of Eq. 10: L_CE in every form, whole and through one task alone."""
    encoded, B = model.encode(sources), len(targets[0])
    label, rationale = (
        model.logits(model.decode(ids, memory, source))
        for ids, memory, source in zip(targets, encoded.split(B), sources.split(B)))  # fmt: skip
    terms = [("0.5 L_prediction", 0.5 * token_cross_entropy(label, targets[0])),
             ("0.5 L_generation", 0.5 * token_cross_entropy(rationale, targets[1]))]  # fmt: skip
    for form in ("paper", "released", "kl"):
        for name, logits in ((f"0.1 L_CE, {form}", (label, rationale)),
                             ("    through the label", (label, rationale.detach())),
                             ("    through the rationale", (label.detach(), rationale))):
            L_CE = mi_loss(*logits, targets[0] != 0, targets[1] != 0, form, reduce)
            terms.append((name, 0.1 * L_CE))
    return terms


def measures(model, terms):
    """(len(terms), 1 + len(PARTS) + 3): each one's value, norms and cosines."""
    names, parameters = zip(*model.named_parameters())
    grads = [
        torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
        if term.requires_grad else [torch.zeros_like(p) for p in parameters]
        for _, term in terms]  # fmt: skip
    whole = [torch.cat([g.flatten() for g in grad]) for grad in grads]
    table = []
    for (_, term), grad, flat in zip(terms, grads, whole):
        # in fp64: 60 million squares summed in fp32 are off in the second digit
        squares = {n: g.double().square().sum() for n, g in zip(names, grad)}
        norms = [sum(squares[n] for n in names if n.startswith(part)).sqrt() for part in PARTS]
        cosines = [F.cosine_similarity(flat.double(), first.double(), 0) for first in whole[:3]]
        table.append(torch.stack([term.detach().double(), *norms, *cosines]))
    return torch.stack(table)


def main():
    args = train.parse()
    examples, _ = data.train_and_valid(args.dataset, args.data_root, args.subsample, args.seed)
    model, tokenizer, origin = train.student(args)
    model.eval()
    ids = data.encode(examples, tokenizer, "mi", args.labels)
    tables = []
    for rows in islice(data.batches(len(ids), args.batch_size, args.seed), 9):
        [(sources, targets)], _ = data.collate([ids[i] for i in rows], "cpu")
        terms = weighted_terms(model, sources, targets, args.reduce)
        tables.append(measures(model, terms))
    print(f"{args.dataset}, {args.size}, {origin}; 9 batches of {args.batch_size}")
    print(f"{'':26}{'':9}{'norm of the gradient':^40}{'cosine to the first three':^33}")
    print(f"{'':26}{'value':>9}{'all':>10}{'embedding':>10}{'encoder':>10}{'decoder':>10}")
    for (name, _), row in zip(terms, torch.stack(tables).median(0).values):
        print(f"{name:26}{row[0]:9.4f}" + "".join(f"{x:10.4f}" for x in row[1:5])
              + "".join(f"{x:11.2f}" for x in row[5:]))  # fmt: skip


if __name__ == "__main__":
    sys.exit(evaluation.run_for_user("gradients.py", main))
