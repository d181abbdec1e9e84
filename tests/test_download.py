"""data.py's downloads, from a server on this machine that stands for the hub and for GitHub.

python -m pytest tests/test_download.py
"""

import hashlib
import io
import json
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import data
import t5

FILES = {"spiece.model": b"pieces" * 9, "model.safetensors": b"weights" * 9_999}
REPOSITORY, COMMIT = data.PUBLISHED["small"]
ARCHIVE = "/datasets.zip"
SPIECE, WEIGHTS = (f"/{REPOSITORY}/resolve/{COMMIT}/{name}" for name in FILES)


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's `answers`: {path: (status, headers, body)}."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        status, headers, body = self.server.answers.get(path, (404, {}, b"no such thing"))
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if body == b"stalls":
            self.server.ended.wait(30)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answers, server.ended = [], {}, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    set_timeout = socket.setdefaulttimeout
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: set_timeout(seconds / 20))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "DSS", server.url + ARCHIVE)
    server.answers[ARCHIVE] = 200, {}, pinned(monkeypatch, zipped(SVAMP))
    server.answers[SPIECE], server.answers[WEIGHTS] = ((200, {}, x) for x in FILES.values())
    spiece, weights = (hashlib.sha256(body).hexdigest() for body in FILES.values())
    monkeypatch.setattr(data, "SHA256", {"small": weights, "spiece.model": spiece})
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    set_timeout(None)


SVAMP = {"README": "x" * 20_000, "b/svamp/SVAMP.json": "[]", "b/cqa/cqa_test.json": "unread"}
for split in ("train", "test"):
    line = json.dumps({"input": f"A {split}?", "label": "( 1.0 + 1.0 )"})
    SVAMP[f"a/b/svamp/svamp_{split}.json"] = f"{line}\n{line}\n"
    SVAMP[f"a/b/svamp/llm/{split}_CoT_0.json"] = '["So. The answer is (2).", "No."]'


