"""data.py: parsing, splitting, tokenising, batching, judging answers, and refusing bad files.

    python -m pytest tests/test_data.py
    python -m pytest tests/test_data.py -k equation          # a part of it

Tests on the released files read ../shared beside the repository, and skip where it is missing.
"""

import json
import math
import random
import re
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
    assert sum(data.is_correct(name, e.llm_label, e.label) for e in examples) == right


@released
def test_python_itself_would_call_588_svamp_answers_right_the_papers_0_7350():
    def python(text):  # only signs, digits and "and" get as far as Python
        if re.fullmatch(r"(?:[-+*/(). 0-9]|and)+", text) and text.count("(") == text.count(")"):
            return eval(text, {"__builtins__": {}})

    examples = data.load("svamp", "train", SHARED / "dss")
    right = [python(e.llm_label) == python(e.label) for e in examples]
    ours = [data.is_correct("svamp", e.llm_label, e.label) for e in examples]
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
    ("svamp", '{"input": "a", "input": "b", "label": "( 1 )"}', "input"),  # which one?
    ("svamp", r'{"input": "\ud83d", "label": "( 1 )"}', "input"),  # half a character
    *[(n, {k: v for k, v in GOOD[n].items() if k != field}, field) for n, field in FIELDS],
    *[(n, GOOD[n] | {field: x}, field) for n, field in FIELDS for x in (None, 7)],
    *[("esnli", NLI | {"label": x}, "label 0 1 2") for x in (3, -1, True, 1.5, "x", "1", [1])],
    *[("cqa", GOOD["cqa"] | {"choices": x}, "choices")
      for x in ([*"vwxy"], [*"uvwxyz"], "vwxyz", [1, 2, 3, 4, 5], dict.fromkeys("vwxyz"))],
    ("mine", GOOD["mine"] | {"llm_label": None}, "llm_label"),
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
    *[("cqa", "llm/train_CoT_1.json", content, "CoT_1 array texts")
      for content in ("", '["a', '{"0": "a"}', '"a"', "[7]", "[null]", '[["a"]]', DEEP)],
]  # fmt: skip


@pytest.mark.parametrize("name, line, words", BAD_LINES, ids=lambda value: str(value)[:50])
def test_a_bad_line_is_refused_in_words_that_name_it(tmp_path, name, line, words):
    path = write_set(tmp_path, name)
    line = json.dumps(line) if isinstance(line, dict) else line
    good = path.read_bytes().split(b"\n")[0]
    path.write_bytes(b"\n".join([good, line if isinstance(line, bytes) else line.encode(), good]))
    place, _, why = refusal(tmp_path, name).split("; it begins")[0].partition(", line 2")
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


@settings(max_examples=400, deadline=None)
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
    for i in range(100_000):
        alphabet = "0123456789.+-*/() " if i % 2 else map(chr, rng.choices(range(0x110000), k=9))
        text = "".join(rng.choices([*alphabet], k=rng.randrange(1, 8 if i % 3 else 300)))
        assert seconds(text) < TEN_MS
        value = data.evaluate_equation(text)
        assert value is None or math.isfinite(value)
        values += value is not None
    assert 1_000 < values < 50_000


def test_an_answer_is_judged_by_value_in_svamp_and_toy_and_else_by_its_text():
    for name in ("svamp", "toy"):
        assert data.is_correct(name, "(84 / 2)", "( 42.0 )")
        assert data.is_correct(name, "1 / 3 * 3", "1") and data.is_correct(name, ".1 + .2", ".3")
        assert not data.is_correct(name, "(84 / 2)", "( 42.001 )")
        for text in ("", "x", "1 / 0"):  # two that have no value are not equal
            assert not data.is_correct(name, text, text)
    for name in ("cqa", "esnli", "anli1", "my/folder"):
        assert data.is_correct(name, "red", "red") and not data.is_correct(name, "1", "1.0")


# ---- ids and batches ----


