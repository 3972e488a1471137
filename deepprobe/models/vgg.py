"""VGG-11/13/16/19 (Simonyan & Zisserman 2015), with and without batch normalisation.

For images of 224 pixels and more the fully connected layers are the published ones, 4,096 units over a 7×7 grid; for
smaller images they have 512 units over the mean of the image, so that the depth stays what the name says. A max pool
that would meet a single pixel is left out. Convolutions are named by stage as in the paper: ``features.conv3_2``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from deepprobe.models.activations import ACTIVATIONS
from deepprobe.models.zoo import STRICT, Entry, ModelOptions, Share, ZooModel

_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VGGOptions(ModelOptions):
    """Options of the VGG networks.

    Attributes:
        depth: Weighted layers.
        batch_norm: Whether convolutions are followed by batch normalisation.
        head: Fully connected layers ``imagenet`` (4,096 units over a 7×7 grid), ``small`` (512 units over the mean),
            or ``auto`` by ``input_size``.
        dropout: Share of the units of the hidden fully connected layers that training drops.
    """

    depth: Literal[11, 13, 16, 19]
    batch_norm: bool = False
    head: Literal["auto", "small", "imagenet"] = "auto"
    dropout: Share = 0.5

    @property
    def large_head(self) -> bool:
        """Whether the fully connected layers are the published ones."""
        return self.head == "imagenet" or (self.head == "auto" and self.input_size >= 224)


class VGG(ZooModel):
    """Five stages of 3×3 convolutions with max pools, then three fully connected layers.

    Args:
        options: What to build.
    """

    def __init__(self, options: VGGOptions) -> None:
        super().__init__()
        self.features = nn.Sequential(_features(options))
        grid, width = (7, 4096) if options.large_head else (1, 512)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.flatten = nn.Flatten()
        act = ACTIVATIONS[options.activation]
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc1=nn.Linear(_CHANNELS[-1] * grid**2, width),
                act1=act(),
                dropout1=nn.Dropout(options.dropout),
                fc2=nn.Linear(width, width),
                act2=act(),
                dropout2=nn.Dropout(options.dropout),
                fc3=nn.Linear(width, options.num_classes),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, shape (n, classes), of images of shape (n, channels, height, width)."""
        scores: Tensor = self.classifier(self.flatten(self.pool(self.features(images))))
        return scores


def _features(options: VGGOptions) -> OrderedDict[str, nn.Module]:
    """The convolutions, each with its normalisation and activation, and the pools."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    n_in, size = options.in_channels, options.input_size
    for stage, (n_layers, n_out) in enumerate(zip(_STAGES[options.depth], _CHANNELS, strict=True), start=1):
        for index in range(1, n_layers + 1):
            layers[f"conv{stage}_{index}"] = nn.Conv2d(n_in, n_out, 3, padding=1)
            if options.batch_norm:
                layers[f"norm{stage}_{index}"] = nn.BatchNorm2d(n_out)
            layers[f"act{stage}_{index}"] = ACTIVATIONS[options.activation]()
            n_in = n_out
        if size > 1:
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            size //= 2
    return layers


def _entry(depth: int, *, batch_norm: bool) -> Entry:
    """Entry of one network."""
    name = f"vgg{depth}_bn" if batch_norm else f"vgg{depth}"
    text = f"VGG-{depth}{' with batch normalisation' if batch_norm else ''}"
    fixed: dict[str, object] = {"depth": depth, "batch_norm": batch_norm}
    return Entry(name, "vgg", VGGOptions, VGG, {"input_size": 224}, fixed, text)


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for depth in _STAGES
    for entry in (_entry(depth, batch_norm=False), _entry(depth, batch_norm=True))
}
