"""The loop: batches in, updates, measures, callbacks, checkpoints. Features are callbacks, not edits here."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch

from deepprobe.errors import CheckpointError, OutOfMemoryError
from deepprobe.records.step import Step
from deepprobe.training.checkpoint import Checkpoint, put_weights
from deepprobe.training.checkpoints import Checkpoints
from deepprobe.training.context import Context, metric_rows, schedule_of
from deepprobe.training.evaluation import Tally, evaluate
from deepprobe.training.learning_rate import learning_rate
from deepprobe.training.nonfinite import RecentInputs, all_finite, first_nonfinite
from deepprobe.training.progress import Progress
from deepprobe.training.random_state import random_state, restore_random_state
from deepprobe.training.update import Updater, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from deepprobe.distributed import Ranks
    from deepprobe.records.step import Schedule
    from deepprobe.runs import Run
    from deepprobe.training.config import TrainConfig
    from deepprobe.training.context import Callback
    from deepprobe.training.interruption import Interruption
    from deepprobe.training.stream import Data, Part, Stream

CHECKED_AT_ONCE, CHECKED_AT_ONCE_ON_CPU = 50, 1
"""Losses looked at together: looking costs a GPU its queue, and a CPU nothing.

An epoch's end looks at the rest, and so does whatever looks at the weights: a callback, a checkpoint."""
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
    ranks: Ranks
    start: Checkpoint | None = None
    keep: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.checked_at_once = CHECKED_AT_ONCE_ON_CPU if self.device.type == "cpu" else CHECKED_AT_ONCE
        self.update = Updater(
            self.model, self.config, device=self.device, ranks=self.ranks, looks_at_once=self.checked_at_once == 1,
            on_gradients=[c.on_gradients for c in self.callbacks if hasattr(c, "on_gradients")],
        )  # fmt: skip
        self.is_new = True
        self.step = Step(0, self.stream.n_batches)
        self.last = self.config.epochs * self.stream.n_batches
        self.tally = Tally()
        self.seconds, self.callback_seconds, self.resumed_at = 0.0, 0.0, time.perf_counter()
        self.n_unchecked, self.unchecked = 0, RecentInputs()  # updates whose losses nobody has looked at
        self.metrics: dict[str, dict[str, float]] = {}
        self.scheduled: list[tuple[Schedule, Any]] = [(schedule_of(c), c) for c in self.callbacks if callable(c)]
        self.watching: list[tuple[Schedule, Any]] = [
            (schedule_of(c), c) for c in self.callbacks if hasattr(c, "around_update")
        ]
        self.checkpoints = Checkpoints(self.run, self.config, about=self.about, keep=self.keep)

    def resume(self) -> None:
        """Take up the last checkpoint, or else the state to start from; what a killed process wrote after it goes."""
        found = self.ranks.broadcast(self.checkpoints.newest() if self.ranks.is_main else None)
        self.is_new = found is None
        if found is not None:
            self._restore(*found)
        elif self.start is not None:
            self._restore(self.start, "the state to start from")
        if self.run.status not in FINAL and self.ranks.is_main:
            self.checkpoints.rewind_run(-1 if self.is_new else self.step.index)
            self.run.set_status("running")

    def run_to_the_end(self, *, quiet: bool, brief: bool) -> None:
        """Train until the last step, divergence or an interruption."""
        try:
            with ExitStack() as stack:
                for callback in self.callbacks:
                    if hasattr(callback, "around_training"):
                        stack.enter_context(callback.around_training(self._context()))
                self.update.wrap()
                self.model.train()
                quiet = quiet or not self.ranks.is_main
                progress = stack.enter_context(
                    Progress.shown(self.run.name, self.step, last=self.last, quiet=quiet, brief=brief)
                )
                if self.is_new:
                    self._call_back()
                    if self.step.index in self.keep:
                        self._checkpoint()
                while self.step.index < self.last:
                    self._epoch(progress)
        except _Diverged as diverged:
            if not self.step.ends_epoch:  # else it was measured as it stands, before the update that failed
                self._measure()
            self.run.set_status("diverged", str(diverged))
            return
        self.run.set_status("complete")

    def _epoch(self, progress: Progress) -> None:
        """Train to the end of the epoch under way."""
        eventful = self._eventful()
        self.resumed_at = time.perf_counter()
        for part in self.stream.batches(self.step.epoch, skip=self.step.iteration):
            self._update(part)
            due = self.step.index in eventful
            looking = due or self.n_unchecked >= self.checked_at_once
            if looking:
                self._check_losses()
            if due:
                with self._clock_stopped():
                    if self.step.ends_epoch:
                        self._measure()
                        progress.epoch(self.step, self.metrics)
                    self._call_back()
            stopping = self._save_or_stop(due=due, looking=looking)
            progress.advance()
            if stopping:
                self._stop()

    def _eventful(self) -> frozenset[int]:
        """Steps of this epoch whose weights are to be looked at or kept, and so must be known to be theirs."""
        n = self.stream.n_batches
        steps = [Step(i, n) for i in range(self.step.index + 1, (self.step.epoch + 1) * n)]
        schedules = [schedule for schedule, _ in self.scheduled]
        due = {s.index for s in steps if self._is_kept(s) or any(schedule.is_due(s) for schedule in schedules)}
        return frozenset(due | {(self.step.epoch + 1) * n})

    def _is_kept(self, step: Step) -> bool:
        """Whether the state of this very step is to be kept."""
        return step.index in self.keep or self.checkpoints.timer.is_due_at(step)

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        """What happens inside is not counted as training."""
        self.seconds += time.perf_counter() - self.resumed_at
        yield
        self.resumed_at = time.perf_counter()

    def _update(self, part: Part) -> None:
        """One step of the optimizer, watched by the callbacks that asked for it; else no number leaves the device."""
        rate = learning_rate(self.config, self.step.index, iterations_per_epoch=self.step.iterations_per_epoch)
        after = self.step.next()
        watching = [callback for schedule, callback in self.watching if schedule.is_due(after)]
        try:
            with self._watched(watching, after) if watching else nullcontext():
                logits, loss = self.update(part, rate=rate)
                self.step = after
                self.tally.add(logits, part.y, loss=loss)
                self.unchecked.add(part.x)
                self.n_unchecked += 1
        except (RuntimeError, MemoryError) as error:
            self._tell_of_memory(error, after)
            raise

    @contextmanager
    def _watched(self, callbacks: Sequence[Any], step: Step) -> Iterator[None]:
        """Inside, an update around which callbacks stand; they see its end only if its loss was finite."""
        with ExitStack() as stack:
            with self._for_callbacks():
                for callback in callbacks:
                    stack.enter_context(callback.around_update(self._context(step)))
            yield
            self._check_losses()
            with self._for_callbacks():
                stack.close()

    @contextmanager
    def _for_callbacks(self) -> Iterator[None]:
        """What happens inside is counted as the callbacks' time, not as training."""
        started = time.perf_counter()
        with self._clock_stopped():
            yield
        self.callback_seconds += time.perf_counter() - started

    def _tell_of_memory(self, error: Exception, step: Step) -> None:
        """Too little memory ends the run with a message that says what to try; other errors are left alone."""
        if not is_out_of_memory(error):
            return
        advice = f"a callback found too little memory ({error}); give it fewer samples, layers or rows"
        advice = str(error) if isinstance(error, OutOfMemoryError) else advice
        kept = self.checkpoints.newest_name
        where = f"; the last checkpoint is {kept}" if kept else ""
        message = f"step {step}: {advice}, in another folder, since that is another run{where}"
        self.run.set_status("interrupted", message)
        raise OutOfMemoryError(message) from error

    def _check_losses(self) -> None:
        """Raise _Diverged if a loss since the last check was not finite, on all ranks alike."""
        found = self.update.guard.read() if self.n_unchecked else None
        inputs = self.unchecked.taken()
        self.n_unchecked = 0
        if found is None:
            return
        n_held, loss = found
        self.step = Step(self.step.index - n_held, self.step.iterations_per_epoch)  # of the weights as they are
        first = first_nonfinite(self.model, inputs[-min(n_held, len(inputs))])  # on all ranks: layers may be collective
        words = f"the loss of the network at step {self.step} is {loss}; the first thing not finite is {first}"
        words = "" if math.isfinite(loss) else words
        told = [said for said in self.ranks.gather(words) if said]
        raise _Diverged(self.ranks.broadcast(told[0] if told else ""))

    def _save_or_stop(self, *, due: bool, looking: bool) -> bool:
        """Write a checkpoint if one is due; returns whether somebody asked for the end before the last step."""
        stopping = timed = False
        if looking or self.ranks.is_alone:
            timed = self.checkpoints.timer.is_due_now() and self.ranks.is_main
            stopping, timed = self.ranks.agree([self.interruption.requested, timed])
        at_the_end = self.step.index == self.last
        if stopping or timed or at_the_end or (due and self._is_kept(self.step)):
            with self._clock_stopped():
                self._checkpoint()
        return stopping and not at_the_end

    def _measure(self) -> None:
        """Evaluate, and append what this epoch gave to the run; nothing where nothing was trained since."""
        tally = self.tally.over(self.ranks)
        if not tally.n_samples:
            return
        rate = learning_rate(self.config, max(self.step.index - 1, 0), iterations_per_epoch=self.stream.n_batches)
        speed = tally.n_samples / self.seconds if self.seconds else float("nan")
        training = tally.read() | {"learning_rate": rate, "seconds": self.seconds, "samples_per_second": speed}
        training["seconds_in_callbacks"] = self.callback_seconds
        self.metrics = {"train": training}
        self.ranks.copy_from_main(self.model.buffers())
        for split, data in self.held_out.items():
            started = time.perf_counter()
            values = evaluate(self.model, data, device=self.device, precision=self.config.precision, ranks=self.ranks)
            self.metrics[split] = values | {"seconds": time.perf_counter() - started}
        self.run.append(metric_rows(self.metrics, self._context().point))
        self.tally, self.seconds, self.callback_seconds = Tally(), 0.0, 0.0

    def _call_back(self) -> None:
        """Call the callbacks that are due."""
        due = [callback for schedule, callback in self.scheduled if schedule.is_due(self.step)]
        if not due:
            return
        started = time.perf_counter()
        self.ranks.copy_from_main(self.model.buffers())
        try:
            for callback in due:
                callback(self._context())
        except (RuntimeError, MemoryError) as error:
            self._tell_of_memory(error, self.step)
            raise
        self.callback_seconds += time.perf_counter() - started

    def _context(self, step: Step | None = None) -> Context:
        """This moment, or a step that is under way."""
        return Context(
            model=self.model, step=self.step if step is None else step, run=self.run, device=self.device,
            seed=self.config.seed, probe_batches=self.probe_batches, metrics=dict(self.metrics), ranks=self.ranks,
            config=self.config, optimizer=self.update.optimizer,
        )  # fmt: skip

    def _checkpoint(self) -> None:
        """Write a checkpoint of finite weights, if they are those of this step."""
        self._check_losses()
        if not all_finite(self.model):
            raise _Diverged(
                f"the weights at step {self.step} are not all finite; "
                f"the first such is {first_nonfinite(self.model, torch.empty(0))}"
            )
        state = self._state()
        if self.ranks.is_main:
            self.checkpoints.save(self.step, self.model, state)
        self.checkpoints.timer.reset()

    def _stop(self) -> None:
        """End an interrupted run with a message."""
        kept = self.checkpoints.newest_name
        message = f"stopped at step {self.step}; " + (
            f"the last checkpoint is {kept}; train with the same settings and folder to go on"
            if kept
            else "nothing was kept, since no folder was named"
        )
        message = self.ranks.broadcast(message)
        self.run.set_status("interrupted", message)
        raise KeyboardInterrupt(message)

    def _state(self) -> dict[str, Any]:
        """All that is needed to go on from here, beside the weights; plain values and tensors."""
        own = {"random": random_state(), "stream": self.stream.state()}
        return {
            "index": self.step.index,
            "iterations_per_epoch": self.step.iterations_per_epoch,
            "optimizer": self.update.optimizer.state_dict(),
            "ranks": self.ranks.gather(own),
            "tally": self.tally.over(self.ranks).state(),
            "seconds": self.seconds,
            "callback_seconds": self.callback_seconds,
            "metrics": self.metrics,
        }

    def _restore(self, checkpoint: Checkpoint, origin: str) -> None:
        """Go back to where a checkpoint was written."""
        put_weights(self.model, checkpoint.weights, origin=origin)
        state = checkpoint.training
        try:
            if state is None or state["iterations_per_epoch"] != self.step.iterations_per_epoch:
                raise KeyError("a state of training with this number of updates an epoch")
            if state["optimizer"] is not None:
                # A copy: the optimizer goes on in the very tensors it is given, and others may start from them too.
                self.update.optimizer.load_state_dict(deepcopy(state["optimizer"]))
            ranks = state["ranks"] or []
            if ranks:
                own = ranks[self.ranks.rank % len(ranks)]
                restore_random_state(own["random"])
                self.stream.restore(own["stream"])
            if not self.is_new:
                self._restore_measures(state)
            self.step = Step(int(state["index"]), self.step.iterations_per_epoch)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            raise CheckpointError(f"{origin} cannot be resumed from: {type(error).__name__}: {error}") from error
        if not self.is_new:
            self._warn_of_other_bits(n_ranks=len(ranks))

    def _restore_measures(self, state: Mapping[str, Any]) -> None:
        """Take up what this run had measured of the epoch under way."""
        if self.ranks.is_main:
            self.tally = Tally.of_state(state["tally"], device=self.device)
        self.seconds, self.callback_seconds = float(state["seconds"]), float(state["callback_seconds"])
        self.metrics = state["metrics"]

    def _warn_of_other_bits(self, *, n_ranks: int) -> None:
        """Say so where the machine is not set as when the run began."""
        if self.run.status in FINAL or not self.ranks.is_main:
            return
        threads = self.run.provenance.get("threads")
        then = {"threads": threads, "processes": n_ranks}
        now = {"threads": torch.get_num_threads(), "processes": self.ranks.world_size}
        words = [f"{then[what]} {what} and goes on with {now[what]}" for what in then if then[what] != now[what]]
        if words:
            warn(
                f"run {self.run.name!r} began with {', '.join(words)}: "
                "its numbers will not be the same to the last bit",
                stacklevel=4,
            )
