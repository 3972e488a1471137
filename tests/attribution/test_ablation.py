"""Ablation against networks edited by hand."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepprobe.attribution import ablation_areas, ablation_curves, agreement, attributions, unit_damage
from deepprobe.errors import ConfigError, ShapeError


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(inplace=True), nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 3))
    return net.double().train()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    return x, torch.arange(40) % 3


@pytest.fixture(scope="module")
def units(model: nn.Module, batch: tuple[Tensor, Tensor]) -> pd.DataFrame:
    return attributions(model, batch, "gradient-x-activation", layers=["0", "2"])


def without(model: nn.Module, removed: dict[str, list[int]]) -> nn.Module:
    """A copy whose units give zero, by their own weights."""
    edited = copy.deepcopy(model)
    with torch.no_grad():
        for name, rows in removed.items():
            layer = edited.get_submodule(name)
            layer.weight[rows] = 0
            layer.bias[rows] = 0
    return edited


@torch.no_grad()
def outcome(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[float, float]:
    scores = model(batch[0])
    return (scores.argmax(1) == batch[1]).double().mean().item(), F.cross_entropy(scores, batch[1]).item()


@pytest.mark.parametrize("order", ["top", "bottom"])
def test_curves_are_those_of_edited_networks(
    order: str, model: nn.Module, batch: tuple[Tensor, Tensor], units: pd.DataFrame
) -> None:
    before = copy.deepcopy(model.state_dict())
    table = ablation_curves(model, [tuple(t[:15] for t in batch), tuple(t[15:] for t in batch)], units,
                            rankings=["weight_magnitude"], fractions=(0.2, 0.6), order=[order])  # fmt: skip
    assert table["fraction"].tolist() == [0.0, 0.2, 0.6]
    assert table["n_removed"].tolist() == [0, 3, 9]
    for row in table.itertuples():
        removed = {}
        for name in ("0", "2"):
            norms = model.get_submodule(name).weight.detach().norm(dim=1)
            ranked = norms.argsort(descending=order == "top").tolist()
            removed[name] = ranked[: round(row.fraction * len(norms))]
        accuracy, loss = outcome(without(model, removed), batch)
        assert row.accuracy == pytest.approx(accuracy)
        assert row.loss == pytest.approx(loss)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert model[1].inplace
    assert not any(m._forward_hooks for m in model.modules())


def test_means_and_everything_gone(model: nn.Module, batch: tuple[Tensor, Tensor], units: pd.DataFrame) -> None:
    table = ablation_curves(model, batch, units, fractions=[1.0], layers=["2"], value="mean", repeats=2)
    edited = without(model, {"2": list(range(5))})
    with torch.no_grad():
        edited[2].bias += model[:3](batch[0]).mean(dim=0)
    gone = table[table["fraction"] == 1.0]
    np.testing.assert_allclose(gone["loss"], outcome(edited, batch)[1])
    assert (gone["n_removed"] == 5).all()
    counts = table.groupby(["ranking", "order"])["repeat"].nunique()
    assert counts["random", "random"] == 2
    assert counts.drop(("random", "random")).eq(1).all()


def test_damage_is_the_loss_without_a_unit(model: nn.Module, batch: tuple[Tensor, Tensor], units: pd.DataFrame) -> None:
    table = unit_damage(model, batch, layers=["0", "2"], rows=100)
    whole = outcome(model, batch)[1]
    for row in table.itertuples():
        assert row.damage == pytest.approx(
            outcome(without(model, {row.layer: [row.unit]}), batch)[1] - whole, abs=1e-12
        )
    assert table["damage_se"].gt(0).any()
    both = units.merge(table[["layer", "unit", "damage"]], on=["layer", "unit"])
    assert "damage" in set(agreement(both)["second"])


def test_areas_are_of_straight_lines() -> None:
    rows = [
        {"ranking": name, "order": order, "repeat": 0, "fraction": f, "accuracy": a, "loss": 1 - a}
        for name, order, values in (
            ("poor", "top", (1.0, 0.5, 0.0)),
            ("poor", "bottom", (1.0, 0.6, 0.2)),
            ("good", "top", (1.0, 0.0, 0.0)),
            ("good", "bottom", (1.0, 1.0, 0.8)),
            ("random", "random", (1.0, 0.5, 0.5)),
        )
        for f, a in zip((0.0, 0.1, 0.5), values, strict=True)
    ]
    table = ablation_areas(pd.DataFrame(rows))
    assert table["ranking"].tolist() == ["good", "poor"]
    assert table["top"].tolist() == pytest.approx([0.05 / 0.5, (0.075 + 0.1) / 0.5])
    assert table["bottom"].tolist() == pytest.approx([(0.1 + 0.36) / 0.5, (0.08 + 0.16) / 0.5])
    assert table["separation"].tolist() == pytest.approx((table["bottom"] - table["top"]).tolist())
    np.testing.assert_allclose(ablation_areas(pd.DataFrame(rows), "loss")["separation"], table["separation"])


def test_what_is_wrong_is_said(model: nn.Module, batch: tuple[Tensor, Tensor], units: pd.DataFrame) -> None:
    for options, message in (
        ({"fractions": [1.5]}, "expected numbers between 0 and 1"),
        ({"order": "top"}, "expected some of top, random, bottom"),
        ({"value": "median"}, "neither 'zero' nor 'mean'"),
        ({"repeats": 0}, "repeats=0"),
        ({"layers": ["9"]}, "are not all in this table of units; it has 0, 2"),
        ({"rankings": ["grad_cam"]}, "no column 'grad_cam'"),
    ):
        with pytest.raises(ConfigError, match=message):
            ablation_curves(model, batch, units, **options)
    with pytest.raises(ConfigError, match="has 4 units of layer '2'; in this network there are 5"):
        ablation_curves(model, batch, units.iloc[:-1])
    with pytest.raises(ConfigError, match="units of layer '2'; this network has no such module"):
        ablation_curves(nn.Sequential(nn.Linear(6, 4)).double(), batch, units)
    with pytest.raises(ConfigError, match="has no number for some units of layer '0'"):
        ablation_curves(model, batch, units.assign(grad_cam=np.nan), rankings=["grad_cam"])
    with pytest.raises(ConfigError, match="hold no labels"):
        ablation_curves(model, batch[0], units)
    with pytest.raises(ShapeError, match="holds no samples"):
        ablation_curves(model, [], units)
    with pytest.raises(ShapeError, match="judged by scores"):
        unit_damage(nn.Sequential(nn.Linear(6, 1)).double(), batch)
