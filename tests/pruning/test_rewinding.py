"""Where a pruned network goes back to: forms in words, states by copy, removed weights at zero in all of them."""

from __future__ import annotations

import pytest
import torch

from deepprobe.errors import CheckpointError, ConfigError, ShapeError
from deepprobe.pruning import Masks, rewind
from deepprobe.pruning.rewinding import Rewinding, masked
from deepprobe.records.step import Length
from deepprobe.training import Checkpoint, TrainConfig, load_checkpoint, train

CONFIG = TrainConfig(epochs=2, batch_size=50, lr=0.1, momentum=0.9, schedule="step", validation_share=0)


def half(model):
    generator = torch.Generator().manual_seed(3)
    return Masks({n: torch.rand(m.shape, generator=generator) < 0.5 for n, m in Masks.dense(model).items()})


@pytest.fixture
def dense(net, digits, tmp_path):
    """A dense run with the states at step 3 and at its end."""
    run = train(net(), digits[0], config=CONFIG, out=tmp_path / "dense", keep=("3it",), quiet=True)
    names = run.files("checkpoints")
    return load_checkpoint(run.path / names[0]), load_checkpoint(run.path / names[-1])


@pytest.mark.parametrize(
    ("text", "kind", "point"),
    [("init", "weights", Length()), ("0it", "weights", Length()), ("500it", "weights", Length(0, 500)),
     ("2ep", "weights", Length(2)), ("lr", "learning-rate", Length()), ("lr:2ep", "learning-rate", Length(2)),
     ("fine-tune", "fine-tune", Length()), ("none", "none", Length())],
)  # fmt: skip
def test_forms_in_words(text, kind, point):
    assert Rewinding.parse(text) == Rewinding(kind, point)


@pytest.mark.parametrize("text", ["", "start", "lr2ep", "5", "-1it", "lr:"])
def test_other_words_are_refused(text):
    if text == "lr:":
        assert Rewinding.parse(text) == Rewinding("learning-rate")
        return
    with pytest.raises(ConfigError, match="write 'init', a step such as '500it'"):
        Rewinding.parse(text)


def test_a_masked_state_shares_nothing_and_has_zeros_where_weights_are_removed(dense, net):
    early, _ = dense
    masks, before = half(net()), {n: t.clone() for n, t in early.weights.items()}
    state = masked(early, masks)
    for name, tensor in state.weights.items():
        kept = masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor[kept], before[name][kept])
        assert tensor[~kept].eq(0).all()
        tensor.fill_(7)
    for slot in state.training["optimizer"]["state"].values():
        slot["momentum_buffer"].fill_(7)
    assert all(torch.equal(early.weights[n], before[n]) for n in before)
    assert not any(s["momentum_buffer"].eq(7).any() for s in early.training["optimizer"]["state"].values())


def test_what_each_kind_goes_back_to(dense, net):
    early, trained = dense
    masks = half(net())
    kept = masks["conv2.weight"]

    def start(text):
        rewinding = Rewinding.parse(text)
        return rewinding.start(early if rewinding.kind == "weights" else trained, masks)

    def is_of(state, other):
        return torch.equal(state.weights["conv2.weight"][kept], other.weights["conv2.weight"][kept])

    weights, rate, tuned, none = (start(t) for t in ("3it", "lr:4it", "fine-tune", "none"))
    assert is_of(weights, early)
    assert weights.training["index"] == 3
    assert weights.training["optimizer"]["state"]
    assert torch.equal(weights.weights["bn1.running_mean"], early.weights["bn1.running_mean"])
    assert all(is_of(state, trained) for state in (rate, tuned, none))
    assert (rate.training["index"], rate.training["optimizer"]) == (4, None)
    assert (tuned.training["index"], tuned.training["optimizer"], tuned.training["ranks"]) == (0, None, None)
    assert none.training["optimizer"]["state"]
    assert none.training["index"] == 0
    assert trained.training["index"] == 12  # the given one is as it was


def test_fine_tuning_takes_the_last_rate_and_refuses_one_that_is_nothing():
    config = TrainConfig(epochs=10, lr=0.1, schedule="step", milestones=(0.5, 0.8), step_factor=0.1)
    tuned = Rewinding.parse("fine-tune").config(config)
    assert tuned.schedule == "constant"
    assert tuned.lr == pytest.approx(0.001)
    assert Rewinding.parse("lr").config(config) is config
    with pytest.raises(ConfigError, match="that of 'one-cycle' is nearly 0"):
        Rewinding.parse("none").config(TrainConfig())


@pytest.mark.parametrize("source", ["file", "checkpoint", "state dict"])
def test_rewinding_a_network_of_ones_own(net, digits, tmp_path, source):
    run = train(net(), digits[0], config=CONFIG, out=tmp_path / "dense", keep=("3it",), quiet=True)
    path = run.path / run.files("checkpoints")[0]
    state = load_checkpoint(path)
    model = net(seed=5)
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    given = {"file": path, "checkpoint": state, "state dict": state.weights}[source]
    rewind(model, given, masks, optimizer=optimizer)
    for name, tensor in model.state_dict().items():
        kept = masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor[kept], state.weights[name][kept])
        assert tensor[~kept].eq(0).all()
    with torch.no_grad():
        model.conv1.weight.fill_(1)
    assert not state.weights["conv1.weight"].eq(1).all()  # not the very tensors
    momentum = optimizer.state[model.conv2.weight].get("momentum_buffer")
    if source == "state dict":
        assert momentum is None
    else:
        assert momentum[~masks["conv2.weight"]].eq(0).all()
        kept = momentum[masks["conv2.weight"]]
        assert torch.equal(kept, state.training["optimizer"]["state"][4]["momentum_buffer"][masks["conv2.weight"]])


def test_a_state_or_masks_of_another_network_are_refused_and_change_nothing(net):
    model, other = net(), torch.nn.Linear(3, 3)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="the weights of the state dict are not those of this Sequential"):
        rewind(model, other.state_dict(), half(model))
    with pytest.raises(ShapeError, match="the masks are not of this Sequential"):
        rewind(model, Checkpoint(model.state_dict()), half(other))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_wrapped_network_takes_the_plain_weights(net):
    model, plain = torch.nn.DataParallel(net(seed=5)), net()
    masks = half(plain)
    for state in (plain.state_dict(), torch.nn.DataParallel(plain).state_dict()):
        rewind(model, state, masks)
        masks.apply(plain)
        assert all(torch.equal(t, plain.state_dict()[n]) for n, t in model.module.state_dict().items())


def test_weights_that_layers_share_are_masked_under_each_of_their_names():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    model[1].weight = model[0].weight
    masks = half(model)
    state = masked(Checkpoint(dict(model.state_dict())), masks)
    assert list(masks) == ["0.weight"]
    assert all(state.weights[n][~masks["0.weight"]].eq(0).all() for n in ("0.weight", "1.weight"))
