"""What a verb works on: the images that ``--data`` names and the network that MODEL names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from deepprobe.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import nn

    from deepprobe.data import ImageSet
    from deepprobe.training import Checkpoint


ELSEWHERE = {
    "name": "MODEL",
    "seed": "--seed",
    "num_classes": "--data",
    "in_channels": "--data",
    "input_size": "--data and --input-size",
}
"""Keywords of ``create_model`` that have their own place on the command line."""


def model_options(words: tuple[str, ...]) -> dict[str, Any]:
    """Keywords for ``create_model`` from words such as ``shortcut=B`` and ``widths=[16,32]``.

    Args:
        words: ``name=value``; a value is read as TOML where it is TOML, else as text.

    Raises:
        ConfigError: If a word has no ``=``, or names what has its own place on the command line.

    Example:
        >>> model_options(("shortcut=B", "init_gain=0.5", "batch_norm=false"))
        {'shortcut': 'B', 'init_gain': 0.5, 'batch_norm': False}
    """
    options = read_values(words, option="model-options", example="shortcut=B")
    for name in options:
        if name in ELSEWHERE:
            word = next(word for word in words if word.partition("=")[0] == name)
            raise ConfigError(f"--model-options {word!r}: {name} is set by {ELSEWHERE[name]}")
    return options


def read_values(words: tuple[str, ...], *, option: str, example: str) -> dict[str, Any]:
    """Names and values from words such as ``shortcut=B`` and ``widths=[16,32]``.

    Args:
        words: ``name=value``; a value is read as TOML where it is TOML, else as text.
        option: Where the words were given, for the message.
        example: Such a word, for the message.

    Raises:
        ConfigError: If a word has no ``=``, or its name is none.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            raise ConfigError(f"--{option} {word!r}: write name=value, for example {example}")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            found[name] = value
    return found


class DataOptions(Protocol):
    """Options that say where data lie and what size they get."""

    @property
    def data_dir(self) -> Path | None:
        """Folder of the files."""

    @property
    def input_size(self) -> int | None:
        """Pixels to resize to."""


def load_split(
    name: str, split: Literal["train", "test"], options: DataOptions, *, limit: int | None = None
) -> ImageSet:
    """Images of one split, as the options say; arguments and errors as ``load_dataset``."""
    from deepprobe.data import load_dataset

    return load_dataset(name, data_dir=options.data_dir, split=split, input_size=options.input_size, limit=limit)


def build(name: str, images: ImageSet, *, seed: int, options: dict[str, Any]) -> nn.Module:
    """A network of the zoo that takes these images and tells their classes apart.

    Args:
        name: Name of the model.
        images: What it will be given; sets channels, size and number of classes where ``options`` do not.
        seed: Seed of the initial weights.
        options: Further keywords of ``create_model``.

    Raises:
        UnknownNameError: If there is no such model.
        ConfigError: If an option does not fit it.
    """
    from deepprobe.models import create_model

    return create_model(name, **{**_fitting(images), "seed": seed, **options})


def check_model(name: str, images: ImageSet, *, options: dict[str, Any]) -> None:
    """Refuse what ``build`` would refuse, without making the weights."""
    from deepprobe.models import describe_model

    describe_model(name, **{**_fitting(images), **options})


def _fitting(images: ImageSet) -> dict[str, int]:
    """Options with which a model takes these images."""
    _, size, _, channels = images.images.shape
    return {"num_classes": len(images.classes), "in_channels": channels, "input_size": size}


def is_path(name: str) -> bool:
    """Whether MODEL means a file or a folder: it is written like a path, or is there and no network has that name."""
    if "/" in name or Path(name).suffix in {".pt", ".pth", ".safetensors"}:
        return True
    from deepprobe.models import list_models

    return Path(name).exists() and name not in list_models()


def read_checkpoint(path: Path) -> Checkpoint:
    """Weights in a file, or of the last checkpoint in the folder of a run.

    Raises:
        CheckpointError: If the file is damaged or hostile, or the run has no checkpoint.
        RunError: If the folder is no run.
    """
    from deepprobe.runs import open_run
    from deepprobe.training import load_checkpoint

    if not path.is_dir():
        return load_checkpoint(path)
    run = open_run(path)
    files = run.files("checkpoints")
    if not files:
        raise CheckpointError(f"{path} has no checkpoint yet; it is {run.status}")
    return load_checkpoint(run.check(files[-1]))


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
    from deepprobe.models import create_model, describe_model
    from deepprobe.training.checkpoint import put_weights

    if into is None:
        config = dict(checkpoint.deepprobe_config or {})
        name = config.pop("name", None)
        if not isinstance(name, str):
            raise CheckpointError(f"{origin} does not name its network: write deepprobe probe MODEL --weights {origin}")
        size = describe_model(name, **{k: v for k, v in config.items() if k != "seed"}).parameters
        held = sum(weight.numel() for weight in checkpoint.weights.values())
        if size > held:  # before the memory is taken
            raise CheckpointError(f"{origin} names a {name} of {size:,} parameters and holds {held:,} numbers")
        into = create_model(name, **config)
    put_weights(into, checkpoint.weights, origin=origin)
    return into
