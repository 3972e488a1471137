"""Profiles of units of real and awkward models, against the tensors themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from toys import CalledTwice, InPlace

from deepprobe.errors import ConfigError, ShapeError, UnknownNameError
from deepprobe.hooks.capture import capture
from deepprobe.measures.units import RARE
from deepprobe.models import create_model
from deepprobe.probes import condition_numbers, unit_profiles
from deepprobe.probes.unit_profiles import PROFILE_MEASURES
from deepprobe.records.frame import UNIT_MEASURES, tidy, wide


def images(n=60, *, channels=3, size=8, seed=0):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.Tanh(), nn.Flatten(),
        nn.Linear(288, 5),
    )  # fmt: skip
    with torch.no_grad():
        model[0].bias[1] = -100.0  # dead
        model[0].weight[4], model[0].bias[4] = model[0].weight[2], model[0].bias[2]  # duplicate
        model[2].bias[3] = 50.0  # saturated
    return model


def test_profiles_are_those_of_the_tensor():
    model, x = net(), images()
    y = torch.arange(60) % 7 + 3
    table = unit_profiles(model, zip(x.split(25), y.split(25), strict=True))
    with capture(model, tap="input") as kept, torch.no_grad():
        model(x)
    assert table.groupby("layer", sort=False)["unit"].agg(list).to_dict() == {
        "0": [*range(3)], "2": [*range(6)], "5": [*range(288)],
    }  # fmt: skip
    rows = kept["2"].double().permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    found = table[table["layer"] == "2"].set_index("unit")
    np.testing.assert_allclose(found["activation_mean"], rows.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found["activation_std"], rows.std(0), rtol=1e-10)
    np.testing.assert_allclose(found["firing_rate"], (rows != 0).mean(0))
    assert found["dead"].tolist() == [False, True, False, False, False, False]
    assert found["duplicate_of"].fillna(-1).tolist() == [-1, -1, -1, -1, 2, -1]
    assert found["duplicate"].tolist() == [False] * 4 + [True, False]
    labels = np.repeat(y.numpy(), 64)
    for unit in (0, 2, 3, 5):
        means = np.array([rows[labels == c, unit].mean() for c in range(3, 10)])
        others = (means.sum() - means.max()) / 6
        expected = (means.max() - others) / (means.max() + others)
        assert found.loc[unit, "class_selectivity"] == pytest.approx(expected, rel=1e-9)
        assert found.loc[unit, "preferred_class"] == 3 + means.argmax()
    assert np.isnan(found.loc[1, ["class_selectivity", "preferred_class", "lifetime_sparseness"]].astype(float)).all()
    assert (found[["n_rows", "n_features", "depth"]] == [60 * 64, 6, 2]).all(axis=None)


def test_saturation_is_seen_where_a_layer_reads_a_bounded_output():
    model, x = net(), images()
    by_input = unit_profiles(model, x)
    by_output = unit_profiles(model, x, layers=nn.Tanh, tap="output")
    with capture(model, layers="3") as kept, torch.no_grad():
        model(x)
    flat = 1 - kept["3"].double() ** 2 <= 0.1
    assert by_output["saturated_share"].to_numpy() == pytest.approx(flat.double().mean((0, 2, 3)).numpy())
    assert by_output["saturated"].tolist() == [False] * 3 + [True] + [False] * 4
    features = by_input[by_input["layer"] == "5"]
    assert features["saturated_share"].to_numpy() == pytest.approx(flat.double().mean(0).flatten().numpy())
    assert by_input.loc[by_input["layer"] == "2", "saturated_share"].isna().all()


def test_a_changed_or_other_tensor_is_not_taken_for_a_bounded_one():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.second, self.third = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.third(self.second(self.act(self.first(x)).mul_(3.0)))

    table = unit_profiles(Scaled(), [torch.randn(9, 4), torch.randn(9, 4)])
    assert table["saturated_share"].isna().all()
    assert not table["saturated"].any()


@pytest.mark.parametrize(
    ("module", "flat"),
    [
        (nn.Sigmoid(), lambda y: 4 * y * (1 - y) <= 0.1),
        (nn.Softsign(), lambda y: (1 - y.abs()) ** 2 <= 0.1),
        (nn.Hardtanh(-0.5, 0.8), lambda y: (y == -0.5) | (y == torch.tensor(0.8, dtype=y.dtype))),
        (nn.ReLU6(), lambda y: y == 6),
        (nn.Hardsigmoid(), lambda y: (y == 0) | (y == 1)),
    ],
)  # fmt: skip
def test_the_flat_part_is_where_the_slope_is_a_tenth(module, flat):
    x = 6 * torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = unit_profiles(nn.Sequential(nn.Identity(), module), x, layers="1", tap="output")
    assert table["saturated_share"].to_numpy() == pytest.approx(flat(module(x)).double().mean(0).numpy())
    assert table["saturated_share"].gt(0).all()


def test_weights_are_those_that_read_or_make_the_unit():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.Flatten(), nn.Linear(196, 5)
    )
    x = torch.randn(3, 3, 8, 8)

    def norms(tap, layer):
        table = unit_profiles(model, x, tap=tap)
        return table.loc[table["layer"] == layer, "unit_weight_norm"].to_numpy()

    def reached(layer, tap, unit):
        """Weights that get a gradient from one input, or give one output, of the layer."""
        weight = model[int(layer)].weight
        shape = x[:1] if layer == "0" else model[: int(layer)](x[:1])
        given = torch.ones_like(shape)
        if tap == "input":
            given = torch.zeros_like(shape)
            given[:, unit] = 1.0
        out = model[int(layer)](given)
        chosen = out if tap == "input" else out[:, unit]
        (gradient,) = torch.autograd.grad((chosen * torch.rand_like(chosen)).sum(), weight)
        return weight[gradient != 0].double().norm().item()

    for layer, n_in, n_out in (("0", 3, 6), ("1", 6, 4), ("3", 196, 5)):
        for tap, n in (("input", n_in), ("output", n_out)):
            expected = [reached(layer, tap, unit) for unit in range(min(n, 7))]
            assert norms(tap, layer)[:7] == pytest.approx(expected, rel=1e-6)


def test_counts_agree_with_those_of_condition_numbers():
    model, x = create_model("resnet8", seed=0, input_size=8), images(60)
    units = unit_profiles(model, x.split(16))
    layers = condition_numbers(model, x.split(16), tap="input")
    counted = units.groupby("layer", sort=False)[["dead", "constant", "duplicate", "rare"]].sum()
    expected = layers.set_index("layer")[["n_dead", "n_constant", "n_duplicate", "n_rare"]]
    assert counted.to_numpy().tolist() == expected.to_numpy().tolist()
    assert (units["rare"] == (units["firing_rate"] * units["n_rows"]).round().between(1, RARE - 1)).all()


def test_awkward_models():
    twice = unit_profiles(CalledTwice(), torch.randn(9, 6))
    assert twice.groupby("call")["layer"].agg(set).to_dict() == {1: {"lin"}, 2: {"lin"}}
    in_place = unit_profiles(InPlace(), images(), tap="output")
    assert in_place.loc[in_place["layer"] == "conv", "activation_min"].lt(0).all()
    tokens = unit_profiles(nn.Sequential(nn.Linear(4, 3)), torch.randn(5, 7, 4), view="tokens")
    assert tokens[["n_rows", "n_features"]].drop_duplicates().values.tolist() == [[35, 4]]
    labelled = unit_profiles(nn.Linear(4, 3), [{"input": torch.rand(6, 4), "labels": torch.arange(6) % 2}])
    assert labelled["class_selectivity"].between(0, 1).all()


def test_a_unit_that_met_nan_is_named():
    x = torch.rand(20, 3)
    x[4, 1] = torch.nan
    table = unit_profiles(nn.Linear(3, 2), x)
    assert table["nonfinite"].tolist() == [False, True, False]
    assert table["activation_mean"].notna().all()


def test_nothing_is_left_behind():
    model = net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    unit_profiles(model, images())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ShapeError):
        unit_profiles(model, [images(), torch.randn(2, 5)])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.training


def test_what_cannot_be_is_said():
    model = net()
    with pytest.raises(ConfigError, match=r"^view='hosvd1' has no units: choose one of channels, pooled"):
        unit_profiles(model, images(), view="hosvd1")
    with pytest.raises(ConfigError, match="is not a tap"):
        unit_profiles(model, images(), tap="middle")
    with pytest.raises(UnknownNameError, match="matches nothing"):
        unit_profiles(model, images(), layers="9")
    with pytest.raises(ShapeError, match=r"none of the 3 chosen layers saw a row"):
        unit_profiles(model, [])
    with pytest.raises(ShapeError, match=r"layer '' had 8 units and now has 6"):
        unit_profiles(nn.AdaptiveAvgPool1d(1), [torch.rand(4, 8, 3), torch.rand(4, 6, 3)], layers="*", tap="input")


def test_the_table_is_tidy():
    table = unit_profiles(net(), images())
    measures = table.columns[table.columns.get_loc("unit") + 1 :]
    assert {m for m in measures if not m.endswith("_se")} == set(PROFILE_MEASURES) <= set(UNIT_MEASURES)
    back = wide(tidy(table, run="a", seed=0, round=0, step=0, epoch=0.0, split="probe"))
    pd.testing.assert_series_equal(back["activation_mean"], table["activation_mean"], check_names=False)
    np.testing.assert_allclose(back["activation_mean_se"], table["activation_mean_se"], rtol=1e-6)
    assert back["dead"].tolist() == table["dead"].astype(float).tolist()


def test_positions_have_no_weights_though_they_be_as_many_as_features():
    model, square = nn.Sequential(nn.Linear(4, 4)), torch.randn(5, 4, 4)
    assert unit_profiles(model, square)["unit_weight_norm"].isna().all()
    tokens = unit_profiles(model, square, view="tokens")["unit_weight_norm"]
    assert tokens.to_numpy() == pytest.approx(model[0].weight.detach().norm(dim=0).numpy())
    maps = nn.Sequential(nn.Conv2d(3, 2, 1))
    assert unit_profiles(maps, torch.randn(5, 3, 3, 3), view="tokens")["unit_weight_norm"].isna().all()


def test_batches_of_which_some_have_no_labels():
    model = nn.Sequential(nn.Linear(1, 1))
    labelled = torch.tensor([[1.0], [3.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
    whole = unit_profiles(model, [labelled])
    assert whole["class_variance_share"].item() == pytest.approx(81 / 85)
    some = unit_profiles(model, [labelled, torch.zeros(100, 1)])
    assert some["class_variance_share"].isna().all()
    assert some["class_selectivity"].item() == pytest.approx(whole["class_selectivity"].item())


def test_no_unit_is_rare_where_all_rows_are_few():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    few, enough = (unit_profiles(model, torch.randn(n, 3), layers="2", progress=False) for n in (49, 51))
    assert (few["firing_rate"] < 1).all()
    assert not few["rare"].any()
    assert enough["rare"].all()  # behind a ReLU, in fewer than 50 of 51 rows
