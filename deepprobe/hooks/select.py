"""Choosing layers by glob, type or predicate, and what a layer's shape says of the rank it can reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from deepprobe.errors import ConfigError, UnknownNameError, nearest

TAPS = ("input", "output", "block")
"""Where a layer's representation is read: what it receives, what it gives, or a block's output after the addition."""

LayerSelection: TypeAlias = (
    str | type[nn.Module] | Callable[[str, nn.Module], bool] | Sequence["str | type[nn.Module]"] | None
)
"""Globs over dotted names, module classes, a predicate of (name, module), or None for the tap's own default."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def unwrapped(model: nn.Module) -> nn.Module:
    """The plain eager module inside (Distributed)DataParallel and ``torch.compile`` wrappers; parameters are shared.

    Raises:
        ConfigError: If it is no module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {type(model).__name__}; an nn.Module is needed, whose layers can be looked at")
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_weighted(module: nn.Module) -> bool:
    """Whether a module itself holds a weight matrix or kernel: a parameter of two or more axes, or what makes one.

    Weights under ``torch.nn.utils.parametrizations`` (weight or spectral normalisation) are the layer's own.
    """
    if isinstance(module, ParametrizationList):
        return False
    own = list(module.parameters(recurse=False))
    if is_parametrized(module):
        for made in module.parametrizations.children():  # type: ignore[union-attr]
            own += made.parameters(recurse=False)
    return any(p.ndim >= 2 for p in own)


def _is_inside_a_layer(name: str) -> bool:
    """Whether a dotted name is of what makes the weights of a layer, and not of a layer."""
    return "parametrizations" in name.split(".")


def on_shortcut(name: str) -> bool:
    """Whether a dotted name lies on a shortcut path, whose layers do not count towards depth (He et al. 2015)."""
    return not {"shortcut", "downsample"}.isdisjoint(name.split("."))


def select_layers(model: nn.Module, layers: LayerSelection = None, *, tap: str = "output") -> dict[str, nn.Module]:
    """The modules to read, by dotted name, in the order of registration.

    Args:
        model: Any module; wrappers by DistributedDataParallel or ``torch.compile`` are looked through.
        layers: A glob over dotted names (``"features.stage2.*"``) or several, a module class or several, a predicate
            ``(name, module) -> bool``, or None: every layer with weights, and for the tap ``block`` every block –
            a composite module with weights that is an element of a Sequential or ModuleList and lies in no other block.
        tap: ``input``, ``output`` or ``block``.

    Returns:
        Names and modules; at least one.

    Raises:
        ConfigError: If the tap is none of these.
        UnknownNameError: If nothing matches; the message shows what there is.
    """
    if tap not in TAPS:
        raise ConfigError(f"tap={tap!r} is not a tap: {nearest(tap, TAPS)}")
    named = {name: m for name, m in unwrapped(model).named_modules() if name and not _is_inside_a_layer(name)}
    if not named:
        named = {"": unwrapped(model)}
    if layers is None:
        chosen = (
            _blocks(unwrapped(model), named) if tap == "block" else {n: m for n, m in named.items() if is_weighted(m)}
        )
        if not chosen:
            what = (
                "blocks (composite elements of a Sequential or ModuleList)" if tap == "block" else "layers with weights"
            )
            raise UnknownNameError(f"the model has no {what}; say layers=…: it has {_sample(named)}")
        return chosen
    wanted = [layers] if isinstance(layers, (str, type)) or callable(layers) else list(layers)
    return _matching(named, wanted)


def _matching(named: dict[str, nn.Module], wanted: Sequence[object]) -> dict[str, nn.Module]:
    """Modules that any of the patterns takes; each pattern must take one."""
    chosen: set[str] = set()
    for pattern in wanted:
        hits = {name for name, module in named.items() if _takes(pattern, name, module)}
        if not hits:
            raise UnknownNameError(f"layers={_shown(pattern)} matches nothing; the model has {_sample(named)}")
        chosen |= hits
    if not chosen:
        raise UnknownNameError(f"layers=[] selects nothing; the model has {_sample(named)}")
    return {name: module for name, module in named.items() if name in chosen}


def _takes(pattern: object, name: str, module: nn.Module) -> bool:
    """Whether one pattern takes one module."""
    if isinstance(pattern, str):
        return fnmatchcase(name, pattern)
    if isinstance(pattern, type):
        return isinstance(module, pattern)
    if callable(pattern):
        return bool(pattern(name, module))
    raise ConfigError(f"layers={pattern!r} is neither a glob, a module class nor a predicate (name, module) -> bool")


def _blocks(model: nn.Module, named: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Composite modules with weights that are elements of a container, outermost first."""
    found: dict[str, nn.Module] = {}
    for name, module in named.items():
        parent = model.get_submodule(name.rpartition(".")[0])
        element = isinstance(parent, _CONTAINERS)
        parts = [child for child, _ in module.named_children() if not _is_inside_a_layer(child)]
        composite = not isinstance(module, _CONTAINERS) and bool(parts)
        inside = any(name.startswith(block + ".") for block in found)
        if element and composite and not inside and any(is_weighted(m) for m in module.modules()):
            found[name] = module
    return found


def _shown(pattern: object) -> str:
    """A pattern as the user wrote it."""
    return repr(pattern) if isinstance(pattern, str) else getattr(pattern, "__name__", repr(pattern))


def _sample(named: dict[str, nn.Module]) -> str:
    """A few of the names there are."""
    names = list(named)
    shown = names if len(names) <= 8 else [*names[:4], "…", *names[-3:]]
    return f"{len(names)} modules: {', '.join(shown)}"


def rank_limit(module: nn.Module, tap: str, view: str, *, axes: int) -> tuple[int | None, bool]:
    """Largest rank that a linear layer's own shape allows its output, and whether a bias may add one to it.

    A convolution's output at any position is its kernel matrix times a patch, so over positions its rank is at most
    ``sum over groups of min(C_out / g, C_in k² / g)``; that of a linear layer at most ``min(d_in, d_out)``. Only where
    units are the layer's own outputs: neither for sequences in the view ``channels``, whose units are positions, nor
    for classes with a forward of their own, which may not be linear.

    Args:
        module: The layer.
        tap: Only ``output`` is bounded.
        view: ``channels`` and ``pooled`` for convolutions; any view of a matrix, else ``tokens``, for linear layers.
        axes: Of the output tensor.

    Returns:
        The limit, or None where the shape says nothing; and whether the layer has a bias.
    """
    if tap != "output" or not type(module).forward.__module__.startswith("torch.nn."):
        return None, False
    if isinstance(module, nn.Linear) and (axes == 2 or (axes > 2 and view == "tokens")):
        return min(module.in_features, module.out_features), module.bias is not None
    batched = isinstance(module, nn.modules.conv._ConvNd) and axes == 2 + len(module.kernel_size)
    if isinstance(module, nn.modules.conv._ConvNd) and batched and view in {"channels", "pooled"}:
        groups, taps = module.groups, 1
        for extent in module.kernel_size:
            taps *= extent
        per_group = min(module.out_channels // groups, module.in_channels // groups * taps)
        return groups * per_group, module.bias is not None
    return None, False
