"""The judge of rationales, against a real HTTP server on this machine that misbehaves on demand.

    python -m pytest tests/test_judge.py
"""

import contextlib
import io
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import data
import eval as judge
import t5

KEY = "sk-a-secret-that-may-stand-nowhere"


class Endpoint(BaseHTTPRequestHandler):
    """Takes the next of `behaviours`; when there is none left, answers with `score` of the body."""

    behaviours, bodies, paths, keys = [], [], [], []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        self.paths.append(self.path)
        self.keys.append(self.headers.get("Authorization"))
        behaviour = self.behaviours.pop(0) if self.behaviours else "answer"
        if behaviour == "hang":
            time.sleep(1.5)  # longer than PATIENCE here
        elif behaviour == "leave":
            self.connection.close()
        elif isinstance(behaviour, int):
            self.send_response(behaviour)
            if behaviour == 429:
                self.send_header("Retry-After", "0")
            if behaviour in (302, 307):
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/other")
            self.end_headers()
            self.wfile.write(f"no, said to {self.headers.get('Authorization')}".encode())
        else:
            text = f"Fine. Score: {score(body)}" if behaviour == "answer" else behaviour
            reply = {"choices": [{"message": {"content": text}}], "key": KEY}
            reply = json.dumps(reply) if behaviour != "<html>" else behaviour
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply.encode())

    do_GET = do_POST

    def log_message(self, *_):
        pass


def score(body):  # the same for the same request, and not all equal
    return 1 + len(body["messages"][0]["content"]) % 5


