"""What in single images a score rests on: attributions to pixels, and Grad-CAM maps of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import captum.attr as captum
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepprobe.attribution.baselines import Baseline, baseline_of
from deepprobe.attribution.network import explained_layers, explaining
from deepprobe.attribution.samples import Samples, Scores, Target, samples_of
from deepprobe.errors import ConfigError, ShapeError, nearest
from deepprobe.hooks.passes import device_of, moved, n_samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INPUT_METHODS = ("integrated-gradients", "input-x-gradient", "saliency")
"""Attributions to inputs: Sundararajan et al. 2017; Shrikumar et al. 2016; Simonyan et al. 2014, with its sign."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images beside what was attributed to their pixels.

    Attributes:
        images: The inputs, shape (n, channels, height, width).
        values: Attribution of each pixel, the same shape; of a Grad-CAM map one channel. In the unit of the score,
            saliency in that over the unit of a pixel.
        target: Class that is explained, shape (n,); −1 where the model gives one number.
        scores: Its score, shape (n,), float64.
        predicted: Class that the model predicts, shape (n,); −1 where it gives one number.
        convergence_delta: Of integrated gradients |Σ values − (f(x) − f(x′))|, shape (n,), float64; else NaN.
    """

    images: NDArray[np.floating]
    values: NDArray[np.floating]
    target: NDArray[np.int64]
    scores: NDArray[np.float64]
    predicted: NDArray[np.int64]
    convergence_delta: NDArray[np.float64]


def input_attributions(
    model: nn.Module,
    images: Tensor | tuple[Tensor, Tensor],
    method: str = "integrated-gradients",
    *,
    target: Target = None,
    baseline: Baseline = "zero",
    n_steps: int = 64,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Pictures:
    """What each pixel of a few images adds to the score of a class, by captum.

    Args:
        model: Any module that takes images; wrappers are looked through.
        images: One batch of chosen images, shape (n, channels, height, width), or a pair of them and their labels.
        method: ``integrated-gradients``, ``input-x-gradient`` or ``saliency`` (the gradient, signed).
        target: Whose score: None for the labels, ``"predicted"``, or a class.
        baseline: Where integrated gradients begin, as in ``attributions``; ``mean`` is that of these images.
        n_steps: Points on the path.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.

    Returns:
        Images and attributions, as arrays.

    Raises:
        ConfigError: If ``method``, ``target`` or ``baseline`` is not one there is, or there are no labels.
        ShapeError: If these are no images, or the model gives no score a sample.
    """
    if method not in INPUT_METHODS:
        raise ConfigError(f"method={method!r} attributes nothing to inputs; {nearest(str(method), INPUT_METHODS)}")
    with explaining(model, device=device, seed=seed) as network:
        scores, samples, output = _asked(network, images, target)
        x = samples.inputs[0].detach().clone()
        delta = torch.full_like(samples.scores, torch.nan)
        if method == "integrated-gradients":
            begin = baseline_of(baseline, [images], model=network, device=device_of(network))
            values, delta = captum.IntegratedGradients(scores).attribute(
                x, begin((x,))[0], target=samples.target, n_steps=n_steps, internal_batch_size=max(256, len(x)),
                return_convergence_delta=True,
            )  # fmt: skip
        elif method == "input-x-gradient":
            values = captum.InputXGradient(scores).attribute(x.requires_grad_(), target=samples.target)
        else:
            values = captum.Saliency(scores).attribute(x.requires_grad_(), target=samples.target, abs=False)
    return _pictures(samples, output, values, delta.abs())


def grad_cam_maps(
    model: nn.Module,
    images: Tensor | tuple[Tensor, Tensor],
    layer: str,
    *,
    target: Target = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Pictures:
    """Where in an image a convolutional layer sees the class: Grad-CAM, by captum, at the size of the image.

    Selvaraju et al. (2017), equations 1 and 2: channels weighted by the mean of their gradient over positions, summed,
    of which the positive part stays; made larger bilinearly.

    Args:
        model: Any module that takes images; wrappers are looked through.
        images: One batch of chosen images, shape (n, channels, height, width), or a pair of them and their labels.
        layer: Name of the layer, usually the last before positions are averaged away.
        target: Whose score: None for the labels, ``"predicted"``, or a class.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.

    Returns:
        Images and maps, of one channel, not negative.

    Raises:
        ConfigError: If captum cannot explain the layer, it gives no maps, or there are no labels.
        UnknownNameError: If there is no such layer.
        ShapeError: If these are no images, or the model gives no score a sample.
    """
    with explaining(model, device=device, seed=seed) as network:
        scores, samples, output = _asked(network, images, target)
        given = samples.inputs[0]
        found = explained_layers(network, given, n=len(samples), layers=layer, tap="output")[0]
        if len(found.shape) != 3:
            raise ConfigError(f"layer {found.call.layer!r} gives shape {found.shape} a sample, not maps; name another")
        cam = captum.LayerGradCam(scores, found.module)
        values = cam.attribute(given, target=samples.target, relu_attributions=True)
        values = F.interpolate(values.detach(), size=given.shape[2:], mode="bilinear", align_corners=False)
    return _pictures(samples, output, values, torch.full_like(samples.scores, torch.nan))


def _asked(network: nn.Module, images: Any, target: Target) -> tuple[Scores, Samples, Tensor]:
    """The network as captum calls it, the samples, and the scores of all classes."""
    batch = moved(images, device_of(network))
    scores = Scores(network, batch)
    given = scores.tensors(batch)
    if given[0].ndim != 4 or not given[0].is_floating_point() or not n_samples(batch):
        raise ShapeError(f"expected images (n, channels, height, width), got {given[0].dtype} {tuple(given[0].shape)}")
    output = scores(*given).detach()
    return scores, samples_of(batch, scores, output, target=target), output


def _pictures(samples: Samples, output: Tensor, values: Tensor, delta: Tensor) -> Pictures:
    """Everything as arrays."""
    nothing = torch.full((len(samples),), -1)
    target = nothing if samples.target is None else samples.target
    predicted = nothing if output.ndim == 1 else output.argmax(dim=1)
    return Pictures(
        images=samples.inputs[0].detach().cpu().numpy(),
        values=values.detach().cpu().numpy(),
        target=target.cpu().numpy(),
        scores=samples.scores.cpu().numpy(),
        predicted=predicted.cpu().numpy(),
        convergence_delta=delta.double().cpu().numpy(),
    )
