"""Singular values of input-to-output Jacobians against those of Jacobians formed by torch.func."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.models import create_model
from deepprobe.probes.jacobians import input_jacobian, jacobian_spectra, jacobian_summary


def small(*, act=nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), act(), nn.Conv2d(4, 4, 3), act(), nn.Flatten(),
        nn.Linear(64, 5),
    )  # fmt: skip


def exact(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """Singular values of each sample's Jacobian, formed in float64 by reverse mode."""
    twin = copy.deepcopy(model).double().eval()
    found = [torch.func.jacrev(lambda one: twin(one[None])[0])(one).reshape(-1, one.numel()) for one in x.double()]
    return np.stack([scipy.linalg.svdvals(j.detach().numpy()) for j in found])


def values(spectra) -> np.ndarray:
    return np.stack([s.singular_values for s in spectra])


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_all_singular_values_equal_those_of_the_formed_jacobian(act):
    model, x = small(act=act), torch.randn(6, 2, 6, 6)
    model(x)  # running statistics of its own
    found = jacobian_spectra(model, [x[:4], x[4:]], in_float64=True)
    np.testing.assert_allclose(values(found), exact(model, x), rtol=1e-9)
    np.testing.assert_allclose(values(jacobian_spectra(model, x)), exact(model, x), rtol=2e-5)
    assert [s.dtype for s in found] == ["float64"] * 6


def test_a_residual_network_of_the_zoo_against_the_formed_jacobian():
    model = create_model("resnet8", in_channels=1, input_size=8, seed=0)
    x = torch.randn(3, 1, 8, 8)
    found = jacobian_spectra(model, x, in_float64=True)
    np.testing.assert_allclose(values(found), exact(model, x), rtol=1e-8)


def test_in_training_mode_the_batch_gives_the_statistics_and_they_are_constants():
    model, x = small(), torch.randn(16, 2, 6, 6) * 3 + 1
    frozen = copy.deepcopy(model).double()
    frozen[1].momentum = 1.0
    frozen.train()(x.double())
    frozen[1].running_var.mul_((16 * 36 - 1) / (16 * 36))  # training divides by n, running statistics by n - 1
    before = copy.deepcopy(model.state_dict())
    found = jacobian_spectra(model, x, n_samples=3, mode="train", in_float64=True)
    np.testing.assert_allclose(values(found), exact(frozen, x[:3]), rtol=1e-9)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_the_table_reads_the_spectra():
    model, x = small(), torch.randn(4, 2, 6, 6)
    table, reference = input_jacobian(model, x, in_float64=True), exact(model, x)
    assert table["sample"].tolist() == [0, 1, 2, 3]
    assert set(table["status"]) == {"finite"}
    np.testing.assert_allclose(table["sigma_max"], reference[:, 0], rtol=1e-9)
    np.testing.assert_allclose(table["sigma_min"], reference[:, -1], rtol=1e-9)
    np.testing.assert_allclose(table["condition_number"], reference[:, 0] / reference[:, -1], rtol=1e-8)
    np.testing.assert_allclose(table["jacobian_norm"], np.linalg.norm(reference, axis=1), rtol=1e-9)
    summary = jacobian_summary(table)
    assert summary["sigma_max"] == sorted(table["sigma_max"])[1]
    assert summary["sigma_max_q75"] == sorted(table["sigma_max"])[2]
    assert summary["n_samples"] == 4


