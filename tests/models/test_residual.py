from __future__ import annotations

import pytest
import torch

from deepprobe.errors import ConfigError
from deepprobe.models import create_model, describe_model, list_models
from deepprobe.models.blocks import PreActivationBasicBlock
from deepprobe.models.residual import find, is_legal, nearest_depths

PUBLISHED = {
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet1202": 19_421_274,
    "resnet164": 2_602_906,
    "plainnet164": 2_602_906,
    "resnext164": 2_475_354,
    "preresnet164": 1_704_154,
    "resnext29_8x64d": 34_426_698,
    "resnext29_16x64d": 68_155_210,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameters_are_those_of_the_papers(name, parameters):
    assert describe_model(name).parameters == parameters


def test_parameters_of_the_study_with_a_hundred_classes():
    assert describe_model("resnet164", num_classes=100).parameters == 2_608_756


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"depth": 29, "block": "bottleneck", "cardinality": 8, "width": 64, "base_width": 64}, "resnext29_8x64d"),
        ({"depth": 164, "block": "bottleneck", "cardinality": 4, "width": 8, "shortcut": "B"}, "resnext164"),
        ({"depth": 164, "preactivation": True, "block": "bottleneck"}, "preresnet164"),
        ({"depth": 164, "shortcut": "none"}, "plainnet164"),
    ],
)
def test_names_are_short_for_options(blueprint, options, name):
    spelt_out, named = blueprint("resnet", **options), blueprint(name)
    assert str(spelt_out) == str(named)


def test_parameters_of_any_basic_depth_follow_from_counting_by_hand():
    for n in (1, 2, 7, 27):
        convolutions = 9 * (3 * 16 + 2 * n * 16**2 + 16 * 32 + (2 * n - 1) * 32**2 + 32 * 64 + (2 * n - 1) * 64**2)
        normalisations = 2 * (16 + 2 * n * (16 + 32 + 64))
        expected = convolutions + normalisations + 64 * 10 + 10
        assert describe_model("resnet", depth=6 * n + 2).parameters == expected


@pytest.mark.parametrize(
    ("shortcut", "extra"),
    [
        ("A", 0),
        ("B", 16 * 32 + 32 * 64 + 2 * (32 + 64)),
        ("C", 3 * 16**2 + 16 * 32 + 2 * 32**2 + 32 * 64 + 2 * 64**2 + 2 * 3 * (16 + 32 + 64)),
    ],
)
def test_projections_add_their_convolutions_and_normalisations(shortcut, extra):
    plain = describe_model("plainnet20").parameters
    assert describe_model("resnet20", shortcut=shortcut).parameters == plain + extra


RUN = [
    *(("plainnet", depth) for depth in (8, 14, 26, 47, 50, 152)),
    *(("resnet", depth) for depth in (11, 29, 38, 50, 101)),
    *(("preresnet", depth) for depth in (8, 11, 29, 50)),
    *(("resnext", depth) for depth in (11, 38, 101)),
]


@pytest.mark.parametrize(("family", "depth"), RUN)
def test_depth_counts_the_weighted_layers_that_run(blueprint, run_depth, family, depth):
    assert run_depth(blueprint(family, depth=depth), (2, 3, 8, 8)) == (depth, (2, 10))


@pytest.mark.parametrize(("family", "rules"), [("resnet", (6, 9)), ("preresnet", (6, 9)), ("resnext", (9,))])
def test_every_legal_depth_up_to_1202_is_known_and_others_are_refused(family, rules):
    for depth in range(1203):
        if depth > 7 and any(depth > rule and depth % rule == 2 for rule in rules):
            entry = find(family)
            options = entry.parse({"depth": depth})
            assert 2 + sum(options.stages) * {"basic": 2, "bottleneck": 3}[options.block_kind] == depth
        elif depth < 20 or depth % 9 == 3:
            with pytest.raises(ConfigError):
                find(family).parse({"depth": depth})


SMALL = [n for n in list_models("*net*") if describe_model(n).input_size == 32]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if describe_model(n).depth > 1000 else []) for n in SMALL]
)
def test_listed_names_say_the_depth(blueprint, run_depth, name):
    depth = int("".join(c for c in name.split("_")[0] if c.isdigit()))
    assert run_depth(blueprint(name), (1, 3, 8, 8))[0] == depth == describe_model(name).depth


def test_a_basic_164_has_82_blocks():
    model = create_model("plainnet164", seed=0)
    names = [name for name, _ in model.features.named_children()]
    assert names == ["stem", "stage1", "stage2", "stage3"]
    assert 1 + sum(len(model.features.get_submodule(stage)) for stage in names[1:]) == 82


