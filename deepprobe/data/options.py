"""What may be asked of a data set."""

from __future__ import annotations

from typing import Literal, get_args

from deepprobe.errors import ConfigError

Split = Literal["train", "test"]


def check_options(split: str, *, input_size: int | None, limit: int | None, seed: int) -> None:
    """Refuse options that no data set allows.

    Args:
        split: ``"train"`` or ``"test"``.
        input_size: Pixels, at least 1, or None.
        limit: Number of images, at least 1, or None.
        seed: Not negative.

    Raises:
        ConfigError: If one of them is not allowed.
    """
    if split not in get_args(Split):
        raise ConfigError(f"split={split!r} must be 'train' or 'test'")
    if input_size is not None and input_size < 1:
        raise ConfigError(f"input_size={input_size} must be at least 1 pixel")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} must be at least 1 image")
    if seed < 0:
        raise ConfigError(f"seed={seed} must not be negative")
