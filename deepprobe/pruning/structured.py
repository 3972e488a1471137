"""Whole channels: masks that remove them, and the smaller network that is left without them.

A channel is removed with the rows of kernels that write it and the columns that read it. What reads it is zero, so the
network computes the same without it, whatever biases and normalisation make of it, and ``smaller`` takes it out. Which
channels go together (all of a residual stream do), and how a layer loses one, is Torch-Pruning's work.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError
from deepprobe.extras import module_of_extra
from deepprobe.hooks.passes import as_batches, evaluating
from deepprobe.hooks.select import unwrapped
from deepprobe.pruning.allocation import kept_after, to_remove
from deepprobe.pruning.channels import Group, channel_groups, is_depthwise
from deepprobe.pruning.criteria import Subject, criterion_of
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.selection import lowest_removed

if TYPE_CHECKING:
    from fractions import Fraction

    from deepprobe.pruning.criteria import Criterion

ROUNDING = 1e-9
"""Largest difference of outputs, relative to the largest output, that is rounding in float64."""


def prune_channels(
    model: nn.Module,
    inputs: Tensor,
    criterion: str | Criterion = "magnitude",
    allocation: str = "layerwise",
    fraction: float | Fraction = 0.2,
    *,
    masks: Masks | None = None,
    protect: Sequence[str] = (),
    initial: Mapping[str, Tensor] | None = None,
    batches: Any = (),
    seed: int = 0,
) -> Masks:
    """Remove a share of the channels that are left: those that the weights of the lowest mean score write.

    Of channels that go together at least one stays. With ``magnitude`` and ``layerwise`` the filters go that Li et al.
    (2017), "Pruning filters for efficient convnets", remove.

    Args:
        model: The network; what writes and reads removed channels becomes zero, in place.
        inputs: A batch as the network takes it, to see which layers are connected.
        criterion: What is removed first: one of ``CRITERIA``, or a function from a ``Subject`` to scores.
        allocation: ``layerwise``: channels that go together lose the same share; ``global``: all compete.
        fraction: Share of the channels that goes, between 0 and 1.
        masks: What is kept so far; everything by default.
        protect: Globs over names of layers that lose no channel, in or out; not with masks.
        initial: Weights at initialisation, for criteria that compare.
        batches: Training samples, for criteria with gradients.
        seed: Of what the criterion draws.

    Returns:
        Masks over the weights that are not protected.

    Raises:
        ConfigError: If a setting is wrong, every layer is protected, no channel can be removed, or Torch-Pruning cannot
            follow the network.
        MissingPackageError: If Torch-Pruning is not installed.
        NonFiniteError: If a score is NaN.
        ShapeError: If masks, initial weights or scores are of another network.
        UnknownNameError: If there is no such criterion, or a glob matches no layer.
    """
    before = Masks.dense(model, protect=protect) if masks is None else masks
    score = criterion_of(criterion)
    groups = _free(channel_groups(model, inputs), before)
    alive = {group.name: group.read(before) for group in groups}
    if not any(bool(channels.any()) for channels in alive.values()):
        raise ConfigError(f"this {type(model).__name__} has no channels that can be removed; protect={list(protect)}")
    channels = Masks(alive)
    kept = kept_after(channels.counts, [fraction], allocation=allocation)
    before.apply(model)
    found = score(Subject(model, before, initial, list(as_batches(batches)), seed))
    scores = {group.name: _channel_scores(group, found, before, alive[group.name]) for group in groups}
    left = lowest_removed(scores, channels, to_remove(channels, _at_least_one(kept, channels.counts)))
    after = _without(before, groups, left)
    after.apply(model)
    return after


def smaller(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The network without the channels that nothing reads: the same function of fewer weights.

    Args:
        model: A network whose channels were removed, which is left as it is; any other will do in which all weights
            that read a channel are zero.
        inputs: A batch as the network takes it, to see which layers are connected and to compare the outputs.

    Returns:
        A new network. It needs a new optimizer: that of the model holds none of its parameters.

    Raises:
        ConfigError: If Torch-Pruning cannot follow the network, or its output would change by more than rounding.
        MissingPackageError: If Torch-Pruning is not installed.
    """
    network = copy.deepcopy(unwrapped(model))
    used = {name: p.detach() != 0 for name, p in network.named_parameters(remove_duplicate=False)}
    gone: dict[tuple[str, int | None], set[int]] = defaultdict(set)
    for group in channel_groups(network, inputs):
        dead = ~group.read(used)
        if bool(dead.all()):
            dead[0] = False  # a layer keeps one channel
        for place in group.places:
            gone[place.layer, place.axis] |= set(place.indices[dead].flatten().tolist())
    for (layer, axis), indices in gone.items():
        if indices:
            _take_out(network.get_submodule(layer), axis, sorted(indices))
    _same_function(unwrapped(model), network, inputs)
    return network


