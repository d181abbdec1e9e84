"""data.py's downloads, from a server on this machine that plays the hub and GitHub.

    python -m pytest tests/test_download.py
"""

import hashlib
import io
import json
import multiprocessing
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import data
from t5 import InputError

WEIGHTS = b"weights" * 9_999
FILES = {"config.json": b"{}", "spiece.model": b"pieces" * 9, "model.safetensors": WEIGHTS}
ARCHIVE, HUB = f"/{data.DSS}/datasets.zip", "/someone/t5-tiny/resolve/main/"


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's `answers`, {path: (status, headers, body)}, or a list of them, one a
    request, of which the last stays. A body of several parts comes with a pause after each."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.ranges.append(self.headers.get("Range"))
        answer = self.server.answers.get(self.path, (404, {}, b"no such thing"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        status, headers, body = answer
        parts = [body] if isinstance(body, bytes) else body
        if status:  # else what comes is not HTTP
            self.send_response(status)
            for name, value in ({"Content-Length": sum(map(len, parts))} | headers).items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
        for i, part in enumerate(parts):
            if self.server.ended.wait(self.server.pause if i else 0):
                break
            try:
                self.wfile.write(part)
            except ConnectionError:  # the client has had enough
                break

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.ranges, server.pause, server.ended = [], [], 0.0, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.answers = {HUB + name: (200, {}, body) for name, body in FILES.items()}
    server.answers[ARCHIVE] = 200, {}, archive(monkeypatch)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name, value in (("ENDPOINT", server.url), ("HOME", str(tmp_path / "hf"))):
        monkeypatch.setenv(f"HF_{name}", value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "PAUSES", (0.01, 0.02, 0.04))
    monkeypatch.setattr(data, "GITHUB", server.url)
    sums = {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items()}
    monkeypatch.setattr(data, "SPIECE_SHA256", sums["spiece.model"])
    model = "someone/t5-tiny@main", "model.safetensors", sums["model.safetensors"]
    monkeypatch.setitem(data.PUBLISHED, "small", model)
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


def archive(monkeypatch):
    """The bytes of a datasets.zip with SVAMP at some depth, which is made the pinned one."""
    members = {"README": "x" * 20_000, "b/svamp/SVAMP.json": "[]", "b/cqa/cqa_test.json": "unread"}
    for split in ("train", "test"):
        line = json.dumps({"input": f"A {split}?", "label": "( 1.0 + 1.0 )"})
        members[f"a/b/svamp/svamp_{split}.json"] = f"{line}\n{line}\n"
        members[f"a/b/svamp/llm/{split}_CoT_0.json"] = '["So. The answer is (2).", "No."]'
    with zipfile.ZipFile(file := io.BytesIO(), "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return pin(monkeypatch, file.getvalue())


def pin(monkeypatch, content):
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content)
    monkeypatch.setattr(data, "DSS_BLOB", digest.hexdigest())
    return content


def files(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def get_sets(tmp_path):
    return data.load("svamp", "train", tmp_path / "sets")


def get_model(tmp_path):
    return data.published("small", folder=tmp_path / "weights")


both = pytest.mark.parametrize("get, path, flag", [
    (get_sets, ARCHIVE, "--data-root"), (get_model, HUB + "model.safetensors", "--weights"),
], ids=["sets", "model"])  # fmt: skip


def test_the_archive_is_fetched_once_and_its_sets_load(server, tmp_path):
    expected = ("( 1.0 + 1.0 )", "So.", "(2)"), ("( 1.0 + 1.0 )", "", "")
    assert get_sets(tmp_path) == [data.Example("A train?", *rest) for rest in expected]
    test = data.load("svamp", "test", tmp_path / "sets")
    assert test == [data.Example("A test?", *rest) for rest in expected]
    assert server.asked == [ARCHIVE]
    ours = "svamp_train", "svamp_test", "llm/train_CoT_0", "llm/test_CoT_0"
    assert files(tmp_path / "sets").keys() == {
        "cqa/cqa_test.json", *(f"svamp/{name}.json" for name in ours)}  # fmt: skip
    with pytest.raises(FileNotFoundError, match="anli1_train.json.*datasets.zip"):
        data.load("anli1", "train", tmp_path / "sets")


def zipped(more=(), **fields):
    """The bytes of an archive of one set and `more`; its directory says `fields` of the last."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in ("a/svamp/llm/train_CoT_0.json", "a/svamp/svamp_train.json", *more):
            bundle.writestr(name, "evil" * 99)
        for field, value in fields.items():
            setattr(bundle.filelist[-1], field, value)
    return file.getvalue()


BAD_ARCHIVES = {
    "absolute": zipped(["/anli1/anli1_test.json"]), "above": zipped(["../../cqa/cqa_test.json"]),
    "above from within": zipped(["a/svamp/../../../cqa/cqa_train.json"]),
    "backslashes": zipped(["..\\cqa\\cqa_test.json"]), "of Windows": zipped(["\\cqa_test.json"]),
    "3 GB": zipped(file_size=3 * 10**9), "more than declared": zipped(file_size=50),
    "another sum": zipped(CRC=1), "encrypted": zipped(flag_bits=1),
    "another method": zipped(compress_type=99), "an offset beyond it": zipped(header_offset=10**6),
    "no zip": b"<html>sign in</html>", "empty": b"PK\5\6" + bytes(18), "cut": zipped()[:-50],
    "without its middle": zipped()[:60] + zipped()[90:],
    "other bytes": zipped()[:60] + b"\xff\0\xff" + zipped()[63:],
}  # fmt: skip


@pytest.mark.parametrize("content", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
def test_a_hostile_or_damaged_archive_is_one_line_and_leaves_nothing_anywhere(
    server, tmp_path, monkeypatch, content
):
    pin(monkeypatch, content)
    server.answers[ARCHIVE] = 200, {}, content
    with pytest.raises((InputError, FileNotFoundError)) as error:
        get_sets(tmp_path)
    message = str(error.value)
    assert "\n" not in message and server.url + ARCHIVE in message and len(message) < 300
    assert files(tmp_path) == {}


def test_a_models_files_arrive_whole_and_are_not_fetched_again(server, tmp_path):
    folder = get_model(tmp_path)
    assert {name: path.read_bytes() for name, path in files(folder).items()} == FILES
    assert sorted(server.asked) == sorted(HUB + name for name in FILES)
    (folder / "config.json").unlink()
    assert get_model(tmp_path) == folder and server.asked[3:] == [HUB + "config.json"]
    assert data.published("small", ["spiece.model"], tmp_path / "other").name == "small"
    assert files(tmp_path / "other").keys() == {"small/spiece.model"}


@pytest.mark.parametrize("revision", ["main", "0123abc"])
def test_a_copy_in_the_hubs_cache_is_used_before_any_request(
    server, tmp_path, monkeypatch, revision
):
    model = f"someone/t5-tiny@{revision}", "model.safetensors", None
    monkeypatch.setitem(data.PUBLISHED, "small", model)
    cache = tmp_path / "hf" / "hub" / "models--someone--t5-tiny"
    for folder in ("refs", "snapshots/0123abc"):
        (cache / folder).mkdir(parents=True)
    (cache / "refs" / "main").write_text("0123abc")
    for i, name in enumerate(FILES):
        with pytest.raises(InputError, match="--weights"):  # it is not there, and asked for
            server.answers.clear()
            data.published("small", [name], tmp_path / "weights")
        assert len(server.asked) == i + 1
        (cache / "snapshots" / "0123abc" / name).write_bytes(b"x")
    assert get_model(tmp_path) == cache / "snapshots" / "0123abc" and len(server.asked) == 3


@both
@pytest.mark.parametrize("answer", [
    (404, {}, b"gone"), (500, {}, b"broken"), (302, {"Location": "/nowhere"}, b""),
    (302, {"Location": "file:///etc/hostname"}, b""), (416, {}, b"no such range"), (200, {}, b""),
    (200, {"Content-Length": 10_000}, b"cut off"), (0, {}, b"no HTTP\r\n"), (0, {}, b""),
    (200, {"Transfer-Encoding": "chunked"}, b"ff\r\ncut off"), (200, {}, b"another sum"), None,
], ids=["404", "500", "redirect to nothing", "redirect to a file", "416", "empty",
        "cut off", "no HTTP", "hung up", "cut-off chunks",
        "checksum", "server down"])  # fmt: skip
def test_a_failed_download_is_one_line_with_its_url_and_is_never_taken_for_whole(
    server, tmp_path, get, path, flag, answer
):
    good, server.answers[path] = server.answers[path], answer
    if answer is None:
        server.shutdown()
        server.server_close()
        path = path.replace("model.safetensors", "config.json")  # the first that it asks for
    with pytest.raises(InputError) as error:
        get(tmp_path)
    message = str(error.value)
    assert "\n" not in message and server.url + path in message
    assert flag in message or "nothing is kept" in message
    part = {"sets/datasets.zip.part", "weights/small/model.safetensors.part"}
    left = {name: file for name, file in files(tmp_path).items() if name in part}
    assert all(file.read_bytes() == b"cut off" for file in left.values())
    assert files(tmp_path).keys() - part <= {f"weights/small/{name}" for name in list(FILES)[:2]}
    if answer is not None:
        server.answers[path] = good
        assert get(tmp_path)  # the next try succeeds


@pytest.mark.parametrize("name, headers, body", [
    ("spiece.model", {}, b"other"), ("config.json", {"Content-Length": 10_000}, b"cut off"),
    ("config.json", {"Content-Length": None}, b"{}"), ("config.json", {}, b"")])  # fmt: skip
def test_another_vocabulary_and_what_can_not_be_known_whole_are_refused_and_not_kept(
    server, tmp_path, name, headers, body
):
    server.answers[HUB + name] = 200, headers, body
    with pytest.raises(InputError, match=HUB + name):
        get_model(tmp_path)
    assert files(tmp_path).keys() == {"weights/small/config.json"} - {f"weights/small/{name}"}


def ranged(start, body):
    return 206, {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, body[start:]


SUM, WHOLE, REST = hashlib.sha256(WEIGHTS).hexdigest(), (200, {}, WEIGHTS), ranged(1_000, WEIGHTS)
CUT = 200, {"Content-Length": len(WEIGHTS)}, WEIGHTS[:1_000]
BUSY, NO_RANGE, AGAIN = (503, {}, b"busy"), (416, {}, b""), "bytes=1000-"


@pytest.mark.parametrize("part, answers, ranges", [  # what an earlier call left
    (b"", [CUT, REST], [None, AGAIN]), (b"", [CUT, BUSY, (0, {}, b""), REST], [None] + 3 * [AGAIN]),
    (b"", [CUT, WHOLE], [None, AGAIN]),  # all of it, whatever was asked for
    (b"", [CUT, NO_RANGE, WHOLE], [None, AGAIN, None]),
    (b"", [CUT, ranged(900, WEIGHTS), REST], [None, AGAIN, AGAIN]),
    (b"", [(200, {"Content-Length": None}, WEIGHTS)], [None]),  # its checksum says that it is whole
    (WEIGHTS[:1_000], [REST], [AGAIN]), (WEIGHTS, [NO_RANGE, WHOLE], ["bytes=69993-", None]),
])  # fmt: skip
def test_an_interrupted_download_goes_on_where_it_was(server, tmp_path, part, answers, ranges):
    (tmp_path / "file.part").write_bytes(part)
    server.answers["/file"] = list(answers)
    data.fetch(server.url + "/file", tmp_path / "file", SUM)
    assert (tmp_path / "file").read_bytes() == WEIGHTS and server.ranges == ranges
    assert files(tmp_path).keys() == {"file"}


def test_a_part_of_something_else_is_dropped_and_without_a_checksum_every_part(server, tmp_path):
    server.answers["/file"] = [REST, WHOLE, WHOLE]
    for digest in (SUM, None):
        (tmp_path / "file.part").write_bytes(b"x" * 1_000)
        if digest:
            with pytest.raises(InputError, match="^[^\n]*checksum[^\n]*nothing is kept$"):
                data.fetch(server.url + "/file", tmp_path / "file", digest)
            assert files(tmp_path) == {}
        data.fetch(server.url + "/file", tmp_path / "file", digest)
        assert files(tmp_path).keys() == {"file"}
        assert files(tmp_path).popitem()[1].read_bytes() == WEIGHTS
        (tmp_path / "file").unlink()
    assert server.ranges == [AGAIN, None, None]


@both
def test_a_killed_download_is_gone_on_with_by_the_next_call(server, tmp_path, get, path, flag):
    body, server.pause = server.answers[path][2], 30
    server.answers[path] = [(200, {}, [body[:16_384], body[16_384:]]), ranged(16_384, body)]
    process = multiprocessing.get_context("fork").Process(target=get, args=[tmp_path])
    process.start()
    deadline = time.time() + 8
    while not any(file.stat().st_size == 16_384 for file in files(tmp_path).values()):
        assert time.time() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert get(tmp_path) and server.ranges[-1] == "bytes=16384-"
    assert not any(name.endswith((".part", ".zip")) for name in files(tmp_path))


@pytest.mark.parametrize("body, pause, tries", [
    ([b"some", b"more"], 30, 2), ([b"x"] * 999, 0.1, 4), ([b"", b"never"], 30, 1),
], ids=["stalls", "trickles", "silent"])  # fmt: skip
def test_a_server_that_stalls_or_trickles_is_given_up(
    server, tmp_path, monkeypatch, body, pause, tries
):
    monkeypatch.setattr(data, "PATIENCE", 0.5)
    server.answers[HUB + "config.json"], server.pause = (200, {}, body), pause
    began = time.time()
    with pytest.raises(InputError, match="timed out|fewer than 16 KB"):
        get_model(tmp_path)
    assert time.time() - began < 5 and len(server.asked) <= tries and files(tmp_path) == {}


def test_without_a_network_a_download_fails_within_a_minute(tmp_path):
    began = time.time()
    with pytest.raises(OSError):
        data.fetch("http://no-such-host.invalid/", tmp_path / "file")
    assert time.time() - began < 60 and files(tmp_path) == {}


@both
def test_a_redirect_is_followed(server, tmp_path, get, path, flag):
    server.answers["/elsewhere"] = server.answers[path]
    server.answers[path] = 302, {"Location": server.url + "/elsewhere"}, b""
    assert get(tmp_path) and "/elsewhere" in server.asked


def test_a_mirror_that_is_no_url_is_refused_in_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(InputError, match="mirror.example.*--weights"):
        get_model(tmp_path)


@pytest.mark.parametrize("get", [get_sets, get_model])
def test_two_processes_that_want_the_same_files_at_once_share_one_download(server, tmp_path, get):
    for path, (status, headers, body) in server.answers.items():
        server.answers[path] = status, headers, [body[:2], body[2:]]
    server.pause = 0.5  # so that both have come before it is there
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=get, args=[tmp_path], daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    get(tmp_path)
    assert len(server.asked) == len(set(server.asked))
    assert not any(name.endswith((".tmp", ".zip", ".part")) for name in files(tmp_path))


def test_two_processes_that_write_the_toy_data_at_once_leave_it_whole(tmp_path):
    code = "import data, sys; data.load('toy', 'train', sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "both")]
    root = Path(__file__).resolve().parent.parent
    for process in [subprocess.Popen(command, cwd=root) for _ in range(2)]:
        assert process.wait(60) == 0
    data.write_toy(tmp_path / "one")
    both, one = files(tmp_path / "both"), files(tmp_path / "one")
    assert both.keys() == one.keys()
    assert all(both[name].read_bytes() == one[name].read_bytes() for name in one)
