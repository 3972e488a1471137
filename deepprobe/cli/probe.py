"""``deepprobe probe``: the condition numbers of one network, as a table, a CSV file and an HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from deepprobe.cli.options import parse
from deepprobe.cli.subject import SubjectOptions, open_subject
from deepprobe.cli.train import Tap, View
from deepprobe.errors import ShapeError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from torch import Tensor, nn

SHOWN = ("depth", "layer", "type", "tap", "view", "n_rows", "n_features", "status", "condition_number")
SHOWN_TOO = ("condition_number_live", "numerical_rank", "n_dead")
SHOWN_IF_ASKED = ("condition_number_se", "condition_number_shuffled")


@dataclass(frozen=True)
class ProbeOptions(SubjectOptions):
    """Condition numbers, ranks and dead units of every layer of one network.

    MODEL is the name of a network, which is then untrained; the folder of a run; or a file of weights.
    Taps and views go in pairs: the first tap with the first view, and so on.

    For example:
      deepprobe probe resnet20 --data digits
      deepprobe probe runs/resnet56-seed0 --out layers.csv --html report.html
      deepprobe probe resnet56 --weights mine.pt --tap output --view channels --layers 'features.stage2.*'
    """

    layers: tuple[str, ...] = ()
    """Layers, as patterns of names such as 'features.stage2.*'; all with weights by default, all blocks for block."""
    tap: tuple[Tap, ...] = ("block", "input")
    """Where representations are read."""
    view: tuple[View, ...] = ("samples", "channels")
    """How they become matrices: one for each tap, or one for all."""
    rows: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Positions of each sample that become rows: all, or so many at random."""
    replay: Annotated[int, Field(ge=0, le=1024)] = 0
    """Samples to run again in float64, to measure what rounding does."""
    error_groups: Annotated[int, Field(ge=0, le=1024)] = 0
    """Groups of images for the standard error of log10 κ, in the views channels, pooled and tokens; typically 16."""
    shuffled_null: bool = False
    """Whether to give κ also with every unit's maps permuted over a batch, in the views channels and pooled."""
    out: Path | None = None
    """CSV file for the whole table."""
    html: Path | None = None
    """HTML page for the report."""


def run(words: Sequence[str]) -> None:
    """Probe one network; print the table, or write it."""
    options = parse(ProbeOptions, words, verb="probe")
    model, images = open_subject(options)
    from deepprobe.data import batches

    table = _table(model, list(batches(*images, batch_size=options.batch_size)), options)
    if options.out is not None:
        from deepprobe.reports import write_csv

        write_csv(table, options.out)
    if options.html is not None:
        from deepprobe.reports import write_report

        write_report(table, options.html, title=f"{options.model}: conditioning by depth")
    if options.quiet:
        return
    written = [str(path) for path in (options.out, options.html) if path is not None]
    if written:
        print(f"{len(table)} layer calls: {', '.join(written)}")
    else:
        resampled = (options.error_groups, options.shuffled_null)
        asked = [name for name, is_asked in zip(SHOWN_IF_ASKED, resampled, strict=True) if is_asked]
        print(table[[*SHOWN, *SHOWN_TOO, *asked]].to_string(index=False, float_format="{:.3g}".format))


def _table(model: nn.Module, images: list[tuple[Tensor, Tensor]], options: ProbeOptions) -> pd.DataFrame:
    """One row a layer call, tap and view."""
    import pandas as pd
    from tqdm.auto import tqdm

    from deepprobe.integrations import ProbeCallback

    pairs = ProbeCallback(tap=options.tap, view=options.view).pairs
    bar = tqdm(pairs, desc="probing", unit="view", disable=True if options.quiet else None)
    return pd.concat([_one(model, images, tap, view, options) for tap, view in bar], ignore_index=True)


def _one(
    model: nn.Module, images: list[tuple[Tensor, Tensor]], tap: str, view: str, options: ProbeOptions
) -> pd.DataFrame:
    """The table of one tap and view; ``block`` becomes ``output`` in a network without blocks."""
    from deepprobe.probes import condition_numbers

    try:
        return condition_numbers(
            model,
            images,
            layers=options.layers or None,
            tap=tap,
            view=view,
            rows=options.rows,
            device=options.device,
            seed=options.seed,
            replay=options.replay,
            **_resampling(view, options),
            progress=not options.quiet,
        )
    except RuntimeError as error:  # torch's word for images that do not fit
        shape = tuple(images[0][0].shape[1:])
        raise ShapeError(f"{options.model} does not take images of shape {shape}: {error}") from error
    except UnknownNameError:
        if tap != "block" or options.layers:
            raise
        return _one(model, images, "output", view, options)


def _resampling(view: str, options: ProbeOptions) -> dict[str, Any]:
    """What is asked of one of several views: nothing that only the others have; where none has it, it is refused."""
    from deepprobe.linalg.matricize import RESAMPLED_VIEWS, SHUFFLED_VIEWS

    spared_error = view not in RESAMPLED_VIEWS and not set(RESAMPLED_VIEWS).isdisjoint(options.view)
    spared_null = view not in SHUFFLED_VIEWS and not set(SHUFFLED_VIEWS).isdisjoint(options.view)
    return {
        "error_groups": 0 if spared_error else options.error_groups,
        "shuffled_null": options.shuffled_null and not spared_null,
    }
