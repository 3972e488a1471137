"""Jacobians by depth: from each layer's output to the network's, from the input to it, and from layer to layer.

For the tensor h_l that layer l gives for one sample, with f the network's outputs and x its input:

    to output    ‖∂f/∂h_l‖_F       the gradient of any loss at h_l is this matrix times ∂loss/∂f
    from input   ‖∂h_l/∂x‖_F       what becomes of a small change of the input
    segment      σ_max(∂h_l/∂h_m)  h_m given by the layer listed before, or x before the first

‖J‖_F² = E‖Jᵀu‖² = E‖J v‖² for vectors of independent signs (Hutchinson 1990). Where the network has no more outputs
than vectors are asked for, unit vectors give ‖∂f/∂h_l‖_F exactly. σ_max is Golub & Kahan's, hence from below, and
its residual is given. What passes a segment by, as a shortcut that begins before h_m, is no part of its derivative.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from deepprobe.errors import ConfigError, ShapeError, UnknownNameError
from deepprobe.hooks.select import on_shortcut, select_layers, unwrapped
from deepprobe.linalg.golub_kahan import golub_kahan
from deepprobe.linalg.precision import wide_dtype
from deepprobe.probes.jacobians.graph import (
    VIEWS,
    Graph,
    Mode,
    Output,
    Place,
    Point,
    Pushforward,
    check_adjoint,
    differentiable,
    graphs,
    pullback,
)
from deepprobe.probes.jacobians.vectors import signs, unit_vector
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from deepprobe.hooks.select import LayerSelection

MEASURES = ("jacobian_to_output", "jacobian_from_input", "segment_sigma_max")
"""What is measured of a layer's output; medians over samples."""

RESIDUAL = "segment_residual"


