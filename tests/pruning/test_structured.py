"""Whole channels: which go, and that the smaller network is the masked one without them."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepprobe.errors import ConfigError, MissingPackageError, NonFiniteError, UnknownNameError
from deepprobe.models import create_model
from deepprobe.pruning.channels import channel_groups
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.structured import prune_channels, smaller


def stirred(model: nn.Module, seed: int = 0) -> nn.Module:
    """A network whose normalisation does something, as after training."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6 * 4, 5),
    )  # fmt: skip
    stirred(net)
    return net


IMAGES = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(5))


def test_the_filters_of_least_mean_magnitude_go_with_all_that_reads_them() -> None:
    net = chain()
    first = net[0].weight.detach().abs().mean((1, 2, 3)).argsort()[:2].tolist()
    second = net[3].weight.detach().abs().mean((1, 2, 3)).argsort()[:2].tolist()
    state = copy.deepcopy(net.state_dict())
    masks = prune_channels(net, IMAGES, fraction=0.3)  # 8 · 0.7 and 6 · 0.7: 6 and 4 stay
    expected = {"0.weight": torch.ones(8, 2, 3, 3), "3.weight": torch.ones(6, 8, 3, 3), "7.weight": torch.ones(5, 24)}
    expected["0.weight"][first] = 0
    expected["3.weight"][:, first] = 0
    expected["3.weight"][second] = 0
    expected["7.weight"].view(5, 6, 4)[:, second] = 0
    assert masks == Masks({name: mask.bool() for name, mask in expected.items()})
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name] * masks[name] if name in masks else state[name])


def test_the_smaller_network_is_the_masked_one_cut_by_hand() -> None:
    net = chain()
    net[0].bias.requires_grad_(False)
    net.train()
    masks = prune_channels(net, IMAGES, fraction=0.3)
    small = smaller(net, IMAGES)
    a = masks["0.weight"].any((1, 2, 3))  # rows that are left: magnitudes here are never 0
    b = masks["3.weight"].any((1, 2, 3))
    assert torch.equal(small[0].weight, net[0].weight[a])
    assert torch.equal(small[0].bias, net[0].bias[a])
    assert torch.equal(small[1].running_var, net[1].running_var[a])
    assert torch.equal(small[3].weight, net[3].weight[b][:, a])
    assert torch.equal(small[7].weight.view(5, -1, 4), net[7].weight.view(5, 6, 4)[:, b])
    assert (small[0].out_channels, small[1].num_features, small[3].in_channels, small[7].in_features) == (6, 6, 6, 16)
    assert [name for name, p in small.named_parameters() if not p.requires_grad] == ["0.bias"]
    assert small.training
    for mode in (True, False):  # batch statistics are per channel, so the function is one in both modes
        torch.testing.assert_close(small.train(mode)(IMAGES), net.train(mode)(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "allocation"),
    [
        ("plainnet8", 8, "layerwise"),
        ("resnet8", 8, "global"),  # option A: shortcuts widened by zeros
        ("preresnet20", 8, "layerwise"),
        ("lenet5", 28, "layerwise"),
        pytest.param("resnet20", 8, "layerwise", marks=pytest.mark.slow),
        pytest.param("plainnet20", 8, "global", marks=pytest.mark.slow),
        pytest.param("vgg11_bn", 32, "layerwise", marks=pytest.mark.slow),
        pytest.param("resnet18", 32, "global", marks=pytest.mark.slow),
        pytest.param("resnext29", 8, "layerwise", marks=pytest.mark.slow),
    ],
)
def test_smaller_networks_of_the_zoo_compute_the_same(name: str, size: int, allocation: str) -> None:
    net = stirred(create_model(name, num_classes=10, in_channels=3, input_size=size, seed=0))
    images = torch.randn(4, 3, size, size)
    dense = net(images)
    prune_channels(net, images[:1], allocation=allocation, fraction=0.5)
    small = smaller(net, images[:1])
    masked = net(images)
    scale = float(masked.detach().abs().max())
    assert not torch.allclose(dense, masked, rtol=0.1, atol=0.1 * scale)
    torch.testing.assert_close(small(images), masked, rtol=1e-4, atol=1e-5 * scale)
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in net.parameters())
    assert all(bool((p != 0).any()) for p in small.parameters() if p.ndim > 1)


