"""How a network is built, from its modules and from the graph of one backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from deepprobe.diagnosis.roles import NORMS, is_activation
from deepprobe.hooks.select import is_weighted, on_shortcut

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Structure:
    """How a network is built.

    Attributes:
        depth: Layers with weights, those on shortcuts not counted.
        n_norms: Normalisation layers.
        activations: Class names of the non-linearities that are modules, with their number.
        n_shortcuts: Additions of two computed tensors in the graph of one forward pass (residual connections).
        n_parameters: Trainable numbers.
        n_frozen: Numbers that do not train.
        unused: Trainable parameters that the loss does not reach, by name.
        zero_scales: Normalisations whose scale is zero throughout and has a gradient, and such single numbers, by name.
    """

    depth: int
    n_norms: int
    activations: dict[str, int]
    n_shortcuts: int
    n_parameters: int
    n_frozen: int
    unused: tuple[str, ...]
    zero_scales: tuple[str, ...] = ()


def structure(network: nn.Module, end: Tensor | None, gradients: Mapping[int, Tensor | None]) -> Structure:
    """Structure of an unwrapped network.

    Args:
        network: The network.
        end: What its forward pass ended in, with its graph; shortcuts are not known without.
        gradients: Of trainable parameters, by id; None where the loss does not reach one.
    """
    kinds: dict[str, int] = {}
    for module in network.modules():
        if is_activation(module):
            kinds[type(module).__name__] = kinds.get(type(module).__name__, 0) + 1
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return Structure(
        depth=sum(is_weighted(m) and not on_shortcut(name) for name, m in network.named_modules()),
        n_norms=sum(isinstance(m, NORMS) for m in network.modules()),
        activations=kinds,
        n_shortcuts=0 if end is None else _n_additions(end),
        n_parameters=sum(n for n, trained in sizes if trained),
        n_frozen=sum(n for n, trained in sizes if not trained),
        unused=tuple(name for name, p in network.named_parameters() if gradients.get(id(p), p) is None),
        zero_scales=_zero_scales(network, gradients),
    )


def _zero_scales(network: nn.Module, gradients: Mapping[int, Tensor | None]) -> tuple[str, ...]:
    """Scales that shut what they multiply until the first step: of normalisations, single numbers (as in ReZero)."""
    scales = [(name, m.weight) for name, m in network.named_modules() if isinstance(m, NORMS[:-1])]
    scales += [(name, p) for name, p in network.named_parameters() if p.numel() == 1 and not name.endswith("bias")]
    found = [(name, p, gradients.get(id(p))) for name, p in scales if p is not None]
    return tuple(name for name, p, gradient in found if gradient is not None and not p.any() and gradient.any())


def _n_additions(end: Tensor) -> int:
    """Additions in a graph whose both terms were computed: neither is a parameter or a constant."""
    seen: set[Any] = set()
    waiting = [end.grad_fn]
    count = 0
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        terms = [term for term, _ in node.next_functions]
        if node.name().startswith("AddBackward"):
            count += sum(term is not None and not term.name().endswith("AccumulateGrad") for term in terms) == 2
        waiting.extend(terms)
    return count
