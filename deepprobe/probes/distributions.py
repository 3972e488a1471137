"""Distributions of activations and weights by depth, in fixed bins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from deepprobe.errors import ShapeError
from deepprobe.hooks.attach import attached
from deepprobe.hooks.kernels import kernels
from deepprobe.hooks.passes import as_batches, device_of, evaluating, moved, n_samples, run
from deepprobe.hooks.select import is_weighted, select_layers
from deepprobe.linalg.transfer import fetched
from deepprobe.measures.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch import Tensor, nn

    from deepprobe.hooks.select import LayerSelection
    from deepprobe.records.layer import LayerCall


def distributions(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: LayerSelection = None,
    tap: str = "input",
    device: torch.device | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Histograms of the activations that pass through a model's layers, and of their weights, by depth.

    As in figures 5 to 10 of Oyedotun et al. (2022), "Why Is Everyone Training Very Deep Neural Network With Skip
    Connections?", of every layer. The model runs as in ``deepprobe.spectra``, one forward pass a batch. Bins are fixed,
    quarters of an octave on both sides of zero (``measures/histogram.py``), so that tables of several batches, seeds
    or processes add up: ``pd.concat(tables).groupby([…, "low", "high"])["count"].sum()``.

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts.
        layers: Which layers, as in ``deepprobe.spectra``; of those that have kernels the weights too.
        tap: ``input`` (what weighted layers receive, after the non-linearity before), ``output`` or ``block``.
        device: Where to run; by default where the model is.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        One row a bin that holds something, ascending within its layer call: ``depth layer call type tap view dtype``
        (view ``values``; of weights tap ``weight`` and view ``kernel``), ``n_values`` and ``n_nonfinite`` of the whole
        layer call, ``low`` and ``high``, the bin's edges (both 0 for exact zeros), ``count`` and ``share`` (of
        ``n_values``). A layer call of which no value is finite has one row with NaN for edges and a count of 0.

    Raises:
        ConfigError: If ``tap`` is not one there is.
        UnknownNameError: If ``layers`` matches nothing.
        ShapeError: If there is no batch, or no chosen layer saw a real tensor.

    Example:
        >>> import torch
        >>> table = distributions(torch.nn.Linear(2, 1), torch.tensor([[0.0, 1.0], [-3.0, 1.1]]))
        >>> table.loc[table["tap"] == "input", ["low", "high", "count"]].values.tolist()
        [[-3.5, -3.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.25, 2.0]]
    """
    chosen = select_layers(model, layers, tap=tap)
    found: dict[str, tuple[LayerCall, str, str, Histogram]] = {}

    def count(call: LayerCall, tensor: Tensor, view: str = "values") -> None:
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.setdefault(f"{view}/{call.key}", (call, view, dtype, Histogram()))[3].update(tensor)

    with evaluating(model, device=device) as network, attached(network, chosen, tap=tap, on_tensor=count):
        for batch in tqdm(
            as_batches(batches), desc="distributions", unit="batch", delay=2, leave=False,
            disable=None if progress else True,
        ):  # fmt: skip
            if n_samples(batch):
                run(network, moved(batch, device_of(network)))
        if not found:
            raise ShapeError(
                f"none of the {len(chosen)} chosen layers saw a floating-point tensor at tap={tap!r}: there was no "
                "batch with samples, or the forward pass does not call them, or gives them integers"
            )
        if any(is_weighted(module) for module in chosen.values()):
            for kernel in kernels(network, list(chosen) if layers is not None else None):
                count(kernel.call, kernel.parameter, "kernel")
        copies = fetched([histogram.tensors() for *_, histogram in found.values()])
    parts = [
        _rows(call, view, dtype, counts)
        for (call, view, dtype, _), (counts,) in zip(found.values(), copies, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def _rows(call: LayerCall, view: str, dtype: str, counts: Tensor) -> pd.DataFrame:
    """The bins of one layer call or kernel."""
    bins, n_nonfinite = Histogram.bins(counts)
    n_values = int(counts.sum())
    columns: dict[str, Any] = {
        "depth": call.depth, "layer": call.layer, "call": call.call, "type": call.type, "tap": call.tap, "view": view,
        "dtype": dtype, "n_values": n_values, "n_nonfinite": n_nonfinite, "low": bins.low, "high": bins.high,
        "count": bins.count, "share": bins.count / max(n_values, 1),
    }  # fmt: skip
    if not len(bins.count):
        nothing = {"low": [float("nan")], "high": [float("nan")], "count": [0], "share": [0.0]}
        return pd.DataFrame(columns | nothing)
    return pd.DataFrame(columns)
