"""captum's layer attributions by name, each as one number a sample and unit.

| method | what it is | passes over the samples |
|---|---|---|
| conductance | gradient times change of the unit, along the path (Dhamdhere et al. 2019) | steps + 1, all layers |
| internal-influence | gradient at the unit, averaged along the path (Leino et al. 2018) | steps, all layers |
| gradient-x-activation | gradient times activation (Shrikumar et al. 2016) | 1, all layers |
| grad-cam | gradient averaged over positions, times activation (Selvaraju et al. 2017) | 1, all layers |
| integrated-gradients | path in the space of the layer (Sundararajan et al. 2017) | steps, a layer |
| feature-ablation | fall of the score where the unit is set to zero | one a unit |

A pass is forward and backward; of feature ablation forward only. The path is a straight line from the baseline to the
input. A unit's attribution is the sum over its positions, that of feature ablation the fall where all are zero at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from captum.attr import (
    InternalInfluence,
    LayerConductance,
    LayerFeatureAblation,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)
from torch import Tensor, nn

from deepprobe.attribution.together import UNUSED_IS_ZERO, AllLayers
from deepprobe.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deepprobe.attribution.network import Layer
    from deepprobe.attribution.samples import Samples, Scores

METHODS = (
    "conductance",
    "integrated-gradients",
    "gradient-x-activation",
    "internal-influence",
    "feature-ablation",
    "grad-cam",
)

PATH_METHODS = ("conductance", "integrated-gradients", "internal-influence")
"""Those with a path from a baseline, and with it steps."""

REPLACING_METHODS = ("integrated-gradients", "feature-ablation")
"""Those that put tensors in the place of a layer's output."""

COMPLETE_METHODS = ("conductance", "integrated-gradients")
"""Those whose attributions, at a layer through which all paths lead, sum to the difference of the scores."""


def column_of(method: str) -> str:
    """Name of a method's column: ``gradient_x_activation`` of gradient-x-activation."""
    return method.replace("-", "_")


def chosen_methods(method: str | Sequence[str]) -> list[str]:
    """The methods named, once each.

    Raises:
        ConfigError: If one is none of METHODS, or there is none.
    """
    wanted = [method] if isinstance(method, str) else list(dict.fromkeys(method))
    for name in wanted:
        if name not in METHODS:
            raise ConfigError(f"method={name!r} is no attribution; {nearest(str(name), METHODS)}")
    if not wanted:
        raise ConfigError(f"method=[] is no attribution; there are {', '.join(METHODS)}")
    return wanted


@dataclass(frozen=True, eq=False)
class Explainer:
    """captum on one network.

    Attributes:
        network: The network.
        scores: The network as captum calls it.
        layers: The layers that are explained.
        n_steps: Points on the path.
        rows: Most samples, times points, of one pass.
    """

    network: nn.Module
    scores: Scores
    layers: list[Layer]
    n_steps: int
    rows: int

    def samples_at_once(self, method: str) -> int:
        """How many samples fit in one pass of a method."""
        points = {"conductance": self.n_steps + 1, "internal-influence": self.n_steps}.get(method, 1)
        return max(1, self.rows // points)

    def attributions(
        self, method: str, samples: Samples, baselines: tuple[Tensor, ...]
    ) -> Iterator[tuple[Layer, Tensor]]:
        """Of each layer the attribution of its units, shape (n, units), in the unit of the score.

        ``baselines`` are of the shape of the samples' inputs.
        """
        if method == "integrated-gradients":
            yield from self._integrated(samples, baselines)
        elif method == "feature-ablation":
            yield from self._ablated(samples)
        else:
            yield from self._together(method, samples, baselines)

    def _together(self, method: str, samples: Samples, baselines: tuple[Tensor, ...]) -> Iterator[tuple[Layer, Tensor]]:
        """Methods that need of the network outputs and gradients alone: one pass for all layers."""
        every = AllLayers(self.scores, self.network, layers=self.layers, n_inputs=len(samples.given))
        given: dict[str, Any] = {"additional_forward_args": (*samples.beside, _target_of(samples))}
        if method in PATH_METHODS:
            given |= {"baselines": baselines, "n_steps": self.n_steps}
        found = _ONE_PASS[method](every, every.outputs).attribute(
            samples.given, **given, **_GRAD_CAM_OPTIONS.get(method, {})
        )
        for layer, values in zip(self.layers, found if isinstance(found, tuple) else (found,), strict=True):
            yield layer, values.reshape(len(samples), layer.n_units, -1).sum(dim=2, dtype=torch.float64)

    def _integrated(self, samples: Samples, baselines: tuple[Tensor, ...]) -> Iterator[tuple[Layer, Tensor]]:
        """Layer integrated gradients, a layer at a time: captum puts the path in the place of the layer's output."""
        for layer in self.layers:
            found = LayerIntegratedGradients(self.scores, layer.module).attribute(
                samples.inputs,
                baselines=baselines,
                target=samples.target,
                additional_forward_args=samples.beside or None,
                n_steps=self.n_steps,
                internal_batch_size=max(self.rows, len(samples)),
                grad_kwargs=UNUSED_IS_ZERO,
            )
            yield layer, layer.units_first(found).sum(dim=2, dtype=torch.float64)

    def _ablated(self, samples: Samples) -> Iterator[tuple[Layer, Tensor]]:
        """Layer feature ablation, all positions of a unit as one feature."""
        given = (*samples.given, *samples.beside, _target_of(samples))
        for layer in self.layers:
            yield layer, ablated(self._picked, layer, given, rows=self.rows)

    def _picked(self, *tensors: Tensor) -> Tensor:
        """The explained score of each sample; the last tensor is the target, empty where there is none."""
        *given, target = tensors
        found = self.scores(*given)
        return found.gather(1, target[:, None])[:, 0] if target.numel() else found


def ablated(number: Callable[..., Tensor], layer: Layer, tensors: tuple[Tensor, ...], *, rows: int) -> Tensor:
    """By how much a number a sample falls where all of a unit is set to zero, shape (n, units), float64, by captum.

    Args:
        number: From the tensors, which captum repeats, to one number a sample, shape (n,).
        layer: The layer.
        tensors: What ``number`` is given, the first with a row a sample.
        rows: Most samples, times units, of one pass.
    """
    first, *others = tensors
    shape = (1, *(layer.n_units if axis == layer.axis else 1 for axis in range(1, len(layer.shape) + 1)))
    units = torch.arange(layer.n_units, device=first.device).reshape(shape)
    found = LayerFeatureAblation(number, layer.module).attribute(
        first,
        additional_forward_args=tuple(others) or None,
        layer_mask=units.expand(1, *layer.shape),
        perturbations_per_eval=max(1, rows // len(first)),
    )
    return layer.units_first(found)[:, :, 0].double()  # captum gives every position the fall of its whole unit


def _target_of(samples: Samples) -> Tensor:
    """The targets as a tensor, empty where the model gives one number."""
    return torch.zeros(0, dtype=torch.int64) if samples.target is None else samples.target


_ONE_PASS: dict[str, Any] = {
    "conductance": LayerConductance,
    "internal-influence": InternalInfluence,
    "gradient-x-activation": LayerGradientXActivation,
    "grad-cam": LayerGradCam,
}
_GRAD_CAM_OPTIONS: dict[str, Any] = {"grad-cam": {"attr_dim_summation": False}}
