"""What becomes of a run: kills, signals, full disks, a second run, more than one process.

    python -m pytest tests/test_survival.py
    python tests/test_survival.py 50     # kill a run at 50 random moments; nothing may be lost

Each case is a real process of train.py on a small toy set.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import t5
import train

TRAIN = str(Path(__file__).resolve().parent.parent / "train.py")
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # two torchs at once share two cores


def command(root, out, *flags):
    flags = ["--data-root", root, "--out", out, "--batch-size", 8, "--eval-every", 5, *flags]
    return [sys.executable, TRAIN, *map(str, flags)]


def finish(command, **kwargs):
    kwargs |= dict(capture_output=True, text=True, timeout=300, env=ONE_THREAD)
    return subprocess.run(command, **kwargs)


def start(command, **kwargs):
    kwargs = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | kwargs
    return subprocess.Popen(command, env=ONE_THREAD, **kwargs)


def wait_for(condition, process=None):
    deadline = time.time() + 60
    while not condition():
        assert time.time() < deadline and (process is None or process.poll() is None)
        time.sleep(0.01)


def the_run(out):
    (folder,) = out.glob("*")
    return folder


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_run(a, b):
    for part in (".", "last"):
        one, other = (t5.read_safetensors(run / part / "model.safetensors") for run in (a, b))
        assert all(torch.equal(one[name], other[name]) for name in one)
    for one, other in zip(log_of(a), log_of(b), strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    seconds = [line["seconds"] for line in log_of(b)]
    assert seconds == sorted(seconds)  # of the whole run, over its processes
    timeless = [json.loads((run / "metrics.json").read_text()) | {"seconds": 0} for run in (a, b)]
    assert timeless[0] == timeless[1]


@contextmanager
def stop_in_batch(n):
    """train.py is asked to stop, as by a signal, while its n-th batch is made."""
    collate, calls = data.collate, []

    def watched(*batch, **settings):
        calls.append(batch)
        train.stop_signals.extend([signal.SIGTERM] * (len(calls) == n))
        return collate(*batch, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "stop_signals", [])
        patch.setattr(data, "collate", watched)
        yield


def kill_and_resume(root, folder, kills, seed=0, steps=40):
    """Kill a run at random moments and resume it until it has been killed so many times."""
    rng, whole, cut = random.Random(seed), folder / "whole", folder / "killed"
    began = time.time()
    flags = ("--steps", steps, "--eval-every", 10)
    assert finish(command(root, whole, *flags)).returncode == 0
    lasts = time.time() - began
    while kills or not any(cut.glob("*/metrics.json")):
        if any(cut.glob("*/metrics.json")):  # it got to the end: look, and begin another
            assert_same_run(the_run(whole), the_run(cut))
            cut.rename(folder / f"done-{time.time_ns()}")
        resume = ["--resume"] if any(cut.glob("*")) else []  # else killed before it made its folder
        process = start(command(root, cut, *flags, *resume))
        try:
            process.wait(rng.uniform(0.3, 1.0) * lasts if kills else 300)
            assert process.returncode == 0, process.stderr.read()
        except subprocess.TimeoutExpired:
            process.kill()
            kills -= 1
        process.communicate()
    assert_same_run(the_run(whole), the_run(cut))


def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(toy, tmp_path):
    kill_and_resume(toy, tmp_path, kills=2)


STOPPING = "train.py: stopping once a step is saved; a second Ctrl-C stops at once\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state(toy, tmp_path, number):
    flags = ("--steps", 3_000, "--eval-every", 3_000)
    process = start(command(toy, tmp_path, *flags))
    wait_for(lambda: any(tmp_path.glob("*/log.jsonl")), process)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and err == STOPPING, err
    state = torch.load(the_run(tmp_path) / "state.pt", weights_only=True)
    assert 0 < state["step"] == len(log_of(the_run(tmp_path)))
    assert f"stopped after step {state['step']}, which is saved: go on with --resume" in out


def test_ctrl_c_saves_the_state_although_it_ends_what_reads_the_output_too(toy, tmp_path):
    """As in `python train.py 2>&1 | tee log`: nothing can be printed any more."""
    flags = ("--steps", 30_000, "--eval-every", 30_000)
    process = start(command(toy, tmp_path, *flags), stderr=subprocess.STDOUT)
    wait_for(lambda: any(tmp_path.glob("*/log.jsonl")), process)
    process.send_signal(signal.SIGSTOP)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 1
    state = torch.load(the_run(tmp_path) / "state.pt", weights_only=True)
    assert 0 < state["step"] == len(log_of(the_run(tmp_path)))


def test_of_two_signals_only_ctrl_c_stops_at_once(monkeypatch):
    monkeypatch.setattr(train, "stop_signals", [])
    for number in (signal.SIGTERM, signal.SIGTERM):
        train.ask_to_stop(number, None)
    with pytest.raises(SystemExit) as stop:
        train.ask_to_stop(signal.SIGINT, None)
    assert stop.value.code == 130


def test_a_full_disk_is_one_line_and_keeps_the_last_good_state(toy, tmp_path):
    with stop_in_batch(2):
        train.main(command(toy, tmp_path)[2:])
    folder = the_run(tmp_path)
    before = (folder / "state.pt").read_bytes()
    limit = len(before) // 2  # bytes that a file may have: the weights fit, the state does not
    full = finish(
        command(toy, tmp_path, "--resume"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert full.returncode == 2 and len(full.stderr.splitlines()) == 1, full.stderr
    assert (folder / "state.pt").read_bytes() == before
    assert not [*folder.rglob("*.tmp")]


def test_a_broken_pipe_is_silent(toy, tmp_path):
    process = start(command(toy, tmp_path, "--steps", 3_000))
    process.stdout.close()
    assert process.wait(60) == 1 and process.stderr.read() == ""


def torchrun(n, *rest):
    flags = ["--standalone", "--nproc_per_node", str(n)]  # on a port that is free
    return [sys.executable, "-m", "torch.distributed.run", *flags, *rest]


def test_a_signal_to_one_of_two_processes_stops_both_and_saves(toy, tmp_path):
    flags = ("--steps", 3_000, "--eval-every", 3_000)
    process = start(torchrun(2, *command(toy, tmp_path, *flags)[1:]))
    wait_for(lambda: any(tmp_path.glob("*/log.jsonl")), process)
    time.sleep(0.5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGTERM)  # torchrun starts them in the order of their ranks
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and err.count(STOPPING) >= 1 and "all_reduce" not in err
    state = torch.load(the_run(tmp_path) / "state.pt", weights_only=True)
    assert 0 < state["step"] == len(log_of(the_run(tmp_path)))
    assert f"stopped after step {state['step']}, which is saved: go on with --resume" in out
    resumed = torchrun(2, *command(toy, tmp_path, *flags)[1:], "--resume")
    process = start(resumed)
    wait_for(lambda: len(log_of(the_run(tmp_path))) > state["step"], process)  # it goes on
    process.terminate()
    process.communicate(timeout=60)


if __name__ == "__main__":
    import tempfile

    kills, folder = int(sys.argv[1]), Path(tempfile.mkdtemp())
    data.write_toy(folder / "data", {"train": 200, "test": 20})
    kill_and_resume(folder / "data", folder, kills)
    print(f"{kills} kills: the weights, the log and the metrics are those of a run left alone")
