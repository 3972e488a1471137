"""All three generators are seeded, stored and restored."""

from __future__ import annotations

import random

import numpy as np
import torch

from deepprobe.seeding import preserved_random_states
from deepprobe.training.random_state import random_state, restore_random_state, seed_everything


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()  # noqa: NPY002


def test_a_state_is_taken_up_where_it_was(tmp_path):
    with preserved_random_states():
        seed_everything(3)
        draw()
        torch.save(random_state(), tmp_path / "state.pt")
        expected = [draw() for _ in range(3)]
        seed_everything(4)
        restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
        assert [draw() for _ in range(3)] == expected


def test_a_seed_fixes_every_generator():
    with preserved_random_states():
        seed_everything(3)
        first = draw()
        seed_everything(4)
        other = draw()
        seed_everything(3)
        assert draw() == first
        assert all(a != b for a, b in zip(first, other, strict=True))
