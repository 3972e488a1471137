"""Gradual pruning: a network thinned out while it trains, quickly at first and ever more slowly.

Zhu & Gupta (2018), *To prune, or not to prune: exploring the efficacy of pruning for model compression*.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from deepprobe.errors import ConfigError
from deepprobe.pruning.allocation import exact, kept_after
from deepprobe.pruning.collapse import warn_of_collapse
from deepprobe.pruning.criteria import CRITERIA, NEEDS_BATCHES, NEEDS_INITIAL, Subject, criterion_of
from deepprobe.pruning.enforcement import MaskedGradients
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.removal import removed
from deepprobe.pruning.stored import keep_masks, kept_masks
from deepprobe.records.step import Length, Step
from deepprobe.runs import FolderRun
from deepprobe.runs.masks import MASKS
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from deepprobe.pruning.criteria import Criterion
    from deepprobe.training import Context

FOLDER = "masks"


@dataclass(frozen=True)
class CubicSchedule:
    """When weights are removed, and how many of those that will be are removed by then.

    Eq. (1) of Zhu & Gupta with s_i = 0: at the steps t = t₀, t₀ + Δt, …, t₀ + nΔt a share of
    s_f (1 − (1 − (t − t₀)/(nΔt))³) of the weights is removed.

    Attributes:
        begin: t₀; nothing is removed there yet.
        end: t₀ + nΔt; where Δt does not divide the way there, the last interval is shorter.
        every: Δt.
    """

    begin: Length
    end: Length
    every: Length

    @classmethod
    def parse(cls, text: str) -> CubicSchedule:
        """Read "BEGIN..END/EVERY", such as "1ep..5ep/100it"; ConfigError if the text is not of this form."""
        try:
            way, _, every = text.partition("/")
            begin, _, end = way.partition("..")
            found = cls(Length.parse(begin.strip()), Length.parse(end.strip()), Length.parse(every.strip()))
            if Length() in (found.end, found.every):
                raise ConfigError(text)
        except (ConfigError, AttributeError) as error:  # a value that is no text has no ``partition``
            raise ConfigError(
                f"{text!r} is no schedule of gradual pruning; write it as '1ep..5ep/100it': from when to when, and "
                "how often, weights are removed"
            ) from error
        return found

    def is_due(self, step: Step) -> bool:
        """Whether weights are removed at this step."""
        begin, end, every = self._indices(step)
        return begin < step.index <= end and ((step.index - begin) % every == 0 or step.index == end)

    def share(self, step: Step) -> Fraction:
        """Share of those to be removed in all that are removed at this step, exact: 0 at the begin, 1 from the end on.

        Example:
            >>> CubicSchedule.parse("100it..500it/100it").share(Step(300, iterations_per_epoch=50))
            Fraction(7, 8)
        """
        begin, end, _ = self._indices(step)
        passed = min(max(Fraction(step.index - begin, end - begin), Fraction(0)), Fraction(1))
        return 1 - (1 - passed) ** 3

    def check(self, iterations_per_epoch: int, *, last: int | None) -> None:
        """ConfigError if it begins at its end or later, or training ends before it does."""
        begin, end, _ = self._indices(Step(0, iterations_per_epoch))
        if begin >= end:
            raise ConfigError(f"gradual pruning from {self.begin} to {self.end}: it must end after it begins")
        if last is not None and end > last:
            raise ConfigError(f"gradual pruning ends at step {end} ({self.end}), and training already at {last}")

    def _indices(self, step: Step) -> tuple[int, int, int]:
        """Begin, end and interval in updates."""
        n = step.iterations_per_epoch
        return self.begin.iterations_in(n), self.end.iterations_in(n), self.every.iterations_in(n)


class GradualPruningCallback:
    """Callback for ``train`` that prunes a network while it trains.

    At each point of the schedule the share that it says of all weights to go is gone, to the weight: those of the
    lowest scores, which stay at zero through every update. Where ``train`` evaluates at the same step, it does so
    before. Rows of split ``train`` hold the ``density`` from then on.

    Masks are kept in the run, so that an interrupted training goes on to the same bits: those of each point below
    ``masks/``, as long as a checkpoint needs them, the last ones as ``masks.safetensors``.

    Args:
        when: From when to when, and how often: "1ep..5ep/100it"; see ``CubicSchedule``.
        fraction: Share of the weights that is removed in the end, in (0, 1); or several: as many are removed as by
            rounds of which each removes one of these shares of what is left.
        criterion: What is removed first: one of ``CRITERIA``, or a function of a ``Subject``.
        allocation: "global", or "layerwise" for the same share of each layer.
        rates: Layerwise: glob over layer names, or ``output``, to the factor on the layer's share.
        protect: Globs over names of layers that are never pruned, and not counted.
        batches: Samples, pairs (inputs, labels), for criteria that need gradients.

    Attributes:
        masks: Those in force, or last in force; None before the first training.

    Raises:
        ConfigError: If ``when`` is no schedule, the fraction no share, or the criterion lacks what it needs.
        UnknownNameError: If there is no criterion of that name.

    Warns:
        LayerCollapseWarning: In training, if a layer is left with fewer weights than outputs.
    """

    def __init__(
        self,
        when: str | CubicSchedule,
        *,
        fraction: float | Sequence[float],
        criterion: str | Criterion = "magnitude",
        allocation: str = "global",
        rates: Mapping[str, float] | None = None,
        protect: Sequence[str] = (),
        batches: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        self.schedule = CubicSchedule.parse(when) if isinstance(when, str) else when
        criterion_of(criterion)
        self.criterion, self.protect, self.batches = criterion, protect, batches
        if criterion in NEEDS_INITIAL:
            raise ConfigError(
                f"criterion={criterion!r} compares with the initial weights, which a training that is taken up again "
                f"does not have; there are {', '.join(sorted(CRITERIA.keys() - NEEDS_INITIAL))}"
            )
        if criterion in NEEDS_BATCHES and not batches:
            raise ConfigError(f"criterion={criterion!r} looks at samples; give batches=[(inputs, labels)]")
        shares = [exact(share) for share in (fraction if isinstance(fraction, Sequence) else [fraction])]
        self._kept_after = partial(kept_after, shares=shares, allocation=allocation, rates=rates)
        self._final: int | dict[str, int] = 0
        self.masks: Masks | None = None
        self._handle: RemovableHandle | None = None
        self._gradients: MaskedGradients | None = None

    @contextmanager
    def around_training(self, context: Context) -> Iterator[None]:
        """Hold the masks that an interrupted run had reached, or else the whole network.

        Raises:
            ConfigError: If schedule, rates or protected layers do not fit network and training.
            RunError: If the masks of the run are damaged.
        """
        step = context.step
        last = None if context.config is None else context.config.epochs * step.iterations_per_epoch
        self.schedule.check(step.iterations_per_epoch, last=last)
        dense = Masks.dense(context.model, protect=self.protect)
        self._final = self._kept_after(dense.counts)
        found = kept_masks(context.run, context.model, folder=FOLDER, until=step.index)
        arrays = context.ranks.broadcast(found[-1].arrays() if found else None)
        reached = dense if arrays is None else Masks.of_arrays(arrays, context.model, origin=context.run.name)
        if isinstance(context.run, FolderRun) and self.schedule.share(step) < 1:
            context.run.forget(MASKS)  # of a later step than the one that is gone back to
        self._hold(reached, context, clear=False)
        try:
            yield
        finally:
            self._let_go()

    def __call__(self, context: Context) -> None:
        """Remove what the schedule says, on all ranks what rank 0 finds."""
        assert self.masks is not None
        found = self._pruned(context, self.masks)
        if context.ranks.is_main:
            warn_of_collapse(self.masks, found, stacklevel=2)
        masks = Masks.of_arrays(context.ranks.broadcast(found.arrays()), context.model, origin="rank 0")
        context.ranks.copy_from_main(p.detach() for p in masks.parameters_of(context.model).values())
        self._hold(masks, context, clear=True)
        if not context.ranks.is_main:
            return
        context.log("train", density=masks.density)
        keep_masks(context.run, masks, folder=FOLDER, step=context.step.index)
        if isinstance(context.run, FolderRun) and self.schedule.share(context.step) == 1:
            context.run.forget(MASKS)
            masks.save(context.run.path / MASKS)
            context.run.register(MASKS)

    def on_gradients(self) -> None:
        """Where the norm of gradients is clipped, those of removed weights do not count."""
        if self._gradients is not None:
            self._gradients.on_gradients()

    def _pruned(self, context: Context, before: Masks) -> Masks:
        """The masks of this step, from those before it."""
        share, sizes = self.schedule.share(context.step), {name: mask.numel() for name, mask in before.items()}
        kept: int | dict[str, int]
        if isinstance(self._final, int):
            kept = _on_the_way(sum(sizes.values()), self._final, share)
        else:
            kept = {name: _on_the_way(n, self._final[name], share) for name, n in sizes.items()}
        seed = derive_seed(context.seed, "gradual", context.step.index)
        return removed(Subject(context.model, before, batches=self.batches, seed=seed), self.criterion, kept)

    def _hold(self, masks: Masks, context: Context, *, clear: bool) -> None:
        """Put masks in force in place of those before."""
        if context.optimizer is None:
            raise ConfigError("gradual pruning needs the optimizer of the training, which this loop does not tell")
        self._let_go()
        self.masks, self._handle = masks, masks.attach(context.optimizer, context.model, clear=clear)
        if context.config is not None and context.config.clip_norm is not None:
            self._gradients = MaskedGradients(masks, context.model)

    def _let_go(self) -> None:
        """Masks are no longer in force."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._gradients = None


def _on_the_way(n: int, n_final: int, share: Fraction) -> int:
    """How many of n weights are kept when a share of those to go has gone; exactly ``n_final`` at the end."""
    return n - round((n - n_final) * share)
