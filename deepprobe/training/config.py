"""Settings of a training run: every one checked before the first step."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from deepprobe.errors import ConfigError, nearest
from deepprobe.training.checkpoint_timer import CheckpointTimer

T = TypeVar("T")

WITHOUT_EFFECT = ("device", "checkpoint_every", "checkpoints_kept")
"""Settings that are not part of a run's identity: they do not change what is trained."""


def telling_config_errors(cls: type[T]) -> type[T]:
    """The class with pydantic's errors turned into ConfigError."""
    original: Any = cls.__init__

    @functools.wraps(original)
    def checked(self: T, *args: Any, **kwargs: Any) -> None:
        try:
            original(self, *args, **kwargs)
        except ValidationError as error:
            raise ConfigError(_in_words(cls, error)) from None
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from None

    setattr(cls, "__init__", checked)  # noqa: B010 - a plain assignment is not allowed by the type checker
    return cls


def _in_words(cls: type[Any], error: ValidationError) -> str:
    """What was wrong, a clause a setting: its name, its value, what is allowed."""
    fields = [f.name for f in dataclasses.fields(cls)]
    clauses = []
    for one in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in one["loc"])
        if one["type"] == "unexpected_keyword_argument":
            clauses.append(f"there is no setting {name!r}; {nearest(name, fields)}")
        elif one["type"] == "value_error":
            clauses.append(one["msg"].removeprefix("Value error, "))
        elif one["type"] == "tuple_type":
            clauses.append(f"{name}={one['input']!r:.80}: must be a list, such as [{one['input']!r:.80}]")
        else:
            text = repr(one["input"])
            clauses.append(f"{name}={text if len(text) <= 80 else text[:77] + '…'}: {one['msg'][:200]}")
    return f"{cls.__name__}: " + "; ".join(clauses)


@telling_config_errors
@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), kw_only=True)
class TrainConfig:
    """How to train. Values of the wrong type, out of range, or unknown are a ConfigError.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Samples an update, over all processes, where the data are tensors; loaders bring their own.
        micro_batches: Parts in which each batch is computed, their gradients summed: less memory for the same update,
            but for batch normalisation, whose statistics are those of a part.
        optimizer: sgd, adam or adamw.
        lr: Learning rate; the highest one in schedules that rise or fall.
        momentum: Momentum of SGD.
        nesterov: Nesterov's form of momentum.
        weight_decay: L2 penalty on every parameter; with adamw, decay beside the gradient.
        schedule: constant; step (times step_factor at each milestone); cosine (to 0); one-cycle (Smith 2018: up from
            lr/25 over 30 % of training, down to lr/250000).
        milestones: Where the step schedule drops, as shares of training, ascending.
        step_factor: Factor of each drop.
        warmup_epochs: Epochs over which the learning rate rises linearly; not with one-cycle, which has its own.
        label_smoothing: Share of each label spread over all classes, in training only.
        clip_norm: Largest norm of the gradient; none by default.
        augmentation: none, pad-crop (pad by an eighth, crop at random) or pad-crop-flip.
        validation_share: Share of the training tensors held out where no validation set is given.
        seed: Seed of data order, augmentation, split and dropout. Weights are drawn before, by whoever made the model.
        device: auto, cpu, cuda or cuda:N.
        checkpoint_every: Between checkpoints, as "1ep", "500it" or "10min"; where there is a folder to write to.
        checkpoints_kept: How many checkpoints stay, the last ones.
        channels_last: Keep images and kernels with channels innermost; often faster, other roundings.
        precision: fp32, or bf16 autocast, in training and evaluation; probes always use fp32.
        deterministic: Whether convolutions on a GPU take only algorithms that give the same bits each time; others may
            be faster, and a resumed run is no longer bit-equal there. A CPU is deterministic in any case.
        compile: Whether to compile the model for training (``torch.compile``); evaluation and probes stay eager.
        on_nonfinite: What a NaN or infinite loss does: "stop" ends the run with the status diverged and everything
            measured so far; "raise" raises NonFiniteError after that.
    """

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    micro_batches: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 1e-4
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "one-cycle"
    milestones: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Strict(False)] = (0.5, 0.75)
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0, le=1e12)] | None = None
    augmentation: Literal["none", "pad-crop", "pad-crop-flip"] = "none"
    validation_share: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)\z")] = "auto"
    checkpoint_every: str = "1ep"
    checkpoints_kept: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    channels_last: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    deterministic: bool = True
    compile: bool = False
    on_nonfinite: Literal["stop", "raise"] = "stop"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Settings that rule each other out."""
        CheckpointTimer.parse(self.checkpoint_every)
        if self.micro_batches > self.batch_size:
            raise ConfigError(f"micro_batches={self.micro_batches}: must be at most batch_size={self.batch_size}")
        if self.schedule == "one-cycle" and self.warmup_epochs:
            raise ConfigError("warmup_epochs: the one-cycle schedule has its own warm-up; take 'cosine' or 'step'")
        if self.warmup_epochs > self.epochs:
            raise ConfigError(f"warmup_epochs={self.warmup_epochs}: must be within epochs={self.epochs}")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum > 0):
            raise ConfigError("nesterov=True: needs optimizer='sgd' and a momentum above 0")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones={self.milestones}: must ascend")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Every setting as plain values, such as JSON and TOML hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """Settings that differ from the defaults and change what is trained."""
        default = TrainConfig().as_dict()
        return {k: v for k, v in self.as_dict().items() if v != default[k] and k not in WITHOUT_EFFECT}
