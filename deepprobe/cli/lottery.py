"""``deepprobe lottery``: lottery-ticket experiments, models × prune rates, each with its seeds and controls."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from deepprobe.cli.engines import engine_of
from deepprobe.cli.lottery_plan import plan
from deepprobe.cli.lottery_tasks import tasks_of
from deepprobe.cli.options import STRICT, given, parse_over_file
from deepprobe.cli.sweep import trials
from deepprobe.cli.training_options import TrainingOptions, refuse_no_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepprobe.cli.sweep import Trial


def _words(value: Any) -> Any:
    """What stands between commas in several words, or in the one value of a file; numbers as they are written."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = [str(one) if isinstance(one, float | int) and not isinstance(one, bool) else one for one in values]
    parts = [part for one in texts for part in (one.split(",") if isinstance(one, str) else [one])]
    return tuple(part.strip() if isinstance(part, str) else part for part in parts if part != "")


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


@dataclass(frozen=True)
class LotteryOptions(TrainingOptions):
    """Find lottery tickets: train, prune, rewind, train again, round after round, beside controls of each round.

    One experiment a model and prune rate: in OUT itself, or where there are several in OUT/MODEL-prune20 and so on.
    The same command again goes on where it was stopped, and skips what is complete. The test set is only looked at.

    For example:
      deepprobe lottery lenet300_100 --rounds 5 --epochs 20 --optimizer adam --lr 1.2e-3 --controls reinit --out ticket
      deepprobe lottery resnet20 --data cifar10 --prune 20% --rewind 500it --controls reinit,random-mask --seeds 3
      deepprobe lottery lenet5 resnet20 --prune 10% 20% --allocation layerwise --rates output=0.5 --out sweep --dry-run
      deepprobe lottery resnet20 --densities 50%,20%,5% --rewind lr --schedule step --out sparse
      deepprobe lottery resnet20 --seeds 10 --engine ray --engine-options n_gpus=0.25 --out RUN
      deepprobe report RUN --html lottery.html
      deepprobe ticket RUN --seed 0 --round 7 --to ticket.safetensors
    """

    __pydantic_config__ = STRICT

    out: Path = Path("lottery")
    """Folder of the experiment, or of the experiments where there are several."""
    seeds: Annotated[Words, Field(min_length=1)] = ("1",)
    """One number is how many: 3 stands for the seeds 0, 1 and 2. Several are the seeds themselves. Each has weights,
    order of the data and tickets of its own."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 12
    """Rounds of pruning after the dense training, which is round 0."""
    prune: Annotated[Words, Field(min_length=1)] = ("20%",)
    """Share of the weights left that each round removes, as 20% or 0.2; several make an experiment each."""
    densities: Words = ()
    """Share of the weights that is left after each round, in place of rounds and prune: 50% 20% 5%."""
    pruning: Literal["iterative", "one-shot", "gradual"] = "iterative"
    """Whether each round prunes the network of the round before; or each the dense one, to a density of its own; or
    each is one training that is pruned along the way."""
    gradual: str = ""
    """With --pruning gradual: from when to when, and how often, a training is pruned: 1ep..5ep/100it."""
    criterion: str = "magnitude"
    """What is worth keeping: magnitude, random, gradient-weight, snip, grasp, synflow, magnitude-increase, movement."""
    criterion_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Training images that criteria with gradients look at."""
    score_at: Literal["start", "end"] | None = None
    """Which weights are scored: those at the start of a training, or those at its end; by default as the criterion is
    meant."""
    allocation: Literal["global", "layerwise"] = "global"
    """Whether the weights of all layers compete, or each layer loses the same share."""
    rates: Words = ()
    """With layerwise: factors on the share of some layers, as LAYER=FACTOR; output=0.5 is the last layer at half the
    rate, as in the lottery-ticket paper."""
    protect: Words = ()
    """Layers that are never pruned, as patterns of names such as classifier.fc3 or '*.shortcut.*'."""
    rewind: str = "init"
    """To where a pruned network goes back: init; a step such as 500it or 2ep; lr or lr:2ep (weights stay, the schedule
    starts again); fine-tune (weights stay, last learning rate); none (the optimizer goes on too)."""
    controls: Words = ()
    """What tickets are compared with: reinit, random-mask, shuffled-mask, dense, sibling; blanks or commas between."""
    control_rounds: Words = ()
    """Rounds that have controls; all by default."""
    evaluate_every: str = "1ep"
    """When validation and test images are looked at, beside each epoch's end: 100it. The early-stop iteration is one of
    these points."""
    early_bird_every: str | None = None
    """When a mask is drawn and compared with those drawn before, 1ep, to see from when on the ticket is known; never by
    default."""
    probe_samples: Annotated[int, Field(ge=0, le=1_000_000)] = 512
    """Validation images on which condition numbers are taken at the end of each training; 0 for none."""
    engine: Literal["local", "ray", "slurm"] = "local"
    """Where trainings run, one task a seed and branch: here, on Ray, or on Slurm."""
    engine_options: tuple[str, ...] = ()
    """Options of the engine as name=value: n_workers=4 (local), n_cpus=2 n_gpus=0.25 (ray), partition=gpu minutes=600
    (slurm)."""
    dry_run: bool = False
    """Whether only to show what would be trained."""


def options_from(words: Sequence[str]) -> tuple[LotteryOptions, list[Trial]]:
    """Options from the words, on top of those of the file that ``--config`` names, and the experiments that they mean.

    Raises:
        ConfigError: If the file is wrong, no model is named, or settings are wrong or do not fit together.
        SystemExit: As ``parse``.
    """
    options, of_file = parse_over_file(LotteryOptions, words, verb="lottery")
    refuse_no_model(options, verb="lottery")
    return options, trials(options, names=given(words) | of_file)


def run(words: Sequence[str]) -> None:
    """Make what is missing of every experiment, or only show what that would be."""
    options, chosen = options_from(words)
    if os.environ.get("RANK", "0") != "0":  # of the processes that torchrun starts, one speaks
        options = replace(options, quiet=True)
    plans = [plan(trial, options) for trial in chosen]  # what is wrong with the last one is told before the first
    engine = engine_of(options)
    if options.dry_run:
        print("\n".join(plans))
        return
    try:
        if not options.quiet:
            print("\n".join(plans), flush=True)
        engine.run([task for trial in chosen for task in tasks_of(trial, options)])
    except KeyboardInterrupt as stop:
        command = shlex.join(["deepprobe", "lottery", *words])
        raise KeyboardInterrupt(f"{str(stop) or 'interrupted; to go on'}: {command}") from stop
    if not options.quiet:
        for trial in chosen:
            print(in_short(trial.path))


def in_short(path: Path) -> str:
    """What an experiment came to, a line a round and branch: means over the seeds."""
    from deepprobe.runs import open_experiment

    table = open_experiment(path).table()
    columns = ["density", "test_accuracy", "early_stop_iteration", "early_stop_test_accuracy"]
    means = table.groupby(["round", "branch"], sort=False)[columns].mean()
    means.insert(0, "runs", table.groupby(["round", "branch"], sort=False).size())
    written = {"density": "{:.2%}".format, "early_stop_iteration": "{:,.0f}".format}
    written |= {name: "{:.2%}".format for name in ("test_accuracy", "early_stop_test_accuracy")}
    return f"{path}:\n{means.reset_index().to_string(index=False, formatters=written, na_rep='-')}"
