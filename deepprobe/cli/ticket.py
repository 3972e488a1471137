"""``deepprobe ticket``: one ticket of an experiment as one file for plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from tyro.conf import Positional

from deepprobe.cli.options import STRICT, parse

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class TicketOptions:
    """Write one ticket of a lottery-ticket experiment to a file: the weights that its training begins from.

    The file is a state dict in safetensors with removed weights at zero. Plain PyTorch reads it, without deepprobe:
    model.load_state_dict(safetensors.torch.load_file("ticket.safetensors")).

    For example:
      deepprobe ticket RUN --seed 0 --round 7 --to ticket.safetensors
      deepprobe ticket RUN --seed 0 --round 7 --trained --to trained.safetensors
      deepprobe ticket RUN --seed 0 --round 7 --branch random-mask --trained --to control.safetensors
    """

    __pydantic_config__ = STRICT

    experiment: Positional[Path]
    """Folder of an experiment, as deepprobe lottery wrote it."""
    round: Annotated[int, Field(ge=0)]
    """Round of the ticket; 0 is the dense network."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the ticket."""
    branch: str = "ticket"
    """The ticket itself, or, with trained weights, a control: reinit, random-mask, shuffled-mask, dense, sibling."""
    trained: bool = False
    """Whether to write the weights at the end of the round's training, not those at its start."""
    to: Path = Path("ticket.safetensors")
    """The file to write."""
    quiet: bool = False
    """Whether to say nothing."""


def run(words: Sequence[str]) -> None:
    """Write a ticket."""
    options = parse(TicketOptions, words, verb="ticket")
    from deepprobe.pruning.lottery.ticket import export_ticket

    export_ticket(
        options.experiment,
        options.to,
        seed=options.seed,
        round=options.round,
        branch=options.branch,
        trained=options.trained,
    )
    if not options.quiet:
        weights = "trained weights" if options.trained else "weights before training"
        print(f"{options.branch} of round {options.round}, seed {options.seed}, {weights}: {options.to}")
