"""The judge of rationales: the `openai` package, against a server on this machine.

python -m pytest tests/test_judge.py
"""

import json
import random
import re
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import data
import eval as evaluation
import t5
from test_eval import printed, refused

KEY = "sk-a-key-of-nobody"
ALL = "80 of 80 replies, 0 without a score"


def chat(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def score(body):  # the same for the same request, and not all equal
    return 1 + len(body["messages"][0]["content"]) % 5


class Endpoint(BaseHTTPRequestHandler):
    """Does the next of `behaviours`: a status, a reply, or (None) answers with the `score`."""

    behaviours, bodies, heads = [], [], []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        self.heads.append((self.path, self.headers["Authorization"]))
        behaviour = self.behaviours.pop(0) if self.behaviours else None
        if behaviour == "leave":
            return self.connection.close()
        self.send_response(behaviour if isinstance(behaviour, int) else 200)
        kind = "text/html" if behaviour == "<html>" else "application/json"
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(json.dumps(behaviour or chat(f"So.\nScore: {score(body)}")).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    client = pytest.importorskip("openai")._base_client
    for wait in ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"):  # seconds before the package retries
        monkeypatch.setattr(client, wait, 0.01)
    for seen in (Endpoint.behaviours, Endpoint.bodies, Endpoint.heads):
        seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(runs, tmp_path, monkeypatch):
    """A folder of its own with a run of 20 test examples, so that 80 requests are made."""
    monkeypatch.setattr(t5, "MAX_TARGET", 16)  # a student of 60 steps often doesn't stop
    monkeypatch.setattr(evaluation, "PERMUTATIONS", 99)
    return shutil.copytree(runs["mi"], tmp_path / "run")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_each_rationale_is_asked_about_four_times_and_the_grades_are_right(run, endpoint):
    out = printed(run, "--judge", endpoint, "--judge-model", "wise")
    asked = Counter(body["messages"][0]["content"] for body in Endpoint.bodies)
    assert len(asked) == 20 and set(asked.values()) == {4}
    assert {body["model"] for body in Endpoint.bodies} == {"wise"}
    assert set(Endpoint.heads) == {("/v1/chat/completions", f"Bearer {KEY}")}
    grades = [score(body) for body in Endpoint.bodies[::4]]
    assert out.count(f"grade {evaluation.mean_and_deviation(grades)}") == 2  # plain and ++
    assert ALL in out and "scores, on average: 0.00" in out and out.count("Pearson") == 2
    assert [line["body"] for line in lines_of(run / "judge.jsonl")] == Endpoint.bodies
    assert KEY not in out + (run / "judge.jsonl").read_text()
    # the examples and the student's own rationales are in what was asked
    student = evaluation.load_student(run, evaluation.parse([str(run), "--device", "cpu"]))
    answers = evaluation.answer_texts(student, [example.input for example in student.examples])
    for example, answer in zip(student.examples, answers):
        parts = example.input, f"Rationale: {answer.rationale}\n"
        assert any(all(part in text for part in parts) for text in asked)


def test_of_a_large_set_50_examples_are_drawn_and_only_those_decoded(run, monkeypatch):
    generate, decoded = t5.T5.generate, []

    def count(model, source, limit):
        decoded.append(len(source))
        return generate(model, source, limit)

    monkeypatch.setattr(t5.T5, "generate", count)
    out = printed(run, "--split", "train", "--judge", run / "requests.jsonl")
    assert "200 requests" in out and sum(decoded) == 50 + 50  # a label and a rationale each
    texts = {line["body"]["messages"][0]["content"] for line in lines_of(run / "requests.jsonl")}
    assert len(texts) == 50


def test_a_prompt_of_the_users_own_is_filled_in_and_its_brackets_stay(run, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text('é {"score": {}} {task}|{label}|{rationale}|{rationale}\nScore: N', "utf-8")
    printed(run, "--judge", tmp_path / "ours.jsonl")
    printed(run, "--judge", tmp_path / "own.jsonl", "--judge-prompt", path)
    ours, own = (lines_of(tmp_path / f"{name}.jsonl") for name in ("ours", "own"))
    assert not {x["custom_id"] for x in ours} & {x["custom_id"] for x in own}
    for a, b in zip(ours, own, strict=True):
        text = b["body"]["messages"][0]["content"]
        head, label, rationale, again = text.removesuffix("\nScore: N").split("|")
        assert again == rationale and head.startswith('é {"score": {}} ')
        task = head.removeprefix('é {"score": {}} ')
        parts = f"Task: {task}\nAnswer: {label}\nRationale: {rationale}\n"
        assert parts in a["body"]["messages"][0]["content"]


def test_what_stands_in_a_rationale_is_no_place_of_the_prompt():
    example = data.Example("a {label}", "{rationale}", "", "")
    request = evaluation.judge_requests([example], ["{task}"], "m", "{task};{label};{rationale}")[0]
    assert request["body"]["messages"][0]["content"] == "a {label};{rationale};{task}"


PROMPTS = [b"{task}{label}{label}", b"{task}{rationale}{lable}", b"{task}{label}{rationale}\xff"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_that_lacks_a_place_or_is_no_text_is_refused(run, tmp_path, prompt):
    path = tmp_path / "prompt.txt"
    path.write_bytes(prompt)
    said = refused(run, "--judge", tmp_path / "out.jsonl", "--judge-prompt", path)
    assert f"{path}: expected a text in UTF-8 with {{task}}, {{label}} and {{rationale}}" in said
    assert not (tmp_path / "out.jsonl").exists()


def test_a_server_that_needs_no_key_and_fails_at_times_is_asked_again(run, endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    Endpoint.behaviours.extend([429, 500, None, "leave", 503, 408])
    assert ALL in printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 85 and len(lines_of(run / "judge.jsonl")) == 80


def test_a_reply_without_a_score_is_counted_and_kept_and_not_guessed(run, endpoint):
    texts = ["I would say between 3 and 4.", "Score: 7", "Score: 4.5", "Score: (1-5)"]
    Endpoint.behaviours.extend(map(chat, texts))
    for _ in range(2):  # it was a reply: the second time nothing is asked
        assert "80 of 80 replies, 4 without a score" in printed(run, "--judge", endpoint)
        assert len(Endpoint.bodies) == 80


@pytest.mark.parametrize("reply", [chat(None), chat(" \n"), {"choices": []}, {"error": "no"}])
def test_a_reply_without_a_text_is_asked_again_at_the_next_run(run, endpoint, reply):
    Endpoint.behaviours.extend([reply, reply])
    assert "78 of 80 replies, 0 without a score" in printed(run, "--judge", endpoint)
    assert ALL in printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 82


@pytest.mark.parametrize("failure", [[401], [404], [500] * 7, [429] * 7, ["leave"] * 7, ["<html>"]])
def test_what_came_before_a_failure_is_kept_and_not_asked_for_again(run, endpoint, failure):
    Endpoint.behaviours.extend([None] * 7 + failure)
    assert re.search("judge.jsonl.* asks for the rest", refused(run, "--judge", endpoint))
    assert len(lines_of(run / "judge.jsonl")) == 7 and len(Endpoint.bodies) == 7 + len(failure)
    with open(run / "judge.jsonl", "a") as file:
        file.write('\n{"custom_id": "gp')  # as a process that is killed leaves it
    Endpoint.bodies.clear()
    assert ALL in printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 73


def test_a_finished_judgement_is_read_again_and_another_one_asked_anew(run, endpoint):
    out = printed(run, "--judge", endpoint)
    Endpoint.bodies.clear()
    assert printed(run, "--judge", endpoint) == out and not Endpoint.bodies  # nothing is asked
    assert printed(run, "--judge", run / "judge.jsonl") == out  # and without the endpoint
    # another judge is asked anew, and so are the teacher's rationales
    printed(run, "--judge", endpoint, "--judge-model", "other")
    assert len(Endpoint.bodies) == 80
    out = printed(run, "--judge", endpoint, "--judge-teacher")
    assert len(Endpoint.bodies) == 160 and "rationales of the teacher" in out
    assert "Pearson" not in out


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "ftp://host"])
def test_an_endpoint_that_cannot_be_reached_is_one_line(run, endpoint, url):
    assert url in refused(run, "--judge", url)


def test_requests_and_replies_go_by_files_in_the_batch_format(run, tmp_path):
    requests, replies = tmp_path / "my requests.jsonl", tmp_path / "replies.jsonl"
    flags = run, "--judge-model", "wise", "--judge"
    assert f"vllm run-batch -i '{requests}' -o replies.jsonl" in printed(*flags, requests)
    before = requests.read_bytes()
    assert f"{requests}: these are requests" in refused(*flags, requests)
    assert requests.read_bytes() == before
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
        lines.append({"custom_id": line["custom_id"], "response": response, "error": None})
    lines[0]["response"] = {"status_code": 429, "body": {"error": {"message": "slow down"}}}
    lines[5] |= {"response": None, "error": {"code": "batch_expired", "message": "late"}}
    lines[10]["response"]["body"] = chat("I can't tell.")
    random.Random(0).shuffle(lines)
    replies.write_text("\n".join(map(json.dumps, lines)))
    out = printed(*flags, replies)
    rows = [list(row) for row in grades]
    del rows[0][0], rows[1][1], rows[2][2]
    first, mean = [row[0] for row in rows], [np.mean(row) for row in rows]
    assert f"plain: the first score   grade {evaluation.mean_and_deviation(first)}" in out
    assert f"++: the mean             grade {evaluation.mean_and_deviation(mean)}" in out
    assert f"on average: {np.mean([np.std(row) for row in rows]):.2f}" in out
    assert "78 of 80 replies, 1 without a score" in out
    # appended to the requests they are found too; another model's replies are not these
    requests.write_bytes(before + replies.read_bytes())
    assert printed(*flags, requests) == out
    assert "78 replies, none of them to these requests" in refused(run, "--judge", replies)


FAILED = [  # a line of a file without a reply: as OpenAI writes it, vLLM, and another server
    {"response": {"status_code": 401, "body": {"error": {"message": 'No "key"\nis here'}}}},
    {"response": None, "error": {"code": "batch_expired", "message": 'No "key"\nis here'}},
    {"response": {"status_code": 400, "body": None}, "error": 'No "key"\nis here'},
    {"response": {"status_code": 404, "body": {"detail": 'No "key"\nis here'}}, "error": None},
]


def test_a_file_of_errors_or_without_a_score_says_what_is_wrong(run, tmp_path, monkeypatch):
    requests, replies = tmp_path / "requests.jsonl", tmp_path / "replies.jsonl"
    printed(run, "--judge", requests)
    student = evaluation.load_student(run, evaluation.parse([str(run)]))
    texts = [example.input for example in student.examples]
    answers = dict(zip(texts, evaluation.answer_texts(student, texts)))  # written once
    monkeypatch.setattr(evaluation, "answer_texts", lambda _, texts: [*map(answers.get, texts)])
    ids = [{"custom_id": request["custom_id"]} for request in lines_of(requests)]

    def refused_with(*lines):
        replies.write_text("\n".join(map(json.dumps, lines)))
        return refused(run, "--judge", replies).removeprefix(f"eval.py: {replies}: ")

    later = {"error": {"message": "of another line"}}
    for line in FAILED:
        said = refused_with(*(i | line for i in ids[:-1]), ids[-1] | later)
        assert said == 'no reply; the first error is "No \\"key\\"\\nis here"\n'
    answered = [i | {"response": {"status_code": 200, "body": chat("Good.")}} for i in ids]
    said = refused_with(ids[0] | line, *answered[1:])
    assert said.startswith("no score in 79 replies: expected `Score: N`")
    for line in answered:  # a judge that was cut off in its thoughts
        line["response"]["body"] = chat(None)
    for lines in (answered, [], ["a,b"]):
        assert "Batch format, found no reply with a text" in refused_with(*lines)


def test_a_custom_id_tells_example_repeat_model_and_text_apart():
    examples, ids = [data.Example("a", "b", "", "")] * 2, set()
    for rationales, model in ((["x", "x"], "m"), (["x", "y"], "m"), (["x", "x"], "n")):
        asked = evaluation.judge_requests(examples, rationales, model)
        ids |= {request["custom_id"] for request in asked}
    assert len(ids) == 8 + 4 + 8  # the second row of the second call is another text
    assert evaluation.judge_requests(examples, ["x", "x"], "n") == asked  # and they are stable


# replies with a verdict of 4, and without any: bare, marked, thought about, cut off, no chat at all
BARE = ["Score: 4", "score = 4.", "4", " 4.\n", "4/5", "Score: 4/5", "Score: 4 / 5.", "SCORE: 4\n"]
MARKED = ["**Score:** 4", "**Score: 4**", "Score: **4**.", "Score: **4** / 5", "### Score: 4"]
LAST = ["It is.\n\nScore: 4", "`Score: 4`", "{so}\nScore: 4", "It may be 2.</think>Score: 4"]
THOUGHT = ["<think>Score: 1</think>\nScore: 4", "<think>\nScore: 1\n</think>\n\nSo.\n**Score: 4**"]
CHATS = [chat("Score: 4"), json.dumps(chat("Score: 4")), json.dumps(chat("So.\nScore: 4."))]
NUMBERS = ["Score: 6", "Score: 45", "Score: 4.5", "Score: 0", "34", "Score: -4", "4/10", "Score:"]
RANGES = ["Score: (1-5)", "I grade 1 to 5.\nScore (1-5)", "Score: 4/10", "Score: 4-5"]
NO_VERDICT = ["", "null", "It has 3 parts.", "Two steps:\n2", "Score: 2\nNo: Score: 1"]
NOT_LAST = ["Score: 4\nScore: 5 would need more.", "Score: 2\nIt lacks 3 steps.", "Score: 4\n\n(1)"]
CUT_OFF = ["<think>\nScore: 4", "<think>Score: 4", "<think>a</think>Score: 5\n<think>Score: 3"]
NO_CHAT = [chat(None), json.dumps(chat(None)), {}, None, [], '{"choices": []}', '{"score": 4}']
ERRORS = [{"error": {"code": 429}}, json.dumps({"error": {"message": "Score: 3"}})]
UNCLEAR = NUMBERS + RANGES + NO_VERDICT + NOT_LAST + CUT_OFF + NO_CHAT + ERRORS


@pytest.mark.parametrize("reply", BARE + MARKED + LAST + THOUGHT + CHATS)
def test_a_grade_is_the_verdict_of_the_last_line(reply):
    assert evaluation.grade(reply) == 4 and evaluation.grade("Score: 2") == 2


@pytest.mark.parametrize("reply", UNCLEAR)
def test_a_grade_is_never_guessed(reply):
    assert evaluation.grade(reply) is None
