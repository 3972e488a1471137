"""Loss and error between two networks: against plain loops, the model as it was, batch normalisation, masks."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepprobe.errors import CheckpointError, ConfigError
from deepprobe.pruning import Masks
from deepprobe.pruning.connectivity import error_barrier, linear_path
from deepprobe.pruning.controls import random_masks


class Counting(nn.Module):
    """A network with everything that a pass could change: statistics, a buffer that no state dict has, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen.add_(len(x))
        return self.last(self.drop(self.norm(self.first(x)).relu()))


def network(seed, kind=Counting):
    """A network whose running statistics are those of some data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind()
        for _ in range(5):
            model(torch.randn(32, 6) * 2 + seed)
    return model


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(90, 6, generator=generator), torch.randint(3, (90,), generator=generator)


def by_hand(start, end, data, alpha):
    """(loss, error) of the interpolated two-layer network, in float64 loops."""
    w1, b1, w2, b2 = ((1 - alpha) * start[k].double().numpy() + alpha * end[k].double().numpy() for k in start)
    losses, wrong = [], 0
    for x, y in zip(data[0].double().numpy(), data[1].numpy(), strict=True):
        logits = w2 @ np.maximum(w1 @ x + b1, 0) + b2
        losses.append(np.log(np.exp(logits).sum()) - logits[y])
        wrong += int(np.argmax(logits) != y)
    return np.mean(losses), wrong / len(losses)


def test_a_path_is_that_of_plain_loops(data):
    start, end = network(1, mlp).state_dict(), network(2, mlp).state_dict()
    path = linear_path(mlp(), start, end, data, n_points=7, batch_size=40)
    assert list(path.columns) == ["alpha", "loss", "error"]
    np.testing.assert_allclose(path["alpha"], np.arange(7) / 6)
    expected = [by_hand(start, end, data, alpha) for alpha in np.arange(7) / 6]
    np.testing.assert_allclose(path[["loss", "error"]], expected, rtol=1e-5)
    assert path["error"].nunique() > 2
    barrier = max(error for _, error in expected) - (expected[0][1] + expected[-1][1]) / 2
    assert error_barrier(path) == pytest.approx(barrier)


def test_tensors_and_a_loader_give_the_same_path(data):
    start, end = network(1).state_dict(), network(2).state_dict()
    loader = DataLoader(TensorDataset(*data), batch_size=30)
    kept = torch.random.get_rng_state()
    paths = [linear_path(network(3), start, end, given, n_points=3, batch_size=30) for given in (data, loader)]
    pd.testing.assert_frame_equal(*paths)
    assert torch.equal(torch.random.get_rng_state(), kept), "a loader draws a seed each time it is gone through"


def state_of(model):
    """Everything that must not change: values, identities, modes, momenta, gradients."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {name: (id(t), t.detach().numpy().tobytes(), t.requires_grad, t.grad) for name, t in tensors.items()}
    return values, [(m.training, getattr(m, "momentum", None)) for m in model.modules()]


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_it_was_even_after_an_error(data, broken):
    model, end = network(1), network(2).state_dict()
    model.drop.eval()  # modes that differ
    before = state_of(model)
    if broken:
        bad = [(data[0][:50], data[1][:50]), (data[0][:50, :5], data[1][:50])]
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            linear_path(model, network(3).state_dict(), end, data, statistics_from=bad)
    else:
        linear_path(model, network(3).state_dict(), end, data, statistics_from=data)
    assert state_of(model) == before


def test_an_end_may_be_the_models_own_state(data):
    model, end = network(1), network(2).state_dict()
    aliased = linear_path(model, model.state_dict(), end, data, n_points=3)
    pd.testing.assert_frame_equal(aliased, linear_path(model, deepcopy(model.state_dict()), end, data, n_points=3))
    assert aliased["error"].iloc[0] != aliased["error"].iloc[2]


