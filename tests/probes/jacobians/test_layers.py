"""Jacobians by depth against those formed by torch.func, in float64."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deepprobe.errors import ConfigError, ShapeError, SpectrumError, UnknownNameError
from deepprobe.models import create_model
from deepprobe.probes.jacobians import jacobian_growth, layer_jacobians
from deepprobe.probes.jacobians.graph import Pushforward, differentiable, graphs
from deepprobe.probes.shattering import gradient_correlation


def chain(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=inplace), nn.Conv2d(3, 4, 3),
        nn.Tanh(), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 4),
    ).eval()  # fmt: skip


def formed(function: nn.Module, x: torch.Tensor) -> list[np.ndarray]:
    """The Jacobian of every sample, outputs by inputs."""
    twin = copy.deepcopy(function).double().eval()
    found = [torch.func.jacrev(lambda one: twin(one[None])[0])(one).detach() for one in x.double()]
    return [j.reshape(-1, x[0].numel()).numpy() for j in found]


def images(n: int, *shape: int) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("inplace", [False, True])
def test_each_number_equals_that_of_the_formed_jacobian(inplace):
    model, x = chain(), images(5, 1, 5, 5)
    table = layer_jacobians(chain(inplace=inplace), [x[:3], x[3:]], steps=40, probes=150, in_float64=True).set_index(
        "layer"
    )
    assert table.index.tolist() == ["", "0", "3", "6", "8"]
    assert table["depth"].tolist() == [0, 1, 2, 3, 4]
    assert table["n_rows"].tolist() == [5] * 5
    assert table["n_features"].tolist() == [25, 75, 36, 6, 4]
    assert set(table["status"]) == {"finite"}
    places = [0, 1, 4, 7, 9]
    for layer, begin, end in zip(table.index, [0, *places], places, strict=False):
        with torch.no_grad():
            before, after = model[:begin](x.clone()), model[:end](x.clone())
        norms = np.linalg.norm(formed(model[end:], after), axis=(1, 2))
        row = table.loc[layer]
        np.testing.assert_allclose(row["jacobian_to_output"], np.median(norms), rtol=1e-6)
        np.testing.assert_allclose(row["jacobian_to_output_q75"], np.quantile(norms, 0.75), rtol=1e-6)
        if layer == "":
            assert np.isnan(row[["jacobian_from_input", "segment_sigma_max"]].astype(float)).all()
            continue
        norms = np.linalg.norm(formed(model[:end], x), axis=(1, 2))
        np.testing.assert_allclose(row["jacobian_from_input"], np.median(norms), rtol=0.12)
        largest = [scipy.linalg.svdvals(j)[0] for j in formed(model[begin:end], before)]
        np.testing.assert_allclose(row["segment_sigma_max"], np.median(largest), rtol=1e-6)
        assert row["segment_residual"] < 1e-6


def test_blocks_of_a_residual_network_to_a_millionth():
    model = create_model("resnet8", in_channels=1, input_size=4, seed=0).eval()
    x = images(2, 1, 4, 4)
    table = layer_jacobians(model, x, tap="block", steps=40, probes=1, in_float64=True).set_index("layer")
    kept: dict[str, torch.Tensor] = {}
    names = [name for name in table.index if name]
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: kept.__setitem__(name, i[0]))
    with torch.no_grad():
        model(x)
    for name in names:
        largest = [scipy.linalg.svdvals(j)[0] for j in formed(model.get_submodule(name), kept[name])]
        np.testing.assert_allclose(table.loc[name, "segment_sigma_max"], np.median(largest), rtol=1e-6)


def test_signs_are_exact_where_columns_are_orthogonal():
    x = images(3, 4)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    nn.init.orthogonal_(model[0].weight)
    model[0].weight.data *= 3
    table = layer_jacobians(model, x, probes=1, steps=0, in_float64=True)
    np.testing.assert_allclose(table["jacobian_from_input"][1], 6, rtol=1e-6)
    assert table["segment_sigma_max"].isna().all()


def test_j_times_v_equals_the_formed_product_in_both_modes():
    model, x = chain(), images(4, 1, 5, 5)
    v = torch.randn(4, 1, 5, 5).double()
    with differentiable(model, mode="eval", in_float64=True, device=None, seed=0) as network:
        (graph,) = graphs(network, x, layers={}, samples=4, in_float64=True)
        (found,) = Pushforward(graph.inputs, [graph.outputs])(v)
    expected = np.stack([j @ one.flatten().numpy() for j, one in zip(formed(model, x), v, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_running_statistics_and_those_of_a_batch_differ_and_nothing_stays():
    model, x = chain(), images(9, 1, 5, 5) * 7
    model.train()
    before = copy.deepcopy(model.state_dict())
    trained, evaluated = (layer_jacobians(model, x, mode=m)["jacobian_to_output"] for m in ("train", "eval"))
    assert trained[1] < evaluated[1] / 2
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    again = layer_jacobians(model, x, mode="train")["jacobian_from_input"]
    assert layer_jacobians(model, x, mode="train")["jacobian_from_input"].equals(again)


def test_dead_and_overflowing_networks_have_a_status():
    dead = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    dead[0].bias.data.fill_(-100)
    table = layer_jacobians(dead, images(4, 3))
    assert table["status"].tolist() == ["zero", "zero", "zero"]
    assert table["segment_sigma_max"][2] == 0
    deep = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    for layer in deep:
        layer.weight.data = torch.eye(3) * 1e15
    table = layer_jacobians(deep, images(4, 3))
    assert table["status"].tolist() == ["nonfinite", "finite", "finite", "nonfinite"]
    assert table["n_lost"].tolist() == [4, 0, 0, 4]
    assert np.isnan(table["jacobian_to_output"][0])
    table = layer_jacobians(deep, images(4, 3), in_float64=True)
    assert set(table["status"]) == {"finite"}
    np.testing.assert_allclose(table["jacobian_to_output"][0], 1e45 * np.sqrt(3), rtol=1e-6)


def test_growth_is_the_slope_of_an_exponential():
    deep = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(8)))
    for layer in deep:
        nn.init.orthogonal_(layer.weight)
        layer.weight.data *= 1.5
    found = jacobian_growth(layer_jacobians(deep, images(3, 4), steps=0)).set_index("measure")
    np.testing.assert_allclose(found["factor"], 1.5, rtol=1e-5)
    np.testing.assert_allclose(found["r_squared"], 1, rtol=1e-5)
    np.testing.assert_allclose(found.loc["jacobian_to_output", "log10_range"], 8 * np.log10(1.5), rtol=1e-5)
    assert np.isnan(jacobian_growth(layer_jacobians(deep[:1], images(3, 4)))["factor"]).all()


def test_shortcut_layers_are_left_out_unless_named_and_calls_are_told_apart():
    model = create_model("resnet8", in_channels=1, input_size=8, shortcut="B", seed=0)
    x = images(2, 1, 8, 8)
    table = layer_jacobians(model, x, tap="output", probes=1, steps=0)
    assert not table["layer"].str.contains("shortcut").any()
    assert table["depth"].tolist() == list(range(9))
    named = layer_jacobians(model, x, layers="*shortcut*conv*", probes=1, steps=2)
    assert named["layer"].str.contains("shortcut").sum() == 2
    assert named["segment_sigma_max"].iloc[2] > 0


def test_attention_is_differentiated_twice_too():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3)).eval(), images(2, 3, 4)
    table = layer_jacobians(model, x, layers="0", steps=12, in_float64=True)
    with sdpa_kernel(SDPBackend.MATH):  # torch.func has no batching rule for the fused one
        largest = [scipy.linalg.svdvals(j)[0] for j in formed(model[:1], x)]
    np.testing.assert_allclose(table["segment_sigma_max"][1], np.median(largest), rtol=1e-6)


class Flat(nn.Module):
    """A layer that is given all samples as one."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(x.reshape(1, -1)).reshape(x.shape)


