"""What an experiment will train, told before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepprobe.cli.complaints import in_options
from deepprobe.cli.job import load_data
from deepprobe.cli.subject import build, model_options
from deepprobe.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn

    from deepprobe.cli.lottery import LotteryOptions
    from deepprobe.cli.sweep import Trial
    from deepprobe.data import ImageSet
    from deepprobe.pruning import LotteryConfig
    from deepprobe.training import TrainConfig


def plan(trial: Trial, options: LotteryOptions) -> str:
    """The rounds of an experiment with their densities and branches, and how much training that is.

    Args:
        trial: The experiment.
        options: The network's options and the data.

    Returns:
        Some lines; errors as ``load_dataset`` and ``create_model``.

    Raises:
        ConfigError: If the network cannot be pruned so, in the names of options.
    """
    train = load_data(options).train
    network = build(trial.model, train, seed=0, options=model_options(options.model_options))
    try:
        kept = kept_by_round(network, trial.config)
    except (ConfigError, UnknownNameError) as error:
        raise ConfigError(in_options(str(error), type(options))) from error
    if kept[-1] < 1:
        last = next(number for number, n in enumerate(kept) if n < 1) - 1
        asked = "densities" if options.densities else "rounds"
        raise ConfigError(f"--{asked}: of {kept[0]:,} weights none is left after round {last}; take at most so many")
    branches = ("ticket", *dict.fromkeys(trial.config.controls))
    rounds_of = {branch: trial.config.rounds_of(branch) for branch in branches}
    seeds = trial.config.seeds
    lines = [f"{trial.path}: {trial.model}, {kept[0]:,} prunable weights, seeds {', '.join(map(str, seeds))}"]
    lines.append(f"{'round':>7} {'density':>9} {'weights':>13}  trained")
    for number, n_kept in enumerate(kept):
        names = ", ".join(branch for branch in branches if number in rounds_of[branch])
        lines.append(f"{number:>7} {n_kept / kept[0]:>9.3%} {n_kept:>13,}  {names}")
    per_epoch = updates_per_epoch(train, trial.config.training)
    refuse_what_comes_too_late(trial.config, per_epoch=per_epoch)
    each = [updates(branch, n, trial.config, per_epoch=per_epoch) for branch in branches for n in rounds_of[branch]]
    lines.append(f"  {len(seeds) * len(each):,} trainings, {len(seeds) * sum(each):,} updates in all")
    return "\n".join(lines)


def updates(branch: str, number: int, config: LotteryConfig, *, per_epoch: int) -> int:
    """Updates of one training: those of the dense one, without what lies before the point that is rewound to.

    Args:
        branch: The ticket or a control.
        number: Its round.
        config: Of the experiment.
        per_epoch: Updates of an epoch.
    """
    in_dense = config.training.epochs * per_epoch
    if branch == "dense":
        return in_dense * config.trainings_until(number)
    is_from_start = branch == "reinit" or (branch == "ticket" and number == 0)
    return in_dense if is_from_start else in_dense - config.rewinding.point.iterations_in(per_epoch)


def refuse_what_comes_too_late(config: LotteryConfig, *, per_epoch: int) -> None:
    """Raise ConfigError if training ends before the point that is rewound to, or before gradual pruning does."""
    from deepprobe.pruning.gradual import CubicSchedule

    last = config.training.epochs * per_epoch
    if config.rewinding.point.iterations_in(per_epoch) >= last:
        raise ConfigError(
            f"--rewind {config.rewind}: training ends after {config.training.epochs}ep, which is {last}it; go back to "
            "an earlier point"
        )
    if config.gradual:
        CubicSchedule.parse(config.gradual).check(per_epoch, last=last)


def kept_by_round(network: nn.Module, config: LotteryConfig) -> list[int]:
    """Weights that are left after each round, the first of them all.

    Raises:
        ConfigError: If every layer is protected.
        UnknownNameError: If the network has nothing to prune, or no such layer.
    """
    from deepprobe.pruning.prunable import prunable

    sizes = {name: weight.numel() for name, weight in prunable(network, protect=config.protect).items()}
    rounds = [config.kept(sizes, number) for number in range(1, config.n_rounds + 1)]
    return [sum(sizes.values()), *(n if isinstance(n, int) else sum(n.values()) for n in rounds)]


def updates_per_epoch(train: ImageSet, config: TrainConfig) -> int:
    """Updates of one pass over the training set, without the share that is held out.

    Raises:
        ConfigError: If there are too few images for the batch, or to hold some out.
    """
    import torch

    from deepprobe.training.stream import TensorStream, split_off

    pair = (torch.from_numpy(train.labels),) * 2
    if config.validation_share:
        pair, _ = split_off(pair, share=config.validation_share, seed=config.seed)
    stream = TensorStream(pair, batch_size=config.batch_size, seed=config.seed, micro_batches=config.micro_batches)
    return stream.n_batches
