"""Lightning's own Trainer with deepprobe's callbacks alongside: the same table, and training does not notice."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from deepprobe.errors import ConfigError, MissingPackageError, RunError
from deepprobe.integrations import (
    GradientCallback,
    InFlightCallback,
    ProbeCallback,
    UpdateCallback,
    WeightCallback,
)
from deepprobe.integrations.lightning import DeepprobeCallback
from deepprobe.probes import condition_numbers
from deepprobe.records.frame import TIDY
from deepprobe.records.step import every
from deepprobe.runs import open_run

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning 2.6 with torch 2.13
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
N, BATCH = 70, 10
PROBED = {"tap": "input", "view": "channels", "rows": "all"}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Convnet(pl.LightningModule):
    """A small network for pictures of the size of MNIST's."""

    def __init__(self, *, dropout=0.5, lr=0.1):
        super().__init__()
        self.lr = lr
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(),
                nn.Flatten(), nn.Dropout(dropout), nn.Linear(216, 4),
            )  # fmt: skip

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, index):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def data(seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 1, 28, 28, generator=generator), torch.randint(0, 4, (n,), generator=generator)
    return TensorDataset(x, y)


def fit(model, *callbacks, shuffle=False, ckpt_path=None, loader=None, epochs=2, **options):
    """Fit with validation, quietly; the seed is Lightning's own."""
    pl.seed_everything(3, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), **({"enable_checkpointing": False, "devices": 1} | options),
    )  # fmt: skip
    loader = DataLoader(data(), BATCH, shuffle=shuffle) if loader is None else loader
    trainer.fit(model, loader, DataLoader(data(1, 30), BATCH), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_table_is_that_of_condition_numbers_on_the_same_weights():
    model, callback = Convnet(), DeepprobeCallback([ProbeCallback("1ep", **PROBED)])
    fit(model, callback)
    batches = list(DataLoader(data(1, 30), BATCH))
    expected = condition_numbers(model, batches, tap="input", progress=False)
    found = callback.run.layers().query("step == 14").reset_index(drop=True)
    columns = [c for c in expected.columns if c in found]
    assert {"condition_number", "centred_status", "numerical_rank", "n_dead"} <= set(columns)
    assert len(found) == 3
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False)
    table = callback.table()
    assert list(table.columns) == list(TIDY)
    assert callback.run.steps_probed() == sorted(table.loc[table["layer"].notna(), "step"].unique()) == [0, 7, 14]
    assert callback.run.status == "complete"
    assert callback.run.config["model"]["parameters"] == sum(p.numel() for p in model.parameters())


def test_what_the_module_logs_is_in_the_run_at_the_end_of_each_epoch():
    callback = DeepprobeCallback([])
    trainer = fit(Convnet(), callback)
    metrics = callback.run.metrics()
    assert sorted(zip(metrics["step"], metrics["epoch"], metrics["split"], metrics["measure"], strict=True)) == [
        (7, 1.0, "train", "loss"), (7, 1.0, "validation", "acc"),
        (14, 2.0, "train", "loss"), (14, 2.0, "validation", "acc"),
    ]  # fmt: skip
    assert set(metrics["seed"]) == {3}
    last = metrics.set_index("measure").loc[:, "value"]
    assert last["loss"].iloc[-1] == pytest.approx(float(trainer.callback_metrics["train_loss"]), rel=1e-6)


