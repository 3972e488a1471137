"""ResNet-18/34/50/101/152 of He et al. (2015) for 224-pixel images, their plain twins, and ResNeXt (Xie et al. 2017).

The blocks are those of :mod:`deepprobe.models.residual`; the stride of a bottleneck is on its 3×3 convolution, as in
torchvision. Images of up to 64 pixels get a 3×3 stem without a pool unless ``stem`` says otherwise.
"""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from deepprobe.models.residual import BlockKind, ResidualNet, ResidualOptions, is_legal, legal_kinds
from deepprobe.models.zoo import STRICT, Entry, StemKind

_STAGES: dict[int, tuple[BlockKind, tuple[int, int, int, int]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageNetOptions(ResidualOptions):
    """Options of the four-stage networks for ImageNet.

    Attributes:
        stem: ``imagenet`` (7×7 convolution and max pool, together a quarter of the height and width), ``small`` (3×3
            convolution), or ``auto`` by ``input_size``.
    """

    depth: Literal[18, 34, 50, 101, 152]
    stem: StemKind = "auto"

    @property
    def block_kind(self) -> BlockKind:
        """``basic`` or ``bottleneck``."""
        return _STAGES[self.depth][0]

    @property
    def stages(self) -> tuple[int, ...]:
        """Blocks of each of the four stages."""
        return _STAGES[self.depth][1]

    @property
    def large_stem(self) -> bool:
        """Whether the stem is the 7×7 convolution and max pool."""
        return self.stem == "imagenet" or (self.stem == "auto" and self.input_size > 64)


def _entry(name: str, family: str, depth: int, **options: object) -> Entry:
    """Entry of one network; the options given here are fixed by its name."""
    small = any(is_legal(depth, kind) for kind in legal_kinds(family))
    note = f"; of this depth for small images: create_model({family!r}, depth={depth})" if small else ""
    groups = f", {options['cardinality']} groups of {options['width']} channels" if family == "resnext" else ""
    title = {"plainnet": "PlainNet", "resnet": "ResNet", "resnext": "ResNeXt"}[family]
    defaults: dict[str, object] = {"input_size": 224, "base_width": 64}
    fixed: dict[str, object] = {"depth": depth, **options}
    if family == "resnet":
        defaults["shortcut"] = "B"
    return Entry(
        name, family, ImageNetOptions, ResidualNet, defaults, fixed, f"{title}-{depth} for ImageNet{groups}{note}"
    )


def _entries() -> dict[str, Entry]:
    """All networks of this file by name."""
    entries = [_entry(f"resnet{depth}", "resnet", depth) for depth in _STAGES]
    entries += [_entry(f"plainnet{depth}", "plainnet", depth, shortcut="none") for depth in _STAGES]
    for depth, width, suffix in ((50, 4, ""), (50, 4, "_32x4d"), (101, 4, ""), (101, 4, "_32x4d"), (101, 8, "_32x8d")):
        entries.append(_entry(f"resnext{depth}{suffix}", "resnext", depth, cardinality=32, width=width))
    return {entry.name: entry for entry in entries}


ENTRIES = _entries()
