"""AlexNet: by default the one-tower network of Krizhevsky (2014), 61,100,840 parameters at 1,000 classes.

``grouped=True`` is the two-tower network of Krizhevsky et al. (2012) with its local response normalisation, 60,965,224.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from deepprobe.models.activations import ACTIVATIONS
from deepprobe.models.zoo import STRICT, Entry, ModelOptions, Share, ZooModel

SMALLEST_INPUT = 63
"""Pixels below which the strides leave nothing."""

_ONE_TOWER = ((64, 1), (192, 1), (384, 1), (256, 1), (256, 1))
_TWO_TOWERS = ((96, 1), (256, 2), (384, 1), (384, 2), (256, 2))
_GRID, _WIDTH = 6, 4096


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlexNetOptions(ModelOptions):
    """Options of AlexNet.

    Attributes:
        input_size: Height and width of the input in pixels, at least 63.
        grouped: Whether to build the network of 2012, whose second, fourth and fifth convolutions have two groups.
        dropout: Share of the units of the hidden fully connected layers that training drops.
    """

    input_size: Annotated[int, Field(ge=SMALLEST_INPUT, le=65_536)] = 224
    grouped: bool = False
    dropout: Share = 0.5


class AlexNet(ZooModel):
    """Five convolutions and three fully connected layers.

    Args:
        options: What to build.
    """

    def __init__(self, options: AlexNetOptions) -> None:
        super().__init__()
        self.features = nn.Sequential(_features(options))
        self.pool = nn.AdaptiveAvgPool2d(_GRID)
        self.flatten = nn.Flatten()
        act = ACTIVATIONS[options.activation]
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                dropout1=nn.Dropout(options.dropout),
                fc1=nn.Linear(256 * _GRID**2, _WIDTH),
                act1=act(),
                dropout2=nn.Dropout(options.dropout),
                fc2=nn.Linear(_WIDTH, _WIDTH),
                act2=act(),
                fc3=nn.Linear(_WIDTH, options.num_classes),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, shape (n, classes), of images of shape (n, channels, height, width)."""
        scores: Tensor = self.classifier(self.flatten(self.pool(self.features(images))))
        return scores


def _features(options: AlexNetOptions) -> OrderedDict[str, nn.Module]:
    """The five convolutions with activations, pools after the first, second and fifth."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    n_in = options.in_channels
    for index, (n_out, groups) in enumerate(_TWO_TOWERS if options.grouped else _ONE_TOWER, start=1):
        kernel, stride, padding = {1: (11, 4, 2), 2: (5, 1, 2)}.get(index, (3, 1, 1))
        layers[f"conv{index}"] = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=padding, groups=groups)
        layers[f"act{index}"] = ACTIVATIONS[options.activation]()
        if options.grouped and index <= 2:
            layers[f"norm{index}"] = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
        if index in {1, 2, 5}:
            layers[f"pool{index}"] = nn.MaxPool2d(3, stride=2)
        n_in = n_out
    return layers


_TEXT = "AlexNet, one tower (grouped=True: the two-tower network of 2012)"
ENTRIES: dict[str, Entry] = {"alexnet": Entry("alexnet", "alexnet", AlexNetOptions, AlexNet, {}, {}, _TEXT)}
