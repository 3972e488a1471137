"""Where batches come from: tensors kept on the device, or whatever loader a person brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeGuard

import torch
from torch import Tensor

from deepprobe.distributed import Ranks
from deepprobe.errors import ConfigError, ShapeError
from deepprobe.seeding import derive_seed, preserved_random_states
from deepprobe.training.augmentation import augment, draw_augmentation
from deepprobe.training.random_state import random_state, restore_random_state

Batch: TypeAlias = tuple[Tensor, Tensor]
Data: TypeAlias = tuple[Tensor, Tensor] | Iterable[Any]
"""A pair of tensors (images, labels), or anything that yields pairs (x, y) each time it is iterated."""


class Part(NamedTuple):
    """What one process trains on in one update.

    Attributes:
        x: Inputs, on the device.
        y: Labels, shape (n,), int64, on the device.
        n_in_all: Samples of the update over all processes; a tensor where only the device knows.
    """

    x: Tensor
    y: Tensor
    n_in_all: int | Tensor


class Stream(Protocol):
    """Training batches of one epoch after the other."""

    n_batches: int

    def batches(self, epoch: int, *, skip: int = 0) -> Iterator[Part]:
        """This process's parts of the batches of an epoch, the first ``skip`` left out."""

    def state(self) -> dict[str, Any] | None:
        """What must be restored to go on within or after this epoch, beside the global random states."""

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take a state up again."""


class TensorStream:
    """Two tensors on the device; the order is a function of (seed, epoch), and each process takes its part of a batch.

    A last batch too small for two samples in each part is left out of its epoch: batch normalisation cannot train on
    one.

    Args:
        data: Images and labels.
        batch_size: Samples of an update, over all processes.
        seed: Seed of the run.
        augmentation: As in TrainConfig.
        ranks: The processes.
        micro_batches: Into how many each process's part will be divided.

    Raises:
        ShapeError: If there is nothing that could be cropped.
        ConfigError: If there are fewer samples than parts.
    """

    def __init__(
        self,
        data: Batch,
        *,
        batch_size: int,
        seed: int,
        augmentation: str = "none",
        ranks: Ranks | None = None,
        micro_batches: int = 1,
    ) -> None:
        self.images, self.labels = data
        self.batch_size, self.seed, self.augmentation = batch_size, seed, augmentation
        self.ranks = Ranks() if ranks is None else ranks
        n, parts = len(self.images), self.ranks.world_size * micro_batches
        if augmentation != "none" and self.images.ndim != 4:
            raise ShapeError(
                f"augmentation={augmentation!r} needs images of shape (n, c, h, w), not {tuple(self.images.shape)}"
            )
        if n and min(n, batch_size) < parts:
            raise ConfigError(
                f"a batch of {min(n, batch_size)} samples cannot be divided among {self.ranks.world_size} processes "
                f"and {micro_batches} micro-batches; take a larger batch_size"
            )
        last = n % batch_size if n > batch_size else 0
        too_small = last > 0 and last // parts < min(2, batch_size // parts)
        self.n_batches = -(-n // batch_size) - too_small

    def batches(self, epoch: int, *, skip: int = 0) -> Iterator[Part]:
        """As in Stream."""
        n, device = len(self.images), self.images.device
        order = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch)))
        draws = None
        if self.augmentation != "none":
            draws = draw_augmentation(self.seed, epoch, n_samples=n).to(device)
        for whole in torch.split(order.to(device), self.batch_size)[skip : self.n_batches]:
            chosen = whole if self.ranks.is_alone else whole[self.ranks.share(len(whole))]
            images = self.images.index_select(0, chosen)  # copies rows, where images[chosen] copies numbers
            if draws is not None:
                images = augment(images, draws[chosen], flip=self.augmentation == "pad-crop-flip")
            yield Part(images, self.labels.index_select(0, chosen), len(whole))

    def state(self) -> None:
        """Nothing: the order is a function of seed and epoch."""
        return

    def restore(self, state: dict[str, Any] | None) -> None:
        """Nothing to do."""


class LoaderStream:
    """A loader, or a list of batches; each process brings its own.

    It is taken up within an epoch by going through the epoch again from the random states at its start, without
    training on what was trained on before. Loaders whose order and content depend on these states alone, as
    torch's DataLoader with its samplers, thus give the same batches. Samplers that have a ``set_epoch`` are told it.

    Args:
        loader: Iterated once an epoch.
        device: Where batches go.
        ranks: The processes.

    Raises:
        ConfigError: If the loader has no length, or the processes have different numbers of batches.
    """

    def __init__(self, loader: Iterable[Any], *, device: torch.device, ranks: Ranks | None = None) -> None:
        if not isinstance(loader, Sized):
            raise ConfigError(
                f"the training data is a {type(loader).__name__}, which can be read once only or has no length; "
                "give a pair of tensors, a DataLoader, or a list of batches"
            )
        self.loader, self.device, self.n_batches = loader, device, len(loader)
        self.ranks = Ranks() if ranks is None else ranks
        first = self.ranks.broadcast(self.n_batches)
        if self.ranks.agree([first != self.n_batches])[0]:
            raise ConfigError(
                f"the loader of process {self.ranks.rank} has {self.n_batches} batches, that of process 0 {first}: all "
                "need the same number; torch.utils.data.DistributedSampler sees to that"
            )
        self._start: dict[str, Any] | None = None

    def batches(self, epoch: int, *, skip: int = 0) -> Iterator[Part]:
        """As in Stream."""
        now = self._random_states()
        if skip and self._start is not None:
            self._restore_random_states(self._start)
        self._start = self._random_states()
        for part in _drawing(self.loader):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        for n, batch in enumerate(self._read_to_the_end(epoch), start=1):
            if n == skip:
                self._restore_random_states(now)
            if n > skip:
                x, y = pair_of(batch, device=self.device)
                yield Part(x, y, self._in_all(len(x)))

    def state(self) -> dict[str, Any] | None:
        """The random states at the start of the epoch, and that of the loader's own generator now."""
        return {"start": self._start, "now": self._random_states()}

    def restore(self, state: dict[str, Any] | None) -> None:
        """As in Stream."""
        if state is not None:
            self._start = state["start"]
            self._restore_random_states(state["now"])

    def _read_to_the_end(self, epoch: int) -> Iterator[Any]:
        """As many batches as announced; the last one leaves when the loader has ended, for samplers draw until then."""
        batches = iter(self.loader)
        for n in range(1, self.n_batches + 1):
            batch = next(batches, None)
            more = n == self.n_batches and next(batches, None) is not None
            if batch is None or more:
                given = "more" if more else n - 1
                raise ConfigError(
                    f"the training data says it has {self.n_batches} batches, and gave {given} in epoch {epoch}"
                )
            yield batch

    def _in_all(self, n: int) -> int | Tensor:
        """Samples of this update over all processes."""
        return n if self.ranks.is_alone else self.ranks.total(torch.full((), n, device=self.device))

    def _random_states(self) -> dict[str, Any]:
        """The global random states, and those of the loader's own generators."""
        return {"random": random_state(), "generators": [g.get_state() for g in generators_of(self.loader)]}

    def _restore_random_states(self, states: dict[str, Any]) -> None:
        """Go back to such states."""
        restore_random_state(states["random"])
        for generator, state in zip(generators_of(self.loader), states["generators"], strict=True):
            generator.set_state(state)


def _drawing(loader: Any) -> list[Any]:
    """A loader and its samplers, as far as it has such."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = [loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
    return list({id(part): part for part in parts if part is not None}.values())


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a loader and its samplers, each once."""
    found = [getattr(part, "generator", None) for part in _drawing(loader)]
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


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
    with preserved_random_states(), _preserved_generators(data):
        for x, y in fixed_batches(data, device=device, batch_size=batch_size):
            found.append((x[:missing], y[:missing]))
            missing -= len(x)
            if missing <= 0:
                break
    return found


@contextmanager
def _preserved_generators(data: Data) -> Iterator[None]:
    """Put a loader's own generators back to where they were."""
    states = [(generator, generator.get_state()) for generator in generators_of(data)]
    try:
        yield
    finally:
        for generator, state in states:
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