@pytest.mark.parametrize("size", [8, 14, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["plainnet8", "resnet14", "preresnet8", "resnext11"])
def test_all_image_sizes_and_channels(name, size, channels):
    model = create_model(name, num_classes=7, in_channels=channels, input_size=size, seed=0)
    sizes = []
    for stage in (model.features.stage1, model.features.stage2, model.features.stage3):
        stage.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.shape[-1]))
    assert model(torch.randn(3, channels, size, size)).shape == (3, 7)
    assert sizes == [size, -(-size // 2), -(-size // 4)]


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_combination_runs_backwards(shortcut, preactivation, block, batch_norm):
    options = {"shortcut": shortcut, "preactivation": preactivation, "block": block, "batch_norm": batch_norm}
    model = create_model("resnet", depth=20, base_width=4, seed=0, **options)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) == batch_norm
    assert (model.features.stem.conv.bias is None) == batch_norm


@pytest.mark.parametrize("family", ["resnet", "preresnet"])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_shortcut_scale_zero_computes_what_a_plainnet_does(family, shortcut):
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    residual = create_model(family, depth=20, shortcut=shortcut, seed=3)
    scaled = create_model(family, depth=20, shortcut=shortcut, shortcut_scale=0.0, seed=3)
    plain = create_model(family, depth=20, shortcut="none", seed=3)
    assert torch.equal(scaled(x), plain(x))
    assert not torch.allclose(residual(x), plain(x), rtol=0.1)


def test_shortcut_scale_multiplies_the_shortcut():
    block = create_model("resnet8", shortcut_scale=0.25, seed=0).features.stage1[0].eval()
    x = torch.randn(2, 16, 8, 8)
    branch = block.norm2(block.conv2(torch.relu(block.norm1(block.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(branch + 0.25 * x))


def test_plainnet_and_resnet_differ_in_nothing_but_the_shortcuts():
    plain, residual = create_model("plainnet164", seed=11), create_model("resnet164", seed=11)
    ours, theirs = plain.state_dict(), residual.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in residual.named_parameters()]
    modules = [(name, type(m)) for name, m in residual.named_modules() if "shortcut" not in name.split(".")]
    assert [(name, type(m)) for name, m in plain.named_modules()] == modules
    assert sum("shortcut" in name.split(".") for name, _ in residual.named_modules()) == 81


@pytest.mark.parametrize("shortcut", ["B", "C"])
def test_projections_leave_the_main_path_of_a_seed_alone(shortcut):
    plain = create_model("plainnet20", seed=5).state_dict()
    projected = create_model("resnet20", shortcut=shortcut, seed=5).state_dict()
    assert all(torch.equal(plain[name], projected[name]) for name in plain)
    assert len(projected) > len(plain)


def test_option_a_subsamples_and_appends_zero_channels():
    shortcut = create_model("resnet8", seed=0).features.stage2[0].shortcut
    x = torch.randn(2, 16, 7, 7)
    expected = torch.zeros(2, 32, 4, 4)
    for row in range(4):
        for column in range(4):
            expected[:, :16, row, column] = x[:, :, 2 * row, 2 * column]
    assert torch.equal(shortcut(x), expected)


def test_preactivation_is_that_of_identity_mappings():
    model = create_model("preresnet20", block="bottleneck", seed=0).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    images = torch.randn(2, 3, 8, 8)
    relu, stem = torch.relu, model.features.stem
    h = relu(stem.norm(stem.conv(images)))
    for stage in (model.features.stage1, model.features.stage2, model.features.stage3):
        for block in stage:
            a = h if block is model.features.stage1[0] else relu(block.norm1(h))
            branch = block.conv3(relu(block.norm3(block.conv2(relu(block.norm2(block.conv1(a)))))))
            changes = block is stage[0]
            h = branch + (block.shortcut.norm(block.shortcut.conv(a)) if changes else h)
    h = relu(model.features.stage3[-1].tail[0](h))
    torch.testing.assert_close(model(images), model.classifier(h.mean((2, 3))))


def test_published_choice_of_blocks():
    assert type(create_model("preresnet110").features.stage1[0]) is PreActivationBasicBlock
    kinds = {name: describe_model(name).description for name in ("resnet164", "preresnet164", "preresnet1001")}
    assert kinds == {
        "resnet164": "ResNet for small images: 3 × 27 basic blocks, shortcut A",
        "preresnet164": "Pre-activation ResNet for small images: 3 × 18 bottleneck blocks, shortcut B",
        "preresnet1001": "Pre-activation ResNet for small images: 3 × 111 bottleneck blocks, shortcut B",
    }


def test_activations_are_separate_and_not_in_place():
    model = create_model("resnet20", seed=0)
    relus = [m for m in model.modules() if isinstance(m, torch.nn.ReLU)]
    assert len(relus) == 19
    assert not any(m.inplace for m in relus)


def test_other_activations_take_the_place_of_relu():
    model = create_model("resnet8", activation="tanh", seed=0)
    assert sum(isinstance(m, torch.nn.Tanh) for m in model.modules()) == 7
    assert not any(isinstance(m, torch.nn.ReLU) for m in model.modules())


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_gamma_makes_every_branch_vanish(block):
    model = create_model("resnet", depth=20, block=block, zero_gamma=True, seed=0)
    block = model.features.stage1[-1]
    x = torch.randn(2, model.features.stage1[-1].conv1.in_channels, 8, 8).relu()
    assert torch.equal(block(x), x)
    assert create_model("resnet8", seed=0).features.stage1[0].norm2.weight.eq(1).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet",
            {"depth": 21},
            "resnet: depth=21 is not 6n+2 (basic blocks) or 9n+2 (bottlenecks) between 8 and 1202; "
            "the nearest: 20 and 26",
        ),
        (
            "resnet",
            {"depth": 18},
            "resnet: depth=18 is not 6n+2 (basic blocks) or 9n+2 (bottlenecks) between 8 and 1202; "
            "the nearest: 14 and 20 (the ImageNet network is called by its name, 'resnet18')",
        ),
        (
            "resnet",
            {"depth": 29, "block": "basic"},
            "resnet: depth=29 is not 6n+2 (basic blocks) between 8 and 1202; the nearest: 26 and 32",
        ),
        ("resnet", {}, "resnet: the option depth is needed"),
        ("resnet", {"depth": 20.0}, "resnet: depth=20.0: Input should be a valid integer"),
        ("resnet20", {"shortcut": "D"}, "resnet20: shortcut='D': Input should be 'none', 'A', 'B' or 'C'"),
        ("resnet20", {"block": "basic", "cardinality": 2}, "resnet20: cardinality=2 needs bottleneck blocks"),
        (
            "resnet20",
            {"block": "basic", "width": 2},
            "resnet20: width=2 needs bottleneck blocks; base_width sets that of basic ones",
        ),
        (
            "resnet20",
            {"cardinality": 3},
            "resnet20: base_width=16 is not divisible by cardinality=3",
        ),
        (
            "plainnet20",
            {"zero_gamma": True},
            "plainnet20: zero_gamma needs batch_norm, post-activation and a shortcut; nothing could learn otherwise",
        ),
        ("resnet20", {"shortcut_scale": float("nan")}, "resnet20: shortcut_scale=nan: Input should be a finite number"),
        (
            "plainnet20",
            {"shortcut": "A"},
            "shortcut='A' contradicts the name 'plainnet20', which means shortcut='none'; "
            "leave the option out or take another name",
        ),
    ],
)
def test_impossible_options(name, options, message):
    with pytest.raises(ConfigError) as caught:
        create_model(name, **options)
    assert str(caught.value) == message


