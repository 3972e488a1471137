"""What tests of the command share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deepprobe.cli import autopsy, lottery_tasks, train


@pytest.fixture(autouse=True, scope="package")
def _keep_denormals() -> Iterator[None]:
    """Training from the command line flushes denormals for its whole process, which here is that of other tests too."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (autopsy, lottery_tasks, train):
            patch.setattr(module, "flush_denormals", lambda: None)
        yield


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Small networks are fastest with one thread, the more so beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
