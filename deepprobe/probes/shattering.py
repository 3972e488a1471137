"""Whether gradients of different inputs still have anything in common: shattered gradients.

Balduzzi et al. 2017, "The shattered gradients problem" (ICML; arXiv 1702.08591): in plain networks of ReLUs the
correlation between gradients of different inputs falls as 2^-L with depth L, until a gradient as a function of its
input looks like white noise; with shortcuts it falls far more slowly. Two measures, with f_j output j:

    by depth      cos(∂f_j/∂h_l(x_a), ∂f_j/∂h_l(x_b))         for pairs of samples a, b, and the gradient at layer l
    along a line  R(s) = Σ_t ⟨g_t − ḡ, g_{t+s} − ḡ⟩ / Σ_t ‖g_t − ḡ‖²,   g_t = ∂f_j/∂x at x_t on the line

R is the autocorrelation of a series of vectors, in one dimension the usual one (their figure 1). For white
noise R(s) = −(n − s) / (n (n − 1)); for brown noise, a sum of white, it is what the covariance min(s, t) gives; both
are ratios of expectations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.select import unwrapped
from deepprobe.linalg.precision import wide_dtype
from deepprobe.probes.jacobians.graph import VIEWS, Graph, Mode, Output, Place, Point, differentiable, graphs, pullback
from deepprobe.probes.jacobians.layers import chosen_layers
from deepprobe.probes.jacobians.vectors import signs, unit_vector
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from deepprobe.hooks.select import LayerSelection


def gradient_correlation(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: LayerSelection = None,
    tap: str | None = None,
    n_samples: int = 32,
    mode: Mode = "eval",
    probes: int = 10,
    output: Output | None = None,
    in_float64: bool = False,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Norm of gradients at each layer, and how far those of different samples point the same way, by depth.

    The gradients are those of single outputs f_j, the same for all samples (of random sums of outputs ±f_j, where there
    are more outputs than ``probes``), so that the loss and its targets play no part. One backward pass for each.

    Args:
        model: Any module, as in ``layer_jacobians``, like all that follows.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts. Pairs are formed within a batch.
        layers: Which layers.
        tap: ``output`` or ``block``; by default every block, or every layer with weights.
        n_samples: How many samples, the first ones; at least two of a batch.
        mode: ``"eval"`` or ``"train"``; batch statistics are constants.
        probes: Most gradients a sample.
        output: Which tensor of what the model returns.
        in_float64: Differentiate a float64 copy.
        device: Where to run.
        seed: Of random sums of outputs, and of what the model draws in training mode.
        progress: Show a bar once it takes more than two seconds.

    Returns:
        One row a layer call, before them the input (``layer`` "", depth 0), with ``depth layer call type tap view
        n_rows n_features dtype``, and over samples and outputs ``activation_gradient_norm`` (median of ‖∂f_j/∂h‖),
        ``gradient_cosine`` (mean over pairs of samples) and ``gradient_angle`` (mean, degrees). Gradients that are zero
        or not finite have no direction: pairs with them are left out, and ``n_lost`` counts them; NaN where no pair is
        left.

    Raises:
        ConfigError: If a setting is not one there is.
        ShapeError: As ``input_jacobian``, or if no batch has two samples.
        SpectrumError: If the model cannot be copied for float64.
        UnknownNameError: If ``layers`` matches nothing.

    Example:
        >>> import torch
        >>> table = gradient_correlation(torch.nn.Linear(3, 2), torch.randn(5, 3))
        >>> table["gradient_cosine"].round(6).tolist()  # a linear network has one gradient for all
        [1.0, 1.0]
    """
    if not isinstance(probes, int) or isinstance(probes, bool) or probes < 1:
        raise ConfigError(f"probes={probes!r} is not a number from 1 on")
    chosen, tap = chosen_layers(model, layers, tap)
    gathered: dict[str, _Pairs] = {}
    bar = tqdm(desc="gradients", unit="backward pass", delay=2, leave=False, disable=None if progress else True)
    with differentiable(model, mode=mode, in_float64=in_float64, device=device, seed=seed) as network, bar:
        for i, graph in enumerate(
            graphs(network, batches, layers=chosen, tap=tap, samples=n_samples, output=output, in_float64=in_float64)
        ):
            if graph.n_samples > 1:
                generator = torch.Generator().manual_seed(derive_seed(seed, "shattering", i))
                _add_batch(graph, gathered, probes, generator, bar)
    if not gathered:
        raise ShapeError("gradients are compared between samples of a batch, and no batch has two")
    table = pd.DataFrame([found.row(type(unwrapped(model)).__name__) for found in gathered.values()])
    return table.assign(view=VIEWS[mode], mode=mode)


