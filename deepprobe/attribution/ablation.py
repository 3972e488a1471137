"""What a network loses with its units: rankings put to the test by taking units away.

Whether a ranking says what matters is seen by what removing its first units does, beside removing as many at random and
its last ones (Morcos et al. 2018 for units; Samek et al. 2017 for pixels, as area between curves).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from deepprobe.attribution.layers import ranking_columns
from deepprobe.attribution.methods import ablated
from deepprobe.attribution.moments import SampleMoments
from deepprobe.attribution.network import check_kept, explained_layers, explaining
from deepprobe.attribution.samples import Scores, true_classes
from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.attach import attached
from deepprobe.hooks.passes import as_batches, device_of, moved, n_samples
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from deepprobe.attribution.network import Layer
    from deepprobe.hooks.select import LayerSelection
    from deepprobe.records.layer import LayerCall

ORDERS = ("top", "random", "bottom")
FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
RANDOM = "random"


def ablation_curves(
    model: nn.Module,
    batches: Iterable[Any],
    units: pd.DataFrame,
    *,
    rankings: Sequence[str] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    order: Sequence[str] = ORDERS,
    layers: Sequence[str] | None = None,
    value: Literal["zero", "mean"] = "zero",
    repeats: int = 3,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Accuracy and loss of a network from which a growing share of the units of each layer was taken, by each ranking.

    Of every layer the same fraction goes at once, rounded to whole units (halves to even); a unit that is taken gives a
    constant at every position. Modes, random states and the model are as before afterwards, and no hook stays.

    Args:
        model: Any module that gives scores of classes; wrappers are looked through.
        batches: Iterable of (input, labels) pairs, or of dicts with ``labels``; kept on the device.
        units: One row a unit of the layers, as ``attributions`` gives it, better of other samples than these.
        rankings: Columns to rank by, larger first; by default those of ``attribution.layers.RANKINGS`` that are there.
            Units of the same value are ranked at random.
        fractions: Shares of each layer's units to take, between 0 and 1; 0 is always measured.
        order: Some of ``top`` (the largest first), ``bottom`` (the smallest first) and ``random``.
        layers: Names of layers of the table; by default all.
        value: What a unit gives that was taken: ``zero``, or its ``mean`` over these samples and its positions.
        repeats: Random orders to draw.
        device: Where to run; by default where the model is.
        seed: Of random orders and ties.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        One row a ranking, order, repeat and fraction: ``ranking order repeat fraction n_removed n_units n_samples
        accuracy loss``; the random order is a ranking of its own, ``random``. ``loss`` is the mean cross-entropy.

    Raises:
        ConfigError: If an option is not one there is, a ranking is not there or has no number for a unit, the
            batches have no labels, or the units are not of this network.
        ShapeError: If there is no sample, or the model gives no scores of classes.
    """
    _check(fractions, order, value, repeats)
    names = ranking_columns(units, rankings) if set(order) - {RANDOM} else []
    chosen = _chosen_units(units, layers, names)
    scores = {name: {layer: part[name].to_numpy("float64") for layer, part in chosen.items()} for name in names}
    with explaining(model, device=device, seed=seed) as network:
        held = _held(batches, device_of(network))
        removal = _removal(network, held, chosen, tap=str(units["tap"].iloc[0]), value=value)
        curves = list(_curves(scores, removal.layers, order=order, repeats=repeats, seed=seed))
        bar = tqdm(total=1 + len(curves) * len(fractions), desc="ablating", unit="pass", delay=2, leave=False,
                   disable=None if progress else True)  # fmt: skip
        rows = []
        with bar, removal.hooked():
            whole = _outcome(network, held)
            bar.update()
            for about, ranked in curves:
                rows.append(about | {"fraction": 0.0, "n_removed": 0} | whole)
                for fraction in sorted(set(fractions) - {0.0}):
                    n_removed = removal.remove(ranked, fraction)
                    rows.append(about | {"fraction": fraction, "n_removed": n_removed} | _outcome(network, held))
                    bar.update()
                removal.remove(ranked, 0.0)
    n_units = sum(len(part) for part in chosen.values())
    columns = ["ranking", "order", "repeat", "fraction", "n_removed", "n_units", "n_samples", "accuracy", "loss"]
    return pd.DataFrame(rows).assign(n_units=n_units)[columns]


