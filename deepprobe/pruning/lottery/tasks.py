"""Pieces of work that a sweep is made of, and what may run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Task:
    """One branch of one seed of one experiment: everything that must run one after the other.

    Attributes:
        key: (experiment's folder, seed, branch); no two tasks of a sweep have the same.
        needs: Keys of the tasks that must have ended well before.
        call: Does the work. It resumes by itself where an earlier call was stopped, and does nothing where one ended.
    """

    key: tuple[str, int, str]
    needs: tuple[tuple[str, int, str], ...]
    call: Callable[[], None]

    def __str__(self) -> str:
        folder, seed, branch = self.key
        return f"{folder}, seed {seed}, {branch}"


class Engine(Protocol):
    """What runs tasks: here, in other processes, or on other machines."""

    def run(self, tasks: Sequence[Task]) -> None:
        """Run every task after those that it needs, in any order else.

        A task that fails does not stop those that do not need it; the first error is raised at the end.
        """
