import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["OMP_NUM_THREADS"] = "1"  # here and in processes started: -n 2 takes both cores


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The root of a small toy set: 200 training examples, of which 20 validate, and 20 for test."""
    import data

    root = tmp_path_factory.mktemp("toy")
    data.write_toy(root, {"train": 200, "test": 20})
    return root


@pytest.fixture(scope="session")
def runs(toy, tmp_path_factory):
    """{method: the folder of a small run on the toy set}."""
    import t5
    import train

    out, runs = tmp_path_factory.mktemp("runs"), {}
    flags = ["--data-root", str(toy), "--out", str(out), "--steps", "60", "--eval-every", "60"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t5, "MAX_TARGET", 64)  # these students have not learned to stop
        for method in ("finetune", "single", "dss", "mi"):
            train.main([*flags, "--batch-size", "16", "--method", method])
            (runs[method],) = out.glob(f"toy-tiny-{method}-*")
    return runs
