"""What a network draws is not taken for rounding, and a tuple with a loss is a pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepprobe.diagnosis import diagnose


class Noisy(nn.Module):
    """A perceptron of which half drops out whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.act(self.a(x)), 0.5))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 16, generator=generator), torch.randint(4, (64,), generator=generator)


def test_draws_are_no_precision_horizon(batch: tuple[Tensor, Tensor]) -> None:
    found = diagnose(Noisy(), batch, progress=False)
    assert "precision-horizon" not in set(found.table()["rule"])
    assert any("Rounding was not judged" in note for note in found.evidence.notes)
    same = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    assert not any("Rounding" in note for note in diagnose(same, batch, progress=False).evidence.notes)


def test_with_a_loss_a_tuple_of_two_alike_is_a_pair(batch: tuple[Tensor, Tensor]) -> None:
    lengths = []

    def loss(model: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
        lengths.append((len(given), given[0].shape))
        return F.mse_loss(model(given[0]), given[1])

    diagnose(nn.Linear(16, 16), (batch[0], batch[0]), loss=loss, progress=False)
    assert {length for length, _ in lengths} == {2}
    assert max(shape[0] for _, shape in lengths) == 64


def test_the_loss_in_a_mapping_that_a_model_gives_is_its_own(batch: tuple[Tensor, Tensor]) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.head(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    found = diagnose(Own(), {"x": batch[0], "labels": batch[1]}, progress=False)
    assert found.evidence.kernels["gradient_norm"].gt(0).all()
