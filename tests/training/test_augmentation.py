"""Augmentation is a function of (seed, epoch, sample) and does to each image what a loop would."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deepprobe.training.augmentation import augment, draw_augmentation


def slow_augment(image, draw, *, flip):
    """One image, with slices."""
    h, w = image.shape[1:]
    top, left = int(draw[0] * (2 * (h // 8) + 1)), int(draw[1] * (2 * (w // 8) + 1))
    padded = F.pad(image, (w // 8, w // 8, h // 8, h // 8))
    cropped = padded[:, top : top + h, left : left + w]
    return cropped.flip(2) if flip and draw[2] < 0.5 else cropped


@pytest.mark.parametrize("size", [8, 14, 28, 32])
@pytest.mark.parametrize("flip", [True, False])
def test_each_image_is_cropped_and_flipped_by_its_own_draw(size, flip):
    images = torch.randn(40, 3, size, size, generator=torch.Generator().manual_seed(0))
    draws = draw_augmentation(5, 2, n_samples=40)
    expected = torch.stack([slow_augment(i, d, flip=flip) for i, d in zip(images, draws, strict=True)])
    assert torch.equal(augment(images, draws, flip=flip), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.float64])
def test_shape_dtype_and_input_are_kept(dtype):
    images = (torch.rand(6, 1, 10, 16, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    before = images.clone()
    result = augment(images, draw_augmentation(0, 0, n_samples=6), flip=True)
    assert (result.shape, result.dtype) == (images.shape, dtype)
    assert torch.equal(images, before)


def test_channels_last_stays_channels_last():
    images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    draws = draw_augmentation(0, 0, n_samples=4)
    result = augment(images, draws, flip=True)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, augment(images.contiguous(), draws, flip=True))


def test_a_sample_meets_the_same_fate_in_any_batch():
    images = torch.randn(20, 1, 8, 8)
    draws = draw_augmentation(1, 7, n_samples=20)
    whole = augment(images, draws, flip=True)
    chosen = torch.tensor([3, 17, 3, 0])
    assert torch.equal(augment(images[chosen], draws[chosen], flip=True), whole[chosen])


def test_seed_and_epoch_change_the_draws_and_nothing_else_does():
    draws = draw_augmentation(1, 2, n_samples=50)
    torch.manual_seed(99)
    assert torch.equal(draws, draw_augmentation(1, 2, n_samples=50))
    assert not torch.equal(draws, draw_augmentation(1, 3, n_samples=50))
    assert not torch.equal(draws, draw_augmentation(2, 2, n_samples=50))
    assert torch.equal(draws[:20], draw_augmentation(1, 2, n_samples=20))


def test_every_place_is_as_likely_as_every_other():
    draws = draw_augmentation(0, 0, n_samples=9000)
    counts = torch.bincount((draws[:, 0] * 9).long(), minlength=9)
    assert counts.min() > 850
    assert counts.max() < 1150
