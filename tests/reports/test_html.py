"""The page as a parser sees it: with hostile names, with nothing to show, twice the same."""

import re

import numpy as np
import pandas as pd
import pytest
from html_reading import check_harmless, read

from deepprobe.errors import ShapeError
from deepprobe.reports import write_report
from deepprobe.reports.html import render

HOSTILE = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)', "' onfocus='alert(1)' autofocus='", "</style><style>*{display:none}</style>",
    "</title><script>alert(2)</script>", "<svg/onload=alert(1)>", "<svg><script href=data:,alert(1) />", "<!--",
    "-->", "<![CDATA[<script>alert(1)</script>]]>", "</svg><script>alert(1)</script>",
    "<iframe srcdoc='<script>1</script>'>", "<a href=javascript:alert(1)>x</a>",
    '<math><mi//xlink:href="data:x,<script>alert(4)</script>">', "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>", "<link rel=stylesheet href=//e>",
    "<form action=//evil.example><input>", "<object data=//evil.example>", "<embed src=//evil.example>",
    "&lt;script&gt;", "&#60;script&#62;", "&", "a\x00b", "\x1b[31mred", "\u202egnp.exe", "\u200b\u200d\ufeff",
    "\ud800", "line\nbreak\r\ttab", "x" * 600, "κ" * 300, "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)",
    "$\\frac{", "$x^2$ and $\\alpha$", "\\$\\", "$", "{{7*7}}", "{% for x in y %}", "{{config.__class__}}", "#{1}",
    "_hidden", "__nolegend__", "%s%n", "../../etc/passwd", "", " ", "層.畳み込み", "😀", "url(javascript:1)",
    "expression(alert(1))", "`alert(1)`", "\x85\x9c", "]]>",
]  # fmt: skip


def test_there_are_fifty_hostile_names():
    assert len(set(HOSTILE)) >= 50


@pytest.fixture
def _any_text():
    """Text that may hold a lone surrogate, as pandas keeps it where there is no pyarrow."""
    with pd.option_context("mode.string_storage", "python"):
        yield


@pytest.mark.usefixtures("_any_text")
def test_hostile_names_of_layers_runs_settings_and_values(make_run, make_table):
    letters = ("fcdbsunez" * len(HOSTILE))[: len(HOSTILE)]
    table = make_table(letters)
    table["layer"], table["type"], table["reason"] = HOSTILE, HOSTILE[::-1], HOSTILE
    runs = [
        make_run(
            name, {0: table, 10: table}, config={name: name, "model": {"name": name}}, provenance={"x": {name: name}}
        )
        for name in HOSTILE[:3]
    ]
    short = table.head(3).drop(columns=["n_dead", "n_constant", "n_duplicate"])
    runs += [make_run(name, {0: short}, accuracy=0.5) for name in HOSTILE[3:]]
    for part in np.array_split(np.arange(len(runs)), 5):
        reader = read(render([runs[i] for i in part], title=HOSTILE[part[0]]))
        check_harmless(reader)
        shown = "".join(reader.text)
        assert "\x00" not in shown
        assert "\u202e" not in shown


def test_hostile_taps_views_and_statuses(make_table, tmp_path):
    tables = {}
    for name in HOSTILE[:5]:
        tables[name] = make_table("fcd").assign(tap=name, view=name, dtype=name, status=["finite", name, "zero"])
    path = write_report(tables, tmp_path / "report.html")
    check_harmless(read(path.read_text(encoding="utf-8")))


@pytest.mark.usefixtures("_any_text")
def test_hostile_names_of_kernels_and_runs():
    frame = pd.DataFrame(
        {
            "layer": HOSTILE,
            "type": HOSTILE,
            "depth": range(len(HOSTILE)),
            "tap": "gradient",
            "view": "kernel",
            "step": 0,
        }
    )
    frame = frame.assign(gradient_norm=np.geomspace(1e-9, 1e9, len(frame)), gradient_snr=np.inf)
    for run in HOSTILE[:4]:
        text = render({run: frame.assign(run=run)})
        check_harmless(read(text))
        assert "Gradients, weights, updates" in text


def test_names_are_read_as_they_are(make_run, make_table):
    name = '<script>alert(1)</script> {{7*7}} & "quoted"'
    reader = read(render(make_run(name, {0: make_table("ff")})))
    assert any(name in text for text in reader.text)


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame(),
        pd.DataFrame(columns=["layer", "status", "condition_number"]),
        pd.DataFrame({"layer": ["a"], "status": ["finite"], "condition_number": [3.0]}),
        pd.DataFrame({"layer": ["a", "b"], "status": ["nonfinite"] * 2, "condition_number": [np.nan] * 2}),
        pd.DataFrame({"layer": ["a", "b"], "status": ["singular-exact"] * 2, "condition_number": [np.inf] * 2}),
        pd.DataFrame({"layer": ["a"], "status": ["finite"], "condition_number": [1.7e308], "depth": [3]}),
    ],
    ids=["nothing", "no rows", "one layer", "all NaN", "all infinite", "huge"],
)
def test_edges_without_optional_columns(table):
    check_harmless(read(render(table)))


