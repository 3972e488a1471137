"""Parts of PlainNet, ResNet and ResNeXt: stem, basic and bottleneck blocks, shortcuts.

Every activation is a module of its own and none works in place. What lies on a shortcut is under the attribute
``shortcut``; a block without one lacks that attribute's module and has everything else under the same names.
The stride of a bottleneck is on its 3×3 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepprobe.models.activations import ACTIVATIONS

Shortcut = Literal["none", "A", "B", "C"]


@dataclass(frozen=True)
class Style:
    """What all blocks of one network have in common.

    Attributes:
        shortcut: ``none``; ``A`` identity, zero-padded where channels grow; ``B`` projection where the shape changes;
            ``C`` projection everywhere (He et al. 2015).
        shortcut_scale: Factor on the shortcut before the addition.
        cardinality: Groups of a bottleneck's 3×3 convolution.
        batch_norm: Whether convolutions are followed by batch normalisation instead of having a bias.
        activation: Name of the non-linearity.
    """

    shortcut: Shortcut
    shortcut_scale: float
    cardinality: int
    batch_norm: bool
    activation: str

    def convolution(self, n_in: int, n_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        """Convolution that keeps the image's size but for its stride."""
        padding = kernel // 2
        bias = not self.batch_norm
        return nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=padding, groups=groups, bias=bias)

    def normalisation(self, n_channels: int) -> nn.Module:
        """Batch normalisation, or nothing."""
        return nn.BatchNorm2d(n_channels) if self.batch_norm else nn.Identity()

    def nonlinearity(self) -> nn.Module:
        """A new activation module."""
        return ACTIVATIONS[self.activation]()


@dataclass(frozen=True)
class BlockShape:
    """Where a block stands and what goes in and out.

    Attributes:
        n_in: Channels of the input.
        n_middle: Channels between the block's convolutions.
        n_out: Channels of the output.
        stride: Factor by which height and width shrink.
        first: Whether it is the first block of the network.
        last: Whether it is the last.
    """

    n_in: int
    n_middle: int
    n_out: int
    stride: int
    first: bool = False
    last: bool = False


class Add(nn.Module):
    """Sum of a block's branch and its scaled shortcut; the branch alone where there is none."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, branch: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Sum, of the branch's shape."""
        if shortcut is None or self.scale == 0:
            return branch
        return torch.add(branch, shortcut, alpha=self.scale)

    def extra_repr(self) -> str:
        """The factor, for ``print(model)``."""
        return f"scale={self.scale:g}"


class ZeroPadding(nn.Module):
    """Shortcut A where the shape changes: every stride-th pixel, and zeros for the channels that are new."""

    def __init__(self, n_new: int, stride: int) -> None:
        super().__init__()
        self.n_new, self.stride = n_new, stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsampled and padded input; it has no parameters."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.n_new))

    def extra_repr(self) -> str:
        """New channels and stride, for ``print(model)``."""
        return f"n_new={self.n_new}, stride={self.stride}"


class Projection(nn.Sequential):
    """Shortcut B and C: a 1×1 convolution and its normalisation."""

    def __init__(self, shape: BlockShape, style: Style) -> None:
        super().__init__()
        self.conv = style.convolution(shape.n_in, shape.n_out, 1, stride=shape.stride)
        self.norm = style.normalisation(shape.n_out)


class Stem(nn.Module):
    """First convolution with its normalisation and activation, and a max pool for large images."""

    def __init__(self, n_in: int, n_out: int, style: Style, *, large: bool = False) -> None:
        super().__init__()
        self.conv = style.convolution(n_in, n_out, 7 if large else 3, stride=2 if large else 1)
        self.norm = style.normalisation(n_out)
        self.act = style.nonlinearity()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large else None

    def forward(self, images: Tensor) -> Tensor:
        """What the first stage receives."""
        out: Tensor = self.act(self.norm(self.conv(images)))
        return out if self.pool is None else self.pool(out)


class Block(nn.Module):
    """What the four blocks share: the shortcut and the addition."""

    shortcut: nn.Module | None

    def _join(self, shape: BlockShape, style: Style) -> None:
        """Register the shortcut, if there is one, and the addition."""
        self.shortcut = _shortcut(shape, style)
        self.add = Add(style.shortcut_scale)


