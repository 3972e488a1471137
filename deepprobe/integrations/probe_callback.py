"""Probe a network while it trains: spectra of every layer into the run's one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from deepprobe.errors import ConfigError, UnknownNameError
from deepprobe.probes import spectra
from deepprobe.records.frame import TIDY, tidy
from deepprobe.records.step import every as every_length
from deepprobe.seeding import preserved_random_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from deepprobe.records.spectrum import Spectrum
    from deepprobe.training import Context

SAMPLES_AT_MOST = 128
"""The view ``samples`` holds a row a sample and all features, so it is given this many samples and no more."""


class ProbeCallback:
    """Callback for ``train``: takes ``deepprobe.spectra`` of the network and keeps them in the run.

    Records get a row a number with ``split="probe"``; singular values are stored under ``tap/view/layer``, those of
    the centred matrix under ``centred/tap/view/layer``. Training goes on as if it had not been probed, bit for bit.

    Args:
        every: Length of training between probes, "1ep" or "500it". For chosen points: ``at("0it,5it,1ep")(callback)``.
        batches: Samples to probe on, the same each time; by default the context's ``probe_batches``.
        layers: Which layers, as in ``deepprobe.spectra``.
        tap: Where representations are read, one a pass over the samples. In a network without blocks, where no layers
            are named, ``block`` becomes ``output``.
        view: How they become matrices, one a tap; or a single one for all.
        rows: Positions of each feature map that become rows in the view ``channels``, drawn at random; or "all".
        replay: Samples that are replayed in float64 to measure the arithmetic's own error; 0 leaves it out.
        also_at_start: Also probe the untrained network.

    Raises:
        ConfigError: If ``every`` is no length of training, or there are not as many views as taps.

    Example:
        >>> ProbeCallback(every="1ep").pairs
        (('block', 'samples'), ('input', 'channels'))
    """

    def __init__(
        self,
        every: str = "1ep",
        *,
        batches: Iterable[Any] | None = None,
        layers: Any = None,
        tap: str | Sequence[str] = ("block", "input"),
        view: str | Sequence[str] = ("samples", "channels"),
        rows: int | Literal["all"] = "all",
        replay: int = 0,
        also_at_start: bool = True,
    ) -> None:
        self.schedule = every_length(every, also_at_start=also_at_start).schedule
        self.batches = None if batches is None else list(batches)
        self.layers, self.rows, self.replay = layers, rows, replay
        self.pairs = _paired(tap, view)

    def __call__(self, context: Context) -> None:
        """Probe the network as it stands."""
        batches = list(context.probe_batches) if self.batches is None else self.batches
        rows: list[dict[str, Any]] = []
        stored: dict[str, NDArray[np.float64]] = {}
        with preserved_random_states():
            for tap, view in self.pairs:
                found = self._spectra(context, batches, tap, view)
                for key, spectrum in found.items():
                    row = spectrum.row()
                    rows.append(row)
                    stored |= _stored(f"{row['tap']}/{view}/{key}", spectrum)
        if rows:
            table = tidy(pd.DataFrame(rows), **context.point, split="probe")
            context.run.append(table.reindex(columns=list(TIDY)))
            context.run.save_spectra(context.step.index, stored)

    def _spectra(self, context: Context, batches: list[Any], tap: str, view: str) -> dict[str, Spectrum]:
        """Spectra of one pair."""
        try:
            return spectra(
                context.model,
                list(_first(batches, SAMPLES_AT_MOST)) if view == "samples" else batches,
                layers=self.layers,
                tap=tap,
                view=view,
                rows=self.rows,
                device=context.device,
                seed=context.seed,
                replay=self.replay,
                progress=False,
            )
        except UnknownNameError:
            if tap != "block" or self.layers is not None:
                raise
            return self._spectra(context, batches, "output", view)


def _stored(key: str, spectrum: Spectrum) -> dict[str, NDArray[np.float64]]:
    """Singular values, raw and centred, under the keys by which a run keeps them."""
    stored = {key: spectrum.singular_values}
    if spectrum.centred is not None:
        stored[f"centred/{key}"] = spectrum.centred.singular_values
    return stored


def _paired(tap: str | Sequence[str], view: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs (tap, view), each once; ConfigError if there are not as many views as taps."""
    taps = (tap,) if isinstance(tap, str) else tuple(tap)
    views = (view,) if isinstance(view, str) else tuple(view)
    if len(views) == 1:
        views *= len(taps)
    if not taps or len(taps) != len(views):
        raise ConfigError(f"ProbeCallback(tap={tap!r}, view={view!r}): name one view for each tap, or one for all")
    return tuple(dict.fromkeys(zip(taps, views, strict=True)))


def _first(batches: Iterable[Any], n_samples: int) -> Iterator[Any]:
    """Batches cut after so many samples."""
    for batch in batches:
        if n_samples <= 0:
            return
        yield _cut(batch, n_samples)
        n_samples -= _length(batch)


def _cut(batch: Any, n: int) -> Any:
    """The first n samples of a tensor, a pair or a dict of tensors."""
    if isinstance(batch, dict):
        return {key: _cut(value, n) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_cut(value, n) for value in batch)
    return batch[:n] if hasattr(batch, "shape") and len(batch.shape) else batch


def _length(batch: Any) -> int:
    """Number of samples in a batch."""
    if isinstance(batch, dict):
        return _length(next(iter(batch.values())))
    if isinstance(batch, tuple | list):
        return _length(batch[0])
    return len(batch)
