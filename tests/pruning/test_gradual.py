"""Gradual pruning: the formula, exact counts, removed weights at zero, the same bits after an interruption."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from deepprobe.errors import ConfigError, UnknownNameError
from deepprobe.pruning import Masks
from deepprobe.pruning.gradual import FOLDER, CubicSchedule, GradualPruningCallback
from deepprobe.records.step import Step, every
from deepprobe.runs import open_run
from deepprobe.training import TrainConfig, load_checkpoint, train

CONFIG = TrainConfig(
    epochs=4, batch_size=75, lr=0.1, momentum=0.9, weight_decay=1e-3, validation_share=0.0, checkpoint_every="3it",
    device="cpu",
)  # fmt: skip
"""4 updates an epoch."""
WHEN = "2it..3ep/2it"


def zhu_gupta(t, *, s_f, t_0, n, delta, s_i=0.0):
    """Eq. (1) as it is printed."""
    return s_f + (s_i - s_f) * (1 - (t - t_0) / (n * delta)) ** 3


def watch(seen):
    """A callback that keeps each step's weights."""

    def look(context):
        seen[context.step.index] = {name: p.detach().clone() for name, p in context.model.named_parameters()}

    return every("1it", also_at_start=True)(look)


def stopping(step):
    """A callback that fails at a step, as a process that dies there."""

    def fail(context):
        if context.step.index == step:
            raise RuntimeError("killed")

    return every("1it", also_at_start=True)(fail)


def test_shares_are_those_of_the_formula():
    schedule = CubicSchedule.parse("100it..2ep/10it")
    for t in range(100, 301, 10):
        share = schedule.share(Step(t, iterations_per_epoch=150))
        assert float(share) * 0.8 == pytest.approx(zhu_gupta(t, s_f=0.8, t_0=100, n=20, delta=10), abs=1e-12)
    due = [t for t in range(400) if schedule.is_due(Step(t, iterations_per_epoch=150))]
    assert due == list(range(110, 301, 10))
    assert [float(schedule.share(Step(t, iterations_per_epoch=150))) for t in (0, 400)] == [0, 1]
    odd = CubicSchedule.parse("0it..10it/4it")
    assert [t for t in range(20) if odd.is_due(Step(t, iterations_per_epoch=5))] == [4, 8, 10]


@pytest.mark.parametrize("allocation", ["global", "layerwise"])
def test_every_point_has_the_exact_count_and_what_is_removed_stays_removed(net, digits, allocation):
    model, seen = net(), {}
    rates = {"output": 0.5} if allocation == "layerwise" else None
    pruning = GradualPruningCallback(WHEN, fraction=0.83, allocation=allocation, rates=rates, protect=["conv1"])
    run = train(model, digits[0], config=CONFIG, callbacks=[pruning, watch(seen)], quiet=True)
    sizes = {name: model.get_parameter(name).numel() for name in ("conv2.weight", "classifier.weight")}
    if allocation == "global":
        sizes = {"all": sum(sizes.values())}
    last = {
        name: round(n * (1 - Fraction("0.83") * Fraction(1, 2 if "cl" in name else 1))) for name, n in sizes.items()
    }
    for t, weights in seen.items():
        at = min(max(t - t % 2, 2), 12)  # the last point of the schedule
        share = zhu_gupta(Fraction(at), s_f=1, t_0=2, n=5, delta=2, s_i=0)
        kept = {name: int(weights[name].count_nonzero()) for name in ("conv2.weight", "classifier.weight")}
        kept = {"all": sum(kept.values())} if allocation == "global" else kept
        assert kept == {name: n - round((n - last[name]) * share) for name, n in sizes.items()}
        assert weights["conv1.weight"].count_nonzero() == 72
        if t:
            gone = seen[t - 1]["conv2.weight"] == 0
            assert weights["conv2.weight"][gone].count_nonzero() == 0
    assert pruning.masks.n_kept == sum(last.values())
    rows = run.metrics().query("measure == 'density'")
    assert rows["step"].tolist() == [4, 6, 8, 10, 12]
    assert rows["value"].iloc[-1] == sum(last.values()) / sum(sizes.values())


def test_the_lowest_magnitudes_go(net, digits):
    """Removed at a step are the lowest of what was there before, by NumPy's sort."""
    model, seen, before = net(), {}, {}
    callbacks = [watch(before), GradualPruningCallback(WHEN, fraction=0.8), watch(seen)]
    train(model, digits[0], config=CONFIG, callbacks=callbacks, quiet=True)
    for t in (4, 8, 12):
        flat, after = (
            np.concatenate([w.abs().flatten().numpy() for n, w in at[t].items() if w.ndim > 1]) for at in (before, seen)
        )
        n_kept = np.count_nonzero(after)
        assert n_kept < np.count_nonzero(flat)
        assert set(np.flatnonzero(after)) == set(np.argsort(-flat, kind="stable")[:n_kept])


