"""One update: the mathematics of a hand-written loop, in micro-batches and compiled; and what does not fit."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepprobe.errors import ConfigError, OutOfMemoryError
from deepprobe.records.step import every
from deepprobe.runs import FolderRun, open_run
from deepprobe.training import TrainConfig, train
from deepprobe.training.stream import TensorStream

ONE_BATCH = TrainConfig(epochs=2, batch_size=117, lr=0.1, validation_share=0.1, schedule="constant")


def by_hand(model, data, config, *, optimizer):
    """The updates of ``train`` as anybody would write them."""
    model.train()
    stream = TensorStream(data, batch_size=config.batch_size, seed=config.seed)
    for epoch in range(config.epochs):
        for x, y, _ in stream.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if config.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_training_is_what_a_hand_written_loop_does(net, few, kind, clip):
    config = TrainConfig(
        epochs=2, batch_size=32, lr=0.01, schedule="constant", validation_share=0, optimizer=kind, clip_norm=clip,
        weight_decay=0.01,
    )  # fmt: skip
    mine, other = net(dropout=0.0), net(dropout=0.0)
    train(mine, few[0], config=config, quiet=True)
    kinds = {
        "sgd": partial(torch.optim.SGD, momentum=0.9, fused=True),
        "adam": partial(torch.optim.Adam, fused=True),
        "adamw": partial(torch.optim.AdamW, fused=True),
    }
    by_hand(other, few[0], config, optimizer=kinds[kind](other.parameters(), lr=0.01, weight_decay=0.01))
    for name, weights in mine.named_parameters():
        assert torch.equal(weights, other.get_parameter(name)), name


def without_norms(net):
    """Without batch normalisation and dropout parts of a batch know nothing of each other."""
    model = net(dropout=0.0)
    model.bn1, model.bn2 = nn.Identity(), nn.Identity()
    return model.double()


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_micro_batches_sum_to_the_same_update(net, few, parts):
    data = (few[0][0].double(), few[0][1])
    whole, divided = without_norms(net), without_norms(net)
    plain = train(whole, data, config=ONE_BATCH, quiet=True)
    config = TrainConfig(**ONE_BATCH.as_dict() | {"micro_batches": parts})
    run = train(divided, data, config=config, quiet=True)
    for name, weights in whole.named_parameters():
        torch.testing.assert_close(divided.get_parameter(name), weights, rtol=1e-12, atol=1e-14)
    loss = [r.metrics().query("split == 'train' and measure == 'loss'")["value"] for r in (plain, run)]
    assert loss[0].tolist() == pytest.approx(loss[1].tolist(), rel=1e-12)


def test_micro_batches_must_fit(net, few):
    with pytest.raises(ConfigError, match="micro_batches=3: must be at most batch_size=2"):
        TrainConfig(micro_batches=3, batch_size=2)
    with pytest.raises(ConfigError, match="a batch of 4 samples cannot be divided among 1 processes and 8 micro-b"):
        train(
            net(),
            (few[0][0][:4], few[0][1][:4]),
            config=TrainConfig(micro_batches=8, validation_share=0),
            quiet=True,
        )


def test_a_compiled_model_trains_to_the_same_weights(net, few, monkeypatch):
    compiled = []

    def without_a_compiler(model, **options):
        compiled.append(model)
        return compile_(model, backend="aot_eager", **options)

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", without_a_compiler)
    eager, other = net(dropout=0.0), net(dropout=0.0)
    train(eager, few[0], config=ONE_BATCH, quiet=True)
    seen = []
    config = TrainConfig(**ONE_BATCH.as_dict() | {"compile": True})
    train(other, few[0], config=config, callbacks=[lambda context: seen.append(context.model)], quiet=True)
    assert compiled == [other]
    assert seen == [other, other]  # callbacks have the eager twin
    for name, weights in eager.named_parameters():
        torch.testing.assert_close(other.get_parameter(name), weights, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


class Late(nn.Module):
    """Uses its second layer in every third call only, first in the third."""

    def __init__(self):
        super().__init__()
        self.always, self.sometimes, self.calls = nn.Linear(3, 2), nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.always(x) if self.calls % 3 else self.always(x) + self.sometimes(x)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_parameters_may_get_their_first_gradient_later_than_others(kind):
    torch.manual_seed(0)
    x = torch.randn(80, 3)
    y, model, by_hand = (x[:, 0] > 0).long(), Late(), Late()
    by_hand.load_state_dict(model.state_dict())
    config = TrainConfig(epochs=1, batch_size=8, optimizer=kind, schedule="constant", validation_share=0.0)
    train(model, (x, y), config=config, quiet=True)
    settings = {"lr": config.lr, "weight_decay": config.weight_decay, "foreach": False, "fused": False}
    parameters = by_hand.parameters()
    optimizer = (
        torch.optim.SGD(parameters, momentum=config.momentum, **settings)
        if kind == "sgd" else torch.optim.Adam(parameters, **settings)
    )  # fmt: skip
    for part in TensorStream((x, y), batch_size=8, seed=0).batches(0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(part.x), part.y).backward()
        optimizer.step()
    for name, weights in by_hand.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weights, rtol=1e-5, atol=1e-7)


class Greedy(nn.Module):
    """Asks for more memory than there is, from its n-th call in training on."""

    def __init__(self, n):
        super().__init__()
        self.n, self.calls = n, 0

    def forward(self, x):
        self.calls += self.training
        if self.calls >= self.n:
            torch.empty(2**50)
        return x


def test_too_little_memory_is_told_with_what_to_try(tmp_path, net, few):
    model = net()
    model.drop = Greedy(6)
    config = TrainConfig(epochs=3, batch_size=32)
    with pytest.raises(OutOfMemoryError) as error:
        train(model, few[0], config=config, out=tmp_path / "r", quiet=True)
    assert str(error.value) == (
        "step 1ep2it: cpu is out of memory in a step of Sequential (3,866 parameters) on inputs of shape "
        "(32, 1, 8, 8), in 1 micro-batch(es), in fp32; try micro_batches=2 (the same update, but for batch "
        "normalisation), or batch_size=16, or precision='bf16', in another folder, since that is another run; the last "
        "checkpoint is checkpoints/step-000000000004.pt"
    )
    run = open_run(tmp_path / "r")
    assert (run.status, run.message) == ("interrupted", str(error.value))


def test_other_errors_of_a_model_are_left_alone(net, few):
    model = net()
    model.drop = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(model, few[0], config=ONE_BATCH, quiet=True)


class Around:
    """Notes what happens when, and the gradients and weights that it finds."""

    schedule = every("2it").schedule

    def __init__(self):
        self.events, self.before, self.after, self.gradients = [], [], [], []

    @contextmanager
    def around_training(self, context):
        self.events.append(f"begin {context.step}")
        try:
            yield
        finally:
            self.events.append("end")

    @contextmanager
    def around_update(self, context):
        weight = context.model.conv2.weight
        self.before.append(weight.detach().clone())
        yield
        self.events.append(f"update {context.step.index}")
        self.after.append(weight.detach().clone())
        self.gradients.append(weight.grad.clone())


def test_callbacks_stand_around_training_and_updates(net, few):
    around, model = Around(), net()
    config = TrainConfig(epochs=1, batch_size=32, momentum=0.0, weight_decay=0.0, lr=0.1, schedule="constant")
    train(model, few[0], config=config, callbacks=[around], quiet=True)
    assert around.events == ["begin 0it", "update 2", "update 4", "end"]
    for before, after, gradient in zip(around.before, around.after, around.gradients, strict=True):
        torch.testing.assert_close(after, before - 0.1 * gradient)
    plain = net()
    train(plain, few[0], config=config, quiet=True)
    assert torch.equal(plain.conv2.weight, model.conv2.weight)


def test_around_training_ends_with_an_error_too(net, few):
    def fail(context):
        raise ArithmeticError

    around = Around()
    with pytest.raises(ArithmeticError):
        train(net(), few[0], config=ONE_BATCH, callbacks=[around, fail], quiet=True)
    assert around.events[-1] == "end"


def test_checkpoints_by_the_clock(tmp_path, net, few, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("deepprobe.training.checkpoint_timer.monotonic", lambda: clock[0])

    def half_a_minute_passes(context):
        clock[0] += 30

    config = TrainConfig(epochs=2, batch_size=32, checkpoint_every="1.5min", checkpoints_kept=2)
    callbacks = [every("1it")(half_a_minute_passes)]
    run = train(net(), few[0], config=config, callbacks=callbacks, out=tmp_path / "r", quiet=True)
    assert isinstance(run, FolderRun)
    assert [int(name[-5:-3]) for name in run.files("checkpoints")] == [6, 8]  # 3 went; 8 is the end


def test_parameters_without_a_part_in_the_loss_are_told_of(net, few, monkeypatch):
    def complain(self, part):
        raise RuntimeError("Expected to have finished reduction in the prior iteration before starting a new one.")

    monkeypatch.setattr("deepprobe.training.update.Updater._gradients", complain)
    with pytest.raises(ConfigError, match="some parameters of the model take no part in the loss"):
        train(net(), few[0], config=ONE_BATCH, quiet=True)


def test_too_little_memory_in_a_callback_is_told_too(tmp_path, net, few):
    def greedy(context):
        torch.empty(2**50)

    with pytest.raises(
        OutOfMemoryError, match=r"^step 1ep: a callback found too little memory \(.*; give it fewer sam"
    ):
        train(net(), few[0], config=ONE_BATCH, callbacks=[greedy], out=tmp_path / "r", quiet=True)
    assert open_run(tmp_path / "r").status == "interrupted"


def test_time_around_updates_is_the_callbacks_and_not_trainings(net, few):
    class Slow:
        schedule = every("1it").schedule

        @contextmanager
        def around_update(self, context):
            time.sleep(0.2)
            yield
            time.sleep(0.2)

    run = train(net(), few[0], config=ONE_BATCH, callbacks=[Slow()], quiet=True)
    metrics = run.metrics().query("split == 'train'")
    updates = run.metrics()["step"].nunique()
    assert updates == 2
    for measure, low, high in (("seconds_in_callbacks", 0.4, 60), ("seconds", 0, 0.3)):
        values = metrics[metrics["measure"] == measure]["value"]
        assert ((values >= low) & (values < high)).all(), (measure, values.tolist())
