"""Representations as training itself computes them: on its batches, in training mode, in its precision."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from deepprobe.probes import Probe
from deepprobe.records.step import Schedule, parse_schedule
from deepprobe.runs.stored import keep_spectra
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepprobe.training import Context


class InFlightCallback:
    """Callback for ``train``: spectra of what passes through the network in single updates, without a pass of its own.

    Hooks are set before the model is compiled and cost one test each while no update is watched. Records have
    ``split="train"``, singular values the keys ``train/tap/view/layer``; each watched update stands for itself, as
    rows of different steps belong to different networks. With several processes the rows of all of them, and so of the
    whole batch, are taken together, and rank 0 records. Training goes on as if it were not watched, bit for bit.

    Args:
        every: Which updates: "1ep", "500it", "at 1,10,100it", "log 1it..10ep"; see ``parse_schedule``.
        layers: Which layers, as in ``deepprobe.spectra``.
        tap: Where representations are read.
        view: How they become matrices.
        rows: Positions of each feature map that become rows, drawn at random; or "all".

    Raises:
        ConfigError: If ``every`` is no schedule or ``view`` no view.

    Example:
        >>> InFlightCallback("log 1it..10ep").tap
        'input'
    """

    def __init__(
        self,
        every: str | Schedule = "1ep",
        *,
        layers: Any = None,
        tap: str = "input",
        view: str = "channels",
        rows: int | Literal["all"] = 4,
    ) -> None:
        self.schedule = parse_schedule(every) if isinstance(every, str) else every
        self.layers, self.tap, self.view, self.rows = layers, tap, view, rows
        self._probe: Probe | None = None

    @contextmanager
    def around_training(self, context: Context) -> Iterator[None]:
        """Set the hooks, and take them off whatever happens."""
        probe = Probe(
            context.model, layers=self.layers, tap=self.tap, view=self.view, rows=self.rows,
            compilable=context.config is not None and context.config.compile,
        )  # fmt: skip
        with probe:
            self._probe = probe
            try:
                yield
            finally:
                self._probe = None

    @contextmanager
    def around_update(self, context: Context) -> Iterator[None]:
        """Watch one update, and record what was seen."""
        if self._probe is None:
            yield
            return
        rank, step = context.ranks.rank, context.step.index
        self._probe.reset(seed=derive_seed(context.seed, "in flight", step, rank))  # the same after a resumption
        with self._probe.recording():
            yield
        found = self._probe.spectra(ranks=context.ranks)
        if found:
            context.record(pd.DataFrame([spectrum.row() for spectrum in found.values()]), split="train")
            keep_spectra(context.run, context.step.index, found, under="train/")
