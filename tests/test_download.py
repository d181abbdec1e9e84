"""data.py's downloads, from a server on this machine that stands for the hub and for GitHub.

python -m pytest tests/test_download.py
"""

import hashlib
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import data
import t5

ROOT = Path(__file__).resolve().parent.parent
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
        if self.command == "GET":
            self.wfile.write(body)
        if body == b"stalls":
            self.server.ended.wait(30)

    do_HEAD = do_GET

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
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    monkeypatch.setattr(data, "DSS", server.url + ARCHIVE)
    server.answers[ARCHIVE] = 200, {}, pinned(monkeypatch, zipped(SVAMP))
    put_on_hub(server, REPOSITORY, COMMIT, FILES)
    spiece, weights = (hashlib.sha256(body).hexdigest() for body in FILES.values())
    monkeypatch.setattr(data, "SHA256", {"small": weights, "spiece.model": spiece})
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    set_timeout(None)


def put_on_hub(server, repository, revision, files):
    """Serve a model as the hub does: its revision, the list of its files, and each file."""
    commit = "a" * 40 if revision == "main" else revision
    sums = {name: hashlib.sha1(body).hexdigest() for name, body in files.items()}
    info = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
    tree = [{"type": "file", "path": n, "size": len(files[n]), "oid": sums[n]} for n in files]
    for what, value in {f"revision/{revision}": info, f"tree/{commit}": tree}.items():
        headers, body = {"Content-Type": "application/json"}, json.dumps(value).encode()
        server.answers[f"/api/models/{repository}/{what}"] = 200, headers, body
    for name, body in files.items():
        headers = {"ETag": f'"{sums[name]}"', "X-Repo-Commit": commit}
        server.answers[f"/{repository}/resolve/{commit}/{name}"] = 200, headers, body


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


# ---- the published sets, and presets without the optional package ----


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


DOWNLOADS = [
    (lambda folder: data.load("svamp", "train", folder), ARCHIVE, "--data-root"),
    (lambda folder: data.published("small", folder=folder), WEIGHTS, "--weights"),
]
FAILURES = {
    "404": (404, {}, b"gone"),
    "another file": (200, {}, zipped(SVAMP | {"more": "x"})),
    "no archive": (200, {}, b"<html>sign in</html>"),
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
    elif failure == "no archive":  # its checksum is right
        pinned(monkeypatch, server.answers[path][2])
    with pytest.raises(t5.InputError) as error:
        get(tmp_path)
    message = str(error.value)
    assert "\n" not in message and flag in message and server.url in message
    assert "timed out" in message or failure != "stalls"
    assert files(tmp_path).keys() <= {"small/spiece.model"}  # which comes first
    if failure != "server down":
        server.answers[path] = good
        pinned(monkeypatch, good[2])
        assert get(tmp_path)  # the next call succeeds


def test_names_that_cannot_be_fetched_are_refused_and_a_folder_stays(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")  # no URL
    words = dict.fromkeys(["t5-small", "no/such/t5", "./mine", "~/mine"], "expected a folder")
    words |= dict.fromkeys(["v1_1-base", "someone/t5"], "pip install huggingface_hub")
    words |= {"small": "mirror.example", "tiny": "--from-scratch"}
    for name, expected in words.items():
        with pytest.raises(t5.InputError, match=f"^[^\n]*{expected}[^\n]*$"):
            data.published(name) if name in t5.PRESETS else data.find_weights(name)
    Path("someone/t5").mkdir(parents=True)  # the hub may have this name
    assert data.find_weights("someone/t5") == Path("someone/t5")


def test_train_py_without_the_package_ends_with_one_line_and_status_2(toy, tmp_path):
    flags = ["--weights", "google/x", "--data-root", str(toy), "--out", str(tmp_path)]
    code = "import runpy, sys; sys.modules['huggingface_hub'] = None; "
    code += f"sys.argv[1:] = {flags}; runpy.run_path('train.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "google/x" in done.stderr and "pip install huggingface_hub" in done.stderr


# ---- models by huggingface_hub, which reads its settings once: in processes of their own ----

OLD, PLAIN = {"pytorch_model.bin": b"pickle"}, {"config.json": b"{}", "spiece.model": b"pieces"}
SHARDS = {"model-1-of-2.safetensors": b"one", "model-2-of-2.safetensors": b"two"}
OLD_SHARDS = {"pytorch_model-1-of-2.bin": b"one", "pytorch_model-2-of-2.bin": b"two"}
MODELS = {  # what the hub has of a model, and what of that is left there
    "small": (PLAIN | FILES | OLD, OLD),
    "v1_1-small": (PLAIN | OLD, {}),
    "me/t5": (PLAIN | FILES | OLD | {"tokenizer.json": b"{}"}, OLD),
    "me/old": (PLAIN | OLD | {"tf_model.h5": b"tf"}, {"tf_model.h5"}),
    "me/shards": (PLAIN | SHARDS | {"model.safetensors.index.json": b"{}"}, {}),
    "me/old-shards": (PLAIN | OLD_SHARDS | {"pytorch_model.bin.index.json": b"{}"}, {}),
}
FETCH = """
import sys, data
for name in sys.argv[1:]:
    try:
        print(data.published(name) if name in data.PUBLISHED else data.find_weights(name))
    except data.InputError as error:
        print(repr(str(error)))
"""


@pytest.mark.skipif(not importlib.util.find_spec("huggingface_hub"), reason="not installed")
def test_models_arrive_in_the_files_they_have_and_offline_from_the_cache(server, tmp_path):
    for name, (content, _) in MODELS.items():
        put_on_hub(server, *data.PUBLISHED.get(name, (name, "main")), content)
    command = [sys.executable, "-c", FETCH, *MODELS, "me/unknown"]
    environment = {name: value for name, value in os.environ.items() if name[:3] != "HF_"}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for offline in "0", "1":
        server.asked.clear()
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": offline}
        printed = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
        *folders, refusal = printed.splitlines()
        for folder, (content, left) in zip(folders, MODELS.values(), strict=True):
            assert files(folder) == {k: v for k, v in content.items() if k not in left}
        assert "me/unknown" in refusal and "--weights" in refusal and r"\n" not in refusal
        assert bool(server.asked) == (offline == "0")
