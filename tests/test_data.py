"""data.py: parsing, splitting, tokenising, batching, judging answers, and refusing bad files.

    python -m pytest tests/test_data.py
    python -m pytest tests/test_data.py -k equation          # a part of it

Tests on the released files read ../shared beside the repository and are skipped where it is
missing.
"""

import json
import math
import re
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import data
from data import Example
from t5 import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
released = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the released files")

TEACHERS = [  # the set, the teacher's text, the label; None: neither rationale nor label
    ("svamp", " It is. The answer is (6 / 2).\n\nQ: 9? The answer is (1).", "(6 / 2)"),
    ("svamp", "It is. The answer is ((1 + 2) * 3) = 9.", "((1 + 2) * 3)"),
    ("svamp", "It is. The answer is (1) or (2).", "(1) or (2)"),  # from the first ( to the last )
    ("svamp", "It is. The answer is (1 +\n2).", ""),  # an equation ends with its line
    ("svamp", "It is. The answer is (1)\n(2).", "(1)"),
    ("svamp", "It is. Q: 9? The answer is (1).", None),
    ("svamp", "It is. The answer is (1). The answer is (2).", None),
    ("cqa", "It is. So the answer is (b) a fox.\n\nQ: x? So the answer is (a) y.", "a fox"),
    ("cqa", "It is. So the answer is (b) St. Ives", "St. Ives"),
    ("cqa", "It is. So the answer is (b) red etc..", "red etc."),  # one full stop
    ("cqa", "It is. So the answer is (a) red (b) blue.", "red"),
    ("cqa", "It is. So the answer is blue.", ""),
    ("anli1", "It is. So the answer is neutral.\n\nPremise: So the answer is x.", "neutral"),
    ("anli1", "It is. So the answer is neutral!", "neutral"),
    ("anli1", "It is.", None),
    ("esnli", "It is.\nAnswer: neutral\n\nPremise: A.\nAnswer: x", "neutral"),
    ("esnli", "It is. Answer: neutral Answer: x", "neutral"),
    ("esnli", "It is. Answer:x Answer: neutral\nPremise", "neutral"),
    ("esnli", "It is. Answer:neutral", ""),  # as the authors' code has it, without the space
]


@pytest.mark.parametrize("name, text, label", TEACHERS)
def test_the_teachers_text_splits_into_rationale_and_label(name, text, label):
    assert data.parse_teacher(name, text) == (("", "") if label is None else ("It is.", label))


RELEASED = [  # rows; how many rationales are blank; how many of the teacher's labels are right
    # SVAMP, 0.7325. The authors' eval() says 588, 0.7350: Python reads "(1) and (2)" as
    # (2), which makes two more answers right; arithmetic has no "and"
    ("svamp", "train", 800, 11, 586),
    ("svamp", "test", 200, 2, 148),
    ("cqa", "train", 9_741, 0, 7_234),  # 0.7426
    ("cqa", "test", 1_221, 0, 943),  # 0.7723
    ("anli1", "test", 1_000, 10, 656),
    ("esnli", "test", 9_824, 0, 7_171),
]


@released
@pytest.mark.parametrize("name, split, rows, blank, right", RELEASED)
def test_a_released_set_is_whole_and_its_teacher_as_good_as_known(name, split, rows, blank, right):
    examples = data.load(name, split, SHARED / "dss")
    assert (len(examples), sum(e.rationale == "" for e in examples)) == (rows, blank)
    by_value = name in data.EQUATIONS
    assert sum(data.is_correct(e.llm_label, e.label, by_value) for e in examples) == right
    # no label is refused
    data.check_labels(examples, data.Tokenizer(SHARED / "t5" / "spiece.model"), "llm")


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
    with pytest.raises(InputError) as error:
        load(root, name)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500, message
    return message


