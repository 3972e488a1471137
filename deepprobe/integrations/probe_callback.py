"""Probe a network while it trains: spectra of every layer into the run's one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from deepprobe.errors import ConfigError, UnknownNameError
from deepprobe.integrations.batches import first, shared
from deepprobe.probes import spectra
from deepprobe.records.step import Schedule, parse_schedule
from deepprobe.runs.stored import keep_spectra
from deepprobe.seeding import preserved_random_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deepprobe.records.spectrum import Spectrum
    from deepprobe.training import Context

SAMPLES_AT_MOST = 128
"""The view ``samples`` holds a row a sample and all features, so it is given this many samples and no more."""


class ProbeCallback:
    """Callback for ``train``: takes ``deepprobe.spectra`` of the network and keeps them in the run.

    Records get a row a number with ``split="probe"``; singular values are stored under ``tap/view/layer``, those of
    the centred matrix under ``centred/tap/view/layer``. Training goes on as if it had not been probed, bit for bit.
    With several processes each probes its share of every batch, and rank 0 records what all found together.

    Args:
        every: When: "1ep", "500it", "at 0,1,2,5,10ep", "log 1it..10ep"; see ``parse_schedule``.
        batches: Samples to probe on, the same each time; by default the context's ``probe_batches``.
        layers: Which layers, as in ``deepprobe.spectra``.
        tap: Where representations are read, one a pass over the samples. In a network without blocks, where no layers
            are named, ``block`` becomes ``output``.
        view: How they become matrices, one a tap; or a single one for all.
        rows: Positions of each feature map that become rows in the view ``channels``, drawn at random; or "all". Four
            are enough for σ and κ (within 0.01 dex) and cost a fraction; units are counted over all in any case.
        replay: Samples that are replayed in float64 to measure the arithmetic's own error; 0 leaves it out.
        also_at_start: Also probe the untrained network, unless ``every`` names its points.

    Raises:
        ConfigError: If ``every`` is no schedule, or there are not as many views as taps.

    Example:
        >>> ProbeCallback(every="1ep").pairs
        (('block', 'samples'), ('input', 'channels'))
    """

    def __init__(
        self,
        every: str | Schedule = "1ep",
        *,
        batches: Iterable[Any] | None = None,
        layers: Any = None,
        tap: str | Sequence[str] = ("block", "input"),
        view: str | Sequence[str] = ("samples", "channels"),
        rows: int | Literal["all"] = 4,
        replay: int = 0,
        also_at_start: bool = True,
    ) -> None:
        self.schedule = parse_schedule(every, also_at_start=also_at_start) if isinstance(every, str) else every
        self.batches = None if batches is None else list(batches)
        self.layers, self.rows, self.replay = layers, rows, replay
        self.pairs = _paired(tap, view)

    def __call__(self, context: Context) -> None:
        """Probe the network as it stands."""
        batches = list(context.probe_batches) if self.batches is None else self.batches
        with preserved_random_states():
            for tap, view in self.pairs:
                found = self._spectra(context, batches, tap, view)
                if found:
                    context.record(pd.DataFrame([spectrum.row() for spectrum in found.values()]))
                    keep_spectra(context.run, context.step.index, found)

    def _spectra(self, context: Context, batches: list[Any], tap: str, view: str) -> dict[str, Spectrum]:
        """Spectra of one pair, taken by all ranks together."""
        chosen = list(first(batches, SAMPLES_AT_MOST)) if view == "samples" else batches
        try:
            return spectra(
                context.model,
                list(shared(chosen, context.ranks)),
                layers=self.layers,
                tap=tap,
                view=view,
                rows=self.rows,
                device=context.device,
                seed=context.seed,
                replay=self.replay,
                progress=False,
                ranks=context.ranks,
            )
        except UnknownNameError:
            if tap != "block" or self.layers is not None:
                raise
            return self._spectra(context, batches, "output", view)


def _paired(tap: str | Sequence[str], view: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs (tap, view), each once; ConfigError if there are not as many views as taps."""
    taps = (tap,) if isinstance(tap, str) else tuple(tap)
    views = (view,) if isinstance(view, str) else tuple(view)
    if len(views) == 1:
        views *= len(taps)
    if not taps or len(taps) != len(views):
        raise ConfigError(f"ProbeCallback(tap={tap!r}, view={view!r}): name one view for each tap, or one for all")
    return tuple(dict.fromkeys(zip(taps, views, strict=True)))
