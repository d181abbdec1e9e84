"""README.md and MEASUREMENTS.md: python -m pytest tests/test_pages.py

Every command on the two pages is read by the parser of its own program, the Python behind two
tables is run, every number of the paper is held to one table, and what the pages name or link to
exists.
"""

import ast
import json
import math
import re
import shlex
import subprocess
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
import torch

import bench
import data
import eval as evaluation
import mi_loss
import test_mi_loss
import train

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs the data in ../shared")
README, MEASUREMENTS = ROOT / "README.md", ROOT / "tests" / "MEASUREMENTS.md"
PAGES = {page.name: page for page in (README, MEASUREMENTS)}
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def text_of(page):
    return page.read_text(encoding="utf-8")


def one_line(text):
    return re.sub(r"\s+", " ", text)


def tables_of(page):
    """The Markdown tables of a page -> [(cells of the head, [cells of each row])]."""
    tables = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text_of(page), re.MULTILINE):
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        assert all(len(row) == len(rows[0]) for row in rows), f"{page.name}: {rows[0]}"
        tables.append((rows[0], rows[2:]))
    return tables


def table_of(page, first_cell):
    (found,) = [table for table in tables_of(page) if table[0][0] == first_cell]
    return found


# ------------------------------------------------------------------------------------------------
# commands


def code_lines(text):
    """The lines of a page's fenced shell blocks, and its code spans."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [one_line(span) for span in re.findall(r"`([^`]+)`", prose)]
    return [line for block in blocks for line in block.splitlines()] + spans


def commands_in(line):
    """A line of bash -> [(script, arguments)] of what it starts, for every value of its loops."""
    loops = re.findall(r"for (\w+) in (.*?); do ", line)
    body = re.sub(r"for \w+ in .*?; do |; done", "", line)
    body = re.sub(r"echo (.*?) \| .*(python .*)", r"\2 \1", body)  # xargs adds what echo prints
    commands = []
    for values in product(*(shlex.split(values) for _, values in loops)):
        text = body
        for (name, _), value in zip(loops, values):
            text = re.sub(rf"\${name}\b", value, text)
        for part in re.split(r" && |; ", text):
            words = [word for word in shlex.split(part) if not re.match(r"[A-Z_]+=", word)]
            scripts = [i for i, word in enumerate(words) if word.endswith(".py")]
            if words[:1] in (["python"], ["torchrun"]) and scripts and words[1] != "-m":
                commands.append((words[scripts[0]], words[scripts[0] + 1 :]))
    return commands


LINES = {
    f"{name}: {line}": line
    for name, page in PAGES.items()
    for line in code_lines(text_of(page))
    if commands_in(line)
}


def parse(script, arguments, monkeypatch):
    """Give the arguments to the script's parser: what it does not accept raises SystemExit."""
    if script == "tests/bench.py":
        monkeypatch.setattr("sys.argv", [script, *arguments])
        return bench.parse()
    if script == "tests/test_survival.py":
        (kills,) = arguments
        return int(kills)
    # gradients.py takes the flags of train.py
    parsers = {"train.py": train.parse, "eval.py": evaluation.parse}
    return {**parsers, "tests/gradients.py": train.parse}[script](arguments)


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_every_command_is_accepted_by_the_parser_of_its_program(line, monkeypatch):
    for script, arguments in commands_in(line):
        parse(script, arguments, monkeypatch)


def test_the_pages_name_the_commands_that_they_must():
    lines = [line for page in PAGES.values() for line in code_lines(text_of(page))]
    found = {script for line in lines for script, _ in commands_in(line)}
    assert found == {
        "train.py",
        "eval.py",
        "tests/bench.py",
        "tests/gradients.py",
        "tests/test_survival.py",
    }
    words = {word for line in lines for _, arguments in commands_in(line) for word in arguments}
    words |= {word for line in lines if line.startswith("--") for word in line.split()}
    assert words >= {"finetune", "single", "dss", "mi", "eq9", "kl", "released", "mean", "llm"}
    flags = "--predict --to --plot --table --judge --judge-teacher --judge-model --ask --against"
    assert words >= {*flags.split(), "--weights", "--alphas", "--subsample"}
    assert "cuda" in words  # of a command that follows another on its line


