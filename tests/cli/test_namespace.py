"""What somebody sees who asks the package for its names."""

from __future__ import annotations

import deepprobe as dp


def test_dir_shows_what_is_meant_for_users() -> None:
    shown = {name for name in dir(dp) if not name.startswith("__")}
    assert shown == {*dp.__all__, *dp._ROOMS}