def test_legal_depths():
    assert [d for d in range(-10, 50) if is_legal(d, "basic")] == [8, 14, 20, 26, 32, 38, 44]
    assert [d for d in range(-10, 50) if is_legal(d, "bottleneck")] == [11, 20, 29, 38, 47]
    assert is_legal(1202, "basic")
    assert not is_legal(1208, "basic")
    assert nearest_depths(0, ("basic",)) == [8]
    assert nearest_depths(10**9, ("bottleneck",)) == [1199]


def test_grouped_bottleneck_is_that_of_the_papers():
    block = create_model("resnext11", seed=0).features.stage2[0]
    assert [m.groups for m in (block.conv1, block.conv2, block.conv3)] == [1, 4, 1]
    assert [m.stride for m in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]
    x = torch.randn(2, 64, 8, 8)
    groups = torch.relu(block.norm1(block.conv1(x))).chunk(4, dim=1)
    kernels = block.conv2.weight.chunk(4)
    grouped = torch.cat(
        [torch.nn.functional.conv2d(g, k, stride=2, padding=1) for g, k in zip(groups, kernels, strict=True)], dim=1
    )
    branch = block.norm3(block.conv3(torch.relu(block.norm2(grouped))))
    torch.testing.assert_close(block(x), torch.relu(branch + block.shortcut.norm(block.shortcut.conv(x))))


def test_gradients_explode_towards_the_input_of_a_deep_plainnet_alone():
    images = torch.randn(32, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 10
    ratios = {}
    for name in ("plainnet110", "resnet110"):
        model = create_model(name, seed=0)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        first, last = model.features.stage1[0].conv1.weight.grad, model.features.stage3[-1].conv2.weight.grad
        ratios[name] = (first.norm() / last.norm()).item()
    assert ratios["plainnet110"] > 1e4
    assert ratios["resnet110"] < 100