@released
def test_ids_are_those_of_transformers_on_every_released_text():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.T5Tokenizer.from_pretrained(SHARED / "t5")  # converts spiece.model
    ours, texts = data.Tokenizer(SHARED / "t5" / "spiece.model"), ["a</s>b", "a </s> b", "</s>", ""]
    assert len(ours) == len(theirs) == 32_100
    assert ours.encode("a</s>b") == [3, 9, 1, 3, 115, 1]  # legacy: b has a space mark of its own
    for name in ("svamp", "cqa", "anli1", "esnli"):
        for split in ("test", "train") if name in ("svamp", "cqa") else ("test",):
            for example in data.load(name, split, SHARED / "dss"):
                texts += [f"predict: {example.input}", example.label]
                if name in ("svamp", "cqa"):
                    texts += [f"explain: {example.input}", example.rationale, example.llm_label]
    texts = list(dict.fromkeys(texts))
    for text, ids in zip(texts, theirs(texts).input_ids, strict=True):
        assert ours.encode(text) == ids, text


@pytest.fixture(scope="module")
def toy(tmp_path_factory):  # the folder, the training examples and the tokenizer of the toy set
    root = tmp_path_factory.mktemp("datasets")
    examples = data.load("toy", "train", root)
    return root / "toy", examples, data.Tokenizer(root / "toy" / "spiece.model")


def test_a_cut_text_keeps_its_end_mark_and_decoding_drops_what_is_no_piece(toy, tmp_path):
    tokenizer = toy[2]
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


def test_each_method_reads_and_writes_its_own_texts(toy):
    def texts(method, labels="gold"):
        example = Example("5 apples", "( 5 )", "5 coins.", "( 6 )")
        ((sources, targets),) = data.encode([example], toy[2], method, labels)
        return [toy[2].decode(ids) for ids in sources], [toy[2].decode(ids) for ids in targets]

    two = ["predict: 5 apples", "explain: 5 apples"]
    assert texts("finetune") == (["5 apples"], ["( 5 )"])
    assert texts("single") == (["5 apples"], ["5 coins. The answer is ( 5 )"])
    assert texts("dss") == texts("mi") == (two, ["( 5 )", "5 coins."])
    assert texts("mi", "llm") == (two, ["( 6 )", "5 coins."])


def test_long_texts_are_cut_at_1024_and_256_ids_and_a_single_target_keeps_its_label(toy):
    long = " ".join(["57"] * 2_000)
    for method in ("finetune", "mi"):
        ((sources, targets),) = data.encode([Example(long, long, long, "")], toy[2], method)
        assert {len(ids) for ids in sources} == {1_024} and {len(ids) for ids in targets} == {256}
        assert all(ids[-1] == 1 and 1 not in ids[:-1] for ids in sources + targets)
    ((_, (target,)),) = data.encode([Example("5", "( 9 )", long, "")], toy[2], "single")
    assert len(target) == 256 and toy[2].decode(target).endswith("57 57 The answer is ( 9 )")


ROWS = [  # of `encode`, of two tasks
    ([[5, 1], [6, 1]], [[7, 1], [8, 9, 1]]),
    ([[5, 5, 1], [6, 6, 1]], [[7, 7, 1], [8, 1]]),
    ([[5, 1], [6, 1]], [[7, 1], [8, 9, 9, 1]]),
]


def test_a_batch_stacks_the_tasks_sorts_by_length_and_pads_with_zeros():
    [(sources, (labels, rationales))], totals = data.collate(ROWS[:2], "cpu")
    assert sources.tolist() == [[5, 5, 1], [5, 1, 0], [6, 6, 1], [6, 1, 0]]
    assert labels.tolist() == [[7, 7, 1], [7, 1, 0]]
    assert rationales.tolist() == [[8, 1, 0], [8, 9, 1]]
    assert totals == [5, 5, 2]  # label tokens, rationale tokens, examples


