"""The processes that train one network together: who is who, and what they tell each other.

``torchrun`` starts the processes and says to each, in environment variables, which one it is. Everything here does
nothing, at no cost, where there is one process alone. Values are exchanged as torch exchanges objects, between
processes of one job that trust each other; nothing is read from a file.
"""

from __future__ import annotations

import atexit
import gc
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from deepprobe.errors import ConfigError, RankLostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: longer than the slowest probe pass, and not for ever."""

_SAYS_LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, seen from one of them; ``Ranks()`` is one process alone.

    Every method but ``share`` is collective where there are several: all ranks must call it, in the same order.

    Attributes:
        rank: This process, from 0; rank 0 is the one that writes.
        world_size: How many processes there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is one process only."""
        return self.world_size == 1

    def agree(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether any rank has set it."""
        if self.is_alone:
            return list(flags)
        import torch
        import torch.distributed as dist

        told = torch.tensor([float(flag) for flag in flags], device=_device_of_group())
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return [value > 0 for value in told.tolist()]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, elementwise; in place where there are several ranks."""
        if not self.is_alone:
            import torch.distributed as dist

            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """What each rank holds, in the order of the ranks, on rank 0; nothing elsewhere."""
        if self.is_alone:
            return [value]
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, found)
        return found or []

    def broadcast(self, value: Any) -> Any:
        """What rank 0 holds, on every rank."""
        if self.is_alone:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, device=_device_of_group())
        return box[0]

    def copy_from_main(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
        if self.is_alone:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    def share(self, n: int) -> slice:
        """This rank's part of n things: contiguous, in the order of the ranks, sizes that differ by at most one.

        Example:
            >>> [Ranks(rank, 3).share(8) for rank in range(3)]
            [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
        """
        size, extra = divmod(n, self.world_size)
        start = self.rank * size + min(self.rank, extra)
        return slice(start, start + size + (self.rank < extra))


def current_ranks() -> Ranks:
    """The ranks of the process group that is up, or one process alone."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


def started_by_torchrun() -> bool:
    """Whether this process is one of several that ``torchrun`` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def local_rank() -> int:
    """Which of the processes on this machine this is, from 0: the GPU that it should take."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """The ranks that train together: of the group that is up, or of one made here where ``torchrun`` started us.

    A group made here stays up until the process ends, for the next training: a second one would meet at the same
    place as the first, and some processes would find what the others had left there.

    Args:
        device: Where this process computes: NCCL between GPUs, gloo between CPUs.

    Yields:
        The ranks.

    Raises:
        ConfigError: If torch was built without distributed training, or the others do not answer.
        RankLostError: If one of the others ends.
    """
    if current_ranks().is_alone and started_by_torchrun():
        _make_group(device)
    try:
        yield current_ranks()
    except RuntimeError as error:
        if current_ranks().is_alone or not any(word in str(error) for word in _SAYS_LOST):
            raise
        here = str(error).strip().splitlines()[0][:200]
        raise RankLostError(
            f"another process of this training ended, and its own message says why; or it cannot be reached ({here})"
        ) from error


def _make_group(device: torch.device) -> None:
    """Meet the other processes; ConfigError if they do not come."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise ConfigError("this build of torch cannot train in several processes; start deepprobe without torchrun")
    import torch.distributed.nn.functional  # imported later, it would keep the group for ever: it is a default there

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the processes of torchrun did not find each other: {error}") from error
    atexit.register(_leave_group)


def _leave_group() -> None:
    """End the group and its threads: one that still lets go of a tensor while Python ends aborts the process."""
    import torch.distributed as dist

    gc.collect()  # models that were wrapped for several processes hold the group
    if dist.is_initialized():
        dist.destroy_process_group()


def _device_of_group() -> torch.device:
    """Where tensors must be for the process group to exchange them."""
    import torch
    import torch.distributed as dist

    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