def gradient_autocorrelation(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    n_points: int = 256,
    mode: Mode = "eval",
    probes: int = 10,
    output: Output | None = None,
    in_float64: bool = False,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Autocorrelation of the input gradient along the straight line between two inputs, beside white and brown noise.

    Args:
        model: Any module that takes a tensor.
        start: One input, without an axis for samples.
        end: Another of the same shape.
        n_points: Points on the line, evenly spaced, both ends among them; one batch.
        mode: ``"eval"`` or ``"train"``: by the statistics of the points of the line.
        probes: Most outputs whose gradients are taken.
        output: Which tensor of what the model returns.
        in_float64: Differentiate a float64 copy.
        device: Where to run; by default where the model is.
        seed: Of random sums of outputs, where there are more than ``probes``.
        progress: Show a bar once it takes more than two seconds.

    Returns:
        One row a lag from 0 to n_points / 2: ``lag autocorrelation q25 q75 white white_band brown n_outputs``;
        autocorrelation is the mean over outputs. White noise of independent values stays within ``white_band``
        = 1.96 / √n of ``white`` (Bartlett 1946; gradients of many values, narrower). Outputs whose gradient does not
        change along the line, or is not finite somewhere, are left out; NaN where no other is.

    Raises:
        ConfigError: If a setting is not one there is.
        ShapeError: If start and end differ in shape, or as ``input_jacobian``.
        SpectrumError: If the model cannot be copied for float64.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> table = gradient_autocorrelation(model, torch.zeros(3), torch.ones(3), n_points=8)
        >>> table[["lag", "autocorrelation"]].round(6).values.tolist()[0]
        [0.0, 1.0]
    """
    if not isinstance(n_points, int) or isinstance(n_points, bool) or n_points < 4:
        raise ConfigError(f"n_points={n_points!r} is not a number from 4 on")
    if not isinstance(probes, int) or isinstance(probes, bool) or probes < 1:
        raise ConfigError(f"probes={probes!r} is not a number from 1 on")
    if start.shape != end.shape:
        raise ShapeError(f"start has shape {tuple(start.shape)} and end {tuple(end.shape)}; a line needs the same")
    share = torch.linspace(0, 1, n_points, dtype=start.dtype, device=start.device).reshape(-1, *[1] * start.ndim)
    line = start + share * (end.to(start.device) - start)
    generator = torch.Generator().manual_seed(derive_seed(seed, "shattering"))
    series: list[NDArray[np.float64]] = []
    bar = tqdm(desc="gradients", unit="backward pass", delay=2, leave=False, disable=None if progress else True)
    with differentiable(model, mode=mode, in_float64=in_float64, device=device, seed=seed) as network, bar:
        for graph in graphs(network, line, layers={}, samples=n_points, output=output, in_float64=in_float64):
            for cotangent in _cotangents(graph, probes, generator):
                (gradient,) = pullback([graph.outputs], [cotangent], [graph.inputs])
                series.append(autocorrelation(gradient.flatten(1).cpu().double().numpy()))
                bar.update()
    found = np.stack(series)[:, : n_points // 2 + 1]
    known = np.isfinite(found).all(1)
    n_known, found = int(known.sum()), found[known] if known.any() else found
    lags = np.arange(found.shape[1])
    q25, middle, q75 = np.quantile(found, 0.25, axis=0), found.mean(0), np.quantile(found, 0.75, axis=0)
    return pd.DataFrame(
        {
            "lag": lags, "autocorrelation": middle, "q25": q25, "q75": q75, "white": white_noise(n_points)[lags],
            "white_band": 1.96 / np.sqrt(n_points), "brown": brown_noise(n_points)[lags], "n_outputs": n_known,
        }
    )  # fmt: skip


def autocorrelation(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Autocorrelation R(s) of a series of vectors, shape (n, d), for every lag s; NaN of a constant one."""
    if not np.isfinite(series).all():
        return np.full(len(series), np.nan)
    off = series - series.mean(0)
    scale = float(np.abs(off).max(initial=0.0))
    if scale <= 8 * np.finfo(np.float32).eps * float(np.abs(series).max(initial=0.0)):
        return np.full(len(series), np.nan)
    off = off / scale
    products = off @ off.T
    sums = np.array([np.trace(products, offset=s) for s in range(len(series))])
    return np.asarray(sums / sums[0])


def white_noise(n: int) -> NDArray[np.float64]:
    """R(s) of n independent values, as a ratio of expectations: 1 at lag 0, then −(n − s) / (n (n − 1))."""
    return _expected(np.eye(n))


def brown_noise(n: int) -> NDArray[np.float64]:
    """R(s) of n values of a random walk, as a ratio of expectations."""
    steps = np.arange(1.0, n + 1)
    return _expected(np.minimum.outer(steps, steps))


def _expected(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """R(s) of a series with this covariance, once its mean is taken out."""
    centred = covariance - covariance.mean(0) - covariance.mean(1)[:, None] + covariance.mean()
    sums = np.array([np.trace(centred, offset=s) for s in range(len(centred))])
    return np.asarray(sums / sums[0])


class _Pairs:
    """What was found of one point: norms, and sums over pairs, on the device."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.n_samples = 0
        self.norms: list[Tensor] = []
        self.sums = torch.zeros(4, dtype=wide_dtype(place.device), device=place.device)

    def add(self, gradient: Tensor) -> None:
        """Gradients of one output, samples first: sums of cosines and angles, numbers of pairs and of lost samples."""
        flat = gradient.flatten(1).to(self.sums.dtype)
        norms = torch.linalg.vector_norm(flat, dim=1)
        kept = torch.isfinite(norms) & (norms > 0)
        unit = torch.where(kept[:, None], flat / norms[:, None], 0)
        pairs = torch.triu(kept[:, None] & kept, diagonal=1).to(self.sums)
        cosines = (unit @ unit.T).clamp(-1, 1)
        self.norms.append(norms)
        self.sums += torch.stack(
            [(cosines * pairs).sum(), (cosines.arccos() * pairs).sum(), pairs.sum(), (~kept).sum()]
        )

    def row(self, network: str) -> dict[str, Any]:
        """One row of the table."""
        norms = torch.cat(self.norms).cpu().double().numpy()
        norms = norms[np.isfinite(norms)]
        cosines, angles, n_pairs, n_lost = self.sums.cpu().tolist()
        return self.place.columns(network, n_samples=self.n_samples) | {
            "activation_gradient_norm": float(np.median(norms)) if len(norms) else float("nan"),
            "gradient_cosine": cosines / n_pairs if n_pairs else float("nan"),
            "gradient_angle": float(np.degrees(angles / n_pairs)) if n_pairs else float("nan"),
            "n_lost": int(n_lost),
        }


def _add_batch(
    graph: Graph, gathered: dict[str, _Pairs], probes: int, generator: torch.Generator, bar: tqdm[Any]
) -> None:
    """Gradients of one batch at every point."""
    every = [graph.inputs, *graph.points]
    for point in every:
        gathered.setdefault(point.key, _Pairs(point.place)).n_samples += graph.n_samples
    for cotangent in _cotangents(graph, probes, generator):
        for point, gradient in zip(every, pullback([graph.outputs], [cotangent], every), strict=True):
            gathered[point.key].add(gradient)
        bar.update()


def _cotangents(graph: Graph, probes: int, generator: torch.Generator) -> Iterable[Tensor]:
    """Single outputs, or random sums of them with signs where there are more than probes."""
    k = graph.outputs.n_units
    if k <= probes:
        return (unit_vector(graph.outputs, j) for j in range(k))
    return (_same_signs(graph.outputs, generator) for _ in range(probes))


def _same_signs(point: Point, generator: torch.Generator) -> Tensor:
    """One vector of signs for all samples."""
    one = signs(point, generator)[:1]
    return one.expand(point.shape).clone()