def test_a_line_becomes_exactly_this_input_and_label(tmp_path):
    expected = {
        "esnli": ("A.</s>B.", "neutral"),
        "anli1": ("A.</s>B.", "contradiction"),
        "cqa": ("Who?\nAnswer Choices:\n(a) I\n(b) you\n(c) he\n(d) we\n(e) ", "he"),
        "svamp": ("One.\nTwo?", "( 1.0 + 1.0 )"),
        "mine": ("One?", "red"),
    }
    for name in GOOD:
        write_set(tmp_path, name)
        assert [(e.input, e.label) for e in load(tmp_path, name)] == [expected[name]] * 3


BAD_LINES = [  # the second of three: the text or the object, and words that the message must hold
    ("svamp", '{"input": "a", "lab', "JSON"),
    ("svamp", b'{"input": "caf\xe9", "label": "( 1 )"}', "UTF-8"),
    ("svamp", r'{"input": "\ud83d", "label": "( 1 )"}', "input"),  # half a character
    ("svamp", '["One?", "( 1 )"]', "object"),
    ("svamp", {"input": "One?"}, "label no such field"),
    ("mine", {"input": "One?", "label": "red"}, "rationale no such field"),
    ("mine", GOOD["mine"] | {"llm_label": None}, "llm_label"),
    ("mine", GOOD["mine"] | {"label": -0.5}, "label -0.5 quote"),
    ("esnli", NLI | {"premise": None}, "premise"),
    ("esnli", NLI | {"hypothesis": None}, "hypothesis"),
    ("cqa", GOOD["cqa"] | {"question": None}, "question"),
    ("cqa", GOOD["cqa"] | {"answer": None}, "answer"),
]
BAD_LINES += [("esnli", NLI | {"label": x}, "label 0 1 2") for x in (None, 3, -1, True, "1")]
CHOICES = None, [*"vwxy"], "vwxyz", [1, 2, 3, 4, 5]
BAD_LINES += [("cqa", GOOD["cqa"] | {"choices": x}, "choices 5") for x in CHOICES]


@pytest.mark.parametrize("name, line, words", BAD_LINES, ids=lambda value: str(value)[:50])
def test_a_bad_line_is_refused_in_words_that_name_it(tmp_path, name, line, words):
    path = write_set(tmp_path, name)
    line = json.dumps(line) if isinstance(line, dict) else line
    good = path.read_bytes().split(b"\n")[0]
    path.write_bytes(b"\n".join([good, line if isinstance(line, bytes) else line.encode(), good]))
    place, _, why = refusal(tmp_path, name).partition(", line 2: ")
    assert place == str(path) and all(word in why for word in words.split()), (place, why)


FIRST, SECOND = "llm/train_CoT_0.json", "llm/train_CoT_1.json"
BAD_FILES = [  # a file of a good set, its content or None: not there; words of the message
    ("svamp", "svamp_train.json", "", "none"),
    ("mine", "train.jsonl", None, "train.jsonl esnli, anli1, cqa, svamp, toy, folder"),
    ("cqa", FIRST, None, "0 3"),  # the next is not read
    ("cqa", SECOND, None, "2 3"),
    ("esnli", SECOND, "[]", "2 3"),
    ("anli1", SECOND, '["a", "b"]', "4 3"),
    ("cqa", SECOND, b'["caf\xe9"]', "CoT_1 UTF-8"),
    ("cqa", SECOND, r'["\ud83d"]', "CoT_1 array"),
]
BAD_FILES += [("cqa", SECOND, content, "CoT_1 JSON") for content in ("", '"a"', "[7]")]


@pytest.mark.parametrize("name, file, content, words", BAD_FILES, ids=lambda value: str(value)[:50])
def test_a_bad_file_is_refused_in_words_that_name_it(tmp_path, name, file, content, words):
    write_set(tmp_path, name)
    assert len(load(tmp_path, name)) == 3
    (path := tmp_path / name / file).unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    place, why = refusal(tmp_path, name).split(str(path.parent))  # which it names once
    assert place == "" and all(word in why for word in words.split()), why