def test_statistics_are_interpolated_and_the_number_of_batches_is_that_of_the_nearer_end(data):
    start, end = network(1).state_dict(), network(2).state_dict()
    end["norm.num_batches_tracked"] += 37
    seen = []

    class Watched(Counting):
        def forward(self, x):
            seen.append({k: v.clone() for k, v in self.state_dict().items()})
            return super().forward(x)

    linear_path(Watched(), start, end, data, n_points=5)
    assert [int(s["norm.num_batches_tracked"]) for s in seen] == [5, 5, 42, 42, 42]
    for alpha, state in zip((0, 0.25, 0.5, 0.75, 1), seen, strict=True):
        for name in ("norm.running_mean", "norm.running_var", "first.weight", "last.bias"):
            torch.testing.assert_close(state[name], (1 - alpha) * start[name] + alpha * end[name])
    for state, whole in ((seen[0], start), (seen[-1], end)):
        assert all(torch.equal(state[name], whole[name]) for name in whole), "both ends are exact"


def test_statistics_estimated_anew_are_the_averages_over_batches(data):
    start, end = network(1).state_dict(), network(2).state_dict()
    model = network(3)
    again = linear_path(model, start, end, data, n_points=3, statistics_from=data, batch_size=30)
    weights = {k: (start[k] + end[k]) / 2 for k in start if k != "norm.num_batches_tracked"}
    hidden = [x @ weights["first.weight"].T + weights["first.bias"] for x in data[0].split(30)]
    mean = torch.stack([h.mean(0) for h in hidden]).mean(0)
    variance = torch.stack([h.var(0) for h in hidden]).mean(0)
    middle = {**weights, "norm.running_mean": mean, "norm.running_var": variance}
    model.load_state_dict({**middle, "norm.num_batches_tracked": torch.tensor(0)})
    with torch.no_grad():
        logits = model.eval()(data[0])
    assert again["loss"][1] == pytest.approx(nn.functional.cross_entropy(logits, data[1]).item(), rel=1e-5)
    assert again["loss"][1] != pytest.approx(linear_path(model, start, end, data, n_points=3)["loss"][1], rel=1e-3)


def test_masks_stay_masks_on_the_path(data):
    ends = [network(1), network(2)]
    masks = random_masks(
        Masks({k: torch.arange(m.numel()).reshape(m.shape) % 3 == 0 for k, m in Masks.dense(ends[0]).items()}), seed=0
    )
    for end in ends:
        masks.apply(end)
    counts = []

    class Watched(Counting):
        def forward(self, x):
            kept = {name: weight != 0 for name, weight in self.named_parameters() if name in masks}
            counts.append(all(torch.equal(kept[name], masks[name]) for name in masks))
            return super().forward(x)

    linear_path(Watched(), ends[0].state_dict(), ends[1].state_dict(), data)
    assert counts == [True] * 11


def test_equal_ends_have_no_barrier_and_a_valley_has_that_of_its_worse_end(data):
    state = network(1).state_dict()
    path = linear_path(network(2), state, state, data, n_points=5)
    assert path["loss"].nunique() == 1
    assert error_barrier(path) == 0
    valley = pd.DataFrame({"alpha": [1.0, 0.5, 0.0], "error": [0.3, 0.0, 0.1]})  # rows in any order
    assert error_barrier(valley) == pytest.approx(0.1)  # the worse end is itself on the path


def test_states_that_do_not_fit_are_named(data):
    model, state = network(1), network(2).state_dict()
    before = state_of(model)
    other = nn.Sequential(nn.Linear(6, 3)).state_dict()
    with pytest.raises(CheckpointError, match="the weights of the start of the path are not those of this Counting"):
        linear_path(model, other, state, data)
    with pytest.raises(CheckpointError, match=r"the end of the path .* 'last.bias' is \(4,\), not \(3,\)"):
        linear_path(model, state, {**state, "last.bias": torch.zeros(4)}, data)
    assert state_of(model) == before


def test_bad_requests_are_refused(data):
    model = network(1)
    state = model.state_dict()
    with pytest.raises(ConfigError, match="n_points=2: a path has 3 points or more"):
        linear_path(model, state, state, data, n_points=2)
    with pytest.raises(ConfigError, match="can be read once only"):
        linear_path(model, state, state, iter([data]))
    with pytest.raises(ConfigError, match="there are no samples"):
        linear_path(model, state, state, [])
    with pytest.raises(ConfigError, match=r"no error at one of its ends; alpha is \[0.0, 0.5\]"):
        error_barrier(pd.DataFrame({"alpha": [0.0, 0.5], "error": [0.1, 0.2]}))
