"""data.py: parsing, splitting, tokenising, batching, judging answers, and refusing bad files.

    python -m pytest tests/test_data.py
    python -m pytest tests/test_data.py -k equation          # a part of it

Tests on the released files read ../shared beside the repository and are skipped where it is
missing.
"""

import json
import math
import random
import re
import shutil
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from data import Example
from t5 import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
released = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the released files")


@pytest.mark.parametrize("name, text, label", [  # None: neither rationale nor label
    ("svamp", " It is. The answer is (6 / 2).\n\nQ: 9? The answer is (1).", "(6 / 2)"),
    ("svamp", "It is. The answer is ((1 + 2) * 3) = 9.", "((1 + 2) * 3)"),
    ("svamp", "It is. The answer is (1) or (2).", "(1) or (2)"),  # from the first ( to the last )
    ("svamp", "It is. The answer is (2 * x).", "(2 * x)"),
    ("svamp", "It is. The answer is (175, 5).", "(175, 5)"),
    ("svamp", "It is. The answer is ((415 - 309).", "((415 - 309)"),
    ("svamp", "It is. The answer is 5.", ""), ("svamp", "", None),
    ("svamp", "It is. Q: 9? The answer is (1).", None),
    ("svamp", "It is. The answer is (1). The answer is (2).", None),
    ("cqa", "It is. So the answer is (b) a fox.\n\nQ: x? So the answer is (a) y.", "a fox"),
    ("cqa", "It is. So the answer is (b) St. Ives", "St. Ives"),
    ("cqa", "It is. So the answer is (b) red etc..", "red etc."),  # one full stop
    ("cqa", "It is. So the answer is (a) red (b) blue.", "red"),
    ("cqa", "It is. So the answer is blue.", ""), ("cqa", "It is blue.", None),
    ("anli1", "It is. So the answer is neutral.\n\nPremise: So the answer is x.", "neutral"),
    ("anli1", "It is. So the answer is neutral!", "neutral"), ("anli1", "It is.", None),
    ("esnli", "It is.\nAnswer: neutral\n\nPremise: A.\nAnswer: x", "neutral"),
    ("esnli", "It is. ", ""),  # all rationale
])  # fmt: skip
def test_the_teachers_text_splits_into_rationale_and_label(name, text, label):
    assert data.parse_teacher(name, text) == (("", "") if label is None else ("It is.", label))


@released
@pytest.mark.parametrize("name, split, rows, blank, right", [
    # SVAMP, 0.7325. The released code's eval() says 588, 0.7350: Python reads "(1) and (2)" as
    # (2), which makes two more answers right; arithmetic has no "and"
    ("svamp", "train", 800, 11, 586), ("svamp", "test", 200, 2, 148),
    ("cqa", "train", 9_741, 0, 7_234), ("cqa", "test", 1_221, 0, 943),  # 0.7426, 0.7723
    ("anli1", "test", 1_000, 10, 656), ("esnli", "test", 9_824, 0, 7_171),
])  # fmt: skip
def test_a_released_set_loads_whole_and_its_teacher_is_as_good_as_known(
    name, split, rows, blank, right
):
    examples = data.load(name, split, SHARED / "dss")
    assert (len(examples), sum(e.rationale == "" for e in examples)) == (rows, blank)
    by_value = data.by_value(name)
    assert sum(data.is_correct(e.llm_label, e.label, by_value) for e in examples) == right


@released
def test_python_itself_would_call_588_svamp_answers_right_the_papers_0_7350():
    def python(text):  # only signs, digits and "and" get as far as Python
        if re.fullmatch(r"(?:[-+*/(). 0-9]|and)+", text) and text.count("(") == text.count(")"):
            return eval(text, {"__builtins__": {}})

    examples = data.load("svamp", "train", SHARED / "dss")
    right = [python(e.llm_label) == python(e.label) for e in examples]
    ours = [data.is_correct(e.llm_label, e.label, by_value=True) for e in examples]
    assert sum(right) == 588 and round(588 / 800, 4) == 0.7350
    assert [e.llm_label for e, a, b in zip(examples, right, ours) if a != b] == [
        "((29/2) and (30/2))", "(34 + 40) and (62 - 17)"]  # fmt: skip


# ---- files, good and bad ----

NLI = {"premise": "A.", "hypothesis": "B.", "label": 1}
GOOD = {  # a line of each set
    "esnli": NLI,
    "anli1": NLI | {"label": 2},
    "cqa": {"question": "Who?", "choices": ["I", "you", "he", "we", ""], "answer": "he"},
    "svamp": {"input": "One.\nTwo?", "label": "( 1.0 + 1.0 )"},
    "mine": {"input": "One?", "label": "red", "rationale": "so"},
}


