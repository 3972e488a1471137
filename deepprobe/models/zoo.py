"""What every network of the zoo shares: its options, its base class and its entry in the registry."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass as record
from dataclasses import fields
from typing import Annotated, Any, Literal, SupportsIndex

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from deepprobe.errors import ConfigError, nearest
from deepprobe.models.activations import Activation
from deepprobe.models.initialisation import Scheme

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""How all options are read: no unknown name, no silent conversion, no NaN."""

Count = Annotated[int, Field(ge=1, le=65_536)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
StemKind = Literal["auto", "small", "imagenet"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelOptions:
    """Options that every family has.

    Attributes:
        num_classes: Outputs of the last layer.
        in_channels: Channels of the input, 1 (grey) or 3 (colour) as a rule.
        input_size: Height and width of the input in pixels.
        activation: Name of the non-linearity (:data:`deepprobe.models.activations.ACTIVATIONS`).
        init: Scheme of the initial weights (:mod:`deepprobe.models.initialisation`).
        init_gain: Factor on all initial weights, over what the scheme gives.
    """

    num_classes: Count = 10
    in_channels: Count = 3
    input_size: Count = 32
    activation: Activation = "relu"
    init: Scheme = "he"
    init_gain: Positive = 1.0


class ZooModel(nn.Module):
    """A network of the zoo: feature layers, then a classifier.

    Attributes:
        features: All layers before the classifier.
        classifier: The fully connected layers, or the only one.
        deepprobe_config: JSON-able keywords with which :func:`create_model` builds the same network again.
    """

    features: nn.Sequential
    classifier: nn.Module
    deepprobe_config: dict[str, Any]

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, shape (n, classes), of images of shape (n, channels, height, width)."""
        raise NotImplementedError

    def finish_initialisation(self) -> None:
        """What a family adds once all weights have been drawn; nothing, unless it says so."""


@record(frozen=True)
class Entry:
    """One name of the registry: which options it takes, which it sets, and what builds it.

    Attributes:
        name: The name.
        family: Name of the family in lists.
        options: Class of the options.
        build: Makes the network from them.
        defaults: Options that this name sets where the caller does not.
        fixed: Options that this name sets and the caller may not change.
        description: One line for lists.
    """

    name: str
    family: str
    options: type[ModelOptions]
    build: Callable[[Any], ZooModel]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    description: str

    def parse(self, given: Mapping[str, Any]) -> ModelOptions:
        """Options of this name with the caller's on top.

        Raises:
            ConfigError: If an option does not exist, contradicts the name, or has an impossible value.
        """
        for option in given:
            self._check_name(option)
        chosen = {option: _plain(value) for option, value in given.items()}
        for option, value in self.fixed.items():
            if option in chosen and (type(chosen[option]) is not type(value) or chosen[option] != value):
                raise ConfigError(
                    f"{option}={chosen[option]!r} contradicts the name {self.name!r}, which means {option}={value!r}; "
                    "leave the option out or take another name"
                )
        values = {**self.defaults, **chosen, **self.fixed}
        try:
            return self.options(**values)
        except ValidationError as error:
            raise ConfigError(f"{self.name}: {_reasons(error)}") from None

    def _check_name(self, option: str) -> None:
        """Refuse an option that this family does not have."""
        known = [field.name for field in fields(self.options)]
        if option not in known:
            raise ConfigError(
                f"{self.name} has no option {option!r}; {nearest(option, known)} "
                f"(all options: {', '.join(sorted(known))})"
            )


def _plain(value: object) -> object:
    """A NumPy integer as a Python one; everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return value
    try:
        return operator.index(value)
    except TypeError:  # an array or tensor that is no integer
        return value


def _reasons(error: ValidationError) -> str:
    """One clause for each refused value: its name, what was given, what is allowed."""
    clauses = []
    for item in error.errors(include_url=False):
        reason = item["msg"].removeprefix("Value error, ")
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "missing":
            clauses.append(f"the option {place} is needed")
            continue
        clauses.append(f"{place}={item['input']!r}: {reason}" if place else reason)
    return "; ".join(clauses)
