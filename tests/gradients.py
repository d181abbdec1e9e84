"""What each term of Eq. 10 asks of the student: the size and the direction of its gradient.

    python tests/gradients.py                                   # toy, random weights
    python tests/gradients.py --weights runs/toy-tiny-dss-s0    # toy, a trained student

Takes train.py's flags of data, weights and seed. For each term with its weight (0.5, 0.5, 0.1),
without dropout, the medians over nine training batches of: its value, the norms of its gradient and
of the embedding's, the encoder's and the decoder's parts, and the cosines of the angles to the
gradients of the first three terms. L_CE also as it comes through one task's logits alone.
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
from mi_loss import log_softmax, mi_loss, token_cross_entropy

PARTS = ("", ("embedding", "head"), "encoder", "decoder")  # how their parameters' names begin


def weighted_terms(model, sources, targets, reduce):
    """[(name, scalar)], those of Eq. 10: L_CE in every form, whole and through one task alone."""
    encoded, B, masks = model.encode(sources), len(targets[0]), [ids != 0 for ids in targets]
    label, rationale = (
        log_softmax(model.logits(model.decode(ids, task_encoded, source)))
        for ids, task_encoded, source in zip(targets, encoded.split(B), sources.split(B))
    )
    tokens = [mask.sum() for mask in masks]
    terms = [
        ("0.5 L_prediction", 0.5 * token_cross_entropy(label, targets[0], tokens[0])),
        ("0.5 L_generation", 0.5 * token_cross_entropy(rationale, targets[1], tokens[1])),
    ]
    for form in ("paper", "eq9", "released", "kl"):
        for name, log_p in (
            (f"0.1 L_CE, {form}", (label, rationale)),
            ("    through the label", (label, rationale.detach())),
            ("    through the rationale", (label.detach(), rationale)),
        ):
            terms.append((name, 0.1 * mi_loss(*log_p, *masks, form, reduce)))
    return terms


def gradients(term, parameters):  # of released through the label there are none
    if not term.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    return torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)


def measures(model, terms):
    """(len(terms), 1 + len(PARTS) + 3): each one's value, norms and cosines."""
    names, parameters = zip(*model.named_parameters())
    grads = [gradients(term, parameters) for _, term in terms]
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
    model, tokenizer, origin = train.load_model(args)
    model.eval()
    ids, _ = data.make_rows(examples, tokenizer, "mi", args.labels)
    tables = []
    for rows in islice(data.batches(len(ids), args.batch_size, args.seed), 9):
        [(sources, targets)], _ = data.collate([ids[i] for i in rows], "cpu")
        terms = weighted_terms(model, sources, targets, args.reduce)
        tables.append(measures(model, terms))
    print(f"{args.dataset}, {args.size}, {origin}; 9 batches of {args.batch_size}")
    print(f"{'':26}{'':9}{'norm of the gradient':^40}{'cosine to the first three':^33}")
    print(f"{'':26}{'value':>9}{'all':>10}{'embedding':>10}{'encoder':>10}{'decoder':>10}")
    for (name, _), row in zip(terms, torch.stack(tables).median(0).values):
        norms, cosines = "".join(f"{x:10.4f}" for x in row[1:5]), row[5:]
        print(f"{name:26}{row[0]:9.4f}{norms}" + "".join(f"{x:11.2f}" for x in cosines))


if __name__ == "__main__":
    sys.exit(evaluation.run_for_user("gradients.py", main))
