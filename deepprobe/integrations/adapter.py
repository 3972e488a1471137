"""deepprobe's callbacks, driven by a loop that is not deepprobe's: what the adapters to other libraries share."""

from __future__ import annotations

import math
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

from deepprobe.distributed import current_ranks
from deepprobe.errors import ConfigError, RunError
from deepprobe.hooks.passes import moved
from deepprobe.hooks.select import unwrapped
from deepprobe.integrations.probe_callback import ProbeCallback
from deepprobe.records.step import Step
from deepprobe.runs import FolderRun, MemoryRun, create_run
from deepprobe.runs.run import FINAL
from deepprobe.seeding import preserved_random_states
from deepprobe.training.context import Context, metric_rows, schedule_of
from deepprobe.training.provenance import describe_network, provenance
from deepprobe.training.session import N_PROBE_SAMPLES
from deepprobe.training.tracking import following

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd
    import torch
    from torch import nn

    from deepprobe.runs import Run
    from deepprobe.training.context import Callback
    from deepprobe.training.tracking import Tracker

_SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "eval": "validation", "test": "test",
}  # fmt: skip
_OF_SPLIT = re.compile(rf"({'|'.join(_SPLITS)})[_/.](.+)\Z")


class _Abandoned(Exception):  # noqa: N818 - tells callbacks that an update did not happen; leaves this file never
    """Training ended in the middle of an update."""


