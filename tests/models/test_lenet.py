from __future__ import annotations

import pytest
import torch

from deepprobe.errors import ConfigError
from deepprobe.models import create_model, describe_model

PUBLISHED = {
    "lenet300_100": (266_610, 3),
    "lenet5": (61_706, 5),
    "lenet5_caffe": (431_080, 4),
    "conv2": (4_301_642, 5),
    "conv4": (2_425_930, 7),
    "conv6": (2_262_602, 9),
}


@pytest.mark.parametrize(("name", "expected"), PUBLISHED.items())
def test_parameters_and_depth(blueprint, run_depth, name, expected):
    info = describe_model(name)
    assert (info.parameters, info.depth) == expected
    shape = (2, info.in_channels, info.input_size, info.input_size)
    assert run_depth(blueprint(name), shape) == (expected[1], (2, 10))


@pytest.mark.parametrize("name", ["lenet300_100", "lenet5", "lenet5_caffe", "conv2", "conv4", "conv6"])
@pytest.mark.parametrize("size", [8, 14, 17, 28, 32])
def test_image_sizes(name, size):
    least = {"lenet5": 12, "lenet5_caffe": 16}.get(name, 1)
    if size < least:
        with pytest.raises(ConfigError) as caught:
            create_model(name, input_size=size)
        assert str(caught.value) == f"input_size={size} is too small: the pools leave no pixel of such an image"
    else:
        model = create_model(name, in_channels=3, input_size=size, num_classes=4, seed=0)
        assert model(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_glorot_is_the_default():
    weight = create_model("lenet300_100", seed=0).classifier.fc1.weight
    assert weight.std().item() == pytest.approx((2 / (784 + 300)) ** 0.5, rel=0.01)


def test_activations_are_an_option():
    model = create_model("lenet5", activation="tanh", seed=0)
    assert sum(isinstance(m, torch.nn.Tanh) for m in model.modules()) == 4
