"""Early-bird tickets: how far the mask that would be drawn now is from those of the epochs before.

You et al. (2020), *Drawing Early-Bird Tickets: Toward More Efficient Training of Deep Networks*, section 3.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.pruning.allocation import exact, kept_after, to_remove
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.selection import lowest_removed
from deepprobe.pruning.stored import keep_masks, kept_masks
from deepprobe.records.step import Schedule, parse_schedule
from deepprobe.runs import FolderRun
from deepprobe.runs.masks import MASKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from deepprobe.training import Context

FOLDER = "early-bird"


class EarlyBirdCallback:
    """Callback for ``train``: the distance between masks drawn at successive epochs; nothing is pruned.

    Rows of split ``train`` and of no layer: ``mask_distance`` to the mask drawn before, and, once there are
    ``n_masks``, ``largest_mask_distance`` between the last and the others of these. You et al. call the ticket drawn
    where that first lies below 0.1 an early bird. Their masks are of channels, ranked by the scales of batch
    normalisation; these are of weights, ranked by magnitude over all layers, so that their threshold need not hold.

    The masks are kept in the run, so that distances after an interruption are those without.

    Args:
        every: When a mask is drawn; see ``parse_schedule``. Also of the untrained network, unless ``every`` names its
            points.
        fraction: Share of the weights that the mask removes, in (0, 1). Where the run trains a ticket, it is a share of
            the ticket's weights, and distances are over these.
        protect: Globs over names of layers that are never pruned, and not counted.
        n_masks: How many masks, the last one among them, ``largest_mask_distance`` looks at.

    Raises:
        ConfigError: If a value is out of its range, or ``every`` is no schedule.

    Example:
        >>> EarlyBirdCallback("1ep", fraction=0.7).n_masks
        5
    """

    def __init__(
        self, every: str | Schedule = "1ep", *, fraction: float = 0.5, protect: Sequence[str] = (), n_masks: int = 5
    ) -> None:
        if n_masks < 2:
            raise ConfigError(f"n_masks={n_masks}: a distance is between 2 masks or more")
        self.schedule = parse_schedule(every, also_at_start=True) if isinstance(every, str) else every
        self.fraction, self.protect, self.n_masks = exact(fraction), protect, n_masks
        self._drawn: list[Masks] = []

    @contextmanager
    def around_training(self, context: Context) -> Iterator[None]:
        """Take up the masks that an interrupted run had drawn."""
        self._drawn = kept_masks(context.run, context.model, folder=FOLDER, until=context.step.index)
        yield

    def __call__(self, context: Context) -> None:
        """Draw a mask and compare it with those before; on one rank, since all have the same weights."""
        if not context.ranks.is_main:
            return
        present = _present(context, protect=self.protect)
        mask = self._draw(present, context.model)
        before = self._drawn[-(self.n_masks - 1) :]
        distances = [mask_distance(mask, other, among=present) for other in before]
        if distances:
            context.log("train", mask_distance=distances[-1])
        if len(distances) == self.n_masks - 1:
            context.log("train", largest_mask_distance=max(distances))
        self._drawn = [*before, mask]
        keep_masks(context.run, mask, folder=FOLDER, step=context.step.index, n_needed=self.n_masks - 1)

    def _draw(self, present: Masks, model: nn.Module) -> Masks:
        """The mask of the network as it stands."""
        weights = present.parameters_of(model)
        n_removed = to_remove(present, kept_after(present.counts, [self.fraction]))
        return lowest_removed({name: w.detach().abs() for name, w in weights.items()}, present, n_removed)


def mask_distance(one: Masks, other: Masks, *, among: Masks | None = None) -> float:
    """Normalised Hamming distance: the share of entries in which two masks differ.

    Args:
        one: Masks.
        other: Masks of the same network.
        among: Masks of the entries to look at; all by default.

    Returns:
        The distance, from 0 (equal) to 1. Masks drawn at random at density d differ in 2 d (1 − d) on average.

    Raises:
        ShapeError: If the masks are not of the same network.

    Example:
        >>> kept = torch.tensor([True, True, False, False])
        >>> mask_distance(Masks({"weight": kept}), Masks({"weight": kept.roll(1)}))
        0.5
    """
    among = Masks({name: torch.ones_like(mask) for name, mask in one.items()}) if among is None else among
    shapes = [{name: mask.shape for name, mask in masks.items()} for masks in (one, other, among)]
    if shapes.count(shapes[0]) < 3:
        raise ShapeError("the masks are of two networks: names or shapes of their tensors differ")
    differing = [
        torch.count_nonzero((mask ^ other[name].to(mask.device)) & among[name].to(mask.device))
        for name, mask in one.items()
    ]
    return sum(int(n) for n in differing) / among.n_kept


def _present(context: Context, *, protect: Sequence[str]) -> Masks:
    """What there is to remove: everything, or what the ticket that the run trains has."""
    dense = Masks.dense(context.model, protect=protect)
    run = context.run
    if not (isinstance(run, FolderRun) and run.has(MASKS)):
        return dense
    ticket = Masks.load(run.check(MASKS), context.model)
    return Masks({name: ticket.get(name, mask) for name, mask in dense.items()})