@pytest.mark.parametrize(("optimizer", "killed_at"), [("sgd", 1), ("sgd", 7), ("adam", 8), ("adamw", 9), ("adam", 15)])
def test_interrupted_training_goes_on_to_the_same_bits(net, digits, tmp_path, optimizer, killed_at):
    config = replace(CONFIG, optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 0.01, clip_norm=1.0)

    def go(name, *more):
        model, pruning = net(), GradualPruningCallback(WHEN, fraction=0.8)
        run = train(model, digits[0], config=config, callbacks=[pruning, *more], out=tmp_path / name, quiet=True)
        return model, pruning.masks, run

    whole, masks, run = go("whole")
    with pytest.raises(RuntimeError, match="killed"):
        go("resumed", stopping(killed_at))
    resumed, masks_again, run_again = go("resumed")
    assert masks_again == masks
    assert masks.n_kept == round(masks.n_weights * 0.2)
    states = [model.state_dict() for model in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    last = [load_checkpoint(r.check(r.files("checkpoints")[-1])).training for r in (run, run_again)]
    for first, second in zip(*(one["optimizer"]["state"].values() for one in last), strict=True):
        assert all(torch.equal(torch.as_tensor(first[k]), torch.as_tensor(second[k])) for k in first)
    tables = [r.metrics().query("not measure.str.contains('second')") for r in (run, run_again)]
    assert tables[0]["value"].tolist() == tables[1]["value"].tolist()
    for one in (run, run_again):
        assert Masks.load(one.check("masks.safetensors"), whole) == masks
        assert [int(name[-24:-12]) for name in one.files(FOLDER)] == [6, 8, 10, 12]  # the checkpoints were at 6 and 9


def test_a_run_gone_back_to_before_the_end_forgets_the_final_masks(net, digits, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        train(
            net(), digits[0], config=replace(CONFIG, checkpoint_every="5it"),
            callbacks=[GradualPruningCallback(WHEN, fraction=0.8), stopping(14)], out=tmp_path / "r", quiet=True,
        )  # fmt: skip
    assert open_run(tmp_path / "r").has("masks.safetensors")
    seen = []

    def look(context):
        seen.append((context.step.index, context.run.has("masks.safetensors")))

    train(
        net(), digits[0], config=replace(CONFIG, checkpoint_every="5it"), out=tmp_path / "r", quiet=True,
        callbacks=[GradualPruningCallback(WHEN, fraction=0.8), every("1it")(look)],
    )  # fmt: skip
    assert seen == [(11, False), (12, True), (13, True), (14, True), (15, True), (16, True)]


def test_rounds_are_counted_as_iterative_pruning_counts_them(net, digits):
    pruning = GradualPruningCallback("0it..2ep/3it", fraction=[0.2] * 5)
    train(net(), digits[0], config=CONFIG, callbacks=[pruning], quiet=True)
    assert pruning.masks.n_kept == round(pruning.masks.n_weights * 0.8**5)


def test_nothing_holds_the_weights_when_training_is_over(net, digits):
    optimizers = []
    pruning = GradualPruningCallback(WHEN, fraction=0.5)
    keep = every("1it")(lambda context: optimizers.append(context.optimizer))
    train(net(), digits[0], config=CONFIG, callbacks=[pruning, keep], quiet=True)
    assert not optimizers[-1]._optimizer_step_post_hooks


def test_bad_requests_are_refused(net, digits):
    for text in ("1ep", "1ep..5ep", "1ep..5ep/0it", "..5ep/1it", "5/1", 3):
        with pytest.raises(ConfigError, match="is no schedule of gradual pruning; write it as"):
            CubicSchedule.parse(text)
    with pytest.raises(ConfigError, match="a share of the weights lies between 0 and 1"):
        GradualPruningCallback(WHEN, fraction=1.0)
    with pytest.raises(UnknownNameError, match="did you mean 'magnitude'"):
        GradualPruningCallback(WHEN, fraction=0.5, criterion="magnitud")
    with pytest.raises(ConfigError, match="'movement' compares with the initial weights"):
        GradualPruningCallback(WHEN, fraction=0.5, criterion="movement")
    with pytest.raises(ConfigError, match="'snip' looks at samples"):
        GradualPruningCallback(WHEN, fraction=0.5, criterion="snip")

    def run(when="2it..3ep/2it", **options):
        train(
            net(),
            digits[0],
            config=CONFIG,
            callbacks=[GradualPruningCallback(when, fraction=0.5, **options)],
            quiet=True,
        )

    with pytest.raises(ConfigError, match="from 2it to 1it: it must end after it begins"):
        run("2it..1it/1it")
    with pytest.raises(ConfigError, match=r"ends at step 20 \(5ep\), and training already at 16"):
        run("2it..5ep/1it")
    with pytest.raises(UnknownNameError, match="'conv9' matches no layer"):
        run(protect=["conv9"])
    with pytest.raises(ConfigError, match="need allocation='layerwise'"):
        run(rates={"output": 0.5})


def test_criteria_with_gradients_look_at_the_batches_given(net, digits):
    batches = [(digits[0][0][:32], digits[0][1][:32])]
    pruning = GradualPruningCallback(WHEN, fraction=0.5, criterion="snip", batches=batches)
    train(net(), digits[0], config=CONFIG, callbacks=[pruning], quiet=True)
    assert pruning.masks.n_kept == round(pruning.masks.n_weights * 0.5)
