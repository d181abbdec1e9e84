"""Broken and hostile files: each is refused in one line that names it, or loads; nothing else.

    python -m pytest tests/test_hostile.py -q       # about 10 seconds on one core
    python tests/test_hostile.py 20000              # more of the fuzz, and what came of it

A table of broken model folders, then a fuzz: random corruptions of a small model's files and of a
small data set, each with a time limit, in a process of its own that must not die.
"""

import json
import multiprocessing
import os
import pickle
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import t5
import train

SAFE, BIN, CONFIG, PIECES = "model.safetensors", "pytorch_model.bin", "config.json", "spiece.model"
TINY = t5.T5Config(vocab_size=9, num_tokens=9, d_model=4, d_kv=2, d_ff=6, num_heads=3,
                   num_layers=2, num_decoder_layers=2, relative_attention_num_buckets=8,
                   relative_attention_max_distance=20)  # fmt: skip


def make_folder(folder):
    torch.manual_seed(0)
    t5.save(t5.T5(TINY), folder)


def refusal(load, path):
    """The one line with which `load()` refuses the file."""
    with pytest.raises((t5.InputError, OSError)) as error:
        load()
    return one_line(error.value, path)


def one_line(error, path):
    message = str(error)
    assert str(path) in message and message.isprintable() and len(message) < 600, message
    return message


# ---- a table of broken model folders

NORM = "encoder.block.0.layer.0.layer_norm.weight"  # of 4 numbers


def packed(header, values):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def rewritten(change):
    """A file with a header changed by `change`: a function, or fields of the entry of NORM."""

    def write(raw):
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        if isinstance(change, dict):
            header[NORM] |= {field: value for field, value in change.items() if value != "gone"}
            header[NORM] = {k: v for k, v in header[NORM].items() if change.get(k) != "gone"}
        else:
            header = change(header)
        return packed(header, raw[start:])

    return write


def moved(by_first, by_last):
    def write(raw):
        first, last = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])[NORM][OFFSETS]
        return rewritten({OFFSETS: [first + by_first, last + by_last]})(raw)

    return write


def without(name):
    return lambda header: {k: v for k, v in header.items() if k != name}


OFFSETS = "data_offsets"
BAD_SAFE = {  # what is written in place of the file's bytes; words of the message
    "empty": (lambda raw: b"", "header"), "7 bytes": (lambda raw: raw[:7], "header"),
    "no header": (lambda raw: bytes(8) + raw[8:], "header"),
    "1 GB of header": (lambda raw: (10**9).to_bytes(8, "little") + raw[8:], "header ends after"),
    "header to the end": (lambda raw: (len(raw) - 7).to_bytes(8, "little") + raw[8:], "header"),
    "a page of HTML": (lambda raw: b"<html><body>sign in</body></html>", "header ends after"),
    "header not UTF-8": (lambda raw: packed(b'{"\xff": 1}', b""), "utf-8"),
    "header cut": (lambda raw: packed(raw[8:99], raw[99:]), "header"),
    "header a list": (rewritten(lambda header: [header]), "header"),
    "header of 10,000 lists": (lambda raw: packed(b"[" * 10_000, b""), "recursion"),
    "entry a number": (rewritten(lambda header: header | {NORM: 7}), NORM),
    **{f"no {field}": (rewritten({field: "gone"}), f"{NORM} {field}")
       for field in ("dtype", "shape", OFFSETS)},
    **{f"type {x}": (rewritten({"dtype": x}), NORM) for x in ("I32", "F8_E4M3", ["F32"], None)},
    "another type": (rewritten({"dtype": "F16"}), f"{NORM} size"),
    **{f"shape {str(x)[:20]}": (rewritten({"shape": x}), NORM) for x in (
        None, 4, "4", {}, [4.0], [True, 4], [-4, -1], [[4]], [5], [], [0, 10**30], [10**400],
        [float("nan")])},
    **{f"offsets {x}": (rewritten({OFFSETS: x}), NORM) for x in (
        None, [0], [0, 16, 32], ["0", "16"], [0.0, 16.0], [False, True], [-16, 0], [16, 0],
        [10**9, 10**9 + 16], [10**400, 10**400 + 16], [0, float("inf")])},
    "longer than its shape": (moved(0, 4), f"{NORM} size"),
    "no data": (lambda raw: raw[: 8 + int.from_bytes(raw[:8], "little")], "after the file"),
    "the last byte gone": (lambda raw: raw[:-1], "after the file"),
}  # fmt: skip


