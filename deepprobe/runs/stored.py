"""Singular values beside the table, under the keys by which reports find them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from deepprobe.records.spectrum import Spectrum
    from deepprobe.runs.run import Run


def keep_spectra(run: Run, step: int, found: Mapping[str, Spectrum], *, under: str = "") -> None:
    """Store the singular values of a step, beside those that other callbacks stored at it.

    Args:
        run: Where to.
        step: The step.
        found: From layer call to spectrum; kept as ``tap/view/layer`` and, centred, ``centred/tap/view/layer``.
        under: What comes before that: ``train/`` for what was seen in flight.

    Raises:
        RunError: If they cannot be written.
    """
    if not found:
        return
    before = run.spectra(step) if step in run.steps_probed() else {}
    run.save_spectra(step, before | _values(found, under))


def _values(found: Mapping[str, Spectrum], under: str) -> dict[str, NDArray[np.float64]]:
    """Singular values, raw and centred, by key."""
    stored = {}
    for key, spectrum in found.items():
        place = f"{spectrum.call.tap if spectrum.call else ''}/{spectrum.view}/{key}"
        stored[under + place] = spectrum.singular_values
        if spectrum.centred is not None:
            stored[f"{under}centred/{place}"] = spectrum.centred.singular_values
    return stored
