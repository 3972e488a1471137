"""Wide to tidy and back, without loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from deepprobe.records import frame as frame_module
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


def gradients() -> pd.DataFrame:
    rows = {"layer": ["layer0", "layer1"], "depth": [1, 2], "call": 1, "tap": "gradient", "view": "kernel"}
    rows |= {"type": "Conv2d", "dtype": "float32", "n_rows": 9, "n_features": 3, "sketched": False}
    return pd.DataFrame({**rows, "gradient_norm": [1e9, 0.3], "gradient_snr": [0.5, np.nan]})


def test_gradients_go_there_and_back_alone() -> None:
    frame = tidy(gradients(), run="a", seed=1, step=10, epoch=0.5, split="probe")
    assert frame["measure"].tolist() == ["gradient_norm"] * 2 + ["gradient_snr"] * 2
    assert frame["status"].isna().all()
    back = wide(frame)
    pd.testing.assert_frame_equal(back[list(gradients())], gradients(), check_dtype=False)


def test_spectra_and_gradients_stand_in_one_frame() -> None:
    point = {"run": "a", "seed": 1, "step": 10, "epoch": 0.5, "split": "probe"}
    spectra, both = tidy(table(), **point), pd.concat([tidy(table(), **point), tidy(gradients(), **point)])
    back = wide(both)
    assert back["tap"].tolist() == ["output"] * 3 + ["gradient"] * 2
    pd.testing.assert_frame_equal(
        back.head(3)[list(wide(spectra))], wide(spectra), check_dtype=False
    )  # the same numbers as without gradients beside them
    assert back.tail(2)["gradient_norm"].tolist() == [1e9, 0.3]
    assert back.tail(2)[["status", "condition_number", "n_dead"]].isna().all(axis=None)
    assert back["n_rows"].dtype == "int64"


def test_metrics_are_not_layers_and_nothing_is_nothing() -> None:
    metrics = pd.DataFrame({"run": ["a"], "measure": ["loss"], "value": [1.0]}).reindex(columns=list(TIDY))
    assert wide(metrics).empty
    assert tidy(pd.DataFrame()).empty


@pytest.fixture
def conductance(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setattr(frame_module, "UNIT_MEASURES", ("conductance",))
    rows = {"layer": "conv", "depth": 1, "call": 1, "tap": "output", "view": "channels", "type": "Conv2d"}
    rows |= {"dtype": "float32", "n_rows": 9, "n_features": 2, "sketched": False}
    return pd.DataFrame({"unit": [0, 1], **rows, "conductance": [0.5, 0.25], "conductance_se": [0.125, 0.0625]})


def test_units_go_there_and_back_with_their_errors(conductance: pd.DataFrame) -> None:
    frame = tidy(conductance, run="a", seed=0, round=0, step=3, epoch=1.0, split="probe")
    assert frame[["unit", "low", "high"]].values.tolist() == [[0, 0.375, 0.625], [1, 0.1875, 0.3125]]
    back = wide(frame)
    pd.testing.assert_frame_equal(back[list(conductance)], conductance, check_dtype=False)
    assert back["unit"].dtype == "int64"
    assert not {"status", "condition_number_low"} & set(back)  # units have no condition number


def test_tables_of_layers_have_no_column_of_units() -> None:
    assert "unit" not in wide(tidy(table(), run="a"))
