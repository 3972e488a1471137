"""``deepprobe autopsy``: the first steps of a training again, watched, and what happened in which order."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from deepprobe.cli.job import flush_denormals, load_data, training_config
from deepprobe.cli.options import STRICT, parse, parse_over_file
from deepprobe.cli.resume import kept_settings
from deepprobe.cli.subject import build, is_path, model_options
from deepprobe.cli.train import TrainOptions
from deepprobe.cli.training_options import TrainingOptions, refuse_no_model
from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepprobe.diagnosis.autopsy import Autopsy

FIGURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class AutopsyOptions(TrainingOptions):
    """Train the first steps again, watched: what failed, and in which order.

    Each MODEL is the name of a network, or the folder of a run of deepprobe train, whose own settings and data then
    hold where the words do not say otherwise.

    For example:
      deepprobe autopsy plainnet164 --data digits --lr 0.1 --schedule constant
      deepprobe autopsy plainnet164 resnet164 --data digits --lr 0.01 --figure autopsy.png
      deepprobe autopsy runs/plainnet164-seed0 --steps 50 --out events.csv
    """

    __pydantic_config__ = STRICT

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial weights, the order of the data and the augmentation."""
    steps: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Updates to watch; the settings are those of the whole training."""
    out: Path | None = None
    """CSV file for the events."""
    figure: Path | None = None
    """File for the figure: .png, .svg or .pdf."""


def run(words: Sequence[str]) -> None:
    """Examine each training; print a paragraph of each, and write what is asked for."""
    options, _ = parse_over_file(AutopsyOptions, words, verb="autopsy")
    refuse_no_model(options, verb="autopsy")
    if options.figure is not None and options.figure.suffix not in FIGURES:
        raise ConfigError(f"--figure {options.figure}: its name must end in {', '.join(FIGURES)}")
    flush_denormals()
    found = {}
    for name in dict.fromkeys(options.models):
        found[name] = _examined(_settings(name, options, words))
        if not options.quiet:
            print(f"{name}: {found[name]}\n", flush=True)
    _write(found, options)


def _settings(name: str, options: AutopsyOptions, words: Sequence[str]) -> AutopsyOptions:
    """The options of one network: those of the words, or of a run with the words on top.

    Raises:
        RunError: If the run is damaged, or was not begun by ``deepprobe train``.
        ConfigError: If there is a file of settings beside a run.
    """
    if not is_path(name):
        return replace(options, models=(name,))
    if options.config is not None:
        raise ConfigError(f"--config {options.config}: {name} has settings of its own; give single options beside it")
    kept = kept_settings(Path(name), TrainOptions)
    known = {f.name for f in fields(AutopsyOptions)}
    defaults: dict[str, Any] = {key: value for key, value in kept.items() if key in known} | {"seed": kept["seeds"][0]}
    return replace(parse(AutopsyOptions, words, verb="autopsy", defaults=defaults), models=kept["models"])


def _examined(options: AutopsyOptions) -> Autopsy:
    """The autopsy of one training."""
    import torch

    from deepprobe.diagnosis.autopsy import autopsy

    data = load_data(options)
    config = training_config(options, seed=options.seed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = build(options.models[0], data.train, seed=options.seed, options=model_options(options.model_options))
    return autopsy(model, data.train.tensors(), config, steps=options.steps, progress=not options.quiet)


def _write(found: dict[str, Autopsy], options: AutopsyOptions) -> None:
    """The files that were asked for."""
    from deepprobe.runs.atomic import make_folder, write_bytes

    if options.out is not None:
        import pandas as pd

        from deepprobe.reports.tables import to_csv

        tables = [one.table().assign(network=name) for name, one in found.items()]
        make_folder(options.out.parent)
        write_bytes(options.out, to_csv(pd.concat(tables, ignore_index=True)).encode())
    if options.figure is not None:
        from io import BytesIO

        from deepprobe.reports.autopsy import autopsy_figure

        content = BytesIO()
        autopsy_figure(found).savefig(content, format=options.figure.suffix[1:], dpi=120)
        make_folder(options.figure.parent)
        write_bytes(options.figure, content.getvalue())
