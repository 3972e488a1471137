"""Gradients, weights and updates of every kernel while a network trains, into the run's one table."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deepprobe.hooks.kernels import kernels
from deepprobe.integrations.batches import first
from deepprobe.probes import gradient_signal, weight_spectra
from deepprobe.probes.updates import update_table
from deepprobe.probes.weights import table_of
from deepprobe.records.step import Schedule, parse_schedule
from deepprobe.runs.stored import keep_spectra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deepprobe.probes.gradients import Loss
    from deepprobe.training import Context

GRADIENT_SAMPLES = 128
"""Samples of the probe set on which gradients are taken: a third of a percent of an epoch of CIFAR-10."""


class GradientCallback:
    """Callback for ``train``: ``deepprobe.gradient_signal`` on the probe set, by depth.

    Rows have tap ``gradient``, view ``kernel`` and ``split="probe"``. With several processes each takes the same ones,
    as all have the same weights, and rank 0 records. Training goes on as if nothing had been looked at, bit for bit.

    Args:
        every: When: "1ep", "500it", "at 0,1,2,5,10ep", "log 1it..10ep"; see ``parse_schedule``.
        batches: Samples to use, the same each time; by default the first 128 of the context's ``probe_batches``.
        loss: As in ``gradient_signal``; by default cross-entropy without label smoothing.
        micro_batches: Parts into which each batch is cut.
        layers: Which layers, as in ``deepprobe.spectra``.
        also_at_start: Also on the untrained network, unless ``every`` names its points.

    Raises:
        ConfigError: If ``every`` is no schedule.

    Example:
        >>> GradientCallback("at 0,1,5,100it").micro_batches
        8
    """

    def __init__(
        self,
        every: str | Schedule = "1ep",
        *,
        batches: Iterable[Any] | None = None,
        loss: Loss | None = None,
        micro_batches: int = 8,
        layers: Any = None,
        also_at_start: bool = True,
    ) -> None:
        self.schedule = parse_schedule(every, also_at_start=also_at_start) if isinstance(every, str) else every
        self.batches = None if batches is None else list(batches)
        self.loss, self.micro_batches, self.layers = loss, micro_batches, layers

    def __call__(self, context: Context) -> None:
        """Take the gradients of the network as it stands; on every rank, for layers may be collective."""
        batches = list(first(context.probe_batches, GRADIENT_SAMPLES)) if self.batches is None else self.batches
        table = gradient_signal(
            context.model, batches, loss=self.loss, micro_batches=self.micro_batches, layers=self.layers,
            device=context.device, seed=context.seed, progress=False,
        )  # fmt: skip
        if context.ranks.is_main:
            context.record(table)


class WeightCallback:
    """Callback for ``train``: ``deepprobe.weight_table`` of the network, by depth.

    Rows have tap ``weight``, view ``kernel`` and ``split="probe"``; singular values the keys ``weight/kernel/layer``.

    Args:
        every: When; see ``parse_schedule``.
        layers: Which layers, as in ``deepprobe.spectra``.
        also_at_start: Also of the untrained network, unless ``every`` names its points.

    Raises:
        ConfigError: If ``every`` is no schedule.
    """

    def __init__(self, every: str | Schedule = "1ep", *, layers: Any = None, also_at_start: bool = True) -> None:
        self.schedule = parse_schedule(every, also_at_start=also_at_start) if isinstance(every, str) else every
        self.layers = layers

    def __call__(self, context: Context) -> None:
        """Read the weights as they stand."""
        if not context.ranks.is_main:
            return
        found = weight_spectra(context.model, self.layers, progress=False)
        context.record(table_of(found))
        keep_spectra(context.run, context.step.index, found)


class UpdateCallback:
    """Callback for ``train``: what single updates do to each kernel, by depth.

    Rows have tap ``update``, view ``kernel`` and ``split="train"``. For the update that leads to step t:
    ``update_ratio = ‖W_t − W_{t−1}‖_F / ‖W_{t−1}‖_F`` (about 1e-3 where training goes well: Karpathy's rule of thumb),
    ``gradient_norm``, that of the gradient as the optimizer used it (summed over micro-batches and ranks, clipped),
    and ``weight_norm = ‖W_t‖_F``. Weights are copied before the updates watched, and only then.

    Args:
        every: Which updates; see ``parse_schedule``.
        layers: Which layers, as in ``deepprobe.spectra``.

    Raises:
        ConfigError: If ``every`` is no schedule.
    """

    def __init__(self, every: str | Schedule = "1ep", *, layers: Any = None) -> None:
        self.schedule = parse_schedule(every) if isinstance(every, str) else every
        self.layers = layers

    @contextmanager
    def around_update(self, context: Context) -> Iterator[None]:
        """Watch one update: the same on all ranks, so that one of them records it."""
        if not context.ranks.is_main:
            yield
            return
        chosen = kernels(context.model, self.layers)
        before = [kernel.parameter.detach().clone() for kernel in chosen]
        yield
        context.record(update_table(chosen, before), split="train")
