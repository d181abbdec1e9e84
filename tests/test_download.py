"""data.py's downloads, from a server on this machine that stands for the hub and GitHub.

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
CACHES = ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")  # in the order in which they are asked


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's `answers`: {path: (status, headers, body)}, or a list of them, one
    for each request, of which the last stays. Between the parts of a body the server pauses."""

    def do_GET(self):
        self.server.asked.append(self.path)
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
    server.asked, server.pause, server.ended = [], 0.0, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.answers = {HUB + name: (200, {}, body) for name, body in FILES.items()}
    server.answers[ARCHIVE] = 200, {}, archive(monkeypatch)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "PAUSE", 0.01)
    monkeypatch.setattr(data, "GITHUB", server.url)
    sums = {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items()}
    monkeypatch.setattr(data, "SPIECE_SHA256", sums["spiece.model"])
    model = "someone/t5-tiny", "main", "model.safetensors", sums["model.safetensors"]
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


def get_by_name(tmp_path):
    return data.find_weights("someone/t5-tiny", folder=tmp_path / "weights")


each = pytest.mark.parametrize("get, path, flag", [
    (get_sets, ARCHIVE, "--data-root"), (get_model, HUB + "model.safetensors", "--weights"),
    (get_by_name, HUB + "config.json", "--weights"),
], ids=["sets", "model", "by name"])  # fmt: skip


def test_the_archive_is_fetched_once_and_its_sets_load(server, tmp_path):
    expected = ("( 1.0 + 1.0 )", "So.", "(2)"), ("( 1.0 + 1.0 )", "", "")
    assert get_sets(tmp_path) == [data.Example("A train?", *rest) for rest in expected]
    test = data.load("svamp", "test", tmp_path / "sets")
    assert test == [data.Example("A test?", *rest) for rest in expected]
    assert server.asked == [ARCHIVE]
    ours = "svamp_train", "svamp_test", "llm/train_CoT_0", "llm/test_CoT_0"
    assert files(tmp_path / "sets").keys() == {
        "cqa/cqa_test.json", *(f"svamp/{name}.json" for name in ours)}  # fmt: skip
    with pytest.raises(InputError, match="anli1_train.json.*datasets.zip"):
        data.load("anli1", "train", tmp_path / "sets")


HOSTILE = [
    "/anli1/anli1_test.json", "../../cqa/cqa_test.json", "a/../../esnli/esnli_test.json",
    "..\\svamp\\svamp_valid.json", "svamp/llm/../../../x_CoT_0.json", "../evil/evil_test.json",
    "svamp/svamp_test.json/../../../evil.json",
]  # fmt: skip


def test_whatever_names_an_archive_holds_nothing_is_written_outside_of_the_sets(
    server, tmp_path, monkeypatch
):
    with zipfile.ZipFile(file := io.BytesIO(), "w") as bundle:
        for name in HOSTILE:
            bundle.writestr(name, "evil")
    server.answers[ARCHIVE] = 200, {}, pin(monkeypatch, file.getvalue())
    with pytest.raises(InputError, match="svamp_train.json.*datasets.zip"):
        get_sets(tmp_path)
    names = {f"{name}/{name}_test.json" for name in ("anli1", "cqa", "esnli")}
    assert files(tmp_path).keys() <= {f"sets/{name}" for name in names}
    assert not any("evil" in path.name for path in tmp_path.parent.glob("*"))


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b"PK\5\6" + bytes(9)])
def test_an_archive_that_cannot_be_read_is_one_line_and_leaves_nothing(
    server, tmp_path, monkeypatch, content
):
    server.answers[ARCHIVE] = 200, {}, pin(monkeypatch, content)
    with pytest.raises(InputError, match=f"^[^\n]*{ARCHIVE}[^\n]*--data-root[^\n]*$"):
        get_sets(tmp_path)
    assert files(tmp_path) == {}


def test_a_models_files_arrive_whole_and_are_not_fetched_again(server, tmp_path):
    folder = get_model(tmp_path)
    assert {name: path.read_bytes() for name, path in files(folder).items()} == FILES
    assert sorted(server.asked) == sorted(HUB + name for name in FILES)
    (folder / "config.json").unlink()
    assert get_model(tmp_path) == folder and server.asked[3:] == [HUB + "config.json"]
    assert data.published("small", ["spiece.model"], tmp_path / "other").name == "small"
    assert files(tmp_path / "other").keys() == {"small/spiece.model"}
    data.published("small", ["config.json"], tmp_path / "other")
    assert files(tmp_path / "other").keys() == {"small/spiece.model", "small/config.json"}


