"""Training: it learns, it repeats itself, it goes on where it was stopped, and it ends well when it cannot."""

from __future__ import annotations

import os
import random
import signal
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepprobe import UpdateCallback
from deepprobe.errors import CheckpointError, ConfigError, NonFiniteError, RunError, ShapeError
from deepprobe.runs import FolderRun, MemoryRun, open_run
from deepprobe.training import Step, TrainConfig, at, evaluate, every, load_checkpoint, train

CONFIG = TrainConfig(epochs=3, batch_size=32, lr=0.1, augmentation="pad-crop-flip", validation_share=0.2)
TIMES = {"seconds", "samples_per_second", "seconds_in_callbacks"}


class Stop(Exception):
    """The end of a process, as far as a test needs it."""


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same_weights(model, other):
    a, b = model.state_dict(), other.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a)


def without_times(run):
    records = run.records()
    return records[~records["measure"].isin(TIMES)].drop(columns="run").reset_index(drop=True)


def stop_at(point):
    def stop(context):
        raise Stop

    return at(point)(stop)


def log_draws(context):
    """Callback that writes and draws, so that a resumed run shows whether all states came back."""
    context.log("probe", draw=torch.rand(1).item(), numpy=np.random.rand(), step=context.step.index)  # noqa: NPY002


def test_digits_are_learnt_in_seconds(net, digits):
    train_set, test_set = digits
    run = train(net(), train_set, test_set=test_set, config=TrainConfig(epochs=5, lr=0.1), quiet=True)
    metrics = run.metrics()
    accuracy = metrics[(metrics["measure"] == "accuracy") & (metrics["epoch"] == 5)].set_index("split")["value"]
    assert run.status == "complete"
    assert accuracy["test"] > 0.95
    assert accuracy["validation"] > 0.95
    assert accuracy["train"] > 0.95


def test_every_epoch_has_every_metric_of_every_split(net, few):
    run = train(net(), few[0], test_set=few[1], config=CONFIG, name="r", quiet=True)
    assert isinstance(run, MemoryRun)
    assert run.name == "r"
    metrics = run.metrics()
    common = {"loss", "accuracy", "n_predicted_classes", "top_prediction_share", "majority_share", "seconds"}
    for epoch in (1, 2, 3):
        part = metrics[metrics["epoch"] == epoch]
        assert set(part["step"]) == {epoch * 4}
        assert set(part[part["split"] == "train"]["measure"]) == common | {
            "learning_rate", "samples_per_second", "seconds_in_callbacks",
        }  # fmt: skip
        assert set(part[part["split"] == "validation"]["measure"]) == common
        assert set(part[part["split"] == "test"]["measure"]) == common
    assert len(metrics) == 3 * (9 + 6 + 6)
    assert set(metrics["seed"]) == {0}
    assert set(metrics["run"]) == {"r"}


def test_the_last_metrics_are_those_of_the_trained_model(net, few):
    model = net()
    run = train(model, few[0], test_set=few[1], config=CONFIG, quiet=True)
    found = run.metrics().query("split == 'test' and epoch == 3").set_index("measure")["value"]
    for measure, value in evaluate(model, few[1]).items():
        assert found[measure] == value


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_update_is_that_of_a_hand_written_loop(net, few, optimizer):
    x, y = few[0]
    config = TrainConfig(
        epochs=2, batch_size=130, lr=0.05, schedule="constant", validation_share=0.0, optimizer=optimizer,
        label_smoothing=0.1, clip_norm=0.5, weight_decay=0.01,
    )  # fmt: skip
    model, other = net(dropout=0.0), net(dropout=0.0)
    train(model, (x, y), config=config, quiet=True)
    if optimizer == "sgd":
        hand: torch.optim.Optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    else:
        hand = torch.optim.Adam(other.parameters(), lr=0.05, weight_decay=0.01)
    other.train()
    for _ in range(2):
        hand.zero_grad()
        nn.functional.cross_entropy(other(x), y, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        hand.step()
    for key, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-3, atol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(net, few):
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(runs))
        model = net()
        run = train(model, few[0], config=TrainConfig(epochs=2, seed=seed), callbacks=[log_draws], quiet=True)
        runs.append((model, without_times(run)))
    assert same_weights(runs[0][0], runs[1][0])
    pd.testing.assert_frame_equal(runs[0][1], runs[1][1])
    assert not same_weights(runs[0][0], runs[2][0])


