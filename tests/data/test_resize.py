from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepprobe.data.resize import resize_images
from deepprobe.errors import ConfigError


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 3]), st.integers(0, 9))
def test_whole_factor_is_the_area_average(size: int, factor: int, channels: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(
        0, 256, (3, size * factor, 2 * size * factor, channels), dtype=np.uint8
    )
    found = resize_images(images, size)
    for n in range(3):
        for y in range(size):
            for x in range(size):
                patch = images[n, y * factor : (y + 1) * factor, 2 * x * factor : 2 * (x + 1) * factor]
                assert found[n, y, x].tolist() == np.floor(patch.mean(axis=(0, 1)) + 0.5).tolist()


@pytest.mark.parametrize(("native", "size"), [(8, 14), (28, 32), (32, 28), (8, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_factors_are_bilinear(native: int, size: int, channels: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, native, native, channels), dtype=np.uint8)
    found = resize_images(images, size)
    assert found.shape == (2, size, size, channels)
    for c in range(channels):
        plane = Image.fromarray(images[1, :, :, c]).resize((size, size), Image.Resampling.BILINEAR)
        assert np.array_equal(found[1, :, :, c], np.asarray(plane))
    assert (resize_images(np.full((1, native, native, 1), 77, np.uint8), size) == 77).all()


def test_same_size_is_untouched() -> None:
    images = np.zeros((1, 8, 8, 1), np.uint8)
    assert resize_images(images, 8) is images


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"^input_size=0 must be at least 1 pixel$"):
        resize_images(np.zeros((1, 8, 8, 1), np.uint8), 0)
    with pytest.raises(ConfigError) as caught:
        resize_images(np.zeros((10, 8, 8, 1), np.uint8), 2**15)
    assert str(caught.value) == (
        "10 images of 32768×32768×1 take 10.0 GiB, more than 4 GiB; give a smaller limit or input_size"
    )