def write_set(root, name, rows=3):
    """A training split below root, its teacher's texts in files of two, or without: one's own."""
    path = root / name / ("train.jsonl" if name == "mine" else f"{name}_train.json")
    (root / name / "llm").mkdir(parents=True)
    path.write_text("\n".join([json.dumps(GOOD[name])] * rows))
    for i in range(0 if name == "mine" else rows // 2 + 1):
        texts = json.dumps(["It never answers."] * min(2, rows - 2 * i))
        (root / name / "llm" / f"train_CoT_{i}.json").write_text(texts)
    return path


def load(root, name):
    return data.load(root / name if name == "mine" else name, "train", root)


def refusal(root, name):
    """The one line with which the set is refused."""
    with pytest.raises((InputError, FileNotFoundError)) as error:
        load(root, name)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500 and re.search("expected|there", message)
    return message


@pytest.mark.parametrize("name, text, label", [
    ("esnli", "A.</s>B.", "neutral"), ("anli1", "A.</s>B.", "contradiction"),
    ("cqa", "Who?\nAnswer Choices:\n(a) I\n(b) you\n(c) he\n(d) we\n(e) ", "he"),
    ("svamp", "One.\nTwo?", "( 1.0 + 1.0 )"), ("mine", "One?", "red"),
])  # fmt: skip
def test_a_line_becomes_exactly_this_input_and_label(tmp_path, name, text, label):
    write_set(tmp_path, name, 1)
    assert [(e.input, e.label) for e in load(tmp_path, name)] == [(text, label)]


DEEP, FIELDS = "[" * 100_000, [(name, field) for name in GOOD for field in GOOD[name]]
BAD_LINES = [  # the second of three: the text or the object, and words that the message must hold
    ("svamp", '{"input": "a", "lab', "JSON"), ("mine", "input: a", "JSON"), ("svamp", DEEP, "JSON"),
    ("svamp", b'{"input": "caf\xe9", "label": "( 1 )"}', "UTF-8"),
    ("svamp", '["One?", "( 1 )"]', "object"), ("cqa", "null", "object"), ("esnli", "7", "object"),
    ("mine", '"input label rationale"', "object"),
    ("svamp", r'{"input": "\ud83d", "label": "( 1 )"}', "input"),  # half a character
    *[(n, {k: v for k, v in GOOD[n].items() if k != field}, field) for n, field in FIELDS],
    *[(n, GOOD[n] | {field: x}, field) for n, field in FIELDS for x in (None, 7)],
    *[("esnli", NLI | {"label": x}, "label 0 1 2") for x in (3, -1, True, 1.5, "x", "1", [1])],
    *[("cqa", GOOD["cqa"] | {"choices": x}, "choices")
      for x in ([*"vwxy"], [*"uvwxyz"], "vwxyz", [1, 2, 3, 4, 5], dict.fromkeys("vwxyz"))],
    ("mine", GOOD["mine"] | {"llm_label": None}, "llm_label"),
    *[("mine", GOOD["mine"] | {field: x}, f"text '{field}' {x}: quote it")
      for field, x in (("label", 3), ("label", -0.5), ("rationale", 7), ("llm_label", 0))],
]  # fmt: skip
BAD_FILES = [  # a file of a good set, its content or None: not there; patterns of the message
    ("svamp", "svamp_train.json", "", "JSON none|empty"),
    ("mine", "train.jsonl", " \n\t\r\n", "JSON none|empty"),
    ("mine", "train.jsonl", None, "train.jsonl"),
    ("cqa", "llm/train_CoT_0.json", None, "0 3"),  # one in the middle: the next is not read
    ("cqa", "llm/train_CoT_1.json", None, "2 3"), ("esnli", "llm/train_CoT_1.json", "[]", "2 3"),
    ("anli1", "llm/train_CoT_1.json", '["a", "b"]', "4 3"),
    ("cqa", "llm/train_CoT_1.json", b'["caf\xe9"]', "CoT_1 UTF-8"),
    ("cqa", "llm/train_CoT_1.json", r'["\ud83d"]', "CoT_1"),
    *[("cqa", "llm/train_CoT_1.json", content, "CoT_1 JSON|array.of.texts")
      for content in ("", '["a', '{"0": "a"}', '"a"', "[7]", "[null]", '[["a"]]', DEEP)],
]  # fmt: skip


@pytest.mark.parametrize("name, line, words", BAD_LINES, ids=lambda value: str(value)[:50])
def test_a_bad_line_is_refused_in_words_that_name_it(tmp_path, name, line, words):
    path = write_set(tmp_path, name)
    line = json.dumps(line) if isinstance(line, dict) else line
    good = path.read_bytes().split(b"\n")[0]
    path.write_bytes(b"\n".join([good, line if isinstance(line, bytes) else line.encode(), good]))
    place, _, why = refusal(tmp_path, name).partition(", line 2: ")
    assert place == str(path) and all(word in why for word in words.split()), (place, why)


@pytest.mark.parametrize("name, file, content, words", BAD_FILES, ids=lambda value: str(value)[:50])
def test_a_bad_file_is_refused_in_words_that_name_it(tmp_path, name, file, content, words):
    write_set(tmp_path, name)
    assert len(load(tmp_path, name)) == 3
    (path := tmp_path / name / file).unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    place, why = refusal(tmp_path, name).split(str(path.parent))  # which it names once
    assert place == "" and all(re.search(word, why) for word in words.split()), why


@pytest.mark.parametrize("name", ["svamp", "mine"])
@pytest.mark.parametrize("old, new", [
    ("\n", "\r\n"), ("^", "\ufeff"), ("$", "\n\n"), ("\n", "\n\n")])  # fmt: skip
def test_files_as_other_programs_write_them_load_the_same(tmp_path, name, old, new):
    path = write_set(tmp_path, name)
    expected = load(tmp_path, name)
    for file in [path, *path.parent.glob("llm/*")]:
        file.write_bytes(re.sub(old, new, file.read_text()).encode())
    assert load(tmp_path, name) == expected and len(expected) == 3


def test_a_line_may_hold_ten_megabytes_and_any_character(tmp_path):
    text = "a\u2028b\u2029c\x85d\u00e9 \U0001f600" + "x" * 10_000_000
    line = json.dumps(GOOD["mine"] | {"input": text}, ensure_ascii=False)
    write_set(tmp_path, "mine").write_text(line, encoding="utf-8")
    assert load(tmp_path, "mine") == [Example(text, "red", "so", "")]


def test_a_users_folder_may_hold_the_teachers_labels_and_a_validation_set(tmp_path):
    lines = [GOOD["mine"] | more for more in ({}, {"llm_label": "blue"}, {"llm_label": ""})]
    text, folder = "\n".join(map(json.dumps, lines)), str(tmp_path / "mine")
    write_set(tmp_path, "mine").write_text(text)
    expected = [Example("One?", "red", "so", teacher) for teacher in ("", "blue", "")]
    assert data.load(folder, "train") == data.load(Path(folder), "train") == expected
    assert [len(part) for part in data.train_and_valid(folder)] == [2, 1]  # a tenth of train
    Path(folder, "valid.jsonl").write_text(text + "\n" + text)
    assert data.train_and_valid(folder, seed=5) == (expected, expected * 2)
    with pytest.raises(FileNotFoundError, match="mone.*esnli, anli1, cqa, svamp, toy.*folder"):
        data.load("mone", "train", tmp_path)


@pytest.mark.parametrize("name", ["valid", "validation", "dev", "val"])
def test_a_users_validation_file_is_used_by_each_of_its_usual_names(tmp_path, name):
    path = write_set(tmp_path, "mine", 4)
    path.with_name(f"{name}.jsonl").write_text(json.dumps(GOOD["mine"] | {"label": "blue"}))
    train, valid = data.train_and_valid(str(tmp_path / "mine"))
    assert ([e.label for e in train], [e.label for e in valid]) == (["red"] * 4, ["blue"])
    assert data.load(tmp_path / "mine", "valid") == valid


@pytest.mark.parametrize("one, other", [
    ("valid", "dev"), ("validation", "val"), ("dev", "val"), ("valid", "validation")])  # fmt: skip
def test_two_validation_files_are_refused_by_their_names(tmp_path, one, other):
    path = write_set(tmp_path, "mine")
    for name in (one, other):
        shutil.copy(path, path.with_name(f"{name}.jsonl"))
    with pytest.raises(InputError, match=f"mine: [^\n]*{one}.jsonl and {other}.jsonl"):
        data.train_and_valid(tmp_path / "mine")


EXAMPLE_FIELDS = ("input", "label", "rationale", "llm_label")


def test_the_digest_of_examples_changes_with_each_field_and_with_the_order():
    examples = [Example("a", "b", "c", "d"), Example("e", "f", "g", "h")]
    others = [
        *([Example(**vars(examples[0]) | {field: "x"}), examples[1]] for field in EXAMPLE_FIELDS),
        examples[::-1], examples[:1], examples * 2, [],
        [Example("a", "b", "c", "d,"), Example("e", "f", "g", "h")],
    ]  # fmt: skip
    digests = {data.digest(rows) for rows in [examples, list(examples), *others]}
    assert len(digests) == 1 + len(others)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_two_folders_of_one_name_have_different_titles_and_known_names_stay(tmp_path, monkeypatch):
    for owner in "ab":
        (tmp_path / owner / "mine").mkdir(parents=True)
    titles = [data.title(tmp_path / owner / "mine") for owner in "ab"]
    assert titles[0] != titles[1] and all(re.fullmatch("mine.[0-9a-f]{6}", t) for t in titles)
    monkeypatch.chdir(tmp_path / "a")
    for same in ("mine", "./mine", "mine/", "../a/mine", Path("mine"), tmp_path / "b/../a/mine"):
        assert data.title(same) == titles[0]
    (tmp_path / "link").symlink_to(tmp_path / "a" / "mine")
    assert data.title("../link") == f"link.{titles[0][-6:]}"
    assert [data.title(name) for name in ("svamp", "toy")] == ["svamp", "toy"]
    assert data.title("google/flan-t5-small") == "google--flan-t5-small"
    (tmp_path / "a" / "google" / "flan-t5-small").mkdir(parents=True)  # now a folder of this name
    assert re.fullmatch("flan-t5-small.[0-9a-f]{6}", data.title("google/flan-t5-small"))


def test_released_sets_and_the_toy_are_no_folders_and_two_have_values():
    assert [name for name in data.MARKERS if data.by_value(name)] == ["svamp", "toy"]
    assert not data.by_value("my/svamp") and not any(map(data.is_folder, data.MARKERS))
    assert all(map(data.is_folder, ("my/svamp", "./toy", Path("mine"))))


@pytest.mark.parametrize("n, cut", [(800, 80), (9_741, 975), (11, 2)])  # SVAMP, CQA
def test_the_same_tenth_of_a_set_validates_whatever_the_runs_seed(tmp_path, n, cut):
    order = np.random.default_rng(0).permutation(n).tolist()
    assert data.split_validation(list(range(n))) == (order[cut:], order[:cut])
    lines = [json.dumps(GOOD["mine"] | {"input": str(i)}) for i in range(n)]
    write_set(tmp_path, "mine").write_text("\n".join(lines))
    for seed in (0, 5):
        train, valid = data.train_and_valid(str(tmp_path / "mine"), seed=seed)
        assert [int(e.input) for e in train + valid] == order[cut:] + order[:cut]


def test_a_share_is_what_a_seeded_order_leaves_after_the_dropped(tmp_path):
    order = np.random.default_rng(3).permutation(801).tolist()
    assert data.subsample(list(range(801)), 0.25, 3) == order[601:]  # ceil(600.75) dropped
    for share in (0, -0.5, 1.5, math.nan):
        with pytest.raises(InputError, match="share"):
            data.subsample([1, 2], share, 0)
    write_set(tmp_path, "mine", 1)  # too few to split
    with pytest.raises(InputError, match="mine"):
        data.train_and_valid(str(tmp_path / "mine"))


# ---- answers ----


@pytest.mark.parametrize("text, value", [
    ("( 84.0 / 2.0 )", 42), ("7", 7), (" 7\n", 7), ("3.", 3), (".5", 0.5), ("007", 7), ("((1))", 1),
    ("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("8 / 4 / 2", 1), ("8 - 4 - 2", 2), ("8/(6-2)", 2),
    ("2 - -3", 5), ("--5", 5), ("-(2 + 3) * 2", -10), ("-2 * -3", 6), ("1 / 3", 1 / 3),
    ("(" * 32 + "1" + ")" * 32, 1), ("1 +" * 85 + "1", 86),
    *[(text, None) for text in (
        "", " ", "()", "x", "(2 * x)", "(175, 5)", "((415 - 309)", "1)", "1 +", "* 2", "1 2", ".",
        "1.2.3", "1 / 0", "1 / (2 - 2)", "0 / 0", "1e5", "inf", "nan", "0x10", "1_000", "1,000",
        "2 ** 3", "7 // 2", "7 % 2", "2(3)", "(1)(2)", "+ 5", "(1 + 1) and (2 + 3)", "$5", "\uff15",
        "\u0663", "7 = 7", "1 if 1 else 1", "[1][0]", "9" * 257, "(" * 33 + "1" + ")" * 33)],
])  # fmt: skip
def test_an_equation_has_this_value_or_none(text, value):
    assert data.evaluate_equation(text) == (None if value is None else pytest.approx(value, 1e-12))


NUMBERS = st.sampled_from("0 1 2 3.0 4.25 7. .5 10".split())
DIVISORS = NUMBERS | st.builds("( {} + {} )".format, NUMBERS, NUMBERS) | NUMBERS.map("-{}".format)
EXPRESSIONS = st.recursive(NUMBERS, lambda inner: (
    st.builds("{} {} {}".format, inner, st.sampled_from("+-*"), inner)
    | st.builds("{}/{}".format, inner, DIVISORS)
    | inner.map("-{}".format) | inner.map("({})".format)), max_leaves=8)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS)
def test_an_equation_has_the_value_that_exact_fractions_give_it(text):
    try:  # Python's own grammar as the oracle: the text is ours, of numbers and + - * / ( ) alone
        exact = eval(re.sub(r"[0-9.]+", r"Fraction('\g<0>')", text), {"Fraction": Fraction})
        assert math.isclose(data.evaluate_equation(text), exact, rel_tol=1e-9, abs_tol=1e-6)
    except ZeroDivisionError:
        assert data.evaluate_equation(text) is None


TEN_MS = 0.010


def seconds(text):  # of this thread's own work; the best of three, for the machine is shared
    times = []
    while len(times) < 3 and min(times, default=1) > TEN_MS:
        began = time.thread_time()
        data.evaluate_equation(text)
        times.append(time.thread_time() - began)
    return min(times)


@pytest.mark.parametrize("text", [
    "__import__('os').getcwd()", "9**9**9", "(" * 10_000 + ")" * 10_000, "(" * 128 + ")" * 128,
    "-" * 200 + "1", "-" * 10_000 + "1", "1+" * 500_000 + "1", "9" * 1_000_000, "\0",
], ids=lambda text: repr(text[:20]))  # fmt: skip
def test_a_hostile_equation_has_no_value_and_costs_nothing(text):
    assert seconds(text) < TEN_MS and data.evaluate_equation(text) is None


def test_no_random_text_makes_the_equation_reader_raise_or_take_ten_milliseconds():
    rng, values = random.Random(0), 0
    for i in range(20_000):
        alphabet = "0123456789.+-*/() " if i % 2 else map(chr, rng.choices(range(0x110000), k=9))
        text = "".join(rng.choices([*alphabet], k=rng.randrange(1, 8 if i % 3 else 300)))
        assert seconds(text) < TEN_MS
        value = data.evaluate_equation(text)
        assert value is None or math.isfinite(value)
        values += value is not None
    assert 200 < values < 10_000


def test_an_answer_is_judged_by_value_or_else_by_its_text():
    for answer, label in (("(84 / 2)", "( 42.0 )"), ("1 / 3 * 3", "1"), (".1 + .2", ".3")):
        assert data.is_correct(answer, label, by_value=True)
        assert not data.is_correct(answer, label, by_value=False)
    assert not data.is_correct("(84 / 2)", "( 42.001 )", by_value=True)
    for text in ("", "x", "1 / 0", "7 apples"):  # two that have no value are not equal
        assert not data.is_correct(text, text, by_value=True)
        assert data.is_correct(text, text, by_value=False)


# ---- ids and batches ----


def released_texts():
    texts = ["a</s>b", "a </s> b", "</s>", "", " a  b ", "tab\there", "<pos>", "\ufb01ne", "\u6b63"]
    for name in ("svamp", "cqa", "anli1", "esnli"):
        for split in ("test", "train") if name in ("svamp", "cqa") else ("test",):
            for example in data.load(name, split, SHARED / "dss"):
                texts += [f"predict: {example.input}", example.label]
                if name in ("svamp", "cqa"):
                    texts += [f"explain: {example.input}", example.rationale, example.llm_label]
    return list(dict.fromkeys(texts))


@released
def test_ids_are_those_of_transformers_on_every_released_text_and_of_a_saved_vocabulary(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours, texts = data.Tokenizer(SHARED / "t5" / "spiece.model"), released_texts()
    ours.save(tmp_path)
    assert files_of(tmp_path) == ["spiece.model", "tokenizer_config.json"]
    published = transformers.T5Tokenizer.from_pretrained(SHARED / "t5")  # converts spiece.model
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(ours) == len(published) == len(saved) == 32_100
    assert ours.encode("a</s>b") == [3, 9, 1, 3, 115, 1]  # legacy: b has a space mark of its own
    ids = [ours.encode(text) for text in texts]
    theirs = published(texts).input_ids
    assert [text for text, a, b in zip(texts, ids, theirs, strict=True) if a != b] == []
    some = slice(None, None, 20)
    assert saved(texts[some]).input_ids == ids[some]
    assert (saved.pad_token_id, saved.eos_token_id, saved.unk_token_id) == (0, 1, 2)
    assert data.Tokenizer(tmp_path / "spiece.model").encode(texts[-1]) == ids[-1]


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def toy_set(tmp_path_factory):  # its folder, training examples and tokenizer
    root = tmp_path_factory.mktemp("datasets")
    examples = data.load("toy", "train", root)
    return root / "toy", examples, data.Tokenizer(root / "toy" / "spiece.model")


def test_a_cut_text_keeps_its_end_mark_and_decoding_drops_what_is_no_piece(toy_set, tmp_path):
    tokenizer = toy_set[2]
    ids = tokenizer.encode("Anna has 57 apples.</s>Ben has 9.")
    assert ids.count(1) == 2 and ids[-1] == 1
    for length in range(1, len(ids) + 3):
        assert tokenizer.encode("Anna has 57 apples.</s>Ben has 9.", length) == (
            ids if length > len(ids) else ids[: length - 1] + [1])  # fmt: skip
    noisy = [0, *ids, 0, 1, len(tokenizer) - 1, len(tokenizer) - data.SENTINELS]
    assert tokenizer.decode(noisy) == "Anna has 57 apples. Ben has 9."
    for content in (b"", b"\n\x05hello", b"{}"):
        (tmp_path / "spiece.model").write_bytes(content)
        with pytest.raises(InputError, match="spiece.model.*vocabulary"):
            data.Tokenizer(tmp_path / "spiece.model")


def test_each_method_reads_and_writes_its_own_texts(toy_set):
    def texts(method, labels="gold"):
        example = Example("5 apples", "( 5 )", "5 coins.", "( 6 )")
        ((sources, targets),) = data.encode([example], toy_set[2], method, labels)
        decode = toy_set[2].decode
        return [decode(ids) for ids in sources], [decode(ids) for ids in targets]

    two = ["predict: 5 apples", "explain: 5 apples"]
    assert texts("finetune") == (["5 apples"], ["( 5 )"])
    assert texts("single") == (["5 apples"], ["5 coins. The answer is ( 5 )"])
    assert texts("dss") == texts("mi") == (two, ["( 5 )", "5 coins."])
    assert texts("mi", "llm") == (two, ["( 6 )", "5 coins."])


def test_long_texts_are_cut_at_1024_and_256_ids_and_a_single_target_keeps_its_label(toy_set):
    long = " ".join(["57"] * 2_000)
    for method in ("finetune", "mi"):
        ((sources, targets),) = data.encode([Example(long, long, long, "")], toy_set[2], method)
        assert {len(ids) for ids in sources} == {1_024} and {len(ids) for ids in targets} == {256}
        assert all(ids[-1] == 1 and 1 not in ids[:-1] for ids in sources + targets)
    ((_, (target,)),) = data.encode([Example("5", "( 9 )", long, "")], toy_set[2], "single")
    assert len(target) == 256 and toy_set[2].decode(target).endswith("57 57 The answer is ( 9 )")


ROWS = [  # of `encode`, of two tasks
    ([[5, 1], [6, 1]], [[7, 1], [8, 9, 1]]),
    ([[5, 5, 1], [6, 6, 1]], [[7, 7, 1], [8, 1]]),
    ([[5, 1], [6, 1]], [[7, 1], [8, 9, 9, 1]]),
]


def test_a_batch_stacks_its_tasks_sorted_by_length_and_padded_with_zeros():
    [(sources, (labels, rationales))], totals = data.collate(ROWS[:2], "cpu")
    assert sources.tolist() == [[5, 5, 1], [5, 1, 0], [6, 6, 1], [6, 1, 0]]
    assert labels.tolist() == [[7, 7, 1], [7, 1, 0]]
    assert rationales.tolist() == [[8, 1, 0], [8, 9, 1]]
    assert totals == dict(label_tokens=5, rationale_tokens=5, examples=2)


def test_micro_batches_and_processes_share_a_batch_and_each_pads_to_its_own_longest():
    (first, second), totals = data.collate(ROWS, "cpu", micro_batch=2)
    assert [[t.tolist() for t in targets] for _, targets in (first, second)] == [
        [[[7, 7, 1], [7, 1, 0]], [[8, 1, 0], [8, 9, 1]]], [[[7, 1]], [[8, 9, 9, 1]]]]  # fmt: skip
    assert second[0].tolist() == [[5, 1], [6, 1]]
    assert totals == dict(label_tokens=7, rationale_tokens=9, examples=3)
    [(sources, targets)], totals = data.collate(ROWS, "cpu", rank=1, world=2, trim=False)
    assert sources.tolist() == [[5, 1], [6, 1]]
    assert totals == dict(label_tokens=7, rationale_tokens=9, examples=3)  # the whole batch's
    assert [t.tolist() for t in targets] == [[[7, 1, 0]], [[8, 9, 1, 0]]]  # and its widths


@pytest.mark.parametrize("n, size", [(10, 4), (12, 4), (7, 1), (3, 25)])
def test_batches_run_through_one_seeded_order_after_another(n, size):
    def take(count, seed, start=0):
        return [batch.tolist() for batch in islice(data.batches(n, size, seed, start), count)]

    first = take(6 * n, 0)
    assert {len(batch) for batch in first} == {size}
    orders = [np.random.default_rng([0, epoch]).permutation(n) for epoch in range(6 * size)]
    assert sum(first, []) == np.concatenate(orders).tolist()
    assert take(6 * n, 0) == first != take(6 * n, 1)
    for start in (1, 2, n):
        assert take(n, 0, start) == first[start : start + n]


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("method", ["finetune", "mi"])
def test_a_batchs_rows_come_by_target_length_then_source_length_then_order(toy_set, method, trim):
    ids = data.encode(toy_set[1][:500], toy_set[2], method)
    for batch in islice(data.batches(len(ids), 64, seed=3), 20):
        rows = [ids[i] for i in batch]
        rows.sort(key=lambda row: max(map(len, row[0])))  # two stable sorts, the last one first
        rows.sort(key=lambda row: len(row[1][-1]))
        [(sources, targets)], _ = data.collate([ids[i] for i in batch], "cpu", trim=trim)
        expected = [row[0][task] for task in range(len(targets)) for row in rows]
        assert [unpadded(row) for row in sources] == expected
        for task, target in enumerate(targets):
            assert [unpadded(row) for row in target] == [row[1][task] for row in rows]


def unpadded(row):
    return [i for i in row.tolist() if i != 0]


# ---- labels, limits and vocabularies ----


@pytest.fixture(params=["toy", pytest.param("t5", marks=released)])
def tokenizer(request, toy_set):
    return toy_set[2] if request.param == "toy" else data.Tokenizer(SHARED / "t5" / "spiece.model")


def examples_of(labels, llm_labels=None):
    pairs = zip(labels, llm_labels or [""] * len(labels), strict=True)
    return [Example("One?", label, "so", llm) for label, llm in pairs]


@pytest.mark.parametrize("label", [
    "<pos>", "<neg>", '{"s": "pos"}', '{"s": "neg"}', r"\frac{3}{4}", "pos~", "~", "<", "{}",
    "troms\u00f8", " spaces  within ", "two\nlines", "tab\there", "\ufb01ne", "\u00bd", "x\u00b2",
    "\u6b63\u9762", "\U0001f600 good", "na\u00efve", "[x] ^ `y`", "e\u0301\u0301", "\uff21", "",
])  # fmt: skip
def test_a_student_that_writes_a_labels_exact_ids_is_right(tokenizer, label):
    ids, gold = tokenizer.encode(label), tokenizer.normalise(label)
    assert data.is_correct(tokenizer.decode([0, *ids, 0, 0]), gold, by_value=False)
    assert gold == gold.strip()
    data.check_labels(examples_of([label, label]), tokenizer)
    # and where the label stands at the end of the single sequence
    ((_, (target,)),) = data.encode(examples_of([label]), tokenizer, "single")
    assert tokenizer.decode(target).rpartition(tokenizer.normalise(data.JOINER))[2].strip() == gold


@pytest.mark.parametrize("one, other", [
    ("<pos>", "<neg>"), ('{"s": "pos"}', '{"s": "neg"}'), ("pos~", "neg~"), ("yes", "no"),
    (r"\frac{3}{4}", r"\frac{1}{4}"), ("troms\u00f8", "oslo"), ("a b", "ab"), ("1", "1.0"),
    ("", "no"), ("<", "<pos>"), ("a <", "a<"), ("\u6b63 a", "\u8d1f b"),
])  # fmt: skip
def test_labels_that_differ_in_their_ids_are_accepted(tokenizer, one, other):
    data.check_labels(examples_of([one, other]), tokenizer)
    data.check_labels(examples_of([one, other], [other, one]), tokenizer, "llm")
    assert tokenizer.normalise(one) != tokenizer.normalise(other)


@pytest.mark.parametrize("one, other", [
    ("\u6b63\u9762", "\u8d1f\u9762"), ("a < b", "a { b"), ("5 ~", "5 ^"), ("<pos", "{pos"),
    ("\U0001f600", "\U0001f622"), ("troms\u00f8", "troms{"), ("\u6b63", "\u6b63\u9762"),
    ("yes", "yes "), ("yes", "\n yes"), ("so many", "so  many"), ("a b", "a\tb"),
    ("\ufb01ne", "fine"), ("5\u00b2", "52"), ("\uff11", "1"),
])  # fmt: skip
def test_labels_that_have_the_same_ids_are_refused_by_name(tokenizer, one, other):
    assert tokenizer.encode(one) == tokenizer.encode(other)
    with pytest.raises(InputError) as error:
        data.check_labels(examples_of([other, "9", one, one]), tokenizer)
    message = str(error.value)
    assert repr(one) in message and repr(other) in message and "\n" not in message
    assert "rename one" in message and "more" not in message


def test_the_refusal_of_labels_covers_what_is_cut_or_ends_early(tokenizer):
    long = "57 " * 300
    with pytest.raises(InputError, match="57 57.*rename one"):
        data.check_labels(examples_of([f"{long} 1", f"{long} 2"]), tokenizer)
    with pytest.raises(InputError, match="'a</s>b' can't be written"):
        data.check_labels(examples_of(["a", "a</s>b"]), tokenizer)


@pytest.mark.parametrize("gold, llm, good", [
    (["a < b", "c"], ["c", "a { b"], False),  # an answer like the teacher's would count as right
    (["a < b", "c"], ["c", "a < b"], True), (["red", "blue"], ["red ", "\uff42lue"], True),
    (["red", "blue"], ["<", "{"], False), (["red", "blue"], ["", "red\n"], True),
])  # fmt: skip
def test_a_teachers_label_may_not_pass_for_another_label(tokenizer, gold, llm, good):
    data.check_labels(examples_of(gold, llm), tokenizer)  # where it is not trained on
    if good:
        data.check_labels(examples_of(gold, llm), tokenizer, "llm")
    else:
        with pytest.raises(InputError, match="have the same ids"):
            data.check_labels(examples_of(gold, llm), tokenizer, "llm")


def test_the_limit_of_answers_follows_the_longest_label_from_64_to_256(toy_set):
    for numbers, limit in ((1, 64), (63, 64), (64, 65), (100, 101), (255, 256), (400, 256)):
        labels = ["1", " ".join(["57"] * numbers)]
        assert data.label_limit(examples_of(labels), toy_set[2]) == limit


def numbers(n):  # n ids of the toy vocabulary, without the </s>
    return " ".join(["57"] * n)


# as long as each may be: with its prefix of two ids and its </s> the input has 1,024
WHOLE = Example(numbers(1_021), numbers(255), numbers(255), numbers(255))


@pytest.mark.parametrize("method, labels, changes, expected", [
    ("mi", "gold", [{}], []),
    ("mi", "gold", [{"input": numbers(1_022)}, {}], ["1 of 2 inputs long"]),
    ("finetune", "gold", [{"input": numbers(1_023)}], []),  # it has no prefix
    ("finetune", "gold", [{"input": numbers(1_024)}], ["1 of 1 inputs long"]),
    ("dss", "gold", [{"rationale": numbers(256)}, {}, {"label": numbers(300)}],
     ["1 of 3 rationales long", "1 of 3 labels long"]),
    ("finetune", "gold", [{"rationale": numbers(256)}, {"rationale": "{"}, {"rationale": ""}], []),
    ("mi", "gold", [{"rationale": ""}, {"rationale": " \n"}], ["2 of 2 rationales blank"]),
    ("mi", "gold", [{"llm_label": ""}, {"llm_label": "{"}], []),
    ("mi", "llm", [{"llm_label": ""}, {"llm_label": "{"}, {"label": ""}],
     ["1 of 3 labels blank", "1 of 3 labels unknown"]),
    ("mi", "gold", [{"input": "<"}, {"input": "5~"}, {"rationale": "\u6b63"}, {"label": "{5}"}],
     ["2 of 4 inputs unknown", "1 of 4 rationales unknown", "1 of 4 labels unknown"]),
    ("single", "gold", [{"label": "5", "rationale": numbers(n)} for n in (200, 251, 252, 253)],
     ["2 of 4 rationales long"]),  # beside "The answer is 5" and the </s>
    ("mi", "gold", [{"input": "5</s>7"}, {"rationale": "5</s>7"}, {"label": "</s>"}],
     ["1 of 3 rationales end", "1 of 3 labels end"]),
    ("dss", "gold", [{"input": ""}, {"input": "\u200b"}, {"input": "5"}], ["2 of 3 inputs blank"]),
    ("mi", "gold", [{"rationale": "x{" * 300}],
     ["1 of 1 rationales unknown", "1 of 1 rationales long"]),
])  # fmt: skip
def test_what_is_cut_unknown_or_blank_is_counted_in_one_line_a_kind(
    toy_set, method, labels, changes, expected
):
    examples = [Example(**vars(WHOLE) | change) for change in changes]
    words = {"blank": "blank", "characters": "unknown", "lose their ends": "long", "</s>": "end"}
    lines = data.losses(examples, toy_set[2], method, labels)
    kinds = [next(short for word, short in words.items() if word in line) for line in lines]
    starts = [re.match(r"\d+ of \d+ \w+", line)[0] for line in lines]
    assert [f"{start} {kind}" for start, kind in zip(starts, kinds)] == expected
    assert not any("\n" in line for line in lines)


def test_what_is_counted_as_cut_is_what_encoding_cuts(toy_set):
    rng = random.Random(0)
    for method in ("finetune", "single", "dss"):
        lengths = [(rng.randrange(1_015, 1_030), rng.randrange(240, 260)) for _ in range(60)]
        examples = [Example(numbers(a), "5", numbers(b), "") for a, b in lengths]
        encoded = data.encode(examples, toy_set[2], method)
        inputs = sum(toy_set[2].decode(sources[0]).count("57") < a
                     for (sources, _), (a, _) in zip(encoded, lengths))  # fmt: skip
        rationales = sum(toy_set[2].decode(targets[-1]).count("57") < b
                         for (_, targets), (_, b) in zip(encoded, lengths))  # fmt: skip
        expected = [f"{inputs} of 60 inputs"]
        expected += [f"{rationales} of 60 rationales"] if method != "finetune" else []
        lines = data.losses(examples, toy_set[2], method)
        assert [re.match(r"\d+ of 60 \w+", line)[0] for line in lines] == expected
        assert 0 < inputs < 60


COUNTS = {  # what tests/MEASUREMENTS.md says of the released sets, with gold labels
    ("svamp", "train"): ["11 of 800 rationales are blank"],
    ("svamp", "test"): ["2 of 200 rationales are blank"],
    ("cqa", "train"): [f"1 of 9,741 {kind} have characters that the vocabulary lacks"
                       for kind in ("inputs", "rationales", "labels")],
    ("cqa", "test"): [],
    ("anli1", "test"): ["102 of 1,000 inputs have characters that the vocabulary lacks",
                        "10 of 1,000 rationales are blank",
                        "18 of 1,000 rationales have characters that the vocabulary lacks"],
    ("esnli", "test"): ["1 of 9,824 inputs have characters that the vocabulary lacks"],
}  # fmt: skip


@released
def test_released_sets_lose_what_is_known_and_none_of_their_labels_is_refused():
    tokenizer = data.Tokenizer(SHARED / "t5" / "spiece.model")
    found, sets = {}, {}
    for name, split in COUNTS:
        examples = data.load(name, split, SHARED / "dss")
        found[name, split] = data.losses(examples, tokenizer, "mi")
        sets[name] = sets.get(name, []) + examples
    assert found == COUNTS
    for name, examples in sets.items():
        data.check_labels(examples, tokenizer, "llm")
        assert data.label_limit(examples, tokenizer) == 64, name
    (blank,) = data.losses(data.load("svamp", "train", SHARED / "dss"), tokenizer, "mi", "llm")[1:]
    assert blank == "13 of 800 labels are blank"


SENTINELS = [f"<extra_id_{i}>" for i in range(100)]
OWN = {token: i for i, token in enumerate([*reversed(SENTINELS), "<pad>", "</s>", "<unk>"])}


def listed(tokens):  # as in tokenizer.json
    return {"added_tokens": [{"id": 32_000 + i, "content": t} for i, t in enumerate(tokens)]}


def decoded(tokens):  # as in tokenizer_config.json
    return {"added_tokens_decoder": {str(32_000 + i): {"content": t} for i, t in enumerate(tokens)}}


@pytest.mark.parametrize("name, content, added", [
    ("added_tokens.json", OWN, None), ("added_tokens.json", {}, None),
    ("added_tokens.json", OWN | {"{": 32_100}, "{"),
    ("added_tokens.json", {"<extra_id_100>": 32_100}, "<extra_id_100>"),
    ("tokenizer_config.json", {"extra_ids": 100}, None),
    ("tokenizer_config.json", decoded(OWN), None),
    ("tokenizer_config.json", decoded([*OWN, "<sep>"]), "<sep>"),
    ("tokenizer_config.json", decoded(["\n"]), r"\\n"),
    ("tokenizer.json", listed(OWN), None), ("tokenizer.json", {"model": {}}, None),
    ("tokenizer.json", listed([*OWN, "[CODE]"]), r"\[CODE\]"),
    ("tokenizer.json", listed(["the"]), "the"),
])  # fmt: skip
@pytest.mark.parametrize("has_pieces", [True, False])
def test_tokens_that_were_added_to_a_vocabulary_are_refused_by_name(
    toy_set, tmp_path, name, content, added, has_pieces
):
    (tmp_path / name).write_text(json.dumps(content))

    def read():
        if has_pieces:
            shutil.copy(toy_set[0] / "spiece.model", tmp_path)
            return data.Tokenizer(tmp_path / "spiece.model")
        return data.find_weights(tmp_path)

    if added is None:
        assert read()
    else:
        words = f"added to the vocabulary[^\n]*'{added}'"
        with pytest.raises(InputError, match=f"^[^\n]*{words}[^\n]*$"):
            read()


def test_a_token_that_is_a_piece_of_the_vocabulary_is_not_taken_for_an_added_one(toy_set, tmp_path):
    shutil.copy(toy_set[0] / "spiece.model", tmp_path)
    piece = toy_set[2].pieces.id_to_piece(50)
    (tmp_path / "tokenizer.json").write_text(json.dumps(listed([*OWN, piece])))
    assert len(data.Tokenizer(tmp_path / "spiece.model")) == len(toy_set[2])


@pytest.mark.parametrize("name, content", [
    ("tokenizer.json", "{"), ("tokenizer.json", "[]"), ("tokenizer.json", '{"added_tokens": [1]}'),
    ("tokenizer.json", '{"added_tokens": 7}'), ("tokenizer_config.json", '"T5"'),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {}}}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": []}'), ("added_tokens.json", "[1]"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {"content": null}}}'),
])  # fmt: skip
def test_a_damaged_file_beside_a_vocabulary_is_refused_by_name(toy_set, tmp_path, name, content):
    shutil.copy(toy_set[0] / "spiece.model", tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"^[^\n]*expected[^\n]*$") as error:
        data.Tokenizer(tmp_path / "spiece.model")
    assert name in str(error.value)


