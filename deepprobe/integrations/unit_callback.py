"""What every unit does while a network trains, into the run's one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepprobe.errors import ConfigError
from deepprobe.integrations.batches import first
from deepprobe.probes.unit_profiles import PROFILE_MEASURES, unit_profiles
from deepprobe.records.frame import LAYER, UNIT
from deepprobe.records.step import Schedule, parse_schedule
from deepprobe.seeding import preserved_random_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deepprobe.training import Context

UNIT_SAMPLES = 256
"""Samples of the probe set that units are looked at on."""

RECORDED = ("firing_rate", "dead", "rare", "saturated", "duplicate", "nonfinite")
"""Measures that are recorded by default: a network of 6,000 units then adds 36,000 rows a look, some 6 MB."""


class UnitCallback:
    """Callback for ``train``: ``deepprobe.unit_profiles`` on the probe set.

    ``since_when(run.units())`` then says from which step on each unit has been dead, saturated or a copy. Rows have
    ``split="probe"``. With several processes each looks at the same samples, and rank 0 records. Training goes on as if
    nothing had been looked at, bit for bit.

    Args:
        every: When: "1ep", "500it", "at 0,1,2,5,10ep", "log 1it..10ep"; see ``parse_schedule``.
        batches: Samples to look at, the same each time; by default the first 256 of the context's ``probe_batches``.
        layers: Which layers, as in ``deepprobe.unit_profiles``.
        tap: ``input``, ``output`` or ``block``.
        view: ``channels``, ``tokens``, ``pooled`` or ``samples``.
        measures: Columns of ``unit_profiles`` to record, each a row a unit and look.
        also_at_start: Also look at the untrained network, unless ``every`` names its points.

    Raises:
        ConfigError: If ``every`` is no schedule, or a measure is none that units have.

    Example:
        >>> UnitCallback("at 0,1,5ep").measures[:2]
        ('firing_rate', 'dead')
    """

    def __init__(
        self,
        every: str | Schedule = "1ep",
        *,
        batches: Iterable[Any] | None = None,
        layers: Any = None,
        tap: str = "input",
        view: str = "channels",
        measures: Sequence[str] = RECORDED,
        also_at_start: bool = True,
    ) -> None:
        self.schedule = parse_schedule(every, also_at_start=also_at_start) if isinstance(every, str) else every
        self.batches = None if batches is None else list(batches)
        self.layers, self.tap, self.view, self.measures = layers, tap, view, tuple(measures)
        unknown = [measure for measure in self.measures if measure not in PROFILE_MEASURES]
        if unknown or not self.measures:
            raise ConfigError(f"measures={measures!r}: name some of {', '.join(PROFILE_MEASURES)}")

    def __call__(self, context: Context) -> None:
        """Look at the network as it stands; on every rank, for layers may be collective."""
        batches = list(first(context.probe_batches, UNIT_SAMPLES)) if self.batches is None else self.batches
        with preserved_random_states():
            table = unit_profiles(
                context.model, batches, layers=self.layers, tap=self.tap, view=self.view, device=context.device,
                progress=False,
            )  # fmt: skip
        errors = [f"{measure}_se" for measure in self.measures if f"{measure}_se" in table]
        kept = [column for column in (*LAYER, UNIT, *self.measures, *errors) if column in table]
        if context.ranks.is_main:
            context.record(table[kept])
