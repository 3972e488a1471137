"""Views: which numbers become which rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.linalg.matricize import VIEWS, blocks, check_view, random_positions, unfoldings

IMAGES = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
TOKENS = torch.arange(2 * 6 * 3, dtype=torch.float32).reshape(2, 6, 3)


def matrix(parts: Tensor) -> Tensor:
    """Blocks (b, d, p) as rows × units."""
    return parts.transpose(1, 2).reshape(-1, parts.shape[1])


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_views_of_images(memory: torch.memory_format) -> None:
    images = IMAGES.to(memory_format=memory)
    assert torch.equal(matrix(blocks(images, "samples")), IMAGES.reshape(2, -1))
    assert torch.equal(matrix(blocks(images, "channels")), IMAGES.permute(0, 2, 3, 1).reshape(-1, 3))
    assert torch.allclose(matrix(blocks(images, "pooled")), IMAGES.mean((2, 3)))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_channels_are_a_view(memory: torch.memory_format) -> None:
    images = IMAGES.to(memory_format=memory)
    assert blocks(images, "channels").data_ptr() == images.data_ptr()


def test_tokens() -> None:
    assert torch.equal(matrix(blocks(TOKENS, "tokens")), TOKENS.reshape(-1, 3))


@pytest.mark.parametrize("view", VIEWS)
def test_two_axes_are_rows_and_units_in_every_view(view: str) -> None:
    rows = torch.randn(7, 4)
    assert torch.equal(matrix(blocks(rows, view)), rows)


def test_one_axis_is_one_unit() -> None:
    assert blocks(torch.ones(5), "channels").shape == (5, 1, 1)


def test_half_means_are_formed_in_float32() -> None:
    images = torch.full((1, 1, 100, 100), 60_000.0, dtype=torch.float16)
    assert blocks(images, "pooled").item() == 60_000.0  # a sum in float16 would be inf


def test_unfoldings_have_the_fibres_as_rows() -> None:
    for mode, view in enumerate(("hosvd1", "hosvd2", "hosvd3"), start=1):
        unfolded = unfoldings(IMAGES, view)
        assert unfolded.shape == (2, 60 // IMAGES.shape[mode], IMAGES.shape[mode])
        reference = IMAGES[1].movedim(mode - 1, 0).reshape(IMAGES.shape[mode], -1).T
        assert torch.allclose(torch.linalg.svdvals(unfolded[1]), torch.linalg.svdvals(reference), rtol=1e-5, atol=1e-4)


def test_random_positions_come_from_their_sample_and_change() -> None:
    parts = blocks(IMAGES, "channels")
    generator = torch.Generator().manual_seed(0)
    first, second = (random_positions(parts, 6, generator) for _ in range(2))
    assert first.shape == (2, 3, 6)
    assert not torch.equal(first, second)
    for sample in range(2):
        known = {tuple(row) for row in matrix(parts[sample : sample + 1]).tolist()}
        assert {tuple(row) for row in matrix(first[sample : sample + 1]).tolist()} <= known
    assert random_positions(parts, 20, generator) is parts


def test_errors() -> None:
    with pytest.raises(ConfigError, match=r"view='channel' is not a view: did you mean 'channels'"):
        check_view("channel")
    with pytest.raises(ShapeError, match=r"a single number has no rows: the layer's tensor has shape \(\)"):
        blocks(torch.tensor(1.0), "channels")
    with pytest.raises(ShapeError, match=r"view='hosvd2' unfolds samples of shape \(C, H, W\); this tensor has shape"):
        unfoldings(TOKENS, "hosvd2")
