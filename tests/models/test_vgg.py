from __future__ import annotations

import pytest
import torch

from deepprobe.errors import ConfigError
from deepprobe.models import create_model, describe_model

PUBLISHED = {
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg16_bn": 138_365_992,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameters(name, parameters):
    assert describe_model(name).parameters == parameters


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("suffix", ["", "_bn"])
@pytest.mark.parametrize("size", [8, 14, 28, 32, 224])
def test_depth_and_shape(blueprint, run_depth, depth, suffix, size):
    model = blueprint(f"vgg{depth}{suffix}", input_size=size, in_channels=1)
    assert run_depth(model, (2, 1, size, size)) == (depth, (2, 10))
    pools = [name for name, m in model.features.named_children() if isinstance(m, torch.nn.MaxPool2d)]
    assert len(pools) == {8: 3, 14: 3, 28: 4}.get(size, 5)


def test_small_head():
    model = create_model("vgg11", input_size=32, seed=0)
    assert [m.out_features for m in model.classifier if isinstance(m, torch.nn.Linear)] == [512, 512, 10]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    convolutions = describe_model("vgg16").parameters - (25_088 * 4096 + 4096**2 + 4096 * 1000 + 2 * 4096 + 1000)
    assert describe_model("vgg16", input_size=32).parameters == convolutions + 2 * (512**2 + 512) + 512 * 10 + 10


def test_head_and_dropout_are_options():
    assert describe_model("vgg11", input_size=32, num_classes=1000, head="imagenet").parameters == PUBLISHED["vgg11"]
    model = create_model("vgg11", input_size=32, dropout=0.25, seed=0)
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.25, 0.25]
    with pytest.raises(ConfigError) as caught:
        create_model("vgg11", dropout=1.0)
    assert str(caught.value) == "vgg11: dropout=1.0: Input should be less than 1"


def test_the_name_says_whether_there_is_batch_normalisation():
    with pytest.raises(ConfigError) as caught:
        create_model("vgg11", batch_norm=True)
    assert str(caught.value) == (
        "batch_norm=True contradicts the name 'vgg11', which means batch_norm=False; "
        "leave the option out or take another name"
    )
