"""Choosing layers."""

from __future__ import annotations

import pytest
import torch
import toys
from torch import Tensor, nn

from deepprobe.errors import ConfigError, UnknownNameError
from deepprobe.hooks.select import rank_limit, select_layers
from deepprobe.probes import condition_numbers, unit_profiles


def test_by_glob_type_predicate_and_default() -> None:
    model = toys.small_residual_net()
    assert list(select_layers(model)) == ["stem", "blocks.0.conv", "blocks.1.conv", "head"]
    assert list(select_layers(model, "blocks.*.act")) == ["blocks.0.act", "blocks.1.act"]
    assert list(select_layers(model, ["head", "stem"])) == ["stem", "head"]
    assert list(select_layers(model, nn.ReLU)) == ["blocks.0.act", "blocks.1.act"]
    assert list(select_layers(model, (nn.ReLU, nn.Linear))) == ["blocks.0.act", "blocks.1.act", "head"]
    assert list(select_layers(model, lambda name, module: name.endswith("conv"))) == ["blocks.0.conv", "blocks.1.conv"]
    assert list(select_layers(model, tap="block")) == ["blocks.0", "blocks.1"]


def test_a_bare_layer_is_its_own_model() -> None:
    assert list(select_layers(nn.Linear(2, 2))) == [""]


def test_what_does_not_exist() -> None:
    model = toys.small_residual_net()
    with pytest.raises(UnknownNameError) as caught:
        select_layers(model, "stages.9.*")
    assert str(caught.value) == (
        "layers='stages.9.*' matches nothing; the model has 11 modules: stem, blocks, blocks.0, blocks.0.conv, …,"
        " pool, flat, head"
    )
    with pytest.raises(UnknownNameError, match="layers=BatchNorm2d matches nothing"):
        select_layers(model, nn.BatchNorm2d)
    with pytest.raises(UnknownNameError, match="layers='nope' matches nothing"):
        select_layers(model, ["stem", "nope"])
    with pytest.raises(UnknownNameError, match=r"the model has no blocks .* say layers=…"):
        select_layers(nn.Sequential(nn.Linear(2, 2)), tap="block")
    with pytest.raises(UnknownNameError, match=r"layers=\[\] selects nothing"):
        select_layers(model, [])
    with pytest.raises(ConfigError, match=r"tap='outputs' is not a tap: did you mean 'output'"):
        select_layers(model, tap="outputs")
    with pytest.raises(ConfigError, match="layers=3 is neither a glob, a module class nor a predicate"):
        select_layers(model, [3])  # type: ignore[list-item]


def test_rank_limits() -> None:
    assert rank_limit(nn.Conv2d(16, 64, 1, bias=False), "output", "channels", axes=4) == (16, False)
    assert rank_limit(nn.Conv2d(16, 64, 3), "output", "channels", axes=4) == (64, True)
    assert rank_limit(nn.Conv2d(8, 64, 1, groups=4), "output", "pooled", axes=4) == (8, True)
    assert rank_limit(nn.Linear(30, 100), "output", "samples", axes=2) == (30, True)
    assert rank_limit(nn.Linear(30, 100), "output", "tokens", axes=3) == (30, True)
    assert rank_limit(nn.Linear(30, 100), "input", "samples", axes=2) == (None, False)
    assert rank_limit(nn.Conv2d(16, 64, 1), "output", "samples", axes=4) == (None, False)
    assert rank_limit(nn.ReLU(), "output", "channels", axes=2) == (None, False)


@pytest.mark.parametrize("view", ["channels", "samples", "pooled"])
def test_units_that_are_positions_have_no_rank_limit(view: str) -> None:
    assert rank_limit(nn.Linear(2, 8), "output", view, axes=3) == (None, False)
    assert rank_limit(nn.Conv2d(1, 8, 1), "output", view, axes=3) == (None, False)


def test_a_forward_of_its_own_may_not_be_linear() -> None:
    class Rectified(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    assert rank_limit(Rectified(2, 8), "output", "channels", axes=2) == (None, False)


def test_layers_whose_weights_are_made_count_once() -> None:
    weight_norm, spectral_norm = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.ReLU(), spectral_norm(nn.Linear(5, 3)))
    assert list(select_layers(model)) == ["0", "2"]
    with pytest.raises(UnknownNameError, match="no blocks"):
        select_layers(model, tap="block")
    table = condition_numbers(model, torch.randn(32, 4), progress=False)
    assert table[["layer", "depth", "n_features"]].values.tolist() == [["0", 1, 5], ["2", 2, 3]]
    assert len(unit_profiles(model, torch.randn(32, 4), progress=False)) == 4 + 5


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model is function; an nn\.Module is needed"):
        condition_numbers(lambda x: x, torch.randn(4, 2))  # type: ignore[arg-type]