def with_tensors(change):
    """Another file of sound form: the tensors that `change` makes of the good ones."""

    def write(raw):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "good").write_bytes(raw)
            t5.write_safetensors(change(t5.read_safetensors(Path(folder, "good"))), f"{folder}/bad")
            return Path(folder, "bad").read_bytes()

    return write


def reshaped(*shape):
    return with_tensors(lambda tensors: tensors | {NORM: torch.ones(shape)})


BAD_SAFE |= {
    "no tensors": (with_tensors(lambda tensors: {}), "shared.weight missing (9, 4)"),
    "a tensor missing": (with_tensors(without(NORM)), f"{NORM} missing (4,)"),
    "a tensor too many": (with_tensors(lambda t: t | {"more.weight": t[NORM]}), "more.weight T5"),
    "a name of two lines": (with_tensors(lambda t: t | {"a\nb": t[NORM]}), r"a\nb"),
    "a longer tensor": (reshaped(5), f"{NORM} (5,) (4,)"), "a scalar": (reshaped(), f"{NORM} ()"),
    "a tensor of nothing": (reshaped(4, 0), f"{NORM} (4, 0) (4,)"),
    "a matrix": (reshaped(2, 2), f"{NORM} (2, 2) (4,)"),
    "a decoder embedding of its own": (with_tensors(
        lambda t: t | {t5.EMBEDDINGS[2]: torch.ones(9, 4)}), "decoder.embed_tokens differs"),
    "embeddings of two shapes": (with_tensors(
        lambda t: t | {t5.EMBEDDINGS[1]: torch.ones(8, 4)}), "encoder.embed_tokens differs"),
}  # fmt: skip


def config_with(**fields):
    return lambda raw: json.dumps(json.loads(raw) | fields).encode()


BAD_CONFIG = {
    **{f"{field} {value}": (config_with(**{field: value}), f"{SAFE} {name}")  # contradicts it
       for field, value, name in (
        ("vocab_size", 10, "shared.weight (9, 4) (10, 4)"), ("d_model", 5, "shared.weight (9, 5)"),
        ("d_kv", 3, "SelfAttention (6, 4) (9, 4)"), ("d_ff", 7, "wi.weight (6, 4) (7, 4)"),
        ("num_heads", 2, "(4, 4)"), ("num_layers", 1, "encoder.block.1 place"),
        ("num_layers", 3, "encoder.block.2 missing"), ("num_decoder_layers", 1, "decoder.block.1"),
        ("num_decoder_layers", 3, "decoder.block.2"), ("feed_forward_proj", "gated-gelu", "wi_0"),
        ("tie_word_embeddings", False, "lm_head.weight missing (9, 4)"),
        ("relative_attention_num_buckets", 9, "relative_attention_bias (8, 3) (9, 3)"),
        ("d_model", 2**20, "shared.weight"), ("num_layers", 20, "encoder.block.2"))},
    **{f"{field} {value}": (config_with(**{field: value}), field)  # no size at all
       for field in ("vocab_size", "d_model", "num_layers") for value in (
        0, -1, 10**12, 10**400, 1.5, float("inf"), True, None, "4", [4])},
    **{f"{field} {value}": (config_with(**{field: value}), field) for field, value in (
        ("dropout_rate", 1), ("dropout_rate", -0.1), ("dropout_rate", float("nan")),
        ("dropout_rate", None), ("feed_forward_proj", 4), ("feed_forward_proj", ["relu"]),
        ("tie_word_embeddings", "no"), ("scale_decoder_outputs", None), ("num_tokens", 0),
        ("relative_attention_num_buckets", 3), ("relative_attention_max_distance", 4),
        ("layer_norm_epsilon", float("nan")), ("model_type", {}), ("eos_token_id", [1]))},
    "two lines": (config_with(feed_forward_proj="silu\n"), r"feed_forward_proj silu\n"),
    "empty": (lambda raw: b"", "JSON"), "cut": (lambda raw: raw[:99], "JSON"),
    "not UTF-8": (lambda raw: raw.replace(b"relu", b"rel\xfc"), "utf-8"),
    "with a BOM": (lambda raw: b"\xef\xbb\xbf" + raw, "BOM"),
    "of 10,000 lists": (lambda raw: b"[" * 10_000, "recursion"),
    **{f"only {text}": (lambda raw, text=text: text, "JSON object") for text in (
        b"[]", b"null", b"7", b'"T5"', b"NaN")},
    "of another size": (lambda raw: b"{}", f"{SAFE} shared.weight (9, 4) (32128, 512)"),
}  # fmt: skip


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def pickled(value):
    return lambda path: torch.save(value, path)


