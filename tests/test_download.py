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
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import data
from t5 import InputError

FILES = {"config.json": b"{}", "spiece.model": b"pieces" * 9, "model.safetensors": b"weights" * 999}
ARCHIVE, HUB = f"/{data.DSS}/datasets.zip", "/someone/t5-tiny/resolve/main/"


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's `answers`, {path: (status, headers, body)}."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.together.wait(timeout=20)  # for the clients that a test expects at once
        status, headers, body = self.server.answers.get(self.path, (404, {}, b"no such thing"))
        if status:  # else what comes is not HTTP
            self.send_response(status)
            for name, value in ({"Content-Length": len(body)} | headers).items():
                self.send_header(name, value)
            self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.together = [], threading.Barrier(1)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.answers = {HUB + name: (200, {}, body) for name, body in FILES.items()}
    server.answers[ARCHIVE] = 200, {}, archive(monkeypatch)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name, value in (("ENDPOINT", server.url), ("HOME", str(tmp_path / "hf"))):
        monkeypatch.setenv(f"HF_{name}", value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "GITHUB", server.url)
    sums = {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items()}
    monkeypatch.setattr(data, "SPIECE_SHA256", sums["spiece.model"])
    model = "someone/t5-tiny@main", "model.safetensors", sums["model.safetensors"]
    monkeypatch.setitem(data.PUBLISHED, "small", model)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def archive(monkeypatch, extra={}):
    """The bytes of a datasets.zip with SVAMP at some depth, which is made the pinned one."""
    members = {"README": "x", "a/b/svamp/SVAMP.json": "[]", "a/b/cqa/cqa_test.json": "unread"}
    for split in ("train", "test"):
        line = json.dumps({"input": f"A {split}?", "label": "( 1.0 + 1.0 )"})
        members[f"a/b/svamp/svamp_{split}.json"] = f"{line}\n{line}\n"
        members[f"a/b/svamp/llm/{split}_CoT_0.json"] = '["So. The answer is (2).", "No."]'
    with zipfile.ZipFile(file := io.BytesIO(), "w") as bundle:
        for name, content in (members | extra).items():
            bundle.writestr(name, content)
    digest = hashlib.sha1(b"blob %d\0" % len(file.getvalue()) + file.getvalue())
    monkeypatch.setattr(data, "DSS_BLOB", digest.hexdigest())
    return file.getvalue()


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


def test_no_member_of_the_archive_is_written_outside_the_folder(server, tmp_path, monkeypatch):
    outside = [f"{tmp_path}/anli1/anli1_test.json", "../../anli1/anli1_train.json", "../evil.json",
               "a/svamp/../../../cqa/cqa_train.json", "..\\anli1\\anli1_valid.json",
               "svamp/llm/../../../esnli/llm/x_CoT_0.json", "a/svamp/llm/../../x.json"]  # fmt: skip
    server.answers[ARCHIVE] = 200, {}, archive(monkeypatch, dict.fromkeys(outside, "evil"))
    assert len(get_sets(tmp_path)) == 2
    assert [name for name in files(tmp_path) if name.split("/")[0] != "sets"] == []
    folders = {path.parent.name for path in files(tmp_path / "sets").values()}
    assert folders <= {*data.MARKERS, "llm"}


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
    (200, {"Content-Length": 10_000}, b"cut off"), (0, {}, b"no HTTP\r\n"), (0, {}, b""),
    (200, {"Transfer-Encoding": "chunked"}, b"ff\r\ncut off"), (200, {}, b"another sum"), None,
], ids=["404", "500", "redirect to nothing", "cut off", "no HTTP", "hung up", "cut-off chunks",
        "checksum", "server down"])  # fmt: skip
def test_a_failed_download_is_one_line_with_its_url_and_leaves_nothing(
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
    assert files(tmp_path).keys() <= {"weights/small/config.json", "weights/small/spiece.model"}
    if answer is not None:
        server.answers[path] = good
        assert get(tmp_path)  # the next try succeeds


@pytest.mark.parametrize("name, headers", [
    ("spiece.model", {}), ("config.json", {"Content-Length": 10_000})])  # fmt: skip
def test_another_vocabulary_and_a_cut_off_file_without_a_checksum_are_refused(
    server, tmp_path, name, headers
):
    server.answers[HUB + name] = 200, headers, b"other"
    with pytest.raises(InputError, match=HUB + name):
        get_model(tmp_path)
    assert files(tmp_path).keys() == {"weights/small/config.json"} - {f"weights/small/{name}"}


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
def test_two_processes_that_want_the_same_files_at_once_leave_them_whole(server, tmp_path, get):
    server.together = threading.Barrier(2)  # no answer before both have asked
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=get, args=[tmp_path], daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    asked = len(server.asked)
    assert asked % 2 == 0
    get(tmp_path)
    assert len(server.asked) == asked  # all is there, and nothing else
    assert not any(name.endswith((".tmp", ".zip", ".tsv")) for name in files(tmp_path))


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
