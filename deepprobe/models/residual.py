"""PlainNet, ResNet and ResNeXt: one builder, so that they differ in nothing but what is asked for.

Networks for small images (8 to 64 pixels) have three stages with 1, 2 and 4 times the first stage's channels; their
depth counts the weighted layers of the main path: 6n+2 with basic blocks (He et al. 2015), 9n+2 with bottlenecks
(He et al. 2016, Xie et al. 2017), n blocks a stage. Those for ImageNet are in :mod:`deepprobe.models.imagenet`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from deepprobe.models.blocks import (
    BasicBlock,
    Block,
    BlockShape,
    Bottleneck,
    PreActivationBasicBlock,
    PreActivationBottleneck,
    Shortcut,
    Stem,
    Style,
)
from deepprobe.models.zoo import STRICT, Count, Entry, ModelOptions, ZooModel

BlockKind = Literal["basic", "bottleneck"]
Scale = Annotated[float, Field(ge=-1e6, le=1e6)]

SHALLOWEST, DEEPEST = 8, 1202
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
"""Depths that in a name mean He's ImageNet networks, even where 6n+2 or 9n+2 would allow them."""

_EXPANSION = 4
_LAYERS_PER_BLOCK = {"basic": 2, "bottleneck": 3}
_BLOCKS: dict[tuple[str, bool], type[BasicBlock | Bottleneck | PreActivationBasicBlock | PreActivationBottleneck]] = {
    ("basic", False): BasicBlock,
    ("bottleneck", False): Bottleneck,
    ("basic", True): PreActivationBasicBlock,
    ("bottleneck", True): PreActivationBottleneck,
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResidualOptions(ModelOptions):
    """Options of every PlainNet, ResNet and ResNeXt.

    Attributes:
        depth: Weighted layers on the main path.
        preactivation: Normalisation and activation before each convolution (He et al. 2016) instead of after it.
        shortcut: ``none``, ``A``, ``B`` or ``C``; if left out ``A`` with basic blocks and ``B`` with bottlenecks.
        shortcut_scale: Factor on the shortcut before the addition: 1 is a ResNet, 0 computes what a PlainNet does.
        cardinality: Groups of the 3×3 convolution of a bottleneck; above 1 it is a ResNeXt.
        width: Channels of one such group in the first stage; ``base_width`` / cardinality if left out.
        base_width: Channels of the stem; blocks of the first stage have as many, or four times as many out of
            bottlenecks.
        batch_norm: Whether to normalise; convolutions have a bias where not.
        zero_gamma: Whether every branch starts at zero, by its last normalisation (Goyal et al. 2017).
    """

    depth: int
    preactivation: bool = False
    shortcut: Shortcut | None = None
    shortcut_scale: Scale = 1.0
    cardinality: Count = 1
    width: Count | None = None
    base_width: Count = 16
    batch_norm: bool = True
    zero_gamma: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if self.cardinality > 1 and self.block_kind == "basic":
            raise ValueError(f"cardinality={self.cardinality} needs bottleneck blocks")
        if self.width is not None and self.block_kind == "basic":
            raise ValueError(f"width={self.width} needs bottleneck blocks; base_width sets that of basic ones")
        if self.width is None and self.base_width % self.cardinality:
            raise ValueError(f"base_width={self.base_width} is not divisible by cardinality={self.cardinality}")
        if self.zero_gamma and (not self.batch_norm or self.preactivation or self.style.shortcut == "none"):
            raise ValueError(
                "zero_gamma needs batch_norm, post-activation and a shortcut; nothing could learn otherwise"
            )

    @property
    def block_kind(self) -> BlockKind:
        """``basic`` or ``bottleneck``."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        raise NotImplementedError

    @property
    def large_stem(self) -> bool:
        """Whether the stem is the 7×7 convolution and max pool of ImageNet networks."""
        return False

    @property
    def style(self) -> Style:
        """What all blocks have in common."""
        return Style(
            shortcut=self.shortcut or ("A" if self.block_kind == "basic" else "B"),
            shortcut_scale=self.shortcut_scale,
            cardinality=self.cardinality,
            batch_norm=self.batch_norm,
            activation=self.activation,
        )

    def widths(self, stage: int) -> tuple[int, int]:
        """Channels between the convolutions and at the output of a block of a stage, counted from 0."""
        middle = self.base_width if self.width is None else self.cardinality * self.width
        n_out = self.base_width * (1 if self.block_kind == "basic" else _EXPANSION)
        return middle * 2**stage, n_out * 2**stage


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SmallImageOptions(ResidualOptions):
    """Options of the three-stage networks for small images.

    Attributes:
        block: ``basic`` or ``bottleneck``; if left out basic wherever the depth allows it, but bottlenecks in a
            ResNeXt and, from 164 on, in a pre-activation ResNet (as published).
    """

    block: BlockKind | None = None

    def __post_init__(self) -> None:
        """Refuse depths that no whole number of blocks gives."""
        kinds: tuple[BlockKind, ...] = (self.block,) if self.block else ("basic", "bottleneck")
        if self.cardinality > 1 or self.width is not None:
            kinds = ("bottleneck",)
        if not any(is_legal(self.depth, kind) for kind in kinds):
            near = " and ".join(str(depth) for depth in nearest_depths(self.depth, kinds))
            raise ValueError(f"depth={self.depth} is not {_formula(kinds)}; the nearest: {near}{_hint(self.depth)}")
        ResidualOptions.__post_init__(self)

    @property
    def block_kind(self) -> BlockKind:
        """``basic`` or ``bottleneck``."""
        if self.block:
            return self.block
        wide = self.cardinality > 1 or self.width is not None or (self.preactivation and self.depth >= 164)
        if is_legal(self.depth, "bottleneck") and (wide or not is_legal(self.depth, "basic")):
            return "bottleneck"
        return "basic"

    @property
    def stages(self) -> tuple[int, ...]:
        """Blocks of each of the three stages."""
        return ((self.depth - 2) // (3 * _LAYERS_PER_BLOCK[self.block_kind]),) * 3


class ResidualNet(ZooModel):
    """PlainNet, ResNet or ResNeXt: stem, stages of blocks, mean over the image, one fully connected layer.

    Args:
        options: What to build.
    """

    def __init__(self, options: ResidualOptions) -> None:
        super().__init__()
        self._zero_gamma = options.zero_gamma
        style = options.style
        n_channels = options.base_width
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["stem"] = Stem(options.in_channels, n_channels, style, large=options.large_stem)
        for stage in range(len(options.stages)):
            parts[f"stage{stage + 1}"] = nn.Sequential(*_stage(options, stage, n_channels, style))
            n_channels = options.widths(stage)[1]
        self.features = nn.Sequential(parts)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(n_channels, options.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, shape (n, classes), of images of shape (n, channels, height, width)."""
        scores: Tensor = self.classifier(self.flatten(self.pool(self.features(images))))
        return scores

    def finish_initialisation(self) -> None:
        """Set the last γ of every branch to zero where that was asked for."""
        if self._zero_gamma:
            for block in self.modules():
                if isinstance(block, BasicBlock | Bottleneck):
                    norm = block.branch_norm()
                    if isinstance(norm, nn.BatchNorm2d):
                        nn.init.zeros_(norm.weight)


def _stage(options: ResidualOptions, stage: int, n_in: int, style: Style) -> list[Block]:
    """The blocks of one stage; the first changes the shape."""
    make = _BLOCKS[options.block_kind, options.preactivation]
    n_middle, n_out = options.widths(stage)
    n_blocks, is_last_stage = options.stages[stage], stage == len(options.stages) - 1
    return [
        make(
            BlockShape(
                n_in=n_out if index else n_in,
                n_middle=n_middle,
                n_out=n_out,
                stride=2 if stage and not index else 1,
                first=not stage and not index,
                last=is_last_stage and index == n_blocks - 1,
            ),
            style,
        )
        for index in range(n_blocks)
    ]


def is_legal(depth: int, kind: BlockKind) -> bool:
    """Whether three stages of whole blocks give that depth, between 8 and 1202."""
    return SHALLOWEST <= depth <= DEEPEST and (depth - 2) % (3 * _LAYERS_PER_BLOCK[kind]) == 0


def nearest_depths(depth: int, kinds: tuple[BlockKind, ...]) -> list[int]:
    """Legal depths on either side, one or two; those whose names mean ImageNet networks are left out."""
    legal = [
        d
        for d in range(SHALLOWEST, DEEPEST + 1)
        if d not in IMAGENET_DEPTHS and any(is_legal(d, kind) for kind in kinds)
    ]
    below, above = [d for d in legal if d < depth], [d for d in legal if d > depth]
    return below[-1:] + above[:1]


def _formula(kinds: tuple[BlockKind, ...]) -> str:
    """The rule that a depth must follow, in words."""
    rules = {"basic": "6n+2 (basic blocks)", "bottleneck": "9n+2 (bottlenecks)"}
    return f"{' or '.join(rules[kind] for kind in kinds)} between {SHALLOWEST} and {DEEPEST}"


def _hint(depth: int) -> str:
    """Where the ImageNet network of that depth is to be had."""
    return f" (the ImageNet network is called by its name, 'resnet{depth}')" if depth in IMAGENET_DEPTHS else ""


_NAME = re.compile(r"(plainnet|resnet|preresnet|resnext)(0|[1-9]\d{0,11})?(?:_(\d{1,5})x(\d{1,5})d)?")
_TITLES = {"plainnet": "PlainNet", "resnet": "ResNet", "preresnet": "Pre-activation ResNet", "resnext": "ResNeXt"}
FAMILIES = tuple(_TITLES)
"""Names that take the depth as an option."""

NAMES = (
    *(f"{family}{depth}" for family in ("plainnet", "resnet") for depth in (8, 14, 20, 32, 44, 56, 110, 164, 1202)),
    *(f"preresnet{depth}" for depth in (20, 56, 110, 164, 1001)),
    *(f"resnext{depth}" for depth in (11, 20, 29, 56, 110, 164)),
    "resnext29_8x64d",
    "resnext29_16x64d",
)
"""The names that lists show; :func:`find` knows every legal depth."""


def find(name: str) -> Entry | None:
    """Entry of a three-stage network by family, depth and template: ``resnet164``, ``resnext29_8x64d``, ``resnet``.

    Args:
        name: Name in lower case.

    Returns:
        The entry, or None if the name is not of this form. Its options may still refuse the depth.
    """
    match = _NAME.fullmatch(name)
    if match is None or (match[3] and match[1] != "resnext"):
        return None
    family, depth, cardinality, width = match.groups()
    fixed: dict[str, Any] = {"depth": int(depth)} if depth else {}
    defaults: dict[str, Any] = {}
    if family == "plainnet":
        fixed |= {"shortcut": "none"}
    elif family == "preresnet":
        fixed |= {"preactivation": True}
    elif cardinality:
        fixed |= {"block": "bottleneck", "cardinality": int(cardinality), "width": int(width)}
        defaults = {"base_width": 64}
    elif family == "resnext":
        fixed |= {"block": "bottleneck"}
        defaults = {"cardinality": 4, "width": 8, "base_width": 16}
    return Entry(
        name, family, SmallImageOptions, ResidualNet, defaults, fixed, _describe(family, {**defaults, **fixed})
    )


def _describe(family: str, values: dict[str, Any]) -> str:
    """One line about a family or, where the depth is given and legal, one network of it."""
    text = f"{_TITLES[family]} for small images"
    if not any(is_legal(values.get("depth", 0), kind) for kind in legal_kinds(family)):
        return text
    options = SmallImageOptions(**values)
    text += f": 3 × {options.stages[0]} {options.block_kind} blocks"
    if options.width is not None:
        text += f", {options.cardinality} groups of {options.width} channels"
    return text if family == "plainnet" else f"{text}, shortcut {options.style.shortcut}"


def legal_kinds(family: str) -> tuple[BlockKind, ...]:
    """Kinds of blocks that a family may have."""
    return ("bottleneck",) if family == "resnext" else ("basic", "bottleneck")


def unknown_depth(name: str) -> str | None:
    """Sentence about a name whose depth is illegal, with the nearest legal names; None for every other name."""
    match = _NAME.fullmatch(name)
    entry = find(name)
    if match is None or entry is None or match[2] is None:
        return None
    depth, kinds = int(match[2]), legal_kinds(match[1])
    if any(is_legal(depth, kind) for kind in kinds):
        return None
    suffix = name.removeprefix(f"{match[1]}{match[2]}")
    near = " or ".join(repr(f"{match[1]}{d}{suffix}") for d in nearest_depths(depth, kinds))
    return f"no model {name!r}: its depth must be {_formula(kinds)}; the nearest are {near}"
