from __future__ import annotations

import pytest
import torch

from deepprobe.errors import ConfigError
from deepprobe.models import create_model, describe_model

RESNETS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
RESNEXTS = {"resnext50_32x4d": 25_028_904, "resnext101_32x8d": 88_791_336}
DEPTHS = sorted(RESNETS)


@pytest.mark.parametrize(("depth", "parameters"), RESNETS.items())
def test_parameters_of_resnets(depth, parameters):
    info = describe_model(f"resnet{depth}")
    assert (info.parameters, info.num_classes, info.input_size) == (parameters, 1000, 224)


@pytest.mark.parametrize(("name", "parameters"), RESNEXTS.items())
def test_parameters_of_resnexts(name, parameters):
    assert describe_model(name).parameters == parameters


@pytest.mark.parametrize("depth", DEPTHS)
def test_plain_twins_lack_the_projections_alone(blueprint, depth):
    plain, residual = blueprint(f"plainnet{depth}"), blueprint(f"resnet{depth}")
    kept = {n: p.shape for n, p in residual.named_parameters() if "shortcut" not in n.split(".")}
    assert {n: p.shape for n, p in plain.named_parameters()} == kept
    with_a = blueprint(f"resnet{depth}", shortcut="A")
    assert {n: p.shape for n, p in with_a.named_parameters()} == kept


@pytest.mark.parametrize("name", [f"{f}{d}" for d in DEPTHS for f in ("resnet", "plainnet")] + list(RESNEXTS))
def test_depth(blueprint, run_depth, name):
    depth = int(name.split("_")[0].removeprefix("plainnet").removeprefix("resnet").removeprefix("resnext"))
    assert run_depth(blueprint(name, num_classes=5), (1, 3, 224, 224)) == (depth, (1, 5))


def test_image_sizes_of_the_stages(blueprint):
    model, sizes = blueprint("resnet18").eval(), []
    for module in model.features:
        module.register_forward_hook(lambda _module, _inputs, output: sizes.append(tuple(output.shape[1:])))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert sizes == [(64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


def test_small_images_get_a_small_stem():
    small = create_model("resnet18", input_size=32, base_width=4, seed=0)
    assert small.features.stem.conv.kernel_size == (3, 3)
    assert small.features.stem.pool is None
    assert small(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert describe_model("resnet18", input_size=32, num_classes=10).parameters == 11_173_962
    large = create_model("resnet18", input_size=32, base_width=4, stem="imagenet", seed=0)
    assert large.features.stem.conv.kernel_size == (7, 7)
    assert large(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_twins_of_one_seed_have_the_same_weights():
    plain = create_model("plainnet18", base_width=8, seed=1).state_dict()
    residual = create_model("resnet18", base_width=8, seed=1).state_dict()
    assert all(torch.equal(plain[name], residual[name]) for name in plain)


def test_no_block_option():
    with pytest.raises(ConfigError, match=r"^resnet50 has no option 'block'; "):
        create_model("resnet50", block="basic")