@pytest.fixture
def endpoint(monkeypatch):
    Endpoint.behaviours, Endpoint.bodies, Endpoint.paths, Endpoint.keys = [], [], [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(judge, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(judge, "PATIENCE", 0.5)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(runs, tmp_path, monkeypatch):
    """A folder of its own with a run of 20 test examples, so that 80 requests are made."""
    monkeypatch.setattr(judge, "MAX_RATIONALE", 32)  # the student of 80 steps has no end
    for path in runs["mi"].glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def printed(*argv):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(out):
            judge.run_for_user("eval.py", lambda: judge.main([str(value) for value in argv]))
    return out.getvalue()


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def key_is_nowhere(run, out):
    return KEY not in out and not any(KEY.encode() in p.read_bytes() for p in run.glob("*.*"))


def test_each_rationale_is_asked_about_four_times_and_the_grades_are_right(run, endpoint):
    out = printed(run, "--judge", endpoint, "--judge-model", "wise")
    asked = Counter(body["messages"][0]["content"] for body in Endpoint.bodies)
    assert len(asked) == 20 and set(asked.values()) == {4}
    assert {body["model"] for body in Endpoint.bodies} == {"wise"}
    assert set(Endpoint.paths) == {"/v1/chat/completions"}
    assert set(Endpoint.keys) == {f"Bearer {KEY}"}
    grades = [score(body) for body in Endpoint.bodies[::4]]
    assert f"grade {judge.mean_and_deviation(grades)}" in out
    assert "replies to one deviate by 0.00" in out
    assert "replies 80 of 80, without a score 0" in out and "Pearson" in out
    assert [line["request"] for line in lines_of(run / "judge.jsonl")] == Endpoint.bodies
    assert key_is_nowhere(run, out)
    # the examples and the student's own rationales are in what was asked
    model, tokenizer = t5.load(run), data.Tokenizer(run / "spiece.model")
    settings = json.loads((run / "settings.json").read_text())
    examples = data.load("toy", "test", settings["data_root"])
    for example, text in zip(examples, judge.explain(model, tokenizer, examples, "mi", [])):
        assert any(example.input in a and f"Rationale: {text}\n" in a for a in asked)


def test_a_rate_limit_an_error_a_hang_and_a_lost_connection_are_tried_again(run, endpoint):
    Endpoint.behaviours = [429, 500, "hang", "answer", "leave", 503, 408, "answer"]
    out = printed(run, "--judge", endpoint)
    assert "replies 80 of 80, without a score 0" in out and len(Endpoint.bodies) == 86
    assert len(lines_of(run / "judge.jsonl")) == 80 and key_is_nowhere(run, out)


def test_nonsense_is_counted_and_kept_and_not_guessed(run, endpoint):
    Endpoint.behaviours = ["<html>", "I would say between 3 and 4.", "Score: 7", "Score: 4.5", ""]
    out = printed(run, "--judge", endpoint)
    assert "replies 80 of 80, without a score 5" in out and len(Endpoint.bodies) == 80
    assert lines_of(run / "judge.jsonl")[0]["reply"] == "<html>"


@pytest.mark.parametrize("failure", [401, 404, 302, 307, [500] * 4, [429] * 4, ["hang"] * 4])
def test_what_came_before_a_failure_is_kept_and_not_asked_for_again(run, endpoint, failure):
    failure = failure if isinstance(failure, list) else [failure]
    Endpoint.behaviours = ["answer"] * 7 + failure
    out = printed(run, "--judge", endpoint)
    assert out.startswith("eval.py: ") and len(out.splitlines()) == 1
    assert "judge.jsonl" in out and "asks for the rest" in out
    assert len(lines_of(run / "judge.jsonl")) == 7 and len(Endpoint.bodies) == 7 + len(failure)
    assert "/other" not in Endpoint.paths and key_is_nowhere(run, out)
    with open(run / "judge.jsonl", "a") as file:
        file.write('\n{"request": {"model": "gp')  # as a process that is killed leaves it
    Endpoint.bodies.clear()
    out = printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 73 and "replies 80 of 80, without a score 0" in out
    Endpoint.bodies.clear()
    assert printed(run, "--judge", endpoint) == out and not Endpoint.bodies  # nothing is asked
    assert printed(run, "--judge", run / "judge.jsonl") == out  # and without the endpoint
    # another judge is asked anew, and so are the teacher's rationales
    printed(run, "--judge", endpoint, "--judge-model", "other")
    assert len(Endpoint.bodies) == 80
    out = printed(run, "--judge", endpoint, "--judge-teacher")
    assert len(Endpoint.bodies) == 160 and "the teacher's: rationales" in out
    assert "Pearson" not in out


def test_an_endpoint_that_is_not_there_is_one_line(run, monkeypatch):
    monkeypatch.setattr(judge, "PAUSES", (0.01,))
    for url in ("http://127.0.0.1:1/v1", "nonsense://host", "http://[bad"):
        out = printed(run, "--judge", url)
        assert out.startswith("eval.py: ") and len(out.splitlines()) == 1


def test_a_judge_without_a_key_gets_none(run, endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "replies 80 of 80" in printed(run, "--judge", endpoint)
    assert set(Endpoint.keys) == {None}


def test_requests_and_replies_go_by_file_too(run, tmp_path):
    file = tmp_path / "requests.jsonl"
    assert "80 requests" in printed(run, "--judge", file)
    assert "expected replies with a score" in printed(run, "--judge", file)  # none is there yet
    lines, rng = lines_of(file), np.random.default_rng(0)
    grades = rng.integers(1, 6, (20, 4))
    for line, grade in zip(lines, grades.flat):
        line["reply"] = f"{grade}" if grade % 2 else f"It is so.\n**Score: {grade}/5**"
    lines[0]["reply"] = None  # one is missing
    file.write_text("\n".join(map(json.dumps, lines)))
    out = printed(run, "--judge", file)
    means = [np.mean(row[i == 0 :]) for i, row in enumerate(grades)]
    within = np.mean([np.std(row[i == 0 :]) for i, row in enumerate(grades)])
    assert f"grade {judge.mean_and_deviation(means)}" in out
    assert f"deviate by {within:.2f}" in out and "replies 79 of 80, without a score 0" in out


@pytest.mark.parametrize("reply, grade", [
    ("Score: 4", 4), ("score = 5.", 5), ("3", 3), (" 3.\n", 3), ("Score: 2\nNo: Score: 1", 1),
    ('{"choices": [{"message": {"content": "Score: 2"}}]}', 2), ("**Score:** 4", 4),
    ("Score: 4/5", 4), ("Score: 6", None), ("Score: 45", None), ("Score: 4.5", None), ("", None),
    ("The rationale has 3 parts.", None), ('{"choices": []}', None), ("Score: 0", None),
    ('{"choices": [{"message": {"content": null}}]}', None), ("null", None), ("34", None),
])  # fmt: skip
def test_a_grade_is_read_and_not_guessed(reply, grade):
    assert judge.grade(reply) == grade
