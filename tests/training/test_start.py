"""A training that begins from another's state goes on as that one did: weights, optimizer, order of data, dropout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deepprobe.errors import CheckpointError, ConfigError
from deepprobe.runs import open_run
from deepprobe.training import TrainConfig, at, load_checkpoint, train

CONFIG = TrainConfig(epochs=3, batch_size=32, lr=0.1, augmentation="pad-crop-flip", validation_share=0.2)


def same(model, other):
    a, b = model.state_dict(), other.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a)


def checkpoint_of(run, step):
    return load_checkpoint(run.path / f"checkpoints/step-{step:012d}.pt")


@pytest.mark.parametrize("point", ["0it", "5it", "1ep"])
def test_a_training_goes_on_from_the_state_of_another(net, few, tmp_path, point):
    whole, again = net(), net(seed=1)
    first = train(whole, few[0], config=CONFIG, out=tmp_path / "first", keep=(point,), quiet=True)
    kept = [name for name in first.files("checkpoints") if not name.endswith(f"{12:012d}.pt")]
    step = int(kept[0][-15:-3])
    train(again, few[0], config=CONFIG, out=tmp_path / "second", start=checkpoint_of(first, step), quiet=True)
    assert same(whole, again)


def test_checkpoints_to_keep_stay_and_others_go(net, few, tmp_path):
    config = replace(CONFIG, checkpoint_every="1it", checkpoints_kept=1)
    run = train(net(), few[0], config=config, out=tmp_path / "run", keep=("0it", "2it"), quiet=True)
    steps = [int(name[-15:-3]) for name in run.files("checkpoints")]
    assert steps == [0, 2, steps[-1]]
    assert steps[-1] == run.records()["step"].max()


def test_a_started_training_resumes_from_its_own_checkpoint(net, few, tmp_path):
    first = train(net(), few[0], config=CONFIG, out=tmp_path / "first", keep=("5it",), quiet=True)
    start = checkpoint_of(first, 5)
    whole, again = net(), net()
    train(whole, few[0], config=CONFIG, out=tmp_path / "whole", start=start, quiet=True)

    def stop(context):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(again, few[0], config=CONFIG, out=tmp_path / "again", start=start, callbacks=[at("2ep1it")(stop)],
              quiet=True)  # fmt: skip
    again = net()
    run = train(again, few[0], config=CONFIG, out=tmp_path / "again", start=start, quiet=True)
    assert same(whole, again)
    steps = open_run(run.path).metrics()["step"]
    assert steps.min() > 5


def test_callbacks_see_the_state_that_a_training_begins_from(net, few, tmp_path):
    first = train(net(), few[0], config=CONFIG, out=tmp_path / "first", keep=("1ep",), quiet=True)
    seen = []

    def look(context):
        seen.append((context.step.index, same(context.model, expected), context.optimizer is not None))

    names = first.files("checkpoints")
    start = load_checkpoint(first.path / names[0])
    expected = net()
    expected.load_state_dict(start.weights)
    train(net(), few[0], config=CONFIG, start=start, callbacks=[look], quiet=True)
    assert seen[0] == (int(names[0][-15:-3]), True, True)
    assert not seen[1][1]


def test_random_states_and_optimizer_may_be_left_out_of_a_start(net, few, tmp_path):
    first = train(net(), few[0], config=CONFIG, out=tmp_path / "first", keep=("5it",), quiet=True)
    full = checkpoint_of(first, 5)
    bare = replace(full, training={**full.training, "optimizer": None, "ranks": None})
    a, b, c = net(), net(), net()
    train(a, few[0], config=CONFIG, start=full, quiet=True)
    train(b, few[0], config=CONFIG, start=bare, quiet=True)
    train(c, few[0], config=CONFIG, start=bare, quiet=True)
    assert same(b, c)
    assert not same(a, b)


def test_a_start_of_another_network_and_a_point_never_met_are_refused(net, few, tmp_path):
    first = train(net(), few[0], config=CONFIG, out=tmp_path / "first", quiet=True)
    start = load_checkpoint(first.path / first.files("checkpoints")[-1])
    with pytest.raises(CheckpointError, match="the state to start from"):
        train(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), few[0], config=CONFIG, start=start,
              quiet=True)  # fmt: skip
    with pytest.raises(ConfigError, match=r"keep='9ep': training ends after \d+ updates \(3ep\)"):
        train(net(), few[0], config=CONFIG, out=tmp_path / "other", keep=("9ep",), quiet=True)


class Halve:
    """A callback that halves gradients."""

    def __init__(self, model):
        self.model, self.n = model, 0

    def on_gradients(self):
        self.n += 1
        for parameter in self.model.parameters():
            parameter.grad.mul_(0.5)


def test_gradients_are_changed_before_they_are_clipped_and_used(net, few):
    config = TrainConfig(epochs=2, batch_size=32, lr=0.1, momentum=0, weight_decay=0, schedule="constant",
                         validation_share=0)  # fmt: skip
    a, b = net(), net()
    halve = Halve(a)
    train(a, few[0], config=config, callbacks=[halve], quiet=True)
    train(b, few[0], config=replace(config, lr=0.05), quiet=True)
    assert halve.n == 10
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    c, d = net(), net()
    train(c, few[0], config=replace(config, clip_norm=1e-3), callbacks=[Halve(c)], quiet=True)
    train(d, few[0], config=replace(config, clip_norm=1e-3), quiet=True)
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(c.parameters(), d.parameters(), strict=True))
