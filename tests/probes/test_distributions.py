"""Distributions by depth, against the tensors and weights themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from deepprobe.errors import ShapeError, UnknownNameError
from deepprobe.hooks.capture import capture
from deepprobe.models import create_model
from deepprobe.probes import distributions


def images(n=24, seed=0):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_activations_and_weights_of_every_layer():
    model, x = create_model("resnet8", seed=0, input_size=8), images()
    table = distributions(model, x.split(10))
    with capture(model.eval(), tap="input") as kept, torch.no_grad():
        model(x)
    weights = {
        name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    for tap, tensors in (("input", kept), ("weight", weights)):
        rows = table[table["tap"] == tap]
        assert list(rows["layer"].unique()) == list(tensors)
        for layer, part in rows.groupby("layer"):
            values = np.sort(tensors[layer].detach().double().flatten().numpy())
            assert part["count"].sum() == part["n_values"].iloc[0] == len(values)
            upper = np.searchsorted(values, part["high"][part["low"] > 0], side="left")
            np.testing.assert_array_equal(part["count"].cumsum()[part["low"] > 0], upper)
            assert part["share"].sum() == pytest.approx(1.0)
            assert part.loc[part["low"] == part["high"], "count"].sum() == (values == 0).sum()
    depths = table.groupby(["tap", "layer"])["depth"].first().unstack("tap")
    assert (depths["input"] == depths["weight"])[lambda same: ~same.index.str.contains("shortcut")].all()


def test_tables_of_parts_add_up():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(50, 4)
    keys = ["layer", "tap", "low", "high"]

    def counts(*batches):
        table = pd.concat([distributions(model, b) for b in batches])
        return table[table["tap"] == "input"].groupby(keys)["count"].sum()

    pd.testing.assert_series_equal(counts(x), counts(x[:13], x[13:]))


def test_a_layer_without_a_finite_value_has_a_row():
    table = distributions(nn.Linear(2, 2), torch.full((3, 2), torch.nan))
    row = table[table["tap"] == "input"].iloc[0]
    assert (row["n_values"], row["n_nonfinite"], row["count"], row["share"]) == (6, 6, 0, 0.0)
    assert np.isnan([row["low"], row["high"]]).all()


def test_layers_without_kernels_have_activations_only():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    table = distributions(model, torch.randn(5, 4), layers=nn.ReLU, tap="output")
    assert set(table["tap"]) == {"output"}
    assert table["low"].min() == 0


def test_what_cannot_be_is_said():
    with pytest.raises(ShapeError, match="none of the 1 chosen layers saw a floating-point tensor"):
        distributions(nn.Linear(2, 2), [])
    with pytest.raises(UnknownNameError):
        distributions(nn.Linear(2, 2), torch.rand(3, 2), layers="no")
