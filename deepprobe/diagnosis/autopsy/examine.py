"""One call: train the first steps again, watched, and say what happened in which order."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from deepprobe.diagnosis.autopsy.events import Event, events, events_table
from deepprobe.diagnosis.autopsy.observer import SAMPLES
from deepprobe.diagnosis.autopsy.rerun import observe
from deepprobe.diagnosis.autopsy.words import outcome, paragraph

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from deepprobe.hooks.select import LayerSelection
    from deepprobe.training import TrainConfig
    from deepprobe.training.stream import Data


@dataclass(frozen=True, eq=False)
class Autopsy:
    """What happened in the first steps of a training.

    Attributes:
        events: What went wrong, by step, and within a step from the gradient to the answer.
        paragraph: That in words, with how it went, and with what remained well.
        outcome: ``diverged``, ``learns``, ``falls`` or ``stuck`` (``words.outcome``), of these steps only.
        steps: One row a step: learning rate ``lr``, norm of the whole gradient before clipping, and what clipping
            multiplied it by, of the update that led to it; loss, accuracy and predictions on the probe batch.
        layers: One row a step and layer call, with the LAYER columns and ``n_units mean rms max_abs share_zero
            share_saturated share_nonfinite n_dead dead_share cosine spread effective_rank numerical_rank`` (view
            ``samples``, uncentred) and, at some steps, ``precision``: the spectral norm of float32's error over σ₁.
        kernels: One row a step from 1 on and kernel: ``update_ratio gradient_norm`` (before clipping) ``weight_norm
            weight_rms weight_max`` and ``growth``, the norm over that before training.
    """

    events: tuple[Event, ...]
    paragraph: str
    outcome: str
    steps: pd.DataFrame
    layers: pd.DataFrame
    kernels: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """One row an event: ``step until rule says layer depth measure value threshold source``."""
        return events_table(self.events)

    def __str__(self) -> str:
        return self.paragraph

    def _repr_html_(self) -> str:
        """The paragraph and the events, for notebooks."""
        return f"<p>{escape(self.paragraph)}</p>{self.table().to_html(index=False, escape=True)}"


def autopsy(
    model: nn.Module,
    data: Data,
    config: TrainConfig,
    *,
    steps: int = 20,
    validation_set: Data | None = None,
    samples: int = SAMPLES,
    layers: LayerSelection = None,
    progress: bool = True,
) -> Autopsy:
    """Train the first steps of a training again, watch every one, and say what happened in which order.

    A copy of the network is trained by ``deepprobe.train`` with the settings of the whole training (data order,
    schedule, warm-up, clipping, precision), to the same bits; the model itself is left alone. What is watched costs
    about as much as the steps (``docs/autopsy.md``). Loss, predictions and activations are those of the first
    validation samples (else training samples), always the same, in evaluation mode but that batch normalisation uses
    their statistics: nothing drops out. The float64 passes hold those statistics fixed.

    Args:
        model: As it was before the training: untrained, with the weights that the training began from.
        data: What the training was given: two tensors (inputs, integer labels), or an iterable of batches.
        config: Settings of the whole training; ``epochs`` is not shortened, for schedules depend on it. ``compile`` and
            ``on_nonfinite`` do not matter.
        steps: Updates to watch.
        validation_set: As in ``train``, where the training had one.
        samples: Samples of the probe batch, 2 … 64.
        layers: Layers whose outputs are watched, as in ``deepprobe.spectra``; by default every non-linearity that is a
            module, and in a network without one every layer with weights. All kernels are watched in any case.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        The events, the paragraph and the tables.

    Raises:
        ConfigError: If ``steps`` or ``samples`` is out of range, the model cannot be copied, or settings do not fit.
        UnknownNameError: If ``layers`` matches nothing.
        ShapeError: If inputs, labels and logits do not fit.
        KeyboardInterrupt: After Ctrl-C, with how far it came; the model is as it was.

    Example:
        >>> import torch
        >>> from deepprobe.training import TrainConfig
        >>> x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
        >>> found = autopsy(torch.nn.Linear(4, 2), (x, y), TrainConfig(lr=1e-6, schedule="constant"), steps=2)
        >>> found.outcome, [event.rule for event in found.events]
        ('stuck', ['weights-stand-still'])
    """
    seen = observe(
        model, data, config, steps=steps, validation_set=validation_set, samples=samples, layers=layers,
        progress=progress,
    )  # fmt: skip
    found = events(seen)
    return Autopsy(found, paragraph(seen, found), outcome(seen), seen.steps, seen.layers, seen.kernels)