def put_in_cache(hub, names=FILES, revision="main"):
    """Write a model as the hub's client does, into the cache `hub` -> its snapshot."""
    cache = hub / "models--someone--t5-tiny"
    snapshot = cache / "snapshots" / ("0123abc" if revision == "main" else revision)
    for folder in (snapshot, cache / "refs"):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text("0123abc")
    for name in names:
        (snapshot / name).write_bytes(b"cached")
    return snapshot


@pytest.mark.parametrize("revision", ["main", "0123abc"])
@pytest.mark.parametrize("missing", FILES)
def test_a_whole_copy_in_the_hubs_cache_is_used_before_any_request(
    server, tmp_path, monkeypatch, revision, missing
):
    model = "someone/t5-tiny", revision, "model.safetensors", None
    monkeypatch.setitem(data.PUBLISHED, "small", model)
    snapshot = put_in_cache(tmp_path / "hf" / "hub", FILES.keys() - {missing}, revision)
    server.answers.clear()
    with pytest.raises(InputError, match="--weights"):
        get_model(tmp_path)
    assert server.asked
    (snapshot / missing).write_bytes(b"cached")
    server.asked.clear()
    assert get_model(tmp_path) == snapshot
    assert revision != "main" or get_by_name(tmp_path) == snapshot
    assert server.asked == []


@pytest.mark.parametrize("get", [get_model, get_by_name])
@pytest.mark.parametrize("first", range(4))
def test_the_cache_is_looked_for_as_the_hubs_client_does(
    server, tmp_path, monkeypatch, get, first
):
    folders = [tmp_path / name for name in ("hub", "home", "xdg", "user")]
    inside = ("", "hub", "huggingface/hub", ".cache/huggingface/hub")
    snapshots = [put_in_cache(folder / name) for folder, name in zip(folders, inside)]
    monkeypatch.setenv("HOME", str(folders[3]))
    for i, name in enumerate(CACHES):
        monkeypatch.delenv(name, raising=False)
        if i >= first:
            monkeypatch.setenv(name, str(folders[i]))
    assert get(tmp_path) == snapshots[first] and server.asked == []


