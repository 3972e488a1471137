import pytest

from deepprobe.reports.words import clean, for_figure, listed, number, percent, place, plural, span


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12.0, "12"),
        (12.41, "12.4"),
        (0.0512, "0.0512"),
        (99999.0, "99999"),
        (1.523e7, "1.52e7"),
        (-3e-9, "−3.00e−9"),
        (-2.5, "−2.50"),
        (float("inf"), "infinite"),
        (float("-inf"), "−infinite"),
        (float("nan"), "–"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_span_says_one_value_once_and_several_with_mean_and_range():
    assert span([55]) == "55"
    assert span([55, 55, 55]) == "55"
    assert span([51, 54, 57]) == "54 (51–57)"
    assert span([0.5, 0.75], percent) == "62.5\u00a0% (50.0\u00a0%–75.0\u00a0%)"


def test_clean_shows_what_cannot_be_seen():
    assert clean("a\x00b\x1b[0m\u202ec\u2028\ud800\n") == r"a\x00b\x1b[0m\u202ec\u2028\ud800\n"
    assert clean("κ 层 é") == "κ 层 é"
    assert clean("x" * 600, limit=20) == "x" * 7 + "…" + "x" * 12
    assert clean(7) == "7"


def test_for_figure_leaves_no_mathematics():
    from matplotlib.cbook import is_math_text

    for name in (r"$\frac{", "$x$", r"\$x$", "a$b"):
        assert not is_math_text(for_figure(name))


def test_lists_and_plurals():
    assert [listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert plural(1, "layer") == "1 layer"
    assert plural(0, "layer") == "0 layers"


def test_place():
    assert place("block", "samples") == "block outputs, samples view"
    assert place("", "") == "all layers"
    assert place("odd", "") == "odd"
