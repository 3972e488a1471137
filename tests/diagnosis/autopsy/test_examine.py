"""Trainings with planted failures, and healthy ones: what an autopsy finds, and in which order."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deepprobe.diagnosis.autopsy.rules as autopsy_rules
import deepprobe.diagnosis.rules as diagnose_rules
from deepprobe import autopsy
from deepprobe.diagnosis.autopsy.observer import Observer
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
        assert str(found).startswith("Learning rate 0.1 (constant). Nothing failed in the first 12 steps (loss ")
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
    assert found.steps["lr"].iloc[1] == pytest.approx(0.1 / 25)
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
    assert str(found).startswith("Learning rate 1e4 (constant). The training diverged: the loss of the network at step")
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
    assert "updates are less than 1e-5 of the weights' norm in 4 of 4 kernels: 0 at 0 (depth 1), 0 in the" in str(found)


def test_units_that_die_in_an_update_get_no_gradient_from_then_on(data):
    model = net(depth=2)
    with torch.no_grad():
        model[0].bias.fill_(-1000.0)
    found = autopsy(model, data, config(), steps=3, progress=False)
    steps = {event.rule: event.step for event in found.events}
    assert steps["dead-units"] == 0
    assert steps["gradient-is-lost"] == 1
    assert next(e.layer for e in found.events if e.rule == "dead-units") == "1"
    assert steps["rank-collapse"] == steps["numerical-rank-is-low"] == 0  # every sample is the same from there on


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


class Attention(nn.Module):
    """Eight numbers as eight tokens through attention that drops out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(1, 16)
        self.attend = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.encode = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.act, self.head = nn.ReLU(), nn.Linear(16, 4)

    def forward(self, x):
        h = self.embed(x[..., None])
        h = self.encode(h + self.attend(h, h, h, need_weights=False)[0])
        return self.head(self.act(h.mean(1)))


class FunctionalDropout(nn.Module):
    """Dropout as a function, and batch normalisation, whose statistics must stay the batch's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b, self.act = nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, 4), nn.ReLU()

    def forward(self, x):
        h = self.act(self.norm(F.dropout(self.a(x), 0.3, training=self.training)))
        return self.b(F.dropout(h, 0.3, training=self.training))


@pytest.mark.parametrize("build", [Attention, FunctionalDropout])
@pytest.mark.parametrize("layers", [None, "*"])
def test_dropout_of_any_kind_is_taken_neither_for_rounding_nor_for_the_network(data, build, layers):
    found = autopsy(build(), data, config(lr=0.01), steps=2, layers=layers, progress=False)
    assert "precision-horizon" not in rules(found)
    precision = found.layers["precision"].dropna()
    assert len(precision) > 0
    assert precision.max() < 1e-5


def test_the_network_is_seen_with_the_statistics_of_the_batch_and_without_dropout(data):
    x, _ = data
    model = FunctionalDropout()
    found = autopsy(model, data, config(batch_size=320, validation_share=0.0), steps=1, samples=32, progress=False)
    with torch.no_grad():
        h = model.a(x[:32]).double()
        scaled = (h - h.mean(0)) / (h.var(0, correction=0) + model.norm.eps).sqrt()
        expected = float(torch.relu(scaled).square().mean().sqrt())
    before = found.layers[found.layers["step"] == 0].set_index("layer")
    assert before.loc["act", "rms"] == pytest.approx(expected, rel=1e-5)
    assert model.norm.num_batches_tracked == 0


def test_the_effective_rank_is_judged_as_by_diagnose_and_its_fall_is_told(data):
    model = net(depth=4, width=32)
    with torch.no_grad():
        for i in (2, 4, 6):
            model[i].weight.copy_(model[i].weight.abs())  # all samples along one direction
            model[i].bias.zero_()
    found = autopsy(model, data, config(lr=1e-5), steps=2, progress=False)
    event = next(e for e in found.events if e.rule == "rank-collapse")
    row = found.layers[(found.layers["step"] == 0) & (found.layers["layer"] == event.layer)].iloc[0]
    assert (event.step, event.measure) == (0, "effective_rank")
    assert event.value == row["effective_rank"] < 2
    assert row["numerical_rank"] > 6.4  # which numerical rank does not see
    assert "numerical-rank-is-low" not in rules(found)
    ours = {rule.name: rule.threshold for rule in autopsy_rules.RULES}
    for rule in ("rank-collapse", "samples-indistinguishable", "precision-horizon", "nonfinite-values"):
        assert ours[rule] == next(r.threshold for r in diagnose_rules.RULES if r.name == rule)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"schedule": "one-cycle", "epochs": 4},
            "rising to {:.3g} by step 4, of at most 0.1 (one-cycle).",
        ),
        ({"schedule": "cosine", "epochs": 1}, "Learning rate 0.1 in step 1, falling to 0.075 by step 4 (cosine)."),
        (
            {"schedule": "cosine", "epochs": 4, "warmup_epochs": 0.2},
            "in step 1, rising to 0.0998 by step 2, falling to ",
        ),
        ({}, "Learning rate 0.1 (constant)."),
    ],
)
def test_the_learning_rate_is_told_as_it_goes(data, options, said):
    found = autopsy(net(), data, config(**options), steps=4, progress=False)
    assert said.format(found.steps["lr"].iloc[-1]) in found.paragraph
    assert found.paragraph.startswith("Learning rate ")
    assert found.steps["lr"].notna().tolist() == [False, True, True, True, True]


def test_who_stops_it_is_told_that_the_network_is_untouched(data, monkeypatch):
    model, seen = net(), Observer.__call__

    def stopped(self, context):
        seen(self, context)
        if context.step.index == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Observer, "__call__", stopped)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt, match="autopsy stopped after 3 of 20 steps; the network is untouched"):
        autopsy(model, data, config(), progress=False)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


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
