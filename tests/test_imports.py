"""What a bare import and ``--help`` load, seen from a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTRAS = {"lightning", "transformers", "accelerate", "tensorboard", "mlflow", "wandb"}
HEAVY = {"torch", "seaborn", "captum", "matplotlib", "pandas", "scipy", "sklearn"} | EXTRAS


def loaded_by(*arguments: str) -> set[str]:
    """Top-level packages that ``python <arguments>`` imports."""
    result = subprocess.run(  # the interpreter itself tells, so nothing can hide behind a failed import
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import deepprobe as dp; dir(dp)"),
        ("-c", "import deepprobe.cli"),
        ("-m", "deepprobe", "--help"),
        ("-m", "deepprobe", "probe", "--help"),
        ("-m", "deepprobe", "train", "--help"),
        ("-m", "deepprobe", "lottery", "--help"),
        ("-m", "deepprobe", "report", "--help"),
    ],
    ids=" ".join,
)
def test_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded_by(*arguments) & HEAVY == set()


@pytest.mark.parametrize("room", ["records", "errors", "runs", "reports"])
def test_room_never_loads_torch(room: str) -> None:
    loaded = loaded_by("-c", f"import deepprobe.{room}")
    assert "torch" not in loaded
    assert "deepprobe" in loaded


def test_trackers_load_no_package_before_one_is_made() -> None:
    loaded = loaded_by("-c", "import deepprobe.integrations.trackers")
    assert loaded & EXTRAS == set()
    assert "torch" in loaded


def test_an_import_is_seen() -> None:
    assert {"json", "colorsys"} <= loaded_by("-c", "import json, colorsys")