@pytest.mark.parametrize("name", ["svamp", "mine"])
def test_files_as_other_programs_write_them_load_the_same(tmp_path, name):
    path = write_set(tmp_path, name)
    expected = load(tmp_path, name)
    texts = {file: file.read_text() for file in [path, *path.parent.glob("llm/*")]}
    for old, new in (("\n", "\r\n"), ("^", "\ufeff"), ("$", "\n\n"), ("\n", "\n\n")):
        for file, text in texts.items():
            file.write_bytes(re.sub(old, new, text).encode())
        assert load(tmp_path, name) == expected and len(expected) == 3


def test_a_line_may_hold_a_megabyte_and_any_character(tmp_path):
    text = "a\u2028b\u2029c\x85d\u00e9 \U0001f600" + "x" * 1_000_000
    line = json.dumps(GOOD["mine"] | {"input": text}, ensure_ascii=False)
    write_set(tmp_path, "mine").write_text(line, encoding="utf-8")
    assert load(tmp_path, "mine") == [Example(text, "red", "so", "")]


def test_a_users_folder_may_hold_the_teachers_labels_and_a_validation_set(tmp_path):
    lines = [GOOD["mine"] | more for more in ({}, {"llm_label": "blue"}, {"llm_label": ""})]
    text, folder = "\n".join(map(json.dumps, lines)), tmp_path / "mine"
    write_set(tmp_path, "mine").write_text(text)
    expected = [Example("One?", "red", "so", teacher) for teacher in ("", "blue", "")]
    assert data.load(str(folder), "train") == data.load(folder, "train") == expected
    assert [len(part) for part in data.train_and_valid(folder)] == [2, 1]  # a tenth of train
    (folder / "valid.jsonl").write_text(text + "\n" + text)
    assert data.train_and_valid(folder, seed=5) == (expected, expected * 2)
    (folder / "valid.jsonl").rename(folder / "validation.jsonl")
    assert data.train_and_valid(folder, seed=5) == (expected, expected * 2)
    shutil.copy(folder / "validation.jsonl", folder / "valid.jsonl")
    with pytest.raises(InputError, match="mine: [^\n]*valid.jsonl and validation.jsonl"):
        data.train_and_valid(folder)


def test_two_folders_of_one_name_have_different_titles_and_known_names_stay(tmp_path, monkeypatch):
    for owner in "ab":
        (tmp_path / owner / "mine").mkdir(parents=True)
    titles = [data.title(tmp_path / owner / "mine") for owner in "ab"]
    assert titles[0] != titles[1] and all(re.fullmatch("mine.[0-9a-f]{6}", t) for t in titles)
    monkeypatch.chdir(tmp_path / "a")
    for same in ("mine", "./mine", "mine/", "../a/mine", Path("mine"), tmp_path / "b/../a/mine"):
        assert data.title(same) == titles[0]
    assert data.title("svamp") == "svamp"
    assert not any(map(data.is_own_data, data.MARKERS))
    assert all(map(data.is_own_data, ("my/svamp", "./toy", Path("mine"))))


@pytest.mark.parametrize("n, cut", [(800, 80), (9_741, 975)])  # SVAMP, CQA
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
    write_set(tmp_path, "mine", 1)  # too few to split
    with pytest.raises(InputError, match="mine"):
        data.train_and_valid(str(tmp_path / "mine"))


# ---- answers ----

VALUES = {"( 84.0 / 2.0 )": 42, "7": 7, " 7\n": 7, "3.": 3, ".5": 0.5, "((1))": 1, "1 / 3": 1 / 3}
VALUES |= {"2 + 3 * 4": 14, "(2 + 3) * 4": 20, "8 / 4 / 2": 1, "8 - 4 - 2": 2, "8/(6-2)": 2}
VALUES |= {"2 - -3": 5, "--5": 5, "-(2 + 3) * 2": -10, "-2 * -3": 6, "+ 5": 5, "-7 // 2": -4}
VALUES |= {"(" * 32 + "1" + ")" * 32: 1, "1 +" * 85 + "1": 86, "9" * 256: 1e256, "0": 0}
NO_VALUES = ["", " ", "()", "x", "(2 * x)", "(175, 5)", "((415 - 309)", "1)", "1 +", "* 2", "1 2"]
NO_VALUES += [".", "1.2.3", "1 / 0", "1 // 0", "1 / (2 - 2)", "1e5", "inf", "nan", "0x10", "1_000"]
NO_VALUES += ["1,000", "2 ** 3", "7 % 2", "2(3)", "(1)(2)", "(1 + 1) and (2 + 3)", "$5", "7 = 7"]
NO_VALUES += ["\uff15", "\u0663", "1 if 1 else 1", "[1][0]", "9" * 257, "1\n2", "...", "()()"]


