"""How much each unit of a network matters to its answers: captum's layer attributions over a data set, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from deepprobe.attribution.baselines import Baseline, FromInputs, baseline_of
from deepprobe.attribution.methods import (
    COMPLETE_METHODS,
    PATH_METHODS,
    REPLACING_METHODS,
    Explainer,
    chosen_methods,
    column_of,
)
from deepprobe.attribution.moments import SampleMoments
from deepprobe.attribution.network import check_kept, explained_layers, explaining
from deepprobe.attribution.samples import Samples, Scores, Target, samples_of
from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.attach import attached
from deepprobe.hooks.passes import as_batches, device_of, moved, n_samples
from deepprobe.hooks.unit_weights import unit_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor, nn

    from deepprobe.attribution.network import Layer
    from deepprobe.hooks.select import LayerSelection
    from deepprobe.records.layer import LayerCall


def attributions(
    model: nn.Module,
    batches: Iterable[Any],
    method: str | Sequence[str] = "conductance",
    *,
    layers: LayerSelection = None,
    tap: str = "output",
    target: Target = None,
    baseline: Baseline = "zero",
    n_steps: int = 32,
    rows: int = 256,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Attribution of every unit of the chosen layers to the score of a class, by captum, over a data set.

    What is explained is the score (logit) of one class a sample. The attribution a of a unit to a sample's score is the
    sum over the unit's positions, so that the attributions of a layer add up. The model runs eagerly in ``eval()``,
    without autocast or TF32 and with in-place modules working out of place; all is restored, and no hook stays. Memory
    does not grow with the number of samples. ``docs/attribution.md`` says what each method costs.

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts; uneven and empty batches are fine.
        method: One or several of ``conductance``, ``integrated-gradients``, ``gradient-x-activation``,
            ``internal-influence``, ``feature-ablation`` (by zero), ``grad-cam``. All but integrated gradients and
            feature ablation take one pass for all layers together.
        layers: A glob over dotted names or several, a module class or several, or a predicate; by default every layer
            with weights, for the tap ``block`` every block, but for those that captum cannot explain, of which a
            warning tells (LSTM, multi-head attention).
        tap: ``output`` or ``block``.
        target: Whose score: None for the labels of the batches, ``"predicted"``, or a class for all samples.
        baseline: Where paths begin: ``"zero"``; ``"mean"``, the mean input of the batches, which are then read twice;
            ``"blur"``, each image blurred with a Gaussian of an eighth of its side; or a tensor, one input.
        n_steps: Points on the path; ``…_convergence_delta`` says whether they are enough.
        rows: Most samples, times points on the path, in one pass: sets memory, not results.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        One row a unit, layers in the order in which they run: ``unit`` from 0 (channel or feature), the columns of the
        layer with ``n_rows`` samples and ``n_features`` units, and, float64, for each method M with ``_`` for ``-``:

        - ``M``: mean of |a| over the samples; ``M_signed``: mean of a; both with standard error ``…_se`` over the
          samples;
        - ``M_convergence_delta`` (conductance and integrated gradients): mean over the samples of
          |Σ_units a − (f(x) − f(x′))|, the same for all units of a layer. Where part of the signal flows around a
          layer, as along a shortcut, that part is in it, so judge the steps by blocks or the last layer.

        Beside them ``output_difference`` (with a delta), the mean of |f(x) − f(x′)|, ``activation_variance`` over
        samples and positions, and ``weight_magnitude``, the L2 norm of the incoming weights (NaN but for fully
        connected and convolutional layers).

    Raises:
        ConfigError: If ``method``, ``tap``, ``target``, ``baseline``, ``n_steps`` or ``rows`` is not one there is, the
            batches have no labels, or captum cannot explain a layer that was named, any layer, or this input.
        UnknownNameError: If ``layers`` matches nothing.
        ShapeError: If there is no sample, or the model gives no score a sample.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2, bias=False)
        >>> table = attributions(model, torch.eye(3), target=0, n_steps=4)
        >>> table[["layer", "unit", "n_rows"]].values.tolist()
        [['', 0, 3], ['', 1, 3]]
    """
    methods = chosen_methods(method)
    _check_counts(n_steps=n_steps, rows=rows)
    moments: dict[tuple[str, str], _Found] = {}
    activations: dict[str, SampleMoments] = {}
    explained: list[Layer] = []
    with explaining(model, device=device, seed=seed) as network:
        begin = baseline_of(baseline, batches, model=network, device=device_of(network))
        bar = tqdm(desc="attributing", unit="layer", delay=2, leave=False, disable=None if progress else True)
        with bar:
            for batch in _nonempty(as_batches(batches)):
                given = moved(batch, device_of(network))
                if not explained:
                    explained = explained_layers(network, given, n=n_samples(given), layers=layers, tap=tap)
                    if set(methods) & set(REPLACING_METHODS):
                        check_kept(explained)
                scores = Scores(network, given)
                samples = _looked_at(network, given, scores, explained, target=target, into=activations)
                explainer = Explainer(network, scores, explained, n_steps, rows)
                if bar.total is None:
                    bar.total = _n_updates(explainer, methods, as_batches(batches), n_samples(given))
                for name in methods:
                    _explain(explainer, name, samples, begin, into=moments, bar=bar)
    if not explained:
        raise ShapeError("batches holds no samples: every batch was empty, or there was none")
    return pd.concat([_table(layer, methods, moments, activations) for layer in explained], ignore_index=True)