def ablation_areas(curves: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """Which ranking predicts damage best: the area between taking its last units and taking its first.

    Areas are means of the measure over the fractions from 0 to the largest, by the trapezoidal rule, in its unit.

    Args:
        curves: As ``ablation_curves`` gives them, with ``top`` and ``bottom``.
        measure: ``accuracy``, or ``loss``, which grows with damage.

    Returns:
        One row a ranking, best first: ``ranking``, ``separation`` (between bottom and top; positive where the first
        units matter more), ``top``, ``bottom`` and ``random``, the areas themselves.

    Raises:
        ConfigError: If the curves hold no ranking with both orders, or the measure is neither.
    """
    if measure not in {"accuracy", "loss"}:
        raise ConfigError(f"measure={measure!r} is neither 'accuracy' nor 'loss'")
    means = curves.groupby(["ranking", "order", "fraction"])[measure].mean()
    areas: dict[Any, float] = {key: _area(part.droplevel([0, 1])) for key, part in means.groupby(level=[0, 1])}
    sign = 1.0 if measure == "accuracy" else -1.0
    rows = [
        {
            "ranking": name,
            "separation": sign * (areas[name, "bottom"] - areas[name, "top"]),
            "top": areas[name, "top"],
            "bottom": areas[name, "bottom"],
            "random": areas.get((RANDOM, RANDOM), np.nan),
        }
        for name in dict.fromkeys(curves["ranking"])
        if {(name, "top"), (name, "bottom")} <= areas.keys()
    ]
    if not rows:
        raise ConfigError("these curves hold no ranking with both orders, 'top' and 'bottom'")
    return pd.DataFrame(rows).sort_values("separation", ascending=False, kind="stable", ignore_index=True)


def unit_damage(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: LayerSelection = None,
    tap: str = "output",
    rows: int = 1024,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """By how much the loss grows where one unit alone is set to zero, of every unit; by captum's feature ablation.

    Costs a forward pass of all samples for every unit. With it ``agreement`` says which ranking predicts damage.

    Args:
        model: Any module that gives scores of classes; wrappers are looked through.
        batches: Iterable of (input, labels) pairs, or of dicts with ``labels``.
        layers: Which layers, as in ``attributions``: by default those with weights that captum can explain.
        tap: ``output`` or ``block``.
        rows: Most samples, times units, of one pass.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        One row a unit: ``unit``, the layer's columns, ``damage``, the mean growth of the cross-entropy over the
        samples, and its standard error ``damage_se``.

    Raises:
        ConfigError: If ``tap`` is not one there is, the batches have no labels, or captum cannot explain a layer.
        UnknownNameError: If ``layers`` matches nothing.
        ShapeError: If there is no sample, or the model gives no scores of classes.
    """
    found: dict[str, SampleMoments] = {}
    explained: list[Layer] = []
    with explaining(model, device=device, seed=seed) as network:
        held = _held(batches, device_of(network))
        explained = explained_layers(network, held[0][0], n=len(held[0][1]), layers=layers, tap=tap)
        check_kept(explained)
        bar = tqdm(total=len(held) * len(explained), desc="ablating", unit="layer", delay=2, leave=False,
                   disable=None if progress else True)  # fmt: skip
        with bar:
            for batch, labels in held:
                scores = Scores(network, batch)
                for layer in explained:
                    falls = ablated(_minus_losses(scores), layer, (*scores.tensors(batch), labels), rows=rows)
                    found.setdefault(layer.call.layer, SampleMoments()).update(falls)
                    bar.update()
    tables = []
    for layer in explained:
        moments = found[layer.call.layer]
        columns = {"unit": np.arange(layer.n_units), **layer.columns(moments.n)}
        tables.append(pd.DataFrame(columns | {"damage": moments.mean(), "damage_se": moments.standard_error()}))
    return pd.concat(tables, ignore_index=True)


def _minus_losses(scores: Scores) -> Any:
    """From tensors, the last of them the labels, to minus the cross-entropy of each sample."""

    def number(*tensors: Tensor) -> Tensor:
        *given, labels = tensors
        return -F.cross_entropy(_classes(scores(*given)), labels, reduction="none")

    return number


@dataclass(frozen=True, eq=False)
class _Removal:
    """Units that are taken from a network while its hooks are set.

    Attributes:
        layers: The layers by name.
        fill: What units give that are taken, by layer, shape (units,).
        kept: What is multiplied into units now, by layer, shape (units,); none where all are kept.
    """

    layers: dict[str, Layer]
    fill: dict[str, Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict)

    def remove(self, ranked: dict[str, NDArray[np.intp]], fraction: float) -> int:
        """Take the first units of each layer in the order given, and only these; how many."""
        self.kept.clear()
        counts = {name: round(fraction * layer.n_units) for name, layer in self.layers.items()}
        for name, count in counts.items():
            if count:
                kept = torch.ones_like(self.fill[name])
                kept[torch.from_numpy(ranked[name][:count].copy()).to(kept.device)] = 0
                self.kept[name] = kept
        return sum(counts.values())

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Take the units while this lasts."""
        handles: list[Any] = []
        try:
            for name, layer in self.layers.items():
                handles.append(layer.module.register_forward_hook(self._hook(name, layer)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, layer: Layer) -> Any:
        """What puts constants in the place of a layer's units."""

        def hook(module: nn.Module, given: object, output: Tensor) -> Tensor:
            if name not in self.kept:
                return output
            shape = [-1 if axis == layer.axis else 1 for axis in range(output.ndim)]
            kept = self.kept[name].reshape(shape)
            return torch.where(kept.bool(), output, self.fill[name].reshape(shape))

        return hook


def _removal(
    network: nn.Module, held: list[tuple[Any, Tensor]], chosen: dict[str, pd.DataFrame], *, tap: str, value: str
) -> _Removal:
    """The layers of a table in a network, and what their units give once taken."""
    batch, labels = held[0]
    missing = sorted(set(chosen) - {name for name, _ in network.named_modules()})
    if missing:
        raise ConfigError(f"the table has units of layer {missing[0]!r}; this network has no such module")
    found = explained_layers(network, batch, n=len(labels), layers=lambda name, _: name in chosen, tap=tap)
    layers = {layer.call.layer: layer for layer in found}
    for name, part in chosen.items():
        n_units = layers[name].n_units if name in layers else 0
        if sorted(part["unit"]) != list(range(n_units)):
            raise ConfigError(f"the table has {len(part)} units of layer {name!r}; in this network there are {n_units}")
    device = labels.device
    fill = {name: torch.zeros(layer.n_units, dtype=layer.dtype, device=device) for name, layer in layers.items()}
    if value == "mean":
        for name, mean in _means(network, held, layers).items():
            fill[name] = torch.from_numpy(mean).to(device=device, dtype=layers[name].dtype)
    return _Removal(layers, fill)


def _means(
    network: nn.Module, held: list[tuple[Any, Tensor]], layers: dict[str, Layer]
) -> dict[str, NDArray[np.float64]]:
    """Mean of each unit over samples and positions."""
    moments = {name: SampleMoments() for name in layers}

    def look(call: LayerCall, tensor: Tensor) -> None:
        moments[call.layer].update(layers[call.layer].units_first(tensor).transpose(1, 2).flatten(0, 1))

    with attached(network, {name: layer.module for name, layer in layers.items()}, tap="output", on_tensor=look):
        for batch, _ in held:
            scores = Scores(network, batch)
            scores(*scores.tensors(batch))
    return {name: found.mean() for name, found in moments.items()}


def _curves(
    scores: dict[str, dict[str, NDArray[np.float64]]],
    layers: dict[str, Layer],
    *,
    order: Sequence[str],
    repeats: int,
    seed: int,
) -> Iterator[tuple[dict[str, Any], dict[str, NDArray[np.intp]]]]:
    """Each curve's columns, and of each layer its units in the order in which they go."""
    shuffled = [
        {name: _permutation(layer.n_units, seed, name, repeat) for name, layer in layers.items()}
        for repeat in range(repeats)
    ]
    for way in order:
        if way == RANDOM:
            for repeat, ranked in enumerate(shuffled):
                yield {"ranking": RANDOM, "order": RANDOM, "repeat": repeat}, ranked
            continue
        sign = -1 if way == "top" else 1
        for name, by_layer in scores.items():
            ranked = {k: s[np.argsort(sign * by_layer[k][s], kind="stable")] for k, s in shuffled[0].items()}
            yield {"ranking": name, "order": way, "repeat": 0}, ranked


def _permutation(n: int, seed: int, *purpose: object) -> NDArray[np.intp]:
    """A random order of n units."""
    return np.random.default_rng(derive_seed(seed, "ablation", *purpose)).permutation(n)


def _outcome(network: nn.Module, held: list[tuple[Any, Tensor]]) -> dict[str, float]:
    """Accuracy and mean cross-entropy over all samples."""
    right, loss, n = [], [], 0
    for batch, labels in held:
        scores = Scores(network, batch)
        found = _classes(scores(*scores.tensors(batch)))
        right.append((found.argmax(dim=1) == labels).sum())
        loss.append(F.cross_entropy(found, labels, reduction="sum"))
        n += len(labels)
    return {"n_samples": n, "accuracy": int(sum(right)) / n, "loss": float(sum(loss)) / n}


def _classes(scores: Tensor) -> Tensor:
    """Scores of classes in float64; ShapeError if there is one number a sample."""
    if scores.ndim != 2:
        raise ShapeError(f"the model gives shape {tuple(scores.shape)}; ablation is judged by scores (n, classes)")
    return scores.double()


def _held(batches: Iterable[Any], device: torch.device) -> list[tuple[Any, Tensor]]:
    """Batches that hold samples with their labels, on the device; ShapeError if there is none."""
    found = [moved(batch, device) for batch in as_batches(batches) if n_samples(batch)]
    if not found:
        raise ShapeError("batches holds no samples: every batch was empty, or there was none")
    return [(batch, true_classes(batch, n_samples(batch))) for batch in found]


def _chosen_units(units: pd.DataFrame, layers: Sequence[str] | None, rankings: list[str]) -> dict[str, pd.DataFrame]:
    """Rows of each layer that is asked for, by unit."""
    known = list(dict.fromkeys(units["layer"]))
    wanted = known if layers is None else [layers] if isinstance(layers, str) else list(layers)
    if not wanted or set(wanted) - set(known):
        raise ConfigError(f"layers={layers!r} are not all in this table of units; it has {', '.join(known[:6])}")
    parts = {name: units[units["layer"] == name].sort_values("unit") for name in wanted}
    for name, part in parts.items():
        for ranking in rankings:
            if part[ranking].isna().any():
                raise ConfigError(f"{ranking!r} has no number for some units of layer {name!r}; name other rankings=…")
    return parts


def _check(fractions: Sequence[float], order: Sequence[str], value: str, repeats: int) -> None:
    """Refuse settings that are none."""
    if not fractions or not all(0 <= f <= 1 for f in fractions):
        raise ConfigError(f"fractions={fractions!r}: expected numbers between 0 and 1")
    if isinstance(order, str) or not order or set(order) - set(ORDERS):
        raise ConfigError(f"order={order!r}: expected some of {', '.join(ORDERS)}")
    if value not in {"zero", "mean"}:
        raise ConfigError(f"value={value!r} is neither 'zero' nor 'mean'")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"repeats={repeats!r} is not a whole number from 1")


def _area(values: pd.Series) -> float:
    """Mean of a curve over its fractions, by the trapezoidal rule."""
    values = values.sort_index()
    x, y = values.index.to_numpy("float64"), values.to_numpy("float64")
    return float(np.trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float(y[0])
