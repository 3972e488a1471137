from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deepprobe.errors import ConfigError, UnknownNameError
from deepprobe.models import ModelInfo, ZooModel, create_model, describe_model, list_models


def test_lists_are_sorted_and_filtered():
    assert list_models() == sorted(list_models())
    assert list_models("*164") == ["plainnet164", "preresnet164", "resnet164", "resnext164"]
    assert list_models("VGG1[13]*") == ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn"]
    assert list_models("nothing*") == []


def test_every_listed_name_is_described():
    for name in list_models():
        info = describe_model(name)
        assert info.name == name
        assert name.startswith(info.family)
        assert info.num_classes == (1000 if info.input_size == 224 else 10)


def test_description_of_one_network():
    assert describe_model("lenet300_100") == ModelInfo(
        name="lenet300_100",
        family="lenet",
        depth=3,
        parameters=266_610,
        num_classes=10,
        input_size=28,
        in_channels=1,
        description="LeNet-300-100: fully connected",
    )


def test_describing_draws_and_allocates_nothing():
    before = torch.get_rng_state()
    assert describe_model("vgg19").num_classes == 1000
    assert describe_model("vgg19", num_classes=10, input_size=32).num_classes == 10
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("PlainNet-164", "plainnet164"),
        ("ResNeXt-29-8x64d", "resnext29_8x64d"),
        ("VGG-16-BN", "vgg16_bn"),
        ("LeNet-300-100", "lenet300_100"),
        ("Conv-6", "conv6"),
    ],
)
def test_names_as_people_write_them(spelling, name):
    assert describe_model(spelling).name == name


def test_ambiguous_depths_by_name_are_imagenet():
    assert describe_model("resnet50").parameters == 25_557_032
    small = describe_model("resnet", depth=50)
    assert (small.depth, small.input_size, small.parameters) == (50, 32, 755_802)
    assert describe_model("preresnet50").input_size == 32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnett20", "no model 'resnett20'; did you mean 'resnet20' or 'resnext20' or 'resnet1202'?"),
        (
            "resnet21",
            "no model 'resnet21': its depth must be 6n+2 (basic blocks) or 9n+2 (bottlenecks) between 8 and 1202; "
            "the nearest are 'resnet20' or 'resnet26'",
        ),
        (
            "resnext30_4x8d",
            "no model 'resnext30_4x8d': its depth must be 9n+2 (bottlenecks) between 8 and 1202; "
            "the nearest are 'resnext29_4x8d' or 'resnext38_4x8d'",
        ),
        (
            "plainnet1208",
            "no model 'plainnet1208': its depth must be 6n+2 (basic blocks) or 9n+2 (bottlenecks) between 8 and 1202; "
            "the nearest are 'plainnet1202'",
        ),
    ],
)
def test_unknown_names_get_the_nearest(name, message):
    for call in (create_model, describe_model):
        with pytest.raises(UnknownNameError) as caught:
            call(name)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "name", ["", " ", "resnet020", "resnet20\n", "resnet" + "9" * 5000, "../x", "ｒesnet20", "vgg12"]
)
def test_hostile_names_are_unknown(name):
    with pytest.raises(UnknownNameError):
        create_model(name)


def test_names_that_are_no_text():
    with pytest.raises(UnknownNameError) as caught:
        create_model(50)
    assert str(caught.value) == "no model 50: a name is a string such as 'resnet20'"


def test_unknown_options_name_those_that_exist():
    with pytest.raises(ConfigError) as caught:
        create_model("alexnet", groups=2)
    assert str(caught.value) == (
        "alexnet has no option 'groups'; did you mean 'grouped'? "
        "(all options: activation, dropout, grouped, in_channels, init, init_gain, input_size, num_classes)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "resnet8: num_classes=0: Input should be greater than or equal to 1"),
        ({"num_classes": "10"}, "resnet8: num_classes='10': Input should be a valid integer"),
        ({"num_classes": True}, "resnet8: num_classes=True: Input should be a valid integer"),
        ({"num_classes": np.array([2, 3])}, "resnet8: num_classes=array([2, 3]): Input should be a valid integer"),
        ({"in_channels": 2.5}, "resnet8: in_channels=2.5: Input should be a valid integer"),
        ({"init_gain": 0.0}, "resnet8: init_gain=0.0: Input should be greater than 0"),
        ({"seed": -1}, "seed=-1 is not an integer from 0 to 9223372036854775807"),
        ({"seed": 1.5}, "seed=1.5 is not an integer from 0 to 9223372036854775807"),
        ({"seed": True}, "seed=True is not an integer from 0 to 9223372036854775807"),
        (
            {"base_width": 65_536},
            "resnet8: 1,236,956,938,250 parameters with these options; the most is 2,000,000,000",
        ),
    ],
)
def test_impossible_values(options, message):
    with pytest.raises(ConfigError) as caught:
        create_model("resnet8", **options)
    assert str(caught.value) == message


def test_numpy_integers_are_integers():
    model = create_model("resnet8", num_classes=np.int64(3), seed=np.int64(4))
    assert json.loads(json.dumps(model.deepprobe_config))["num_classes"] == 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet", {"depth": 14, "shortcut": "B", "activation": "gelu", "init": "orthogonal", "shortcut_scale": 0.5}),
        ("resnext11_4x2d", {"base_width": 8}),
        ("lenet5", {"num_classes": 4, "in_channels": 3, "input_size": 14}),
        ("resnet18", {"input_size": 8, "base_width": 4}),
    ],
)
def test_config_rebuilds_the_same_network(name, options):
    model = create_model(name, seed=9, **options)
    assert isinstance(model, ZooModel)
    again = create_model(**json.loads(json.dumps(model.deepprobe_config)))
    assert str(again) == str(model)
    assert again.deepprobe_config == model.deepprobe_config
    ours, theirs = model.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_seed_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    one, two = create_model("resnet8", seed=1), create_model("resnet8", seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one.classifier.weight, two.classifier.weight)


def test_without_a_seed_the_global_state_decides():
    def fresh():
        return create_model("resnet8").classifier.weight

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = fresh(), fresh()
        torch.manual_seed(0)
        assert torch.equal(fresh(), first)
    assert not torch.equal(first, second)


def test_a_default_device_does_not_matter():
    with torch.device("meta"):
        model = create_model("resnet8", seed=0)
    expected = create_model("resnet8", seed=0).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
