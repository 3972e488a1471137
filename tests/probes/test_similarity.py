"""Similarity of layers and networks, against the tensors themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from toys import CalledTwice

from deepprobe.errors import ConfigError, ShapeError, UnknownNameError
from deepprobe.hooks.capture import capture
from deepprobe.models import create_model
from deepprobe.probes import similarity
from deepprobe.probes.similarity import WIDEST


def images(n=48, seed=0):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def kept(model, x, view):
    with capture(model.eval(), tap="input") as tensors, torch.no_grad():
        model(x)
    pooled = {
        k: t.double().flatten(2).mean(2) if t.ndim > 2 and view == "pooled" else t.double().flatten(1)
        for k, t in tensors.items()
    }
    return {key: (rows - rows.mean(0)).numpy() for key, rows in pooled.items()}


def grid(table, value="cka"):
    return table.pivot(index="layer_a", columns="layer_b", values=value)


@pytest.mark.parametrize(("view", "batches"), [("pooled", 3), ("samples", 1)])
def test_cka_of_one_network_is_that_of_its_tensors(view, batches):
    model, x = create_model("resnet8", seed=0, input_size=8), images()
    table = similarity(model, x.chunk(batches), view=view)
    rows = kept(model, x, view)
    found = grid(table)
    assert (table["estimator"] == "exact").all()
    assert len(table) == len(rows) ** 2
    for a, left in rows.items():
        for b, right in rows.items():
            expected = np.sum((left @ left.T) * (right @ right.T))
            expected /= np.linalg.norm(left @ left.T) * np.linalg.norm(right @ right.T)
            assert found.loc[a, b] == pytest.approx(expected, rel=1e-5)  # pooled in float32
    np.testing.assert_array_equal(found.to_numpy(), found.loc[found.columns, found.index].to_numpy().T)


def test_two_networks_and_a_rotated_layer():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)).double()
    other = copy.deepcopy(one)
    rotation = torch.from_numpy(scipy.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0])
    with torch.no_grad():
        other[0].weight.copy_(3.0 * rotation @ one[0].weight)
        other[0].bias.zero_()
    x = torch.randn(40, 6, dtype=torch.float64)
    table = similarity(one, x.split(16), other)
    found = grid(table)
    assert found.loc["1", "1"] == pytest.approx(1.0, abs=1e-12)
    assert found.loc["2", "2"] < 0.999
    one.train()
    same = similarity(one, x, one)
    np.testing.assert_allclose(grid(same), grid(similarity(one, x)), rtol=1e-12)
    assert one.training


def test_many_features_in_many_batches_are_estimated():
    wide = nn.Sequential(nn.Flatten(), nn.Linear(192, WIDEST), nn.ReLU(), nn.Linear(WIDEST, 3))
    x = images(64)
    table = similarity(wide, x.split(16))
    assert set(table["estimator"]) == {"minibatch"}
    assert table["n_rows"].unique().tolist() == [64]
    asked = similarity(wide, x.split(16), estimator="minibatch", layers="3")
    assert asked["cka"].tolist() == pytest.approx([1.0])
    whole = similarity(wide, x)
    assert set(whole["estimator"]) == {"exact"}
    with pytest.raises(ConfigError, match=r"more than 4,096 features together at view='pooled', so that the exact"):
        similarity(wide, x.split(16), estimator="exact")
    with pytest.raises(ConfigError, match=r"so that angles need all samples in one batch"):
        similarity(wide, x.split(16), measure="angles")


def test_angles_are_scipys():
    model, x = create_model("resnet8", seed=0, input_size=8), images()
    table = similarity(model, x.split(20), measure="angles", directions=3, layers="features.stage[12]*conv2")
    assert (table["status"] == "finite").all()
    rows = kept(model, x, "pooled")
    left = {key: np.linalg.svd(value, full_matrices=False)[0][:, :3] for key, value in rows.items()}
    for row in table.itertuples():
        expected = scipy.linalg.subspace_angles(left[row.layer_a], left[row.layer_b])
        assert row.angle_max == pytest.approx(expected.max(), abs=1e-4)
        assert row.angle_mean == pytest.approx(expected.mean(), abs=1e-4)
        assert row.overlap == pytest.approx(np.mean(np.cos(expected) ** 2), abs=1e-4)
        assert row.n_directions == 3


@pytest.mark.parametrize("estimator", ["exact", "minibatch"])
def test_a_dead_layer_has_a_status_and_no_error(estimator):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    table = similarity(model, torch.randn(32, 6).split(16), estimator=estimator, layers=["0", "2", "4"])
    dead = (table["layer_a"] != "0") | (table["layer_b"] != "0")
    assert (table.loc[dead, "status"] == "constant").all()
    assert table.loc[dead, "cka"].isna().all()
    assert table.loc[~dead, "cka"].tolist() == pytest.approx([1.0])
    if estimator == "exact":
        angles = similarity(model, torch.randn(32, 6), measure="angles")
        assert angles.loc[dead, "angle_mean"].isna().all()
        assert (angles.loc[dead, "n_directions"] == 0).all()
    broken = similarity(model, torch.full((32, 6), torch.nan), estimator=estimator)
    assert set(broken["status"]) == {"nonfinite"}


def test_a_rank_one_layer_has_one_direction():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 4), nn.Linear(4, 2))
    table = similarity(model, torch.randn(64, 6), measure="angles", directions=2)
    assert table.pivot(index="layer_a", columns="layer_b", values="n_directions").to_numpy().tolist() == [
        [2, 1, 1], [1, 1, 1], [1, 1, 1],
    ]  # fmt: skip
    assert table.set_index(["layer_a", "layer_b"]).loc[("1", "2"), "angle_max"] < 1e-3


def test_calls_and_hooks():
    model = CalledTwice()
    table = similarity(model, torch.randn(9, 6))
    assert table[["layer_a", "call_a", "layer_b", "call_b"]].values.tolist() == [
        ["lin", a, "lin", b] for a in (1, 2) for b in (1, 2)
    ]
    with pytest.raises(ShapeError, match="layer 'lin' had 6 features and now has 7"):
        similarity(model, [torch.randn(9, 6), torch.randn(9, 7, 1)])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_is_said():
    model, x = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2)), torch.randn(12, 6)
    for options, words in (
        ({"view": "channels"}, "has not one row a sample"),
        ({"measure": "cca"}, "is neither 'cka' nor 'angles'"),
        ({"estimator": "fast"}, "is none of 'auto', 'exact', 'minibatch'"),
        ({"measure": "angles", "estimator": "minibatch"}, "has no angles"),
        ({"directions": 0}, "is not a number of directions"),
    ):
        with pytest.raises(ConfigError, match=words):
            similarity(model, x, **options)
    with pytest.raises(UnknownNameError):
        similarity(model, x, nn.Linear(6, 2), layers="1")
    with pytest.raises(ShapeError, match="holds no samples"):
        similarity(model, [])
    with pytest.raises(ShapeError, match="two samples at least"):
        similarity(model, x[:1])
    with pytest.raises(ShapeError, match="four in a batch"):
        similarity(model, x.split(3), estimator="minibatch")
    with pytest.raises(ShapeError, match=r"has 24 rows for 12 samples"):
        similarity(nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 2)), torch.randn(12, 2, 3), layers="1")
