"""Wide to tidy and back, without loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from deepprobe.records.frame import TIDY, tidy, wide
from deepprobe.records.layer import LayerCall
from deepprobe.records.spectrum import Spectrum


def table() -> pd.DataFrame:
    rows = []
    for i, values in enumerate(([3.0, 2.0, 1e-9], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0])):
        call = LayerCall(i + 1, i, f"layer{i}", 1, "Conv2d", "output")
        centred = replace(Spectrum.of(values[:2], n_rows=9, dtype="float32"), call=call, is_centred=True)
        rows.append(replace(Spectrum.of(values, n_rows=9, dtype="float32"), call=call, centred=centred).row())
    return pd.DataFrame(rows)


def test_there_and_back() -> None:
    frame = tidy(table(), run="a", seed=1, step=10, epoch=0.5, split="probe")
    assert list(frame.columns) == list(TIDY)
    back = wide(frame)
    for column in table().columns:
        for a, b in zip(table()[column], back[column], strict=True):
            assert a == b or (a != a and b != b), column
    assert set(back["run"]) == {"a"}
    assert back["step"].tolist() == [10, 10, 10]


def test_infinities_and_statuses_survive() -> None:
    frame = tidy(table(), run="a", seed=0, step=0)
    kappa = frame[(frame["measure"] == "condition_number") & ~frame["centred"].astype(bool)]
    assert kappa["value"].tolist() == [np.inf, 1.0, np.inf]
    assert kappa["status"].tolist() == ["singular-at-precision", "finite", "zero"]
    assert kappa["low"].iloc[0] > 1e6


def test_several_points_stay_apart() -> None:
    frame = pd.concat([tidy(table(), run="a", step=s) for s in (0, 5)])
    assert wide(frame).groupby("step").size().tolist() == [3, 3]


def test_metrics_are_not_layers_and_nothing_is_nothing() -> None:
    metrics = pd.DataFrame({"run": ["a"], "measure": ["loss"], "value": [1.0]}).reindex(columns=list(TIDY))
    assert wide(metrics).empty
    assert tidy(pd.DataFrame()).empty
