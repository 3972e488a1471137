"""Masks of single steps in a run, for callbacks that must go on after an interruption as if there had been none.

A checkpoint holds nothing of a callback. So masks are kept beside it, as many as are needed to go on from each
checkpoint that the run has; what belongs to later steps goes when the run is rewound to one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.pruning.masks import Masks
from deepprobe.runs import FolderRun
from deepprobe.runs.atomic import make_folder
from deepprobe.runs.run import step_of

if TYPE_CHECKING:
    from torch import nn

    from deepprobe.runs import Run

CHECKPOINTS = "checkpoints"


def keep_masks(run: Run, masks: Masks, *, folder: str, step: int, n_needed: int = 1) -> None:
    """Keep the masks of a step, in place of those kept before, and drop what no checkpoint needs any more.

    Args:
        run: Where to; nothing is kept for one in memory.
        masks: The masks.
        folder: Folder within the run.
        step: Their step.
        n_needed: With how many of the masks before it training goes on from a step.

    Raises:
        RunError: If they cannot be written.
    """
    if not isinstance(run, FolderRun):
        return
    name = f"{folder}/step-{step:012d}.safetensors"
    run.forget(name)
    make_folder(run.path / folder)
    masks.save(run.path / name)
    run.register(name)
    kept = {step_of(listed): listed for listed in run.files(folder)}
    points = [step_of(listed) for listed in run.files(CHECKPOINTS)]
    needed = {late for late in kept if late > max(points, default=-1)}
    for point in points:
        needed.update(sorted(early for early in kept if early <= point)[-n_needed:])
    run.forget(*(kept[early] for early in kept.keys() - needed))


def kept_masks(run: Run, model: nn.Module, *, folder: str, until: int) -> list[Masks]:
    """The masks that a run still has of the steps up to one.

    Args:
        run: The run; one in memory has none.
        model: The network that they are of.
        folder: Folder within the run.
        until: The last step.

    Returns:
        Masks in the order of their steps, on the devices of the model's parameters.

    Raises:
        RunError: If a file is damaged, or of another network.
    """
    if not isinstance(run, FolderRun):
        return []
    return [Masks.load(run.check(name), model) for name in run.files(folder) if step_of(name) <= until]
