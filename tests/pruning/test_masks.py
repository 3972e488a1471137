"""Masks: exact counts, zeros that stay zeros, files that fit one network only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deepprobe import create_model
from deepprobe.errors import ConfigError, RunError, ShapeError, UnknownNameError
from deepprobe.pruning import Masks
from deepprobe.pruning.prunable import prunable, rates_of


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def drawn(model, *, share=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Masks({n: torch.rand(p.shape, generator=generator) < share for n, p in prunable(model).items()})


def test_only_kernels_can_be_pruned():
    assert list(prunable(net())) == ["0.weight", "4.weight"]
    model = create_model("resnet20")
    names = list(Masks.dense(model))
    assert len(names) == 20
    assert not any(model.get_parameter(name).ndim < 2 for name in names)


def test_counts_density_and_table_agree_with_numpy():
    model = net()
    masks = drawn(model)
    arrays = masks.arrays()
    assert masks.n_kept == sum(int(a.sum()) for a in arrays.values())
    assert masks.n_weights == 36 + 1440
    assert masks.density == masks.n_kept / masks.n_weights
    table = masks.table()
    assert table["layer"].tolist() == ["0", "4"]
    assert table["n_kept"].tolist() == [int(a.sum()) for a in arrays.values()]
    np.testing.assert_allclose(table["density"], [a.mean() for a in arrays.values()])


def test_what_is_protected_is_not_counted():
    assert list(Masks.dense(net(), protect=("4",))) == ["0.weight"]
    with pytest.raises(UnknownNameError, match="'head' matches no layer with prunable weights; there are 0, 4"):
        Masks.dense(net(), protect=("head",))
    with pytest.raises(ConfigError, match="nothing can be pruned"):
        Masks.dense(net(), protect=("*",))
    with pytest.raises(UnknownNameError):
        Masks.dense(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)))


def test_rates_go_to_the_layers_that_a_glob_takes_and_output_is_the_last():
    names = ["fc1.weight", "fc2.weight", "head.weight"]
    assert rates_of(names, {"fc*": 2, "output": 0.5}) == {"fc1.weight": 2, "fc2.weight": 2, "head.weight": 0.5}
    with pytest.raises(UnknownNameError, match="rates: 'conv'"):
        rates_of(names, {"conv": 1})
    with pytest.raises(ConfigError, match="fc1=-1"):
        rates_of(names, {"fc1": -1})


def test_applying_zeroes_what_is_removed_even_nan_and_nothing_else():
    model = net()
    masks = drawn(model)
    with torch.no_grad():
        model[0].weight[~masks["0.weight"]] = torch.nan
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    masks.apply(model)
    for name, parameter in model.named_parameters():
        kept = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter[kept], before[name][kept])
        assert parameter[~kept].eq(0).all()


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "adamw"])
def test_removed_weights_stay_zero_through_updates_and_others_are_trained(kind):
    torch.manual_seed(0)
    model = net()
    make = {"sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01),
            "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
            "adam": lambda p: torch.optim.Adam(p, 0.01), "adamw": lambda p: torch.optim.AdamW(p, 0.01)}  # fmt: skip
    optimizer = make[kind](model.parameters())
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 10

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(3):
        step()
    masks = drawn(model)
    with masks.attach(optimizer, model):
        for name, parameter in masks.parameters_of(model).items():
            for state in optimizer.state[parameter].values():
                if isinstance(state, torch.Tensor) and state.shape == parameter.shape:
                    assert state[~masks[name]].eq(0).all()
                    assert state[masks[name]].ne(0).any()
        for _ in range(5):
            step()
            assert all(p[~masks[n]].eq(0).all() for n, p in masks.parameters_of(model).items())
    assert all(p[masks[n]].ne(0).all() for n, p in masks.parameters_of(model).items())
    step()  # no longer held
    revived = [p[~masks[n]].ne(0).any() for n, p in masks.parameters_of(model).items()]
    assert all(revived)


@pytest.mark.parametrize("way", ["fused", "foreach", "for each"])
@pytest.mark.parametrize("kind", ["Adam", "AdamW", "amsgrad", "SGD"])
def test_weights_that_the_optimizer_holds_are_those_of_the_product(kind, way):
    """To the bit, from the first step, with weight decay, and when the optimizer's state is put in anew."""
    x, y, found = torch.randn(16, 1, 8, 8), torch.arange(16) % 10, []
    options = {"lr": 0.01, "weight_decay": 0.1, "fused": way == "fused", "foreach": way == "foreach"}
    options |= {"momentum": 0.9} if kind == "SGD" else {"amsgrad": kind == "amsgrad"}
    for freeze in (False, True):
        torch.manual_seed(0)
        model = net()
        masks, optimizer = drawn(model), getattr(torch.optim, kind.replace("amsgrad", "Adam"))(
            model.parameters(), **options
        )  # fmt: skip
        with masks.attach(optimizer, model, freeze=freeze):
            for i in range(8):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
                assert all(p[~masks[n]].eq(0).all() for n, p in masks.parameters_of(model).items())
                if i == 3:
                    masks.clear(optimizer, model)
                    optimizer.load_state_dict(optimizer.state_dict())
                    for state in optimizer.state.values():  # as if they came from a file
                        state.update({k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)})
        masks.clear(optimizer, model)
        assert all(v.isfinite().all() for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))
        found.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_optimizer_of_another_copy_is_refused():
    model = net()
    with pytest.raises(ConfigError, match="trains none of the 2 masked parameters"):
        drawn(model).attach(torch.optim.SGD(net().parameters(), 0.1), model)


def test_masks_of_another_network_are_refused(tmp_path):
    masks = drawn(net())
    with pytest.raises(ShapeError, match=r"'0.weight', of shape \(4, 1, 3, 3\), is of shape"):
        masks.apply(nn.Sequential(nn.Conv2d(1, 5, 3), nn.Linear(2, 2)))
    with pytest.raises(ShapeError, match="is not there"):
        masks.apply(nn.Linear(3, 3))
    masks.save(tmp_path / "m.safetensors")
    assert Masks.load(tmp_path / "m.safetensors", net()) == masks
    with pytest.raises(RunError, match=r"the masks of .*m.safetensors are not of this Linear: '0.weight'"):
        Masks.load(tmp_path / "m.safetensors", nn.Linear(3, 3))


def test_masks_are_equal_by_content_and_refuse_what_is_no_mask():
    model = net()
    assert drawn(model) == drawn(model)
    assert drawn(model) != drawn(model, seed=1)
    with pytest.raises(ShapeError, match="must be a bool tensor, not"):
        Masks({"weight": torch.ones(3)})
    with pytest.raises(ShapeError, match="there are no masks"):
        Masks({})
    assert repr(Masks.dense(model)) == "Masks(2 layers, 1,476 of 1,476 weights kept, 100.00%)"


def test_shared_weights_have_one_mask():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert list(Masks.dense(model)) == ["0.weight"]


def test_zeros_keep_their_sign():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.0, -3.0]]))
    Masks({"weight": torch.tensor([[False, False]])}).apply(model)
    assert model.weight.eq(0).all()
    assert torch.signbit(model.weight).tolist() == [[True, False]]


def test_scales_and_biases_of_several_axes_are_no_kernels():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LayerNorm([4, 6, 6]), nn.Flatten(), nn.Linear(144, 10))
    assert list(Masks.dense(model)) == ["0.weight", "3.weight"]
    attention = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2, add_bias_kv=True)})
    assert list(Masks.dense(attention)) == ["a.in_proj_weight", "a.out_proj.weight"]
