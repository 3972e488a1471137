"""Loss and accuracy against a whole-set computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from deepprobe.errors import ShapeError
from deepprobe.training import evaluate
from deepprobe.training.evaluation import MOST_UNCOUNTED, Tally


def test_numbers_are_those_of_the_whole_set(net, few):
    model, (x, y) = net(), few[0]
    found = evaluate(model, (x, y), batch_size=32)
    model.eval()
    logits = model(x).detach().double().numpy()
    predicted = logits.argmax(1)
    assert found["loss"] == pytest.approx(-log_softmax(logits, axis=1)[np.arange(130), y.numpy()].mean(), rel=1e-6)
    assert found["accuracy"] == (predicted == y.numpy()).mean()
    assert found["n_predicted_classes"] == len(set(predicted))
    assert found["top_prediction_share"] == np.bincount(predicted).max() / 130
    assert found["majority_share"] == np.bincount(y).max() / 130


@pytest.mark.parametrize("most", [0, 700, 10**6])
def test_it_does_not_matter_how_many_answers_are_counted_together(monkeypatch, most):
    monkeypatch.setattr("deepprobe.training.evaluation.MOST_UNCOUNTED", most)
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 10, generator=generator), torch.randint(10, (50,), generator=generator)
    labels[:5] = -100  # left out by the loss: no label
    tally = Tally()
    for part in torch.arange(50).split(7):
        tally.add(logits[part], labels[part], loss=torch.tensor(float(part[0])))
        if part[0] == 21:
            tally.state()  # as a checkpoint takes it
    found = tally.read()
    assert found["loss"] == sum(first * min(7, 50 - first) for first in range(0, 50, 7)) / 50
    assert found["accuracy"] == (logits.argmax(1) == labels).sum().item() / 50
    assert found["top_prediction_share"] == np.bincount(logits.argmax(1)).max() / 50
    assert found["majority_share"] == np.bincount(labels[5:]).max() / 50


def test_answers_that_are_a_view_of_much_more_are_not_kept():
    tally = Tally()
    for _ in range(20):
        every_token = torch.zeros(4, 2000, 10)
        tally.add(every_token[:, -1], torch.zeros(4, dtype=torch.int64), loss=torch.tensor(0.0))
        kept = sum(logits.untyped_storage().nbytes() for logits, _, _ in tally._uncounted)
        assert kept <= MOST_UNCOUNTED
    assert tally.read()["accuracy"] == 1.0


def test_modes_are_as_before(net, few):
    model = net()
    model.train()
    model.bn1.eval()
    before = [m.training for m in model.modules()]
    evaluate(model, few[1])
    assert [m.training for m in model.modules()] == before


def test_nothing_gives_nothing(net):
    assert evaluate(net(), []) == {}
    assert evaluate(net(), (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))) == {}


def test_a_model_of_nan_predicts_one_class_and_says_so(net, few):
    model = net()
    nn.init.constant_(model.classifier.weight, float("nan"))
    found = evaluate(model, few[1])
    assert np.isnan(found["loss"])
    assert (found["n_predicted_classes"], found["top_prediction_share"]) == (1.0, 1.0)


def test_outputs_and_labels_that_do_not_fit_are_told(few):
    x, y = few[1]
    with pytest.raises(ShapeError) as error:
        evaluate(nn.Identity(), (x, y))
    assert str(error.value) == "the model must return logits of shape (40, classes), and returned (40, 1, 8, 8)"
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ShapeError, match=r"^labels must lie in 0 … 2, the model's classes: Target \d is out of bounds"):
        evaluate(three, (x, y))
