"""One row a unit: what it does over a data set, what it is tuned to, and whether it is dead, rare, flat or a copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.attach import attached
from deepprobe.hooks.labels import labels_of
from deepprobe.hooks.passes import as_batches, device_of, evaluating, moved, n_samples, run
from deepprobe.hooks.select import select_layers
from deepprobe.hooks.unit_weights import unit_weights
from deepprobe.linalg.matricize import blocks, check_view
from deepprobe.linalg.precision import wide_dtype
from deepprobe.linalg.transfer import fetched
from deepprobe.measures.tuning import SATURATED_SHARE, class_selectivity, class_variance_share, lifetime_sparseness
from deepprobe.measures.unit_moments import UnitMoments, UnitNumbers
from deepprobe.measures.units import RARE
from deepprobe.probes.saturation import LastBounded, flat_part, last_bounded

if TYPE_CHECKING:
    from deepprobe.hooks.select import LayerSelection
    from deepprobe.records.layer import LayerCall

UNIT_VIEWS = ("channels", "pooled", "tokens", "samples")
"""Views with a column a unit."""

PROFILE_MEASURES = (
    "activation_mean", "activation_std", "activation_min", "activation_max", "firing_rate", "saturated_share",
    "lifetime_sparseness", "class_selectivity", "preferred_class", "class_variance_share", "duplicate_of",
    "dead", "constant", "rare", "saturated", "duplicate", "nonfinite",
    "unit_weight_mean", "unit_weight_std", "unit_weight_norm",
)  # fmt: skip
"""What is said of each unit."""


def unit_profiles(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: LayerSelection = None,
    tap: str = "input",
    view: str = "channels",
    device: torch.device | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """What every unit of a model does on given batches: one row a unit of each layer call, in depth order.

    The model runs as in ``deepprobe.spectra``, one forward pass a batch. A unit is a channel of a map, over all its
    positions, or a feature. Memory does not grow with the batches; equal units are known by a fingerprint of 64 bits
    (differing ones are taken for equal with a probability below 2⁻³² a pair).

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts. Integer targets, one a sample (in a dict
            ``labels``, ``label``, ``targets``, ``target`` or ``y``), give the columns of class selectivity.
        layers: Which layers, as in ``deepprobe.spectra``.
        tap: ``input`` (what weighted layers receive, after the non-linearity before), ``output`` or ``block``.
        view: ``channels``, ``tokens`` (units last), ``pooled`` (means over positions) or ``samples`` (a unit is one
            channel at one position).
        device: Where to run; by default where the model is.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        DataFrame with ``depth layer call type tap view dtype n_rows n_features sketched``, ``unit`` (from 0), and

        - ``activation_mean`` with ``activation_mean_se``, ``activation_std`` (over rows), ``activation_min``,
          ``activation_max``;
        - ``firing_rate``, the share of rows in which it is not zero, with ``firing_rate_se``;
        - ``saturated_share``, of rows in the flat part of its non-linearity (``probes/saturation.py``); NaN where the
          tensor is not the output of a bounded one that is a module;
        - ``lifetime_sparseness``, ``class_selectivity``, ``preferred_class`` (the label), ``class_variance_share``
          (``measures/tuning.py``; the last is NaN where some batches have labels and others not);
        - ``duplicate_of``, the first unit before it that is the same in every row, NaN for none;
        - ``dead`` (zero in every row), ``constant`` (one value in every row, dead units included), ``rare`` (live, not
          zero in fewer than 50 rows; none where there are fewer rows), ``saturated`` (in the flat part in at least 95 %
          of rows), ``duplicate``,
          ``nonfinite`` (NaN or infinite somewhere: samples in which it is are left out of its numbers), true or false;
        - ``unit_weight_mean``, ``unit_weight_std``, ``unit_weight_norm``, of the weights that read it (tap ``input``)
          or make it (``output``); NaN where they are not those of a linear layer or convolution.

        Standard errors are over samples, whose positions are not independent.

    Raises:
        ConfigError: If ``tap`` or ``view`` is not one there is, or the view has no units.
        UnknownNameError: If ``layers`` matches nothing.
        ShapeError: If there is no batch, a tensor does not fit the view, or no chosen layer saw a real tensor.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> _ = torch.nn.init.constant_(model[0].bias, -1e3)
        >>> unit_profiles(model, torch.randn(64, 3), layers="2")[["layer", "unit", "dead"]].values.tolist()
        [['2', 0, True], ['2', 1, True]]
    """
    if check_view(view) not in UNIT_VIEWS:
        raise ConfigError(f"view={view!r} has no units: choose one of {', '.join(UNIT_VIEWS)}")
    chosen = select_layers(model, layers, tap=tap)
    labels = Labels()
    with evaluating(model, device=device) as network, last_bounded(network) as bounded:
        cells = _Cells(chosen, tap, view, bounded)
        bar = tqdm(desc="units", unit="batch", delay=2, leave=False, disable=None if progress else True)
        with bar, attached(network, chosen, tap=tap, on_tensor=cells.take):
            for batch in as_batches(batches):
                if n_samples(batch):
                    here = device_of(network)
                    cells.classes = labels.one_hot(batch, here)
                    run(network, moved(batch, here))
                    bounded.forget()
                    bar.update()
    return cells.table(chosen, labels)


class Labels:
    """The classes of samples, numbered as they come; None once a batch has no labels."""

    def __init__(self) -> None:
        self.known: dict[int, int] = {}

    def one_hot(self, batch: Any, device: torch.device) -> Tensor | None:
        """Zeros and ones, shape (samples, classes so far), float64 (float32 where there is none) on the device."""
        labels = labels_of(batch)
        if labels is None:
            return None
        values = labels.tolist()
        places = [self.known.setdefault(value, len(self.known)) for value in values]
        dtype = wide_dtype(device)
        return torch.eye(len(self.known), dtype=dtype)[places].to(device)


class _Cells:
    """The moments of each layer call."""

    def __init__(self, chosen: Mapping[str, nn.Module], tap: str, view: str, bounded: LastBounded) -> None:
        self.classes: Tensor | None = None
        self._chosen, self._tap, self._view, self._bounded = chosen, tap, view, bounded
        self._found: dict[str, tuple[LayerCall, UnitMoments, str]] = {}
        self._of_positions: set[str] = set()

    def take(self, call: LayerCall, tensor: Tensor) -> None:
        """Take what one hook saw."""
        rows = blocks(tensor.detach(), self._view)
        if call.key not in self._found:
            flat = flat_part(self._chosen.get(call.layer)) if self._tap == "output" else None
            moments = UnitMoments(rows.shape[1], flat=flat or self._bounded.flat_part_of(tensor))
            self._found[call.key] = (call, moments, str(tensor.dtype).removeprefix("torch."))
            if not _own_units(self._chosen.get(call.layer), self._view, tensor.ndim):
                self._of_positions.add(call.key)
        moments = self._found[call.key][1]
        if rows.shape[1] != moments.n_features:
            raise ShapeError(
                f"layer {call.key!r} had {moments.n_features} units and now has {rows.shape[1]} at tap={self._tap!r}, "
                f"view={self._view!r}: batches must agree in what becomes units"
            )
        fitting = self.classes is not None and len(self.classes) == len(rows)
        moments.update(rows, self.classes if fitting else None)

    def table(self, chosen: Mapping[str, nn.Module], labels: Labels) -> pd.DataFrame:
        """One row a unit; fetches everything from the device, once."""
        seen = [cell for cell in self._found.values() if cell[1].n_rows]
        if not seen:
            raise ShapeError(
                f"none of the {len(chosen)} chosen layers saw a row at tap={self._tap!r}: every batch was empty, the "
                "forward pass does not call them, or gives them integers"
            )
        copies = fetched([moments.tensors() for _, moments, _ in seen])
        parts = [
            _rows(call, moments.numbers(copy), dtype, self._view, labels).assign(
                **_weights(None if call.key in self._of_positions else chosen.get(call.layer), call, moments)
            )
            for (call, moments, dtype), copy in zip(seen, copies, strict=True)
        ]
        return pd.concat(parts, ignore_index=True)


def _rows(call: LayerCall, found: UnitNumbers, dtype: str, view: str, labels: Labels) -> pd.DataFrame:
    """The rows of one layer call, without weights."""
    d = len(found.mean)
    selectivity, preferred = class_selectivity(found.class_means)
    names = np.array([*labels.known, np.nan])
    duplicate = found.duplicate_of >= 0
    met = found.samples > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        saturated = np.where(found.saturated < 0, np.nan, found.saturated / found.rows)
        columns: dict[str, Any] = {
            "depth": call.depth, "layer": call.layer, "call": call.call, "type": call.type, "tap": call.tap,
            "view": view, "dtype": dtype, "n_rows": found.n_rows, "n_features": d, "sketched": False,
            "unit": np.arange(d),
            "activation_mean": found.mean, "activation_mean_se": found.mean_se,
            "activation_std": np.sqrt(found.variance), "activation_min": found.least, "activation_max": found.greatest,
            "firing_rate": found.fired / found.rows, "firing_rate_se": found.firing_se, "saturated_share": saturated,
            "lifetime_sparseness": lifetime_sparseness(found.mean, found.variance, found.rows, found.least),
            "class_selectivity": selectivity,
            "preferred_class": names[np.where(np.isnan(preferred), -1, preferred).astype(int)],
            "class_variance_share": np.where(
                found.class_rows.sum(0) == found.rows,
                class_variance_share(found.class_means, found.class_rows, found.variance),
                np.nan,
            ),
            "duplicate_of": np.where(duplicate, found.duplicate_of, np.nan),
            "dead": met & (found.fired == 0), "constant": met & (found.least == found.greatest),
            "rare": (found.fired > 0) & (found.fired < RARE) & (found.n_rows >= RARE),
            "saturated": saturated >= SATURATED_SHARE,
            "duplicate": duplicate, "nonfinite": found.samples < found.n_samples,
        }  # fmt: skip
    return pd.DataFrame(columns)


def _own_units(module: nn.Module | None, view: str, axes: int) -> bool:
    """Whether the view's units are a layer's own features or channels, not the positions of its tensor."""
    if isinstance(module, nn.Linear):
        return axes == 2 or view == "tokens"
    return isinstance(module, nn.modules.conv._ConvNd) and axes == 2 + len(module.kernel_size) and view != "tokens"


def _weights(module: nn.Module | None, call: LayerCall, moments: UnitMoments) -> dict[str, Any]:
    """Mean, spread and norm of each unit's weights."""
    weights = unit_weights(module, call.tap)
    if weights is None or len(weights) != moments.n_features:
        nothing = np.full(moments.n_features, np.nan)
        return {"unit_weight_mean": nothing, "unit_weight_std": nothing, "unit_weight_norm": nothing}
    return {
        "unit_weight_mean": weights.mean(1).numpy(),
        "unit_weight_std": weights.std(1, correction=0).numpy(),
        "unit_weight_norm": torch.linalg.vector_norm(weights, dim=1).numpy(),
    }
