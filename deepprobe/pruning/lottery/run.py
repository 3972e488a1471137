"""Lottery-ticket experiments: train, prune, rewind, again; controls of every round beside it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from deepprobe.distributed import current_ranks, process_group
from deepprobe.errors import ConfigError, DeepprobeError, NonFiniteError
from deepprobe.pruning.lottery.branch import Branch
from deepprobe.pruning.lottery.checks import checked, refuse_other_densities
from deepprobe.pruning.lottery.config import LotteryConfig
from deepprobe.pruning.lottery.history import run_name
from deepprobe.pruning.lottery.sources import Sources
from deepprobe.pruning.lottery.tasks import Task
from deepprobe.runs.experiment import TICKET, create_experiment, open_experiment
from deepprobe.runs.run import FINAL
from deepprobe.training.session import device_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepprobe.pruning.lottery.sources import Model
    from deepprobe.pruning.lottery.tasks import Engine
    from deepprobe.runs import Run
    from deepprobe.runs.experiment import Experiment
    from deepprobe.training.context import Callback


def run_lottery(
    model: Model,
    data: Any,
    config: LotteryConfig | None = None,
    *,
    out: Path | str,
    model_options: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    about: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    quiet: bool = False,
) -> Experiment:
    """Find lottery tickets: train, prune, rewind, train what is left, and so on (Frankle & Carbin 2019).

    Every training is a run of its own in the folder. The same call again skips what is complete and goes on with what
    was stopped, to the same bits; more rounds, seeds or controls are added to what is there.

    Args:
        model: Name of a network of the zoo; a function from a seed to a network; or a network, whose weights are then
            the initial ones for every seed, and which is left as it is.
        data: Name of a data set; a pair (train, test), each two tensors (inputs, labels) or a loader; or
            ``pruning.Splits``; or a function that gives one of these.
        config: Settings; LotteryConfig() by default.
        out: Folder of the experiment.
        model_options: Keywords of ``create_model`` for a network of the zoo.
        callbacks: Further callbacks of every training, such as ``ProbeCallback("1ep")``.
        about: Plain values to keep with every run, such as ``{"data": "my scans"}``.
        engine: What runs the branches, as those of ``integrations.engines``; by default one after the other, here.
        quiet: Show no progress.

    Returns:
        The experiment: ``table()`` is a row a training, ``records()`` everything that was measured.

    Raises:
        ConfigError: If a setting is wrong, or model, data and settings do not fit; before any training.
        UnknownNameError: If no network, data set or layer has that name; before any training.
        RunError: If the folder holds something else, or an experiment with other settings; or a run is damaged.
        NonFiniteError: If a network to be pruned diverged; other seeds are gone through before.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when a checkpoint has been written.
    """
    tasks = lottery_tasks(
        model, data, config, out=out, model_options=model_options, callbacks=callbacks, about=about, quiet=quiet,
        keep_data=engine is None,
    )  # fmt: skip
    (InTurn() if engine is None else engine).run(tasks)
    return open_experiment(out)


def lottery_tasks(
    model: Model,
    data: Any,
    config: LotteryConfig | None = None,
    *,
    out: Path | str,
    model_options: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    about: Mapping[str, Any] | None = None,
    quiet: bool = False,
    keep_data: bool = False,
) -> list[Task]:
    """The branches of an experiment as tasks, for a sweep over several experiments.

    The folder is made, and all that can be known to be wrong is found wrong here.

    Args:
        model: As in ``run_lottery``, and so are all others but one.
        data: Its data.
        config: Its settings.
        out: Its folder.
        model_options: Its network's options.
        callbacks: Its callbacks.
        about: What is kept with its runs.
        quiet: Show no progress.
        keep_data: Whether tasks hold the data, rather than what they were made from: for tasks that run here.

    Returns:
        For each seed the chain of tickets, then its controls, which need it.

    Raises:
        ConfigError: As ``run_lottery``.
        UnknownNameError: As ``run_lottery``.
        RunError: As ``run_lottery``.
    """
    config = LotteryConfig() if config is None else config
    if not isinstance(config, LotteryConfig):
        raise ConfigError(f"config is a {type(config).__name__}: give LotteryConfig(rounds=…, training=TrainConfig(…))")
    sources = Sources(model, data, dict(model_options or {}))
    splits = sources.splits()
    about = {"data": {"name": data}} | dict(about or {}) if isinstance(data, str) else dict(about or {})
    identity, kept = checked(sources, splits, config)
    path = Path(out).resolve()
    with process_group(device_named(config.training.device)) as ranks:
        if ranks.is_main:
            own = {**identity, "about": about}
            refuse_other_densities(path, kept, own)
            create_experiment(path, config={**identity, "lottery": config.as_dict(), **about}, identity=own)
        quiet = quiet or not ranks.is_main
    if keep_data:
        sources = Sources(model, splits, sources.options)
    tell = None if quiet else Told(_n_missing(path, config))
    tasks = []
    for seed in dict.fromkeys(config.seeds):
        chain = (str(path), seed, TICKET)
        for name in _branches(config):
            branch = Branch(sources, config, path, seed, name, about, tuple(callbacks), quiet, tell)
            tasks.append(Task((str(path), seed, name), () if name == TICKET else (chain,), branch))
    return tasks


class InTurn:
    """The engine that runs tasks one after the other, in this process."""

    def run(self, tasks: Sequence[Task]) -> None:
        """As in ``Engine``."""
        failed: dict[tuple[str, int, str], DeepprobeError] = {}
        for task in tasks:
            if failed.keys() & set(task.needs):
                continue
            try:
                task.call()
            except DeepprobeError as error:
                if not current_ranks().is_alone and not isinstance(error, NonFiniteError):
                    raise  # the other processes may not know of it, and would wait for this one in another place
                failed[task.key] = error
        if failed:
            raise next(iter(failed.values()))


@dataclass
class Told:
    """Says after each training what came of it, and how long the rest may take.

    Attributes:
        n_missing: Trainings that were not there when the tasks were made.
    """

    n_missing: int
    began: float = field(default_factory=time.monotonic)
    process: int = field(default_factory=os.getpid)
    n_told: int = 0

    def __call__(self, run: Run) -> None:
        """One line on stderr."""
        self.n_told += 1
        which, metrics = run.config["lottery"], run.metrics()
        found = metrics[(metrics["measure"] == "accuracy") & (metrics["split"].isin(("test", "validation")))]
        words = [f"{split} {rows['value'].iloc[-1]:.2%}" for split, rows in found.groupby("split")]
        share = which["n_kept"] / which["n_weights"]
        line = ", ".join([f"{run.name}: {share:.2%} kept", run.status, *words])
        tqdm.write(f"{line}{self._left()}", file=sys.stderr)

    def _left(self) -> str:
        """How many trainings are done, and about when the others will be; a process of a sweep knows only its own."""
        if self.process != os.getpid():
            return ""
        seconds = (time.monotonic() - self.began) / self.n_told * (self.n_missing - self.n_told)
        left = f", about {tqdm.format_interval(seconds)} left" if seconds >= 1 else ""
        return f" ({self.n_told} of {self.n_missing}{left})"


def _branches(config: LotteryConfig) -> tuple[str, ...]:
    """The ticket, then its controls."""
    return (TICKET, *dict.fromkeys(config.controls))


def _n_missing(path: Path, config: LotteryConfig) -> int:
    """Trainings that have not come to an end."""
    runs = open_experiment(path).runs()
    done = set(runs.loc[runs["status"].isin(FINAL), "run"])
    asked = {
        run_name(seed, number, branch)
        for seed in config.seeds
        for branch in _branches(config)
        for number in config.rounds_of(branch)
    }
    return len(asked - done)
