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

    Args:
        on_tensor: Called with each tensor, inside the forward pass.
        compilable: Keep the compiler from tracing into the recording; costs importing it.

    Attributes:
        active: Whether hooks record; while False each costs this one test.
    """

    def __init__(self, on_tensor: OnTensor, *, compilable: bool = False) -> None:
        self.active = True
        self._on_tensor = on_tensor
        self._level = 0  # of the model inside itself; 0 outside a forward pass
        self._depth = 0
        self._order = 0
        self._calls: Counter[str] = Counter()
        opaque: Callable[[Any], Any] = torch.compiler.disable if compilable else lambda function: function
        self.start, self.stop = opaque(self._start), opaque(self._stop)
        self.before, self.after = opaque(self._before), opaque(self._after)

    def close(self) -> None:
        """Record nothing any more, and let go of ``on_tensor`` and the tensors that it holds."""
        self.active = False
        self._on_tensor = _nothing

    def reset(self) -> None:
        """Outside any forward pass; after an interrupt torch runs no hook that would say so."""
        self._level = 0

    def _start(self) -> None:
        """Begin a forward pass of the whole model, unless it is the model that calls itself."""
        self._level += 1
        if self._level == 1:
            self._depth = self._order = 0
            self._calls.clear()

    def _stop(self) -> None:
        """End it; what a checkpointed block computes again in the backward pass is not recorded."""
        self._level = max(self._level - 1, 0)

    def _before(self, hook: _Hook, module: nn.Module, given: tuple[Any, ...]) -> None:
        """Count a layer's depth, and read what goes in."""
        if not self._level:
            return
        if hook.counts:
            self._depth += 1
        if hook.tap == "input":
            self._record(hook, module, given[0] if len(given) == 1 else given)

    def _after(self, hook: _Hook, module: nn.Module, output: object) -> None:
        """Read what comes out."""
        if self._level:
            self._record(hook, module, output)

    def _record(self, hook: _Hook, module: nn.Module, value: object) -> None:
        """Hand every floating-point tensor inside a value on, as the next call of this layer."""
        self._calls[hook.name] += 1
        number, kind = self._calls[hook.name], type(module).__name__
        for path, tensor in tensors_in(value):
            call = LayerCall(self._depth, self._order, hook.name + path, number, kind, hook.tap)
            self._order += 1
            self._on_tensor(call, tensor)


class _Hook:
    """A hook that can be copied and pickled with its model: the copy does nothing."""

    def __init__(self, state: ForwardState | None = None, name: str = "", tap: str = "", counts: bool = False) -> None:
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
        """After it, and after an error in it."""
        if self.state is not None and self.state.active:
            self.state.stop()

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a layer's forward."""
        if self.state is not None and self.state.active:
            self.state.before(self, module, (*args, *kwargs.values()))

    def after(self, module: nn.Module, args: object, output: object) -> None:
        """After a layer's forward."""
        if self.state is not None and self.state.active:
            self.state.after(self, module, output)


@contextmanager
def attached(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    *,
    tap: str,
    on_tensor: OnTensor,
    compilable: bool = False,
) -> Iterator[ForwardState]:
    """Hook the layers while the context lasts.

    Args:
        model: The model whose forward passes are watched; wrappers are looked through.
        layers: What ``select_layers`` chose.
        tap: ``input``, ``output`` or ``block``.
        on_tensor: Called inside the forward pass, before anything can overwrite the tensor in place.
        compilable: Whether the model may be compiled while the hooks are set.

    Yields:
        The state; its ``active`` turns recording on and off.
    """
    model = unwrapped(model)
    state = ForwardState(on_tensor, compilable=compilable)
    handles: list[Any] = []
    try:
        handles.append(model.register_forward_pre_hook(_Hook(state).start))
        for name, module in model.named_modules():
            counts = is_weighted(module) and not on_shortcut(name)
            reads = name in layers
            hook = _Hook(state, name, tap if reads else "", counts)
            if counts or hook.tap == "input":
                handles.append(module.register_forward_pre_hook(hook.before, with_kwargs=True))
            if reads and tap != "input":
                handles.append(module.register_forward_hook(hook.after))
        handles.append(model.register_forward_hook(_Hook(state).stop, always_call=True))
        yield state
    finally:
        state.close()
        for handle in handles:
            handle.remove()


def _nothing(call: LayerCall, tensor: Tensor) -> None:
    """Takes a tensor after the hooks are gone."""


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
