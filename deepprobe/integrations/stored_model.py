"""A network as a run, a checkpoint or a file of weights holds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepprobe.errors import CheckpointError, RunError
from deepprobe.models import create_model, describe_model
from deepprobe.runs import open_run
from deepprobe.runs.run import step_of
from deepprobe.training import load_checkpoint
from deepprobe.training.checkpoint import put_weights

if TYPE_CHECKING:
    from torch import nn

    from deepprobe.training import Checkpoint


def load_model(path: str | Path, *, step: int | None = None) -> nn.Module:
    """A network of the zoo with the weights that a run left.

    Args:
        path: Folder of a run, or one of its checkpoints. For weights of a network of your own use
            ``training.load_weights``.
        step: Of which step, if a run is named; by default the last that it has a checkpoint of.

    Returns:
        The network on the CPU, in training mode.

    Raises:
        CheckpointError: If the file is damaged or hostile, does not name its network, or there is none of that step.
        RunError: If the folder is no run.
        UnknownNameError: If there is no network of that name.
        ConfigError: If the network's options are impossible.
    """
    return rebuild(read_checkpoint(Path(path), step=step), origin=str(path))


def read_checkpoint(path: Path, *, step: int | None = None) -> Checkpoint:
    """Weights in a file, or of a checkpoint in the folder of a run.

    Args:
        path: The file or folder.
        step: Which checkpoint of a run; the last by default.

    Raises:
        CheckpointError: If the file is damaged or hostile, or the run has no such checkpoint.
        RunError: If the folder is no run.
    """
    if not path.is_dir():
        if step is not None:
            raise RunError(f"step={step} was asked of {path}, which is no folder of a run")
        return load_checkpoint(path)
    run = open_run(path)
    files = {step_of(name): name for name in run.files("checkpoints")}
    if not files:
        raise CheckpointError(f"{path} has no checkpoint yet; it is {run.status}")
    if step is not None and step not in files:
        raise CheckpointError(f"{path} has no checkpoint of step {step}; it has those of {', '.join(map(str, files))}")
    return load_checkpoint(run.check(files[max(files) if step is None else step]))


def rebuild(checkpoint: Checkpoint, *, origin: str, into: nn.Module | None = None) -> nn.Module:
    """The network that a checkpoint belongs to, with its weights.

    Args:
        checkpoint: What was read.
        origin: Where from, for messages.
        into: The network, where the caller knows it.

    Raises:
        CheckpointError: If the checkpoint does not say what network it is of, or its weights do not fit it.
        UnknownNameError: If there is no network of that name.
        ConfigError: If the network's options are impossible.
    """
    if into is None:
        config = dict(checkpoint.deepprobe_config or {})
        name = config.pop("name", None)
        if not isinstance(name, str):
            raise CheckpointError(f"{origin} does not name its network: name it, and give the file as its --weights")
        size = describe_model(name, **{k: v for k, v in config.items() if k != "seed"}).parameters
        held = sum(weight.numel() for weight in checkpoint.weights.values())
        if size > held:  # before the memory is taken
            raise CheckpointError(f"{origin} names a {name} of {size:,} parameters and holds {held:,} numbers")
        into = create_model(name, **config)
    put_weights(into, checkpoint.weights, origin=origin)
    return into
