"""``deepprobe train``: models × seeds, one after another, with probes along the way."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from tyro.conf import Positional

from deepprobe.cli.options import STRICT, parse, read_toml
from deepprobe.cli.subject import build, check_model, load_split, model_options
from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepprobe.data import ImageSet
    from deepprobe.runs import Run
    from deepprobe.training.context import Callback

View = Literal["samples", "channels", "pooled", "hosvd1", "hosvd2", "hosvd3", "tokens"]
Tap = Literal["input", "output", "block"]


@dataclass(frozen=True)
class TrainOptions:
    """Train networks on a data set and write one run a model and seed, OUT/MODEL-seedN.

    Runs that are complete are skipped and interrupted ones resumed, so the same command can be given again. The test
    set is only looked at, never used to select.

    For example:
      deepprobe train resnet20 --data digits --epochs 8 --out runs
      deepprobe train plainnet56 resnet56 --seeds 0 1 2 --probe-every 1ep --out runs
      deepprobe train resnet56 --data cifar10 --data-dir ~/data --augmentation pad-crop-flip --lr 0.1
      deepprobe train --config study.toml --lr 0.05
    """

    __pydantic_config__ = STRICT

    models: Positional[tuple[str, ...]] = ()
    """Names of models (deepprobe models lists them)."""
    config: Path | None = None
    """TOML file of options, named as here; what stands on the command line wins."""
    out: Path = Path("runs")
    """Folder for the runs."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] = (0,)
    """Seeds of the initial weights, the order of the data and the augmentation; one run a seed."""
    model_options: tuple[str, ...] = ()
    """Options of the models as name=value, for example shortcut=B batch_norm=false."""

    data: str = "digits"
    """Data set: digits (needs no files), mnist, fashion-mnist, cifar10, cifar100, or folder:PATH."""
    data_dir: Path | None = None
    """Folder of the data sets' files; by default DEEPPROBE_DATA or the user's cache."""
    input_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Resize images to this many pixels."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only the first images of the training set."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Passes over the training data."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Samples an update."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimizer."""
    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.02
    """Learning rate; the highest one where the schedule changes it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 1e-4
    """L2 penalty on every parameter."""
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "one-cycle"
    """How the learning rate changes."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    """Where the step schedule drops, as shares of training."""
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor of each drop."""
    warmup_epochs: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Epochs over which the learning rate rises; not with one-cycle."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label spread over all classes."""
    clip_norm: Annotated[float, Field(gt=0, le=1e12)] | None = None
    """Largest norm of the gradient."""
    augmentation: Literal["none", "pad-crop", "pad-crop-flip"] = "none"
    """Random changes of the training images."""
    validation_share: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of the training set held out for validation."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads of the CPU; torch decides by default. Small images are often fastest with 1."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of training; probes always use fp32."""
    channels_last: bool = False
    """Keep channels innermost in memory; often faster."""
    checkpoint_every: str = "1ep"
    """Between checkpoints: 1ep, 500it."""

    probe_every: str | None = None
    """Between probes: 1ep, 100it, 1ep50it; none by default."""
    probe_samples: Annotated[int, Field(ge=1, le=100_000)] = 128
    """Test images that are probed, the first ones."""
    probe_seeds: tuple[int, ...] | None = None
    """Probe only the runs of these seeds; all by default."""
    layers: tuple[str, ...] = ()
    """Layers to probe, as patterns of names such as 'features.stage2.*'; all by default."""
    tap: tuple[Tap, ...] = ("block", "input")
    """Where representations are read."""
    view: tuple[View, ...] = ("samples", "channels")
    """How they become matrices: one for each tap, or one for all."""
    rows: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Positions of each sample that become rows: all, or so many at random."""
    replay: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Samples that each probe runs again in float64, to measure what the arithmetic itself can know; 0 for none."""
    quiet: bool = False
    """No progress bars, no lines."""


def options_from(words: Sequence[str]) -> TrainOptions:
    """Options from the words, on top of those of the file that ``--config`` names.

    Raises:
        ConfigError: If the file is wrong, or no model is named.
        SystemExit: As ``parse``.
    """
    options = parse(TrainOptions, words, verb="train")
    if options.config is not None:
        options = parse(TrainOptions, words, verb="train", defaults=read_toml(options.config, TrainOptions))
    if not options.models:
        raise ConfigError("no model was named; write deepprobe train MODEL …, and see deepprobe models")
    return options


def run(words: Sequence[str]) -> None:
    """Train every model with every seed; complete runs are skipped."""
    options = options_from(words)
    flush_denormals()
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    models, seeds = dict.fromkeys(options.models), dict.fromkeys(options.seeds)
    plan = [(model, seed) for seed in seeds for model in models]
    data = Data(
        load_split(options.data, "train", options, limit=options.limit), load_split(options.data, "test", options)
    )
    for model in models:  # a wrong name or option is told before the first hour, not after it
        check_model(model, data.train, options=model_options(options.model_options))
    started = time.monotonic()
    for position, (model, seed) in enumerate(plan, start=1):
        outcome = _train_one(model, seed, options, data)
        if not options.quiet:
            share = position / len(plan)
            left = (time.monotonic() - started) * (1 - share) / share
            print(f"{outcome}  ({position} of {len(plan)}{f', about {left / 60:.0f} min left' if left > 60 else ''})")


def flush_denormals() -> None:
    """Take numbers below 1.2e-38 for zero: gradients of a deep PlainNet fall there, and a step took 10 times as long.

    For the whole process and before its first computation, because threads inherit it when they start.
    """
    import torch

    torch.set_flush_denormal(True)


@dataclass(frozen=True)
class Data:
    """Both splits of a data set.

    Attributes:
        train: Images to train on.
        test: Images to look at.
    """

    train: ImageSet
    test: ImageSet


def _train_one(model: str, seed: int, options: TrainOptions, data: Data) -> str:
    """One run, or the one that is there already; what came of it in one line."""
    name = f"{model}-seed{seed}"
    was_there = (options.out / name).is_dir()
    from deepprobe.training import TrainConfig, train

    given = {f.name: getattr(options, f.name) for f in fields(TrainConfig) if hasattr(options, f.name)}
    done = train(
        build(model, data.train, seed=seed, options=model_options(options.model_options)),
        data.train.tensors(),
        test_set=data.test.tensors(),
        config=TrainConfig(**given, seed=seed),
        callbacks=_probes(seed, options, data),
        out=options.out,
        name=name,
        about={"data": _data_settings(options, data), "probe": _probe_settings(options), "denormals": "flushed"},
        quiet=options.quiet,
    )
    return f"{name}: {done.status}{_accuracy(done)}{', was there already' if was_there else ''}"


def _accuracy(run: Run) -> str:
    """Last test accuracy of a run in words, and why it stopped early if it did."""
    metrics = run.metrics()
    found = metrics[(metrics["split"] == "test") & (metrics["measure"] == "accuracy")]["value"]
    accuracy = f", test accuracy {found.iloc[-1]:.1%}" if len(found) else ""
    return f"{accuracy}{f' ({run.message})' if run.message else ''}"


def _probes(seed: int, options: TrainOptions, data: Data) -> list[Callback]:
    """The probes of one run, none where none were asked for."""
    if options.probe_every is None or seed not in (options.probe_seeds or options.seeds):
        return []
    from deepprobe.integrations import ProbeCallback

    images, labels = data.test.take(options.probe_samples).tensors()
    return [
        ProbeCallback(
            every=options.probe_every,
            batches=[(images, labels)],
            layers=options.layers or None,
            tap=options.tap,
            view=options.view,
            rows=options.rows,
            replay=options.replay,
        )
    ]


def _data_settings(options: TrainOptions, data: Data) -> dict[str, Any]:
    """Which data, as plain values."""
    return {"name": options.data, "source": data.train.source, "input_size": options.input_size}


def _probe_settings(options: TrainOptions) -> dict[str, Any]:
    """What is probed, as plain values: part of what a run is."""
    if options.probe_every is None:
        return {}
    names = ["probe_every", "probe_samples", "probe_seeds", "layers", "tap", "view", "rows"]
    names += ["replay"] if options.replay else []  # left out where it is not asked for, as in runs from before it
    values = {name.removeprefix("probe_"): getattr(options, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
