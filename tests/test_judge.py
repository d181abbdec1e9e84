"""The judge of rationales: the `openai` package, against a server on this machine.

python -m pytest tests/test_judge.py
"""

import json
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import data
import eval as evaluation
import t5
from test_eval import printed, refused, student_of

KEY = "sk-a-key-of-nobody"
ALL = "80 replies, 0 without a score"


def chat(content):
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def score(body):  # the same for the same request, and not all equal
    return 1 + len(body["messages"][0]["content"]) % 5


class Endpoint(BaseHTTPRequestHandler):
    """Does the next of `behaviours`: a status, a reply, or (None) answers with the `score`.

    A path that begins with /kind is another server, whose every score is 5.
    """

    behaviours, bodies, heads = [], [], []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        self.heads.append((self.path, self.headers["Authorization"]))
        behaviour = self.behaviours.pop(0) if self.behaviours else None
        if behaviour == "leave":
            return self.connection.close()
        status = behaviour if isinstance(behaviour, int) else 200
        kind, text = "application/json", json.dumps(behaviour)
        if behaviour is None:
            grade = 5 if self.path.startswith("/kind") else score(body)
            text = json.dumps(chat(f"So.\nScore: {grade}"))
        elif status != 200:  # as some servers do, with what they were sent
            text = json.dumps({"error": {"message": f"no: {self.headers['Authorization']}"}})
        elif isinstance(behaviour, str):
            kind, text = behaviour.split(";")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

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
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")  # with the line break that ends a file
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(runs, tmp_path, monkeypatch):
    """A folder of its own with a run of 20 test examples, so that 80 requests are made."""
    monkeypatch.setattr(t5, "MAX_TARGET", 16)  # a student of 60 steps often doesn't stop
    return shutil.copytree(runs["mi"], tmp_path / "run")


def test_each_rationale_is_asked_about_four_times_and_the_grades_are_right(run, endpoint):
    out = printed(run, "--judge", endpoint, "--judge-model", "wise")
    asked = Counter(body["messages"][0]["content"] for body in Endpoint.bodies)
    assert len(asked) == 20 and set(asked.values()) == {4}
    assert {body["model"] for body in Endpoint.bodies} == {"wise"}
    assert set(Endpoint.heads) == {("/v1/chat/completions", f"Bearer {KEY}")}
    assert f"80 requests to {endpoint}\n" in out and ALL in out
    grades = [score(body) for body in Endpoint.bodies[::4]]
    assert out.count(f"grade {evaluation.mean_and_deviation(grades)}") == 2  # plain and ++
    # the examples, in any order, and the student's own rationales, fenced, are in what was asked
    student = student_of(run)
    answers = evaluation.answer_texts(student, [example.input for example in student.examples])
    right = evaluation.mark_answers(student, student.examples, answers)
    grades = []
    for example, answer in zip(student.examples, answers):
        fenced = f"Answer: {example.label}\n<rationale>\n{answer.rationale}\n</rationale>"
        [text] = [text for text in asked if f"Task: {example.input}\n{fenced}" in text]
        grades.append(1 + len(text) % 5)
    r, low, high = evaluation.pearson(grades, right)
    assert out.count(f"right answer {r:.2f}, 95% interval {low:.2f} to {high:.2f}\n") == 2


def test_what_stands_in_an_example_is_no_place_of_the_prompt(run, endpoint):
    line = {"input": "a {label}", "label": "{rationale}", "rationale": "{task} {}"}
    (run / "test.jsonl").write_text(json.dumps(line))
    printed(run, "--judge", endpoint, "--judge-teacher", "--dataset", run)
    text = Endpoint.bodies[0]["messages"][0]["content"]
    assert "Task: a {label}\nAnswer: {rationale}\n<rationale>\n{task} {}\n</rationale>" in text


def test_of_a_large_set_50_examples_are_drawn_and_only_those_decoded(
    run, endpoint, tmp_path, monkeypatch
):
    generate, decoded = t5.T5.generate, []

    def count(model, source, limit):
        decoded.append(len(source))
        return generate(model, source, limit)

    monkeypatch.setattr(t5.T5, "generate", count)
    data.write_toy(tmp_path / "large", {"train": 100, "test": 70}, seed=1)
    out = printed(run, "--judge", endpoint, "--data-root", tmp_path / "large")
    assert "200 requests" in out and sum(decoded) == 50 + 50  # a label and a rationale each


def test_replies_are_kept_for_their_url_and_model_and_a_second_command_sends_nothing(run, endpoint):
    first = printed(run, "--judge", endpoint)
    other = endpoint.replace("/v1", "/kind/v1")
    assert "grade 5.00 ± 0.00 (20)" in printed(run, "--judge", other)
    assert len(Endpoint.bodies) == 160
    again = printed(run, "--judge", endpoint)
    assert again == first.replace("80 requests", "0 requests") and len(Endpoint.bodies) == 160
    printed(run, "--judge", endpoint, "--judge-model", "other")
    out = printed(run, "--judge", endpoint, "--judge-teacher")
    assert "rationales of the teacher" in out and "Pearson" not in out
    assert len(Endpoint.bodies) == 320


