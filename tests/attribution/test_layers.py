"""Rows of layers from rows of units: against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch import nn

from deepprobe.attribution import agreement, attributions, concentration, mask_relation
from deepprobe.attribution.layers import spearman
from deepprobe.errors import ConfigError, ShapeError
from deepprobe.measures.concentration import gini, top_share
from deepprobe.records.frame import tidy


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.Flatten(), nn.Linear(64, 12))
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(12, 3)).double()


@pytest.fixture(scope="module")
def units(model: nn.Module) -> pd.DataFrame:
    batch = (torch.randn(8, 1, 5, 5, dtype=torch.float64), torch.arange(8) % 3)
    return attributions(model, batch, "gradient-x-activation")


def test_concentration_is_of_each_layers_units(units: pd.DataFrame) -> None:
    table = concentration(units, "gradient_x_activation")
    assert table["layer"].tolist() == ["0", "2", "4", "6"]
    for row in table.itertuples():
        values = units.loc[units["layer"] == row.layer, "gradient_x_activation"]
        assert row.gini == gini(values)
        assert (row.top_1_share, row.top_10_share) == (top_share(values, 0.01), top_share(values, 0.1))
    frame = tidy(table, run="a")
    assert set(frame["measure"]) == {"gini", "top_1_share", "top_5_share", "top_10_share"}


def test_agreement_is_spearmans(units: pd.DataFrame) -> None:
    table = agreement(units)
    assert set(zip(table["first"], table["second"], strict=True)) == {
        ("gradient_x_activation", "weight_magnitude"),
        ("gradient_x_activation", "activation_variance"),
        ("weight_magnitude", "activation_variance"),
    }
    for row in table.itertuples():
        part = units[units["layer"] == row.layer]
        assert row.spearman == pytest.approx(scipy.stats.spearmanr(part[row.first], part[row.second]).statistic)


def test_spearman_with_ties_and_without_order() -> None:
    a, b = [1.0, 1.0, 2.0, 3.0, 3.0], [2.0, 0.0, 1.0, 5.0, 5.0]
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert spearman(a, a) == 1.0
    for values in ([1.0] * 5, [np.nan, *a[1:]]):
        assert np.isnan(spearman(a, values))
    assert np.isnan(spearman([1.0, 2.0], [1.0, 2.0]))


def test_magnitudes_of_transposed_convolutions(model: nn.Module, units: pd.DataFrame) -> None:
    kernel = model[2].weight.detach().numpy()  # (in, out / groups, 2, 2): output unit 3 is the second of group 1
    expected = [np.sqrt((kernel[3 * (u // 2) : 3 * (u // 2) + 3, u % 2] ** 2).sum()) for u in range(4)]
    np.testing.assert_allclose(units.loc[units["layer"] == "2", "weight_magnitude"], expected)


def test_masks_and_attributions(units: pd.DataFrame) -> None:
    values = units.loc[units["layer"] == "4", "gradient_x_activation"].to_numpy()
    ranks = values.argsort().argsort()
    mask = np.arange(64)[None] < 5 * ranks[:, None]  # the larger the attribution, the more weights; the least lost all
    masks = {"4.weight": mask, "0.weight": torch.ones(6, 1, 3, 3), "2.weight": np.ones((6, 2, 2, 2))}
    table = mask_relation(units, masks, measure="gradient_x_activation").set_index("layer")
    assert table.loc["4", "spearman"] == pytest.approx(1.0)
    assert table.loc["4", "density"] == pytest.approx(mask.mean())
    assert table.loc["4", "n_emptied"] == 1
    assert table.loc["4", "emptied_share"] == pytest.approx(values.min() / values.sum())
    assert np.isnan(table.loc["0", "spearman"])
    assert table.loc["0", "emptied_share"] == 0.0


def test_what_is_wrong_is_said(units: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="no column 'conductance'; did you mean"):
        concentration(units.rename(columns={"gradient_x_activation": "conductanse"}))
    with pytest.raises(ConfigError, match="between two rankings at least; these units have damage"):
        agreement(units.assign(damage=1.0), ["damage"])
    with pytest.raises(ConfigError, match="no table of units"):
        concentration(pd.DataFrame({"gini": [1.0]}), "gini")
    with pytest.raises(ConfigError, match="none of the 4 layers has a mask; there are x"):
        mask_relation(units, {"x.weight": np.ones(3)}, measure="gradient_x_activation")
    with pytest.raises(ShapeError, match="has shape \\(3,\\); the table has 12 units"):
        mask_relation(units, {"4.weight": np.ones(3)}, measure="gradient_x_activation")
