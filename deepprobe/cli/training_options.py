"""Options that every verb that trains has: which networks, which images, how each is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional

from deepprobe.cli.options import STRICT
from deepprobe.errors import ConfigError


@dataclass(frozen=True)
class TrainingOptions:
    """Base of the options of ``deepprobe train`` and ``deepprobe lottery``; how to train is as in ``TrainConfig``."""

    __pydantic_config__ = STRICT

    models: Positional[tuple[str, ...]] = ()
    """Names of models (deepprobe models lists them)."""
    config: Path | None = None
    """TOML file of options, named as here; what stands on the command line wins."""
    quiet: bool = False
    """Whether to show neither progress bars nor lines."""

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
    """Samples an update, over all processes."""
    micro_batches: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Parts in which each batch is computed, their gradients summed: less memory for the same update."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer."""
    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.02
    """Learning rate; the highest one where the schedule changes it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Whether momentum takes Nesterov's form."""
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 1e-4
    """L2 penalty on every parameter; with adamw, decay beside the gradient."""
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
    """Arithmetic of training and evaluation; probes always use fp32."""
    channels_last: bool = False
    """Whether to keep channels innermost in memory; often faster."""
    deterministic: bool = True
    """Whether a GPU takes only algorithms that give the same bits each time; others may be faster."""
    compile: bool = False
    """Whether to compile the network for training (torch.compile); evaluation and probes stay eager."""
    checkpoint_every: str = "1ep"
    """Between checkpoints: 1ep, 500it, 10min."""
    checkpoints_kept: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    """How many checkpoints stay, the last ones."""


def refuse_no_model(options: TrainingOptions, *, verb: str) -> None:
    """Raise ConfigError if no model is named."""
    if not options.models:
        raise ConfigError(f"no model was named; write deepprobe {verb} MODEL …, and see deepprobe models")
