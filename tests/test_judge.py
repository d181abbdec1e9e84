"""The judge of rationales, against a real HTTP server on this machine that misbehaves on demand.

    python -m pytest tests/test_judge.py
"""

import contextlib
import io
import json
import random
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import data
import eval as evaluation
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
            time.sleep(0.6)  # longer than PATIENCE here
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
        elif isinstance(behaviour, dict):  # a reply as it is
            self.reply(behaviour)
        elif behaviour.startswith("<"):  # no JSON
            self.send_response(200)
            self.end_headers()
            self.wfile.write(behaviour.encode())
        else:
            text = f"Fine.\nScore: {score(body)}" if behaviour == "answer" else behaviour
            self.reply(chat(text) | {"key": KEY})

    def reply(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    do_GET = do_POST

    def log_message(self, *_):
        pass


def chat(text, **choice):
    return {"choices": [{"message": {"content": text}} | choice]}


def score(body):  # the same for the same request, and not all equal
    return 1 + len(body["messages"][0]["content"]) % 5


@pytest.fixture
def endpoint(monkeypatch):
    Endpoint.behaviours, Endpoint.bodies, Endpoint.paths, Endpoint.keys = [], [], [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(evaluation, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(evaluation, "PATIENCE", 0.3)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(runs, tmp_path, monkeypatch):
    """A folder of its own with a run of 20 test examples, so that 80 requests are made."""
    monkeypatch.setattr(evaluation, "PERMUTATIONS", 99)
    monkeypatch.setattr(evaluation, "MAX_RATIONALE", 16)  # the student of 60 steps never stops
    for path in runs["mi"].glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def printed(*argv):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(out):
            argv = [str(value) for value in argv]
            evaluation.run_for_user("eval.py", lambda: evaluation.main(argv))
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
    assert out.count(f"grade {evaluation.mean_and_deviation(grades)}") == 2  # plain and ++
    assert "replies to one deviate by 0.00" in out and out.count("Pearson") == 2
    assert "replies 80 of 80, without a score 0" in out
    lines = lines_of(run / "judge.jsonl")
    assert [line["body"] for line in lines] == Endpoint.bodies
    assert len({line["custom_id"] for line in lines}) == 80 and key_is_nowhere(run, out)
    # the examples and the student's own rationales are in what was asked
    settings = json.loads((run / "settings.json").read_text())
    student = evaluation.Student(t5.load(run), data.Tokenizer(run / "spiece.model"), "mi", True, 64)
    examples = data.load("toy", "test", settings["data_root"])
    for example, text in zip(examples, evaluation.explain(student, examples, [])):
        assert any(example.input in a and f"Rationale: {text}\n" in a for a in asked)


RATE_LIMIT = {"error": {"message": "slow down", "code": 429}}
OVERLOADED = {"object": "error", "message": "overloaded", "code": "503"}


def test_a_rate_limit_an_error_a_hang_and_a_lost_connection_are_tried_again(run, endpoint):
    Endpoint.behaviours = [429, 500, "hang", "answer", "leave", 503, 408, "answer", RATE_LIMIT,
                           OVERLOADED, "<html>", "answer"]  # fmt: skip
    out = printed(run, "--judge", endpoint)
    assert "replies 80 of 80, without a score 0" in out and len(Endpoint.bodies) == 89
    assert len(lines_of(run / "judge.jsonl")) == 80 and key_is_nowhere(run, out)


def test_a_reply_without_a_score_is_counted_and_kept_and_not_guessed(run, endpoint):
    Endpoint.behaviours = ["I would say between 3 and 4.", "Score: 7", "Score: 4.5", "Score: (1-5)"]
    out = printed(run, "--judge", endpoint)
    assert "replies 80 of 80, without a score 4" in out and len(Endpoint.bodies) == 80
    printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 80  # it was a reply


@pytest.mark.parametrize("reply", [
    chat(None), chat(""), chat(" \n"), chat("", finish_reason="length"), {"choices": []},
    chat("The rationale says", finish_reason="length"),
    chat(None, finish_reason="length"), {"choices": [{}]}, {"choices": [None]}])  # fmt: skip
def test_a_reply_without_a_text_is_asked_again_at_the_next_run(run, endpoint, reply):
    Endpoint.behaviours = [reply, reply]
    assert "replies 78 of 80, without a score 0" in printed(run, "--judge", endpoint)
    out = printed(run, "--judge", endpoint)
    assert "replies 80 of 80, without a score 0" in out and len(Endpoint.bodies) == 82


REFUSED = {"error": {"message": "no such model", "code": "model_not_found"}}


@pytest.mark.parametrize("failure", [
    401, 404, 302, 307, [500] * 4, [429] * 4, ["hang"] * 4, ["<html>"] * 4, [RATE_LIMIT] * 4,
    REFUSED, {"error": "no"}, {"error": {"code": 400}}, {"error": None}, {}])  # fmt: skip
def test_what_came_before_a_failure_is_kept_and_not_asked_for_again(run, endpoint, failure):
    failure = failure if isinstance(failure, list) else [failure]
    Endpoint.behaviours = ["answer"] * 7 + failure
    out = printed(run, "--judge", endpoint)
    assert out.startswith("eval.py: ") and len(out.splitlines()) == 1
    assert "judge.jsonl" in out and "asks for the rest" in out
    assert len(lines_of(run / "judge.jsonl")) == 7 and len(Endpoint.bodies) == 7 + len(failure)
    assert "/other" not in Endpoint.paths and key_is_nowhere(run, out)
    with open(run / "judge.jsonl", "a") as file:
        file.write('\n{"custom_id": "gp')  # as a process that is killed leaves it
    Endpoint.bodies.clear()
    out = printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 73 and "replies 80 of 80, without a score 0" in out


def test_a_finished_judgement_is_read_again_and_another_one_asked_anew(run, endpoint):
    out = printed(run, "--judge", endpoint)
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
    monkeypatch.setattr(evaluation, "PAUSES", (0.01,))
    out = printed(run, "--judge", "http://127.0.0.1:1/v1")
    assert out.startswith("eval.py: ") and len(out.splitlines()) == 1


@pytest.mark.parametrize("given, asked", [
    ("/v1", "/v1/chat/completions"), ("/v1/", "/v1/chat/completions"), ("", "/chat/completions"),
    ("/v1/chat/completions", "/v1/chat/completions"),
    ("/openai/deployments/x?api-version=1", "/openai/deployments/x/chat/completions?api-version=1"),
    ("/v1/chat/completions?a=b&c=/d/", "/v1/chat/completions?a=b&c=/d/")])  # fmt: skip
def test_a_url_may_have_a_query_or_the_whole_path(run, endpoint, monkeypatch, given, asked):
    monkeypatch.setattr(evaluation, "JUDGED", 2)
    url = endpoint.removesuffix("/v1") + given
    assert "replies 8 of 8" in printed(run, "--judge", url) and set(Endpoint.paths) == {asked}


def test_a_judge_without_a_key_gets_none(run, endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "replies 80 of 80" in printed(run, "--judge", endpoint)
    assert set(Endpoint.keys) == {None}


def test_requests_and_replies_go_by_files_in_the_batch_format(run, tmp_path):
    requests, replies = tmp_path / "requests.jsonl", tmp_path / "replies.jsonl"
    out = printed(run, "--judge", requests, "--judge-model", "wise")
    assert "80 requests" in out and f"vllm run-batch -i {requests} -o replies.jsonl" in out
    before = requests.read_bytes()
    out = printed(run, "--judge", requests, "--judge-model", "wise")  # there are no replies in it
    assert "expected replies with a score" in out and requests.read_bytes() == before
    asked = lines_of(requests)
    for line in asked:
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        assert line["body"]["model"] == "wise" and list(line["body"]) == ["model", "messages"]
    assert len({line["custom_id"] for line in asked}) == 80
    assert max(len(line["custom_id"]) for line in asked) <= 64
    # the replies as vllm run-batch and the provider write them: in any order, some of them failed
    grades = np.random.default_rng(0).integers(1, 6, (20, 4)).tolist()
    lines = []
    for number, (line, grade) in enumerate(zip(asked, sum(grades, []))):
        text = f"Score: {grade}" if grade % 2 else f"It is so.\n**Score: {grade}/5**"
        body = chat(text) if number % 3 else json.dumps(chat(text))  # an object, or its JSON
        response = {"status_code": 200, "request_id": "r", "body": body}
        lines.append({"id": f"batch_{number}", "custom_id": line["custom_id"],
                      "response": response, "error": None})  # fmt: skip
    lines[0] |= {"response": {"status_code": 429, "body": RATE_LIMIT}}
    lines[5] |= {"response": None, "error": {"code": "batch_expired", "message": "late"}}
    lines[10]["response"]["body"] = chat("I can't tell.")
    random.Random(0).shuffle(lines)
    replies.write_text("\n".join(map(json.dumps, lines)))
    out = printed(run, "--judge", replies, "--judge-model", "wise")
    rows = [list(row) for row in grades]
    del rows[0][0], rows[1][1], rows[2][2]
    plain = [row[0] for row in rows]
    mean = [np.mean(row) for row in rows]
    within = np.mean([np.std(row) for row in rows])
    for name, quality in (("plain", plain), ("++", mean)):
        assert re.search(rf"^{re.escape(name)}.* grade "
                         + re.escape(evaluation.mean_and_deviation(quality)), out, re.MULTILINE)
    assert f"deviate by {within:.2f}" in out and "replies 78 of 80, without a score 1" in out
    # appended to the requests they are found too, and whatever the order of the requests' keys
    requests.write_bytes(before + replies.read_bytes())
    assert printed(run, "--judge", requests, "--judge-model", "wise") == out
    # another model's replies are not these
    assert "found 0 replies" in printed(run, "--judge", replies, "--judge-model", "other")


def test_a_custom_id_tells_run_example_repeat_model_and_text_apart():
    examples = [data.Example("a", "b", "", ""), data.Example("a", "b", "", "")]
    ids = set()
    for rationales, model in ((["x", "x"], "m"), (["x", "y"], "m"), (["x", "x"], "n")):
        asked = evaluation.judge_requests(examples, rationales, model)
        assert len({request["custom_id"] for _, request in asked}) == 8
        ids |= {request["custom_id"] for _, request in asked}
    assert len(ids) == 8 + 4 + 8  # the second row of the second call is another text
    assert evaluation.judge_requests(examples, ["x", "x"], "n") == asked  # and they are stable


@pytest.mark.parametrize("reply, grade", [
    ("Score: 4", 4), ("score = 5.", 5), ("3", 3), (" 3.\n", 3), ("**Score:** 4", 4), ("4/5", 4),
    ("**Score: 4**", 4), ("Score: **4**.", 4), ("Score: 4/5", 4), ("Score: **4** / 5", 4),
    ("It is.\n\nScore: 2", 2),
    ("Score: 4 / 5.", 4), ("### Score: 1", 1), ("`Score: 3`", 3), ("SCORE: 2  \n\n", 2),
    (chat("Score: 2"), 2), (json.dumps(chat("Score: 2")), 2),
    (json.dumps(chat("So.\nScore: 5.")), 5),
    ("<think>Score: 1</think>\nScore: 4", 4), ("It may be 2.</think>Score: 4", 4),
    ("<think>One.\nScore: 1\n</think>\n\nIt leads.\n**Score: 3**", 3), ("{so}\nScore: 3", 3),
    ("Score: 6", None), ("Score: 45", None), ("Score: 4.5", None), ("", None), ("Score: 0", None),
    ("The rationale has 3 parts.", None), ('{"choices": []}', None), ("null", None), ("34", None),
    (json.dumps(chat(None)), None), (chat(None), None), ({}, None), (None, None), ([], None),
    ("Score: (1-5)", None), ("I grade 1 to 5.\nScore (1-5)", None), ("Score: 4/10", None),
    ("4/10", None), ("Score: 4-5", None), ("Score: -4", None), ("<think>\nScore: 4", None),
    ("<think>Score: 4", None), ("Score: 2\nNo: Score: 1", None),
    ("Score: 2\nIt lacks 3 steps.", None),
    ("Score: 4\nScore: 5 would need more.", None), ("Score: 4\n\n(1 is worst)", None),
    ("There are two steps:\n2", None), ({"error": {"code": 429}}, None), ("Score:", None),
    ("<think>a</think>Score: 5\n<think>Score: 3", None), (chat("<think>Score: 3"), None),
    (json.dumps({"error": {"message": "Score: 3"}}), None), ('{"score": 4}', None),
])  # fmt: skip
def test_a_grade_is_the_verdict_line_and_never_guessed(reply, grade):
    assert evaluation.grade(reply) == grade
