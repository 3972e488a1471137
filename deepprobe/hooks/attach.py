"""Hooks on a model's layers: calls numbered, depth counted, gone afterwards, and no hindrance to saving the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepprobe.hooks.select import is_weighted, on_shortcut, unwrapped
from deepprobe.records.layer import LayerCall

OnTensor = Callable[[LayerCall, Tensor], None]


class ForwardState:
    """Where a forward pass stands; shared by all hooks of one attachment.

    Attributes:
        active: Whether hooks record; while False each costs this one test.
    """

    def __init__(self, on_tensor: OnTensor) -> None:
        self.active = True
        self.on_tensor = on_tensor
        self.running = False
        self.depth = 0
        self.order = 0
        self.calls: Counter[str] = Counter()

    def start(self) -> None:
        """Begin a forward pass of the whole model."""
        self.running = True
        self.depth = self.order = 0
        self.calls.clear()

    def record(self, name: str, module: nn.Module, tap: str, value: object) -> None:
        """Hand every floating-point tensor inside a value on, as the next call of this layer."""
        self.calls[name] += 1
        for path, tensor in tensors_in(value):
            call = LayerCall(self.depth, self.order, name + path, self.calls[name], type(module).__name__, tap)
            self.order += 1
            self.on_tensor(call, tensor)


class _Hook:
    """A hook that can be copied and pickled with its model: the copy does nothing."""

    def __init__(
        self, state: ForwardState | None = None, name: str = "", tap: str = "", *, counts: bool = False
    ) -> None:
        self.state, self.name, self.tap, self.counts = state, name, tap, counts

    def __deepcopy__(self, memo: object) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()

    def start(self, module: nn.Module, args: object) -> None:
        """Before the whole model's forward."""
        if self.state is not None and self.state.active:
            self.state.start()

    def stop(self, module: nn.Module, args: object, output: object) -> None:
        """After it; what a checkpointed block recomputes in the backward pass is not recorded."""
        if self.state is not None:
            self.state.running = False

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a layer's forward: count its depth, and read what goes in."""
        state = self.state
        if state is None or not (state.active and state.running):
            return
        if self.counts:
            state.depth += 1
        if self.tap == "input":
            given = (*args, *kwargs.values())
            state.record(self.name, module, self.tap, given[0] if len(given) == 1 else given)

    def after(self, module: nn.Module, args: object, output: object) -> None:
        """After a layer's forward: read what comes out."""
        state = self.state
        if state is None or not (state.active and state.running):
            return
        state.record(self.name, module, self.tap, output)


@contextmanager
def attached(
    model: nn.Module, layers: Mapping[str, nn.Module], *, tap: str, on_tensor: OnTensor
) -> Iterator[ForwardState]:
    """Hook the layers while the context lasts.

    Args:
        model: The model whose forward passes are watched; wrappers are looked through.
        layers: What ``select_layers`` chose.
        tap: ``input``, ``output`` or ``block``.
        on_tensor: Called inside the forward pass, before anything can overwrite the tensor in place.

    Yields:
        The state; its ``active`` turns recording on and off.
    """
    model = unwrapped(model)
    state = ForwardState(on_tensor)
    handles: list[Any] = []
    try:
        handles.append(model.register_forward_pre_hook(_Hook(state).start))
        for name, module in model.named_modules():
            counts = is_weighted(module) and not on_shortcut(name)
            reads = name in layers
            hook = _Hook(state, name, tap, counts=counts)
            if counts or (reads and tap == "input"):
                hook.tap = tap if reads else ""
                handles.append(module.register_forward_pre_hook(hook.before, with_kwargs=True))
            if reads and tap != "input":
                handles.append(module.register_forward_hook(hook.after))
        handles.append(model.register_forward_hook(_Hook(state).stop, always_call=True))
        yield state
    finally:
        state.active = False
        for handle in handles:
            handle.remove()


def tensors_in(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every floating-point tensor inside tensors, tuples, lists, mappings and dataclasses, with its place.

    Yields:
        ``""`` and the tensor itself, or places such as ``[0]``, ``['logits']``, ``.hidden`` and what stands there.
    """
    if isinstance(value, Tensor):
        if torch.is_floating_point(value):
            yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{path}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from tensors_in(item, f"{path}[{i}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from tensors_in(getattr(value, f.name), f"{path}.{f.name}")
