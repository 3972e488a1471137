"""The loop: batches in, updates, measures, callbacks, checkpoints. Features are callbacks, not edits here."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch
from tqdm.auto import tqdm

from deepprobe.errors import CheckpointError, ConfigError, RunError
from deepprobe.records.step import Every, Length, Step
from deepprobe.runs import FolderRun
from deepprobe.training.checkpoint import Checkpoint, load_checkpoint, put_weights, save_checkpoint
from deepprobe.training.context import Context, metric_rows, schedule_of
from deepprobe.training.evaluation import Tally, classification_loss, evaluate
from deepprobe.training.learning_rate import learning_rate
from deepprobe.training.nonfinite import all_finite, first_nonfinite
from deepprobe.training.random_state import random_state, restore_random_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from deepprobe.records.step import Schedule
    from deepprobe.runs import Run
    from deepprobe.training.config import TrainConfig
    from deepprobe.training.context import Callback
    from deepprobe.training.interruption import Interruption
    from deepprobe.training.stream import Data, Stream

CHECKPOINTS = "checkpoints"
CHECKPOINTS_KEPT = 2
CHECKED_AT_ONCE, CHECKED_AT_ONCE_ON_CPU = 50, 1
"""Losses looked at together: looking costs a GPU its queue, and a CPU nothing. An epoch's end looks at the rest."""
FINAL = ("complete", "diverged")


class _Diverged(Exception):  # noqa: N818 - leaves the loop, not the module
    """The loss of a step, or a weight after it, is NaN or infinite."""