def test_global_counts_are_exact_and_one_channel_stays() -> None:
    net = chain()
    with torch.no_grad():
        net[3].weight.mul_(1e-3)
    masks = prune_channels(net, IMAGES, allocation="global", fraction=0.5)
    left = [int(masks[name].any((1, 2, 3)).sum()) for name in ("0.weight", "3.weight")]
    assert left == [6, 1]
    again = prune_channels(net, IMAGES, fraction=0.99, masks=masks)
    assert [int(again[name].any((1, 2, 3)).sum()) for name in ("0.weight", "3.weight")] == [1, 1]
    assert prune_channels(net, IMAGES, fraction=0.99, masks=again) == again
    assert smaller(net, IMAGES)[3].weight.shape == (1, 1, 3, 3)


def test_depthwise_convolutions_pass_channels_on() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 4))
    masks = prune_channels(net, IMAGES, fraction=0.5)
    assert [int(masks[f"{i}.weight"].any((1, 2, 3)).sum()) for i in (0, 1)] == [4, 4]
    small = smaller(net, IMAGES)
    assert small[1].groups == 4
    torch.testing.assert_close(small(IMAGES), net(IMAGES))


def test_protected_layers_lose_no_channel_in_or_out() -> None:
    net = chain()
    masks = prune_channels(net, IMAGES, fraction=0.5, protect=["7"])
    assert list(masks) == ["0.weight", "3.weight"]
    assert bool(masks["3.weight"].any((1, 2, 3)).all()), "its rows are what the protected layer reads"
    assert smaller(net, IMAGES)[7].weight.shape == (5, 24)


def test_a_network_without_dead_channels_stays_as_it_is() -> None:
    net = chain()
    small = smaller(net, IMAGES)
    assert small is not net
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), net.state_dict().values(), strict=True))


class Mixing(nn.Module):
    """Does with its channels what nobody can follow."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.Linear(8, 3)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.how == "group":
            x = self.norm(x)
        if self.how == "flip":
            x = x.flip(1)
        if self.how == "view":
            x = x.view(-1, 8)
        if self.how == "softmax":
            x = F.softmax(x, dim=1)
        return self.second(x)


def test_channels_that_cannot_go_stay() -> None:
    net, x = Mixing("group"), torch.randn(2, 6)
    assert channel_groups(net, x) == []
    with pytest.raises(ConfigError, match=r"this Mixing has no channels that can be removed; protect=\[\]"):
        prune_channels(net, x)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("flip", "Mixing with fewer channels computes another function"),
        ("softmax", "Mixing with fewer channels computes another function"),
        ("view", "Mixing does not run with fewer channels"),
    ],
)
def test_a_function_that_would_change_is_an_error(how: str, text: str) -> None:
    torch.manual_seed(0)
    net, x = Mixing(how), torch.randn(4, 6)
    with torch.no_grad():
        net.second.weight[:, :3] = 0
    with pytest.raises(ConfigError, match=text):
        smaller(net, x)


def test_bad_input() -> None:
    with pytest.raises(UnknownNameError, match="protect: 'fc' matches no layer"):
        prune_channels(chain(), IMAGES, protect=["fc"])
    with pytest.raises(ConfigError, match="fraction=1: a share of the weights lies between 0 and 1"):
        prune_channels(chain(), IMAGES, fraction=1)
    with pytest.raises(UnknownNameError, match="criterion='magnitud' is not a criterion"):
        prune_channels(chain(), IMAGES, "magnitud")
    with pytest.raises(ConfigError, match="Torch-Pruning cannot follow this Sequential: "):
        prune_channels(chain(), torch.randn(1, 3, 6, 6))


def test_a_score_that_is_nan_is_no_best_one() -> None:
    net = chain()
    with torch.no_grad():
        net[0].weight[2] = torch.nan
    with pytest.raises(NonFiniteError, match="1 scores of '0' are NaN"):
        prune_channels(net, IMAGES)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'deepprobe\[structured\]'"):
        prune_channels(chain(), IMAGES)
