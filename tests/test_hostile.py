"""Broken and hostile files: each is refused in one line that names it, and runs nothing."""

import json
import os
import pickle
from contextlib import suppress

import pytest
import torch

import data
import t5
import train

SAFE, BIN, CONFIG, PIECES = "model.safetensors", "pytorch_model.bin", "config.json", "spiece.model"
SIZES = dict(vocab_size=9, num_tokens=9, d_model=4, d_kv=2, d_ff=6, num_heads=3, num_layers=2)
TINY = t5.T5Config(**SIZES, num_decoder_layers=2, relative_attention_num_buckets=8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    t5.save(t5.T5(TINY), tmp_path)
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
HEADERS = [], {NORM: 7}, b'{"\xff": 1}', b"[" * 10_000
NO_SAFETENSORS = [b"", HTML, GIGABYTE + b"{}", *map(packed, HEADERS)]


@pytest.mark.parametrize("content", NO_SAFETENSORS, ids=short)
def test_a_file_of_another_kind_is_refused_as_safetensors(folder, content):
    (folder / SAFE).write_bytes(content)
    assert_refused(folder / SAFE, "safetensors")


BAD_FIELDS = {  # of the header's entry of NORM
    "dtype": ["gone", "F16", "I32", ["F32"]],
    "shape": ["gone", 4, [4.0], [-4, -1], [5]],
    "data_offsets": [[0], ["0", "16"], [-16, 0], [16, 0], [10**9, 10**9 + 16]],
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
    "more.weight T5": lambda tensors: tensors | {"more.weight": torch.ones(4)},
    "decoder.embed_tokens differs": lambda tensors: tensors | {t5.EMBEDDINGS[2]: torch.ones(9, 4)},
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


# ---- config.json

BAD_VALUES = {
    "vocab_size": [0, 10**12, 1.5, True, "4"],
    "num_layers": [257],
    "dropout_rate": [1, -0.1, float("nan"), "0.1"],
    "feed_forward_proj": [4, ["relu"], "silu\n"],
}
CONTRADICTIONS = [  # a field, its value, words of the message: the tensors have other sizes
    ("vocab_size", 10, "shared.weight (9, 4) (10, 4)"),
    ("num_layers", 1, "encoder.block.1 place"),
    ("num_decoder_layers", 3, "decoder.block.2 missing"),
    ("feed_forward_proj", "gated-gelu", "wi_0"),
    ("tie_word_embeddings", False, "lm_head.weight missing (9, 4)"),
]
NO_OBJECTS = [b"", b'{"d_model": ', b"[]", b'{"\xff": 1}', b"[" * 10_000]


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
NO_TENSORS = [7, torch.nn.Linear(2, 2), {"model": {NORM: ONES}}, {NORM: ONES.long()}]
NO_PICKLES = [HTML, b"PK\5\6" + bytes(18), b"\x80\x02}q\0"]  # an empty zip, an object cut


@pytest.mark.parametrize("value", NO_TENSORS + NO_PICKLES, ids=short)
def test_a_file_of_another_kind_is_refused_as_a_pickle_of_weights(folder, value):
    write_pickle(folder, value)
    assert_refused(folder / BIN, "cannot be read as weights delete it and run again")


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
