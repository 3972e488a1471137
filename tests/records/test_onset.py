import pandas as pd
import pytest

from deepprobe.records.onset import onset


def frame(word, depths=None):
    """One layer a letter: f finite, s singular, e empty."""
    names = {"f": "finite", "s": "singular-exact", "e": "empty", "p": "singular-at-precision", "u": "unresolved"}
    return pd.DataFrame({"depth": depths or range(1, len(word) + 1), "status": [names[c] for c in word]})


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ffff", None),
        ("sffffffff", None),  # one dead stem channel
        ("ffss", 3),
        ("ssss", 1),
        ("fupss", 2),  # every status but finite counts
        ("fffs", 4),
        ("fsfss" + "s" * 15, 2),  # 18 of 19 from depth 2
        ("fsfffss", 6),
        ("ssssssssfs", 1),  # 9 of 10
        ("sssssssffs", 10),  # 8 of 10
        ("eeef", None),
        ("ffsse", 3),
        ("", None),
        ("e", None),
    ],
)
def test_onset_is_where_nine_tenths_of_the_rest_is_lost(word, expected):
    assert onset(frame(word)) == expected


def test_rows_out_of_order_are_read_by_depth():
    assert onset(frame("sffs", [9, 1, 2, 8])) == 8


def test_agrees_with_a_plain_loop():
    import numpy as np

    generator = np.random.default_rng(0)
    for _ in range(200):
        word = "".join(generator.choice(list("fsss"), size=generator.integers(1, 30)))
        expected = None
        for i in range(len(word)):
            if word[i] == "s" and word[i:].count("s") >= 0.9 * len(word[i:]):
                expected = i + 1
                break
        assert onset(frame(word)) == expected, word


def test_finite_can_be_given():
    table = frame("fsss")
    assert onset(table, finite=pd.Series([True, True, True, False])) == 4
    assert onset(table, finite=pd.Series([True] * 4)) is None
