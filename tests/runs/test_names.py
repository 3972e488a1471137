"""Names of runs."""

from __future__ import annotations

import pytest

from deepprobe.errors import RunError
from deepprobe.runs.names import run_path


@pytest.mark.parametrize("name", ["a", "resnet164-seed0", "0.1", "A" * 100, "x_y-z.1", "CON"])
def test_plain_names_lead_to_a_child_of_the_folder(tmp_path, name):
    assert run_path(tmp_path, name) == tmp_path.resolve() / name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../a", "a/b", "a\\b",
        "/etc", "-a", ".a", "_a", "a\0", "a\n", "a b", "ä", "A" * 101, "a:b", "~", "%2e", "\u202ea", None, 3,
    ],
)  # fmt: skip
def test_other_names_are_refused(tmp_path, name):
    with pytest.raises(RunError, match="cannot name a run; use 1 to 100 letters, digits"):
        run_path(tmp_path, name)


def test_a_link_to_elsewhere_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError) as error:
        run_path(tmp_path / "runs", "a")
    runs, there = tmp_path.resolve() / "runs", tmp_path.resolve() / "elsewhere"
    assert str(error.value) == f"run 'a' in {runs} is a link to {there}; open that folder instead"
