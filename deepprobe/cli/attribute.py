"""``deepprobe attribute``: which units of a network its answers rest on, as a table, a CSV file and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from deepprobe.cli.options import parse
from deepprobe.cli.subject import SubjectOptions, open_subject
from deepprobe.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

Method = Literal[
    "conductance",
    "integrated-gradients",
    "gradient-x-activation",
    "internal-influence",
    "feature-ablation",
    "grad-cam",
]

LAYER_COLUMNS = ["depth", "layer", "type", "n_features"]
SHOWN = ["gini", "top_1_share", "top_5_share", "top_10_share"]


@dataclass(frozen=True)
class AttributeOptions(SubjectOptions):
    """How much each unit of one network adds to its answers, and how few units hold most of that.

    MODEL is the name of a network, which is then untrained; the folder of a run; or a file of weights.
    What is printed has a row a layer; the CSV file has a row a unit.

    For example:
      deepprobe attribute runs/resnet56-seed0 --out units.csv --figure concentration.png
      deepprobe attribute resnet20 --data digits --method gradient-x-activation grad-cam --layers 'features.stage3.*'
    """

    method: tuple[Method, ...] = ("conductance",)
    """Attributions; the first one is printed and drawn. integrated-gradients and feature-ablation take long."""
    layers: tuple[str, ...] = ()
    """Layers, as patterns of names such as 'features.stage2.*'; all with weights by default, all blocks for block."""
    tap: Literal["output", "block"] = "output"
    """Where the units are: the output of layers or of blocks."""
    target: Literal["label", "predicted"] | Annotated[int, Field(ge=0)] = "label"
    """Whose score is explained: each image's label, the class predicted, or one class for all."""
    baseline: Literal["zero", "mean", "blur"] = "zero"
    """Where paths begin: at zero, at the mean image, or at each image blurred."""
    n_steps: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Points on the path."""
    out: Path | None = None
    """CSV file for the table of units."""
    figure: Path | None = None
    """File for the figure of concentration by depth: .png, .svg or .pdf."""


def run(words: Sequence[str]) -> None:
    """Attribute one network's answers; print how they are shared out, or write it."""
    options = parse(AttributeOptions, words, verb="attribute")
    kind = _kind(options.figure)
    units = _units(options)
    from deepprobe.attribution import concentration

    column = options.method[0].replace("-", "_")
    layers = concentration(units, column)
    if options.out is not None:
        from deepprobe.reports.tables import to_csv
        from deepprobe.runs.atomic import make_folder, write_bytes

        make_folder(options.out.parent)
        write_bytes(options.out, to_csv(units).encode())
    if options.figure is not None:
        _draw(layers, options.figure, kind)
    if options.quiet:
        return
    written = [str(path) for path in (options.out, options.figure) if path is not None]
    if written:
        print(f"{len(units)} units of {len(layers)} layers: {', '.join(written)}")
    else:
        totals = units.groupby("layer", sort=False)[column].sum()
        shown = layers[[*LAYER_COLUMNS, *SHOWN]].assign(total=layers["layer"].map(totals))
        print(shown.to_string(index=False, float_format="{:.3g}".format))


def _units(options: AttributeOptions) -> pd.DataFrame:
    """The table of units of the network and images that the options name."""
    from deepprobe.attribution import attributions
    from deepprobe.data import batches

    model, images = open_subject(options)
    given = list(batches(*images, batch_size=options.batch_size))
    try:
        return attributions(
            model,
            given,
            options.method,
            layers=options.layers or None,
            tap=options.tap,
            target=None if options.target == "label" else options.target,
            baseline=options.baseline,
            n_steps=options.n_steps,
            device=options.device,
            seed=options.seed,
            progress=not options.quiet,
        )
    except RuntimeError as error:  # torch's word for images that do not fit
        raise ShapeError(
            f"{options.model} does not take images of shape {tuple(images[0].shape[1:])}: {error}"
        ) from error


def _kind(path: Path | None) -> str:
    """Format of the figure; ConfigError, before any work, if the file's name says none."""
    kind = path.suffix.lower().removeprefix(".") if path is not None else "png"
    if kind not in {"png", "svg", "pdf"}:
        raise ConfigError(f"--figure {path}: the file must end in .png, .svg or .pdf")
    return kind


def _draw(layers: pd.DataFrame, path: Path, kind: str) -> None:
    """Write the figure, whole or not at all."""
    from io import BytesIO

    from matplotlib.figure import Figure

    from deepprobe.reports.attribution import concentration_by_depth
    from deepprobe.runs.atomic import make_folder, write_bytes

    data = BytesIO()
    figure = Figure(figsize=(5.8, 3.4), layout="constrained")
    concentration_by_depth(layers, figure.subplots(), measure="top_10_share")
    figure.savefig(data, format=kind, dpi=150)
    make_folder(path.parent)
    write_bytes(path, data.getvalue())