@each_page
def test_every_flag_named_in_the_text_is_one_of_ours_or_said_to_be_another_codes(page, capsys):
    others = {"--CoT_Distill", "--bf16", "--beta"}  # of the authors' code
    for program in train, evaluation:
        with pytest.raises(SystemExit):
            program.parse(["--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out)) | others
    spans = [span.split() for span in code_lines(text_of(page)) if span.startswith("--")]
    assert spans and {span[0] for span in spans} <= known
    for flag, *values in spans:
        if values and flag not in others:  # the values are ones that its program takes
            try:
                train.parse([flag, *values])
            except SystemExit:
                evaluation.parse(["RUN", flag, *values])


def test_ci_finds_its_two_commands_in_the_readme():
    found = []
    for name in "run", "test":  # as .ci/run does it
        script = f"sed -n '/<!-- ci: {name} -->/,/^```$/p' README.md | grep -v -e '^<!--' -e '^```'"
        found.append(subprocess.check_output(["bash", "-c", script], cwd=ROOT, text=True))
    style = "ruff check && ruff format --check"
    ends = (
        "requirements.txt && python train.py",
        f"tests/requirements.txt && {style} && python -m pytest -n 2",
    )
    for command, end in zip(found, ends):
        assert command.count("\n") == 1 and command.endswith(f"pip install -r {end}\n")


def run_python(number, capsys):
    """Run a block of Python of MEASUREMENTS.md -> what it prints."""
    blocks = re.findall(r"^```python\n(.*?)^```", text_of(MEASUREMENTS), re.MULTILINE | re.DOTALL)
    exec(blocks[number], {})
    return capsys.readouterr().out


def test_the_paired_test_of_l_ce_on_the_page_is_exact(tmp_path, monkeypatch, capsys):
    """Of the 1,024 ways to choose ten signs, these differences' sum is reached by 2 or by 4."""
    monkeypatch.chdir(tmp_path)
    values = {"dss": [3.0] * 10, "mi": [2.9] * 9}
    for last, p in (2.9, 2 / 1024), (3.0, 4 / 1024):
        values["mi"][9:] = [last]
        for method, seed in product(values, range(10)):
            log = tmp_path / f"runs/toy-tiny-{method}-s{seed}/log.jsonl"
            log.parent.mkdir(parents=True, exist_ok=True)
            lines = {"validation_mi": 5.0}, {"validation_mi": values[method][seed]}
            log.write_text("\n".join(map(json.dumps, lines)) + "\n")
        out = run_python(0, capsys)
        assert out == f"{values['dss']} {values['mi']} p = {p}\n"


@needs_shared
def test_the_counts_of_texts_on_the_page_are_what_its_code_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, target in ("datasets", SHARED / "dss"), ("T5", SHARED / "t5"):
        Path(name).symlink_to(target)
    counts = Counter()
    for line in run_python(1, capsys).splitlines():
        name, split, labels, warnings = line.split(maxsplit=3)
        for warning in ast.literal_eval(warnings):
            n, _, _, what = warning.split(maxsplit=3)
            assert "too long" not in what
            counts[name, split, labels, what] = int(n.replace(",", ""))
    sets = {"SVAMP": "svamp", "CQA": "cqa", "ANLI": "anli1", "e-SNLI": "esnli"}
    (table,) = [rows for head, rows in tables_of(MEASUREMENTS) if head[:2] == ["", "examples"]]
    for title, examples, rationales, labels, characters in table:
        name, split = title.split()
        key = sets[name], split
        assert int(examples.replace(",", "")) == len(data.load(*key, SHARED / "dss"))
        assert int(rationales) == counts.pop((*key, "gold", "rationales are blank"), 0)
        assert int(labels) == counts.pop((*key, "llm", "labels are blank"), 0)
        kinds = ("inputs", "rationales", "labels")
        lacking = [f"{kind} have characters that the vocabulary lacks" for kind in kinds]
        found = [counts.pop((*key, "gold", what), 0) for what in lacking]
        assert " / ".join(map(str, found)) == re.sub(r" \(.*", "", characters)
    assert not [key for key in counts if key[2] == "gold"]  # no other count


# ------------------------------------------------------------------------------------------------
# numbers

SETS = {"e-SNLI": 9_824, "ANLI": 1_000, "CQA": 1_221, "SVAMP": 200}  # with their test items
OUT_OF_DOMAIN = ["e-SNLI, out of domain", "ANLI, out of domain"]
PAPER = {  # typed from the paper, a column a set in the order of SETS (Table 6: and OUT_OF_DOMAIN)
    "Table 1: finetune": "88.38 43.58 62.19 62.63",
    "Table 1: single task": "88.88 43.50 61.37 63.00",
    "Table 1: DSS": "89.51 49.58 63.29 65.50",
    "Table 1: MI": "89.50 51.20 63.88 68.00",
    "Table 2: finetune": "82.90 42.00 43.16 45.00",
    "Table 2: DSS": "83.43 42.90 43.24 48.00",
    "Table 2: MI": "83.23 43.70 43.90 52.50",
    "Table 3: DSS": "82.65 42.80",
    "Table 3: MI": "82.81 45.50",
    "Table 4: MI, mean": "89.34 51.40 63.88 66.50",
    "Table 5: MI, KL": "89.42 42.00 62.49 67.00",
    "Table 6: DSS": "8.54/34.33 11.12/42.72 11.75/42.79 11.81/32.56 9.81/38.01 12.78/41.69",
    "Table 6: MI": "4.35/30.06 6.94/35.90 13.65/41.17 18.92/36.81 6.61/38.08 12.27/42.35",
    "Table 7: gold": "2.42 3.82 3.95 4.63",
    "Table 7: DSS": "3.24 3.48 3.60 2.50",
    "Table 7: MI": "3.03 3.42 3.70 2.30",
    "Table 7: gold ++": "3.49 4.01 4.11 4.43",
    "Table 7: DSS ++": "3.18 3.44 3.64 2.53",
    "Table 7: MI ++": "3.17 3.34 3.63 2.72",
    "Table 8: DSS": "0.05 0.26 0.66 0.12",
    "Table 8: MI": "0.03 0.26 0.53 0.42",
}
CELLS = {
    (row, name): cell
    for row, cells in PAPER.items()
    for name, cell in zip([*SETS, *OUT_OF_DOMAIN], cells.split())
}


def quoted_cells(page):
    """{(row of PAPER, set): cell} of the page's tables whose first cell says "the paper's"."""
    cells = {}
    for head, rows in tables_of(page):
        if not head[0].startswith("the paper's"):
            continue
        if head[1].startswith("Table"):  # a column a method: "Table 1: finetune", "DSS", ...
            prefixes = [re.match(r"Table \d: ", title) for title in head[1:]]
            for i, found in enumerate(prefixes):
                prefixes[i] = found[0] if found else prefixes[i - 1]
                head[i + 1] = prefixes[i] + head[i + 1].removeprefix(prefixes[i])
            head, *rows = map(list, zip(head, *rows))
        for row in rows:
            for name, cell in zip(head[1:], row[1:]):
                if cell:
                    assert (row[0], name) not in cells
                    cells[row[0], name] = cell.replace(" / ", "/")
    return cells


def test_every_number_of_the_papers_tables_is_as_published_and_none_is_missing():
    first, second = map(quoted_cells, PAGES.values())
    assert not first.keys() & second.keys()
    assert {row[:7] for row, _ in first} == {"Table 1", "Table 2"}
    assert first | second == CELLS


def test_eval_py_has_the_same_numbers_for_tables_1_to_5():
    methods = {"single task": "single", "MI, mean": "mi-reduce_mean", "MI, KL": "mi-mi_kl"}
    expected = {}
    for row, cells in PAPER.items():
        table, _, method = row.partition(": ")
        if table <= "Table 5":
            size = "small" if table == "Table 2" else "base"
            labels = "-labels_llm" if table == "Table 3" else ""
            name = f"{size}-{methods.get(method, method.lower())}{labels}"
            expected[name] = tuple(map(float, cells.split()))
    assert evaluation.PAPER == expected


def test_the_accuracies_of_table_1_that_no_single_run_can_give_are_those_named():
    def possible(cell, items):  # some k right answers of n round to it
        return any(f"{100 * k / items:.2f}" == cell for k in range(items + 1))

    odd = {name: [] for name in SETS}
    for (row, name), cell in CELLS.items():
        if row < "Table 6" and not possible(cell, SETS[name]):
            odd[name].append(cell)
    assert sum(map(len, odd.values())) == 6
    named = "; ".join(f"{name} {', '.join(cells)}" for name, cells in odd.items() if cells)
    text = one_line(text_of(MEASUREMENTS))
    claim = "Six accuracies of Table 1 are no fraction k/n of the n items of their test sets"
    assert f"{claim}: {named}." in text
    of_mi = {CELLS["Table 1: MI", name] for name in SETS}
    assert not of_mi & set(sum(odd.values(), [])) and f"{named}. None is MI's." in text
    assert "14.4 hours (T5-base) and 8.6 hours (T5-small)" in text  # on one A100


def test_the_standard_errors_in_the_readme_are_those_of_the_papers_mi_runs():
    def accuracies(name):
        return [float(CELLS[f"Table {table}: MI", name]) / 100 for table in (1, 2)]

    errors = {
        name: [f"{100 * math.sqrt(p * (1 - p) / n):.1f}" for p in accuracies(name)]
        for name, n in SETS.items()
    }
    assert errors["SVAMP"] == ["3.3", "3.5"] and errors["ANLI"] == ["1.6", "1.6"]
    assert errors["CQA"] == ["1.4", "1.4"] and errors["e-SNLI"] == ["0.3", "0.4"]
    said = (
        "3.3 (base) to 3.5 (small) points on SVAMP, 1.6 on ANLI, 1.4 on CQA, 0.3 to 0.4 on e-SNLI"
    )
    assert said in one_line(text_of(README))


def test_seven_of_eight_calibration_errors_of_table_6_contradict_table_1():
    def least_and_stated(table, method, name):
        error, confidence = map(Decimal, CELLS[f"Table 6: {method}", name].split("/"))
        return abs(Decimal(CELLS[f"{table}: {method}", name]) - confidence), error

    def impossible(table):
        found = []
        for method, name in product(("DSS", "MI"), SETS):
            least, stated = least_and_stated(table, method, name)
            if least > stated:
                found.append((method, name))
        return found

    head, rows = table_of(MEASUREMENTS, "least possible error / Table 6's, %")
    assert [row[0] for row in rows] == ["DSS", "MI"] and head[1:] == [*SETS]
    for method, *cells in rows:
        for name, cell in zip(SETS, cells):
            least, stated = least_and_stated("Table 1", method, name)
            assert cell == f"{least} / {stated}"
    assert len(impossible("Table 1")) == 7 and ("DSS", "ANLI") not in impossible("Table 1")
    expected = [("DSS", "e-SNLI"), ("DSS", "SVAMP"), ("MI", "e-SNLI"), ("MI", "ANLI")]
    assert impossible("Table 2") == expected
    text = one_line(text_of(MEASUREMENTS))
    assert "four cells would still be impossible: e-SNLI, DSS on SVAMP and MI on ANLI" in text
    assert "Only DSS on ANLI is possible. In the other seven cells" in text
    assert "[seven of eight]" in text_of(README).replace("\n", " ")


def test_the_example_by_hand_in_the_readme_is_what_the_code_computes():
    head, rows = table_of(README, "probability")
    columns = [[float(Fraction(cell)) for cell in column] for column in zip(*(r[1:] for r in rows))]
    label, rationale = (torch.tensor([columns[i : i + 2]]).log() for i in (0, 4))
    assert torch.allclose(label, test_mi_loss.LABEL)
    assert torch.allclose(rationale, test_mi_loss.RATIONALE)
    mask, ids = torch.tensor([[True, True]]), torch.tensor([[1, 2]])
    for first, log_p in (2, label), (6, rationale):
        f = mi_loss.log_f(log_p, mask, "max").exp()
        assert f[0].tolist() == pytest.approx(columns[first])
        assert (f / f.sum())[0].tolist() == pytest.approx(columns[first + 1])
    text = one_line(text_of(README))
    _, terms = mi_loss.objective([label, rationale], [ids, ids])
    names = {"mi": "2/5 ln 6", "prediction": "L_prediction", "generation": "L_generation"}
    names["loss"] = "and L"
    for name, words in names.items():
        assert f"{words} = {terms[name]:.5f}" in text
    words = {"eq9": "+ 1/6 ln(5/2) =", "kl": "`kl`:", "released": "`released`:"}
    for form, before in words.items():
        value = mi_loss.mi_loss(label, rationale, mask, mask, form)
        assert f"{before} {value:.5f}" in text


@needs_shared
def test_the_example_of_svamp_in_the_readme_is_a_released_one():
    head, rows = table_of(README, "")
    assert head[1] == "a training example of SVAMP, as published with DSS"
    text, label, rationale = (row[1] for row in rows)
    examples = data.load("svamp", "train", SHARED / "dss")
    assert (text, label, rationale) in [(one_line(e.input), e.label, e.rationale) for e in examples]


def test_the_glossary_names_every_field_that_a_run_writes(runs):
    written = set()
    for run in runs.values():
        for line in (run / "log.jsonl").read_text().splitlines():
            written |= json.loads(line).keys()
        written |= json.loads((run / "metrics.json").read_text()).keys()
    _, rows = table_of(README, "field")
    named = set(re.findall(r"`(\w+)`", " ".join(row[0] for row in rows)))
    assert named == written


# ------------------------------------------------------------------------------------------------
# names and links


@each_page
def test_every_file_of_ours_that_a_page_names_is_there(page):
    spans = " ".join(code_lines(text_of(page)))
    names = re.findall(r"(?<![\w./])(?:tests/)?\w+\.(?:py|md|txt)\b", spans)
    assert len(names) > 3 and [name for name in names if not (ROOT / name).is_file()] == []


def anchors_of(page):  # as GitHub makes them of headings
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\((?!https?:)([^)]*)\)", text_of(page))
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors_of(target), link
