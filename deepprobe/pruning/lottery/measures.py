"""What is measured of every training of an experiment, beside what ``train`` measures itself."""

from __future__ import annotations

from typing import TYPE_CHECKING
from warnings import warn

import pandas as pd
import torch

from deepprobe.errors import DeepprobeError, UnknownNameError
from deepprobe.probes import spectra, weight_spectra
from deepprobe.records.step import At, Length, parse_schedule
from deepprobe.runs.stored import keep_spectra
from deepprobe.training.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepprobe.records.spectrum import Spectrum
    from deepprobe.training.context import Context
    from deepprobe.training.stream import Data


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
