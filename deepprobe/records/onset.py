"""The depth from which on a network's layers are no longer finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

ONSET_SHARE = 0.9
"""Share of a layer and all later ones that must not be finite for the layer to be the onset."""


def onset(frame: pd.DataFrame, *, finite: pd.Series | None = None) -> int | None:
    """Depth of the first layer that is not finite and of which 90 % of what follows is not finite either.

    One dead channel in the stem is therefore no onset, and one finite layer far below does not hide one.
    Layers with status ``empty`` (nothing was measured) are left out.

    Args:
        frame: Wide table of one run, one step, one tap and one view, with the columns ``depth`` and ``status``.
        finite: Boolean, aligned with frame; takes the place of ``status == "finite"``, for example to count layers
            that are finite over live units.

    Returns:
        Depth of the onset, or None where there is none.

    Example:
        >>> import pandas as pd
        >>> onset(pd.DataFrame({"depth": [1, 2, 3], "status": ["zero", "finite", "finite"]})) is None
        True
        >>> onset(pd.DataFrame({"depth": [1, 2, 3], "status": ["finite", "zero", "zero"]}))
        2
    """
    good = (frame["status"] == "finite") if finite is None else finite
    measured = (frame["status"] != "empty").to_numpy(dtype=bool)
    depth = frame["depth"].to_numpy()[measured]
    order = np.argsort(depth, kind="stable")
    bad = ~good.to_numpy(dtype=bool)[measured][order]
    later = np.cumsum(bad[::-1])[::-1]
    enough = bad & (later >= ONSET_SHARE * np.arange(len(bad), 0, -1))
    return int(depth[order][np.argmax(enough)]) if enough.any() else None