def test_global_random_states_are_left_as_they_were(net, few):
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    train(net(), few[0], config=TrainConfig(epochs=1), quiet=True)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stops", [["1ep"], ["2ep"], ["1ep", "2ep"], ["1it"], ["1ep2it", "2ep1it"], ["3ep"]])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, net, few, stops, optimizer):
    config = TrainConfig(**CONFIG.as_dict() | {"optimizer": optimizer, "lr": 0.05})
    options = {"test_set": few[1], "config": config, "quiet": True}
    every_step = every("1it", also_at_start=True)(log_draws)
    whole = net()
    expected = train(whole, few[0], callbacks=[every_step], **options)
    for stop in stops:
        with pytest.raises(Stop):
            train(net(), few[0], callbacks=[every_step, stop_at(stop)], out=tmp_path / "r", **options)
    kept = (tmp_path / "r" / "checkpoints").exists()  # if not: the first epoch was not over, and all begins anew
    model = net(17 if kept else 0)
    run = train(model, few[0], callbacks=[every_step], out=tmp_path / "r", **options)
    assert kept == (stops not in (["1ep"], ["1it"]))
    assert same_weights(model, whole)
    pd.testing.assert_frame_equal(without_times(run), without_times(expected))
    assert run.status == "complete"


@pytest.mark.parametrize("every_it", ["1it", "3it"])
def test_a_checkpoint_within_an_epoch_is_resumed_from_to_the_same_bits(tmp_path, net, few, every_it):
    config = TrainConfig(**CONFIG.as_dict() | {"checkpoint_every": every_it})
    whole, model = net(), net()
    expected = train(whole, few[0], config=config, quiet=True)
    with pytest.raises(Stop):
        train(net(), few[0], config=config, callbacks=[stop_at("1ep3it")], out=tmp_path / "r", quiet=True)
    run = train(model, few[0], config=config, out=tmp_path / "r", quiet=True)
    assert same_weights(model, whole)
    pd.testing.assert_frame_equal(without_times(run), without_times(expected))