@dataclass(kw_only=True)
class Loop:
    """Training under way: everything that changes from step to step."""

    model: nn.Module
    stream: Stream
    held_out: Mapping[str, Data]
    config: TrainConfig
    callbacks: Sequence[Callback]
    run: Run
    device: torch.device
    probe_batches: tuple[tuple[Tensor, Tensor], ...]
    about: dict[str, Any]
    interruption: Interruption

    def __post_init__(self) -> None:
        self.optimizer = _optimizer(self.model, self.config)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.step = Step(0, self.stream.n_batches)
        self.last = self.config.epochs * self.stream.n_batches
        self.tally = Tally()
        self.seconds, self.resumed_at = 0.0, time.perf_counter()
        self.unchecked: list[Tensor] = []
        self.metrics: dict[str, dict[str, float]] = {}
        self.scheduled: list[tuple[Schedule, Any]] = [(schedule_of(c), c) for c in self.callbacks if callable(c)]
        self.checkpoints = Every(Length.parse(self.config.checkpoint_every))

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one; what a killed process wrote after it goes."""
        if not isinstance(self.run, FolderRun):
            return
        listed = self.run.files(CHECKPOINTS)
        files = [name for name in listed if (self.run.path / name).exists()]
        if files:
            self._restore(_newest(self.run, files), origin=str(self.run.path / files[-1]))
        if self.run.status not in FINAL:
            self.run.forget(*(name for name in listed if name not in files))
            self.run.rewind(self.step.index if files else -1)
            self.run.set_status("running")

    def run_to_the_end(self, *, quiet: bool) -> None:
        """Train until the last step, divergence or an interruption."""
        self.model.train()
        bar = tqdm(
            total=self.last, initial=self.step.index, unit="step", desc=self.run.name, disable=True if quiet else None,
            dynamic_ncols=True,
        )  # fmt: skip
        try:
            with bar:
                if self.step.index == 0:
                    self._call_back()
                while self.step.index < self.last:
                    self._epoch(bar)
        except _Diverged as diverged:
            self._measure()
            self.run.set_status("diverged", str(diverged))
            return
        self.run.set_status("complete")

    def _epoch(self, bar: Any) -> None:
        """Train to the end of the epoch under way."""
        self.resumed_at = time.perf_counter()
        for x, y in self.stream.batches(self.step.epoch, skip=self.step.iteration):
            self._update(x, y)
            self.step = self.step.next()
            if self.step.ends_epoch:
                self._check_losses(x, newest=self.step.index - 1)
            with self._clock_stopped():
                if self.step.ends_epoch:
                    self._measure()
                    bar.set_postfix(_postfix(self.metrics))
                self._call_back()
                self._checkpoint_if_due()
                bar.update()
            if self.interruption.requested and self.step.index < self.last:
                self._stop()

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        """What happens inside is not counted as training."""
        self.seconds += time.perf_counter() - self.resumed_at
        yield
        self.resumed_at = time.perf_counter()

    def _update(self, x: Tensor, y: Tensor) -> None:
        """One step of the optimizer; no number leaves the device, but for the loss on a CPU."""
        config = self.config
        if config.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        rate = learning_rate(config, self.step.index, iterations_per_epoch=self.step.iterations_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
        with bf16:
            logits = self.model(x)
        loss = classification_loss(logits, y, label_smoothing=config.label_smoothing)
        self.tally.add(logits.detach(), y, loss=loss)
        self.unchecked.append(loss.detach())
        if len(self.unchecked) >= (CHECKED_AT_ONCE_ON_CPU if self.device.type == "cpu" else CHECKED_AT_ONCE):
            self._check_losses(x, newest=self.step.index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        self.optimizer.step()

    def _check_losses(self, x: Tensor, *, newest: int) -> None:
        """Raise _Diverged if a loss since the last check, the newest of update ``newest``, is not finite."""
        if not self.unchecked:
            return
        finite = torch.isfinite(torch.stack(self.unchecked)).tolist()
        oldest = newest - len(finite) + 1
        if not all(finite):
            first = finite.index(False)
            step = Step(oldest + first, self.step.iterations_per_epoch)
            raise _Diverged(
                f"the loss of the network at step {step} is {self.unchecked[first].item()}; "
                f"the first thing not finite is {first_nonfinite(self.model, x)}"
            )
        self.unchecked.clear()

    def _measure(self) -> None:
        """Evaluate, and append what this epoch gave to the run; nothing where nothing was trained since."""
        if not self.tally.n_samples:
            return
        rate = learning_rate(self.config, max(self.step.index - 1, 0), iterations_per_epoch=self.stream.n_batches)
        training = self.tally.read()
        speed = self.tally.n_samples / self.seconds if self.seconds else float("nan")
        training |= {"learning_rate": rate, "seconds": self.seconds, "samples_per_second": speed}
        self.metrics = {"train": training}
        for split, data in self.held_out.items():
            started = time.perf_counter()
            values = evaluate(self.model, data, device=self.device, batch_size=max(self.config.batch_size, 256))
            self.metrics[split] = values | {"seconds": time.perf_counter() - started}
        self.run.append(metric_rows(self.metrics, self._context().point))
        self.tally, self.seconds = Tally(), 0.0

    def _call_back(self) -> None:
        """Call the callbacks that are due."""
        for schedule, callback in self.scheduled:
            if schedule.is_due(self.step):
                callback(self._context())

    def _context(self) -> Context:
        """This moment."""
        return Context(
            self.model, self.step, self.run, self.device, self.config.seed, self.probe_batches, dict(self.metrics),
            config=self.config,
        )  # fmt: skip

    def _checkpoint_if_due(self) -> None:
        """Write a checkpoint where the settings ask for one, at the end, and before an interruption ends the run."""
        stopping = self.interruption.requested
        due = stopping or self.step.index == self.last or self.checkpoints.is_due(self.step)
        if not due or not isinstance(self.run, FolderRun):
            return
        if self.step.iteration and not self.stream.seekable:
            return
        if not all_finite(self.model):
            raise _Diverged(
                f"the weights at step {self.step} are not all finite; "
                f"the first such is {first_nonfinite(self.model, torch.empty(0))}"
            )
        name = f"{CHECKPOINTS}/step-{self.step.index:012d}.pt"
        self.run.forget(name)
        (self.run.path / CHECKPOINTS).mkdir(exist_ok=True)
        save_checkpoint(self.run.path / name, self.model, about=self.about, training=self._state())
        self.run.register(name)
        self.run.forget(*self.run.files(CHECKPOINTS)[:-CHECKPOINTS_KEPT])

    def _stop(self) -> None:
        """End an interrupted run with a message."""
        if not isinstance(self.run, FolderRun):
            raise KeyboardInterrupt(f"stopped at step {self.step}; nothing was kept, since no folder was named")
        kept = self.run.files(CHECKPOINTS)
        where = f"the last checkpoint is {kept[-1]}" if kept else "there was no checkpoint yet"
        message = f"stopped at step {self.step}; {where}; train with the same settings and folder to go on"
        self.run.set_status("interrupted", message)
        raise KeyboardInterrupt(message)

    def _state(self) -> dict[str, Any]:
        """All that is needed to go on from here, beside the weights; plain values and tensors."""
        return {
            "index": self.step.index,
            "iterations_per_epoch": self.step.iterations_per_epoch,
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
            "stream": self.stream.state(),
            "tally": self.tally.state(),
            "seconds": self.seconds,
            "metrics": self.metrics,
        }

    def _restore(self, checkpoint: Checkpoint, *, origin: str) -> None:
        """Go back to where a checkpoint was written."""
        put_weights(self.model, checkpoint.weights, origin=origin)
        state = checkpoint.training
        try:
            if state is None or state["iterations_per_epoch"] != self.step.iterations_per_epoch:
                raise KeyError("a state of training with this number of updates an epoch")
            self.optimizer.load_state_dict(state["optimizer"])
            restore_random_state(state["random"])
            self.stream.restore(state["stream"])
            self.tally = Tally.of_state(state["tally"], device=self.device)
            self.seconds, self.metrics = float(state["seconds"]), state["metrics"]
            self.step = Step(int(state["index"]), self.step.iterations_per_epoch)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{origin} cannot be resumed from: {type(error).__name__}: {error}") from error
        threads = self.run.provenance.get("threads")
        if self.run.status not in FINAL and threads != torch.get_num_threads():
            warn(
                f"run {self.run.name!r} began with {threads} threads and goes on with {torch.get_num_threads()}: "
                "its numbers will not be the same to the last bit",
                stacklevel=4,
            )


def _newest(run: FolderRun, files: Sequence[str]) -> Checkpoint:
    """The last checkpoint of a run; CheckpointError that offers the one before, if the last is damaged."""
    try:
        return load_checkpoint(run.check(files[-1]))
    except RunError as error:
        before = f"delete it to resume from {files[-2]}" if len(files) > 1 else "there is none before it; start anew"
        raise CheckpointError(f"{error}; {before}") from error


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or Adam over the parameters that are trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(f"the {type(model).__name__} has no parameters to train")
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def _postfix(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Loss and accuracies for the progress bar."""
    shown = {"loss": f"{metrics['train']['loss']:.3g}"}
    return shown | {split: f"{values['accuracy']:.1%}" for split, values in metrics.items() if "accuracy" in values}