def test_a_folder_with_tokenizer_json_alone_is_told_what_mends_it(toy_set, tmp_path):
    with pytest.raises(FileNotFoundError, match="spiece.model: not there; expected a sentence"):
        data.Tokenizer(tmp_path / "spiece.model")
    (tmp_path / "tokenizer.json").write_text(json.dumps(listed(OWN)))
    assert data.find_weights(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match="^[^\n]*tokenizer.json[^\n]*--tokenizer FILE$"):
        data.Tokenizer(tmp_path / "spiece.model")
    shutil.copy(toy_set[0] / "spiece.model", tmp_path / "mine.model")
    assert data.Tokenizer(tmp_path / "mine.model").encode("57") == toy_set[2].encode("57")


def test_the_toys_saved_vocabulary_gives_transformers_the_same_ids(toy_set, tmp_path):
    transformers = pytest.importorskip("transformers")
    toy_set[2].save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a</s>b", "", " a  b ", "<pos>", "\u6b63 5"]
    for example in toy_set[1][:1_000]:
        texts += [f"predict: {example.input}", f"explain: {example.input}", example.label,
                  example.rationale, f"{data.JOINER} {example.llm_label}"]  # fmt: skip
    assert theirs(texts).input_ids == [toy_set[2].encode(text) for text in texts]
    assert len(theirs) == len(toy_set[2])


