"""Where batches come from: tensors kept on the device, or whatever loader a person brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, TypeGuard

import torch
from torch import Tensor

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.seeding import derive_seed, preserved_random_states
from deepprobe.training.augmentation import augment, draw_augmentation

Batch: TypeAlias = tuple[Tensor, Tensor]
Data: TypeAlias = tuple[Tensor, Tensor] | Iterable[Any]
"""A pair of tensors (images, labels), or anything that yields pairs (x, y) each time it is iterated."""


class Stream(Protocol):
    """Training batches of one epoch after the other."""

    seekable: bool
    n_batches: int

    def batches(self, epoch: int, *, skip: int = 0) -> Iterator[Batch]:
        """Batches of an epoch on the device, the first ``skip`` left out."""

    def state(self) -> Tensor | None:
        """What must be restored for the next epoch to be the same, beside the global random states."""

    def restore(self, state: Tensor | None) -> None:
        """Take a state up again."""


class TensorStream:
    """Two tensors on the device; the order is a function of (seed, epoch).

    A last batch of a single sample is left out of its epoch: batch normalisation cannot train on it.
    """

    seekable = True

    def __init__(self, data: Batch, *, batch_size: int, seed: int, augmentation: str = "none") -> None:
        self.images, self.labels = data
        self.batch_size, self.seed, self.augmentation = batch_size, seed, augmentation
        n = len(self.images)
        if augmentation != "none" and self.images.ndim != 4:
            raise ShapeError(
                f"augmentation={augmentation!r} needs images of shape (n, c, h, w), not {tuple(self.images.shape)}"
            )
        alone = batch_size > 1 and n > 1 and n % batch_size == 1
        self.n_batches = -(-n // batch_size) - alone

    def batches(self, epoch: int, *, skip: int = 0) -> Iterator[Batch]:
        """As in Stream."""
        n, device = len(self.images), self.images.device
        order = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch)))
        draws = None
        if self.augmentation != "none":
            draws = draw_augmentation(self.seed, epoch, n_samples=n).to(device)
        order = order.to(device)
        for i in range(skip, self.n_batches):
            chosen = order[i * self.batch_size : (i + 1) * self.batch_size]
            images = self.images[chosen]
            if draws is not None:
                images = augment(images, draws[chosen], flip=self.augmentation == "pad-crop-flip")
            yield images, self.labels[chosen]

    def state(self) -> Tensor | None:
        """Nothing: the order is a function of seed and epoch."""
        return None

    def restore(self, state: Tensor | None) -> None:
        """Nothing to do."""


class LoaderStream:
    """A loader, or a list of batches; it keeps its own order, and can be taken up at whole epochs only."""

    seekable = False

    def __init__(self, loader: Iterable[Any], *, device: torch.device) -> None:
        if not isinstance(loader, Sized):
            raise ConfigError(
                f"the training data is a {type(loader).__name__}, which can be read once only or has no length; "
                "give a pair of tensors, a DataLoader, or a list of batches"
            )
        self.loader, self.device, self.n_batches = loader, device, len(loader)

    def batches(self, epoch: int, *, skip: int = 0) -> Iterator[Batch]:
        """As in Stream; ``skip`` must be 0."""
        n = 0
        for n, batch in enumerate(self.loader, start=1):  # noqa: B007 - n is read below
            yield pair_of(batch, device=self.device)
        if n != self.n_batches:
            raise ConfigError(f"the training data says it has {self.n_batches} batches, and gave {n} in epoch {epoch}")

    def state(self) -> Tensor | None:
        """State of the loader's own generator, if it has one."""
        generator = getattr(self.loader, "generator", None)
        return generator.get_state() if isinstance(generator, torch.Generator) else None

    def restore(self, state: Tensor | None) -> None:
        """As in Stream."""
        generator = getattr(self.loader, "generator", None)
        if state is not None and isinstance(generator, torch.Generator):
            generator.set_state(state)


def is_pair(data: Data) -> TypeGuard[Batch]:
    """Whether the data are two tensors rather than batches."""
    return isinstance(data, Sequence) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def pair_of(batch: Any, *, device: torch.device) -> Batch:
    """A batch (x, y) on the device; ShapeError if it is no pair of tensors of one length."""
    if not (isinstance(batch, Sequence) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise ShapeError(f"a batch must be a pair of tensors (inputs, labels); this one is a {type(batch).__name__}")
    x, y = batch
    if len(x) != len(y) or y.ndim != 1 or y.is_floating_point():
        raise ShapeError(
            f"labels must be one integer a sample; inputs are {tuple(x.shape)}, labels {tuple(y.shape)} {y.dtype}"
        )
    return x.to(device, non_blocking=True), y.to(device, torch.int64, non_blocking=True)


def fixed_batches(data: Data, *, device: torch.device, batch_size: int) -> Iterable[Batch]:
    """Batches in the data's own order, the same each time: for evaluation and probes."""
    if is_pair(data):
        x, y = pair_of(data, device=device)
        return list(zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True))
    return _Moved(data, device)


class _Moved:
    """Batches of an iterable, moved to the device as they are asked for."""

    def __init__(self, data: Iterable[Any], device: torch.device) -> None:
        self.data, self.device = data, device

    def __iter__(self) -> Iterator[Batch]:
        return (pair_of(batch, device=self.device) for batch in self.data)


def first_samples(data: Data, *, device: torch.device, n_samples: int, batch_size: int) -> list[Batch]:
    """The first samples in batches; drawing them from a loader leaves every random state as it was."""
    found: list[Batch] = []
    missing = n_samples
    with preserved_random_states(), _preserved_generator(data):
        for x, y in fixed_batches(data, device=device, batch_size=batch_size):
            found.append((x[:missing], y[:missing]))
            missing -= len(x)
            if missing <= 0:
                break
    return found


@contextmanager
def _preserved_generator(data: Data) -> Iterator[None]:
    """Put a loader's own generator back to where it was."""
    generator = getattr(data, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    try:
        yield
    finally:
        if state is not None and generator is not None:
            generator.set_state(state)


def split_off(data: Batch, *, share: float, seed: int) -> tuple[Batch, Batch]:
    """Hold out a share of two tensors, drawn at random by the seed.

    Args:
        data: Inputs and labels, n samples.
        share: Share to hold out, in (0, 1); at least one sample, and at least one stays.
        seed: Seed of the run.

    Returns:
        (kept, held out).

    Raises:
        ConfigError: If there are fewer than two samples.
    """
    x, y = data
    n = len(x)
    if n < 2:
        raise ConfigError(f"validation_share={share}: there is {n} training sample; set it to 0")
    held = min(max(round(share * n), 1), n - 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, "split")))
    first, second = order[held:].sort().values.to(x.device), order[:held].sort().values.to(x.device)
    return (x[first], y[first]), (x[second], y[second])
