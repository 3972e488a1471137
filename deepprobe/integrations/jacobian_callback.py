"""Jacobians of a network while it trains, into the run's one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from deepprobe.errors import ConfigError
from deepprobe.integrations.batches import first
from deepprobe.probes import gradient_correlation, input_jacobian, jacobian_summary, layer_jacobians
from deepprobe.records.frame import LAYER
from deepprobe.records.step import Schedule, parse_schedule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deepprobe.probes.jacobians.graph import Mode
    from deepprobe.training import Context

WHOLE = {
    "sigma_max": "jacobian_sigma_max", "sigma_min": "jacobian_sigma_min",
    "condition_number": "jacobian_condition_number", "jacobian_norm": "jacobian_norm",
}  # fmt: skip
"""Medians of ``jacobian_summary`` and the measures under which they stand in the run, in the row of the input."""


class JacobianCallback:
    """Callback for ``train``: Jacobians of the whole network and by depth, and how far gradients of samples agree.

    Rows of ``layer_jacobians`` and ``gradient_correlation``, ``split="probe"``, view ``jacobian`` or, in training mode,
    ``jacobian-batch``. The row of the input (layer "", depth 0) also has ``jacobian_sigma_max``,
    ``jacobian_sigma_min``, ``jacobian_condition_number`` and ``jacobian_norm``: those of ``input_jacobian``, medians
    over samples. Training goes on as if nothing had been looked at, bit for bit. With several processes each takes the
    same ones, and rank 0 records.

    Args:
        every: When: "1ep", "500it", "at 0,1,2,5,10ep", "log 1it..10ep"; see ``parse_schedule``.
        batches: Samples to use, the same each time; by default the context's ``probe_batches``.
        layers: Which layers, as in ``layer_jacobians``.
        mode: ``"train"``: by each batch's statistics, as the network trains; ``"eval"``: by running statistics.
        n_samples: How many samples, at least two.
        probes: Random vectors a sample for the norms by depth.
        steps: Golub–Kahan steps a segment; 0 leaves the largest part of the cost out.
        in_float64: Differentiate a float64 copy.
        also_at_start: Also on the untrained network, unless ``every`` names its points.

    Raises:
        ConfigError: If ``every`` is no schedule, or ``n_samples`` no number from 2 on.

    Example:
        >>> JacobianCallback("at 0,1,10ep").mode
        'train'
    """

    def __init__(
        self,
        every: str | Schedule = "1ep",
        *,
        batches: Iterable[Any] | None = None,
        layers: Any = None,
        mode: Mode = "train",
        n_samples: int = 16,
        probes: int = 10,
        steps: int = 0,
        in_float64: bool = False,
        also_at_start: bool = True,
    ) -> None:
        if not isinstance(n_samples, int) or isinstance(n_samples, bool) or n_samples < 2:
            raise ConfigError(f"n_samples={n_samples!r} is not a number from 2 on: gradients of samples are compared")
        self.schedule = parse_schedule(every, also_at_start=also_at_start) if isinstance(every, str) else every
        self.batches = None if batches is None else list(batches)
        self.layers, self.probes, self.steps = layers, probes, steps
        self.mode: Mode = mode
        self.n_samples, self.in_float64 = n_samples, in_float64

    def __call__(self, context: Context) -> None:
        """Take the Jacobians of the network as it stands; on every rank, for layers may be collective."""
        batches = list(first(context.probe_batches, 8 * self.n_samples)) if self.batches is None else self.batches
        common: dict[str, Any] = {
            "n_samples": self.n_samples, "mode": self.mode, "in_float64": self.in_float64, "device": context.device,
            "seed": context.seed, "progress": False,
        }  # fmt: skip
        whole = jacobian_summary(input_jacobian(context.model, batches, **common))
        table = layer_jacobians(
            context.model, batches, layers=self.layers, probes=self.probes, steps=self.steps, **common
        )
        pairs = gradient_correlation(context.model, batches, layers=self.layers, probes=self.probes, **common)
        at_input = table.loc[[0], list(LAYER)].assign(**{name: whole[key] for key, name in WHOLE.items()})
        if context.ranks.is_main:
            for part in (table, pairs, at_input):
                context.record(pd.DataFrame(part))