@pytest.mark.parametrize("text", [*VALUES, *NO_VALUES])
def test_an_equation_has_this_value_or_none(text):
    value = pytest.approx(VALUES[text], rel=1e-12) if text in VALUES else None
    assert data.evaluate_equation(text) == value


HOSTILE = ["__import__('os').getcwd()", "9**9**9", "(" * 10_000 + ")" * 10_000, "(" * 256, "\0"]
HOSTILE += ["(" * 128 + ")" * 128, "-" * 256, "1+" * 500_000 + "1", "9" * 1_000_000, "(-" * 127]


def test_a_hostile_text_has_no_value():
    assert [text for text in HOSTILE if data.evaluate_equation(text) is not None] == []


def test_an_answer_is_judged_by_value_or_else_by_its_text():
    for answer, label in (("(84 / 2)", "( 42.0 )"), ("1 / 3 * 3", "1"), (".1 + .2", ".3")):
        assert data.is_correct(answer, label, by_value=True)
        assert not data.is_correct(answer, label, by_value=False)
    for answer, label in (("(84 / 2)", "( 42.001 )"), ("1", "1.0000000001"), ("-2", "2")):
        assert not data.is_correct(answer, label, by_value=True)
    for n in (10**9, 10**11):  # whole numbers are not equal because they are large
        assert not data.is_correct(f"{n + 1}", f"{n + 2}", by_value=True)
    for text in ("", "x", "1 / 0", "7 apples"):  # two that have no value are not equal
        assert not data.is_correct(text, text, by_value=True)
        assert data.is_correct(text, text, by_value=False)


# ---- ids and batches ----


def released_texts():
    texts = ["a</s>b", "a </s> b", "</s>", "", " a  b ", "tab\there", "<pos>", "\ufb01ne", "\u6b63"]
    for name, split, *_ in RELEASED:
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
    assert {path.name for path in tmp_path.iterdir()} == {"spiece.model", "tokenizer_config.json"}
    published = transformers.T5Tokenizer.from_pretrained(SHARED / "t5")  # converts spiece.model
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(ours) == len(published) == len(saved) == 32_100
    assert ours.encode("a</s>b") == [3, 9, 1, 3, 115, 1]  # legacy: b has a space mark of its own
    ids = [ours.encode(text) for text in texts]
    theirs = published(texts).input_ids
    assert [text for text, a, b in zip(texts, ids, theirs, strict=True) if a != b] == []
    assert saved(texts[::20]).input_ids == ids[::20]
    assert (saved.pad_token_id, saved.eos_token_id, saved.unk_token_id) == (0, 1, 2)
    assert data.Tokenizer(tmp_path / "spiece.model").encode(texts[-1]) == ids[-1]


@pytest.fixture(scope="module")
def toy_set(tmp_path_factory):  # its folder, training examples and tokenizer
    root = tmp_path_factory.mktemp("datasets")
    examples = data.load("toy", "train", root)
    return root / "toy", examples, data.Tokenizer(root / "toy" / "spiece.model")


