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
    archive = zipped(SVAMP)
    blob = hashlib.sha1(b"blob %d\0" % len(archive) + archive).hexdigest()
    monkeypatch.setattr(data, "DSS_BLOB", blob)
    server.answers[ARCHIVE] = 200, {}, archive
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


def test_a_split_whose_lines_are_there_is_left_alone_and_half_a_split_completed(server, tmp_path):
    kept = {
        "svamp/svamp_train.json": b'{"input": "Mine?", "label": "( 7 )"}',
        "svamp/llm/test_CoT_0.json": b'["Mine.", "Mine."]',  # half a split, as a kill leaves it
    }
    for name, body in kept.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(body)
    assert len(data.load("svamp", "test", tmp_path)) == 2
    assert files(tmp_path).items() >= kept.items()
    assert "svamp/llm/train_CoT_0.json" not in files(tmp_path)


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


DOWNLOADS = [
    (lambda folder: data.load("svamp", "train", folder), ARCHIVE, "--data-root"),
    (lambda folder: data.published("small", folder=folder), WEIGHTS, "--weights"),
]
FAILURES = {
    "404": (404, {}, b"gone"),
    "a web page": (200, {}, b"<html>sign in</html>"),
    "cut off": (200, {"Content-Length": 10_000}, b"cut off"),
    "stalls": (200, {"Content-Length": 10_000}, b"stalls"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("get, path, flag", DOWNLOADS, ids=["sets", "model"])
def test_a_failed_download_leaves_one_line(server, tmp_path, get, path, flag, failure):
    good, server.answers[path] = server.answers[path], FAILURES[failure]
    with pytest.raises(t5.InputError) as error:
        get(tmp_path)
    message = str(error.value)
    assert "\n" not in message and flag in message and server.url in message
    assert "timed out" in message or failure != "stalls"
    assert files(tmp_path).keys() <= {"small/spiece.model"}  # which comes first
    server.answers[path] = good
    assert get(tmp_path)  # the next call succeeds


def test_presets_that_cannot_be_fetched_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")  # no URL
    for size, words in ("small", "mirror.example"), ("tiny", "add --from-scratch"):
        with pytest.raises(t5.InputError, match=f"^[^\n]*{words}[^\n]*$"):
            data.published(size, folder=tmp_path)