def test_a_server_that_needs_no_key_and_fails_at_times_is_asked_again(run, endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    Endpoint.behaviours.extend([429, 500, None, "leave", 503, None, 408])
    assert ALL in printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 85


def test_a_server_that_says_nothing_is_given_up_within_five_minutes(run, endpoint, monkeypatch):
    openai, clients = pytest.importorskip("openai"), []

    class Recorded(openai.OpenAI):
        def __init__(self, **settings):
            super().__init__(**settings)
            clients.append(self)

    monkeypatch.setattr(openai, "OpenAI", Recorded)
    printed(run, "--judge", endpoint)
    [client] = clients
    assert client.timeout * (1 + client.max_retries) < 300


NO_SCORES = [chat("I would say between 3 and 4."), chat("Score: 7"), chat(None), 400]


def test_a_reply_without_a_score_is_counted_and_kept_and_not_guessed(run, endpoint):
    Endpoint.behaviours.extend([None, *NO_SCORES])
    for requests in (80, 0):  # they were replies: the second time nothing is asked
        out = printed(run, "--judge", endpoint)
        assert f"{requests} requests" in out and "80 replies, 4 without a score" in out
    assert len(Endpoint.bodies) == 80 and KEY not in (run / "judge.jsonl").read_text()


@pytest.mark.parametrize("first", [[chat("Good.")] * 4, [400] * 4, NO_SCORES])
def test_four_first_replies_without_a_score_end_the_command_and_are_not_kept(run, endpoint, first):
    Endpoint.behaviours.extend(first)
    said = refused(run, "--judge", endpoint)
    assert "no `Score: N` in the first 4 replies" in said and KEY not in said
    assert ("Good." in said) == (first[0] == chat("Good.")) and len(Endpoint.bodies) == 4
    assert ALL in printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 84


def test_a_student_whose_rationales_are_all_blank_is_refused_before_it_is_judged(runs, endpoint):
    assert "rationales of" in refused(runs["finetune"], "--judge", endpoint)
    assert not Endpoint.bodies


def test_content_in_parts_is_joined(run, endpoint):
    parts = [{"type": "text", "text": "So.\n"}, {"type": "text", "text": "Score: 2"}]
    parts.insert(0, {"type": "thinking", "thinking": []})
    Endpoint.behaviours.extend([chat(parts)] * 80)
    assert "grade 2.00 ± 0.00 (20)" in printed(run, "--judge", endpoint)


PAGE, STREAM = "text/html;<html>Sign in</html>", 'text/event-stream;data: {"choices": []}\n\n'
NO_CHATS = [PAGE, STREAM, "application/json;<html>", {"choices": []}, {"error": "no"}, 404]


@pytest.mark.parametrize("reply", NO_CHATS)
def test_what_is_no_chat_reply_ends_in_a_line_that_asks_for_v1(run, endpoint, reply):
    Endpoint.behaviours.append(reply)
    assert "Does the URL end in /v1?" in refused(run, "--judge", endpoint)


@pytest.mark.parametrize("failure", [[401], [500] * 3, [429] * 3, ["leave"] * 3, [PAGE]])
def test_what_came_before_a_failure_is_kept_and_not_asked_for_again(run, endpoint, failure):
    Endpoint.behaviours.extend([None] * 7 + failure)
    said = refused(run, "--judge", endpoint)
    assert said.endswith("The same command asks for the rest.\n") and KEY not in said
    assert len(Endpoint.bodies) == 7 + len(failure)
    assert ALL in printed(run, "--judge", endpoint)
    assert len(Endpoint.bodies) == 7 + len(failure) + 73


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://[::1/v1", "ftp://host"])
def test_an_endpoint_that_cannot_be_reached_is_one_line(run, endpoint, url):
    assert f"{url}: no chat reply: " in refused(run, "--judge", url)


def test_a_key_with_a_line_break_inside_is_refused_and_not_shown(run, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    said = refused(run, "--judge", endpoint)
    assert "OPENAI_API_KEY: expected" in said and KEY not in said and not Endpoint.bodies


def test_an_openai_package_older_than_its_http_library_is_named(run, endpoint, monkeypatch):
    def fail(**_):  # as openai 1.40 does with httpx 0.28
        raise TypeError("Client.__init__() got an unexpected keyword argument 'proxies'")

    monkeypatch.setattr(pytest.importorskip("openai"), "OpenAI", fail)
    assert "pip install -U openai" in refused(run, "--judge", endpoint)


# texts with a verdict of 4, and without any: bare, marked, thought about, cut off
BARE = ["Score: 4", "score = 4.", "4", " 4.\n", "4/5", "Score: 4/5", "Score: 4 / 5.", "SCORE: 4\n"]
MARKED = ["**Score:** 4", "**Score: 4**", "Score: **4**.", "Score: **4** / 5", "### Score: 4"]
LAST = ["It is.\n\nScore: 4", "`Score: 4`", "{so}\nScore: 4", "It may be 2.</think>Score: 4"]
THOUGHT = ["<think>Score: 1</think>\nScore: 4", "<think>\nScore: 1\n</think>\n\nSo.\n**Score: 4**"]
NUMBERS = ["Score: 6", "Score: 45", "Score: 4.5", "Score: 0", "34", "Score: -4", "4/10", "Score:"]
RANGES = ["Score: (1-5)", "I grade 1 to 5.\nScore (1-5)", "Score: 4/10", "Score: 4-5"]
NO_VERDICT = ["", "It has 3 parts.", "Two steps:\n2", "Score: 2\nNo: Score: 1", "(Score: 4)"]
NOT_LAST = ["Score: 4\nScore: 5 would need more.", "Score: 2\nIt lacks 3 steps.", "Score: 4\n\n(1)"]
CUT_OFF = ["<think>\nScore: 4", "<think>Score: 4", "<think>a</think>Score: 5\n<think>Score: 3"]


@pytest.mark.parametrize("text", BARE + MARKED + LAST + THOUGHT)
def test_a_grade_is_the_verdict_of_the_last_line(text):
    assert evaluation.grade(text) == 4 and evaluation.grade("Score: 2") == 2


@pytest.mark.parametrize("text", NUMBERS + RANGES + NO_VERDICT + NOT_LAST + CUT_OFF)
def test_a_grade_is_never_guessed(text):
    assert evaluation.grade(text) is None