def test_a_cut_text_keeps_its_end_mark_and_decoding_drops_what_is_no_piece(toy_set):
    tokenizer, text = toy_set[2], "Anna has 57 apples.</s>Ben has 9."
    ids = tokenizer.encode(text)
    assert ids.count(1) == 2 and ids[-1] == 1
    for length in range(1, len(ids) + 3):
        cut = ids if length > len(ids) else ids[: length - 1] + [1]
        assert tokenizer.encode(text, length) == cut
    noisy = [0, *ids, 0, 1, len(tokenizer) - 1, len(tokenizer) - data.SENTINELS]
    assert tokenizer.decode(noisy) == "Anna has 57 apples. Ben has 9."
    assert tokenizer.normalise("<5>") == "\u2047 5 \u2047"  # unknown; no white space at the ends


def test_each_method_reads_and_writes_its_own_texts(toy_set):
    def texts(method, labels="gold"):
        example = Example("5 apples", "( 5 )", "5 coins.", "( 6 )")
        [(sources, targets)], _ = data.make_rows([example], toy_set[2], method, labels)
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
        examples = [Example(long, long, long, "")]
        [(sources, targets)], _ = data.make_rows(examples, toy_set[2], method)
        assert {len(ids) for ids in sources} == {1_024} and {len(ids) for ids in targets} == {256}
        assert all(ids[-1] == 1 and 1 not in ids[:-1] for ids in sources + targets)
    for n in (250, 251, 252, 2_000):  # beside "The answer is 5" and the </s>
        examples = [Example("5", "5", " ".join(["57"] * n), "")]
        [(_, [target])], _ = data.make_rows(examples, toy_set[2], "single")
        words = toy_set[2].decode(target).split()
        assert words == ["57"] * min(n, 251) + "The answer is 5".split()
    [(_, [target])], _ = data.make_rows([Example("5", long, long, "")], toy_set[2], "single")
    assert toy_set[2].decode(target).split() == ["The", "answer", "is", *["57"] * 252]


ROWS = [  # of `make_rows`, of two tasks
    ([[5, 5, 1], [6, 6, 1]], [[7, 7, 1], [8, 9, 1]]),
    ([[10, 1], [11, 1]], [[12, 1], [13, 14, 1]]),
    ([[15, 1], [16, 1]], [[17, 1], [18, 1]]),
]


def test_a_batch_stacks_its_tasks_sorted_by_last_target_then_source_and_padded_with_zeros():
    [(sources, (labels, rationales))], totals = data.collate(ROWS, "cpu")
    assert sources[:3].tolist() == [[15, 1, 0], [10, 1, 0], [5, 5, 1]]
    assert sources[3:].tolist() == [[16, 1, 0], [11, 1, 0], [6, 6, 1]]
    assert labels.tolist() == [[17, 1, 0], [12, 1, 0], [7, 7, 1]] and labels.dtype == torch.int64
    assert rationales.tolist() == [[18, 1, 0], [13, 14, 1], [8, 9, 1]]
    assert totals == (7, 8, 3)  # label tokens, rationale tokens, examples
    alone = [(sources[:1], targets[:1]) for sources, targets in ROWS]  # as for finetune
    [(sources, (labels,))], totals = data.collate(alone, "cpu")
    assert labels.tolist() == [[12, 1, 0], [17, 1, 0], [7, 7, 1]] and totals == (7, 3)


def test_micro_batches_and_processes_share_a_batch_and_each_pads_to_its_own_longest():
    (first, second), totals = data.collate(ROWS, "cpu", micro_batch=2)
    assert first[0].tolist() == [[15, 1], [10, 1], [16, 1], [11, 1]]
    assert [t.tolist() for t in first[1]] == [[[17, 1], [12, 1]], [[18, 1, 0], [13, 14, 1]]]
    assert [t.tolist() for t in second[1]] == [[[7, 7, 1]], [[8, 9, 1]]] and totals == (7, 8, 3)
    [(sources, targets)], totals = data.collate(ROWS, "cpu", rank=1, world=2, trim_padding=False)
    assert sources.tolist() == [[10, 1], [11, 1]] and totals == (7, 8, 3)  # the whole batch's
    assert [t.tolist() for t in targets] == [[[12, 1, 0]], [[13, 14, 1]]]  # and its widths


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


# ---- labels, limits and vocabularies ----


