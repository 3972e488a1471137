from __future__ import annotations

import pytest
import torch

from deepprobe.errors import ConfigError
from deepprobe.models import create_model, describe_model


@pytest.mark.parametrize(("grouped", "parameters"), [(False, 61_100_840), (True, 60_965_224)])
def test_parameters_and_depth(blueprint, run_depth, grouped, parameters):
    info = describe_model("alexnet", grouped=grouped)
    assert (info.parameters, info.depth, info.num_classes) == (parameters, 8, 1000)
    assert run_depth(blueprint("alexnet", grouped=grouped), (2, 3, 224, 224)) == (8, (2, 10))


def test_one_tower_is_the_default():
    assert describe_model("alexnet").parameters == 61_100_840


def test_the_strides_leave_the_published_grid(blueprint):
    model = blueprint("alexnet", grouped=True)
    assert model.features(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 256, 6, 6)


def test_smallest_input(blueprint):
    model = blueprint("alexnet", input_size=63)
    assert model.features(torch.empty(1, 3, 63, 63, device="meta")).shape == (1, 256, 1, 1)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        model.features(torch.empty(1, 3, 62, 62, device="meta"))
    with pytest.raises(ConfigError) as caught:
        create_model("alexnet", input_size=62)
    assert str(caught.value) == "alexnet: input_size=62: Input should be greater than or equal to 63"