def test_training_goes_on_as_if_nobody_looked():
    looked_at, alone = Convnet(), Convnet()
    callback = DeepprobeCallback([ProbeCallback("1it", **PROBED | {"rows": 3}), ProbeCallback("1ep")])
    fit(looked_at, callback, shuffle=True)
    fit(alone, shuffle=True)
    pairs = zip(looked_at.state_dict().values(), alone.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert len(callback.run.steps_probed()) == 15
    assert hooks_of(looked_at) == 0


class Watcher:
    """Records what it sees around updates and around the training."""

    schedule = every("2it").schedule

    def __init__(self):
        self.updates, self.log = [], []

    @contextmanager
    def around_training(self, context):
        handle = context.model.register_forward_hook(Watcher.nothing)
        self.log.append("in")
        try:
            yield
        finally:
            handle.remove()
            self.log.append("out")
            context.log("train", hooks_removed=1.0)

    @staticmethod
    def nothing(module, args, output):
        return None

    @contextmanager
    def around_update(self, context):
        before = [p.detach().clone() for p in context.model.parameters()]
        yield
        after = [p.detach().clone() for p in context.model.parameters()]
        gradients = [p.grad.clone() for p in context.model.parameters()]
        self.updates.append((context.step.index, before, after, gradients))


def test_an_update_is_seen_with_the_gradient_that_made_it():
    model, watcher = Convnet(lr=0.5), Watcher()
    callback = DeepprobeCallback([watcher])
    fit(model, callback, accumulate_grad_batches=3, gradient_clip_val=0.01)
    assert [step for step, *_ in watcher.updates] == [2, 4, 6]  # 7 batches in threes are 3 updates an epoch
    for _, before, after, gradients in watcher.updates:
        assert math.sqrt(sum(float((g**2).sum()) for g in gradients)) <= 0.01 * (1 + 1e-5)
        for b, a, g in zip(before, after, gradients, strict=True):
            torch.testing.assert_close(a, b - 0.5 * g)
    assert set(callback.run.metrics()["epoch"]) == {0.0, 1.0, 2.0}
    assert watcher.log == ["in", "out"]
    assert hooks_of(model) == 0


def test_every_callback_of_deepprobe_stands_beside_accumulated_batches():
    watching = [InFlightCallback("2it", rows="all"), UpdateCallback("2it")]
    model, callback = Convnet(), DeepprobeCallback([*watching, GradientCallback("1ep"), WeightCallback("1ep")])
    fit(model, callback, accumulate_grad_batches=3)  # 7 batches of 10 in threes: updates on 30, 30, 10 samples
    layers = callback.run.layers().set_index(["tap", "step"]).sort_index()
    assert {tap: sorted(set(layers.loc[tap].index)) for tap in ("input", "update", "gradient", "weight")} == {
        "input": [2, 4, 6], "update": [2, 4, 6], "gradient": [0, 3, 6], "weight": [0, 3, 6],
    }  # fmt: skip
    linear = layers[layers["layer"] == "net.7"]
    assert list(linear.loc["input", "n_rows"]) == [30, 30, 10]
    assert set(layers["call"]) == {1}
    expected = float(torch.linalg.matrix_norm(model.net[7].weight.detach().double()))
    assert linear.loc[("update", 6), "weight_norm"] == pytest.approx(expected, rel=1e-12)
    assert hooks_of(model) == 0


def test_an_error_ends_the_run_and_leaves_no_hooks():
    class Broken(Convnet):
        def on_before_optimizer_step(self, optimizer):
            if self.global_step == 3:
                raise RuntimeError("broken")

    model, watcher = Broken(), Watcher()
    callback = DeepprobeCallback([watcher])
    with pytest.raises(RuntimeError, match="broken"):
        fit(model, callback)
    assert (callback.run.status, callback.run.message) == ("interrupted", "RuntimeError: broken")
    assert watcher.log == ["in", "out"]
    assert [step for step, *_ in watcher.updates] == [2]
    assert hooks_of(model) == 0


class StopAt(pl.Callback):
    """Ends training in the middle of an epoch, as a kill does."""

    def on_train_batch_end(self, trainer, *others):
        if trainer.global_step == 11:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("on_epoch_end", [True, False])
def test_a_resumed_training_has_the_rows_of_one_that_was_not_stopped(tmp_path, on_epoch_end):
    def callbacks(folder):
        kept = pl.callbacks.ModelCheckpoint(
            dirpath=tmp_path / folder, filename="c-{step}", save_top_k=-1, save_on_train_epoch_end=on_epoch_end,
            every_n_epochs=1,
        )  # fmt: skip
        return [DeepprobeCallback([ProbeCallback("3it", **PROBED)], out=tmp_path / "runs", name=folder), kept]

    options = {"epochs": 3, "enable_checkpointing": True}
    whole, *others = callbacks("whole")
    fit(Convnet(dropout=0.0), whole, *others, **options)
    stopped, *others = callbacks("stopped")
    with pytest.raises(RuntimeError, match="stopped"):
        fit(Convnet(dropout=0.0), stopped, *others, StopAt(), **options)
    assert stopped.run.steps_probed() == [0, 3, 6, 9]
    assert stopped.run.status == "interrupted"
    resumed, *others = callbacks("stopped")
    fit(Convnet(dropout=0.0), resumed, *others, ckpt_path=tmp_path / "stopped" / "c-step=7.ckpt", **options)
    run = open_run(tmp_path / "runs" / "stopped")
    expected, found = (r.records().drop(columns="run") for r in (whole.run, run))
    pd.testing.assert_frame_equal(found, expected)
    assert run.steps_probed() == whole.run.steps_probed() == [0, 3, 6, 9, 12, 15, 18, 21]
    for step in run.steps_probed():
        a, b = run.spectra(step), whole.run.spectra(step)
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[k], b[k]) for k in a)
    assert run.status == "complete"
    with pytest.raises(RunError, match="is complete; choose another folder, or resume that training"):
        fit(Convnet(dropout=0.0), callbacks("stopped")[0], epochs=1)
    assert len(run.records()) == len(expected)


