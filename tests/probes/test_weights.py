"""Kernels as matrices, against SciPy on matrices that plain loops write out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

import deepprobe as dp
from deepprobe.errors import UnknownNameError
from deepprobe.hooks.kernels import kernels
from deepprobe.probes import weight_spectra, weight_table


def written_out(layer: nn.Module) -> np.ndarray:
    """The whole matrix, outputs × inputs · positions, entry by entry from the definition of the layer."""
    weight = layer.weight.detach().double().numpy()
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return weight.reshape(len(weight), -1)
    groups, n_in, n_out = layer.groups, layer.in_channels, layer.out_channels
    positions = list(np.ndindex(*layer.kernel_size))
    matrix = np.zeros((n_out, n_in * len(positions)))
    for out in range(n_out):
        for channel in range(n_in):
            if out // (n_out // groups) != channel // (n_in // groups):
                continue
            for i, place in enumerate(positions):
                if layer.transposed:
                    entry = weight[(channel, out % (n_out // groups), *place)]
                else:
                    entry = weight[(out, channel % (n_in // groups), *place)]
                matrix[out, channel * len(positions) + i] = entry
    return matrix


LAYERS = {
    "linear": lambda: nn.Linear(7, 5),
    "linear that widens": lambda: nn.Linear(3, 8),
    "convolution": lambda: nn.Conv2d(4, 6, 3),
    "convolution 1×1 that widens": lambda: nn.Conv2d(4, 16, 1),
    "convolution in 1-D": lambda: nn.Conv1d(3, 5, 4),
    "grouped": lambda: nn.Conv2d(8, 12, 3, groups=4),
    "grouped that widens": lambda: nn.Conv2d(4, 24, 1, groups=2),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed and grouped": lambda: nn.ConvTranspose2d(4, 6, (2, 3), groups=2),
    "embedding": lambda: nn.Embedding(20, 6, padding_idx=0),
    "bilinear": lambda: nn.Bilinear(3, 4, 5),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_values_are_those_of_the_whole_matrix(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    matrix = written_out(layer)
    found = weight_spectra(layer)[""]
    expected = scipy.linalg.svdvals(matrix)[: min(matrix.shape)]
    np.testing.assert_allclose(found.singular_values, expected, rtol=1e-12)
    assert sorted((found.n_rows, found.n_features)) == sorted(matrix.shape)
    assert found.n_rows >= found.n_features == len(found.singular_values) == found.rank_bound
    assert found.status == "finite"
    row = weight_table(layer).iloc[0]
    assert row["weight_norm"] == pytest.approx(np.linalg.norm(matrix), rel=1e-12)
    assert row["sigma_max"] == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-12)
    assert row["condition_number"] == pytest.approx(np.linalg.cond(matrix), rel=1e-9)
    assert (row["tap"], row["view"], row["dtype"], row["depth"]) == ("weight", "kernel", "float32", 1)
    assert np.isnan(row["condition_number_null"]) == (getattr(layer, "groups", 1) > 1)
    assert not any(str(c).startswith("centred_") for c in weight_table(layer))


def test_dead_and_duplicate_filters_are_units_also_in_groups():
    layer = nn.Conv2d(4, 8, 3, groups=2)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.weight[5] = layer.weight[4]
        layer.weight[2] = layer.weight[6]  # alike, but of other inputs
    found = weight_spectra(layer)[""]
    assert (found.units.n_dead, found.units.n_duplicate) == (1, 1)
    assert (found.status, found.numerical_rank) == ("singular-exact", 6)
    assert "; ".join(found.reasons) == "1 dead unit; 1 duplicate unit"
    live = scipy.linalg.svdvals(np.delete(written_out(layer), [1, 5], axis=0))
    assert found.condition_number_live == pytest.approx(live[0] / live[-1], rel=1e-10)


def test_zero_low_rank_and_nonfinite_weights():
    layer = nn.Linear(6, 4, bias=False)
    with torch.no_grad():
        layer.weight[:] = 0
        assert weight_table(layer)[["status", "weight_norm"]].values.tolist() == [["zero", 0.0]]
        layer.weight[:] = torch.outer(torch.rand(4), torch.rand(6))
        assert weight_spectra(layer)[""].status == "singular-at-precision"
        layer.weight[2, 3] = float("inf")
        layer.weight[1, 1] = float("nan")
    row = weight_table(layer).iloc[0]
    assert (row["status"], row["n_nonfinite"], row["n_rows"], row["n_features"]) == ("nonfinite", 2, 6, 4)
    assert np.isnan(row["weight_norm"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_weights_own_precision_sets_what_is_known(dtype):
    layer = nn.Linear(6, 4).to(dtype)
    found = weight_spectra(layer)[""]
    roundoff = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-53}[dtype]
    matrix = layer.weight.detach().double().numpy()
    np.testing.assert_allclose(found.singular_values, scipy.linalg.svdvals(matrix), rtol=1e-12)
    assert found.delta == pytest.approx(roundoff * np.linalg.norm(matrix), rel=1e-2 if dtype != torch.float64 else 9)


class Awkward(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(4, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(4, 11)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(3, 3))


def test_several_kernels_shared_ones_and_none():
    found = kernels(Awkward())
    assert [(k.call.depth, k.call.layer) for k in found] == [
        (2, "embedding"), (3, "lstm.weight_ih_l0"), (3, "lstm.weight_hh_l0"),
    ]  # fmt: skip
    assert list(weight_spectra(Awkward(), "head")) == ["head"]
    with pytest.raises(UnknownNameError, match="matches nothing"):
        weight_spectra(Awkward(), "tail")
    with pytest.raises(UnknownNameError) as error:
        weight_spectra(Awkward(), "norm")
    assert str(error.value) == "none of the 1 chosen layers has a kernel: a parameter of two or more axes"


def test_depth_is_that_of_activations_and_nothing_changes():
    model = dp.create_model("resnet20")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    table = weight_table(model)
    activations = dp.condition_numbers(model, torch.randn(4, 3, 32, 32), tap="input", view="pooled", progress=False)
    assert table[["layer", "depth"]].values.tolist() == activations[["layer", "depth"]].values.tolist()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
