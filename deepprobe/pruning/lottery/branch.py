"""One branch of one seed: the chain of tickets, or a control of its rounds, each training a run of its own.

Everything a training begins from is read from the runs before it, so that it does not matter whether these were made
just now, yesterday, or by another process. A training that is complete is left alone; one that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deepprobe.distributed import process_group
from deepprobe.errors import NonFiniteError
from deepprobe.pruning.collapse import warn_of_collapse
from deepprobe.pruning.controls import random_masks, shuffled_masks
from deepprobe.pruning.criteria import NEEDS_BATCHES, Subject
from deepprobe.pruning.early_bird import EarlyBirdCallback
from deepprobe.pruning.enforcement import MaskedGradients, MaskedTraining
from deepprobe.pruning.gradual import GradualPruningCallback
from deepprobe.pruning.lottery.barrier import BarrierAtTheEnd
from deepprobe.pruning.lottery.config import LotteryConfig
from deepprobe.pruning.lottery.history import History, run_name
from deepprobe.pruning.lottery.measures import ConditioningAtTheEnd, WithinEpochs
from deepprobe.pruning.lottery.sources import Sources, seed_loader
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.removal import removed
from deepprobe.pruning.rewinding import masked
from deepprobe.runs.experiment import TICKET
from deepprobe.runs.run import FINAL
from deepprobe.seeding import derive_seed
from deepprobe.training.checkpoint import Checkpoint, put_weights
from deepprobe.training.config import TrainConfig
from deepprobe.training.session import device_named, train
from deepprobe.training.stream import first_samples, is_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from deepprobe.pruning.lottery.sources import Splits
    from deepprobe.runs import Run
    from deepprobe.training.context import Callback
    from deepprobe.training.stream import Batch


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
    tell: Callable[[Run], None] | None = None

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
            work = _Work(self, splits, device, History(self.out, self.seed, ranks))
            for number in self.config.rounds_of(self.name):
                work.round(number)


@dataclass(frozen=True)
class _Work:
    """A branch under way: its data, where it computes, and what is already there."""

    branch: Branch
    splits: Splits
    device: torch.device
    history: History

    def round(self, number: int) -> None:
        """Train the network of a round, if that is not done."""
        branch, history = self.branch, self.history
        if history.status(number, branch.name) not in FINAL:
            run = self._train(number)
            if branch.tell is not None and history.ranks.is_main:
                branch.tell(run)
        if branch.name == TICKET and history.status(number, TICKET) == "diverged":
            name, why = run_name(branch.seed, number, TICKET), history.message(number, TICKET)
            raise NonFiniteError(f"{name} diverged ({why}): there is no trained network to prune")

    def _train(self, number: int) -> Run:
        """Train it, or go on."""
        branch, splits, config = self.branch, self.splits, self._config(number)
        network = self._network(number)
        masks = self._masks(number, network)
        start = self._start(number, masks)
        if start is None:
            masks.apply(network)
        seed_loader(splits.train, config.seed)
        return train(
            network, splits.train, validation_set=splits.validation, test_set=splits.test, config=config, start=start,
            keep=self._keep(number), out=branch.out, name=run_name(branch.seed, number, branch.name),
            callbacks=[*self._enforcing(number, network, masks, config, start), *self._measuring(number, config),
                       *branch.callbacks],
            about={**branch.about, "lottery": self._about(number, masks)}, quiet=branch.quiet, brief=True,
        )  # fmt: skip

    def _config(self, number: int) -> TrainConfig:
        """How a round is trained."""
        branch, rewinding = self.branch, self.branch.config.rewinding
        config = replace(branch.config.training, seed=branch.seed, validation_share=0.0)
        if branch.name == "dense":
            return replace(config, epochs=config.epochs * branch.config.trainings_until(number))
        is_rewound = number > 0 and branch.name != "reinit"
        config = rewinding.config(config) if is_rewound else config
        if branch.name == "sibling":
            return replace(config, seed=derive_seed(branch.seed, "sibling", number))
        if is_rewound and rewinding.kind in ("fine-tune", "none"):
            return replace(config, seed=derive_seed(branch.seed, "round", number))
        return config

    def _network(self, number: int) -> nn.Module:
        """The network with its initial weights, which are drawn anew for the control that says so."""
        sources, seed = self.branch.sources, self.branch.seed
        if self.branch.name == "reinit":
            return sources.network_anew(derive_seed(seed, "reinit", number), self.splits)
        return sources.network(seed, self.splits)

    def _keep(self, number: int) -> tuple[str, ...]:
        """The point of the dense training that others begin from, whose checkpoint stays."""
        is_dense = self.branch.name == TICKET and number == 0
        return (str(self.branch.config.rewinding.point),) if is_dense else ()

    def _masks(self, number: int, network: nn.Module) -> Masks:
        """What a round keeps: what its run says, if that was begun; else found from the rounds before."""
        branch, name = self.branch, run_name(self.branch.seed, number, self.branch.name)
        if number == 0 or branch.name == "dense" or self._is_gradual(number):
            return Masks.dense(network, protect=branch.config.protect)
        kept = self.history.masks(number, branch.name)
        if kept is not None:
            return Masks.of_arrays(kept, network, origin=name)
        if branch.name == TICKET:
            return self._pruned(number)
        ticket = Masks.of_arrays(self.history.ticket_masks(number), network, origin=name)
        seed = derive_seed(branch.seed, branch.name, number)
        if branch.name == "random-mask":
            return random_masks(ticket, seed=seed)
        return shuffled_masks(ticket, network, seed=seed) if branch.name == "shuffled-mask" else ticket

    def _pruned(self, number: int) -> Masks:
        """The masks of a ticket's next round, the same on every rank."""
        branch, config = self.branch, self.branch.config
        network = branch.sources.network(branch.seed, self.splits).to(self.device)
        initial = {name: p.detach().clone() for name, p in network.named_parameters()}
        before = Masks.dense(network, protect=config.protect)
        if config.pruning == "iterative" and not config.scores_start and number > 1:
            name = run_name(branch.seed, number - 1, TICKET)
            before = Masks.of_arrays(self.history.ticket_masks(number - 1), network, origin=name)
        scored = self._early() if config.scores_start else self._trained(number)
        put_weights(network, scored.weights, origin="the network to be pruned")
        before.apply(network)
        subject = Subject(network, before, initial, self._samples(), derive_seed(branch.seed, "criterion", number))
        sizes = {name: mask.numel() for name, mask in before.items()}
        masks = removed(subject, config.criterion, config.kept(sizes, number))
        warn_of_collapse(before, masks)
        return Masks.of_arrays(self.history.ranks.broadcast(masks.arrays()), network, origin="rank 0")

    def _samples(self) -> list[Batch]:
        """Training samples for a criterion that needs some: drawn by the seed, for data may be sorted by class."""
        if self.branch.config.criterion not in NEEDS_BATCHES:
            return []
        n, data = self.branch.config.criterion_samples, self.splits.train
        if is_pair(data):
            generator = torch.Generator().manual_seed(derive_seed(self.branch.seed, "criterion samples"))
            rows = torch.randperm(len(data[0]), generator=generator)[:n]
            data = (data[0][rows.to(data[0].device)], data[1][rows.to(data[1].device)])
        return first_samples(data, device=self.device, n_samples=n, batch_size=256)

    def _start(self, number: int, masks: Masks) -> Checkpoint | None:
        """The state that the training begins from; None for the network as it is."""
        branch, rewinding = self.branch, self.branch.config.rewinding
        if branch.name in ("reinit", "dense") or self._is_gradual(number):
            return None
        if number == 0:
            start = None if branch.name == TICKET else masked(self._early(), masks)
        else:
            start = rewinding.start(self._early() if rewinding.kind == "weights" else self._trained(number), masks)
        if branch.name == "sibling" and start is not None:  # other random states than the ticket's
            start = replace(start, training={**(start.training or {}), "ranks": None})
        return start

    def _enforcing(
        self, number: int, network: nn.Module, masks: Masks, config: TrainConfig, start: Checkpoint | None
    ) -> list[Callback]:
        """What keeps removed weights at zero, or removes them."""
        own = self.branch.config
        if self._is_gradual(number):
            return [
                GradualPruningCallback(
                    own.gradual, fraction=own.shares(number), criterion=own.criterion, allocation=own.allocation,
                    rates=own.rates, protect=own.protect, batches=self._samples(),
                )
            ]  # fmt: skip
        begins = 0 if start is None else int((start.training or {})["index"])
        found: list[Callback] = [MaskedTraining(masks, start=begins, freeze=not self.branch.callbacks)]
        return found if config.clip_norm is None else [*found, MaskedGradients(masks, network)]

    def _measuring(self, number: int, config: TrainConfig) -> list[Callback]:
        """What measures, beside ``train`` itself."""
        own, splits = self.branch.config, self.splits
        held_out = {k: v for k, v in (("validation", splits.validation), ("test", splits.test)) if v is not None}
        found: list[Callback] = []
        if own.evaluate_every != "1ep" and held_out:
            found.append(WithinEpochs(own.evaluate_every, held_out))
        if own.early_bird_every is not None:
            found.append(EarlyBirdCallback(own.early_bird_every, fraction=own.prune, protect=own.protect))
        if own.probe_samples:
            source = next(iter(held_out.values()), splits.train)
            samples = first_samples(source, device=self.device, n_samples=own.probe_samples, batch_size=256)
            found.append(ConditioningAtTheEnd(config.epochs, samples))
        if self.branch.name == "sibling":
            ticket = self.history.trained(number).weights
            found.append(BarrierAtTheEnd(config.epochs, ticket, train=splits.train, test=splits.test))
        return found

    def _early(self) -> Checkpoint:
        """The dense training at the point that is gone back to."""
        return self.history.early(self.branch.config.rewinding.point)

    def _trained(self, number: int) -> Checkpoint:
        """The trained network that a round prunes: of the round before, or the dense one."""
        return self.history.trained(number - 1 if self.branch.config.pruning == "iterative" else 0)

    def _is_gradual(self, number: int) -> bool:
        """Whether the network of a round is pruned while it trains."""
        return self.branch.name == TICKET and number > 0 and self.branch.config.pruning == "gradual"

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