def _free(groups: Sequence[Group], masks: Masks) -> list[Group]:
    """Groups of which the masks cover every kernel: the others are protected."""
    return [group for group in groups if all(place.parameter in masks for place in (*group.writers, *group.readers))]


def _channel_scores(group: Group, scores: Mapping[str, Tensor], masks: Masks, alive: Tensor) -> Tensor:
    """Mean score of the kept weights that write each channel, float64; the best that is left is out of reach."""
    total = torch.zeros(len(alive), dtype=torch.float64)
    n_kept = torch.zeros(len(alive), dtype=torch.float64)
    for place in group.writers:
        kept = place.of(masks[place.parameter]).cpu()
        total += place.of(scores[place.parameter]).cpu().double().where(kept, 0.0).sum(dim=1)
        n_kept += kept.sum(dim=1)
    mean = total / n_kept.clamp(min=1)
    best = mean.where(alive, -torch.inf).argmax()  # NaN where there is one: it stays, and is refused
    if bool(alive.any()) and not bool(mean[best].isnan()):
        mean[best] = torch.inf
    return mean


def _at_least_one(kept: int | Mapping[str, int], counts: Mapping[str, int]) -> int | dict[str, int]:
    """How many channels stay if one of each group does."""
    if isinstance(kept, Mapping):
        return {name: max(n, min(counts[name], 1)) for name, n in kept.items()}
    return max(kept, sum(min(n, 1) for n in counts.values()))


def _without(masks: Masks, groups: Sequence[Group], left: Masks) -> Masks:
    """Masks without what writes and reads the channels that are not left."""
    found = {name: mask.clone() for name, mask in masks.items()}
    for group in groups:
        for place in (*group.writers, *group.readers):
            mask = found[place.parameter]
            indices = place.indices[~left[group.name]].flatten().to(mask.device)
            mask.index_fill_(place.axis or 0, indices, False)
    return Masks(found)


def _take_out(layer: nn.Module, axis: int | None, indices: list[int]) -> None:
    """Take channels out of a layer, as Torch-Pruning does; frozen parameters stay so."""
    tp = module_of_extra("torch_pruning", extra="structured")
    trained = {name: p.requires_grad for name, p in layer.named_parameters(recurse=False)}
    if axis is None:
        tp.prune_batchnorm_out_channels(layer, indices)
    elif isinstance(layer, nn.Linear):
        (tp.prune_linear_in_channels if axis else tp.prune_linear_out_channels)(layer, indices)
    elif is_depthwise(layer):
        tp.prune_depthwise_conv_out_channels(layer, indices)
    else:
        (tp.prune_conv_in_channels if axis else tp.prune_conv_out_channels)(layer, indices)
    for name, requires_grad in trained.items():
        layer.get_parameter(name).requires_grad_(requires_grad)


def _same_function(model: nn.Module, network: nn.Module, inputs: Tensor) -> None:
    """ConfigError if two networks differ by more than rounding, in float64 and eval mode."""
    outputs = []
    for each in (model, network):
        with evaluating(copy.deepcopy(each).double()) as plain:
            try:
                outputs.append(plain(inputs.double()))
            except RuntimeError as error:
                raise ConfigError(f"{type(model).__name__} does not run with fewer channels: {error}") from error
    first, second = outputs
    if first.shape != second.shape or float((first - second).abs().max()) > ROUNDING * float(first.abs().max()):
        raise ConfigError(
            f"{type(model).__name__} with fewer channels computes another function: Torch-Pruning does not follow all "
            "that it does with them"
        )
