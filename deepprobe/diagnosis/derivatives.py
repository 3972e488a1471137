"""What needs passes of its own, with batch statistics held fixed: Jacobian, shattered gradients, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepprobe.diagnosis.batch_facts import first_samples
from deepprobe.diagnosis.roles import BLOCK, NORM, WEIGHTED
from deepprobe.diagnosis.training_pass import scores_in
from deepprobe.errors import ShapeError, SpectrumError
from deepprobe.hooks.attach import tensors_in
from deepprobe.hooks.passes import device_of, run
from deepprobe.linalg.precision import wide_dtype
from deepprobe.probes.jacobians import input_jacobian, jacobian_summary
from deepprobe.probes.replay import measured_floors

if TYPE_CHECKING:
    from collections.abc import Mapping

JACOBIAN_SAMPLES = 16
"""Samples whose Jacobian is taken."""

MOST_CLASSES = 32
"""Scores up to which the whole Jacobian is taken, one backward pass a score."""

LINES = 64
"""Lines between samples on which gradients of neighbouring points are compared."""

STEP = 1 / 32
"""How far apart neighbouring points are, as a share of their line."""

REPLAYED = 32


@dataclass(frozen=True)
class Jacobian:
    """Singular values of ∂ scores / ∂ input, medians over a few samples.

    Attributes:
        sigma_max: Largest.
        sigma_min: Smallest of min(classes, input values).
        frobenius: Root of the sum of their squares.
        n_samples: Samples.
    """

    sigma_max: float
    sigma_min: float
    frobenius: float
    n_samples: int


def jacobian(model: nn.Module, batch: Any, scores: Tensor | None, *, device: Any, seed: int) -> Jacobian | None:
    """Jacobian from input to scores as the network trains; None where there is no such matrix, or a large one."""
    if scores is None or not 0 < scores.shape[1] <= MOST_CLASSES:
        return None
    few = first_samples(batch, JACOBIAN_SAMPLES)
    try:
        table = input_jacobian(
            model, [few], n_samples=JACOBIAN_SAMPLES, mode="train", device=device, seed=seed, progress=False
        )
    except ShapeError:  # samples that see each other, an input that is no tensor of numbers
        return None
    medians = jacobian_summary(table)
    if table["status"].eq("nonfinite").all():
        return Jacobian(float("inf"), float("nan"), float("inf"), len(table))
    return Jacobian(medians["sigma_max"], medians["sigma_min"], medians["jacobian_norm"], len(table))


def shattering(network: nn.Module, batch: Any, scores: Tensor | None) -> tuple[float, float]:
    """Mean cosine between the gradients of the first score at neighbouring points on lines between samples.

    One pair of points on each of up to 64 lines, 1/32 of the line apart. Near 1 where the gradient changes slowly from
    point to point, as in shallow networks; near 0 where it is like white noise (Balduzzi et al. 2017, figure 1;
    ``probes.shattering`` has the whole autocorrelation along one line).

    Returns:
        The mean, and the standard error that independent Gaussian gradients of d values would give it, 1 / √(d lines).
    """
    given = _given(batch)
    if scores is None or given is None or len(given) < 2:
        return float("nan"), float("nan")
    lines = min(LINES, len(given) // 2)
    wide = wide_dtype(given.device)
    t = torch.linspace(0, 1 - STEP, lines, device=given.device, dtype=given.dtype).view(-1, *[1] * (given.ndim - 1))
    way = given[lines : 2 * lines] - given[:lines]
    points = torch.cat([given[:lines] + t * way, given[:lines] + (t + STEP) * way]).detach().requires_grad_()
    found = scores_in(run(network, points))
    if found is None or not found.requires_grad:
        return float("nan"), float("nan")
    (gradients,) = torch.autograd.grad(found[:, 0].sum(), points, materialize_grads=True)  # NaN below where all zero
    here, there = gradients.to(wide).flatten(1).chunk(2)
    cosine = float(torch.nn.functional.cosine_similarity(here, there, eps=0.0).nanmean())
    return cosine, (here.shape[1] * lines) ** -0.5


def precision_floors(network: nn.Module, batch: Any, watched: Mapping[str, str]) -> dict[str, float]:
    """Spectral norm a row of what float32 rounding adds to each layer call's output.

    Empty where it cannot be run, or where two passes over the same samples differ by more than rounding: what the
    network draws would be taken for it.
    """
    wanted = {BLOCK} if BLOCK in watched.values() else set(watched.values()) - {NORM}
    chosen = {name: module for name, module in network.named_modules() if watched.get(name) in wanted or
              (watched.get(name) == WEIGHTED and not name)}  # fmt: skip
    dtypes = {p.dtype for p in network.parameters()}
    if device_of(network).type == "mps" or not chosen or dtypes != {torch.float32}:
        return {}
    few = first_samples(batch, REPLAYED)
    with torch.no_grad():
        if _is_random(network, few):
            return {}
        try:
            return measured_floors(network, few, chosen, tap="output", view="samples", samples=REPLAYED)
        except SpectrumError:  # a model that cannot be copied has no replay
            return {}


def _is_random(network: nn.Module, batch: Any) -> bool:
    """Whether two passes over the same samples differ by more than a ten-thousandth of the norm."""
    first, second = ([t.clone() for _, t in tensors_in(run(network, batch))] for _ in range(2))
    return any(bool((a - b).norm() > 1e-4 * a.norm()) for a, b in zip(first, second, strict=True))


def _given(batch: Any) -> Tensor | None:
    """The one floating-point tensor that the network takes, or None."""
    found = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return found if isinstance(found, Tensor) and found.is_floating_point() and found.ndim > 1 else None
