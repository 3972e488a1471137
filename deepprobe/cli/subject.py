"""What a verb works on: the images that ``--data`` names and the network that MODEL names."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field
from tyro.conf import Positional

from deepprobe.cli.options import STRICT
from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepprobe.data import ImageSet


@dataclass(frozen=True)
class SubjectOptions:
    """Base of the options of the verbs that look at one network: which, and with which images."""

    __pydantic_config__ = STRICT

    model: Positional[str]
    """Name of a network, folder of a run, or file of weights."""
    weights: Path | None = None
    """Weights for the named network."""
    model_options: tuple[str, ...] = ()
    """Options of the named network as name=value, for example shortcut=B."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of untrained weights, and of whatever else is drawn."""

    data: str | None = None
    """Data set: digits, mnist, fashion-mnist, cifar10, cifar100, or folder:PATH; by default the run's, else digits."""
    data_dir: Path | None = None
    """Folder of the data sets' files; by default DEEPPROBE_DATA or the user's cache."""
    input_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Resize images to this many pixels."""
    split: Literal["train", "test"] = "test"
    """Which images."""
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """How many images, the first ones."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 128
    """Images a forward pass."""
    device: str | None = None
    """Where to run: cpu, cuda, cuda:N; the CPU by default."""
    quiet: bool = False
    """Whether to show no progress bar, and to print nothing where a file is written."""


def open_subject(options: SubjectOptions) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The network that MODEL means, and the images and labels that it is given.

    Raises:
        ConfigError: If weights or options are given for a network that has its own, the device is not there, or an
            option is impossible.
        UnknownNameError: If there is no such network or data set.
        CheckpointError: If weights are damaged, hostile, or of another network.
    """
    _check_device(options.device)
    given = options.weights or (Path(options.model) if is_path(options.model) else None)
    if given is None:
        images = _images(options, {})
        return _built(options, images), images.tensors()
    if is_path(options.model) and options.weights is not None:
        raise ConfigError(f"--weights {options.weights}: {options.model} has weights of its own")
    if is_path(options.model) and options.model_options:
        raise ConfigError(f"--model-options {options.model_options[0]!r}: {options.model} has options of its own")
    from deepprobe.integrations.stored_model import read_checkpoint, rebuild

    checkpoint = read_checkpoint(given)
    about = checkpoint.about.get("data")
    images = _images(options, about if isinstance(about, dict) else {})
    into = None if options.weights is None else _built(options, images)
    return rebuild(checkpoint, origin=str(given), into=into), images.tensors()


def _check_device(name: str | None) -> None:
    """ConfigError if a device is named that is not here, or is none."""
    if name is None:
        return
    from deepprobe.training.session import device_named

    try:
        device_named(name)
    except RuntimeError as error:  # torch's word for a name that it does not know
        raise ConfigError(f"--device {name}: {error}") from error


def _built(options: SubjectOptions, images: ImageSet) -> nn.Module:
    """The network named, untrained."""
    return build(options.model, images, seed=options.seed, options=model_options(options.model_options))


def _images(options: SubjectOptions, known: dict[str, Any]) -> ImageSet:
    """The images asked for: of the data set that is named, or else known from the run."""
    size = known.get("input_size")
    options = replace(options, input_size=options.input_size or (size if isinstance(size, int) else None))
    name = options.data or str(known.get("name", "digits"))
    return load_split(name, options.split, options).take(options.samples)


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
