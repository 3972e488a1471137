"""Labels are found where batches hold them, and nothing else is taken for labels."""

from __future__ import annotations

import pytest
import torch

from deepprobe.hooks.labels import LABEL_KEYS, labels_of

X, Y = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])


@pytest.mark.parametrize("batch", [(X, Y), [X, Y[:, None]], *({"x": X, key: Y} for key in LABEL_KEYS)])
def test_labels_are_found(batch):
    assert labels_of(batch).tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize("batch", [X, (X, X), (X, Y.double()), (X, Y[:3]), {"x": X}, (X, torch.zeros(4, 2).long())])
def test_what_is_no_label_a_sample_is_none(batch):
    assert labels_of(batch) is None
