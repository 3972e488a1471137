"""Channels that can only be removed together: all that write, normalise and read them.

Which layers hang together is Torch-Pruning's finding: Fang et al. (2023), "DepGraph: towards any structural pruning".
Left whole are channels that nothing reads, such as a network's outputs; that a grouped convolution touches, or a layer
that is no convolution, fully connected or batch normalisation; and a residual stream that is widened by zeros, as by
shortcut A, and then flattened: Torch-Pruning 1.6 takes the new channels for positions of the old ones.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError
from deepprobe.extras import module_of_extra
from deepprobe.hooks.select import unwrapped

KERNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Place:
    """Where the channels of a group stand in one layer.

    Attributes:
        layer: Its dotted name.
        axis: 0 where they are rows of its kernel, 1 where they are columns, None in batch normalisation.
        indices: Rows or columns of each channel, shape (channels, 1), or more where positions were flattened.
    """

    layer: str
    axis: int | None
    indices: Tensor

    @property
    def parameter(self) -> str:
        """Name of the layer's weights."""
        return f"{self.layer}.weight".lstrip(".")

    def of(self, kernel: Tensor) -> Tensor:
        """What of the layer's kernel belongs to each channel: shape (channels, ·)."""
        axis = self.axis or 0
        chosen = kernel.index_select(axis, self.indices.flatten().to(kernel.device)).movedim(axis, 0)
        return chosen.reshape(len(self.indices), -1)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of several layers that can only be removed together.

    Attributes:
        name: Layer that writes them, the first one found.
        places: Where they stand, in all layers the same channels in the same order.
    """

    name: str
    places: tuple[Place, ...]

    @property
    def writers(self) -> list[Place]:
        """Kernels of which they are rows."""
        return [place for place in self.places if place.axis == 0]

    @property
    def readers(self) -> list[Place]:
        """Kernels of which they are columns."""
        return [place for place in self.places if place.axis == 1]

    def read(self, used: Mapping[str, Tensor]) -> Tensor:
        """Whether anything reads each channel: shape (channels,), from which weights are used, by parameter."""
        return torch.stack([place.of(used[place.parameter]).any(dim=1).cpu() for place in self.readers]).any(dim=0)


def channel_groups(model: nn.Module, inputs: Tensor) -> list[Group]:
    """All channels of a network that can be removed.

    Args:
        model: The network; it is left as it is.
        inputs: A batch as it takes it.

    Returns:
        Groups of channels that share no row or column of a kernel.

    Raises:
        ConfigError: If Torch-Pruning cannot follow the network.
        MissingPackageError: If it is not installed.
    """
    torch_pruning = module_of_extra("torch_pruning", extra="structured")
    network = copy.deepcopy(unwrapped(model)).eval().requires_grad_()
    names = {module: name for name, module in network.named_modules()}
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside of layers: their channels are left whole
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(network, example_inputs=inputs, verbose=False)
            traced = list(graph.get_all_groups(root_module_types=KERNELS))
        except Exception as error:  # its tracer raises whatever a forward pass and its own tables do
            raise ConfigError(f"Torch-Pruning cannot follow this {type(model).__name__}: {error}") from error
    found = (_group(items, graph, names) for items in traced)
    return [group for group in found if group is not None]


def _group(items: Any, graph: Any, names: Mapping[Any, str]) -> Group | None:
    """What Torch-Pruning found, if all layers in it can lose a channel and one reads them."""
    if any(item.dep.target.module not in names for item in items if isinstance(item.dep.target.module, nn.Parameter)):
        return None
    found: dict[tuple[str, int | None], dict[int, list[int]]] = {}
    limits: list[tuple[dict[int, list[int]], int]] = []
    for item in items:
        layer = item.dep.target.module
        if layer not in names:
            continue  # an operation without weights
        axis, size = _axis(layer, is_output=graph.is_out_channel_pruning_fn(item.dep.handler))
        if size is None:
            return None
        indices: dict[int, list[int]] = defaultdict(list)
        for index, channel in zip(item.idxs, item.root_idxs, strict=True):
            indices[channel].append(index)
        found[names[layer], axis] = indices
        limits.append((indices, size))
    if all(axis != 1 for _, axis in found) or _is_misread(limits):
        return None
    in_all = sorted(set.intersection(*(set(indices) for indices, _ in limits)))
    channels = [c for c in in_all if all(max(indices[c]) < size for indices, size in limits)]
    places = [Place(*key, torch.tensor([indices[c] for c in channels])) for key, indices in found.items()]
    return Group(places[0].layer, tuple(places)) if channels else None


def _is_misread(limits: list[tuple[dict[int, list[int]], int]]) -> bool:
    """Whether some layer has several indices a channel, as if flattened, and another one indices of no channel."""
    flattened = any(len(at) > 1 for indices, _ in limits for at in indices.values())
    return flattened and any(sum(len(at) for at in indices.values()) != size for indices, size in limits)


def _axis(layer: nn.Module, *, is_output: bool) -> tuple[int | None, int | None]:
    """Axis of a layer's kernel on which channels stand, and its length; no length if the layer can lose none."""
    if isinstance(layer, NORMALISATIONS):
        return None, layer.num_features
    if not isinstance(layer, KERNELS) or (getattr(layer, "groups", 1) > 1 and not is_depthwise(layer)):
        return None, None
    axis = 0 if is_output or is_depthwise(layer) else 1
    return axis, layer.weight.shape[axis]


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a convolution has one filter a channel: it passes channels on, and reads none for another."""
    groups = getattr(layer, "groups", 1)
    return bool(groups > 1 and groups == getattr(layer, "in_channels", 0) == getattr(layer, "out_channels", 0))
