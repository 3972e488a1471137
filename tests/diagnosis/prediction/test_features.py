"""Features of initialisation against autograd by hand, closed forms, and networks left as they were."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepprobe.diagnosis.prediction import FEATURES, initial_features
from deepprobe.diagnosis.prediction.features import MOST, dex
from deepprobe.errors import ConfigError, ShapeError


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4)).double()


def batch(n=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 4, (n,), generator=generator)


def test_updates_and_trials_are_those_of_autograd():
    model, (x, y), lr = network(), batch(), 0.2
    found = initial_features(model, (x, y), lr=lr, momentum=0.75)
    step = 4 * lr
    loss = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norms = [(float(g.norm()), float(p.detach().norm())) for p, g in zip(model.parameters(), gradients, strict=True)]
    ratios = [step * norms[i][0] / norms[i][1] for i in (0, 4)]
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradients, strict=True):
            p -= step * g
        after = float(F.cross_entropy(model(x), y))
    before = float(loss.detach())
    squares = sum(norm**2 for norm, _ in norms)
    assert list(found) == [*FEATURES]
    assert found["update_median"] == pytest.approx(math.log10(min(ratios)), abs=1e-9)  # torch's median of two
    assert found["descent"] == pytest.approx(math.log10(step * squares / before), abs=1e-9)
    assert found["loss_excess"] == pytest.approx(math.log10(before / math.log(4)), abs=1e-9)
    assert found["trial"] == pytest.approx(math.log10(after / before), abs=1e-9)


def test_spread_of_scores_is_the_share_that_differs_between_samples():
    model, (x, y) = network(), batch()
    scores = model(x).detach()
    apart = (scores - scores.mean(0)).square().sum() / scores.square().sum()
    found = initial_features(model, (x, y), lr=0.1)
    assert found["scores_spread"] == pytest.approx(math.log10(float(apart) ** 0.5), abs=1e-6)


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_growth_of_scaled_rotations_is_their_scale(gain):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(6)]).double()
    for layer in model:
        nn.init.orthogonal_(layer.weight, gain=gain)
    x, y = torch.randn(16, 8, dtype=torch.float64), torch.arange(16) % 8
    found = initial_features(model, (x, y), lr=0.01)
    assert found["gradient_growth"] == pytest.approx(math.log10(gain), abs=1e-9)


def test_a_learning_rate_ten_times_higher_moves_its_features_by_one():
    low, high = (initial_features(network(), batch(), lr=lr) for lr in (0.001, 0.01))
    for name in ("update_median", "descent"):
        assert high[name] - low[name] == pytest.approx(1, abs=1e-9)
    for name in ("loss_excess", "scores_spread", "gradient_growth", "normalised"):
        assert high[name] == low[name]


def test_the_network_is_left_as_it_was():
    model = network().eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    initial_features(model, batch(), lr=0.3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[3].weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_as_far_out_as_can_be(value):
    model = network()
    with torch.no_grad():
        model[3].weight.fill_(value)
    found = initial_features(model, batch(), lr=0.1)
    assert found["loss_excess"] == found["trial"] == found["update_median"] == MOST
    assert found["scores_spread"] == -MOST
    assert all(math.isfinite(number) for number in found.values())


def test_nothing_comes_back_through_a_zero_kernel():
    model = network()
    with torch.no_grad():
        model[3].weight.zero_()
    assert initial_features(model, batch(), lr=0.1)["update_median"] == -MOST


def test_frozen_kernels_do_not_count():
    model, (x, y) = network(), batch()
    free = initial_features(model, (x, y), lr=0.1)
    model[0].requires_grad_(False)
    loss = F.cross_entropy(model(x), y)
    gradient = torch.autograd.grad(loss, model[3].weight)[0]
    ratio = float(gradient.norm() / model[3].weight.detach().norm())
    found = initial_features(model, (x, y), lr=0.1)
    assert found["update_median"] == pytest.approx(math.log10(ratio), abs=1e-9)
    assert found["descent"] < free["descent"]


def test_layers_before_a_normalisation_are_counted():
    assert initial_features(network(), batch(), lr=0.1)["normalised"] == 0.5
    plain = nn.Sequential(nn.Linear(6, 4)).double()
    assert initial_features(plain, batch(), lr=0.1)["normalised"] == 0


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [(100.0, 1.0, 2.0), (0.0, 1.0, -MOST), (1.0, 0.0, MOST), (0.0, 0.0, -MOST), (math.nan, 1.0, MOST),
     (1e300, 1e-300, MOST)],
)  # fmt: skip
def test_dex_stays_within_its_limits(value, reference, expected):
    assert dex(value, reference) == expected


@pytest.mark.parametrize(
    ("lr", "momentum", "message"),
    [
        (0.0, 0.9, "lr=0.0: a learning rate is a positive number"),
        (math.nan, 0.9, "lr=nan: a learning rate is a positive number"),
        ("0.1", 0.9, "lr='0.1': a learning rate is a positive number"),
        (0.1, None, "momentum=None: must be from 0 to below 1"),
        (0.1, 1.0, "momentum=1.0: must be from 0 to below 1"),
    ],
)
def test_settings_out_of_range_are_refused(lr, momentum, message):
    with pytest.raises(ConfigError, match=message):
        initial_features(network(), batch(), lr=lr, momentum=momentum)


def test_nothing_to_train_or_to_compare_is_refused():
    with pytest.raises(ConfigError, match="no parameter of the model is trained"):
        initial_features(network().requires_grad_(False), batch(), lr=0.1)
    with pytest.raises(ShapeError, match="fewer than two samples"):
        initial_features(network(), batch(1), lr=0.1)
    with pytest.raises(ShapeError, match="fewer than two samples"):
        initial_features(network(), [], lr=0.1)


def test_a_loss_of_ones_own_takes_the_place_of_cross_entropy():
    twice = initial_features(
        network(), batch(), lr=0.05, loss=lambda model, pair: 2 * F.cross_entropy(model(pair[0]), pair[1])
    )
    once = initial_features(network(), batch(), lr=0.1)  # twice the gradient at half the rate is the same step
    assert twice["trial"] == pytest.approx(once["trial"], abs=1e-9)
    assert twice["loss_excess"] == pytest.approx(once["loss_excess"] + math.log10(2), abs=1e-9)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 6).double(), nn.Linear(6, 6).double()
        self.second.weight = self.first.weight
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.second(self.act(self.first(x)))


def test_shared_weights_move_once_and_in_place_activations_are_no_hindrance():
    model, (x, y), lr = Tied(), batch(), 0.1
    found = initial_features(model, (x, y), lr=lr, momentum=0.0)
    before = F.cross_entropy(model(x), y)
    before.backward()
    torch.optim.SGD(model.parameters(), lr=lr).step()
    after = F.cross_entropy(model(x), y)
    assert found["trial"] == pytest.approx(math.log10(float(after.detach()) / float(before.detach())), abs=1e-9)


def test_of_several_batches_the_first_counts():
    first, second = batch(seed=1), batch(seed=2)
    assert initial_features(network(), [first, second], lr=0.1) == initial_features(network(), first, lr=0.1)
