"""Control masks: exact counts by tensor and by output unit, anywhere, the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from deepprobe.errors import ShapeError
from deepprobe.pruning import Masks
from deepprobe.pruning.controls import random_masks, shuffled_masks


def ticket(model, *, share=0.3, seed=0):
    """Masks that keep about a share, unevenly over output units."""
    generator = torch.Generator().manual_seed(seed)
    dense = Masks.dense(model)
    return Masks({name: torch.rand(mask.shape, generator=generator) ** 2 < share for name, mask in dense.items()})


def layers():
    """Every kind of kernel whose output axis differs, ungrouped and grouped."""
    return nn.ModuleDict(
        {
            "linear": nn.Linear(7, 5),
            "conv": nn.Conv2d(6, 8, 3),
            "grouped": nn.Conv2d(6, 8, 3, groups=2),
            "depthwise": nn.Conv1d(6, 12, 5, groups=6),
            "transposed": nn.ConvTranspose2d(6, 8, 3),
            "transposed_grouped": nn.ConvTranspose2d(6, 8, 3, groups=2),
            "volume": nn.ConvTranspose3d(4, 6, 2, groups=2),
        }
    )


def reads_of_unit(layer, unit):
    """Which entries of a kernel one output reads, by autograd: those whose gradient is not zero."""
    size = (7,) if isinstance(layer, nn.Linear) else (layer.in_channels, *layer.kernel_size)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    out = layer(torch.rand(1, *size) + 1)
    (gradient,) = torch.autograd.grad(out[:, unit].sum(), layer.weight)
    return gradient != 0


def test_random_masks_keep_the_count_of_every_tensor_and_move():
    masks = ticket(layers())
    found = random_masks(masks, seed=3)
    assert {name: int(np.sum(mask.numpy())) for name, mask in found.items()} == masks.counts
    assert all(not torch.equal(found[name], masks[name]) for name in masks)
    assert list(found) == list(masks)


def test_shuffled_masks_keep_the_connections_of_every_output_unit_as_autograd_sees_them():
    model = layers()
    masks = ticket(model)
    found = shuffled_masks(masks, model, seed=3)
    for name, layer in model.items():
        before, after = masks[f"{name}.weight"], found[f"{name}.weight"]
        assert before.shape == after.shape
        assert not torch.equal(before, after)
        outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        counts = [int(before[reads_of_unit(layer, unit)].sum()) for unit in range(outputs)]
        assert [int(after[reads_of_unit(layer, unit)].sum()) for unit in range(outputs)] == counts
        assert len(set(counts)) > 1, "a ticket whose units all read as much would prove nothing"


def test_the_first_axis_is_not_the_output_of_a_transposed_convolution():
    model = nn.Sequential(nn.ConvTranspose2d(6, 8, 3, groups=2))
    masks = ticket(model)
    rows = masks["0.weight"].flatten(1)  # the naive way: shuffle each entry of the first axis
    order = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)).argsort(1)
    naive = rows.gather(1, order).reshape(6, 4, 3, 3)

    def counts(mask):
        return [int(mask[reads_of_unit(model[0], unit)].sum()) for unit in range(8)]

    assert counts(naive) != counts(masks["0.weight"])
    assert counts(shuffled_masks(masks, model, seed=0)["0.weight"]) == counts(masks["0.weight"])


@pytest.mark.parametrize("how", ["random", "shuffled"])
def test_every_place_is_as_probable_as_any_other(how):
    model = nn.Sequential(nn.Conv2d(4, 2, 2))
    masks = Masks({"0.weight": torch.arange(32).reshape(2, 4, 2, 2) % 16 < torch.tensor([4, 8]).reshape(2, 1, 1, 1)})
    n_draws = 400
    hits = torch.zeros(2, 4, 2, 2)
    for seed in range(n_draws):
        found = random_masks(masks, seed=seed) if how == "random" else shuffled_masks(masks, model, seed=seed)
        hits += found["0.weight"]
    kept = torch.full((2, 1, 1, 1), 12 / 32) if how == "random" else torch.tensor([4 / 16, 8 / 16]).reshape(2, 1, 1, 1)
    statistic = (((hits - n_draws * kept) ** 2) / (n_draws * kept * (1 - kept))).sum().item()
    low, high = chi2.ppf([1e-4, 1 - 1e-4], df=30)
    assert low < statistic < high


def test_a_tensor_gets_the_same_places_whatever_else_is_masked_and_another_seed_others():
    model = layers()
    masks = ticket(model)
    alone = Masks({"grouped.weight": masks["grouped.weight"]})
    for control in (lambda m, s: random_masks(m, seed=s), lambda m, s: shuffled_masks(m, model, seed=s)):
        before = torch.random.get_rng_state()
        assert torch.equal(control(masks, 1)["grouped.weight"], control(alone, 1)["grouped.weight"])
        assert control(masks, 1) == control(masks, 1)
        assert control(masks, 1) != control(masks, 2)
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kept", [0, 35])
def test_all_or_nothing_stays_all_or_nothing(kept):
    model = nn.Linear(7, 5)
    masks = Masks({"weight": torch.full((5, 7), kept > 0)})
    assert random_masks(masks, seed=0) == masks == shuffled_masks(masks, model, seed=0)


def test_masks_of_another_model_are_refused():
    with pytest.raises(ShapeError, match="the masks are not of this Linear"):
        shuffled_masks(Masks.dense(nn.Linear(3, 3)), nn.Linear(4, 4), seed=0)


def test_a_layer_without_weights_is_left_as_it_is():
    with pytest.warns(UserWarning, match="zero-element"):
        net = nn.Sequential(nn.Linear(0, 3), nn.Linear(3, 2))
    masks = Masks.dense(net)
    assert shuffled_masks(masks, net, seed=0) == masks
