from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from deepprobe.errors import ConfigError
from deepprobe.models import create_model, initialise, lsuv, weighted_layers
from deepprobe.models.activations import ACTIVATIONS, activation_gain


def _filled(layer, scheme, **options):
    initialise(layer, scheme, generator=torch.Generator().manual_seed(0), **options)
    return layer.weight.detach()


def test_he_is_normal_with_variance_two_over_fan_out():
    weight = _filled(torch.nn.Conv2d(32, 64, 3), "he").double().flatten()
    deviation = math.sqrt(2 / (64 * 9))
    assert stats.kstest(weight.numpy(), "norm", args=(0, deviation)).pvalue > 0.01
    assert weight.std().item() == pytest.approx(deviation, rel=4 / math.sqrt(2 * weight.numel()))
    assert abs(weight.mean().item()) < 4 * deviation / math.sqrt(weight.numel())


def test_he_of_the_164_layer_network():
    model = create_model("plainnet164", seed=0)
    for stage, width in enumerate((16, 32, 64), start=1):
        weights = torch.cat([b.conv2.weight.flatten() for b in model.features.get_submodule(f"stage{stage}")])
        assert weights.std().item() == pytest.approx(math.sqrt(2 / (9 * width)), rel=0.01)
    assert model.classifier.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    assert model.classifier.bias.eq(0).all()


@pytest.mark.parametrize(
    ("scheme", "deviation", "bound"),
    [
        ("he_uniform", math.sqrt(2 / 576), math.sqrt(6 / 576)),
        ("glorot", math.sqrt(2 / (288 + 576)), None),
        ("glorot_uniform", math.sqrt(2 / (288 + 576)), math.sqrt(6 / (288 + 576))),
    ],
)
def test_other_schemes(scheme, deviation, bound):
    weight = _filled(torch.nn.Conv2d(32, 64, 3), scheme)
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)
    if bound:
        assert 0.99 * bound < weight.abs().max().item() <= bound


def test_fans_are_those_of_one_group():
    weight = _filled(torch.nn.Conv2d(64, 64, 3, groups=4), "he")
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.03)


def test_fully_connected_layers_go_by_their_inputs():
    assert _filled(torch.nn.Linear(300, 100), "he").std().item() == pytest.approx(math.sqrt(2 / 300), rel=0.02)


def test_the_gain_follows_the_activation_and_the_option():
    tanh = _filled(torch.nn.Linear(300, 100), "he", activation="tanh").std().item()
    assert tanh == pytest.approx(5 / 3 / math.sqrt(300), rel=0.02)
    double = _filled(torch.nn.Linear(300, 100), "he", gain=2.0)
    assert torch.equal(double, 2 * _filled(torch.nn.Linear(300, 100), "he"))
    assert {name: activation_gain(name) for name in ("relu", "gelu", "identity", "sigmoid", "selu")} == {
        "relu": math.sqrt(2),
        "gelu": math.sqrt(2),
        "identity": 1.0,
        "sigmoid": 1,
        "selu": 0.75,
    }


@pytest.mark.parametrize("shape", [(16, 8, 3), (8, 16, 3), (16, 16, 1)])
def test_delta_orthogonal_kernels(shape):
    n_out, n_in, size = shape
    weight = _filled(torch.nn.Conv2d(n_in, n_out, size), "delta_orthogonal").clone()
    centre = weight[:, :, size // 2, size // 2].clone()
    weight[:, :, size // 2, size // 2] = 0
    assert weight.eq(0).all()
    gram = centre.T @ centre if n_out >= n_in else centre @ centre.T
    torch.testing.assert_close(gram, torch.eye(min(n_in, n_out)), atol=1e-6, rtol=0)


def test_delta_orthogonal_convolutions_preserve_norms():
    layer = torch.nn.Conv2d(8, 8, 3, padding=1)
    _filled(layer, "delta_orthogonal")
    x = torch.randn(4, 8, 6, 6)
    torch.testing.assert_close(layer(x).norm(dim=1), x.norm(dim=1))


def test_orthogonal_kernels_of_every_group():
    weight = _filled(torch.nn.Conv2d(16, 32, 3, groups=4), "orthogonal")
    for group in weight.reshape(4, 8, 4 * 9):
        torch.testing.assert_close(group @ group.T, torch.eye(8), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scheme", ["he", "he_uniform", "glorot", "glorot_uniform", "orthogonal", "delta_orthogonal"])
@pytest.mark.parametrize("name", ["resnext11", "lenet5", "plainnet8"])
def test_every_scheme_fills_every_network(name, scheme):
    model = create_model(name, init=scheme, seed=0)
    for _, layer in weighted_layers(model):
        assert layer.weight.isfinite().all()
        assert layer.weight.ne(0).any()
        assert layer.bias is None or layer.bias.eq(0).all()


def test_shortcuts_are_drawn_last():
    model = create_model("resnet8", shortcut="C", seed=0)
    main, shortcuts = [n for n, _ in weighted_layers(model)], [n for n, _ in weighted_layers(model, shortcuts=True)]
    assert (len(main), len(shortcuts)) == (8, 3)
    again = create_model("resnet8", shortcut="C", seed=1)
    initialise(again, "he", generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_unknown_scheme():
    with pytest.raises(ConfigError) as caught:
        initialise(torch.nn.Linear(2, 2), "magic")
    assert str(caught.value) == (
        "no initialisation 'magic'; there are he, he_uniform, glorot, glorot_uniform, orthogonal, delta_orthogonal"
    )


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_lsuv_gives_every_layer_unit_variance(activation):
    model = create_model("plainnet20", batch_norm=False, activation=activation, seed=0)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = model.training
    lsuv(model, images, generator=torch.Generator().manual_seed(2))
    assert model.training == before
    variances = []
    for _, layer in weighted_layers(model):
        layer.register_forward_hook(lambda _m, _i, output: variances.append(output.double().var(correction=0).item()))
    model.eval()(images)
    assert variances == pytest.approx([1.0] * 20, rel=1e-4)


def test_lsuv_leaves_no_hook_and_keeps_layers_that_see_nothing():
    model = create_model("lenet300_100", seed=0)
    lsuv(model, torch.zeros(4, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    assert not any(module._forward_hooks for module in model.modules())
    weight = model.classifier.fc2.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(100), atol=1e-5, rtol=0)


def test_no_activation_works_in_place():
    x = torch.linspace(-2, 2, 9)
    for make in ACTIVATIONS.values():
        before = x.clone()
        make()(x)
        assert torch.equal(x, before)
