"""How many threads the small decompositions take."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """SciPy's and NumPy's BLAS on one thread each: beside torch's own threads they took 17.7 s for 1.0 s of work."""
    with _controller().select(internal_api="openblas").limit(limits=1):
        yield


@cache
def _controller() -> ThreadpoolController:
    """The libraries loaded by now; looked up once, for the search takes milliseconds."""
    return ThreadpoolController()
