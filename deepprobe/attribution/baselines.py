"""Where attribution paths begin: the input that says nothing, chosen openly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from deepprobe.attribution.samples import Scores, inputs_of
from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.passes import as_batches, moved, n_samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

Baseline: TypeAlias = Literal["zero", "mean", "blur"] | Tensor
"""Zero; the mean input of the batches; each input blurred; or one input given."""

BLUR = 1 / 8
"""Standard deviation of the Gaussian of ``blur``, as a part of the shorter side of the image."""

FromInputs: TypeAlias = "Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]"


def baseline_of(baseline: Baseline, batches: Any, *, model: nn.Module, device: torch.device) -> FromInputs:
    """What gives the baselines of some inputs, each of the input's own shape.

    ``mean`` reads the batches once, before anything else; the mean is in float64, over all samples.

    Args:
        baseline: Which.
        batches: The batches, as a person passes them.
        model: The network, which says what of a batch is its input.
        device: Where to run.

    Raises:
        ConfigError: If there is no such baseline, or the batches can be read only once and ``mean`` is asked for.
        ShapeError: If there is no sample.
    """
    if isinstance(baseline, Tensor):
        given = baseline.to(device)
        return lambda inputs: tuple(_fitted(given, x) for x in inputs)
    if baseline == "zero":
        return lambda inputs: tuple(torch.zeros_like(x) for x in inputs)
    if baseline == "blur":
        return lambda inputs: tuple(blurred(x) for x in inputs)
    if baseline != "mean":
        raise ConfigError(f"baseline={baseline!r} is none of 'zero', 'mean', 'blur', and no tensor of an input's shape")
    means = _means(as_batches(batches), model, device)
    return lambda inputs: tuple(_fitted(m.to(x.dtype), x) for m, x in zip(means, inputs, strict=True))


def _fitted(baseline: Tensor, inputs: Tensor) -> Tensor:
    """One input as the baseline of all; ShapeError if it does not have the shape of one."""
    own = tuple(inputs.shape[1:])
    if tuple(baseline.shape) not in {own, (1, *own)}:
        raise ShapeError(f"the baseline has shape {tuple(baseline.shape)}; an input has {own}")
    return baseline.to(inputs.dtype).expand_as(inputs)


def blurred(images: Tensor) -> Tensor:
    """Images, shape (n, channels, height, width), convolved with a Gaussian of BLUR times the shorter side.

    Beyond the border an image is its own nearest pixel. As a baseline it keeps brightness and drops the detail (Fong &
    Vedaldi 2017; Sturmfels et al. 2020).

    Raises:
        ConfigError: If the tensor is not of images.
    """
    if images.ndim != 4:
        raise ConfigError(f"baseline='blur' is for images (n, channels, height, width), not {tuple(images.shape)}")
    sigma = BLUR * min(images.shape[2:])
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (weights / weights.sum()).to(images.dtype)
    n, channels = images.shape[:2]
    flat = F.pad(images.reshape(n * channels, 1, *images.shape[2:]), (radius,) * 4, mode="replicate")
    smooth = F.conv2d(F.conv2d(flat, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))
    return smooth.reshape(images.shape)


def _means(batches: Iterable[Any], model: nn.Module, device: torch.device) -> tuple[Tensor, ...]:
    """Mean of each input over all samples, float64."""
    if isinstance(batches, Iterator):
        raise ConfigError("baseline='mean' reads the batches twice, and these can be read once; pass a list of them")
    means: tuple[Tensor, ...] = ()
    seen = 0
    for batch in batches:
        n = n_samples(batch)
        if not n:
            continue
        seen += n
        inputs = inputs_of(moved(batch, device), Scores(model, batch))
        sums = tuple(x.sum(dim=0, dtype=torch.float64) for x in inputs)
        means = means if means else tuple(s / n for s in sums)
        means = tuple(m + (s / n - m) * (n / seen) for m, s in zip(means, sums, strict=True))
    if not seen:
        raise ShapeError("batches holds no samples: every batch was empty, or there was none")
    return means
