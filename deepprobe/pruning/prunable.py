"""Which weights may be pruned: kernels, never biases or normalisation."""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn

from deepprobe.errors import ConfigError, UnknownNameError
from deepprobe.hooks.kernels import kernels
from deepprobe.hooks.select import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NORMALISATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def prunable(model: nn.Module, *, protect: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The weights that may be pruned, by parameter name: weight matrices and convolution kernels.

    Args:
        model: Any module; wrappers are looked through.
        protect: Globs over layer names, such as ``classifier.*``, that are left whole.

    Returns:
        Name as in ``named_parameters`` to parameter, in order of registration; one that layers share stands once.

    Raises:
        UnknownNameError: If the model has no kernels, or a glob matches none of their layers.
        ConfigError: If every kernel is protected.
    """
    found: dict[str, nn.Parameter] = {}
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    with suppress(UnknownNameError):
        found = {
            names[id(kernel.parameter)]: kernel.parameter
            for kernel in kernels(model)
            if not isinstance(kernel.module, NORMALISATIONS)  # a LayerNorm's scales may have several axes
            and not names[id(kernel.parameter)].rpartition(".")[2].startswith("bias")  # and so may biases
        }
    if not found:
        raise UnknownNameError(
            f"this {type(unwrapped(model)).__name__} has no prunable weights: neither weight matrix nor kernel"
        )
    kept = set(matching(found, protect, what="protect"))
    if len(kept) == len(found):
        raise ConfigError(
            f"protect={list(protect)} covers every layer of {type(model).__name__}: nothing can be pruned"
        )
    return {name: parameter for name, parameter in found.items() if name not in kept}


def layer_of(parameter: str) -> str:
    """Name of the layer that a parameter's name says: ``fc1`` of ``fc1.weight``, ``lstm.weight_hh_l0`` as it is."""
    return parameter.removesuffix(".weight")


def matching(names: Iterable[str], patterns: Iterable[str], *, what: str) -> list[str]:
    """Parameters whose layer, or whose own name, one of the globs takes, in their order.

    Raises:
        UnknownNameError: If a glob takes none; the message shows the layers there are.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = {name for name in names if fnmatchcase(layer_of(name), pattern) or fnmatchcase(name, pattern)}
        if not hits:
            raise UnknownNameError(f"{what}: {pattern!r} matches no layer with prunable weights; {_there_are(names)}")
        chosen |= hits
    return [name for name in names if name in chosen]


def rates_of(names: Sequence[str], rates: Mapping[str, float]) -> dict[str, float]:
    """Rate of each parameter, 1 where no glob takes it; ``output`` is the last one.

    Args:
        names: Parameters.
        rates: Glob over layer names, or ``output``, to the factor on the share that is pruned.

    Returns:
        Parameter to rate.

    Raises:
        ConfigError: If a rate is negative or not finite.
        UnknownNameError: If a glob matches nothing.
    """
    found = dict.fromkeys(names, 1.0)
    for pattern, rate in rates.items():
        if not 0 <= rate < float("inf"):
            raise ConfigError(f"rates: {pattern}={rate}: a rate is 0 or more, and finite")
        hits = [names[-1]] if pattern == "output" else matching(names, [pattern], what="rates")
        found.update(dict.fromkeys(hits, float(rate)))
    return found


def _there_are(names: Sequence[str]) -> str:
    """A few of the layers there are."""
    layers = [layer_of(name) for name in names]
    shown = layers if len(layers) <= 8 else [*layers[:4], "…", *layers[-3:]]
    return f"there are {', '.join(shown)}"
