"""What watches the training of a branch: masks that hold, measures within an epoch, condition numbers at the end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from warnings import warn

import pandas as pd
import torch

from deepprobe.errors import DeepprobeError, UnknownNameError
from deepprobe.probes import spectra, weight_spectra
from deepprobe.records.step import At, Length, parse_schedule
from deepprobe.runs import FolderRun
from deepprobe.runs.masks import MASKS
from deepprobe.runs.stored import keep_spectra
from deepprobe.training.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from deepprobe.pruning.masks import Masks
    from deepprobe.records.spectrum import Spectrum
    from deepprobe.training.context import Context
    from deepprobe.training.stream import Data


class MaskedTraining:
    """Callback that keeps removed weights at zero through a training, and the masks in its run.

    Args:
        masks: What is kept.
        start: Step that the training begins from; what the optimizer remembers of removed weights is set to zero there.
    """

    def __init__(self, masks: Masks, *, start: int) -> None:
        self.masks, self.start = masks, start

    @contextmanager
    def around_training(self, context: Context) -> Iterator[None]:
        """Masks go into the run, and hold until training ends."""
        run = context.run
        if isinstance(run, FolderRun) and not run.has(MASKS):
            self.masks.save(run.path / MASKS)
            run.register(MASKS)
        assert context.optimizer is not None
        clear = context.step.index == self.start
        with self.masks.attach(context.optimizer, context.model, clear=clear, freeze=True):
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


class WithinEpochs:
    """Callback that measures the network on held-out data at points within epochs; ``train`` does so at their ends.

    Args:
        every: When, as in ``parse_schedule``.
        held_out: Name of a split to its data.
    """

    def __init__(self, every: str, held_out: Mapping[str, Data]) -> None:
        self.schedule, self.held_out = parse_schedule(every), held_out

    def __call__(self, context: Context) -> None:
        """Loss, accuracy and the like of every split."""
        if context.step.ends_epoch:
            return
        precision = "fp32" if context.config is None else context.config.precision
        for split, data in self.held_out.items():
            values = evaluate(
                context.model, data, device=context.device, batch_size=1024, precision=precision, ranks=context.ranks
            )
            context.log(split, **values)


class ConditioningAtTheEnd:
    """Callback that takes spectra of representations and kernels once training has ended.

    Args:
        epochs: When that is.
        batches: Samples, pairs (inputs, labels).
    """

    def __init__(self, epochs: int, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.schedule, self.batches = At((Length(epochs),)), batches

    def __call__(self, context: Context) -> None:
        """Record condition numbers, ranks and singular values; a network that no probe can read is left out."""
        if not context.ranks.is_main:
            return
        try:
            for found in (self._representations(context, tap="block"), weight_spectra(context.model, progress=False)):
                context.record(pd.DataFrame([spectrum.row() for spectrum in found.values()]))
                keep_spectra(context.run, context.step.index, found)
        except DeepprobeError as error:  # a long experiment must not end because a network's tensors fit no view
            warn(f"condition numbers of {context.run.name} are left out: {error}", stacklevel=2)

    def _representations(self, context: Context, *, tap: str) -> dict[str, Spectrum]:
        """Spectra of blocks, or of layers where there are no blocks."""
        try:
            return spectra(
                context.model, self.batches, tap=tap, view="channels", rows=4, seed=context.seed,
                device=context.device, progress=False,
            )  # fmt: skip
        except UnknownNameError:
            if tap != "block":
                raise
            return self._representations(context, tap="output")
