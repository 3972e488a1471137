"""``deepprobe train``: models × seeds, one after another, with probes along the way."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from deepprobe.cli.complaints import told_in_options
from deepprobe.cli.job import Job, Study, flush_denormals, load_data, outcome, run_name, train_one, training_config
from deepprobe.cli.options import STRICT, given, parse, parse_over_file
from deepprobe.cli.resume import kept_settings, kept_study, never_begun, refuse_others, runs_to_resume
from deepprobe.cli.subject import check_model, model_options
from deepprobe.cli.training_options import TrainingOptions, refuse_no_model
from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

Tracked = Literal["tensorboard", "mlflow", "wandb"]
Measured = Literal["spectra", "gradients", "weights", "updates", "in-flight", "units", "jacobians"]
View = Literal["samples", "channels", "pooled", "hosvd1", "hosvd2", "hosvd3", "tokens"]
Tap = Literal["input", "output", "block"]

OF_PROBES = ("measure", "probe_samples", "probe_seeds", "layers", "tap", "view", "rows", "replay")
"""Options that say what a probe takes, and nothing where no probe is asked for."""


@dataclass(frozen=True)
class TrainOptions(TrainingOptions):
    """Train networks on a data set and write one run a model and seed, OUT/MODEL-seedN.

    Runs that are complete are skipped and interrupted ones resumed, so the same command can be given again. The test
    set is only looked at, never used to select.

    For example:
      deepprobe train resnet20 --data digits --epochs 8 --out runs
      deepprobe train plainnet56 resnet56 --seeds 0 1 2 --probe-every 1ep --out runs
      deepprobe train resnet56 --data cifar10 --data-dir ~/data --augmentation pad-crop-flip --lr 0.1
      deepprobe train --config study.toml --lr 0.05
      deepprobe train --resume runs/resnet56-seed0
      torchrun --nproc-per-node 2 -m deepprobe train resnet56 --data cifar10 --out runs
    """

    __pydantic_config__ = STRICT

    resume: Path | None = None
    """A run, or a folder of runs: go on with each that is not complete, with the settings it was begun with. In a
    folder, runs of the same command that had not begun are made as well."""
    out: Path = Path("runs")
    """Folder for the runs."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] = (0,)
    """Seeds of the initial weights, the order of the data and the augmentation; one run a seed."""

    track: tuple[Tracked, ...] = ()
    """Also send the numbers to these, below OUT/tensorboard, OUT/mlflow, OUT/wandb (offline)."""

    probe_every: str | None = None
    """When to probe: 1ep, 100it, 'at 0,1,2,5,10ep', 'log 1it..10ep'; never by default."""
    measure: Annotated[tuple[Measured, ...], Field(min_length=1)] = ("spectra", "weights", "updates")
    """What a probe takes: representations of the probed images, their gradients, the weights, what the update just then
    did to them, representations of the batch in training (in-flight), the state of every unit, and Jacobians."""
    probe_samples: Annotated[int, Field(ge=1, le=100_000)] = 128
    """Test images that are probed, the first ones."""
    probe_seeds: tuple[int, ...] | None = None
    """Probe only the runs of these seeds; all by default."""
    layers: tuple[str, ...] = ()
    """Layers whose representations are read, as patterns of names such as 'features.stage2.*'; all by default."""
    tap: tuple[Tap, ...] = ("block", "input")
    """Where representations are read."""
    view: tuple[View, ...] = ("samples", "channels")
    """How they become matrices: one for each tap, or one for all."""
    rows: Literal["all"] | Annotated[int, Field(ge=1)] = 4
    """Positions of each sample that become rows: all, or so many at random."""
    replay: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Samples that each probe runs again in float64, to measure what the arithmetic itself can know; 0 for none."""


def options_from(words: Sequence[str]) -> TrainOptions:
    """Options from the words, on top of those of the file that ``--config`` names.

    Raises:
        ConfigError: If the file is wrong, no model is named and nothing is to be resumed, or it is said what to probe
            and not when.
        SystemExit: As ``parse``.
    """
    options, of_file = parse_over_file(TrainOptions, words, verb="train")
    if options.resume is not None:
        return options
    refuse_no_model(options, verb="train")
    refuse_probing_never(options, names=given(words) | of_file)
    return options


def refuse_probing_never(options: TrainOptions, *, names: set[str]) -> None:
    """Raise ConfigError if it is said when to probe in no words that are understood, or only what.

    Args:
        options: The options.
        names: Those that were given, and are no defaults.
    """
    if options.probe_every is not None:
        from deepprobe.records.step import parse_schedule

        try:
            parse_schedule(options.probe_every)
        except ConfigError as error:
            raise ConfigError(f"--probe-every {error}") from None
        return
    idle = [f"--{name.replace('_', '-')}" for name in OF_PROBES if name in names]
    if idle:
        raise ConfigError(f"{' '.join(idle)}: nothing is probed without --probe-every; add, say, --probe-every 1ep")


def jobs_from(words: Sequence[str]) -> list[Job]:
    """The runs that the words ask for: models × seeds, or those that ``--resume`` finds.

    Raises:
        ConfigError: As ``options_from``; or if what was kept of a run's command is wrong, or is not to be changed.
        RunError: If what is to be resumed is no run, or is damaged.
        SystemExit: As ``parse``.
    """
    options = options_from(words)
    if options.resume is None:
        study = Study(options.models, options.seeds)
        return [Job(model, seed, options, study, run_name(model, seed)) for model, seed in study.runs]
    begun = runs_to_resume(options.resume)
    jobs = [_resumed(path, words) for path in begun]
    if options.resume.resolve() in begun:  # one run was named, not a folder
        return jobs
    return jobs + [_resumed(path, words, instead=run) for run, path in never_begun(begun, TrainOptions).items()]


def _resumed(path: Path, words: Sequence[str], *, instead: tuple[str, int] | None = None) -> Job:
    """What a run was begun with, as far as the words leave it so; or another model and seed with these settings."""
    kept = kept_settings(path, TrainOptions)
    if instead is not None:
        kept |= {"models": instead[:1], "seeds": instead[1:]}
    options = parse(TrainOptions, words, verb="train", defaults={**kept, "out": path.parent})
    refuse_others(path, asked=options, kept=TrainOptions(**kept, out=path.parent, resume=options.resume))
    refuse_probing_never(options, names=given(words))
    name = path.name if instead is None else run_name(*instead)
    return Job(options.models[0], options.seeds[0], options, kept_study(path, TrainOptions), name)


def run(words: Sequence[str]) -> None:
    """Train every model with every seed; complete runs are skipped."""
    jobs = jobs_from(words)
    flush_denormals()
    says_something = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one speaks
    for job in jobs:  # a wrong name or option is told before the first hour, not after it
        if not job.is_done:
            with told_in_options(job):
                training_config(job.options, seed=job.seed)
            check_model(job.model, load_data(job.options).train, options=model_options(job.options.model_options))
    started = time.monotonic()
    for position, job in enumerate(jobs, start=1):
        before = job.status
        is_quiet = job.options.quiet or not says_something
        if job.options.compile and not job.is_done and not is_quiet:
            print(f"{job.name}: compiling the network; this takes minutes at 164 layers", file=sys.stderr, flush=True)
        with told_in_options(job):
            done = train_one(job, quiet=is_quiet)
        if not is_quiet:
            share = position / len(jobs)
            left = (time.monotonic() - started) * (1 - share) / share
            words_left = f", about {left / 60:.0f} min left" if left > 60 else ""
            print(f"{outcome(done, before=before)}  ({position} of {len(jobs)}{words_left})", flush=True)
