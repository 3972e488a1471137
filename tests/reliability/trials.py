"""How often each thing is tried: few times in the normal suite, the full number with -m slow, or as asked for."""

from __future__ import annotations

import os

import pytest


def trials(name, *, quick, full):
    """Parametrize ``n``; the variable DEEPPROBE_TRIALS_<NAME> asks for a number of one's own."""
    asked = os.environ.get(f"DEEPPROBE_TRIALS_{name.upper()}")
    numbers = (
        [int(asked)] if asked else [quick, pytest.param(full, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
    )
    return pytest.mark.parametrize("n", numbers)