@dataclass(frozen=True, eq=False)
class _Found:
    """What was found of one layer by one method, over the samples so far."""

    absolute: SampleMoments = field(default_factory=SampleMoments)
    signed: SampleMoments = field(default_factory=SampleMoments)
    delta: SampleMoments = field(default_factory=SampleMoments)


def _explain(
    explainer: Explainer,
    method: str,
    samples: Samples,
    begin: FromInputs,
    *,
    into: dict[tuple[str, str], _Found],
    bar: Any,
) -> None:
    """Add the attributions of a batch's samples by one method."""
    if method in PATH_METHODS and not samples.inputs:
        raise ConfigError(
            f"method={method!r} needs inputs that are not integers; explain the model from its embeddings on, or take "
            "'gradient-x-activation'"
        )
    for part in samples.parts(explainer.samples_at_once(method)):
        baselines = begin(part.inputs) if method in PATH_METHODS else ()
        differences = part.scores - _scores_at(explainer, part, baselines) if method in COMPLETE_METHODS else None
        for layer, values in explainer.attributions(method, part, baselines):
            found = into.setdefault((method, layer.call.layer), _Found())
            found.absolute.update(values.abs())
            found.signed.update(values)
            if differences is not None:
                gap = (values.sum(dim=1) - differences).abs()
                found.delta.update(torch.stack([gap, differences.abs()], dim=1))
            bar.update()


def _n_updates(explainer: Explainer, methods: list[str], batches: Iterable[Any], first: int) -> int | None:
    """How often the bar moves; of batches that are not in a list as if all were as long as the first; None of a stream.

    Args:
        explainer: With the layers.
        methods: That are asked for.
        batches: All batches.
        first: Samples in the first that holds any.
    """
    if isinstance(batches, (list, tuple)):
        sizes = [n_samples(batch) for batch in batches]
    else:
        try:
            sizes = [first] * len(batches)  # type: ignore[arg-type]
        except TypeError:
            return None
    parts = sum(-(-n // explainer.samples_at_once(method)) for n in sizes for method in methods)
    return parts * len(explainer.layers)


def _scores_at(explainer: Explainer, samples: Samples, baselines: tuple[Tensor, ...]) -> Tensor:
    """The explained scores at the baselines, shape (n,), float64."""
    found = explainer.scores(*baselines, *samples.beside)
    picked = found if samples.target is None else found.gather(1, samples.target[:, None])[:, 0]
    return picked.double()


def _looked_at(
    network: nn.Module,
    batch: Any,
    scores: Scores,
    layers: list[Layer],
    *,
    target: Target,
    into: dict[str, SampleMoments],
) -> Samples:
    """The samples of a batch with what is explained of them, from a forward pass that also reads activations."""
    by_name = {layer.call.layer: layer for layer in layers}

    def look(call: LayerCall, tensor: Tensor) -> None:
        by_unit = by_name[call.layer].units_first(tensor)
        rows = by_unit.transpose(1, 2).flatten(0, 1)
        into.setdefault(call.layer, SampleMoments()).update(rows)

    modules = {name: layer.module for name, layer in by_name.items()}
    with attached(network, modules, tap="output", on_tensor=look):
        output = scores(*scores.tensors(batch))
    return samples_of(batch, scores, output, target=target)


def _table(
    layer: Layer,
    methods: list[str],
    moments: dict[tuple[str, str], _Found],
    activations: dict[str, SampleMoments],
) -> pd.DataFrame:
    """One row a unit of a layer."""
    name = layer.call.layer
    columns: dict[str, Any] = {"unit": np.arange(layer.n_units)}
    columns |= layer.columns(moments[methods[0], name].signed.n)
    for method in methods:
        found, column = moments[method, name], column_of(method)
        for key, values in ((column, found.absolute), (f"{column}_signed", found.signed)):
            columns |= {key: values.mean(), f"{key}_se": values.standard_error()}
        if method in COMPLETE_METHODS:
            gap, difference = found.delta.mean()
            columns |= {f"{column}_convergence_delta": gap, "output_difference": difference}
    weights = unit_weights(layer.module, "output")
    columns["activation_variance"] = activations[name].variance()
    columns["weight_magnitude"] = np.nan if weights is None else torch.linalg.vector_norm(weights, dim=1).numpy()
    return pd.DataFrame(columns)


def _nonempty(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches that hold samples."""
    return (batch for batch in batches if n_samples(batch))


def _check_counts(**counts: int) -> None:
    """Refuse what is not a number from 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value!r} is not a whole number from 1")
