"""Judge a trained student: accuracy, calibration and samples of what it writes.

    python eval.py runs/toy-tiny-mi-s0
    python eval.py runs/svamp-small-mi-s0/last --data-root ../dss --samples 10
    python eval.py EXPORT --dataset svamp --method mi     # a T5 folder that train.py did not write

The confidence of an answer is the product of the probabilities of the tokens written for it, </s>
included (`single`: the rationale's too).
Left out: choosing a model by what is measured here. Test is for the last look.
"""

import argparse
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import torch

import data
import t5
from t5 import InputError

MAX_LABEL, MAX_RATIONALE = 64, 256  # new ids; 64 is the released code's limit


def write(model, tokenizer, texts, max_new_tokens, batch_size=64):
    """What the student writes to each text -> [(text, log-probability)]."""
    device = next(model.parameters()).device
    ids = [tokenizer.encode(text, data.MAX_SOURCE) for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # little padding
    written = [None] * len(ids)
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        out, log_probs = model.generate(data.pad([ids[i] for i in rows]).to(device), max_new_tokens)
        for i, row, log_prob in zip(rows, out.tolist(), log_probs.double().sum(1).tolist()):
            written[i] = tokenizer.decode(row), log_prob
    return written


def answer(model, tokenizer, examples, method):
    """The student's answers -> [(answer, rationale, log-probability)].

    The rationale is "" unless the method writes it on the way (`single`); see `explain`.
    """
    texts = [data.sources(example.input, method)[0] for example in examples]
    length = MAX_RATIONALE if method == "single" else MAX_LABEL
    answers = []
    for text, log_prob in write(model, tokenizer, texts, length):
        rationale, _, label = text.rpartition(data.JOINER) if method == "single" else ("", "", text)
        answers.append((label.strip(), rationale.strip(), log_prob))
    return answers


def explain(model, tokenizer, examples, method):
    """The rationales that a student of two tasks writes -> [text]."""
    texts = [data.sources(example.input, method)[1] for example in examples]
    return [text for text, _ in write(model, tokenizer, texts, MAX_RATIONALE)]


def correct(name, tokenizer, examples, answers):
    """Whether each answer is right -> [bool]. Labels are compared as the tokeniser writes them."""
    labels = [tokenizer.decode(tokenizer.encode(example.label)) for example in examples]
    return [data.is_correct(name, found[0], label) for found, label in zip(answers, labels)]


def count_correct(model, tokenizer, examples, name, method):
    """How many of the examples the student answers correctly."""
    return sum(correct(name, tokenizer, examples, answer(model, tokenizer, examples, method)))


def expected_calibration_error(confidence, correct, bins=10):
    """ECE (Guo et al. 2017): the mean over examples of |accuracy - confidence| of their bin.

    confidence: n numbers in [0, 1]; correct: n booleans; `bins` of equal width, an edge in the
    upper one and 1.0 in the last; empty ones cost nothing. -> in [0, 1]. Raises ValueError.
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if confidence.shape != correct.shape or confidence.ndim != 1 or not len(confidence):
        raise ValueError("expected as many confidences as judgements, at least one")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("expected confidences between 0 and 1")
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def show_samples(model, tokenizer, examples, name, method):
    """Print each example's input, the student's rationale and answer, and the gold label."""
    answers = answer(model, tokenizer, examples, method)
    rationales = [rationale for _, rationale, _ in answers]
    if method in ("dss", "mi"):
        rationales = explain(model, tokenizer, examples, method)
    right = correct(name, tokenizer, examples, answers)
    for example, (label, _, log_prob), rationale, good in zip(examples, answers, rationales, right):
        print("\n  " + example.input.replace("\n", "\n  "))
        if rationale:
            print(f"  rationale: {rationale}")
        verdict = "right" if good else f"wrong, gold: {example.label}"
        print(f"  answer:    {label}   ({verdict}; confidence {math.exp(log_prob):.2f})")
    print()


def main(argv=None):
    parser = argparse.ArgumentParser(description="Judge a trained student.")
    parser.add_argument("run", type=Path, help="a run's folder, or another T5 folder")
    parser.add_argument("--dataset", help="default: the run's own")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="test")
    parser.add_argument("--data-root", help="default: the run's own")
    parser.add_argument("--method", choices=["finetune", "single", "dss", "mi"],
                        help="how it is asked; default: the run's own")  # fmt: skip
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="examples to print")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)

    model = t5.load(args.run).to(args.device)
    tokenizer = data.Tokenizer(args.run / "spiece.model")
    settings = {"data_root": "datasets", "subsample": 1.0, "seed": 0}
    if (path := args.run / "settings.json").exists():
        settings |= json.loads(path.read_text())
    settings |= {key: value for key, value in vars(args).items() if value is not None}
    for key in ("dataset", "method"):
        if key not in settings:
            raise InputError(f"{args.run} has no settings.json, so --{key} is needed")
    name, method = settings["dataset"], settings["method"]
    if args.split == "test":
        examples = data.load(name, "test", settings["data_root"])
    else:
        chosen = [settings[key] for key in ("dataset", "data_root", "subsample", "seed")]
        examples = data.train_and_valid(*chosen)[args.split == "valid"]

    answers = answer(model, tokenizer, examples, method)
    right = correct(name, tokenizer, examples, answers)
    confidence = np.exp([log_prob for _, _, log_prob in answers])
    print(f"{args.run} on {name} {args.split}, {len(examples):,} examples")
    print(f"accuracy                    {np.mean(right):8.2%}")
    if name in ("svamp", "toy"):
        bad = sum(data.evaluate_equation(label) is None for label, _, _ in answers)
        print(f"answers that have no value  {bad:8,}")
    print(f"average confidence          {np.mean(confidence):8.2%}")
    print(f"expected calibration error  {expected_calibration_error(confidence, right):8.2%}")
    show_samples(model, tokenizer, examples[: args.samples], name, method)


def run_for_user(program, main):
    """Run a script's main -> its exit status. A user's mistake is one line, without a traceback."""
    try:
        return main()
    except BrokenPipeError:  # the reader of what is printed has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (InputError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
    except (RuntimeError, MemoryError) as error:
        if not re.search("out of memory|allocate memory|^$", str(error)):
            raise
        print(f"{program}: out of memory: lower train.py's --micro-batch, or take a smaller "
              "--size, or --device cpu", file=sys.stderr)  # fmt: skip
    return 2


if __name__ == "__main__":
    sys.exit(run_for_user("eval.py", main))