class BasicBlock(Block):
    """Two 3×3 convolutions, activation after the addition (He et al. 2015)."""

    def __init__(self, shape: BlockShape, style: Style) -> None:
        super().__init__()
        self.conv1 = style.convolution(shape.n_in, shape.n_middle, 3, stride=shape.stride)
        self.norm1 = style.normalisation(shape.n_middle)
        self.act1 = style.nonlinearity()
        self.conv2 = style.convolution(shape.n_middle, shape.n_out, 3)
        self.norm2 = style.normalisation(shape.n_out)
        self._join(shape, style)
        self.act2 = style.nonlinearity()

    def forward(self, x: Tensor) -> Tensor:
        """Output after the addition and the activation."""
        branch = self.act1(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        out: Tensor = self.act2(self.add(branch, self.shortcut(x) if self.shortcut is not None else None))
        return out

    def branch_norm(self) -> nn.Module:
        """Normalisation after the last convolution; with γ = 0 the branch is zero."""
        return self.norm2


class Bottleneck(Block):
    """1×1, 3×3 and 1×1 convolution, activation after the addition (He et al. 2015; grouped: Xie et al. 2017)."""

    def __init__(self, shape: BlockShape, style: Style) -> None:
        super().__init__()
        middle = shape.n_middle
        self.conv1 = style.convolution(shape.n_in, middle, 1)
        self.norm1 = style.normalisation(middle)
        self.act1 = style.nonlinearity()
        self.conv2 = style.convolution(middle, middle, 3, stride=shape.stride, groups=style.cardinality)
        self.norm2 = style.normalisation(middle)
        self.act2 = style.nonlinearity()
        self.conv3 = style.convolution(middle, shape.n_out, 1)
        self.norm3 = style.normalisation(shape.n_out)
        self._join(shape, style)
        self.act3 = style.nonlinearity()

    def forward(self, x: Tensor) -> Tensor:
        """Output after the addition and the activation."""
        branch = self.act1(self.norm1(self.conv1(x)))
        branch = self.act2(self.norm2(self.conv2(branch)))
        branch = self.norm3(self.conv3(branch))
        out: Tensor = self.act3(self.add(branch, self.shortcut(x) if self.shortcut is not None else None))
        return out

    def branch_norm(self) -> nn.Module:
        """Normalisation after the last convolution; with γ = 0 the branch is zero."""
        return self.norm3


class PreActivationBlock(Block):
    """Normalisation and activation before each convolution, nothing after the addition (He et al. 2016).

    The first block of a network lacks the first pair, since the stem has just done that; the last block has one more
    pair after its addition (``tail``). Projections read the activated input; they are normalised like those of the
    other blocks, which the code published with the paper leaves out (896 of 1,704,154 parameters at 164 layers).
    """

    tail: nn.Module | None

    def __init__(self, shape: BlockShape, style: Style) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if shape.first else style.normalisation(shape.n_in)
        self.act1 = nn.Identity() if shape.first else style.nonlinearity()
        self._add_branch(shape, style)
        self._join(shape, style)
        self.tail = nn.Sequential(style.normalisation(shape.n_out), style.nonlinearity()) if shape.last else None

    def _add_branch(self, shape: BlockShape, style: Style) -> None:
        """Register the branch's layers, from the first convolution on."""
        raise NotImplementedError

    def _branch(self, activated: Tensor) -> Tensor:
        """The branch, from the first convolution on."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Output after the addition; in the network's last block after ``tail``."""
        activated = self.act1(self.norm1(x))
        carried = None
        if self.shortcut is not None:
            carried = self.shortcut(activated if isinstance(self.shortcut, Projection) else x)
        out: Tensor = self.add(self._branch(activated), carried)
        return out if self.tail is None else self.tail(out)


class PreActivationBasicBlock(PreActivationBlock):
    """Two 3×3 convolutions, each after normalisation and activation (He et al. 2016)."""

    def _add_branch(self, shape: BlockShape, style: Style) -> None:
        """Register the branch's layers, from the first convolution on."""
        self.conv1 = style.convolution(shape.n_in, shape.n_middle, 3, stride=shape.stride)
        self.norm2 = style.normalisation(shape.n_middle)
        self.act2 = style.nonlinearity()
        self.conv2 = style.convolution(shape.n_middle, shape.n_out, 3)

    def _branch(self, activated: Tensor) -> Tensor:
        """The branch, from the first convolution on."""
        out: Tensor = self.conv2(self.act2(self.norm2(self.conv1(activated))))
        return out


class PreActivationBottleneck(PreActivationBlock):
    """1×1, 3×3 and 1×1 convolution, each after normalisation and activation (He et al. 2016)."""

    def _add_branch(self, shape: BlockShape, style: Style) -> None:
        """Register the branch's layers, from the first convolution on."""
        middle = shape.n_middle
        self.conv1 = style.convolution(shape.n_in, middle, 1)
        self.norm2 = style.normalisation(middle)
        self.act2 = style.nonlinearity()
        self.conv2 = style.convolution(middle, middle, 3, stride=shape.stride, groups=style.cardinality)
        self.norm3 = style.normalisation(middle)
        self.act3 = style.nonlinearity()
        self.conv3 = style.convolution(middle, shape.n_out, 1)

    def _branch(self, activated: Tensor) -> Tensor:
        """The branch, from the first convolution on."""
        branch = self.conv2(self.act2(self.norm2(self.conv1(activated))))
        out: Tensor = self.conv3(self.act3(self.norm3(branch)))
        return out


def _shortcut(shape: BlockShape, style: Style) -> nn.Module | None:
    """The shortcut that the style asks for, or None in a PlainNet."""
    if style.shortcut == "none":
        return None
    changes = shape.stride != 1 or shape.n_in != shape.n_out
    if style.shortcut == "C" or (style.shortcut == "B" and changes):
        return Projection(shape, style)
    return ZeroPadding(shape.n_out - shape.n_in, shape.stride) if changes else nn.Identity()
