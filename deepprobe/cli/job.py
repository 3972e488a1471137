"""One run of ``deepprobe train``: its network, its images, its probes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepprobe.cli.subject import build, load_split, model_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepprobe.cli.train import TrainOptions
    from deepprobe.cli.training_options import TrainingOptions
    from deepprobe.data import ImageSet
    from deepprobe.runs import Run
    from deepprobe.training import TrainConfig
    from deepprobe.training.context import Callback
    from deepprobe.training.tracking import Tracker

NOT_OF_A_RUN = ("config", "resume", "out", "quiet")
"""Options that are not kept with a run: where they came from, where it lies, what is shown."""

STUDY = "study"
"""Key under which a run's command keeps the models and seeds that were asked for together with its own."""


@dataclass(frozen=True)
class Study:
    """Models × seeds of one command.

    Attributes:
        models: Names of networks.
        seeds: Seeds of each.
    """

    models: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Model and seed of every run, in the order in which they are made."""
        return [(model, seed) for seed in dict.fromkeys(self.seeds) for model in dict.fromkeys(self.models)]


def run_name(model: str, seed: int) -> str:
    """Name of the run of a network and a seed."""
    return f"{model}-seed{seed}"


@dataclass(frozen=True)
class Job:
    """One run to make or to go on with.

    Attributes:
        model: Name of the network.
        seed: Seed of the run.
        name: Name of the run, a folder in ``options.out``.
        options: Everything else.
        study: Models and seeds that were asked for together, itself among them.
    """

    model: str
    seed: int
    options: TrainOptions
    study: Study
    name: str

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.options.out / self.name

    @property
    def status(self) -> str:
        """How far it has come: the status of the run that is there, or nothing; RunError if that is damaged."""
        from deepprobe.runs import open_run
        from deepprobe.runs.manifest import MANIFEST

        return open_run(self.path).status if (self.path / MANIFEST).is_file() else ""

    @property
    def is_done(self) -> bool:
        """Whether it is to be resumed and has come to its end; RunError if it is damaged."""
        from deepprobe.runs.run import FINAL

        return self.options.resume is not None and self.status in FINAL

    @property
    def command(self) -> dict[str, Any]:
        """The options that make this run alone, as plain values."""
        kept = {k: v for k, v in asdict(self.options).items() if k not in NOT_OF_A_RUN}
        place = self.options.data_dir
        kept |= {"models": (self.model,), "seeds": (self.seed,), "data_dir": None if place is None else place.resolve()}
        study = {"models": list(self.study.models), "seeds": list(self.study.seeds)}
        return {name: _plain(value) for name, value in kept.items()} | {STUDY: study}


@dataclass(frozen=True)
class Data:
    """Both splits of a data set.

    Attributes:
        train: Images to train on.
        test: Images to look at.
    """

    train: ImageSet
    test: ImageSet


def load_data(options: TrainingOptions) -> Data:
    """Both splits that training is given; errors as ``load_dataset``."""
    return _load(options.data, options.data_dir, options.input_size, options.limit)


@lru_cache(maxsize=1)
def _load(name: str, data_dir: Path | None, input_size: int | None, limit: int | None) -> Data:
    """Both splits of a data set; the last ones are kept, because the next run mostly needs the same."""
    where = _Where(data_dir, input_size)
    return Data(load_split(name, "train", where, limit=limit), load_split(name, "test", where))


@dataclass(frozen=True)
class _Where:
    """Where data lie and what size they get."""

    data_dir: Path | None
    input_size: int | None


def train_one(job: Job, *, quiet: bool) -> Run:
    """Train one network; one that is to be resumed and has come to its end is only opened.

    Args:
        job: What to train.
        quiet: Show no progress.

    Returns:
        The run; errors as ``train``.
    """
    options = job.options
    if job.is_done:
        from deepprobe.runs import open_run

        return open_run(job.path)
    from deepprobe.training import train

    data = load_data(options)
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    return train(
        build(job.model, data.train, seed=job.seed, options=model_options(options.model_options)),
        data.train.tensors(),
        test_set=data.test.tensors(),
        config=training_config(options, seed=job.seed),
        callbacks=_probes(job, data),
        out=options.out,
        name=job.name,
        about={"data": data_settings(options, data), "probe": _probe_settings(options), "denormals": "flushed"},
        command=job.command,
        trackers=_trackers(options),
        quiet=quiet,
    )


def training_config(options: TrainingOptions, *, seed: int) -> TrainConfig:
    """How a run is trained; ConfigError if its settings do not fit together."""
    from deepprobe.training import TrainConfig

    names = [f.name for f in fields(TrainConfig) if hasattr(options, f.name) and f.name != "seed"]
    return TrainConfig(**{name: getattr(options, name) for name in names}, seed=seed)


def outcome(run: Run, *, before: str) -> str:
    """What came of a run in one line, and how it was found."""
    from deepprobe.runs.run import FINAL

    metrics = run.metrics()
    values = metrics[(metrics["split"] == "test") & (metrics["measure"] == "accuracy")]["value"]
    accuracy = f", test accuracy {values.iloc[-1]:.1%}" if len(values) else ""
    why = f" ({run.message})" if run.message else ""
    found_as = ", was there already" if before in FINAL else ", resumed" if before else ""
    return f"{run.name}: {run.status}{accuracy}{why}{found_as}"


def _probes(job: Job, data: Data) -> list[Callback]:
    """The probes of one run, none where none were asked for."""
    options = job.options
    if options.probe_every is None or job.seed not in (options.probe_seeds or options.seeds):
        return []
    from deepprobe import integrations as our
    from deepprobe.integrations.kernel_callbacks import GRADIENT_SAMPLES

    images, labels = data.test.take(options.probe_samples).tensors()
    when, layers = options.probe_every, options.layers or None
    make: dict[str, Callable[[], Callback]] = {
        "spectra": lambda: our.ProbeCallback(
            when, batches=[(images, labels)], layers=layers, tap=options.tap, view=options.view, rows=options.rows,
            replay=options.replay,
        ),
        "gradients": lambda: our.GradientCallback(
            when, batches=[(images[:GRADIENT_SAMPLES], labels[:GRADIENT_SAMPLES])]
        ),
        "weights": lambda: our.WeightCallback(when),
        "updates": lambda: our.UpdateCallback(when),
        "in-flight": lambda: our.InFlightCallback(when, layers=layers, rows=options.rows),
        "units": lambda: our.UnitCallback(when, batches=[(images, labels)], layers=layers),
        "jacobians": lambda: our.JacobianCallback(when, batches=[(images, labels)]),
    }  # fmt: skip
    return [make[name]() for name in dict.fromkeys(options.measure)]


def _trackers(options: TrainOptions) -> list[Tracker]:
    """Places that follow the run; MissingPackageError where one is not installed."""
    if not options.track:
        return []
    from deepprobe.integrations.trackers import TRACKERS

    return [TRACKERS[name](options.out / name) for name in dict.fromkeys(options.track)]


def data_settings(options: TrainingOptions, data: Data) -> dict[str, Any]:
    """Which data, as plain values."""
    return {"name": options.data, "source": data.train.source, "input_size": options.input_size}


def _probe_settings(options: TrainOptions) -> dict[str, Any]:
    """What is probed, as plain values: part of what a run is."""
    if options.probe_every is None:
        return {}
    names = ["probe_every", "probe_samples", "probe_seeds", "measure", "layers", "tap", "view", "rows"]
    names += ["replay"] if options.replay else []  # left out where it is not asked for, as in runs from before it
    return {name.removeprefix("probe_"): _plain(getattr(options, name)) for name in names}


def _plain(value: Any) -> Any:
    """A value of an option as JSON has it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def flush_denormals() -> None:
    """Take numbers below 1.2e-38 for zero: gradients of a deep PlainNet fall there, and a step took 10 times as long.

    For the whole process and before its first computation, because threads inherit it when they start.
    """
    import torch

    torch.set_flush_denormal(True)
