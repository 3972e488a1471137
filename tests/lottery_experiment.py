"""An experiment of known numbers, written as ``run_lottery`` writes one, without training anything."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepprobe.records.frame import TIDY, tidy
from deepprobe.records.spectrum import Spectrum
from deepprobe.runs import create_experiment, create_run
from deepprobe.runs.masks import MASKS, write_masks

SHAPES = {"fc1.weight": (30, 20), "fc2.weight": (20, 30), "out.weight": (10, 20)}
N_WEIGHTS = sum(int(np.prod(shape)) for shape in SHAPES.values())
STEPS = (0, 100, 200, 300, 400)
CONFIG = {
    "model": {"name": "lenet-300-100"},
    "data": {"name": "mnist"},
    "lottery": {"rounds": 6, "prune": 0.2, "seeds": [0, 1, 2], "controls": ["reinit", "random-mask", "sibling"]},
}


def final_accuracy(branch, round_, seed):
    """Test accuracy at the last step: tickets hold it, controls lose it with every round."""
    loss_a_round = {"ticket": 0.001, "sibling": 0.001, "reinit": 0.008, "random-mask": 0.012}[branch]
    return 0.97 - loss_a_round * round_ + 0.001 * (seed - 1)


def stopping_step(branch, round_):
    """Step of the lowest validation loss: tickets earlier with the rounds, controls never before 300."""
    return STEPS[max(1, 3 - round_ // 2)] if branch in {"ticket", "sibling"} else 300


def metric_rows(branch, round_, seed, *, steps=STEPS):
    """Rows of loss, accuracy and seconds at every step."""
    best = stopping_step(branch, round_)
    rows = []
    for step in steps:
        accuracy = final_accuracy(branch, round_, seed) - 0.0001 * (STEPS[-1] - step)
        for split in ("train", "validation", "test"):
            loss = 0.2 + abs(step - best) / 1000 + (0.01 if split == "test" else 0.0)
            rows.append({"step": step, "split": split, "measure": "loss", "value": loss})
            rows.append({"step": step, "split": split, "measure": "accuracy", "value": accuracy})
        rows.append({"step": step, "split": "train", "measure": "seconds", "value": 0.5})
    if branch == "sibling":
        for split, height in (("train", 0.004), ("test", 0.02)):
            value = {
                "step": steps[-1],
                "split": split,
                "measure": "error_barrier",
                "value": height * max(0, 6 - round_),
            }
            rows.append(value)
    frame = pd.DataFrame(rows, columns=list(TIDY))
    return frame.assign(run="whatever", seed=99, round=0, epoch=frame["step"] / 100)


def layer_rows(branch, round_, seed, *, step=STEPS[-1], letters=("a", "b", "c")):
    """Rows of three layers in two views: κ grows with the rounds, faster where the weights are not the ticket's."""
    rows = []
    for depth, name in enumerate(letters, start=1):
        for view in ("samples", "channels"):
            kappa = 10.0 * depth * (1.1 if branch == "ticket" else 1.5) ** round_ * (1 + 0.05 * seed)
            spectrum = Spectrum.of(np.geomspace(kappa, 1.0, 16), n_rows=64, dtype="float32")
            where = {"layer": name, "depth": depth, "call": 1, "tap": "input", "view": view, "type": "Linear"}
            rows.append(spectrum.row() | where | {"condition_number_live": kappa})
    return tidy(pd.DataFrame(rows), run="whatever", seed=99, round=0, step=step, epoch=step / 100, split="probe")


def masks_of(branch, round_, seed):
    """Masks at 0.8 ** round in every tensor: a third of the order is common to all seeds, controls draw anew."""
    common, own = np.random.default_rng(0), np.random.default_rng((seed, branch == "random-mask", 7))
    masks = {}
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        scores = own.random(size) + (0.0 if branch == "random-mask" else 0.5) * common.random(size)
        mask = np.zeros(size, dtype=bool)
        mask[np.argsort(-scores)[: round(size * 0.8**round_)]] = True
        masks[name] = mask.reshape(shape)
    return masks


def add_run(
    path, *, seed=0, round_=0, branch="ticket", status="complete", masks=None, layers=True, steps=STEPS, prefix="a"
):
    """One training of the experiment in its folder; with ``masks=False`` it has none yet."""
    masks = masks_of(branch, round_, seed) if masks is None else masks
    kept = sum(int(np.count_nonzero(m)) for m in masks.values()) if masks else 0
    which = {"seed": seed, "round": round_, "branch": branch, "n_weights": N_WEIGHTS, "n_kept": kept}
    name = f"seed{seed}-round{round_:02d}-{branch}"
    config = {key: CONFIG[key] for key in ("model", "data")} | {"lottery": which}
    run = create_run(path, name=name, config=config, provenance={"torch": "2.13", "threads": 1})
    if masks:
        write_masks(run.path / MASKS, masks)
        run.register(MASKS)
    if steps:
        run.append(metric_rows(branch, round_, seed, steps=steps))
    if layers:
        run.append(layer_rows(branch, round_, seed, letters=[f"{prefix}{i}" for i in range(3)]))
    if status != "running":
        run.set_status(status)
    return run


def build(path, *, seeds=(0, 1, 2), n_rounds=6, controls=("reinit", "random-mask", "sibling"), **options):
    """A complete experiment of so many rounds after the dense one."""
    experiment = create_experiment(path, config=CONFIG, identity=CONFIG)
    for seed in seeds:
        for round_ in range(n_rounds + 1):
            for branch in ("ticket", *(controls if round_ else ())):
                add_run(path, seed=seed, round_=round_, branch=branch, **options)
    return experiment