def test_what_cannot_be_differentiated_is_refused():
    model, x = chain(), images(2, 1, 5, 5)
    for settings in ({"probes": 0}, {"steps": -1}, {"steps": 1.5}, {"tap": "input"}, {"tap": "middle"}):
        with pytest.raises(ConfigError):
            layer_jacobians(model, x, **settings)
    with pytest.raises(UnknownNameError):
        layer_jacobians(model, x, layers="nothing")
    with pytest.raises(ShapeError, match=r"^none of the 1 chosen layers gave"):
        layer_jacobians(Flat(), images(2, 3), layers="act")

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * 2

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 3)

        def forward(self, x):
            return self.lin(Once.apply(self.lin(x)))

    with pytest.raises(SpectrumError, match="cannot be differentiated twice"):
        layer_jacobians(Doubled(), images(2, 3))


@pytest.mark.parametrize(("gain", "dtype"), [(1e11, torch.float32), (1e-13, torch.float32), (1e4, torch.float16)])
def test_products_whose_squares_leave_the_range_of_the_dtype(gain, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 2000, bias=False), nn.ReLU(), nn.Linear(2000, 10, bias=False))
    with torch.no_grad():
        model[0].weight.mul_(gain)
        model[2].weight.mul_(gain if dtype == torch.float32 else 1 / gain)
    found = layer_jacobians(model.to(dtype), torch.randn(4, 64).to(dtype), steps=0)
    exact = layer_jacobians(model.double(), torch.randn(4, 64).double(), steps=0)
    assert found["n_lost"].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found["jacobian_from_input"][1], exact["jacobian_from_input"][1], rtol=0.2)


def test_graphs_of_batches_are_freed_at_once():
    held, alive = [], []

    class Token:
        """Lives as long as the graph that it is put into."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            alive.append(sum(reference() is not None for reference in held))
            hidden = torch.tanh(self.first(x))
            hidden.grad_fn.metadata["token"] = token = Token()
            held.append(weakref.ref(token))
            return self.second(hidden)

    gc.disable()  # that reference counts alone free them
    try:
        for probe in (layer_jacobians, gradient_correlation):
            held.clear(), alive.clear()
            probe(Model(), [torch.randn(4, 3) for _ in range(4)], n_samples=16)
            assert max(alive) <= 1
    finally:
        gc.enable()


def test_last_states_of_as_many_layers_as_samples_are_no_samples():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.head = nn.GRU(3, 4, batch_first=True, num_layers=2), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.cells(x)[0][:, -1])

    torch.manual_seed(0)
    model, x = Recurrent(), torch.randn(3, 5, 3)
    two, three = (layer_jacobians(model, x[:n], steps=0, in_float64=True) for n in (2, 3))
    assert two["layer"].tolist() == three["layer"].tolist() == ["", "cells[0]", "head"]
    norms = [np.linalg.norm(j) for j in formed(model, x[:2])]
    np.testing.assert_allclose(two["jacobian_to_output"][0], np.median(norms), rtol=1e-6)
