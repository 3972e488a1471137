"""Callbacks of ``train`` that hold masks: weights stay zero, and gradients of removed weights do not count."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from deepprobe.runs import FolderRun
from deepprobe.runs.masks import MASKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from deepprobe.pruning.masks import Masks
    from deepprobe.training.context import Context


class MaskedTraining:
    """Callback that keeps removed weights at zero through a training, and the masks in its run.

    Args:
        masks: What is kept.
        start: Step that the training begins from; what the optimizer remembers of removed weights is set to zero there.
        freeze: As in ``Masks.attach``: nobody but the optimizer writes to the weights.
    """

    def __init__(self, masks: Masks, *, start: int, freeze: bool) -> None:
        self.masks, self.start, self.freeze = masks, start, freeze

    @contextmanager
    def around_training(self, context: Context) -> Iterator[None]:
        """Masks go into the run, and hold until training ends."""
        run = context.run
        if isinstance(run, FolderRun) and not run.has(MASKS):
            self.masks.save(run.path / MASKS)
            run.register(MASKS)
        assert context.optimizer is not None
        clear = context.step.index == self.start
        with self.masks.attach(context.optimizer, context.model, clear=clear, freeze=self.freeze):
            yield


class MaskedGradients:
    """Callback that sets gradients of removed weights to zero before their norm is clipped: they are not the ticket's.

    Args:
        masks: What is kept.
        model: The network.
    """

    def __init__(self, masks: Masks, model: nn.Module) -> None:
        parameters = masks.parameters_of(model)
        counts = masks.counts
        self.pairs = [(p, masks[name]) for name, p in parameters.items() if counts[name] < p.numel()]
        self.factors: list[torch.Tensor] = []

    @torch.no_grad()
    def on_gradients(self) -> None:
        """One product for all layers."""
        if not self.factors:  # made at the first update, when the model is on its device
            self.factors = [torch.empty_like(p).copy_(mask) for p, mask in self.pairs]
        found = [(p.grad, f) for (p, _), f in zip(self.pairs, self.factors, strict=True) if p.grad is not None]
        if found:
            torch._foreach_mul_([g for g, _ in found], [f for _, f in found])