def layer_jacobians(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: LayerSelection = None,
    tap: str | None = None,
    n_samples: int = 8,
    mode: Mode = "eval",
    probes: int = 10,
    steps: int = 10,
    output: Output | None = None,
    in_float64: bool = False,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Norms of the Jacobians to the output and from the input, and σ_max from layer to layer, by depth.

    Modes, buffers, ``.grad`` fields and random states are restored and no hook stays; autocast and TF32 are off. The
    cost is about k + 2 (probes + steps) backward passes by activations (k: outputs, at most ``probes``). Memory: the
    graph of one forward pass with gradients, two to three times over, for the samples of a batch.

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts.
        layers: Which layers, as in ``deepprobe.spectra``; those of shortcuts are left out unless they are named.
        tap: ``output`` or ``block``; by default every block, or every layer with weights in a network without blocks
            and where ``layers`` is given.
        n_samples: How many samples, the first ones.
        mode: ``"eval"`` or ``"train"``, as in ``input_jacobian``.
        probes: Random vectors a sample for the norms; an estimate of ‖J‖_F is off by a share of about
            1 / √(2 · probes · participation ratio of σ²), a tenth or so.
        steps: Golub–Kahan steps a segment; 10 give σ_max to half a percent, 20 to 1e-5 or so, 0 leave it out.
        output: Which tensor of what the model returns, as in ``input_jacobian``.
        in_float64: Differentiate a float64 copy.
        device: Where to run; by default where the model is.
        seed: Of the random vectors, and of what the model draws in training mode.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        One row a layer call, in the order in which they run, before them the input itself (``layer`` "", tap ``input``,
        depth 0), with ``depth layer call type tap view n_rows n_features dtype mode`` (view ``jacobian``, in training
        mode ``jacobian-batch``; n_rows samples, n_features units a sample), ``status`` and medians over samples of
        ``jacobian_to_output``, ``jacobian_from_input`` and ``segment_sigma_max``, of each also the quartiles ``…_q25``
        and ``…_q75``; ``segment_residual`` is the largest share of σ_max by which it may be off a singular value.
        Samples whose number is not finite are counted in ``n_lost`` and left out of the medians. ``status`` is
        ``nonfinite`` where there is such a sample, ``zero`` where a median to the output or from the input is 0, else
        ``finite``.

    Raises:
        ConfigError: If ``mode``, ``n_samples``, ``probes``, ``steps`` or ``tap`` is not one there is.
        ShapeError: As ``input_jacobian``, or if no chosen layer gives a tensor of one row a sample.
        SpectrumError: If the model cannot be copied for float64, or cannot be differentiated twice.
        UnknownNameError: If ``layers`` matches nothing.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> table = layer_jacobians(model, torch.randn(5, 3))
        >>> table[["depth", "layer", "tap", "n_features"]].values.tolist()
        [[0, '', 'input', 3], [1, '0', 'output', 4], [2, '2', 'output', 2]]
    """
    for name, value, least in (("probes", probes, 1), ("steps", steps, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name}={value!r} is not a number from {least} on")
    chosen, tap = chosen_layers(model, layers, tap)
    gathered: dict[str, _Gathered] = {}
    bar = tqdm(desc="Jacobians by depth", unit="product", delay=2, leave=False, disable=None if progress else True)
    with differentiable(model, mode=mode, in_float64=in_float64, device=device, seed=seed) as network, bar:
        batch_graphs = graphs(
            network, batches, layers=chosen, tap=tap, samples=n_samples, output=output, in_float64=in_float64
        )
        for i, graph in enumerate(batch_graphs):
            generator = torch.Generator().manual_seed(derive_seed(seed, "jacobians", i))
            if not graph.points:
                raise ShapeError(
                    f"none of the {len(chosen)} chosen layers gave a floating-point tensor of one row a sample that "
                    "the input reaches"
                )
            for point in (graph.inputs, *graph.points):
                gathered.setdefault(point.key, _Gathered(point.place)).n_samples += graph.n_samples
            _norms(graph, gathered, probes, generator, bar)
            if steps:
                _segments(graph, gathered, steps, generator, bar)
    table = pd.DataFrame([found.row(type(unwrapped(model)).__name__) for found in gathered.values()])
    return table.assign(view=VIEWS[mode], mode=mode)


@dataclass(eq=False)
class _Gathered:
    """What was found of one point, a number a sample."""

    place: Place
    n_samples: int = 0
    numbers: dict[str, list[np.ndarray[Any, np.dtype[np.float64]]]] = field(default_factory=lambda: defaultdict(list))

    def row(self, network: str) -> dict[str, Any]:
        """One row of the table."""
        row = self.place.columns(network, n_samples=self.n_samples)
        found = {name: np.concatenate(parts) for name, parts in self.numbers.items()}
        lost = np.zeros(self.n_samples, dtype=bool)
        for name in MEASURES:
            values = found.get(name, np.zeros(0))
            lost |= ~np.isfinite(values) if len(values) else False
            kept = values[np.isfinite(values)]
            for suffix, share in (("", 0.5), ("_q25", 0.25), ("_q75", 0.75)):
                row[name + suffix] = float(np.quantile(kept, share)) if len(kept) else float("nan")
        residuals = found.get(RESIDUAL, np.zeros(0))
        residuals = residuals[np.isfinite(residuals)]
        row[RESIDUAL] = float(residuals.max()) if len(residuals) else float("nan")
        ends = [row["jacobian_to_output"], row["jacobian_from_input"]]
        return row | {
            "n_lost": int(lost.sum()),
            "status": "nonfinite" if lost.any() else "zero" if 0 in ends else "finite",
        }


def chosen_layers(model: nn.Module, layers: LayerSelection, tap: str | None) -> tuple[Mapping[str, nn.Module], str]:
    """The layers to look at, and their tap."""
    if tap == "input":
        raise ConfigError("tap='input': Jacobians are those of what layers give; say tap='output' or tap='block'")
    if tap is None and layers is None:
        try:
            return select_layers(model, tap="block"), "block"
        except UnknownNameError:
            tap = "output"
    tap = "output" if tap is None else tap
    found = select_layers(model, layers, tap=tap)
    main = {name: module for name, module in found.items() if not on_shortcut(name)}
    return (main or found) if layers is None else found, tap


def _norms(
    graph: Graph, gathered: dict[str, _Gathered], probes: int, generator: torch.Generator, bar: tqdm[Any]
) -> None:
    """‖∂f/∂h‖_F of every point and ‖∂h/∂x‖_F of every layer's."""
    every = [graph.inputs, *graph.points]
    k = graph.outputs.n_units
    exact = k <= probes
    squares = [_zeros(point) for point in every]
    for j in range(k if exact else probes):
        cotangent = unit_vector(graph.outputs, j) if exact else signs(graph.outputs, generator)
        _add_squares(squares, pullback([graph.outputs], [cotangent], every))
        bar.update()
    _keep(gathered, every, "jacobian_to_output", squares, 1 if exact else probes)
    pushforward = Pushforward(graph.inputs, graph.points)
    squares = [_zeros(point) for point in graph.points]
    for i in range(probes):
        products = pushforward(tangent := signs(graph.inputs, generator))
        if i == 0:
            check_adjoint(graph, tangent, products)
        _add_squares(squares, products)
        bar.update()
    _keep(gathered, graph.points, "jacobian_from_input", squares, probes)


def _segments(
    graph: Graph, gathered: dict[str, _Gathered], steps: int, generator: torch.Generator, bar: tqdm[Any]
) -> None:
    """σ_max of the Jacobian from each point to the next."""
    n = graph.n_samples
    for source, target in zip([graph.inputs, *graph.points], graph.points, strict=False):
        pushforward = Pushforward(source, [target])

        def forward(v: Tensor, source: Point = source, pushforward: Pushforward = pushforward) -> Tensor:
            return pushforward(v.reshape(source.shape).to(source.dtype))[0].reshape(n, -1)

        def backward(u: Tensor, source: Point = source, target: Point = target) -> Tensor:
            return pullback([target], [u.reshape(target.shape).to(target.dtype)], [source])[0].reshape(n, -1)

        start = torch.randn(n, source.n_units, generator=generator).to(source.device, wide_dtype(source.device))
        count = min(steps, source.n_units, target.n_units)
        found = golub_kahan(forward, backward, start, steps=count)
        with np.errstate(invalid="ignore"):
            share = np.where(found.values[:, 0] > 0, found.residuals[:, 0] / found.values[:, 0], found.residuals[:, 0])
        kept = gathered[target.key].numbers
        kept["segment_sigma_max"].append(found.values[:, 0])
        kept[RESIDUAL].append(share)
        bar.update(2 * count + 1)


def _zeros(point: Point) -> Tensor:
    """A zero a sample, for sums of squares."""
    return torch.zeros(point.shape[0], dtype=wide_dtype(point.device), device=point.device)


def _add_squares(sums: list[Tensor], products: list[Tensor]) -> None:
    """Add the squared norm of each sample's product, in float64."""
    for total, product in zip(sums, products, strict=True):
        flat = product.reshape(len(product), -1)
        total += torch.linalg.vector_norm(flat, dim=1, dtype=total.dtype).square()


def _keep(gathered: dict[str, _Gathered], points: list[Point], name: str, squares: list[Tensor], count: int) -> None:
    """Norms out of sums of squares over so many vectors; one transfer."""
    home = squares[0].device
    found = (torch.stack([total.to(home) for total in squares]) / count).sqrt().cpu().double().numpy()
    for point, values in zip(points, found, strict=True):
        gathered[point.key].numbers[name].append(values)