def zipped(members):
    with zipfile.ZipFile(file := io.BytesIO(), "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return file.getvalue()


def pinned(monkeypatch, content):
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    monkeypatch.setattr(data, "DSS_BLOB", blob)
    return content


def files(folder):
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# ---- the published sets ----


def test_the_archive_is_fetched_once_and_its_sets_load(server, tmp_path):
    for split in ("train", "test", "train"):
        first, second = data.load("svamp", split, tmp_path)
        assert first == data.Example(f"A {split}?", "( 1.0 + 1.0 )", "So.", "(2)")
        assert second == data.Example(f"A {split}?", "( 1.0 + 1.0 )", "", "")
    assert server.asked == [ARCHIVE]
    ours = "svamp_train", "svamp_test", "llm/train_CoT_0", "llm/test_CoT_0"
    assert files(tmp_path).keys() == {"cqa/cqa_test.json", *(f"svamp/{x}.json" for x in ours)}


def test_whatever_names_an_archive_holds_only_sets_are_written(server, tmp_path, monkeypatch):
    hostile = ["/anli1/anli1_test.json", "../../cqa/cqa_test.json", "a/../../esnli/esnli_test.json"]
    hostile += ["..\\svamp\\svamp_valid.json", "svamp/llm/../../../x_CoT_0.json"]
    hostile += ["../evil/evil_test.json", "svamp/svamp_test.json/../../../evil.json"]
    content = zipped(dict.fromkeys(hostile, "evil"))
    server.answers[ARCHIVE] = 200, {}, pinned(monkeypatch, content)
    with pytest.raises(FileNotFoundError, match="svamp_train.json"):
        data.load("svamp", "train", tmp_path / "sets")
    inside = {f"sets/{name}/{name}_test.json" for name in ("anli1", "cqa", "esnli")}
    assert files(tmp_path).keys() == inside
    assert not any("evil" in path.name for path in tmp_path.parent.glob("*"))


NLI = {"premise": "A.", "hypothesis": "B.", "label": 1}
BOTH = SVAMP | {
    "esnli/esnli_train.json": json.dumps(NLI),
    "esnli/llm/train_CoT_0.json": '["So. Answer: neutral"]',
    "svamp/llm/train_CoT_1.json": '["No."]',
}


@pytest.mark.parametrize("url", ["http", "file"])
def test_a_split_that_is_there_keeps_every_byte(server, tmp_path, monkeypatch, url):
    """Here trimmed and edited; the archive has one file more for it."""
    content, root = pinned(monkeypatch, zipped(BOTH)), tmp_path / "sets"
    server.answers[ARCHIVE] = 200, {}, content
    if url == "file":
        (tmp_path / "datasets.zip").write_bytes(content)
        monkeypatch.setattr(data, "DSS", (tmp_path / "datasets.zip").as_uri())
    edited = {
        "svamp/svamp_train.json": b'{"input": "Mine?", "label": "( 7 )"}',
        "svamp/llm/train_CoT_0.json": b'["Mine. The answer is (7)."]',
        "cqa/llm/test_CoT_0.json": b"half a set, as a kill leaves it",
    }
    for name, body in edited.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    [example] = data.load("esnli", "train", root)
    assert example == data.Example("A.</s>B.", "neutral", "So.", "neutral")
    assert files(root).items() >= edited.items() and "cqa/cqa_test.json" in files(root)
    assert data.load("svamp", "train", root) == [data.Example("Mine?", "( 7 )", "Mine.", "(7)")]
    assert len(data.load("svamp", "test", root)) == 2


def test_what_is_missing_and_a_root_that_cant_be_written_are_named(server, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DSS", f"{server.url}/nothing")
    with pytest.raises(t5.InputError, match=r"404.*esnli/esnli_train.json is missing"):
        data.load("esnli", "train", tmp_path)
    monkeypatch.setattr(data, "DSS", server.url + ARCHIVE)
    (tmp_path / "file").touch()
    server.asked.clear()
    with pytest.raises(OSError, match=f"File exists: '{tmp_path}/file'"):
        data.load("svamp", "train", tmp_path / "file")
    assert server.asked == []


# ---- the presets ----


def test_a_presets_files_are_fetched_once_and_its_config_is_the_presets(server, tmp_path):
    server.answers["/elsewhere"] = server.answers[WEIGHTS]  # the hub, too, redirects to large files
    server.answers[WEIGHTS] = 302, {"Location": "/elsewhere"}, b""
    for _ in range(2):
        folder = data.published("small", folder=tmp_path)
        assert files(folder).items() >= FILES.items()
        assert t5.read_config(folder / "config.json") == t5.PRESETS["small"]
        assert server.asked == [SPIECE, WEIGHTS, "/elsewhere"]
    other = data.published("small", ["spiece.model"], tmp_path / "other")
    assert files(other).keys() == {"spiece.model", "config.json"}


def test_the_weights_of_v1_1_are_a_pickle_without_a_checksum(server, tmp_path):
    repository, commit = data.PUBLISHED["v1_1-base"]
    for name, body in ("spiece.model", FILES["spiece.model"]), ("pytorch_model.bin", b"pickle"):
        server.answers[f"/{repository}/resolve/{commit}/{name}"] = 200, {}, body
    folder = data.published("v1_1-base", folder=tmp_path)
    assert files(folder).keys() == {"config.json", "spiece.model", "pytorch_model.bin"}
    assert t5.read_config(folder / "config.json") == t5.PRESETS["v1_1-base"]
    with pytest.raises(t5.InputError, match="pytorch_model.bin: .* delete it and run again"):
        t5.load(folder)


DOWNLOADS = [
    (lambda folder: data.load("svamp", "train", folder), ARCHIVE, "--data-root"),
    (lambda folder: data.published("small", folder=folder), WEIGHTS, "--weights"),
]
FAILURES = {
    "404": (404, {}, b"gone"),
    "another file": (200, {}, zipped(SVAMP | {"more": "x"})),
    "a web page": (200, {}, b"<html>sign in</html>"),
    "cut off": (200, {"Content-Length": 10_000}, b"cut off"),
    "redirect to a file": (302, {"Location": "file:///etc/hostname"}, b""),
    "stalls": (200, {"Content-Length": 10_000}, b"stalls"),
    "server down": None,
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("get, path, flag", DOWNLOADS, ids=["sets", "model"])
def test_a_failed_download_leaves_one_line(server, tmp_path, monkeypatch, get, path, flag, failure):
    good, server.answers[path] = server.answers[path], FAILURES[failure]
    if failure == "server down":
        server.shutdown()
        server.server_close()
    with pytest.raises(t5.InputError) as error:
        get(tmp_path)
    message = str(error.value)
    assert "\n" not in message and flag in message and server.url in message
    assert "timed out" in message or failure != "stalls"
    assert files(tmp_path).keys() <= {"small/spiece.model"}  # which comes first
    if failure != "server down":
        server.answers[path] = good
        assert get(tmp_path)  # the next call succeeds


def test_presets_that_cannot_be_fetched_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")  # no URL
    for size, words in ("small", "mirror.example"), ("tiny", "add --from-scratch"):
        with pytest.raises(t5.InputError, match=f"^[^\n]*{words}[^\n]*$"):
            data.published(size, folder=tmp_path)
