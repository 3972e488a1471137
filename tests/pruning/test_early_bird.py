"""Mask distance over training: against NumPy's sort, and the same after an interruption."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.pruning import Masks, random_masks
from deepprobe.pruning.early_bird import FOLDER, EarlyBirdCallback, mask_distance
from deepprobe.pruning.enforcement import MaskedTraining
from deepprobe.records.step import every
from deepprobe.runs import open_run
from deepprobe.training import TrainConfig, train

CONFIG = TrainConfig(
    epochs=4, batch_size=75, lr=0.1, momentum=0.9, validation_share=0.0, checkpoint_every="3it", device="cpu"
)  # 4 updates an epoch
LOOKS = "2it"


def distances(run):
    """Every distance recorded: (step, measure, value)."""
    rows = run.records()
    rows = rows[rows["measure"].str.contains("mask_distance")]
    return list(rows[["step", "measure", "value"]].itertuples(index=False, name=None))


def stopping(step):
    """A callback that fails at a step, as a process that dies there."""

    def fail(context):
        if context.step.index == step:
            raise RuntimeError("killed")

    return every("1it", also_at_start=True)(fail)


def removed_by_sort(model, fraction):
    """The lowest magnitudes of all layers by NumPy's sort, as one row of flags."""
    weights = [p.detach().abs().flatten().double() for n, p in model.named_parameters() if p.ndim > 1]
    flat = torch.cat(weights).numpy()
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[: flat.size - round(flat.size * (1 - fraction))]] = False
    return kept


def test_distances_are_those_of_masks_drawn_by_a_sort(net, digits):
    drawn = {}

    def look(context):
        drawn[context.step.index] = removed_by_sort(context.model, 0.6)

    callbacks = [EarlyBirdCallback(LOOKS, fraction=0.6, n_masks=3), every(LOOKS, also_at_start=True)(look)]
    run = train(net(), digits[0], config=CONFIG, callbacks=callbacks, quiet=True)
    steps, expected = list(drawn), []
    for i, step in enumerate(steps[1:], start=1):
        found = [float(np.mean(drawn[step] != drawn[other])) for other in steps[max(i - 2, 0) : i]]
        expected += [(step, "mask_distance", found[-1])]
        expected += [(step, "largest_mask_distance", max(found))] if len(found) == 2 else []
    assert distances(run) == expected
    assert max(value for *_, value in expected) > 0.01


@pytest.mark.parametrize("killed_at", [0, 5, 6, 8, 13])
def test_distances_after_an_interruption_are_those_without(net, digits, tmp_path, killed_at):
    def go(name, *more):
        callbacks = [EarlyBirdCallback(LOOKS, n_masks=4), *more]
        return train(net(), digits[0], config=CONFIG, callbacks=callbacks, out=tmp_path / name, quiet=True)

    whole = go("whole")
    with pytest.raises(RuntimeError, match="killed"):
        go("resumed", stopping(killed_at))
    assert open_run(tmp_path / "resumed").status == "running"
    assert distances(go("resumed")) == distances(whole)


def test_in_the_run_of_a_ticket_masks_are_drawn_among_its_weights(net, digits, tmp_path):
    model, drawn = net(), []
    ticket = random_masks(Masks({n: torch.rand(m.shape) < 0.4 for n, m in Masks.dense(model).items()}), seed=0)

    def look(context):
        kept = torch.cat([context.model.get_parameter(n).detach()[mask].abs() for n, mask in ticket.items()])
        drawn.append(kept >= kept.sort().values[-round(len(kept) / 2)])

    looking = every(LOOKS, also_at_start=True)(look)
    callbacks = [MaskedTraining(ticket, start=0, freeze=True), EarlyBirdCallback(LOOKS), looking]
    run = train(model, digits[0], config=CONFIG, callbacks=callbacks, out=tmp_path / "r", quiet=True)
    expected = [float((one != other).double().mean()) for one, other in pairwise(drawn)]
    assert [v for _, measure, v in distances(run) if measure == "mask_distance"] == pytest.approx(expected)


def test_one_callback_serves_two_runs(net, digits):
    callback = EarlyBirdCallback(LOOKS)
    runs = [train(net(), digits[0], config=CONFIG, callbacks=[callback], quiet=True) for _ in range(2)]
    assert distances(runs[0]) == distances(runs[1])


def test_only_masks_that_some_checkpoint_needs_stay_in_the_run(net, digits, tmp_path):
    callback = EarlyBirdCallback("1it", n_masks=3)
    train(net(), digits[0], config=CONFIG, callbacks=[callback], out=tmp_path / "r", keep=["6it"], quiet=True)
    run = open_run(tmp_path / "r")
    assert [name[-20:] for name in run.files("checkpoints")] == [f"step-{s:012d}.pt" for s in (6, 15, 16)]
    assert [int(name[-24:-12]) for name in run.files(FOLDER)] == [5, 6, 11, 12, 14, 15, 16]
    assert sorted(p.name for p in (run.path / FOLDER).iterdir()) == [name.split("/")[1] for name in run.files(FOLDER)]


def test_the_network_and_its_training_are_as_without(net, digits):
    models = [net(), net()]
    for model, callbacks in zip(models, ([], [EarlyBirdCallback(LOOKS)]), strict=True):
        train(model, digits[0], config=CONFIG, callbacks=callbacks, quiet=True)
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_distance_of_random_masks_is_what_chance_gives():
    generator = torch.Generator().manual_seed(0)
    one, other = (Masks({"weight": torch.rand(400, 500, generator=generator) < 0.3}) for _ in range(2))
    assert mask_distance(one, other) == pytest.approx(2 * 0.3 * 0.7, abs=0.005)
    assert mask_distance(one, one) == 0
    assert mask_distance(one, other, among=one) == pytest.approx(0.7, abs=0.005)


def test_what_does_not_fit_is_refused():
    masks = Masks({"weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(ShapeError, match="of two networks"):
        mask_distance(masks, Masks({"weight": torch.ones(2, 3, dtype=torch.bool)}))
    with pytest.raises(ConfigError, match=r"fraction=1\.0: a share of the weights lies between 0 and 1"):
        EarlyBirdCallback(fraction=1.0)
    with pytest.raises(ConfigError, match="n_masks=1"):
        EarlyBirdCallback(n_masks=1)
    with pytest.raises(ConfigError, match="is no schedule"):
        EarlyBirdCallback("often")