def test_micro_batches_and_processes_share_a_batch_and_each_pads_to_its_own_longest():
    (first, second), totals = data.collate(ROWS, "cpu", micro_batch=2)
    assert [[t.tolist() for t in targets] for _, targets in (first, second)] == [
        [[[7, 7, 1], [7, 1, 0]], [[8, 1, 0], [8, 9, 1]]], [[[7, 1]], [[8, 9, 9, 1]]]]  # fmt: skip
    assert second[0].tolist() == [[5, 1], [6, 1]] and totals == [7, 9, 3]
    [(sources, targets)], totals = data.collate(ROWS, "cpu", rank=1, world=2, trim=False)
    assert sources.tolist() == [[5, 1], [6, 1]] and totals == [7, 9, 3]  # the whole batch's
    assert [t.tolist() for t in targets] == [[[7, 1, 0]], [[8, 9, 1, 0]]]  # and its widths


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("n, size", [(10, 4), (12, 4), (7, 1), (3, 25)])
def test_batches_run_through_one_seeded_order_after_another(n, size, window):
    lengths = np.random.default_rng(9).integers(1, 50, n)

    def take(count, seed, start=0):
        stream = data.batches(lengths, size, seed, start, window)
        return [batch.tolist() for batch in islice(stream, count)]

    first = take(6 * n, 0)
    assert {len(batch) for batch in first} == {size}
    seen = np.bincount(sum(first, []), minlength=n)  # 6 n batches of `size` are 6 size epochs
    assert set(seen.tolist()) == {6 * size}
    assert take(6 * n, 0) == first != take(6 * n, 1)
    for start in (1, 2, n):
        assert take(n, 0, start) == first[start : start + n]


def test_a_window_sorts_its_examples_by_length_and_shuffles_its_batches():
    lengths = np.random.default_rng(9).permutation(96)
    batches = list(islice(data.batches(lengths, 8, seed=0, window=12), 12))
    assert sorted(np.concatenate(batches).tolist()) == list(range(96))
    firsts = [lengths[batch].min() for batch in batches]
    assert all(np.ptp(lengths[batch]) == 7 for batch in batches)
    assert sorted(firsts) == list(range(0, 96, 8)) != firsts


# ---- the toy set ----


def test_the_toy_set_is_the_same_bytes_for_the_seed(toy, tmp_path):
    data.load("toy", "test", tmp_path)
    files = {path.name: path.read_bytes() for path in toy[0].rglob("*.*")}
    assert {"toy_train.json", "toy_test.json", "train_CoT_0.json", "spiece.model"} <= set(files)
    again = {path.name: path.read_bytes() for path in (tmp_path / "toy").rglob("*.*")}
    assert [name for name in files if files[name] != again.get(name)] == []
    data.write_toy(tmp_path, seed=1)
    assert (tmp_path / "toy" / "toy_train.json").read_bytes() != files["toy_train.json"]


def test_the_toys_teacher_is_mostly_right_and_at_times_wrong_or_silent(toy):
    right = [data.is_correct("toy", e.llm_label, e.label) for e in toy[1]]
    silent = sum(e.rationale == e.llm_label == "" for e in toy[1])
    assert 0.85 < np.mean(right) < 0.99 and 0 < silent < right.count(False)
    assert all(data.evaluate_equation(e.label) is not None for e in toy[1])


def test_the_toys_tokenizer_says_each_of_its_texts_and_each_number_in_one_piece(toy):
    folder, train, tokenizer = toy
    assert [n for n in range(2, 100) if len(tokenizer.encode(f"{n} {n}")) != 3] == []
    for example in train + data.load("toy", "test", folder.parent):
        for text in (f"predict: {example.input}", f"explain: {example.input}", example.rationale,
                     example.label, f"{data.JOINER} {example.llm_label}".strip()):  # fmt: skip
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text.replace("\n", " ") and 2 not in ids
            assert max(ids) < len(tokenizer) - data.SENTINELS