@pytest.mark.parametrize("letters", ["f", "n", "e", "z", "s", "u", "fcdbsunez"])
def test_edges_with_every_column(make_table, letters):
    check_harmless(read(render(make_table(letters))))


def test_no_network_at_all():
    assert "There is no network in this report." in render([])
    assert "There is no network in this report." in render({})


def test_runs_of_which_only_one_was_probed(make_run, make_table):
    config = {"model": {"name": "net"}, "training": {"seed": 0}}
    runs = [
        make_run("net-0", {}, config=config, accuracy=0.9),
        make_run("net-1", {0: make_table("ff"), 5: make_table("fc")}, config=config, accuracy=0.8),
    ]
    text = render(runs)
    check_harmless(read(text))
    assert "1 network, 2 runs, 4 measurements of layers." in text
    assert text.count("net (one of 2 runs") > 1


def test_order_of_the_page_and_its_figures(make_run, make_table):
    table = pd.concat([make_table("fcd", view=view) for view in ("samples", "channels")])
    stored = {5: {f"block/samples/{layer}": np.array([3.0, 1.0]) for layer in table["layer"].unique()}}
    run = make_run("net", {0: table, 5: table}, accuracy=0.9, stored=stored, provenance={"torch": "2.13.0"})
    text = render(run)
    reader = read(text)
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "Finding", "Condition number by depth", "Rank by depth", "Singular spectra by depth",
        "Condition number over training", "Training", "Dead, constant and duplicate units", "Table of layers",
        "Definitions", "Provenance",
    ]  # fmt: skip
    pictures = [(t, n, v) for t, n, v in reader.attributes if t == "svg" and n == "role"]
    labels = [v for t, n, v in reader.attributes if t == "svg" and n == "aria-label"]
    assert len(pictures) == len(labels) == reader.elements.count("figure")
    assert all(len(label) > 40 for label in labels)
    assert '<th scope="row">provenance.torch</th><td>2.13.0</td>' in text


def test_the_same_source_gives_the_same_bytes(make_run, make_table, tmp_path):
    run = make_run("net", {0: make_table("fcd"), 5: make_table("fcu")}, accuracy=0.9)
    first = write_report(run, tmp_path / "a.html")
    second = write_report(run, str(tmp_path / "deep" / "b.html"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "deep"]


def test_the_users_settings_of_matplotlib_do_not_matter_and_stay(make_table):
    import matplotlib as mpl

    plain = render(make_table("fc"))
    with mpl.rc_context({"font.size": 30, "text.usetex": False, "axes.facecolor": "black", "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert render(make_table("fc")) == plain
        assert dict(mpl.rcParams) == before


def test_what_is_no_source_is_told(make_table):
    with pytest.raises(ShapeError) as caught:
        render(7)
    assert str(caught.value) == "a report is made from tables of condition_numbers and runs, not from int"
    with pytest.raises(ShapeError) as caught:
        render({"a": make_table("f"), "b": 3})
    assert str(caught.value) == "a report is made from tables of condition_numbers and runs; 'b' is a int"
    with pytest.raises(ShapeError) as caught:
        render(pd.DataFrame({"layer": ["a"], "kappa": [1.0]}))
    assert str(caught.value) == (
        "table lacks the columns status, condition_number; a report needs layer, status, condition_number, as "
        "deepprobe.condition_numbers returns them"
    )


def test_spectra_are_a_source(make_spectrum):
    spectra = {f"l{d}": make_spectrum("f", d) for d in (1, 2, 3)}
    text = render(spectra)
    check_harmless(read(text))
    assert "Singular spectra by depth" in text


def test_every_cell_of_the_summary_has_its_heading_for_narrow_pages(make_run, make_table):
    text = render({"a": make_run("a", {1: make_table("fc")}, accuracy=0.9), "b": make_table("ff")})
    table = text[text.index('<table class="sortable summary">') :].partition("</table>")[0]
    headings = re.findall(r"<th [^>]*>(.*?)</th>", table)
    assert len(headings) > 5
    assert re.findall(r'<td data-heading="(.*?)"', table) == headings * 2
    narrow = text[text.index("@media (max-width: 40rem)") :].partition("@media print")[0]
    assert "svg { min-width: 0;" in narrow
    assert "content: attr(data-heading)" in narrow
