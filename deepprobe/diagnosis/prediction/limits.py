"""Whether a network, a batch and a momentum are of the kind that a calibration has seen, and where they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from deepprobe.hooks.select import is_weighted, on_shortcut

if TYPE_CHECKING:
    from collections.abc import Mapping

FAR = 2.0
"""Factor by which a number of classes or samples may differ from the calibrated one."""


@dataclass(frozen=True)
class Setting:
    """What a prediction is asked about, as far as features do not show it.

    Attributes:
        depth: Layers with weights, those on shortcuts not counted.
        n_convolutions: How many of them are convolutions.
        grouped: Whether one of these has groups.
        n_classes: Scores a sample.
        batch_size: Samples in the batch.
        momentum: Of SGD.
    """

    depth: int
    n_convolutions: int
    grouped: bool
    n_classes: int
    batch_size: int
    momentum: float


def setting_of(network: nn.Module, *, n_classes: int, batch_size: int, momentum: float) -> Setting:
    """The setting of an unwrapped network."""
    layers = [m for name, m in network.named_modules() if is_weighted(m) and not on_shortcut(name)]
    convolutions = [m for m in layers if isinstance(m, nn.modules.conv._ConvNd)]
    return Setting(
        depth=len(layers),
        n_convolutions=len(convolutions),
        grouped=any(m.groups > 1 for m in convolutions),
        n_classes=n_classes,
        batch_size=batch_size,
        momentum=momentum,
    )


def beyond(setting: Setting, limits: Mapping[str, Any]) -> tuple[str, ...]:
    """In words, what of a setting is unlike the trainings of a calibration.

    Args:
        setting: What is asked about.
        limits: Of the trainings, as a calibration's ``about["limits"]`` has them: ``depth`` (least and greatest),
            ``n_classes``, ``batch_size``, ``momentum``, all of convolutional networks without groups. Empty where
            nothing is known of them.
    """
    if not limits:
        return ()
    low, high = limits["depth"]
    found = [] if low <= setting.depth <= high else [f"depth {setting.depth} (calibrated {low} to {high})"]
    if not setting.n_convolutions:
        found.append("no convolutions")
    elif 2 * setting.n_convolutions < setting.depth:
        found.append(f"{setting.n_convolutions} of {setting.depth} layers convolutions (calibrated all but the last)")
    if setting.grouped:
        found.append("grouped convolutions")
    for key, words, value in (
        ("n_classes", "classes", setting.n_classes),
        ("batch_size", "samples in the batch", setting.batch_size),
    ):
        if not limits[key] / FAR <= value <= limits[key] * FAR:
            found.append(f"{value} {words} (calibrated {limits[key]})")
    if setting.momentum != limits["momentum"]:
        found.append(f"momentum {setting.momentum:g} (calibrated {limits['momentum']:g})")
    return tuple(found)