# ---- the toy set ----


def test_the_toy_set_is_the_same_bytes_for_the_seed(toy_set, tmp_path):
    data.load("toy", "test", tmp_path)
    files = {path.name: path.read_bytes() for path in toy_set[0].rglob("*.*")}
    assert {"toy_train.json", "toy_test.json", "train_CoT_0.json", "spiece.model"} <= set(files)
    again = {path.name: path.read_bytes() for path in (tmp_path / "toy").rglob("*.*")}
    assert [name for name in files if files[name] != again.get(name)] == []
    data.write_toy(tmp_path, seed=1)
    assert (tmp_path / "toy" / "toy_train.json").read_bytes() != files["toy_train.json"]


def test_the_toys_teacher_is_mostly_right_and_at_times_wrong_or_silent(toy_set):
    right = [data.is_correct(e.llm_label, e.label, by_value=True) for e in toy_set[1]]
    silent = sum(e.rationale == e.llm_label == "" for e in toy_set[1])
    assert 0.85 < np.mean(right) < 0.99 and 0 < silent < right.count(False)
    assert all(data.evaluate_equation(e.label) is not None for e in toy_set[1])


def test_the_toys_tokenizer_says_each_of_its_texts_and_each_number_in_one_piece(toy_set):
    folder, train, tokenizer = toy_set
    assert [n for n in range(2, 100) if len(tokenizer.encode(f"{n} {n}")) != 3] == []
    for example in train + data.load("toy", "test", folder.parent):
        for text in (f"predict: {example.input}", f"explain: {example.input}", example.rationale,
                     example.label, f"{data.JOINER} {example.llm_label}".strip()):  # fmt: skip
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text.replace("\n", " ") and 2 not in ids
            assert max(ids) < len(tokenizer) - data.SENTINELS
