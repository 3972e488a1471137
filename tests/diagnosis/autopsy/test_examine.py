"""Trainings with planted failures, and healthy ones: what an autopsy finds, and in which order."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepprobe import autopsy
from deepprobe.errors import ConfigError
from deepprobe.training import TrainConfig, train


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    x = torch.randn(320, 8)
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def net(depth=3, width=16, norm=False, seed=1):
    torch.manual_seed(seed)
    parts = []
    for i in range(depth):
        parts += [nn.Linear(8 if i == 0 else width, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU()]
        nn.init.kaiming_normal_(parts[-3 if norm else -2].weight)
    return nn.Sequential(*parts, nn.Linear(width, 4))


def config(**options):
    return TrainConfig(**{"schedule": "constant", "batch_size": 32, "lr": 0.1, "device": "cpu", **options})


def rules(found):
    return [event.rule for event in found.events]


def test_nothing_is_found_where_training_goes_well(data):
    for norm in (False, True):
        found = autopsy(net(norm=norm), data, config(), steps=12, progress=False)
        assert (found.outcome, found.events) == ("learns", ())
        assert str(found).startswith("Nothing failed in the first 12 steps (loss ")
        assert len(found.table()) == 0


def test_it_is_the_training_itself_to_the_last_bit_and_leaves_the_model_alone(data):
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))
    before = copy.deepcopy(model.state_dict())
    settings = config(schedule="one-cycle", epochs=2, clip_norm=0.5)
    random = torch.random.get_rng_state()
    found = autopsy(model, data, settings, steps=9, progress=False)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    twin, norms = copy.deepcopy(model), []

    class Copies:
        def __init__(self):
            self.schedule = self

        def is_due(self, step):
            return step.index <= 9

        def __call__(self, context):
            norms.append([float(context.model[i].weight.detach().double().norm()) for i in (0, 4)])

    train(twin, data, config=settings, callbacks=[Copies()], quiet=True)
    seen = found.kernels.pivot(index="step", columns="layer", values="weight_norm").to_numpy()
    np.testing.assert_array_equal(seen, np.array(norms)[1:])  # one-cycle, clipping, dropout: the same weights
    assert found.steps["learning_rate"].iloc[1] == pytest.approx(0.1 / 25)
    assert found.steps["step"].tolist() == list(range(10))


def test_numbers_are_those_of_a_loop_by_hand(data):
    x, y = data
    model = net()
    settings = config(momentum=0.0, weight_decay=0.0, batch_size=320, validation_share=0.0, clip_norm=0.01)
    found = autopsy(model, data, settings, steps=2, samples=32, progress=False)
    twin = copy.deepcopy(model)
    order = found.kernels["layer"].unique()
    for step in (1, 2):
        twin.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        norm = float(torch.cat([p.grad.double().flatten() for p in twin.parameters()]).norm())
        row = found.steps.set_index("step").loc[step]
        assert row["gradient_norm"] == pytest.approx(norm, rel=1e-5)
        assert row["clip_factor"] == pytest.approx(0.01 / norm, rel=1e-5)
        kernels = found.kernels[found.kernels["step"] == step].set_index("layer")
        for name in order:
            weight = twin[int(name)].weight
            grad, size = weight.grad.double(), weight.detach().double().norm()
            assert kernels.loc[name, "gradient_norm"] == pytest.approx(float(grad.norm()), rel=1e-4)
            expected = 0.1 * 0.01 / norm * float(grad.norm() / size)
            assert kernels.loc[name, "update_ratio"] == pytest.approx(expected, rel=1e-3)
        with torch.no_grad():
            for p in twin.parameters():
                p -= 0.1 * 0.01 / norm * p.grad
        hidden = twin[1](twin[0](x[:32])).detach().double().numpy()
        layer = found.layers[(found.layers["step"] == step) & (found.layers["layer"] == "1")].iloc[0]
        assert layer["rms"] == pytest.approx(np.sqrt((hidden**2).mean()), rel=1e-5)
        assert layer["dead_share"] == (hidden == 0).all(axis=0).mean()
        assert layer["numerical_rank"] == np.linalg.matrix_rank(hidden, tol=2**-24 * np.linalg.norm(hidden))
        with torch.no_grad():
            assert row["loss"] == pytest.approx(float(F.cross_entropy(twin(x[:32]), y[:32])), rel=1e-5)
    shares = np.bincount(y[:32].numpy()) / 32
    assert found.steps["chance"].iloc[0] == pytest.approx(-(shares * np.log(shares)).sum())


def test_a_rate_far_too_large_ends_in_nan_and_the_first_update_is_named_first(data):
    found = autopsy(net(), data, config(lr=1e4), steps=20, progress=False)
    assert found.outcome == "diverged"
    assert str(found).startswith("The training diverged: the loss of the network at step")
    first = [event.rule for event in found.events if event.step == 1]
    assert first[:2] == ["weights-are-overwritten", "weights-leave-their-scale"]
    assert "loss-explodes" in first
    assert found.steps["step"].max() < 20


def test_adam_with_a_rate_of_one_overwrites_the_weights(data):
    found = autopsy(net(), data, config(lr=1.0, optimizer="adam", weight_decay=0.0), steps=6, progress=False)
    event = found.events[0]
    assert (event.rule, event.step, event.until) == ("weights-are-overwritten", 1, 1)
    assert "loss-explodes" in rules(found)


def test_a_rate_far_too_small_moves_nothing(data):
    found = autopsy(net(), data, config(lr=1e-9), steps=4, progress=False)
    assert (found.outcome, rules(found)) == ("stuck", ["weights-stand-still"])
    assert "All the while the representation has full rank" in str(found) or "rank" not in str(found)


def test_units_that_die_in_an_update_get_no_gradient_from_then_on(data):
    model = net(depth=2)
    with torch.no_grad():
        model[0].bias.fill_(-1000.0)
    found = autopsy(model, data, config(), steps=3, progress=False)
    steps = {event.rule: event.step for event in found.events}
    assert steps["units-are-dead"] == 0
    assert steps["gradient-is-lost"] == 1
    assert next(e.layer for e in found.events if e.rule == "units-are-dead") == "1"
    assert steps["rank-collapses"] == 0  # every sample is the same from there on


@pytest.mark.parametrize(("gain", "rule"), [(3.0, "signal-explodes"), (0.4, "signal-dies")])
def test_weights_of_a_wrong_scale_show_before_training(data, gain, rule):
    model = net(depth=10)
    with torch.no_grad():
        for m in model:
            if isinstance(m, nn.Linear):
                m.weight.mul_(gain)
                m.bias.zero_()
    found = autopsy(model, data, config(lr=1e-3), steps=2, progress=False)
    assert (found.events[0].rule, found.events[0].step) == (rule, 0)


def test_clipping_an_exploding_gradient_is_said(data):
    model = net(depth=12, norm=True)
    with torch.no_grad():
        for i in range(1, len(model), 3):
            model[i].weight.fill_(1.0)
            model[i].eps = 1e-12
            model[i - 1].weight.mul_(1e-3)  # normalisation hides it forward; backward the gradient grows
    found = autopsy(model, data, config(clip_norm=1.0, lr=0.01), steps=3, progress=False)
    clipped = next(e for e in found.events if e.rule == "clipping-shrinks")
    assert (clipped.step, clipped.layer, clipped.value < 0.01) == (1, None, True)


def test_what_cannot_be_watched_is_said(data):
    with pytest.raises(ConfigError, match="steps=0: name how many updates to watch, at least 1"):
        autopsy(net(), data, config(), steps=0)
    with pytest.raises(ConfigError, match="samples=1"):
        autopsy(net(), data, config(), samples=1)

    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("no")

    with pytest.raises(ConfigError, match="cannot be copied: no"):
        autopsy(Stubborn(8, 4), data, config())


def test_a_training_shorter_than_asked_for_loaders_and_functional_networks(data):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 4)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    x, y = data
    batches = [(x[i : i + 64], y[i : i + 64]) for i in range(0, 320, 64)]
    found = autopsy(Functional(), batches, config(epochs=1), steps=20, progress=False)
    assert found.steps["step"].max() == 5
    assert found.layers["layer"].unique().tolist() == ["a", "b"]
    chosen = autopsy(net(), data, config(), steps=1, layers="2", progress=False)
    assert chosen.layers["layer"].unique().tolist() == ["2"]
    assert "<p>" in chosen._repr_html_()
