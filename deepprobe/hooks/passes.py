"""A probe's own forward pass: evaluation mode, full precision, no gradient, and everything as it was afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from deepprobe.errors import ShapeError
from deepprobe.hooks.select import unwrapped
from deepprobe.seeding import preserved_random_states


@contextmanager
def evaluating(model: nn.Module, *, device: torch.device | str | None = None) -> Iterator[nn.Module]:
    """The plain eager model in ``eval()``, without gradients, autocast or TF32; all restored on the way out.

    Args:
        model: Any module; wrappers are looked through.
        device: Where to run; by default where the model's parameters are.

    Yields:
        The unwrapped model.
    """
    model = unwrapped(model)
    with _plain(model, device), torch.no_grad():
        model.eval()
        yield model


@contextmanager
def differentiating(
    model: nn.Module, *, device: torch.device | str | None = None, seed: int = 0
) -> Iterator[nn.Module]:
    """The plain eager model as it trains, with gradients, without autocast or TF32; all restored on the way out.

    Modes stay as they are where the model is in training mode (what a person froze stays frozen), else all become so.
    Buffers (running statistics) are put back bit for bit, and so are random states and the ``.grad`` fields.

    Args:
        model: Any module; wrappers are looked through.
        device: Where to run; by default where the model's parameters are.
        seed: Of what the model draws (dropout).

    Yields:
        The unwrapped model.
    """
    model = unwrapped(model)
    held = [(module, dict(module._buffers)) for module in model.modules()]
    kept = {id(b): (b, b.detach().clone()) for _, buffers in held for b in buffers.values() if b is not None}
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        with _plain(model, device), torch.enable_grad():
            if not model.training:
                model.train()
            torch.manual_seed(seed)
            yield model
    finally:
        for module, buffers in held:
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in kept.values():
                buffer.copy_(value)
        for parameter, grad in grads:
            parameter.grad = grad


@contextmanager
def _plain(model: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """An unwrapped model on a device, eager and in full precision; place, modes and random states restored after."""
    modes = {module: module.training for module in model.modules()}
    home = device_of(model)
    target = home if device is None else torch.device(device)
    eager = _eager() if any(_is_compiled(module) for module in modes) else nullcontext()
    try:
        if target != home:
            model.to(target)
        with preserved_random_states(), full_precision(target), eager:
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        if target != home:
            model.to(home)


def _is_compiled(module: nn.Module) -> bool:
    """Whether a module inside the model was compiled, as ``torch.compile(module)`` or ``module.compile()``."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _eager() -> AbstractContextManager[Any]:
    """Compiled modules run their eager code: in compiled code hooks that were set afterwards stay silent."""
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, no bfloat16 products: they would set the condition number in place of the network."""
    cuda, cudnn, mkldnn = torch.backends.cuda, cast("Any", torch.backends.cudnn), cast("Any", torch.backends.mkldnn)
    settings = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter or buffer, or the CPU."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def as_batches(batches: object, *, paired: bool = False) -> Iterable[Any]:
    """What a person passes as batches, as an iterable: one tensor, one pair or one dict batch becomes a list of one.

    A tuple of two tensors is one (input, target) pair, but two batches where both have the same dtype and the same
    shape but for their length, as ``images.split(64)`` gives them; ``[(x, y)]`` says that it is a pair in any case.

    Args:
        batches: Anything that a person may pass.
        paired: Whether targets are needed, so that a tuple of two tensors is a pair whatever they are.

    Raises:
        ShapeError: If it cannot be iterated over, or the two tensors of a pair differ in length.
    """
    if isinstance(batches, (Tensor, Mapping)):
        return [batches]
    if isinstance(batches, tuple) and len(batches) == 2 and all(isinstance(part, Tensor) for part in batches):
        inputs, targets = batches
        labels = targets.ndim <= 1 and not torch.is_floating_point(targets)
        alike = inputs.dtype == targets.dtype and inputs.shape[1:] == targets.shape[1:]
        if paired or labels or not alike:
            if n_samples(inputs) != n_samples(targets):
                raise ShapeError(
                    f"a tuple of two tensors is one batch, (input, target); these hold {n_samples(inputs)} and "
                    f"{n_samples(targets)} samples"
                )
            return [batches]
    if not isinstance(batches, Iterable):
        raise ShapeError(f"batches is {type(batches).__name__}, not an iterable of tensors, pairs or dicts")
    return batches


def n_samples(batch: object) -> int:
    """Length of the first tensor of a batch.

    Raises:
        ShapeError: If there is no tensor in it.
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(parts, Iterable) and not isinstance(batch, str):
        for part in parts:
            if isinstance(part, (Tensor, Mapping, tuple, list)):
                return n_samples(part)
    raise ShapeError(f"a batch of type {type(batch).__name__} holds no tensor")


def moved(batch: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """The batch with its tensors on a device, floating-point ones in a dtype if one is given; containers kept."""
    if isinstance(batch, Tensor):
        wanted = dtype if dtype is not None and torch.is_floating_point(batch) else None
        return batch.to(device=device, dtype=wanted, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved(value, device, dtype) for key, value in batch.items()}
    if isinstance(batch, PackedSequence):
        wanted = dtype if dtype is not None and batch.data.is_floating_point() else batch.data.dtype
        return cast("Any", batch).to(device=device, dtype=wanted)  # its stubs know fewer forms than it takes
    if isinstance(batch, (tuple, list)):
        return tuple(moved(value, device, dtype) for value in batch)
    return batch


def run(model: nn.Module, batch: Any) -> Any:
    """Forward pass of one batch: a tensor, a pair of which the first is the input, or a dict.

    A dict becomes keyword arguments if the forward has parameters of those names (labels and the like that it does not
    have are left out), else it is passed whole.
    """
    if isinstance(batch, (tuple, list)) and not isinstance(batch, PackedSequence):
        return run(model, batch[0])
    if not isinstance(batch, Mapping):
        return model(batch)
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return model(**batch)
    known = {key: value for key, value in batch.items() if key in parameters}
    return model(**known) if known else model(batch)