@pytest.fixture(params=["toy", pytest.param("t5", marks=released)])
def tokenizer(request, toy_set):
    return toy_set[2] if request.param == "toy" else data.Tokenizer(SHARED / "t5" / "spiece.model")


def examples_of(labels, llm_labels=None):
    pairs = zip(labels, llm_labels or [""] * len(labels), strict=True)
    return [Example("One?", label, "so", llm) for label, llm in pairs]


DIFFERENT = [("<pos>", "<neg>"), ("pos~", "neg~"), ("yes", "no"), ("a b", "ab"), ("1", "1.0")]
DIFFERENT += [(r"\frac{3}{4}", r"\frac{1}{4}"), ("troms\u00f8", "oslo"), ("", "no"), ("<", "<pos>")]
DIFFERENT += [('{"s": "pos"}', '{"s": "neg"}'), ("a <", "a<"), ("\u6b63 a", "\u8d1f b")]
SAME = [("\u6b63\u9762", "\u8d1f\u9762"), ("a < b", "a { b"), ("5 ~", "5 ^"), ("<pos", "{pos")]
SAME += [("\U0001f600", "\U0001f622"), ("\u6b63", "\u6b63\u9762"), ("yes", "yes "), ("a b", "a\tb")]
SAME += [("so many", "so  many"), ("\ufb01ne", "fine"), ("5\u00b2", "52"), ("\uff11", "1")]


def test_labels_are_refused_by_name_exactly_where_their_ids_are_the_same(tokenizer):
    for one, other in DIFFERENT:
        data.check_labels(examples_of([one, other]), tokenizer)
        data.check_labels(examples_of([one, other], [other, one]), tokenizer, "llm")
        assert tokenizer.normalise(one) != tokenizer.normalise(other)
    for one, other in SAME:
        assert tokenizer.encode(one) == tokenizer.encode(other)
        with pytest.raises(InputError) as error:
            data.check_labels(examples_of([other, "9", one, one]), tokenizer)
        message = str(error.value)
        assert repr(one) in message and repr(other) in message and "\n" not in message


def test_the_refusal_of_labels_covers_what_is_cut_or_ends_early(tokenizer):
    long = "57 " * 300
    with pytest.raises(InputError, match="57 57.*rename one"):
        data.check_labels(examples_of([f"{long} 1", f"{long} 2"]), tokenizer)
    with pytest.raises(InputError, match="'a</s>b' can't be written"):
        data.check_labels(examples_of(["a", "a</s>b"]), tokenizer)


def test_a_teachers_label_may_not_pass_for_another_label(tokenizer):
    gold = ["a < b", "red"]
    for llm in (["red", "a < b"], ["red ", "r\uff45d"], ["", "red\n"]):
        data.check_labels(examples_of(gold, llm), tokenizer, "llm")
    for llm in (["red", "a { b"], ["<", "{"]):  # an answer like it would count as right
        data.check_labels(examples_of(gold, llm), tokenizer)  # where it is not trained on
        with pytest.raises(InputError, match="have the same ids"):
            data.check_labels(examples_of(gold, llm), tokenizer, "llm")


def numbers(n):  # n ids of the toy vocabulary, without the </s>
    return " ".join(["57"] * n)


# as long as each may be: with its prefix of two ids and its </s> the input has 1,024
WHOLE = Example(numbers(1_021), numbers(255), numbers(255), numbers(255))
UNKNOWN = [{"input": "<"}, {"input": "5~"}, {"rationale": "\u6b63"}, {"label": "{5}"}]
ENDS = [{"input": "5</s>7"}, {"rationale": "5</s>7"}, {"label": "</s>"}]
SINGLE = [{"label": "5", "rationale": numbers(n)} for n in (200, 251, 252, 253)]
WARNINGS = [  # the method; the fields in which examples differ from WHOLE; what is warned of
    ("mi", [{"input": numbers(1_022)}, {}], "1 of 2 inputs long"),
    # without a prefix
    ("finetune", [{"input": numbers(1_024)}, {"input": numbers(1_023)}], "1 of 2 inputs long"),
    ("dss", [{"rationale": numbers(256)}, {}], "1 of 2 rationales long"),
    ("dss", [{"label": numbers(300)}, {}, {}], "1 of 3 labels long"),
    ("finetune", [{"rationale": numbers(256)}, {"rationale": "{"}, {"rationale": ""}], ""),
    ("mi", [{"rationale": ""}, {"rationale": " \n"}], "2 of 2 rationales blank"),
    ("mi", [{"llm_label": ""}, {"llm_label": "{"}], ""),
    ("mi", UNKNOWN, "2 of 4 inputs unknown, 1 of 4 labels unknown, 1 of 4 rationales unknown"),
    ("single", SINGLE, "2 of 4 rationales long"),  # beside "The answer is 5" and the </s>
    ("mi", ENDS, "1 of 3 labels end, 1 of 3 rationales end"),
]


