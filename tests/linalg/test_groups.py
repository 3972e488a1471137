"""Groups of samples: the merge is the whole, and each group can be left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepprobe.linalg.gram import GramAccumulator
from deepprobe.linalg.groups import Groups
from deepprobe.linalg.rows import Rows
from deepprobe.linalg.streaming_qr import StreamingQR

BLOCKS = np.random.default_rng(0).standard_normal((53, 6, 7))


def matrix(blocks: np.ndarray) -> np.ndarray:
    return blocks.transpose(0, 2, 1).reshape(-1, blocks.shape[1])


@pytest.mark.parametrize("kind", [Rows, GramAccumulator])
@pytest.mark.parametrize("g", [2, 5, 16])
@pytest.mark.parametrize("cuts", [[], [1, 2, 30], list(range(53))], ids=["whole", "uneven", "singly"])
def test_each_group_is_left_out_in_turn(kind: type, g: int, cuts: list[int]) -> None:
    groups = Groups(g, lambda: kind(6))
    for part in np.split(BLOCKS, cuts):
        groups.update(part, last=True)
    assert groups.n_rows == 53 * 7
    exact = np.linalg.svd(matrix(BLOCKS), compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(groups.result().raw, compute_uv=False), exact, rtol=1e-11)
    left_out = list(groups.left_out())
    assert len(left_out) == g
    for i, factor in enumerate(left_out):
        rows = matrix(BLOCKS[np.arange(53) % g != i])
        assert factor.n_rows == len(rows)
        for found, all_rows in ((factor.raw, rows), (factor.centred, rows - rows.mean(axis=0))):
            exact = np.linalg.svd(all_rows, compute_uv=False)
            np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), exact, rtol=1e-11)


def test_groups_without_rows_do_not_count() -> None:
    groups = Groups(16, lambda: Rows(6))
    assert list(groups.left_out()) == []
    groups.update(BLOCKS[:1])
    assert list(groups.left_out()) == []
    groups.update(BLOCKS[1:5])
    assert [f.n_rows for f in groups.left_out()] == [28] * 5


def test_groups_merge_group_by_group() -> None:
    a, b = Groups(4, lambda: Rows(6)), Groups(4, lambda: Rows(6))
    a.update(BLOCKS[:24])
    b.update(BLOCKS[24:])
    a.merge(b)
    assert [f.n_rows for f in a.left_out()] == [7 * int((np.arange(53) % 4 != i).sum()) for i in range(4)]
    exact = np.linalg.svd(matrix(BLOCKS), compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(a.result().raw, compute_uv=False), exact, rtol=1e-11)


def test_tensors_are_grouped_as_arrays_are() -> None:
    groups = Groups(3, lambda: GramAccumulator(6))
    groups.update(torch.from_numpy(BLOCKS))
    assert [f.n_rows for f in groups.left_out()] == [245, 245, 252]


def test_columns_that_are_equal_in_one_part_only_are_not_duplicates() -> None:
    """Differences from the first row agree in both parts, first rows in one only."""
    a, b = StreamingQR(2), StreamingQR(2)
    a.update(np.array([[[0.0], [0.0]], [[1.0], [1.0]]]))
    b.update(np.array([[[2.0], [3.0]], [[4.0], [5.0]]]))
    for first, second in ((a, b), (b, a)):
        total = StreamingQR(2)
        total.merge(first)
        total.merge(second)
        assert total.result().duplicate.tolist() == [False, False]
    twice = StreamingQR(2)
    twice.merge(a)
    twice.merge(a)
    assert twice.result().duplicate.tolist() == [False, True]
