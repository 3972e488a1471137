"""Arrays in one safetensors file that anyone may have given: limits before content, every failure a RunError.

The tensors are named by index, because names of layers may hold anything; what they are stands as JSON in the metadata.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as tensors_to_bytes

from deepprobe.errors import RunError
from deepprobe.runs.atomic import write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MAX_HEADER_BYTES = 4 * 2**20


def write_arrays(
    path: Path, arrays: Sequence[NDArray[Any]], entries: list[Any], *, what: str, under: str, max_bytes: int
) -> None:
    """Write arrays aside and rename the file.

    Args:
        path: The file; its folder must be there.
        arrays: In the order of the entries.
        entries: What each of them is, plain values.
        what: They are, in a word: "masks".
        under: Key of the entries in the metadata.
        max_bytes: That are read back.

    Raises:
        RunError: If the file cannot be written, or is more than can be read back.
    """
    metadata = {under: json.dumps(entries, separators=(",", ":"))}
    content = tensors_to_bytes({str(i): array for i, array in enumerate(arrays)}, metadata=metadata)
    if len(content) > max_bytes or int.from_bytes(content[:8], "little") > MAX_HEADER_BYTES:
        raise RunError(f"cannot write {path}: {len(arrays):,} {what} in {len(content):,} bytes are too many to read")
    write_bytes(path, content)


@contextmanager
def reading_arrays(path: Path, *, what: str, under: str, max_bytes: int) -> Iterator[list[tuple[Any, NDArray[Any]]]]:
    """What ``write_arrays`` wrote, for checks of one's own: what those raise is told as damage too.

    Args:
        path: The file.
        what: As it was written, and so is the key.
        under: Key of the entries in the metadata.
        max_bytes: A larger file is not read.

    Yields:
        Each entry and its array, in the order in which they were written; the entries may be anything that JSON holds.

    Raises:
        RunError: If the file is missing, or is not of this form in every byte.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise RunError(f"{path} has {size:,} bytes; at most {max_bytes:,} were expected")
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + min(int.from_bytes(content[:8], "little"), MAX_HEADER_BYTES)])
        entries, tensors = json.loads(header["__metadata__"][under]), load_tensors(content)
        if not isinstance(entries, list) or tensors.keys() != {str(i) for i in range(len(entries))}:
            raise ValueError(f"{len(tensors)} tensors that are not those of the {what} named")
        yield [(entry, tensors[str(i)]) for i, entry in enumerate(entries)]
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(f"there is no file {path} of {what}") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: expected {what} in safetensors, found {error}") from error
