"""The global random states of Python, NumPy and torch as plain values, such as a checkpoint may hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from deepprobe.seeding import derive_seed


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (every device), each with its own seed."""
    random.seed(derive_seed(seed, "python"))
    np.random.seed(derive_seed(seed, "numpy") % 2**32)  # noqa: NPY002 - the user's code may draw from the global one
    torch.manual_seed(derive_seed(seed, "torch"))


def random_state() -> dict[str, Any]:
    """The states, of plain numbers, lists and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Take up states that ``random_state`` gave; those of devices that are not here are left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
