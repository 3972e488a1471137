"""What is checked of an experiment before its first training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

import torch

from deepprobe.errors import ConfigError, RunError
from deepprobe.pruning.masks import Masks
from deepprobe.runs.difference import difference
from deepprobe.runs.experiment import EXPERIMENT, TICKET, open_experiment
from deepprobe.seeding import derive_seed
from deepprobe.training.evaluation import evaluate
from deepprobe.training.provenance import describe_data, weights_digest
from deepprobe.training.stream import TensorStream, first_samples, is_pair

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from deepprobe.pruning.lottery.config import LotteryConfig
    from deepprobe.pruning.lottery.sources import Sources, Splits


def checked(sources: Sources, splits: Splits, config: LotteryConfig) -> tuple[dict[str, Any], list[int]]:
    """Find wrong, before any training, what would fail later.

    Args:
        sources: Network and data.
        splits: The data, loaded.
        config: Settings.

    Returns:
        What tells the experiment from others, plain values; and the weights left after each round, from round 0.

    Raises:
        ConfigError: If settings, network and data do not fit together.
        UnknownNameError: If there is no such network, or a glob matches no layer.
    """
    seed = config.seeds[0]
    network = sources.network(seed, splits)
    masks = Masks.dense(network, protect=config.protect)
    sizes = {name: mask.numel() for name, mask in masks.items()}
    rounds = [config.kept(sizes, number) for number in range(1, config.n_rounds + 1)]
    kept = [masks.n_weights, *(n if isinstance(n, int) else sum(n.values()) for n in rounds)]
    if kept[-1] < 1:
        raise ConfigError(
            f"after {config.n_rounds} rounds none of the {masks.n_weights:,} weights would be left; take fewer rounds"
        )
    if "reinit" in config.controls:
        anew = sources.network_anew(derive_seed(seed, "reinit", 1), splits)
        if weights_digest(anew) == weights_digest(network):
            raise ConfigError(
                "controls: 'reinit' needs other initial weights for another seed, and the function gives the same ones"
            )
    if "sibling" in config.controls and isinstance(splits.train, list | tuple) and not is_pair(splits.train):
        raise ConfigError(
            "controls: 'sibling' sees the data in another order, and a list of batches has one order only; give two "
            "tensors, or a DataLoader with shuffle=True"
        )
    _check_point(splits, config)
    _check_forward(network, splits)
    held_out = {name: part for name in ("test", "validation") if (part := getattr(splits, name)) is not None}
    identity = {
        "model": sources.identity(splits), "data": describe_data(splits.train), "lottery": config.identity(),
        "held_out": {name: describe_data(part) for name, part in held_out.items()},
    }  # fmt: skip
    return identity, kept


def refuse_other_densities(path: Path, kept: Sequence[int], identity: Mapping[str, Any]) -> None:
    """RunError if a round that is there keeps another number of weights than is asked for."""
    found = open_experiment(path) if (path / EXPERIMENT).is_file() else None
    if found is None or difference(found.identity, identity):
        return  # which ``create_experiment`` tells
    runs = found.runs()
    runs = runs[(runs["branch"] == TICKET) & (runs["status"] != "damaged")]
    for name, number, n in runs[["run", "round", "n_kept"]].to_numpy().tolist():
        if number < len(kept) and n != kept[number]:
            raise RunError(
                f"{path} holds an experiment of other densities ({name} keeps {n:,.0f} weights, "
                f"{kept[number]:,} asked for); choose another folder"
            )


def _check_point(splits: Splits, config: LotteryConfig) -> None:
    """ConfigError if the point to rewind to is not before the end of training."""
    training, data = config.training, splits.train
    if is_pair(data):
        pair: Any = splits.of_seed(config.seeds[0], share=training.validation_share).train
        per_epoch = TensorStream(
            pair, batch_size=training.batch_size, seed=0, micro_batches=training.micro_batches
        ).n_batches  # fmt: skip
    else:
        per_epoch = len(data) if isinstance(data, Sized) else 0  # what has no length is refused by ``train``
    last = training.epochs * per_epoch
    if 0 < last <= config.rewinding.point.iterations_in(per_epoch):
        raise ConfigError(
            f"rewind={config.rewind!r}: a point before the end of training, which has {last:,} updates in "
            f"{training.epochs} epochs"
        )


def _check_forward(network: nn.Module, splits: Splits) -> None:
    """ConfigError if the network does not take the data: told here, not by the first update of the first training."""
    device = torch.device("cpu")
    samples = first_samples(splits.train, device=device, n_samples=2, batch_size=2)
    try:
        evaluate(network.cpu(), samples)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(x.shape[1:])) for x, _ in samples)
        raise ConfigError(
            f"the network does not take inputs of shape {shapes}: {str(error).strip().splitlines()[0]}"
        ) from error
