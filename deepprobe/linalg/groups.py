"""Rows in groups of samples, so that each group can be left out in turn: what a jackknife needs.

Groups are of samples, never of rows: the positions of one image are not independent. Sample i of the stream belongs to
group i mod g, so that groups do not depend on how the stream was cut into batches. The whole is the merge of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from deepprobe.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deepprobe.linalg.factor import Factor


class Mergeable(Protocol):
    """What an accumulator offers whose rows can be grouped: ``Rows`` and ``GramAccumulator`` do."""

    @property
    def n_rows(self) -> int:
        """Rows taken so far."""

    def update(self, blocks: Any, *, last: bool = False) -> None:
        """Take rows as blocks of shape (b, d, p)."""

    def merge(self, other: Any) -> None:
        """Take all rows of another, which is left as it was."""

    def result(self) -> Factor:
        """Factor of all rows so far."""


class Groups:
    """Accumulates rows in groups of samples; for accumulators that stay mergeable, of up to 1,024 units.

    Args:
        count: Groups g, at least 2.
        new: Makes an empty accumulator; can be pickled where the groups are.
    """

    def __init__(self, count: int, new: Callable[[], Mergeable]) -> None:
        self._new = new
        self._groups = [new() for _ in range(count)]
        self._n_samples = 0

    @property
    def parts(self) -> list[Mergeable]:
        """The accumulator of each group."""
        return self._groups

    def holding(self, parts: Sequence[Mergeable]) -> Groups:
        """Groups after as many samples as these, with other accumulators."""
        other = Groups(0, self._new)
        other._groups, other._n_samples = list(parts), self._n_samples
        return other

    @property
    def n_rows(self) -> int:
        """Rows taken so far, over all groups."""
        return sum(group.n_rows for group in self._groups)

    def update(self, blocks: Any, *, last: bool = False) -> None:
        """Take rows as blocks of shape (b, d, p), one block a sample; ``last`` changes nothing, for groups must merge.

        Raises:
            ShapeError: If d does not fit.
        """
        count = len(self._groups)
        for i, group in enumerate(self._groups):
            part = blocks[(i - self._n_samples) % count :: count]
            if len(part):
                group.update(part)
        self._n_samples += len(blocks)

    def merge(self, other: Groups) -> None:
        """Take all rows of another, which is left as it was; its samples follow on this one's, as in one stream.

        Raises:
            ShapeError: If there are not as many groups.
        """
        count = len(self._groups)
        if len(other._groups) != count:
            raise ShapeError(f"cannot merge {len(other._groups)} groups into {count}")
        for i, its in enumerate(other._groups):
            self._groups[(i + self._n_samples) % count].merge(its)
        self._n_samples += other._n_samples

    def result(self) -> Factor:
        """Factor of all rows so far."""
        return self._merged(self._groups).result()

    def left_out(self) -> Iterator[Factor]:
        """Factors of all rows but one group's, for each group that has rows in turn; formed one at a time."""
        groups = [group for group in self._groups if group.n_rows]
        if len(groups) > 1:
            yield from self._all_but_one(groups, outside=self._new())

    def _all_but_one(self, groups: Sequence[Mergeable], *, outside: Mergeable) -> Iterator[Factor]:
        """Halves in turn: what is outside a half is merged once for all groups in it, g log g merges in all."""
        if len(groups) == 1:
            yield outside.result()
            return
        half = len(groups) // 2
        for inside, others in ((groups[:half], groups[half:]), (groups[half:], groups[:half])):
            yield from self._all_but_one(inside, outside=self._merged([outside, *others]))

    def _merged(self, parts: Sequence[Mergeable]) -> Mergeable:
        """One accumulator of all rows."""
        total = self._new()
        for part in parts:
            total.merge(part)
        return total
