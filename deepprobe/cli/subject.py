"""What a verb works on: the images that ``--data`` names and the network that MODEL names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from deepprobe.data import ImageSet


def model_options(words: tuple[str, ...]) -> dict[str, Any]:
    """Keywords for ``create_model`` from words such as ``shortcut=B`` and ``widths=[16,32]``.

    Args:
        words: ``name=value``; a value is read as TOML where it is TOML, else as text.

    Raises:
        ConfigError: If a word has no ``=``.

    Example:
        >>> model_options(("shortcut=B", "init_gain=0.5", "batch_norm=false"))
        {'shortcut': 'B', 'init_gain': 0.5, 'batch_norm': False}
    """
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            raise ConfigError(f"--model-options {word!r}: write name=value, for example shortcut=B")
        try:
            options[name] = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            options[name] = value
    return options


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

    size, channels = images.images.shape[1], images.images.shape[3]
    fitting = {"num_classes": len(images.classes), "in_channels": channels, "input_size": size}
    return create_model(name, seed=seed, **{**fitting, **options})


def is_path(name: str) -> bool:
    """Whether MODEL means a file or a folder: it is there, or it is written like a path."""
    return Path(name).exists() or "/" in name or Path(name).suffix in {".pt", ".pth", ".safetensors"}
