"""A ticket as one file that loads into a plain PyTorch model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from deepprobe.errors import RunError, nearest
from deepprobe.pruning.lottery.history import checkpoint_at, last_checkpoint, run_name
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.rewinding import Rewinding, masked
from deepprobe.runs import FolderRun, open_run
from deepprobe.runs.atomic import write_bytes
from deepprobe.runs.experiment import TICKET, Experiment, open_experiment
from deepprobe.runs.manifest import MANIFEST
from deepprobe.runs.masks import MASKS, read_masks
from deepprobe.training.checkpoint import Checkpoint


def export_ticket(
    experiment: Experiment | Path | str,
    path: Path | str,
    *,
    seed: int,
    round: int,
    branch: str = TICKET,
    trained: bool = False,
) -> None:
    """Write the weights of a ticket, removed ones zero, as a safetensors file.

    ``model.load_state_dict(safetensors.torch.load_file(path))`` puts it into a network of the same architecture,
    without deepprobe; the masks are where its kernels are not zero. The metadata name model, seed, round, branch and
    density.

    Args:
        experiment: The experiment, or its folder.
        path: The file, by custom ``.safetensors``.
        seed: Which seed.
        round: Which round.
        branch: ``ticket``, or a control.
        trained: The weights after training; by default those that a ticket is trained from: the initial ones, or those
            of the step that it was rewound to.

    Raises:
        RunError: If there is no such run, it is not complete, is damaged, or the file cannot be written; or, for
            weights before training, if the branch is not the ticket, the experiment rewinds no weights, or prunes along
            the way.
    """
    experiment = experiment if isinstance(experiment, Experiment) else open_experiment(experiment)
    run = _run(experiment, run_name(seed, round, branch))
    source = last_checkpoint(run) if trained else _start(experiment, seed, branch)
    masks = Masks({name: torch.from_numpy(mask) for name, mask in read_masks(run.check(MASKS)).items()})
    weights = {name: tensor.clone().contiguous() for name, tensor in masked(source, masks).weights.items()}
    metadata = {
        "deepprobe_config": json.dumps(source.deepprobe_config),
        "deepprobe_ticket": json.dumps(
            {"seed": seed, "round": round, "branch": branch, "trained": trained}
            | {"n_kept": masks.n_kept, "n_weights": masks.n_weights}
        ),
    }
    write_bytes(Path(path), save(weights, metadata=metadata))


def _run(experiment: Experiment, name: str) -> FolderRun:
    """A run that is complete."""
    if not (experiment.path / name / MANIFEST).is_file():
        there = experiment.runs()["run"].tolist()
        raise RunError(f"{experiment.path} has no run {name!r}; {nearest(name, there)}")
    run = open_run(experiment.path / name)
    if run.status != "complete":
        raise RunError(f"{run.path} is {run.status}; a ticket is exported when its training is complete")
    return run


def _start(experiment: Experiment, seed: int, branch: str) -> Checkpoint:
    """The weights that a ticket is trained from, not yet masked."""
    settings = experiment.config["lottery"]
    rewinding = Rewinding.parse(str(settings["rewind"]))
    if rewinding.kind != "weights" or branch != TICKET or settings["pruning"] == "gradual":
        raise RunError(
            f"branch {branch!r} with rewind={settings['rewind']!r} and pruning={settings['pruning']!r} has no "
            "weights of its own from before training that are kept; export the trained ones"
        )
    return checkpoint_at(_run(experiment, run_name(seed, 0, TICKET)), rewinding.point)