class Noisy(TensorDataset):
    """Samples that draw from every global random state each time they are asked for."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.randn(()) + random.random() + np.random.rand(), y  # noqa: NPY002


@pytest.mark.parametrize("own", [False, True], ids=["global", "own generator"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_is_resumed_within_an_epoch_to_the_same_bits(tmp_path, net, few, own, workers):
    def loader():
        generator = torch.Generator().manual_seed(5) if own else None
        return DataLoader(Noisy(*few[0]), batch_size=32, shuffle=True, generator=generator, num_workers=workers)

    config = TrainConfig(epochs=3, lr=0.1, checkpoint_every="1it")
    whole, model = net(), net()
    expected = train(whole, loader(), test_set=DataLoader(TensorDataset(*few[1]), 16), config=config, quiet=True)
    options = {"test_set": DataLoader(TensorDataset(*few[1]), 16), "config": config, "quiet": True}
    with pytest.raises(Stop):
        train(net(), loader(), callbacks=[stop_at("1ep2it")], out=tmp_path / "r", **options)
    run = train(model, loader(), out=tmp_path / "r", **options)
    assert same_weights(model, whole)
    pd.testing.assert_frame_equal(without_times(run), without_times(expected))


def test_a_complete_run_is_read_and_not_trained_again(tmp_path, net, few):
    model, again = net(), net(8)
    first = train(model, few[0], config=CONFIG, out=tmp_path, name="r", quiet=True)
    second = train(again, few[0], config=CONFIG, out=tmp_path, name="r", callbacks=[stop_at("0it")], quiet=True)
    assert same_weights(model, again)
    pd.testing.assert_frame_equal(first.records(), second.records())


def test_two_checkpoints_are_kept_and_hold_what_rebuilds_the_model(tmp_path, net, few):
    model = net()
    model.deepprobe_config = {"name": "small", "num_classes": 10}
    run = train(model, few[0], config=CONFIG, out=tmp_path / "r", about={"data": "digits"}, quiet=True)
    assert isinstance(run, FolderRun)
    assert run.files("checkpoints") == ["checkpoints/step-000000000008.pt", "checkpoints/step-000000000012.pt"]
    assert len(list((run.path / "checkpoints").iterdir())) == 2
    found = load_checkpoint(run.check(run.files("checkpoints")[-1]))
    assert found.deepprobe_config == {"name": "small", "num_classes": 10}
    assert found.about == {"data": "digits"}
    assert run.config["model"] == {"name": "small", "num_classes": 10, "parameters": 3866}
    assert run.config["data"] == "digits"
    assert run.provenance["threads"] == 1
    assert run.provenance["versions"]["torch"] == str(torch.__version__)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"lr": 0.2}, "training.lr: 0.1 in the folder, 0.2 asked for"),
        ({"epochs": 4}, "training.epochs: 3 in the folder, 4 asked for"),
        ({"seed": 1}, "training.seed: default in the folder, 1 asked for"),
    ],
)
def test_other_settings_are_refused_with_the_difference(tmp_path, net, few, change, difference):
    train(net(), few[0], config=CONFIG, out=tmp_path / "r", quiet=True)
    with pytest.raises(RunError) as error:
        train(net(), few[0], config=TrainConfig(**CONFIG.as_dict() | change), out=tmp_path / "r", quiet=True)
    where = tmp_path.resolve() / "r"
    expected = f"{where} holds a run of another configuration ({difference}); choose another folder or name"
    assert str(error.value) == expected


def test_other_data_or_another_model_are_refused_too(tmp_path, net, few):
    train(net(), few[0], config=CONFIG, out=tmp_path / "r", quiet=True)
    x, y = few[0]
    with pytest.raises(RunError, match=r"\(data\.sha256: "):
        train(net(), (x, y.flip(0)), config=CONFIG, out=tmp_path / "r", quiet=True)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(RunError, match=r"\(model\.parameters: 3866 in the folder, 650 asked for\)"):
        train(other, (x, y), config=CONFIG, out=tmp_path / "r", quiet=True)


def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(tmp_path, net, few):
    whole, model = net(), net()
    train(whole, few[0], config=CONFIG, quiet=True)
    with pytest.raises(Stop):
        train(net(), few[0], config=CONFIG, callbacks=[stop_at("2ep1it")], out=tmp_path / "r", quiet=True)
    damaged = tmp_path / "r" / "checkpoints" / "step-000000000008.pt"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(
        CheckpointError,
        match=r"08\.pt is damaged: expected SHA-256 .*; delete it to resume from checkpoints/step-000000000004\.pt$",
    ):
        train(net(), few[0], config=CONFIG, out=tmp_path / "r", quiet=True)
    damaged.unlink()
    run = train(model, few[0], config=CONFIG, out=tmp_path / "r", quiet=True)
    assert run.status == "complete"
    assert same_weights(model, whole)


def test_other_threads_are_told(tmp_path, net, few):
    with pytest.raises(Stop):
        train(net(), few[0], config=CONFIG, callbacks=[stop_at("1ep2it")], out=tmp_path / "r", quiet=True)
    torch.set_num_threads(2)
    with pytest.warns(UserWarning, match="run 'r' began with 1 threads and goes on with 2: its"):
        train(net(), few[0], config=CONFIG, out=tmp_path / "r", quiet=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_a_checkpoint_and_goes_on_to_the_same_bits(tmp_path, net, few, number):
    whole, model = net(), net()
    expected = train(whole, few[0], config=CONFIG, quiet=True)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def interrupt(context):
        os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt) as error:
        train(net(), few[0], config=CONFIG, callbacks=[at("1ep2it")(interrupt)], out=tmp_path / "r", quiet=True)
    assert str(error.value) == (
        "stopped at step 1ep2it; the last checkpoint is checkpoints/step-000000000006.pt; "
        "train with the same settings and folder to go on"
    )
    assert open_run(tmp_path / "r").status == "interrupted"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    run = train(model, few[0], config=CONFIG, out=tmp_path / "r", quiet=True)
    assert same_weights(model, whole)
    pd.testing.assert_frame_equal(without_times(run), without_times(expected))


def test_a_second_interruption_ends_at_once(net, few):
    def interrupt(context):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        train(net(), few[0], config=CONFIG, callbacks=[at("1it")(interrupt)], quiet=True)


class Blow(nn.Module):
    """Layer that is infinite from its n-th call in training on."""

    def __init__(self, n):
        super().__init__()
        self.n, self.calls = n, 0

    def forward(self, x):
        self.calls += self.training
        return x * (float("inf") if self.calls >= self.n else 1.0)


def blowing(net, n):
    model = net()
    model.drop = Blow(n)
    return model


def test_a_diverged_run_is_a_result_with_its_records_and_last_good_checkpoint(tmp_path, net, few):
    model = blowing(net, 6)
    run = train(model, few[0], test_set=few[1], config=CONFIG, out=tmp_path / "r", quiet=True)
    assert run.status == "diverged"
    assert run.message == (
        "the loss of the network at step 1ep1it is nan; the first thing not finite is the output of 'drop'"
    )
    assert open_run(tmp_path / "r").message == run.message
    assert isinstance(run, FolderRun)
    assert run.files("checkpoints") == ["checkpoints/step-000000000004.pt"]
    metrics = run.metrics()
    assert metrics["step"].unique().tolist() == [4, 5]
    last = metrics[metrics["step"] == 5].set_index(["split", "measure"])["value"]
    assert np.isnan(last["train", "loss"])
    assert last["test", "n_predicted_classes"] >= 1
    again = train(blowing(net, 10**9), few[0], test_set=few[1], config=CONFIG, out=tmp_path / "r", quiet=True)
    assert again.status == "diverged"


def test_divergence_raises_where_that_was_asked_for(net, few):
    config = TrainConfig(**CONFIG.as_dict() | {"on_nonfinite": "raise"})
    with pytest.raises(NonFiniteError, match="the loss of the network at step 2it is nan"):
        train(blowing(net, 3), few[0], config=config, quiet=True)


def test_weights_that_overflow_are_noticed_before_they_are_kept(tmp_path, net, few):
    def poison(context):
        with torch.no_grad():
            context.model.conv2.weight[0, 0, 0, 0] = float("nan")

    run = train(net(), few[0], config=CONFIG, callbacks=[at("2ep")(poison)], out=tmp_path / "r", quiet=True)
    assert run.status == "diverged"
    assert run.message == "the weights at step 2ep are not all finite; the first such is the weights of 'conv2.weight'"
    assert isinstance(run, FolderRun)
    assert run.files("checkpoints") == ["checkpoints/step-000000000004.pt"]


def test_losses_checked_together_name_the_first(net, few, monkeypatch):
    monkeypatch.setattr("deepprobe.training.loop.CHECKED_AT_ONCE_ON_CPU", 50)
    together, at_once = blowing(net, 3), blowing(net, 3)
    run = train(together, few[0], config=CONFIG, quiet=True)
    assert (
        run.message == "the loss of the network at step 2it is nan; the first thing not finite is the output of 'drop'"
    )
    assert run.metrics()["step"].unique().tolist() == [2]
    monkeypatch.undo()
    train(at_once, few[0], config=CONFIG, quiet=True)
    for name, weights in together.named_parameters():  # two updates were held back, and the weights stayed good
        assert torch.equal(weights, at_once.get_parameter(name))
        assert torch.isfinite(weights).all()


def test_nothing_is_called_kept_or_watched_at_steps_that_did_not_happen(tmp_path, net, few, monkeypatch):
    monkeypatch.setattr("deepprobe.training.loop.CHECKED_AT_ONCE_ON_CPU", 50)
    config = TrainConfig(**CONFIG.as_dict() | {"checkpoint_every": "3it", "batch_size": 8})
    called, watched = [], []

    class Watch:
        schedule = every("1ep1it").schedule

        @contextmanager
        def around_update(self, context):
            yield
            watched.append(context.step.index)

    callbacks = [every("2it")(lambda c: called.append(c.step.index)), Watch()]
    run = train(blowing(net, 15), few[0], config=config, callbacks=callbacks, out=tmp_path / "r", quiet=True)
    assert isinstance(run, FolderRun)
    assert run.status == "diverged"
    assert "at step 1ep1it is nan" in run.message  # 13 updates an epoch; the 15th has no finite loss
    assert called == [2, 4, 6, 8, 10, 12, 14]
    assert watched == [14]
    assert run.files("checkpoints") == ["checkpoints/step-000000000009.pt", "checkpoints/step-000000000012.pt"]
    monkeypatch.undo()


def test_an_update_watched_is_known_to_have_happened(net, few, monkeypatch):
    monkeypatch.setattr("deepprobe.training.loop.CHECKED_AT_ONCE_ON_CPU", 50)
    run = train(blowing(net, 3), few[0], config=CONFIG, callbacks=[UpdateCallback("1it")], quiet=True)
    assert run.layers()["step"].unique().tolist() == [1, 2]


def test_divergence_right_after_an_epoch_measures_nothing_twice(net, few):
    run = train(blowing(net, 5), few[0], test_set=few[1], config=CONFIG, quiet=True)
    assert run.message.startswith("the loss of the network at step 1ep is nan")
    metrics = run.metrics()
    assert metrics["step"].unique().tolist() == [4]
    assert not metrics.duplicated(["split", "measure"]).any()
    assert np.isfinite(metrics["value"]).all()


def test_tf32_is_left_as_it_was_set(net, few):
    cudnn = torch.backends.cudnn
    seen, before = [], cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision = "ieee"  # of convolutions alone: torch's own flags fail on that
    try:
        train(
            net(), few[0], config=TrainConfig(epochs=1, batch_size=64), quiet=True,
            callbacks=[lambda c: seen.append((cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.deterministic))],
        )  # fmt: skip
        assert seen == [("ieee", False, True)]
        assert (cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.deterministic) == ("ieee", False, False)
    finally:
        cudnn.conv.fp32_precision = before


def test_callbacks_are_called_when_they_are_due_with_one_context(net, few):
    seen: dict[str, list[str]] = {"plain": [], "often": [], "points": []}
    contexts = []
    train(
        net(), few[0], config=CONFIG, quiet=True,
        callbacks=[
            lambda c: seen["plain"].append(str(c.step)),
            every("3it", also_at_start=True)(lambda c: seen["often"].append(str(c.step))),
            at("0it,1it,2ep")(lambda c: seen["points"].append(str(c.step))),
            contexts.append,
        ],
    )  # fmt: skip
    assert seen == {
        "plain": ["1ep", "2ep", "3ep"],
        "often": ["0it", "3it", "1ep2it", "2ep1it", "3ep"],
        "points": ["0it", "1it", "2ep"],
    }
    last = contexts[-1]
    assert last.step == Step(12, 4)
    assert set(last.metrics) == {"train", "validation"}
    assert sum(len(x) for x, _ in last.probe_batches) == 26


def test_a_callback_that_records_a_table_has_it_in_the_run(net, few):
    place = {"layer": "conv1", "depth": 1, "call": 1, "tap": "output", "view": "channels", "type": "Conv2d"}
    shape = {"n_rows": 3, "n_features": 2, "dtype": "float32", "sketched": False, "status": "finite"}
    kappa = {"condition_number": 5.0, "condition_number_low": 4.0, "condition_number_high": 6.0}
    table = pd.DataFrame([place | shape | kappa])
    run = train(net(), few[0], config=CONFIG, callbacks=[at("1ep")(lambda c: c.record(table))], quiet=True)
    row = run.layers().iloc[0]
    assert (row["step"], row["epoch"], row["split"], row["condition_number"]) == (4, 1.0, "probe", 5.0)


def test_channels_last_and_bf16_train(net, digits):
    config = TrainConfig(epochs=3, lr=0.1, channels_last=True, precision="bf16")
    model = net()
    run = train(model, digits[0], test_set=digits[1], config=config, quiet=True)
    assert run.metrics().query("split == 'test' and measure == 'accuracy'")["value"].iloc[-1] > 0.8
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.conv2.weight.dtype == torch.float32


def test_what_does_not_fit_is_told(net, few):
    x, y = few[0]
    with pytest.raises(ConfigError, match="the training data is empty"):
        train(net(), (x[:0], y[:0]), config=TrainConfig(validation_share=0.0), quiet=True)
    with pytest.raises(ConfigError, match="augmentation='pad-crop' needs two tensors as training data"):
        train(net(), [(x, y)], config=TrainConfig(augmentation="pad-crop"), quiet=True)
    with pytest.raises(ConfigError, match=r"device='cuda:99': torch sees \d+ GPUs here; use 'auto' or 'cpu'"):
        train(net(), (x, y), config=TrainConfig(device="cuda:99"), quiet=True)
    with pytest.raises(ConfigError, match="the Identity has no parameters to train"):
        train(nn.Identity(), (x, y), quiet=True)
    with pytest.raises(ShapeError, match="labels must lie in 0 … 9, the model's classes"):
        train(net(), (x, y + 5), quiet=True)
    with pytest.raises(ShapeError, match=r"the model must return logits of shape \(64, classes\)"):
        train(nn.Conv2d(1, 1, 1), (x, y), quiet=True)


def test_off_a_terminal_progress_is_a_line_an_epoch(net, few, capsys):
    train(net(), few[0], config=CONFIG)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("Sequential-seed0: epoch 2: loss ")
    assert "samples/s" in lines[1]
    train(net(), few[0], config=CONFIG, quiet=True)
    assert capsys.readouterr().err == ""


def test_an_interruption_at_the_last_step_completes_the_run_and_is_not_lost(net, few, tmp_path):
    def signal_late(context):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped; run 'run' is complete"):
        train(net(), few[0], config=CONFIG, out=tmp_path / "run", callbacks=[at("3ep")(signal_late)], quiet=True)
    assert open_run(tmp_path / "run").status == "complete"
    assert train(net(), few[0], config=CONFIG, out=tmp_path / "run", quiet=True).status == "complete"