def written(content):
    return lambda path: path.write_bytes(content)


def shortened(share):
    def write(path):
        torch.save({NORM: torch.ones(4)}, path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write


BAD_PICKLE = {  # what writes it
    "code for a tensor": pickled({NORM: Bomb()}), "code, bare": written(pickle.dumps(Bomb(), 2)),
    "code of protocol 0": written(b"cposix\nmkdir\n(S'ran'\ntR."),
    "a whole module": pickled(torch.nn.Linear(2, 2)), "a number": pickled(7),
    "a list": pickled([torch.ones(4)]), "None": pickled(None), "a tensor": pickled(torch.ones(4)),
    "of a trainer": pickled({"model": {NORM: torch.ones(4)}}), "of names": pickled({NORM: NORM}),
    "of numbered tensors": pickled({0: torch.ones(4)}),
    "of integers": pickled({NORM: torch.arange(4)}),
    "of complex numbers": pickled({NORM: torch.ones(4, dtype=torch.cfloat)}),
    "sparse": pickled({NORM: torch.ones(4).to_sparse()}),
    "without contents": pickled({NORM: torch.ones(4, device="meta")}),
    "empty": written(b""), "no pickle": written(b"<html></html>"), "zeros": written(bytes(999)),
    "an empty zip": written(b"PK\5\6" + bytes(18)), "an object cut": written(b"\x80\x02}q\0"),
    **{f"cut at {share:.0%}": shortened(share) for share in (0.1, 0.5, 0.9, 0.99)},
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    make_folder(folder := tmp_path_factory.mktemp("good"))
    t5.load(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    for name in (SAFE, CONFIG):
        (tmp_path / name).write_bytes((good / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("change, words", BAD_SAFE.values(), ids=BAD_SAFE)
def test_a_broken_safetensors_file_is_refused_in_one_line(folder, change, words):
    raw = (folder / SAFE).read_bytes()
    (folder / SAFE).write_bytes(change(raw))
    message = refusal(lambda: t5.load(folder), folder / SAFE)
    assert change(raw) != raw and all(word in message for word in words.split()), message


@pytest.mark.parametrize("change, words", BAD_CONFIG.values(), ids=BAD_CONFIG)
def test_a_config_that_is_not_one_or_contradicts_the_tensors_is_refused(folder, change, words):
    (folder / CONFIG).write_bytes(change((folder / CONFIG).read_bytes()))
    place = SAFE if words.startswith(SAFE) else CONFIG
    message = refusal(lambda: t5.load(folder), folder / place)
    assert all(word in message for word in words.split()), message


@pytest.mark.parametrize("write", BAD_PICKLE.values(), ids=BAD_PICKLE)
def test_a_pickle_of_anything_but_tensors_is_refused_and_runs_nothing(folder, write):
    (folder / SAFE).unlink()
    write(folder / BIN)
    refusal(lambda: t5.load(folder), folder / BIN)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", [SAFE, CONFIG])
def test_a_folder_in_place_of_a_file_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    refusal(lambda: t5.load(folder), folder / name)


# ---- vocabularies

@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    data.write_toy(root, {"train": 12, "test": 2})
    return root


@pytest.mark.parametrize("content", [
    lambda raw: b"", lambda raw: random.Random(0).randbytes(9_999),
    lambda raw: raw[: len(raw) // 2], lambda raw: raw[:-1], lambda raw: raw[1:],
    lambda raw: b'{"model": {"type": "Unigram"}}',
    lambda raw: raw + b"\n\xc4\x84=\n\xc0\x84=" + b"a" * 10**6,  # a piece of 1 MB
], ids=["empty", "random", "half", "cut by one", "begun late", "JSON", "a long piece"])  # fmt: skip
def test_a_broken_vocabulary_is_refused_in_one_line(toy, tmp_path, content):
    (tmp_path / PIECES).write_bytes(content((toy / "toy" / PIECES).read_bytes()))
    refusal(lambda: data.Tokenizer(tmp_path / PIECES), tmp_path / PIECES)


def test_a_vocabulary_larger_than_the_embedding_is_refused_before_a_run_begins(toy, folder):
    flags = ["--weights", folder, "--tokenizer", toy / "toy" / PIECES, "--data-root", toy,
             "--out", folder / "runs", "--batch-size", 4]  # fmt: skip
    with pytest.raises(t5.InputError, match="the model has 9 rows"):
        train.main([*map(str, flags)])
    assert not (folder / "runs").exists()


# ---- the fuzz

def corrupted(raw, rng):
    """The bytes after one to three accidents, half of them in the first eighth: the header."""
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        n = len(raw) if rng.random() < 0.5 else len(raw) // 8
        i, j, size = rng.randrange(n + 1), rng.randrange(n + 1), rng.choice([1, 2, 8, 64, 512])
        i, j = min(i, j), max(i, j)
        accident = rng.randrange(7)
        if accident == 0 and raw:
            raw[min(i, len(raw) - 1)] ^= 1 << rng.randrange(8)
        elif accident == 1:
            raw[i : i + size] = rng.randbytes(size)
        elif accident == 2:
            raw[i : i + size] = rng.choice([b"0", b"-", b"9", b"\n", b"\0", b'"', b"\xff"]) * size
        elif accident == 3:
            del raw[i:]
        elif accident == 4:
            raw[i:i] = rng.randbytes(size)
        elif accident == 5:
            raw[j:j] = raw[i : i + size]  # a block twice
        else:
            a, b = raw[i : i + size], raw[j : j + size]
            raw[j : j + size], raw[i : i + size] = a, b  # two blocks exchanged
    return bytes(raw)


def weights(root):
    return {name: p.detach() for name, p in t5.load(root / "model").named_parameters()}


def ids(root):
    tokenizer = data.Tokenizer(root / "data" / "toy" / PIECES)
    return tokenizer.encode("predict: Anna has 57 apples.</s>Caf\u00e9 \ufb01 \U0001f600 ((") * 2


def examples(root):
    return data.load("toy", "train", root / "data")


FUZZED = {  # the file: its share in a thousand, what reads it
    f"model/{CONFIG}": (150, lambda root: t5.read_config(root / "model" / CONFIG)),
    f"model/{SAFE}": (300, weights), f"model/{BIN}": (100, weights),
    f"data/toy/{PIECES}": (200, ids), "data/toy/toy_train.json": (125, examples),
    "data/toy/llm/train_CoT_0.json": (125, examples),
}  # fmt: skip


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return a == b


def fuzz(name, count, root, seed=0):
    """Corrupt a file so many times -> {what came of it: how often}."""
    read, path, rng = FUZZED[name][1], root / name, random.Random(f"{name} {seed}")
    if name.endswith(BIN):
        torch.save(t5.read_safetensors(root / "model" / SAFE), path)
        (root / "model" / SAFE).unlink()
    good, expected, results = path.read_bytes(), read(root), Counter()
    for case in range(count):
        (root / "case").write_text(f"{name}, seed {seed}, case {case}")
        path.write_bytes(corrupted(good, rng))
        signal.alarm(20)  # not caught: it ends the process, whatever it is at
        try:
            results["loads the same" if same(read(root), expected) else "loads another"] += 1
        except (t5.InputError, OSError) as error:
            one_line(error, root)
            results["refused"] += 1
        signal.alarm(0)
    return results


def fuzz_in_a_process(name, count, root, seed=0):
    """`fuzz`, where a crash or a hang can't take the tests along."""

    def run(results):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # sentencepiece logs each of its refusals
        try:
            results.send(fuzz(name, count, root, seed))
        except BaseException:
            results.send(traceback.format_exc())

    (root / "model").mkdir(parents=True)
    make_folder(root / "model")
    data.write_toy(root / "data", {"train": 12, "test": 2})
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=[sender])
    process.start()
    sender.close()
    try:
        results = receiver.recv()
    except EOFError:  # it died
        results = "died"
    process.join()
    where = (root / "case").read_text() if (root / "case").exists() else "before the first case"
    assert isinstance(results, Counter), f"{where}, exit {process.exitcode}: {results}"
    return results


@pytest.mark.parametrize("name", FUZZED)
def test_a_random_corruption_is_refused_in_one_line_or_loads(name, tmp_path):
    count = 2 * FUZZED[name][0]
    results = fuzz_in_a_process(name, count, tmp_path / "fuzz")
    assert results.total() == count and results["refused"] > 0.1 * count


if __name__ == "__main__":
    for name, (share, _) in FUZZED.items():
        with tempfile.TemporaryDirectory() as folder:
            seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
            count = int(sys.argv[1]) * share // 1000
            print(name, dict(fuzz_in_a_process(name, count, Path(folder, "fuzz"), seed)))
