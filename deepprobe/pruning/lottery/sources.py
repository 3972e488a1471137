"""What an experiment is about: how its network is made from a seed, and what it is trained and measured on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import nn

from deepprobe.data import ImageSet, load_dataset
from deepprobe.errors import ConfigError
from deepprobe.hooks.select import unwrapped
from deepprobe.models import create_model
from deepprobe.seeding import derive_seed, preserved_random_states
from deepprobe.training.provenance import describe_network, weights_digest
from deepprobe.training.stream import generators_of, is_pair, split_off

if TYPE_CHECKING:
    from deepprobe.training.stream import Data

Model: TypeAlias = "str | nn.Module | Callable[[int], nn.Module]"
"""A name of the zoo; a function from a seed to a network; or a network, whose weights are the initial ones."""


@dataclass(frozen=True)
class Splits:
    """What networks are trained and measured on: two tensors (inputs, labels) each, or loaders.

    Attributes:
        train: To train on. A loader's own generator, if it has one, is set by the seed of each training.
        test: Measured, and used for nothing.
        validation: To find the early-stop iteration on; where there is none, ``TrainConfig.validation_share`` of two
            tensors is held out, another part for each seed.
    """

    train: Data
    test: Data | None = None
    validation: Data | None = None

    def of_seed(self, seed: int, *, share: float) -> Splits:
        """The splits with a validation set, if one can be held out."""
        if self.validation is not None or not share or not is_pair(self.train):
            return self
        train, validation = split_off(self.train, share=share, seed=seed)
        return Splits(train, self.test, validation)


def splits_of(data: Any) -> Splits:
    """Splits from what a person has at hand.

    Args:
        data: Splits; a name that ``load_dataset`` knows; a pair (train, test) of pairs of tensors, of loaders or of
            image sets; one image set to train on; a mapping with ``train`` and, if there are such, ``test`` and
            ``validation``; or a function without arguments that gives one of these.

    Raises:
        ConfigError: If it is none of these.
    """
    data = data() if callable(data) and not isinstance(data, nn.Module) else data
    if isinstance(data, Splits):
        return data
    if isinstance(data, str):
        return Splits(*(load_dataset(data, split=split).tensors() for split in ("train", "test")))
    if isinstance(data, ImageSet):
        return Splits(data.tensors())
    if isinstance(data, Mapping) and "train" in data and not set(data) - {"train", "test", "validation"}:
        return Splits(**{name: _tensors(part) for name, part in data.items()})
    if isinstance(data, tuple | list) and len(data) == 2 and not any(isinstance(p, torch.Tensor) for p in data):
        return Splits(_tensors(data[0]), _tensors(data[1]))
    raise ConfigError(
        f"data is a {type(data).__name__}: give the name of a data set, a pair (train, test) of pairs of tensors "
        "(inputs, labels) or loaders, or pruning.Splits(train=…, test=…, validation=…)"
    )


def _tensors(part: Any) -> Any:
    """Two tensors of an image set; anything else as it is."""
    return part.tensors() if isinstance(part, ImageSet) else part


@dataclass(frozen=True)
class Sources:
    """A network that can be made again from a seed, with its data.

    Attributes:
        model: As in Model.
        data: As ``splits_of`` takes it.
        options: Keywords of ``create_model``, beside those that the data set.

    Raises:
        ConfigError: If the model is none, or a class; or there are options for a network that is not made by its name,
            or a seed among them.
    """

    model: Model
    data: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.model, type):
            name = self.model.__name__
            raise ConfigError(
                f"model is the class {name}: give {name}(), or a function of a seed: lambda seed: {name}()"
            )
        if not isinstance(self.model, str) and not callable(self.model):
            raise ConfigError(
                f"model is a {type(self.model).__name__}: give the name of a network, a module, or a function from a "
                "seed to one"
            )
        if self.options and not isinstance(self.model, str):
            raise ConfigError(f"model_options={dict(self.options)}: only for a network of the zoo, given by its name")
        if "seed" in self.options:
            raise ConfigError("model_options: the seed of the weights is that of each experiment; name it in seeds=(…)")

    def splits(self) -> Splits:
        """The data, loaded."""
        return splits_of(self.data)

    def network(self, seed: int, splits: Splits) -> nn.Module:
        """The network with the initial weights of a seed; a network that was given, as it was given.

        Raises:
            UnknownNameError: If there is no such network.
            ConfigError: If an option does not fit it, or a function gave something else.
        """
        if isinstance(self.model, str):
            return create_model(self.model, **{**_fitting(splits), "seed": seed, **self.options})
        if isinstance(self.model, nn.Module):
            return deepcopy(unwrapped(self.model))
        with _seeded(seed):
            made = self.model(seed)
        if not isinstance(made, nn.Module):
            raise ConfigError(f"model: the function gave a {type(made).__name__}, not a network (nn.Module)")
        return deepcopy(unwrapped(made))  # what it gave may be the same one each time, and is trained in place

    def network_anew(self, seed: int, splits: Splits) -> nn.Module:
        """The network with weights drawn anew: for a network that was given, by its layers' ``reset_parameters``.

        Raises:
            ConfigError: If a layer that holds parameters cannot draw them anew.
        """
        network = self.network(seed, splits)
        if not isinstance(self.model, nn.Module):
            return network
        with _seeded(seed):
            for name, module in network.named_modules():
                if not any(True for _ in module.parameters(recurse=False)):
                    continue
                if not callable(getattr(module, "reset_parameters", None)):
                    raise ConfigError(
                        f"model: {name or 'the network'!r} ({type(module).__name__}) has no reset_parameters, so its "
                        "initial weights cannot be drawn anew; give a function from a seed to a network instead"
                    )
                module.reset_parameters()
        return network

    def identity(self, splits: Splits) -> dict[str, Any]:
        """What tells the network from others: for one that is not of the zoo, its layers and weights for the seed 0.

        Raises:
            ConfigError: If a function gives other weights when it is called again.
        """
        network = self.network(0, splits)
        described = describe_network(network)
        described.pop("seed", None)
        if isinstance(self.model, str):
            return described
        digest = weights_digest(network)
        if weights_digest(self.network(0, splits)) != digest:
            raise ConfigError(
                "model: the function gave other weights when it was called with the same seed again; draw them from "
                "torch's, NumPy's or Python's global generators, or from one that is made from the seed"
            )
        return described | {"layers": hashlib.sha256(str(network).encode()).hexdigest(), "initial_weights": digest}


def seed_loader(data: Data, seed: int) -> None:
    """Set a loader's own generators, which else would go on from where the training before left them."""
    for generator in generators_of(data):
        generator.manual_seed(derive_seed(seed, "loader"))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, the global generators are set by the seed; outside they are as before."""
    with preserved_random_states():
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - a person's function may draw from the global one
        torch.manual_seed(seed)
        yield


def _fitting(splits: Splits) -> dict[str, int]:
    """Options with which a network of the zoo takes these images and tells these labels apart; none for loaders."""
    if not is_pair(splits.train):
        return {}
    images, _ = splits.train
    if images.ndim != 4:
        raise ConfigError(f"networks of the zoo take images (n, channels, height, width), not {tuple(images.shape)}")
    labelled = [part[1] for part in (splits.train, splits.validation) if part is not None and is_pair(part)]
    n_classes = max(int(labels.max()) for labels in labelled) + 1
    return {"num_classes": n_classes, "in_channels": images.shape[1], "input_size": images.shape[-1]}
