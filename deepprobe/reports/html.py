"""The report: one HTML file that needs nothing else, no network and no other file."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deepprobe.reports import page
from deepprobe.reports.findings import findings
from deepprobe.reports.source import networks
from deepprobe.reports.tables import COLUMNS
from deepprobe.reports.words import clean, listed, plural
from deepprobe.runs.atomic import make_folder, write_bytes


def write_report(source: Any, path: str | Path, *, title: str | None = None) -> Path:
    """Write a report on one network, on one over its training, or on several side by side.

    The file opens without a network; its Content-Security-Policy allows nothing but its own styles, embedded pictures
    and one script (for sorting tables), named by its hash. The same source gives the same bytes.

    Args:
        source: A wide table (``condition_numbers``), a mapping of layer calls to Spectrum (``spectra``), a run, or a
            list or dict (name to member) of these. Runs that differ in their seed only count as one network.
        path: The HTML file to write; replaced in one step.
        title: Heading; made from the networks' names by default.

    Returns:
        The path written to.

    Raises:
        ShapeError: If source is none of these, or a table lacks required columns.
        RunError: If the file cannot be written.
    """
    target = Path(path)
    text = render(source, title=title)
    make_folder(target.parent)
    write_bytes(target, text.encode())
    return target


def render(source: Any, *, title: str | None = None) -> str:
    """The report as text; arguments and errors as ``write_report``."""
    group = networks(source)
    runs = sum(len(n.runs) for n in group)
    n_layers = sum(len(n.layers) for n in group)
    heading = clean(title) if title else _heading([n.name for n in group])
    return fill(
        "report.html",
        title=heading,
        lead=f"{plural(len(group), 'network')}, {plural(runs, 'run')}, {plural(n_layers, 'measurement')} of layers.",
        findings=findings(group),
        summary=page.summary_table(group),
        sections=page.sections(group),
        layers=page.layer_parts(group),
        columns=COLUMNS,
        several_runs=any(len(n.runs) > 1 for n in group),
        definitions=page.definitions(group),
        provenance=page.provenance(group),
    )


def fill(template: str, **content: Any) -> str:
    """A page made from a template: what it holds is escaped, its one script is named by its hash."""
    script, css = _asset("sort.js"), _asset("report.css")
    environment = Environment(
        loader=PackageLoader("deepprobe.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        version=_version(), policy=_policy(script), css=Markup(css), script=Markup(script), **content
    )


def _heading(names: list[str]) -> str:
    """Title from the networks' names."""
    if not names or names == ["network"]:
        return "Condition numbers by layer"
    shown = [clean(n, limit=60) for n in names[:4]] + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return f"Condition numbers by layer: {listed(shown)}"


def _policy(script: str) -> str:
    """Content-Security-Policy that lets this script run and nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    """Text of a file among the templates."""
    return (resources.files("deepprobe.reports") / "templates" / name).read_text(encoding="utf-8")


def _version() -> str:
    """Version of deepprobe, from its metadata."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("deepprobe")
    except PackageNotFoundError:
        return "unknown"
