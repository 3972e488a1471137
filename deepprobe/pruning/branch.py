"""One branch of one seed: the chain of tickets, or a control of its rounds, each training a run of its own.

Everything a training begins from is read from the runs before it, so that it does not matter whether these were made
just now, yesterday, or by another process. A training that is complete is left alone; one that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deepprobe.distributed import process_group
from deepprobe.errors import NonFiniteError, RunError
from deepprobe.pruning.barrier import BarrierAtTheEnd
from deepprobe.pruning.callbacks import ConditioningAtTheEnd, MaskedGradients, MaskedTraining, WithinEpochs
from deepprobe.pruning.collapse import warn_of_collapse
from deepprobe.pruning.config import LotteryConfig
from deepprobe.pruning.controls import random_masks, shuffled_masks
from deepprobe.pruning.criteria import Subject
from deepprobe.pruning.gradual import GradualPruningCallback
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.removal import removed
from deepprobe.pruning.rewinding import masked
from deepprobe.pruning.sources import Sources
from deepprobe.runs import FolderRun, open_run
from deepprobe.runs.experiment import TICKET
from deepprobe.runs.manifest import MANIFEST
from deepprobe.runs.masks import MASKS, read_masks
from deepprobe.runs.run import FINAL
from deepprobe.seeding import derive_seed
from deepprobe.training.checkpoint import Checkpoint, load_checkpoint, put_weights
from deepprobe.training.checkpoints import FOLDER, file_of_step
from deepprobe.training.config import TrainConfig
from deepprobe.training.session import device_named, train
from deepprobe.training.stream import first_samples

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from deepprobe.distributed import Ranks
    from deepprobe.pruning.sources import Splits
    from deepprobe.training.context import Callback

T = TypeVar("T")


def run_name(seed: int, number: int, branch: str) -> str:
    """Folder of the run of a seed, a round and a branch."""
    return f"seed{seed}-round{number:02d}-{branch}"


@dataclass(frozen=True)
class Branch:
    """The trainings of a branch of a seed, in their order; calling it makes those that are not there.

    Attributes:
        sources: Network and data.
        config: Settings of the experiment.
        out: Its folder.
        seed: Seed.
        name: ``ticket``, or a control.
        about: Plain values to keep with each run.
        callbacks: Further callbacks of each training.
        quiet: Show no progress.
        tell: Called with the run after each training that was made.
    """

    sources: Sources
    config: LotteryConfig
    out: Path
    seed: int
    name: str
    about: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    quiet: bool = False
    tell: Callable[[Any], None] | None = None

    def __call__(self) -> None:
        """Make what is not there.

        Raises:
            NonFiniteError: If the dense network, or a ticket, diverged: there is nothing to prune then.
            RunError: If what a control needs of the tickets is not there, or is damaged.
            KeyboardInterrupt: After Ctrl-C or SIGTERM, when a checkpoint has been written.
        """
        device = device_named(self.config.training.device)
        with process_group(device) as ranks:
            splits = self.sources.splits().of_seed(self.seed, share=self.config.training.validation_share)
            work = _Work(self, splits=splits, device=device, ranks=ranks)
            for number in self.config.rounds_of(self.name):
                work.round(number)


@dataclass(frozen=True)
class _Work:
    """A branch under way, with its data and the processes that work on it together; only rank 0 reads files."""

    branch: Branch
    splits: Splits
    device: torch.device
    ranks: Ranks

    def round(self, number: int) -> None:
        """Train the network of a round, if that is not done."""
        branch, name = self.branch, run_name(self.branch.seed, number, self.branch.name)
        status = self._from_main(lambda: self._status(name))
        if status not in FINAL:
            run = self._train(number, name)
            status = self.ranks.broadcast(run.status)
            if branch.tell is not None and self.ranks.is_main:
                branch.tell(run)
        if status == "diverged" and branch.name == TICKET:
            raise NonFiniteError(f"{name} diverged ({self._message(name)}): there is no trained network to prune")

    def _train(self, number: int, name: str) -> Any:
        """Train it, or go on."""
        branch, config = self.branch, self._config(number)
        network = self._network(number)
        masks = self._masks(number, network)
        start = self._start(number, masks)
        if start is None:
            masks.apply(network)
        held_out = {"validation": self.splits.validation, "test": self.splits.test}
        return train(
            network, self.splits.train, validation_set=self.splits.validation, test_set=self.splits.test,
            config=config, start=start, keep=self._keep(number), out=branch.out, name=name,
            callbacks=self._callbacks(number, network, masks, config, start, held_out),
            about={**branch.about, "lottery": self._about(number, masks)}, quiet=branch.quiet, brief=True,
        )  # fmt: skip

    def _config(self, number: int) -> TrainConfig:
        """How a round is trained."""
        branch, rewinding = self.branch, self.branch.config.rewinding
        config = replace(branch.config.training, seed=branch.seed, validation_share=0.0)
        if branch.name == "dense":
            return replace(config, epochs=config.epochs * (number + 1))
        if branch.name == "reinit" or number == 0:
            goes_on = False
        else:
            config, goes_on = rewinding.config(config), rewinding.kind in ("fine-tune", "none")
        if branch.name == "sibling":
            return replace(config, seed=derive_seed(branch.seed, "sibling", number))
        return replace(config, seed=derive_seed(branch.seed, "round", number)) if goes_on else config

    def _network(self, number: int) -> nn.Module:
        """The network with its initial weights, of which some are drawn anew."""
        sources, seed = self.branch.sources, self.branch.seed
        if self.branch.name == "reinit":
            return sources.network_anew(derive_seed(seed, "reinit", number), self.splits)
        return sources.network(seed, self.splits)

    def _keep(self, number: int) -> tuple[str, ...]:
        """The point that later rounds go back to, whose checkpoint stays."""
        rewinding = self.branch.config.rewinding
        return (str(rewinding.point),) if self.branch.name == TICKET and number == 0 else ()

    def _masks(self, number: int, network: nn.Module) -> Masks:
        """What a round keeps: what its run says, if that was begun; else found from the rounds before."""
        branch, config = self.branch, self.branch.config
        if number == 0 or branch.name == "dense" or self._is_gradual(number):
            return Masks.dense(network, protect=config.protect)
        kept = self._from_main(lambda: self._masks_in(run_name(branch.seed, number, branch.name)))
        if kept is not None:
            return Masks.of_arrays(kept, network, origin=run_name(branch.seed, number, branch.name))
        if branch.name == TICKET:
            return self._pruned(number)
        name = run_name(branch.seed, number, TICKET)
        ticket = self._from_main(lambda: self._masks_in(name))
        if ticket is None:
            raise RunError(f"{branch.out / name} has no masks yet: the ticket of a round is made before its controls")
        masks = Masks.of_arrays(ticket, network, origin=name)
        if branch.name == "random-mask":
            return random_masks(masks, seed=derive_seed(branch.seed, "random-mask", number))
        if branch.name == "shuffled-mask":
            return shuffled_masks(masks, network, seed=derive_seed(branch.seed, "shuffled-mask", number))
        return masks

    def _pruned(self, number: int) -> Masks:
        """The masks of a ticket's next round."""
        branch, config = self.branch, self.branch.config
        network = branch.sources.network(branch.seed, self.splits)
        initial = {name: p.detach().clone().to(self.device) for name, p in network.named_parameters()}
        dense = Masks.dense(network, protect=config.protect)
        before = dense
        if config.pruning == "iterative" and not config.scores_start and number > 1:
            name = run_name(branch.seed, number - 1, TICKET)
            arrays = self._from_main(lambda: self._masks_in(name))
            before = Masks.of_arrays(arrays or {}, network, origin=name)
        scored = self._early() if config.scores_start else self._trained(number)
        put_weights(network, scored.weights, origin="the round before")
        network.to(self.device)
        before = Masks({name: mask.to(self.device) for name, mask in before.items()})
        before.apply(network)
        sizes = {name: mask.numel() for name, mask in before.items()}
        seed = derive_seed(branch.seed, "criterion", number)
        subject = Subject(network, before, initial, self._training_samples(), seed)
        masks = removed(subject, config.criterion, config.kept(sizes, number))
        warn_of_collapse(before, masks)
        found = self.ranks.broadcast(masks.arrays())
        return Masks.of_arrays(found, branch.sources.network(branch.seed, self.splits), origin="rank 0")

    def _start(self, number: int, masks: Masks) -> Checkpoint | None:
        """The state that the training begins from; None for the network as it is."""
        branch, rewinding = self.branch, self.branch.config.rewinding
        if branch.name in ("reinit", "dense") or (branch.name == TICKET and number == 0) or self._is_gradual(number):
            return None
        if number == 0:  # a sibling of the dense network
            start = masked(self._early(), masks)
        else:
            trained = self._early() if rewinding.kind == "weights" else self._trained(number)
            start = rewinding.start(self._early(), trained, masks)
        if branch.name == "sibling":
            start = replace(start, training={**(start.training or {}), "ranks": None})
        return start

    def _callbacks(
        self, number: int, network: nn.Module, masks: Masks, config: TrainConfig, start: Checkpoint | None,
        held_out: Mapping[str, Any],
    ) -> list[Callback]:  # fmt: skip
        """What watches the training."""
        branch = self.branch
        begins = 0 if start is None else int((start.training or {})["index"])
        found: list[Any] = [MaskedTraining(masks, start=begins)]
        if self._is_gradual(number):
            found = [self._gradual(number)]
        elif config.clip_norm is not None:
            found.append(MaskedGradients(masks, network))
        there = {split: data for split, data in held_out.items() if data is not None}
        if branch.config.evaluate_every != "1ep" and there:
            found.append(WithinEpochs(branch.config.evaluate_every, there))
        if branch.config.probe_samples:
            source = next((d for d in (held_out["validation"], held_out["test"]) if d is not None), self.splits.train)
            samples = first_samples(
                source, device=self.device, n_samples=branch.config.probe_samples, batch_size=256
            )  # fmt: skip
            found.append(ConditioningAtTheEnd(config.epochs, samples))
        if branch.name == "sibling":
            name = run_name(branch.seed, number, TICKET)
            other = self._from_main(lambda: self._last(name).weights)
            found.append(BarrierAtTheEnd(config.epochs, other, train=self.splits.train, test=self.splits.test))
        return [*found, *branch.callbacks]

    def _training_samples(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The first samples of the training data, for criteria that need gradients."""
        return first_samples(
            self.splits.train, device=self.device, n_samples=self.branch.config.criterion_samples, batch_size=256
        )

    def _is_gradual(self, number: int) -> bool:
        """Whether the network of a round is pruned while it trains."""
        return self.branch.name == TICKET and number > 0 and self.branch.config.pruning == "gradual"

    def _gradual(self, number: int) -> GradualPruningCallback:
        """What prunes it."""
        config = self.branch.config
        return GradualPruningCallback(
            config.gradual, fraction=config.shares(number), criterion=config.criterion, allocation=config.allocation,
            rates=config.rates, protect=config.protect, batches=self._training_samples(),
        )  # fmt: skip

    def _about(self, number: int, masks: Masks) -> dict[str, Any]:
        """Which training of the experiment it is, and how much is kept in the end."""
        kept: Any = masks.n_kept
        if self._is_gradual(number):
            kept = self.branch.config.kept({name: mask.numel() for name, mask in masks.items()}, number)
            kept = kept if isinstance(kept, int) else sum(kept.values())
        return {
            "seed": self.branch.seed, "round": number, "branch": self.branch.name, "n_weights": masks.n_weights,
            "n_kept": kept,
        }  # fmt: skip

    def _early(self) -> Checkpoint:
        """The dense training at the point that is gone back to."""
        branch, point = self.branch, self.branch.config.rewinding.point

        def read() -> Checkpoint:
            run = self._opened(run_name(branch.seed, 0, TICKET))
            length = (_last(run).training or {})["iterations_per_epoch"]
            return load_checkpoint(run.check(file_of_step(point.iterations_in(length))))

        return self._from_main(read)

    def _trained(self, number: int) -> Checkpoint:
        """The trained network that a round prunes: of the round before, or the dense one."""
        iterative = self.branch.config.pruning == "iterative"
        name = run_name(self.branch.seed, number - 1 if iterative else 0, TICKET)
        return self._from_main(lambda: self._last(name))

    def _last(self, name: str) -> Checkpoint:
        """The last checkpoint of a run that is complete."""
        run = self._opened(name)
        if run.status != "complete":
            raise RunError(f"{run.path} is {run.status}: it must be complete before others begin from it")
        return _last(run)

    def _opened(self, name: str) -> FolderRun:
        """A run of the experiment; RunError if it is not there."""
        return open_run(self.branch.out / name)

    def _status(self, name: str) -> str:
        """How far a run has come; empty if there is none."""
        return self._opened(name).status if (self.branch.out / name / MANIFEST).is_file() else ""

    def _message(self, name: str) -> str:
        """What a run's status is about."""
        return str(self._from_main(lambda: self._opened(name).message))

    def _masks_in(self, name: str) -> dict[str, Any] | None:
        """The masks of a run, if it has some."""
        if not self._status(name):
            return None
        run = self._opened(name)
        return read_masks(run.check(MASKS)) if run.has(MASKS) else None

    def _from_main(self, read: Callable[[], T]) -> T:
        """What rank 0 reads, on every rank."""
        found: T = self.ranks.broadcast(read() if self.ranks.is_main else None)
        return found


def _last(run: FolderRun) -> Checkpoint:
    """The last checkpoint of a run."""
    names = run.files(FOLDER)
    if not names:
        raise RunError(f"{run.path} has no checkpoint; delete its folder, and it is made anew")
    return load_checkpoint(run.check(names[-1]))
