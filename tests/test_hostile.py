"""Broken and hostile files: each is refused in one line that names it, or loads; nothing else.

    python -m pytest tests/test_hostile.py -q       # about 15 seconds on one core
    python tests/test_hostile.py 3000               # more of the fuzz: how many were refused

Tables of broken model folders, then a fuzz: random corruptions of a small model's files and of a
small data set, each with a time limit, in a process of its own that must not die.
"""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import t5
import train

SAFE, BIN, CONFIG, PIECES = "model.safetensors", "pytorch_model.bin", "config.json", "spiece.model"
SIZES = dict(vocab_size=9, num_tokens=9, d_model=4, d_kv=2, d_ff=6, num_heads=3, num_layers=2)
TINY = t5.T5Config(**SIZES, num_decoder_layers=2, relative_attention_num_buckets=8)


def make_folder(folder):
    torch.manual_seed(0)
    t5.save(t5.T5(TINY), folder)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_folder(tmp_path)
    t5.load(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(error, path):
    message = str(error)
    assert str(path) in message and message.isprintable() and len(message) < 600, message
    return message


def assert_refused(path, words=""):
    """Its folder is refused in one line that names the file at `path` and holds the words."""
    with pytest.raises((t5.InputError, OSError)) as error:
        t5.load(path.parent)
    message = one_line(error.value, path)
    assert all(word in message for word in words.split()), message


def write_pickle(folder, value):  # in place of its model.safetensors; bytes as they are
    (folder / SAFE).unlink()
    if isinstance(value, bytes):
        (folder / BIN).write_bytes(value)
    else:
        torch.save(value, folder / BIN)


def short(value):  # the name of a test's case
    return f"{value!r:.30}"


# ---- model.safetensors

NORM = "encoder.block.0.layer.0.layer_norm.weight"  # of 4 numbers


def packed(header, values=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


HTML, GIGABYTE = b"<html><body>sign in</body></html>", (10**9).to_bytes(8, "little")
HEADERS = [], {NORM: 7}, b'{"\xff": 1}', b'{"a": ', b"[" * 10_000
NO_SAFETENSORS = [b"", bytes(7), bytes(99), HTML, GIGABYTE + b"{}", *map(packed, HEADERS)]


@pytest.mark.parametrize("content", NO_SAFETENSORS, ids=short)
def test_a_file_of_another_kind_is_refused_as_safetensors(folder, content):
    (folder / SAFE).write_bytes(content)
    assert_refused(folder / SAFE, "safetensors")


BAD_FIELDS = {  # of the header's entry of NORM
    "dtype": ["gone", "F16", "I32", ["F32"], None],
    "shape": ["gone", None, 4, "4", [4.0], [True, 4], [-4, -1], [[4]], [5], [], [0, 10**30]],
    "data_offsets": ["gone", None, [0], ["0", "16"], [0.0, 16.0], [-16, 0], [16, 0], [99, 10**9]],
}


@pytest.mark.parametrize("field, value", [(k, x) for k in BAD_FIELDS for x in BAD_FIELDS[k]])
def test_a_header_that_cannot_be_true_is_refused_by_its_tensor(folder, field, value):
    raw = (folder / SAFE).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header[NORM][field] = value
    if value == "gone":
        del header[NORM][field]
    (folder / SAFE).write_bytes(packed(header, raw[start:]))
    assert_refused(folder / SAFE, NORM)


WRONG_TENSORS = {  # words of the message; what is written in place of the good tensors
    "shared.weight missing (9, 4)": lambda tensors: {},
    f"{NORM} missing (4,)": lambda tensors: {k: x for k, x in tensors.items() if k != NORM},
    f"{NORM} (5,) (4,)": lambda tensors: tensors | {NORM: torch.ones(5)},
    f"{NORM} (2, 2) (4,)": lambda tensors: tensors | {NORM: torch.ones(2, 2)},
    "more.weight T5": lambda tensors: tensors | {"more.weight": torch.ones(4)},
    r"a\nb": lambda tensors: tensors | {"a\nb": torch.ones(4)},
    "decoder.embed_tokens differs": lambda tensors: tensors | {t5.EMBEDDINGS[2]: torch.ones(9, 4)},
    "encoder.embed_tokens differs": lambda tensors: tensors | {t5.EMBEDDINGS[1]: torch.ones(8, 4)},
}


@pytest.mark.parametrize("words, change", WRONG_TENSORS.items())
def test_tensors_that_are_not_the_models_are_refused_by_name(folder, words, change):
    t5.write_safetensors(change(t5.read_safetensors(folder / SAFE)), folder / SAFE)
    assert_refused(folder / SAFE, words)


@pytest.mark.parametrize("name", [SAFE, BIN])
def test_a_file_that_was_cut_is_refused(folder, name):
    if name == BIN:
        write_pickle(folder, t5.read_safetensors(folder / SAFE))
    raw = (folder / name).read_bytes()
    for size in (0, len(raw) // 10, len(raw) // 2, len(raw) - 1):
        (folder / name).write_bytes(raw[:size])
        assert_refused(folder / name)


@pytest.mark.parametrize("name", [SAFE, CONFIG])
def test_a_folder_in_place_of_a_file_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert_refused(folder / name)


# ---- config.json

NO_SIZE = [0, -1, 10**12, 1.5, float("inf"), True, "4", [4]]
BAD_VALUES = {
    "vocab_size": NO_SIZE,
    "num_layers": NO_SIZE,
    "dropout_rate": [1, -0.1, float("nan"), "0.1"],
    "feed_forward_proj": [4, ["relu"], "silu\n"],
    "layer_norm_epsilon": [float("nan")],
    "model_type": [{}],
    "eos_token_id": [[1]],
}
CONTRADICTIONS = [  # a field, its value, words of the message: the tensors have other sizes
    ("vocab_size", 10, "shared.weight (9, 4) (10, 4)"),
    ("d_model", 2**20, "shared.weight (9, 4)"),
    ("d_kv", 3, "SelfAttention (6, 4) (9, 4)"),
    ("num_heads", 2, "(4, 4)"),
    ("num_layers", 1, "encoder.block.1 place"),
    ("num_decoder_layers", 3, "decoder.block.2 missing"),
    ("feed_forward_proj", "gated-gelu", "wi_0"),
    ("tie_word_embeddings", False, "lm_head.weight missing (9, 4)"),
    ("relative_attention_num_buckets", 9, "relative_attention_bias (8, 3) (9, 3)"),
]
NO_OBJECTS = [b"", b'{"d_model": ', b"[]", b"NaN", b'{"\xff": 1}', b"\xef\xbb\xbf{}", b"[" * 10_000]


def set_field(folder, field, value):
    config = json.loads((folder / CONFIG).read_text()) | {field: value}
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize("field, value", [(k, x) for k in BAD_VALUES for x in BAD_VALUES[k]])
def test_a_value_that_a_field_of_the_config_cannot_have_is_refused(folder, field, value):
    set_field(folder, field, value)
    assert_refused(folder / CONFIG, f"{field} expected found")


@pytest.mark.parametrize("field, value, words", CONTRADICTIONS)
def test_a_config_that_contradicts_the_tensors_is_refused_by_a_tensor(folder, field, value, words):
    set_field(folder, field, value)
    assert_refused(folder / SAFE, words)


@pytest.mark.parametrize("content", NO_OBJECTS, ids=short)
def test_a_config_that_is_no_JSON_object_is_refused(folder, content):
    (folder / CONFIG).write_bytes(content)
    assert_refused(folder / CONFIG, "JSON object")


# ---- pytorch_model.bin


class Bomb:
    def __reduce__(self):  # unpickled, it makes a folder
        return os.mkdir, ("ran",)


ONES, PROTOCOL_0 = torch.ones(4), b"cposix\nmkdir\n(S'ran'\ntR."
CODE = [{NORM: Bomb()}, pickle.dumps(Bomb(), 2), PROTOCOL_0]
NO_TENSORS = [7, [ONES], ONES, torch.nn.Linear(2, 2), {"model": {NORM: ONES}}, {NORM: NORM}]
NO_PICKLES = [HTML, b"PK\5\6" + bytes(18), b"\x80\x02}q\0"]  # an empty zip, an object cut
NO_FLOATS = [ONES.long(), ONES.cfloat()]


@pytest.mark.parametrize("value", NO_TENSORS + NO_PICKLES, ids=short)
def test_a_file_of_another_kind_is_refused_as_a_pickle_of_weights(folder, value):
    write_pickle(folder, value)
    assert_refused(folder / BIN, "cannot be read as weights delete it and run again")


@pytest.mark.parametrize("tensor", NO_FLOATS, ids=short)
def test_a_pickle_with_a_tensor_of_another_kind_is_refused_by_its_name(folder, tensor):
    write_pickle(folder, t5.read_safetensors(folder / SAFE) | {NORM: tensor})
    assert_refused(folder / BIN, NORM)


@pytest.mark.parametrize("value", CODE, ids=["for a tensor", "bare", "of protocol 0"])
def test_a_pickle_that_would_run_code_runs_nothing(folder, value):
    write_pickle(folder, value)
    assert_refused(folder / BIN)
    assert not (folder / "ran").exists()
    with suppress(Exception):  # the bare ones are no whole file
        torch.load(folder / BIN, weights_only=False)
    assert (folder / "ran").exists()  # it was armed


# ---- vocabularies


def test_a_broken_vocabulary_is_refused_in_one_line(toy, tmp_path):
    raw, path = (toy / "toy" / PIECES).read_bytes(), tmp_path / PIECES
    for content in (b"", HTML, raw[: len(raw) // 2], raw[:-1], raw[1:], raw[::-1]):
        path.write_bytes(content)
        with pytest.raises(t5.InputError) as error:
            data.Tokenizer(path)
        one_line(error.value, path)


def test_a_vocabulary_larger_than_the_embedding_is_refused_before_a_run_begins(toy, folder):
    pieces, out = toy / "toy" / PIECES, folder / "runs"
    flags = ["--weights", folder, "--tokenizer", pieces, "--data-root", toy, "--out", out]
    with pytest.raises(t5.InputError, match="the model has 9 rows"):
        train.main([*map(str, flags)])
    assert not out.exists()


# ---- the fuzz


def corrupted(raw, rng):
    """The bytes after one to three accidents, half of them in the first eighth: the header."""
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        n = len(raw) if rng.random() < 0.5 else len(raw) // 8
        i, j = sorted([rng.randrange(n + 1), rng.randrange(n + 1)])
        last = i + rng.choice([1, 2, 8, 64, 512])
        accidents = [
            (i, i + 1, bytes(byte ^ 1 << rng.randrange(8) for byte in raw[i : i + 1])),
            (i, last, rng.randbytes(last - i)),
            (i, last, rng.choice([b"0", b"-", b"9", b"\n", b"\0", b'"', b"\xff"]) * (last - i)),
            (i, i, rng.randbytes(last - i)),
            (j, j, raw[i:last]),  # a block twice
            (i, j, b""),  # a gap
            (i, len(raw), b""),  # cut
        ]
        first, last, new = rng.choice(accidents)
        raw[first:last] = new
    return bytes(raw)


def ids(root):
    tokenizer = data.Tokenizer(root / "data" / "toy" / PIECES)
    return tokenizer.encode("predict: Anna has 57 apples.</s>Caf\u00e9 \ufb01 \U0001f600 ((")


FUZZED = {  # the file, and what reads it
    f"model/{CONFIG}": lambda root: t5.read_config(root / "model" / CONFIG),
    f"model/{SAFE}": lambda root: t5.load(root / "model"),
    f"pickled/{BIN}": lambda root: t5.load(root / "pickled"),
    f"data/toy/{PIECES}": ids,
    "data/toy/toy_train.json": lambda root: data.load("toy", "train", root / "data"),
    "data/toy/llm/train_CoT_0.json": lambda root: data.load("toy", "train", root / "data"),
}


def fuzz(name, count, root, seed):
    """Corrupt a file so many times -> how often it was refused."""
    path, good, refused = root / name, (root / name).read_bytes(), 0
    rng = random.Random(f"{name} {seed}")
    for case in range(count):
        print(f"\r{name}, seed {seed}, case {case}", end="", file=sys.stderr)
        path.write_bytes(corrupted(good, rng))
        signal.alarm(20)  # not caught: it ends the process, whatever it is at
        try:
            FUZZED[name](root)
        except (t5.InputError, OSError) as error:
            one_line(error, root)
            refused += 1
        signal.alarm(0)
    path.write_bytes(good)
    return refused


def test_a_random_corruption_is_refused_in_one_line_or_loads():
    """In a process that a crash or a hang ends; the end of its errors says at which case."""
    command = [sys.executable, __file__, "300"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2_000:]
    results = dict(map(json.loads, process.stdout.splitlines()))
    assert [*results] == [*FUZZED] and min(results.values()) > 30


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("model", "pickled"):
            make_folder(root / name)
        write_pickle(root / "pickled", t5.read_safetensors(root / "pickled" / SAFE))
        data.write_toy(root / "data", {"train": 12, "test": 2})
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        for name in FUZZED:
            print(json.dumps([name, fuzz(name, int(sys.argv[1]), root, seed)]))