@pytest.mark.parametrize("method, changes, expected", WARNINGS)
def test_what_is_cut_unknown_or_blank_is_counted_a_line_a_kind(toy_set, method, changes, expected):
    examples = [Example(**vars(WHOLE) | change) for change in changes]
    words = {"blank": "blank", "characters": "unknown", "lose their ends": "long", "</s>": "end"}
    found = []
    for line in data.make_rows(examples, toy_set[2], method)[1]:
        kinds = [short for word, short in words.items() if word in line]
        found.append(" ".join([*line.split()[:4], *kinds]))
    assert ", ".join(found) == expected


def test_labels_that_read_back_differently_have_an_example(toy_set):
    """The shortest, whose difference can be seen."""
    long = f"{numbers(30)}  2"
    examples = [Example("5", label, "5", "") for label in (long, "10", "10\u00b3", "5  7")]
    _, [line] = data.make_rows(examples, toy_set[2], "mi")
    assert line == "3 of 4 labels read back differently: '10\u00b3' as '103'"


def test_the_teachers_labels_are_counted_where_they_are_trained_on(toy_set):
    examples = [Example("5", "", "5", "{"), Example("5", "", "5", ""), Example("5", "{", "5", "5")]
    _, [blank, unknown] = data.make_rows(examples, toy_set[2], "mi", "llm")
    assert blank.startswith("1 of 3 labels are blank")
    assert unknown.startswith("1 of 3 labels have characters")


def test_a_vocabulary_that_is_missing_or_does_not_fit_is_refused(toy_set, tmp_path):
    def refused(words, rows=math.inf):
        with pytest.raises((InputError, FileNotFoundError), match=f"^{tmp_path}[^\n]*{words}"):
            data.Tokenizer(tmp_path / "spiece.model", rows)

    refused("spiece.model: expected a sentence")
    (tmp_path / "tokenizer.json").write_text("{}")
    refused("tokenizer.json[^\n]*--tokenizer FILE$")
    pieces = len(toy_set[2].pieces)
    data.Tokenizer(toy_set[0] / "spiece.model", rows=pieces)
    shutil.copy(toy_set[0] / "spiece.model", tmp_path)
    refused(f"{pieces} pieces[^\n]*{pieces - 1} rows", rows=pieces - 1)


def test_the_toys_saved_vocabulary_gives_transformers_the_same_ids(toy_set, tmp_path):
    transformers = pytest.importorskip("transformers")
    toy_set[2].save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a</s>b", "", " a  b ", "<pos>", "\u6b63 5", *toy_texts(toy_set[1][:1_000])]
    assert theirs(texts).input_ids == [toy_set[2].encode(text) for text in texts]
    assert len(theirs) == len(toy_set[2])


# ---- the toy set ----


def toy_texts(examples):
    for example in examples:
        yield from (f"predict: {example.input}", f"explain: {example.input}", example.rationale)
        yield from (example.label, f"{data.JOINER} {example.llm_label}".strip())


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
    for text in toy_texts(train + data.load("toy", "test", folder.parent)):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text.replace("\n", " ") and 2 not in ids
        assert max(ids) < len(tokenizer) - data.SENTINELS