class Broken(nn.Module):
    """Overflows on samples whose first value is large, dies on negative ones."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.head(torch.relu(x).pow(3)).pow(3)


def test_dead_and_overflowing_samples_have_a_status_and_leave_the_others_alone():
    torch.manual_seed(0)
    model = Broken()
    x = torch.tensor([[1.0, 2, 3], [1e13, 3e13, 2e13], [-1, -1, -1], [2, 1, 1]])
    table = input_jacobian(model, x)
    assert table["status"].tolist() == ["finite", "nonfinite", "zero", "finite"]
    assert np.isnan(table["sigma_max"][1])
    assert table["jacobian_norm"][2] == 0
    assert np.isinf(table["condition_number"][2])
    assert input_jacobian(model, x, in_float64=True)["status"].tolist() == ["finite", "finite", "zero", "finite"]
    summary = jacobian_summary(table)
    assert summary[["n_samples", "n_nonfinite", "n_zero"]].tolist() == [4, 1, 1]
    assert np.isfinite(summary["sigma_max"])


def test_outputs_that_do_not_depend_on_the_input_are_zero():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.bias.expand(len(x), 3)

    assert input_jacobian(Constant(), torch.ones(2, 4))["status"].tolist() == ["zero", "zero"]


def test_modes_gradients_and_hooks_are_as_before_also_after_an_error():
    model = small().train()
    model[0].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    x, state = torch.randn(2, 2, 6, 6), torch.get_rng_state()

    def failing(returned):
        raise KeyboardInterrupt

    input_jacobian(model, x, mode="train")
    with pytest.raises(KeyboardInterrupt):
        input_jacobian(model, x, mode="train", output=failing)
    assert [m.training for m in model.children()] == [False] + [True] * 6
    assert all((p.grad == 1).all() and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_dicts_and_outputs_of_all_kinds():
    class Dict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 3)

        def forward(self, ids=None, features=None):
            y = self.lin(features)
            return {"loss": y.sum(), "logits": y}

    model, x = Dict(), torch.randn(5, 4)
    found = jacobian_spectra(model, [{"ids": torch.zeros(5).long(), "features": x, "labels": torch.zeros(5)}])
    np.testing.assert_allclose(values(found), np.tile(scipy.linalg.svdvals(model.lin.weight.detach()), (5, 1)), 1e-5)
    pairs = jacobian_spectra(model.lin, [(x, torch.zeros(5).long())], n_samples=2)
    np.testing.assert_allclose(values(pairs), values(found)[:2], rtol=1e-6)
    one = jacobian_spectra(nn.Sequential(model.lin, nn.Flatten(0)), x[:1], output=lambda y: y[None, :1])
    np.testing.assert_allclose(one[0].singular_values, [model.lin.weight[0].norm().item()], rtol=1e-6)


def test_what_has_no_jacobian_is_refused():
    linear, x = nn.Linear(4, 3), torch.randn(2, 4)
    with pytest.raises(ConfigError, match=r"^mode='test' is neither 'eval'"):
        input_jacobian(linear, x, mode="test")
    with pytest.raises(ConfigError, match=r"^n_samples=0 is not a number from 1 on$"):
        input_jacobian(linear, x, n_samples=0)
    with pytest.raises(ShapeError, match=r"^batches holds no samples"):
        input_jacobian(linear, [])
    with pytest.raises(ShapeError, match=r"^the input is a tensor of torch.int64: there is a Jacobian"):
        input_jacobian(nn.Embedding(9, 3), torch.ones(2, 4).long())
    with pytest.raises(ShapeError, match=r"^the output has shape \(\) for 2 samples"):
        input_jacobian(linear, x, output=lambda y: y.sum())
    with pytest.raises(ShapeError, match=r"^the output has 5,000 values a sample"):
        input_jacobian(nn.Linear(4, 5000), x)
    with pytest.raises(ShapeError, match="2 floating-point tensors"):
        input_jacobian(linear, x, output=lambda y: (y, y))

    class Mixing(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    with pytest.raises(ShapeError, match=r"^the output of one sample depends on the others"):
        input_jacobian(Mixing(), x)


def test_a_network_that_changes_its_input_in_place():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))
    x = torch.randn(5, 4)
    kept = x.clone()
    for batch in (x, {"input": x}):
        found = input_jacobian(model, [batch])
        weights = (model[1].weight.detach() * (x[:, None] > 0)).numpy()
        expected = [np.linalg.svd(w.astype("float64"), compute_uv=False)[0] for w in weights]
        np.testing.assert_allclose(found["sigma_max"], expected, rtol=1e-6)
    assert torch.equal(x, kept)


def test_an_output_that_is_nan_has_no_derivative():
    x = torch.randn(3, 4)
    x[1, 2] = torch.nan
    found = input_jacobian(nn.Linear(4, 2), x)
    assert found["status"].tolist() == ["finite", "nonfinite", "finite"]


def test_one_value_a_channel_has_no_batch_statistics():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    with pytest.raises(ShapeError, match="one value a channel"):
        input_jacobian(model, torch.randn(1, 4), mode="train")
    assert len(input_jacobian(model, torch.randn(8, 4), mode="train", n_samples=1)) == 1
    assert len(input_jacobian(model, torch.randn(1, 4))) == 1


def test_inside_inference_mode():
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    with torch.inference_mode():
        inside = input_jacobian(model, x)
    assert inside.equals(input_jacobian(model, x))