def test_resuming_into_an_empty_folder_is_told(tmp_path):
    fit(Convnet(), DeepprobeCallback([]), epochs=1).save_checkpoint(tmp_path / "c.ckpt")
    with pytest.warns(UserWarning, match="begins at step 7: it holds nothing of the training before"):
        fit(Convnet(), DeepprobeCallback([], out=tmp_path / "run"), ckpt_path=tmp_path / "c.ckpt")


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    fit(Convnet(), DeepprobeCallback([], name="one"), epochs=1).save_checkpoint(tmp_path / "c.ckpt")
    with pytest.raises(RuntimeError, match="stopped"):
        fit(Convnet(), DeepprobeCallback([], out=tmp_path / "two"), StopAt())
    before = open_run(tmp_path / "two").records()
    with pytest.raises(RunError, match=r"two is not the run 'one' that this checkpoint belongs to"):
        fit(Convnet(), DeepprobeCallback([], out=tmp_path / "two"), ckpt_path=tmp_path / "c.ckpt")
    assert len(before) == 2
    pd.testing.assert_frame_equal(open_run(tmp_path / "two").records(), before)


def test_a_second_fit_goes_on_with_the_run_in_memory():
    model, callback = Convnet(), DeepprobeCallback([])
    trainer = fit(model, callback, epochs=1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, DataLoader(data(), BATCH), DataLoader(data(1, 30), BATCH))
    assert list(callback.run.metrics().query("measure == 'loss'")["step"]) == [7, 14, 21]
    assert callback.run.status == "complete"


def test_a_part_of_the_module_is_looked_at_and_trackers_follow():
    class Tracker:
        def __init__(self):
            self.told = []

        def start(self, name, config):
            self.told.append(config["training"])

        def log(self, frame):
            self.told.append(len(frame))

        def finish(self, status):
            self.told.append(status)

    tracker = Tracker()
    callback = DeepprobeCallback(
        [ProbeCallback("1ep", **PROBED)], submodule="net", batches=[data(5).tensors[0]], trackers=[tracker], seed=8
    )
    fit(Convnet(), callback, epochs=1)
    layers = callback.run.layers()
    assert list(layers["layer"].unique()) == ["0", "3", "7"]
    assert set(layers["seed"]) == {8}
    assert tracker.told[0] == {"loop": "lightning", "seed": 8}
    assert tracker.told[-1] == "complete"
    assert sum(tracker.told[1:-1]) == len(callback.table())


def test_a_loader_without_length_needs_the_length_of_an_epoch():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data())

    with pytest.raises(ConfigError) as error:
        fit(Convnet(), DeepprobeCallback(), loader=DataLoader(Stream(), BATCH))
    assert str(error.value) == ("the training loader has no length; say iterations_per_epoch, the updates in an epoch")
    callback = DeepprobeCallback([ProbeCallback("1ep", **PROBED)], iterations_per_epoch=7)
    fit(Convnet(), callback, loader=DataLoader(Stream(), BATCH))
    assert callback.run.steps_probed() == [0, 7, 14]


@pytest.mark.slow
def test_two_processes_look_at_one_network(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("lightning_job.py")), str(tmp_path)], capture_output=True, text=True,
        timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    model, run = Convnet(), open_run(tmp_path / "run")
    model.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    layers = run.layers().set_index(["split", "tap", "step"]).sort_index()
    assert set(layers.loc[("probe", "input")].index) == {0, 4, 8}
    assert set(layers.loc[("train", "input")].index) == set(layers.loc[("train", "update")].index) == {2, 4, 6, 8}
    linear = layers[layers["layer"] == "net.7"]
    assert set(linear.loc[("train", "input"), "n_rows"]) == {2 * BATCH}
    expected = condition_numbers(model, list(DataLoader(data(1, 30), BATCH)), tap="input", progress=False)
    found = layers.loc[("probe", "input", 8)]
    assert list(found["n_rows"]) == list(expected["n_rows"])
    np.testing.assert_allclose(found["condition_number_live"], expected["condition_number_live"], rtol=1e-6)
    np.testing.assert_allclose(found["effective_rank"], expected["effective_rank"], rtol=1e-6)


def test_there_is_no_run_before_training():
    with pytest.raises(RunError, match="there is no run yet"):
        _ = DeepprobeCallback().run


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("lightning", "lightning.pytorch", "lightning"), ("huggingface", "transformers", "huggingface")],
)
def test_a_missing_package_is_told_with_the_extra_that_brings_it(monkeypatch, module, package, extra):
    monkeypatch.delitem(sys.modules, f"deepprobe.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"install it with: pip install 'deepprobe\[{extra}\]'$"):
        importlib.import_module(f"deepprobe.integrations.{module}")
