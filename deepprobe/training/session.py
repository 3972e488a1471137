"""What ``train`` does before the first step: device, split, run folder, identity."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deepprobe.distributed import local_rank, process_group
from deepprobe.errors import ConfigError, NonFiniteError
from deepprobe.records.step import Step
from deepprobe.runs import MemoryRun, create_run
from deepprobe.seeding import derive_seed, preserved_random_states
from deepprobe.training.config import TrainConfig
from deepprobe.training.interruption import interruptible
from deepprobe.training.loop import FINAL, Loop
from deepprobe.training.provenance import describe_data, describe_network, provenance
from deepprobe.training.random_state import seed_everything
from deepprobe.training.stream import LoaderStream, TensorStream, first_samples, is_pair, pair_of, split_off
from deepprobe.training.tracking import following

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from deepprobe.distributed import Ranks
    from deepprobe.runs import Run
    from deepprobe.training.checkpoint import Checkpoint
    from deepprobe.training.context import Callback
    from deepprobe.training.stream import Data, Stream
    from deepprobe.training.tracking import Tracker

N_PROBE_SAMPLES = 512


def train(
    model: nn.Module,
    train_set: Data,
    *,
    validation_set: Data | None = None,
    test_set: Data | None = None,
    config: TrainConfig | None = None,
    callbacks: Sequence[Callback] = (),
    out: Path | str | None = None,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
    command: Mapping[str, Any] | None = None,
    trackers: Sequence[Tracker] = (),
    start: Checkpoint | None = None,
    keep: Sequence[str] = (),
    quiet: bool = False,
    brief: bool = False,
) -> Run:
    """Train a classifier and measure it; a run that was stopped goes on where its last checkpoint is.

    Started by ``torchrun``, the processes train one network together: each takes its part of every batch, and rank 0
    writes the run; the others return a copy of it in memory, without what callbacks recorded there.

    After every epoch the run holds loss, accuracy, n_predicted_classes, top_prediction_share and majority_share of
    training (running, as augmented), validation and test set; learning_rate, seconds and samples_per_second of
    training. Nothing is selected, so the test set selects nothing.

    The same seed, data, initial weights, machine and thread count give the same bits, resumed or not.

    Args:
        model: Maps inputs to logits of shape (n, classes). Trained in place, and left on the device.
        train_set: Two tensors (inputs, integer labels), which are kept on the device; or a DataLoader or list of such
            batches.
        validation_set: The same; where it is missing and train_set is two tensors, ``config.validation_share`` of
            these are held out.
        test_set: The same; measured after every epoch and used for nothing.
        config: Settings; TrainConfig() by default.
        callbacks: Functions of one Context, called after every epoch or as scheduled with ``every`` and ``at``; or
            objects that stand around the training, or around single updates (``training.context``).
        out: Folder of the run; by default it is kept in memory.
        name: Name of the run; ``out`` is then the folder in which it is made.
        about: Plain values to keep with the run and to tell it from others, such as ``{"data": "digits"}``.
        command: Plain values to keep with the run that tell it from no other: how it was asked for.
        trackers: Places outside the run that follow its records, as those of ``integrations.trackers``.
        start: A state of training that a new run begins from, in place of the model's own weights and step 0: weights,
            step, optimizer and random states, as a checkpoint of another run holds them. An optimizer or random states
            that are not in it start afresh.
        keep: Points in training, such as "0it" and "500it", whose checkpoints stay whatever else is removed.
        quiet: Show no progress.
        brief: Show little, as where this is one training of many.

    Returns:
        The run, its status ``complete``, or ``diverged`` where the loss or a weight became NaN or infinite.

    Raises:
        ConfigError: If the device is not there, or data and settings do not fit, or a point in ``keep`` is never met.
        ShapeError: If inputs, labels and logits do not fit.
        RunError: If the folder holds something else, is damaged, cannot be written, or another process writes to it.
        CheckpointError: If the checkpoint to resume from is damaged or of another model.
        NonFiniteError: If the loss became NaN or infinite and ``config.on_nonfinite`` is "raise".
        OutOfMemoryError: If a step does not fit into the device's memory.
        RankLostError: If another process of the training ended.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when a checkpoint has been written; also where it came too late to
            stop this run.
    """
    config = TrainConfig() if config is None else config
    device = device_named(config.device)
    identity = {"model": describe_network(model), "data": describe_data(train_set), "training": config.identity()}
    with process_group(device) as ranks:
        if is_pair(train_set):
            train_set = pair_of(train_set, device=device)
            if validation_set is None and config.validation_share:
                train_set, validation_set = split_off(train_set, share=config.validation_share, seed=config.seed)
        stream = _stream(train_set, config, device, ranks=ranks)
        kept = _steps(keep, stream.n_batches, config=config)
        run = _run(
            out if ranks.is_main else None, name,
            config={"model": identity["model"], "training": config.as_dict(), **(about or {})},
            identity=identity | {"about": dict(about or {})},
            provenance={
                **provenance(model, seed=config.seed, device=device, ranks=ranks), "command": dict(command or {})
            },
        )  # fmt: skip
        model.to(device)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        held_out = {k: v for k, v in (("validation", validation_set), ("test", test_set)) if v is not None}
        algorithms = _algorithms_of_cudnn(deterministic=config.deterministic)
        with preserved_random_states(), algorithms, run.writing(), interruptible() as interruption:
            seed_everything(config.seed if ranks.is_main else derive_seed(config.seed, "rank", ranks.rank))
            source = next((s for s in (validation_set, test_set) if s is not None), train_set)
            probe = first_samples(source, device=device, n_samples=N_PROBE_SAMPLES, batch_size=config.batch_size)
            loop = Loop(
                model=model, stream=stream, held_out=held_out, config=config, callbacks=callbacks, run=run,
                device=device, probe_batches=tuple(probe), about=dict(about or {}), interruption=interruption,
                ranks=ranks, start=start, keep=kept,
            )  # fmt: skip
            loop.resume()
            status, message = ranks.broadcast((run.status, run.message))
            if not ranks.is_main:
                run.set_status(status, message)
            if status not in FINAL:
                with following(run, trackers if ranks.is_main else ()):
                    loop.run_to_the_end(quiet=quiet, brief=brief)
            if ranks.agree([interruption.requested])[0]:  # too late for this run, but what follows must not begin
                raise KeyboardInterrupt(f"stopped; run {run.name!r} is {run.status}")
    if run.status == "diverged" and config.on_nonfinite == "raise":
        raise NonFiniteError(run.message)
    return run


@contextmanager
def _algorithms_of_cudnn(*, deterministic: bool) -> Iterator[None]:
    """Deterministic convolutions, or the fastest; whether they use TF32 is left as the user has set it."""
    cudnn: Any = torch.backends.cudnn  # its own ``flags`` sets TF32 too, and fails where the new settings of it differ
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = not deterministic, deterministic
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def _steps(points: Sequence[str], iterations_per_epoch: int, *, config: TrainConfig) -> frozenset[int]:
    """Updates after which the points lie; ConfigError if one lies after the last."""
    last = config.epochs * iterations_per_epoch
    found = {point: Step.parse(point, iterations_per_epoch).index for point in points}
    for point, index in found.items():
        if index > last:
            raise ConfigError(f"keep={point!r}: training ends after {last} updates ({config.epochs}ep)")
    return frozenset(found.values())


def device_named(name: str) -> torch.device:
    """The device of that name; ConfigError if it is not there, or not for all processes of this machine."""
    if name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"device={name!r}: all processes of torchrun would take this one GPU; say 'cuda' or 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if name == "cuda":
        device = torch.device("cuda", local_rank())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={name!r}: torch sees {torch.cuda.device_count()} GPUs here; use 'auto' or 'cpu'")
    return device


def _stream(data: Data, config: TrainConfig, device: torch.device, *, ranks: Ranks) -> Stream:
    """Training batches; ConfigError if there are none, or the settings do not fit the kind of data."""
    stream: Stream
    if is_pair(data):
        pair = pair_of(data, device=device)
        stream = TensorStream(
            pair, batch_size=config.batch_size, seed=config.seed, augmentation=config.augmentation, ranks=ranks,
            micro_batches=config.micro_batches,
        )  # fmt: skip
    else:
        if config.augmentation != "none":
            raise ConfigError(
                f"augmentation={config.augmentation!r} needs two tensors as training data; let the loader augment, "
                "with augmentation='none'"
            )
        stream = LoaderStream(data, device=device, ranks=ranks)
    if stream.n_batches < 1:
        raise ConfigError("the training data is empty")
    return stream


def _run(
    out: Path | str | None,
    name: str | None,
    *,
    config: Mapping[str, Any],
    identity: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Run:
    """The run to write to: ``out/name``, or ``out`` where there is no name, or memory."""
    if out is None:
        default = f"{config['model']['name']}-seed{config['training']['seed']}"
        return MemoryRun(name or default, config=config, provenance=provenance)
    path = Path(out).resolve() if name is None else Path(out) / name
    return create_run(
        path.parent, name=path.name if name is None else name, config=config, identity=identity, provenance=provenance
    )
