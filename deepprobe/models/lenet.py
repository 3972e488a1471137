"""LeNet-300-100 and LeNet-5 (LeCun et al. 1998), and Conv-2/4/6 of the lottery-ticket paper (Frankle & Carbin 2019).

LeNet-5 exists twice under that name: ``lenet5`` has the layer sizes of 1998 (61,706 parameters), ``lenet5_caffe`` those
of the Caffe example that the pruning literature uses (431,080). Both have max pools; the non-linearity is an option.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from deepprobe.errors import ConfigError
from deepprobe.models.activations import ACTIVATIONS
from deepprobe.models.initialisation import Scheme
from deepprobe.models.zoo import STRICT, Entry, ModelOptions, ZooModel


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LeNetOptions(ModelOptions):
    """Options of the small networks; their initialisation is Glorot's, as in the lottery-ticket paper."""

    init: Scheme = "glorot"


class SmallNet(ZooModel):
    """Convolutions with pools between them, if any, then fully connected layers.

    Args:
        features: Everything before the first fully connected layer.
        n_features: Values that it makes of one image.
        hidden: Units of each fully connected layer before the last.
        options: Classes and activation.
    """

    def __init__(
        self, features: OrderedDict[str, nn.Module], n_features: int, *, hidden: tuple[int, ...], options: LeNetOptions
    ) -> None:
        super().__init__()
        if n_features < 1:
            raise ConfigError(
                f"input_size={options.input_size} is too small: the pools leave no pixel of such an image"
            )
        self.features = nn.Sequential(features)
        self.flatten = nn.Flatten()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, width in enumerate(hidden, start=1):
            layers[f"fc{index}"] = nn.Linear(n_features, width)
            layers[f"act{index}"] = ACTIVATIONS[options.activation]()
            n_features = width
        layers[f"fc{len(hidden) + 1}"] = nn.Linear(n_features, options.num_classes)
        self.classifier = nn.Sequential(layers)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, shape (n, classes), of images of shape (n, channels, height, width)."""
        scores: Tensor = self.classifier(self.flatten(self.features(images)))
        return scores


def _lenet_300_100(options: LeNetOptions) -> SmallNet:
    """Fully connected layers of 300 and 100 units."""
    return SmallNet(OrderedDict(), options.in_channels * options.input_size**2, hidden=(300, 100), options=options)


def _lenet_5(
    options: LeNetOptions, *, channels: tuple[int, int], hidden: tuple[int, ...], first_padding: int
) -> SmallNet:
    """Two 5×5 convolutions, each with a max pool, then fully connected layers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    n_in, size = options.in_channels, options.input_size
    for index, (n_out, padding) in enumerate(zip(channels, (first_padding, 0), strict=True), start=1):
        layers[f"conv{index}"] = nn.Conv2d(n_in, n_out, 5, padding=padding)
        layers[f"act{index}"] = ACTIVATIONS[options.activation]()
        layers[f"pool{index}"] = nn.MaxPool2d(2)
        n_in, size = n_out, max(0, (size + 2 * padding - 4) // 2)
    return SmallNet(layers, n_in * size**2, hidden=hidden, options=options)


def _conv(options: LeNetOptions, *, channels: tuple[int, ...]) -> SmallNet:
    """Pairs of 3×3 convolutions, a max pool after each pair, then two layers of 256 units."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    n_in, size = options.in_channels, options.input_size
    for index, n_out in enumerate(channels, start=1):
        layers[f"conv{index}"] = nn.Conv2d(n_in, n_out, 3, padding=1)
        layers[f"act{index}"] = ACTIVATIONS[options.activation]()
        if index % 2 == 0:
            layers[f"pool{index // 2}"] = nn.MaxPool2d(2)
            size //= 2
        n_in = n_out
    return SmallNet(layers, n_in * size**2, hidden=(256, 256), options=options)


_GREY_28 = {"in_channels": 1, "input_size": 28}


def _entry(name: str, build: Callable[[LeNetOptions], SmallNet], text: str, **defaults: object) -> Entry:
    """Entry of one network."""
    return Entry(name, "lenet" if name.startswith("lenet") else "conv", LeNetOptions, build, defaults, {}, text)


_CLASSIC = partial(_lenet_5, channels=(6, 16), hidden=(120, 84), first_padding=2)
_CAFFE = partial(_lenet_5, channels=(20, 50), hidden=(500,), first_padding=0)

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _entry("lenet300_100", _lenet_300_100, "LeNet-300-100: fully connected", **_GREY_28),
        _entry("lenet5", _CLASSIC, "LeNet-5 with the layer sizes of 1998", **_GREY_28),
        _entry("lenet5_caffe", _CAFFE, "LeNet-5 of the pruning literature (Caffe's)", **_GREY_28),
        _entry("conv2", partial(_conv, channels=(64, 64)), "Conv-2: two convolutions, three full layers"),
        _entry("conv4", partial(_conv, channels=(64, 64, 128, 128)), "Conv-4: four convolutions, three full layers"),
        _entry(
            "conv6",
            partial(_conv, channels=(64, 64, 128, 128, 256, 256)),
            "Conv-6: six convolutions, three full layers",
        ),
    )
}
