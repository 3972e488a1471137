"""Layer collapse: layers of which pruning leaves nothing, or nearly nothing, so that the network is cut in two."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from deepprobe.pruning.prunable import layer_of

if TYPE_CHECKING:
    from deepprobe.pruning.masks import Masks

MOST_NAMED = 8


class LayerCollapseWarning(UserWarning):
    """Pruning has emptied a layer, or left it fewer weights than it has outputs; the message names the layers."""


def collapsed(masks: Masks) -> dict[str, int]:
    """Parameters with fewer weights left than they have rows, and how many are left of each.

    A row is an output, but for transposed convolutions, where it is an input.
    """
    return {name: n for name, n in masks.counts.items() if n < masks[name].shape[0]}


def warn_of_collapse(before: Masks, after: Masks, *, stacklevel: int = 1) -> None:
    """Warn once of the layers that collapsed from one mask to the next; not again of those that lost nothing more."""
    counts = before.counts
    found = {name: n for name, n in collapsed(after).items() if n < counts[name]}
    if not found:
        return
    parts = [f"{layer_of(name)} {n:,} of {after[name].numel():,}" for name, n in found.items()]
    shown = ", ".join(parts[:MOST_NAMED]) + (f" and {len(parts) - MOST_NAMED} more" if len(parts) > MOST_NAMED else "")
    n_empty = sum(n == 0 for n in found.values())
    warnings.warn(
        f"{len(found)} of {len(after)} layers have fewer weights left than outputs, {n_empty} of them none: {shown}; "
        "to spare them name them in protect=, or prune with allocation='layerwise'",
        LayerCollapseWarning,
        stacklevel=stacklevel + 1,
    )
