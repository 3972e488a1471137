"""Removal: score, select, set to zero."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from deepprobe.errors import ConfigError
from deepprobe.hooks.passes import as_batches
from deepprobe.pruning.allocation import kept_after, to_remove
from deepprobe.pruning.collapse import warn_of_collapse
from deepprobe.pruning.criteria import STEPS, Subject, criterion_of
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.prunable import prunable
from deepprobe.pruning.selection import lowest_removed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from torch import Tensor, nn

    from deepprobe.pruning.criteria import Criterion


def prune(
    model: nn.Module,
    criterion: str | Criterion = "magnitude",
    allocation: str = "global",
    fraction: float | Fraction = 0.2,
    *,
    masks: Masks | None = None,
    rates: Mapping[str, float] | None = None,
    protect: Sequence[str] = (),
    initial: Mapping[str, Tensor] | None = None,
    batches: Any = (),
    n_iterations: int | None = None,
    seed: int = 0,
) -> Masks:
    """Remove a share of the weights that are left, those of the lowest scores: round(N · (1 − fraction)) of N stay.

    Args:
        model: The network; its removed weights become zero, in place, and nothing else in it changes. What keeps them
            at zero while it trains is ``masks.attach(optimizer, model)``.
        criterion: What is removed first: one of ``CRITERIA``, or a function from a ``Subject`` to scores.
        allocation: ``global``: weights of all layers compete; ``layerwise``: each layer loses the same share.
        fraction: Share of the kept weights that goes, between 0 and 1.
        masks: What is kept so far; everything by default.
        rates: Only layerwise: glob over layer names, or ``output`` for the last, to the factor on the share.
        protect: Globs over names of layers that are neither pruned nor counted.
        initial: Weights at initialisation, a state dict, for ``movement`` and ``magnitude-increase``.
        batches: Training samples, (inputs, integer targets) or a list of such pairs, for criteria with gradients.
        n_iterations: Steps in which the weights go, with scores anew in between; 1 by default, for ``synflow`` 100.
        seed: Of what the criterion draws.

    Returns:
        The new masks.

    Raises:
        ConfigError: If the fraction does not lie between 0 and 1, settings rule each other out, every layer is
            protected, or the criterion lacks samples or initial weights.
        UnknownNameError: If there is no such criterion or allocation, a glob matches no layer, or nothing is prunable.
        ShapeError: If masks, initial weights or scores are of another network.
        NonFiniteError: If a score is NaN.

    Warns:
        LayerCollapseWarning: If a layer is left with fewer weights than outputs.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
        >>> masks = prune(net, "magnitude", fraction=0.2)
        >>> prune(net, "magnitude", fraction=0.2, masks=masks)
        Masks(2 layers, 160 of 250 weights kept, 64.00%)
    """
    before = _masks_of(model, masks, protect)
    kept = kept_after(before.counts, [fraction], allocation=allocation, rates=rates)
    subject = Subject(model, before, initial, _list_of(batches), seed)
    after = removed(subject, criterion, kept, n_iterations=n_iterations)
    warn_of_collapse(before, after, stacklevel=2)
    return after


def removed(
    subject: Subject, criterion: str | Criterion, kept: int | Mapping[str, int], *, n_iterations: int | None = None
) -> Masks:
    """Masks with exactly so many weights kept, applied to the model: ``prune`` for a number instead of a share.

    Args:
        subject: The network and what is kept so far; if anything fails its kept weights are as before.
        criterion: As in ``prune``.
        kept: Weights that are to be left, of all layers or of each parameter, as from ``kept_after``.
        n_iterations: As in ``prune``.

    Returns:
        The new masks.

    Raises:
        ConfigError: If more are to be left than are kept, or the criterion lacks samples or initial weights.
        UnknownNameError: If there is no such criterion.
        ShapeError: If masks, initial weights or scores are of another network.
        NonFiniteError: If a score is NaN.
    """
    score, n_steps = criterion_of(criterion), _steps(criterion, n_iterations)
    masks, start = subject.masks, subject.masks.counts
    to_remove(masks, kept)
    weights = {name: p.detach().clone() for name, p in subject.parameters().items()} if n_steps > 1 else {}
    try:
        for step in range(1, n_steps + 1):
            now = _on_the_way(start, kept, step / n_steps) if step < n_steps else kept
            if masks.n_kept < masks.n_weights:
                masks.apply(subject.model)
            found = score(Subject(subject.model, masks, subject.initial, subject.batches, subject.seed))
            masks = lowest_removed(found, masks, to_remove(masks, now))
    except BaseException:
        with torch.no_grad():
            for name, weight in weights.items():
                subject.parameters()[name].copy_(weight)
        raise
    masks.apply(subject.model)
    return masks


def _masks_of(model: nn.Module, masks: Masks | None, protect: Sequence[str]) -> Masks:
    """What is kept so far; an error if it covers a protected layer."""
    if masks is None:
        return Masks.dense(model, protect=protect)
    masks.parameters_of(model)
    spared = prunable(model).keys() - prunable(model, protect=protect).keys() if protect else set()
    covered = [name for name in masks if name in spared]
    if covered:
        raise ConfigError(f"protect={list(protect)} names {', '.join(covered)}, which the masks cover")
    return masks


def _list_of(batches: Any) -> list[Any]:
    """One pair, or several batches, as a list."""
    return list(as_batches(batches))


def _steps(criterion: str | Criterion, n_iterations: int | None) -> int:
    """Steps in which the weights go; ConfigError if it is no number from 1."""
    if n_iterations is None:
        return STEPS.get(criterion, 1) if isinstance(criterion, str) else 1
    try:
        n = operator.index(n_iterations)
    except TypeError:
        n = 0
    if n < 1:
        raise ConfigError(f"n_iterations={n_iterations!r}: name a whole number from 1")
    return n


def _on_the_way(start: Mapping[str, int], kept: int | Mapping[str, int], passed: float) -> int | dict[str, int]:
    """What is kept after a part of the steps, each of which removes the same share (Tanaka et al. 2020)."""
    if isinstance(kept, Mapping):
        return {name: _between(start[name], n, passed) for name, n in kept.items()}
    return _between(sum(start.values()), kept, passed)


def _between(first: int, last: int, passed: float) -> int:
    """The geometric way from one number to another."""
    return max(last, round(first * (last / first) ** passed)) if first else 0