class Adapter:
    """A run and the callbacks that fill it, in a training that another library leads.

    A subclass tells it what happens: ``_begin``, then for every update ``_before_update``, ``_after_update`` and
    ``_advance``, with ``_log`` in between, then ``_end``.

    Args:
        callbacks: Callbacks of deepprobe, as ``train`` takes them; by default one ``ProbeCallback()``.
        batches: What to probe on, for callbacks that bring no batches of their own. By default the first 512 samples of
            the first validation loader, or else of the training loader, where its data set can be indexed.
        out: Folder of the run; by default it is kept in memory.
        name: Name of the run; ``out`` is then the folder in which it is made.
        about: Plain values to keep with the run and to tell it from others.
        trackers: Places outside the run that follow its records.
        iterations_per_epoch: Updates in an epoch; needed where the training loader has no length.
        seed: Of what callbacks draw at random; by default that of the other library, or else 0.

    Attributes:
        run: The run, as ``train`` returns it; RunError before training has begun.
    """

    led_by: str

    def __init__(
        self,
        callbacks: Sequence[Callback] | None = None,
        *,
        batches: Iterable[Any] | None = None,
        out: Path | str | None = None,
        name: str | None = None,
        about: Mapping[str, Any] | None = None,
        trackers: Sequence[Tracker] = (),
        iterations_per_epoch: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.callbacks: list[Any] = [ProbeCallback()] if callbacks is None else list(callbacks)
        self.out, self.name, self.about, self.trackers = out, name, dict(about or {}), list(trackers)
        self.batches = None if batches is None else list(batches)
        self.iterations_per_epoch, self.seed = iterations_per_epoch, seed
        self._run: Run | None = None
        self._training: ExitStack | None = None
        self._around: ExitStack | None = None
        self._update: ExitStack | None = None
        self._step = Step(0, 1)
        self._metrics: dict[str, dict[str, float]] = {}

    @property
    def run(self) -> Run:
        """As above."""
        if self._run is None:
            raise RunError("there is no run yet: it begins with the training that this callback is given to")
        return self._run

    def table(self) -> pd.DataFrame:
        """Everything recorded, a row a number, columns TIDY; RunError if there is no run or it is damaged."""
        return self.run.records()

    def _begin(
        self, model: nn.Module, *, step: int, n_iterations: float, device: torch.device, seed: int,
        loaders: Iterable[Any], continues: str | None = None,
    ) -> None:  # fmt: skip
        """Open the run at a step, enter what stands around the training, and look at the untrained network."""
        self._end("interrupted", "another training began")
        self._model, self._device, self._ranks = unwrapped(model), device, current_ranks()
        self._seed = seed if self.seed is None else self.seed
        n_iterations = self.iterations_per_epoch or n_iterations
        if not math.isfinite(n_iterations) or n_iterations < 1:
            raise ConfigError("the training loader has no length; say iterations_per_epoch, the updates in an epoch")
        with ExitStack() as stack:
            self._run = self._opened(step, stack, continues)
            self._step = Step(step, int(n_iterations))
            self._metrics, self._known = {}, self._logged_at_step()
            batches = first_batches(loaders) if self.batches is None else self.batches
            self._batches = tuple(moved(batch, device) for batch in batches)
            stack.enter_context(following(self._run, self.trackers if self._ranks.is_main else ()))
            around = stack.enter_context(ExitStack())
            for callback in self.callbacks:
                if hasattr(callback, "around_training"):
                    around.enter_context(callback.around_training(self._context(self._step)))
            if step == 0:
                self._call_back()
            self._around, self._training = around, stack.pop_all()

    def _before_update(self) -> None:
        """Enter what stands around the next update; nothing if that was done already."""
        if self._update is not None or self._training is None:
            return
        after = self._step.next()
        with ExitStack() as stack:
            for callback in self.callbacks:
                if hasattr(callback, "around_update") and schedule_of(callback).is_due(after):
                    stack.enter_context(callback.around_update(self._context(after)))
            self._update = stack.pop_all()

    def _after_update(self) -> None:
        """Leave what stands around the update; the weights are new, the gradients still there."""
        update, self._update = self._update, None
        if update is not None:
            update.close()

    def _advance(self) -> None:
        """Count the update, and call the callbacks that are due."""
        if self._training is not None:
            self._step = self._step.next()
            self._call_back()

    def _log(self, values: Mapping[str, Any]) -> None:
        """Append numbers by name, ``val_loss`` as ``loss`` of the split ``validation``; none twice at a step."""
        if self._training is None:
            return
        found: dict[str, dict[str, float]] = {}
        for name, value in values.items():
            split, measure = split_and_measure(name)
            known = self._step.index == self._known[0] and (split, measure) in self._known[1]
            if is_number(value) and not known:
                found.setdefault(split, {})[measure] = float(value)
        if found:
            self._metrics = {**self._metrics, **found}
            self.run.append(metric_rows(found, self._context(self._step).point))

    def _end(self, status: str, message: str = "", *, error: BaseException | None = None) -> None:
        """Leave everything that was entered; nothing if that was done already."""
        training, update = self._training, self._update
        self._training = self._update = None
        if training is None:
            return
        with training:
            try:
                _leave(update, error or _Abandoned())
                _leave(self._around, error)
            finally:
                self.run.set_status(status, message)

    def _call_back(self) -> None:
        """Call the callbacks that are due."""
        due = [c for c in self.callbacks if callable(c) and schedule_of(c).is_due(self._step)]
        if due:
            with self._buffers_of_main():
                for callback in due:
                    callback(self._context(self._step))

    @contextmanager
    def _buffers_of_main(self) -> Iterator[None]:
        """All ranks look at one network, though each has its own running statistics; put back afterwards."""
        buffers = [] if self._ranks.is_alone else list(self._model.buffers())
        kept = [buffer.clone() for buffer in buffers]
        self._ranks.copy_from_main(buffers)
        try:
            yield
        finally:
            for buffer, before in zip(buffers, kept, strict=True):
                buffer.copy_(before)

    def _context(self, step: Step) -> Context:
        """This moment, or the end of the update under way."""
        return Context(
            self._model, step, self.run, self._device, seed=self._seed, probe_batches=self._batches,
            metrics=dict(self._metrics), ranks=self._ranks,
        )  # fmt: skip

    def _opened(self, step: int, stack: ExitStack, continues: str | None) -> Run:
        """The run, as it was at that step; it must be the one that is continued, if that is known."""
        if self.out is None and isinstance(self._run, MemoryRun) and 0 < step == self._step.index:
            self._run.set_status("running")
            return self._run
        model = describe_network(self._model)
        config = {"model": model, "training": {"loop": self.led_by, "seed": self._seed}, **self.about}
        origin = provenance(self._model, seed=self._seed, device=self._device, ranks=self._ranks)
        if self.out is None or not self._ranks.is_main:
            return MemoryRun(self.name or f"{model['name']}-seed{self._seed}", config=config, provenance=origin)
        path = Path(self.out).resolve() if self.name is None else Path(self.out) / self.name
        run = create_run(path.parent, name=self.name or path.name, config=config, provenance=origin)
        stack.enter_context(run.writing())
        if step == 0 and run.status in FINAL:
            raise RunError(f"{run.path} is {run.status}; choose another folder, or resume that training")
        empty = run.records().empty
        if step and not empty and continues not in {None, run.name}:
            raise RunError(
                f"{run.path} is not the run {continues!r} that this checkpoint belongs to; choose its folder"
            )
        run.set_status("running")
        run.rewind(step or -1)
        if step and empty:
            warn(f"{run.path} begins at step {step}: it holds nothing of the training before", stacklevel=2)
        return run

    def _logged_at_step(self) -> tuple[int, set[tuple[str, str]]]:
        """Where training goes on, and what numbers the run has from there already."""
        step = self._step.index
        if not isinstance(self._run, FolderRun) or step == 0:
            return step, set()
        rows = self._run.metrics()
        rows = rows[rows["step"] == step]
        return step, set(zip(rows["split"], rows["measure"], strict=True))


def _leave(stack: ExitStack | None, error: BaseException | None) -> None:
    """Leave what was entered, as an error makes one leave it if there is one."""
    if stack is not None:
        stack.__exit__(None if error is None else type(error), error, None if error is None else error.__traceback__)


def first_batches(loaders: Iterable[Any], *, n_samples: int = N_PROBE_SAMPLES) -> list[Any]:
    """The first samples of the first loader whose data set can be indexed, in its batches; no random state changes.

    Args:
        loaders: DataLoaders, or anything else.
        n_samples: At most so many.

    Returns:
        Batches as the loader's ``collate_fn`` makes them; none if no loader fits.
    """
    for loader in loaders:
        dataset: Any = getattr(loader, "dataset", None)
        collate: Any = getattr(loader, "collate_fn", None)
        if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and collate is not None:
            n, size = min(n_samples, len(dataset)), _batch_size(loader)
            with preserved_random_states():
                return [collate([dataset[i] for i in range(at, min(at + size, n))]) for at in range(0, n, size)]
    return []


def _batch_size(loader: Any) -> int:
    """Samples in a batch of a loader, 32 where it does not say."""
    sizes = (getattr(one, "batch_size", None) for one in (loader, getattr(loader, "batch_sampler", None)))
    return next((size for size in sizes if isinstance(size, int)), 32)


def split_and_measure(name: str) -> tuple[str, str]:
    """Split and measure of a number that another library logs.

    Example:
        >>> split_and_measure("val_loss"), split_and_measure("train/acc"), split_and_measure("grad_norm")
        (('validation', 'loss'), ('train', 'acc'), ('train', 'grad_norm'))
    """
    match = _OF_SPLIT.match(name)
    return ("train", name) if match is None else (_SPLITS[match[1]], match[2])


def is_number(value: Any) -> bool:
    """Whether a logged value is one number: a Python or NumPy one, or a tensor of one element."""
    if hasattr(value, "numel"):
        return bool(value.numel() == 1)
    return isinstance(value, int | float) or (hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0)
