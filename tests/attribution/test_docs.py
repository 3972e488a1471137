"""The examples of docs/attribution.md run as written, in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "attribution.md").read_text(encoding="utf-8")


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    try:
        for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
            exec(compile(block, "attribution.md", "exec"), names)
        assert set(names["units"]["layer"]) > set(names["damage"]["layer"])
        assert names["masks"].density == pytest.approx(0.2, abs=0.01)
        with pytest.warns(UserWarning, match="self_attn"):
            by_default = names["dp"].attributions(names["Reader"](), names["batches"], "gradient-x-activation")
        assert by_default["layer"].nunique() == 5  # as the comment beside the example says
    finally:
        torch.set_num_threads(threads)
        plt.close("all")
