"""Networks by name: make one, list them, describe one without its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from deepprobe.errors import ConfigError, UnknownNameError, nearest
from deepprobe.models import alexnet, imagenet, lenet, residual, vgg
from deepprobe.models.initialisation import initialise, weighted_layers
from deepprobe.models.zoo import Entry, ModelOptions, ZooModel

_ENTRIES: dict[str, Entry] = {**lenet.ENTRIES, **vgg.ENTRIES, **alexnet.ENTRIES, **imagenet.ENTRIES}
_NAMES = sorted({*_ENTRIES, *residual.NAMES})
_LARGEST_SEED = 2**63 - 1

MOST_PARAMETERS = 2_000_000_000
"""Cap on the size of a network: a damaged or hostile configuration must not fill the memory."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a network without its weights.

    Attributes:
        name: Name for :func:`create_model`.
        family: Family that it belongs to.
        depth: Weighted layers on the main path.
        parameters: Trainable numbers, with this many classes and input channels.
        num_classes: Classes.
        input_size: Height and width of the input in pixels.
        in_channels: Channels of the input.
        description: One line.
    """

    name: str
    family: str
    depth: int
    parameters: int
    num_classes: int
    input_size: int
    in_channels: int
    description: str


def create_model(
    name: str,
    *,
    num_classes: int = 10,
    in_channels: int | None = None,
    input_size: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> ZooModel:
    """A new network with fresh weights, on the CPU, in training mode.

    ``plainnet``, ``resnet``, ``preresnet`` and ``resnext`` followed by a depth from 8 to 1202 are networks for small
    images: 6n+2 layers with basic blocks, 9n+2 with bottlenecks (``resnet164``, ``resnext29_8x64d``). Five depths are
    taken by ImageNet networks: in ``resnet…`` and ``plainnet…`` 18, 34, 50, 101 and 152, in ``resnext…`` 50 and 101,
    mean those. The network for small images of such a depth is ``create_model("resnet", depth=50)``; so is any other.
    ``VGG-16`` and ``PlainNet-164`` are understood too.

    Two networks of one seed that differ only in their shortcuts have the same weights outside them.

    Args:
        name: Name from :func:`list_models`, any legal depth, or a family of residual networks with ``depth=…``.
        num_classes: Outputs.
        in_channels: Channels of the input; if None the family's, 3 (LeNet: 1).
        input_size: Height and width of the input in pixels; if None the family's, 32 (LeNet 28, ImageNet 224).
        seed: Seed of the weights. With one, no global random state is read or changed; with None one number is drawn
            from torch's.
        **options: Options of the family: fields of ``SmallImageOptions``, ``ImageNetOptions``, ``VGGOptions``,
            ``AlexNetOptions`` and ``LeNetOptions``.

    Returns:
        The network. Its ``deepprobe_config`` holds the keywords that build it again.

    Raises:
        UnknownNameError: If there is no such network; the message has the nearest names.
        ConfigError: If an option does not exist, contradicts the name, or has an impossible value, if the seed is no
            integer from 0 to 2**63 - 1, or if the network would be larger than ``MOST_PARAMETERS``.

    Example:
        >>> create_model("resnet20", num_classes=10, seed=0).deepprobe_config
        {'name': 'resnet20', 'num_classes': 10, 'in_channels': 3, 'input_size': 32, 'seed': 0}
    """
    entry = _find(name)
    settings = _parse(entry, num_classes=num_classes, in_channels=in_channels, input_size=input_size, options=options)
    n_parameters = _count(_blueprint(entry, settings))
    if n_parameters > MOST_PARAMETERS:
        raise ConfigError(f"{name}: {n_parameters:,} parameters with these options; the most is {MOST_PARAMETERS:,}")
    generator = torch.Generator("cpu").manual_seed(_seed(seed))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = entry.build(settings)
    initialise(model, settings.init, activation=settings.activation, gain=settings.init_gain, generator=generator)
    model.finish_initialisation()
    model.deepprobe_config = {
        "name": entry.name,
        "num_classes": settings.num_classes,
        "in_channels": settings.in_channels,
        "input_size": settings.input_size,
        **({} if seed is None else {"seed": int(seed)}),
        **{option: getattr(settings, option) for option in options},
    }
    return model


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks, sorted; of residual ones the common depths, though every legal depth has a name.

    Args:
        pattern: Shell pattern such as ``resnet*`` or ``*164``.

    Returns:
        Names that match; an empty list if none does.

    Example:
        >>> list_models("*164")
        ['plainnet164', 'preresnet164', 'resnet164', 'resnext164']
    """
    return [name for name in _NAMES if fnmatchcase(name, pattern.lower())]


def describe_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    input_size: int | None = None,
    **options: Any,
) -> ModelInfo:
    """Depth, size and purpose of a network, found without allocating its weights.

    Args:
        name: As for :func:`create_model`.
        num_classes: Outputs; if None 10, or the 1,000 of ImageNet for inputs of 224 pixels and more.
        in_channels: As for :func:`create_model`.
        input_size: As for :func:`create_model`.
        **options: As for :func:`create_model`.

    Returns:
        The description.

    Raises:
        UnknownNameError: If there is no such network.
        ConfigError: If an option does not exist, contradicts the name, or has an impossible value.

    Example:
        >>> describe_model("resnet164").parameters
        2602906
    """
    entry = _find(name)
    settings = _parse(entry, num_classes=num_classes, in_channels=in_channels, input_size=input_size, options=options)
    if num_classes is None and settings.input_size >= 224:
        settings = entry.parse({**_given(1000, in_channels, input_size), **options})
    model = _blueprint(entry, settings)
    return ModelInfo(
        name=entry.name,
        family=entry.family,
        depth=sum(1 for _ in weighted_layers(model)),
        parameters=_count(model),
        num_classes=settings.num_classes,
        input_size=settings.input_size,
        in_channels=settings.in_channels,
        description=entry.description,
    )


def _find(name: str) -> Entry:
    """Entry of a name, in any of the ways that people write it."""
    if not isinstance(name, str):
        raise UnknownNameError(f"no model {name!r}: a name is a string such as 'resnet20'")
    plain = re.sub(r"(?<=[a-z])-(?=\d)", "", name.lower()).replace("-", "_")
    problem = None if plain in _ENTRIES else residual.unknown_depth(plain)
    entry = _ENTRIES.get(plain) or residual.find(plain)
    if entry is None or problem:
        raise UnknownNameError(problem or f"no model {name!r}; {nearest(plain, {*_NAMES, *residual.FAMILIES})}")
    return entry


def _blueprint(entry: Entry, settings: ModelOptions) -> ZooModel:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return entry.build(settings)


def _count(model: ZooModel) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def _given(num_classes: int | None, in_channels: int | None, input_size: int | None) -> dict[str, Any]:
    """The common options that the caller has set."""
    common = {"num_classes": num_classes, "in_channels": in_channels, "input_size": input_size}
    return {option: value for option, value in common.items() if value is not None}


def _parse(
    entry: Entry,
    *,
    num_classes: int | None,
    in_channels: int | None,
    input_size: int | None,
    options: dict[str, Any],
) -> ModelOptions:
    """All options of an entry, checked."""
    return entry.parse({**_given(num_classes, in_channels, input_size), **options})


def _seed(seed: int | None) -> int:
    """The seed itself, or one drawn from torch's global state."""
    if seed is None:
        return int(torch.randint(_LARGEST_SEED, (), device="cpu").item())
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= int(seed) <= _LARGEST_SEED:
        raise ConfigError(f"seed={seed!r} is not an integer from 0 to {_LARGEST_SEED}")
    return int(seed)
