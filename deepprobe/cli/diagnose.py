"""``deepprobe diagnose``: what is wrong with a network, in plain words, as a CSV file and an HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from deepprobe.cli.options import STRICT, parse
from deepprobe.cli.subject import SubjectOptions, open_subject

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class DiagnoseOptions(SubjectOptions):
    """What is wrong with one network, before or after training: ranked, with evidence and advice.

    MODEL is the name of a network, which is then untrained; the folder of a run; or a file of weights.
    Nothing is trained. With --lr the first step of plain SGD is judged too.

    For example:
      deepprobe diagnose plainnet164 --data digits --lr 0.1
      deepprobe diagnose runs/resnet56-seed0 --html diagnosis.html
    """

    __pydantic_config__ = STRICT

    lr: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Learning rate to judge updates by."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 128
    """Images a batch; layers are seen on the first one, on 128 images at most."""
    device: str | None = None
    """Where to run: cpu, cuda, cuda:N; the CPU by default."""
    out: Path | None = None
    """CSV file for the findings."""
    html: Path | None = None
    """HTML page for findings and evidence."""
    quiet: bool = False
    """Whether to show no progress bar, and to print nothing where a file is written."""


def run(words: Sequence[str]) -> None:
    """Diagnose one network; print what was found, or write it."""
    options = parse(DiagnoseOptions, words, verb="diagnose")
    model, images = open_subject(options)
    from deepprobe.data import batches
    from deepprobe.diagnosis import diagnose

    diagnosis = diagnose(
        model,
        batches(*images, batch_size=options.batch_size),
        lr=options.lr,
        device=options.device,
        seed=options.seed,
        progress=not options.quiet,
    )
    if options.out is not None:
        from deepprobe.reports import write_csv

        write_csv(diagnosis.table(), options.out)
    if options.html is not None:
        from deepprobe.reports import write_diagnosis

        write_diagnosis(diagnosis, options.html, title=f"Diagnosis of {options.model}")
    written = [str(path) for path in (options.out, options.html) if path is not None]
    if not written:
        print(diagnosis)
    elif not options.quiet:
        from deepprobe.reports.words import plural

        print(f"{plural(len(diagnosis.findings), 'finding')}: {', '.join(written)}")
