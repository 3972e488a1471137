"""The examples of docs/units-and-similarity.md run, in their order."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from deepprobe.probes.unit_profiles import PROFILE_MEASURES

PAGE = (Path(__file__).parents[2] / "docs" / "units-and-similarity.md").read_text(encoding="utf-8")


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "units-and-similarity.md", "exec"), names)
    torch.set_num_threads(threads)
    assert {"units", "histograms", "found", "angles"} <= set(names)
    plt.close("all")


def test_every_measure_is_explained() -> None:
    told = PAGE.replace("`_", "`activation_").replace("`activation_norm", "`_norm")
    missing = [m for m in PROFILE_MEASURES if f"`{m}`" not in told and not m.startswith("unit_weight_")]
    assert missing == []
