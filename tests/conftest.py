import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """{method: the folder of a small run}, trained on one toy set, which lies two folders up."""
    import data
    import train

    folder, runs = tmp_path_factory.mktemp("runs"), {}
    data.write_toy(folder, {"train": 200, "test": 20})
    for method in ("finetune", "single", "dss", "mi"):
        flags = ["--steps", "80", "--batch-size", "16", "--eval-every", "80", "--method", method]
        train.main([*flags, "--data-root", str(folder), "--out", str(folder / "runs")])
        (runs[method],) = (folder / "runs").glob(f"toy-tiny-{method}-*")
    return runs