@pytest.mark.parametrize("variable", CACHES)
def test_the_cache_may_be_named_from_the_home_folder(server, tmp_path, monkeypatch, variable):
    inside = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}
    snapshot = put_in_cache(tmp_path / "mine" / inside[variable])
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/mine")
    assert get_model(tmp_path) == snapshot and server.asked == []


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
@pytest.mark.parametrize("get", [get_model, get_by_name])
def test_offline_a_missing_model_is_one_line_and_a_local_one_is_used(
    server, tmp_path, monkeypatch, get, value
):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(InputError) as error:
        get(tmp_path)
    message = str(error.value)
    assert "\n" not in message and "HF_HUB_OFFLINE" in message and "--weights" in message
    assert str(tmp_path / "hf" / "hub") in message and server.asked == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    folder = get(tmp_path)  # downloaded
    asked = len(server.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert get(tmp_path) == folder and len(server.asked) == asked


INDEX = json.dumps({"metadata": {}, "weight_map": {"a": "m-1.bin", "b": "m-2.bin", "c": "m-1.bin"}})
ONE, OTHER = {"m-1.bin": b"one", "m-2.bin": b"two"}, {"pytorch_model.bin": b"pickle"}


@pytest.mark.parametrize("weights", [
    {"model.safetensors": WEIGHTS, **OTHER}, OTHER,
    {"model.safetensors.index.json": INDEX.encode(), **ONE}, {
        "pytorch_model.bin.index.json": INDEX.encode(), **ONE},
], ids=["safetensors", "bin", "shards", "shards of bin"])  # fmt: skip
@pytest.mark.parametrize("vocabulary", [
    ["spiece.model"], ["tokenizer.json"], ["spiece.model", "tokenizer.json", "added_tokens.json"],
])  # fmt: skip
def test_a_model_of_the_hub_arrives_by_its_name_in_whatever_files_it_has(
    server, tmp_path, weights, vocabulary
):
    content = dict.fromkeys(vocabulary, b"{}") | {"config.json": b"{}"} | weights
    server.answers = {HUB + name: (200, {}, body) for name, body in content.items()}
    folder = get_by_name(tmp_path)
    assert folder == tmp_path / "weights" / "someone--t5-tiny"
    expected = content.keys() - (OTHER.keys() if "model.safetensors" in weights else set())
    assert files(folder).keys() == expected
    assert all(files(folder)[name].read_bytes() == content[name] for name in expected)
    server.answers, asked = {}, len(server.asked)
    assert get_by_name(tmp_path) == folder and len(server.asked) == asked
    path = files(folder)["m-2.bin" if "m-2.bin" in weights else "config.json"]
    path.unlink()  # as after a kill
    server.answers[HUB + path.name] = 200, {}, content[path.name]
    assert get_by_name(tmp_path) == folder and path.read_bytes() == content[path.name]


@pytest.mark.parametrize("names", [
    {"a": "../evil.bin"}, {"a": "/evil.bin"}, {"a": "x/evil.bin"}, {"a": 7.5, "b": ["evil"]},
    ["evil.bin"], None, {"a": "..\\evil.bin"},
])  # fmt: skip
def test_an_index_that_names_no_plain_files_is_refused(server, tmp_path, names):
    del server.answers[HUB + "model.safetensors"]
    body = json.dumps({"weight_map": names}).encode()
    server.answers[HUB + "model.safetensors.index.json"] = 200, {}, body
    with pytest.raises(InputError, match="^[^\n]*index.json[^\n]*expected[^\n]*$"):
        get_by_name(tmp_path)
    assert not any("evil" in path for path in server.asked)


@pytest.mark.parametrize("name", [
    "t5-small", "no/such/folder", "./mine", "../mine", "~/mine", "a b/c", "a/..", "-a/b",
    "https://huggingface.co/google/flan-t5-small"])  # fmt: skip
def test_what_is_neither_a_folder_nor_a_name_on_the_hub_is_refused_without_a_request(
    server, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for wrong in (name, "file"):
        with pytest.raises(InputError, match="^[^\n]*expected a folder[^\n]*flan-t5-small$"):
            data.find_weights(wrong)
    assert server.asked == []


def test_a_local_folder_stays_what_it_is_though_the_hub_has_its_name(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "t5-tiny").mkdir(parents=True)
    assert data.find_weights("someone/t5-tiny") == Path("someone/t5-tiny")
    assert data.find_weights(tmp_path / "someone") == tmp_path / "someone"
    assert server.asked == []


CUT = 200, {"Content-Length": 10_000}, b"cut off"
BUSY, WHOLE = (503, {}, b"busy"), (200, {}, WEIGHTS)


@each
@pytest.mark.parametrize("answer, tries", [
    ((404, {}, b"gone"), 1), ((401, {}, b"private"), 1), (BUSY, 3), ((500, {}, b"broken"), 3),
    ((302, {"Location": "/nowhere"}, b""), 1),
    ((302, {"Location": "file:///etc/hostname"}, b""), 1), ((200, {}, b""), 3), (CUT, 3),
    ((0, {}, b"no HTTP\r\n"), 3), ((0, {}, b""), 3),
    ((200, {"Content-Length": "many"}, b"x"), 3),
    ((200, {"Transfer-Encoding": "chunked", "Content-Length": None}, b"ff\r\ncut off"), 3),
    (None, 0),
], ids=["404", "401", "503", "500", "redirect to nothing", "redirect to a file", "empty",
        "cut off", "no HTTP", "hung up", "no number", "cut-off chunks", "server down"])  # fmt: skip
def test_a_failed_download_is_one_line_with_its_url_and_leaves_nothing_under_its_name(
    server, tmp_path, get, path, flag, answer, tries
):
    good, server.answers[path] = server.answers[path], answer
    if answer is None:
        server.shutdown()
        server.server_close()
    with pytest.raises(InputError) as error:
        get(tmp_path)
    message = str(error.value)
    assert "\n" not in message and flag in message and server.url in message
    assert answer is None or server.url + path in message
    assert server.asked.count(path) == tries
    name = path.rpartition("/")[2]
    assert not [file for file in files(tmp_path) if file.endswith((".tmp", name))]
    if answer is not None:
        server.answers[path] = good
        assert get(tmp_path)  # the next call succeeds


@pytest.mark.parametrize("answers, tries", [
    ([WHOLE], 1), ([CUT, WHOLE], 2), ([BUSY, (0, {}, b""), WHOLE], 3),
    ([(200, {"Content-Length": 10**6}, WEIGHTS * 2), WHOLE], 2),  # the longer one is replaced
    ([(200, {"Content-Length": None}, WEIGHTS)], 1),  # its checksum says that it is whole
])  # fmt: skip
def test_a_lost_connection_is_tried_again_up_to_three_times(server, tmp_path, answers, tries):
    server.answers["/file"] = list(answers)
    with open(tmp_path / "file", "w+b") as file:
        data.download(server.url + "/file", file, hashlib.sha256(WEIGHTS).hexdigest())
    assert (tmp_path / "file").read_bytes() == WEIGHTS and len(server.asked) == tries


@pytest.mark.parametrize("get, path", [
    (get_sets, ARCHIVE), (get_model, HUB + "model.safetensors"), (get_model, HUB + "spiece.model"),
])  # fmt: skip
def test_content_with_another_checksum_is_refused_and_not_kept(server, tmp_path, get, path):
    good, server.answers[path] = server.answers[path], (200, {}, b"another")
    with pytest.raises(InputError, match=f"^[^\n]*{path}[^\n]*checksum[^\n]*not kept$"):
        get(tmp_path)
    name = path.rpartition("/")[2]
    assert server.asked.count(path) == 1
    assert not [file for file in files(tmp_path) if file.endswith((".tmp", name))]
    server.answers[path] = good
    assert get(tmp_path)


def test_without_length_and_checksum_nobody_could_tell_what_is_whole(server, tmp_path):
    server.answers[HUB + "config.json"] = 200, {"Content-Length": None}, b"{}"
    with pytest.raises(InputError, match="config.json[^\n]*unknown number of bytes"):
        get_model(tmp_path)
    body = b"2\r\n{}\r\n0\r\n\r\n"  # but chunks say where they end
    chunked = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    server.answers[HUB + "config.json"] = 200, chunked, body
    assert (get_model(tmp_path) / "config.json").read_bytes() == b"{}"


@each
def test_a_killed_download_leaves_nothing_under_the_final_name(server, tmp_path, get, path, flag):
    (status, headers, body), server.pause = server.answers[path], 30
    server.answers[path] = [(status, headers, [body[:1], body[1:]]), (status, headers, body)]
    process = multiprocessing.get_context("fork").Process(target=get, args=[tmp_path])
    process.start()
    deadline = time.time() + 8
    while path not in server.asked:
        assert time.time() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    process.join()
    name = path.rpartition("/")[2]
    assert not [file for file in files(tmp_path) if file.endswith(f"/{name}")]
    assert get(tmp_path)


@pytest.mark.parametrize("body, pause", [
    ([b"some", b"more"], 30), ([b"x"] * 999, 0.1), ([b"", b"never"], 30),
], ids=["stalls", "trickles", "silent"])  # fmt: skip
def test_a_server_that_stalls_or_trickles_is_given_up(server, tmp_path, monkeypatch, body, pause):
    monkeypatch.setattr(data, "PATIENCE", 0.3)
    server.answers[HUB + "config.json"], server.pause = (200, {}, body), pause
    began = time.time()
    with pytest.raises(InputError, match="timed out|fewer than 10,000 bytes a second"):
        get_model(tmp_path)
    assert time.time() - began < 5 and len(server.asked) == 3 and files(tmp_path) == {}


def test_without_a_network_a_download_fails_within_a_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "PAUSE", 0.01)
    began = time.time()
    with open(tmp_path / "file", "w+b") as file, pytest.raises(OSError):
        data.download("http://no-such-host.invalid/", file)
    assert time.time() - began < 60


@each
@pytest.mark.parametrize("absolute", [True, False])
def test_a_redirect_to_another_path_is_followed(server, tmp_path, get, path, flag, absolute):
    server.answers["/elsewhere"] = server.answers[path]
    location = (server.url if absolute else "") + "/elsewhere"
    server.answers[path] = 302, {"Location": location}, b""
    assert get(tmp_path) and "/elsewhere" in server.asked


def test_progress_is_shown_on_a_terminal_alone(server, tmp_path, monkeypatch, capsys):
    for terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
        with open(tmp_path / "file", "w+b") as file:
            data.download(server.url + HUB + "model.safetensors", file)
        assert ("\r" in capsys.readouterr().err) == terminal


def test_a_mirror_that_is_no_url_is_refused_in_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(InputError, match="mirror.example.*--weights"):
        get_model(tmp_path)


@pytest.mark.parametrize("get", [get_sets, get_model, get_by_name])
def test_two_processes_that_download_the_same_at_once_do_not_spoil_it(server, tmp_path, get):
    for path, (status, headers, body) in server.answers.items():
        server.answers[path] = status, headers, [body[:2], body[2:]]
    server.pause = 0.2  # so that both are at it together
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=get, args=[tmp_path], daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    asked, result = len(server.asked), get(tmp_path)
    assert len(server.asked) == asked and not [f for f in files(tmp_path) if f.endswith(".tmp")]
    if get is get_sets:
        assert [example.label for example in result] == ["( 1.0 + 1.0 )"] * 2
    else:
        assert {name: path.read_bytes() for name, path in files(result).items()} == FILES


def test_two_processes_that_write_the_toy_data_at_once_leave_it_whole(tmp_path):
    code = "import data, sys; data.write_toy(sys.argv[1], {'train': 400, 'test': 40})"
    command = [sys.executable, "-c", code, str(tmp_path / "both")]
    root = Path(__file__).resolve().parent.parent
    for process in [subprocess.Popen(command, cwd=root) for _ in range(2)]:
        assert process.wait(60) == 0
    data.write_toy(tmp_path / "one", {"train": 400, "test": 40})
    both, one = files(tmp_path / "both"), files(tmp_path / "one")
    assert both.keys() == one.keys()
    assert all(both[name].read_bytes() == one[name].read_bytes() for name in one)
