"""What a verb works on: the images that ``--data`` names and the network that MODEL names."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from deepprobe.data import ImageSet


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
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier() or name in {"name", "seed"}:
            raise ConfigError(f"--model-options {word!r}: write name=value, for example shortcut=B")
        try:
            options[name] = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            options[name] = value
    return options


@dataclass(frozen=True)
class Data:
    """Both splits of a data set.

    Attributes:
        train: Images to train on.
        test: Images to look at.
    """

    train: ImageSet
    test: ImageSet


class DataOptions(Protocol):
    """Options that say which data."""

    @property
    def data(self) -> str:
        """Name of the data set."""

    @property
    def data_dir(self) -> Path | None:
        """Folder of the files."""

    @property
    def input_size(self) -> int | None:
        """Pixels to resize to."""

    @property
    def limit(self) -> int | None:
        """Images to use of the training set."""


def load(options: DataOptions) -> Data:
    """Both splits that the options name; errors as ``load_dataset``."""
    from deepprobe.data import load_dataset

    name, where, size = options.data, options.data_dir, options.input_size
    return Data(
        load_dataset(name, data_dir=where, split="train", input_size=size, limit=options.limit),
        load_dataset(name, data_dir=where, split="test", input_size=size),
    )


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

    return create_model(name, seed=seed, **{**_fitting(images), **options})


def check_model(name: str, images: ImageSet, *, options: dict[str, Any]) -> None:
    """Refuse what ``build`` would refuse, without making the weights."""
    from deepprobe.models import describe_model

    describe_model(name, **{**_fitting(images), **options})


def _fitting(images: ImageSet) -> dict[str, int]:
    """Options with which a model takes these images."""
    _, size, _, channels = images.images.shape
    return {"num_classes": len(images.classes), "in_channels": channels, "input_size": size}
