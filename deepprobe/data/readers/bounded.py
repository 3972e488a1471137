"""Bytes of files, compressed files and archives, never more than was asked for."""

from __future__ import annotations

import io
import tarfile
import zlib
from typing import TYPE_CHECKING, BinaryIO

from deepprobe.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_CHUNK = 2**16
_MAX_MEMBERS = 64
_GZIP = b"\x1f\x8b"
_FREE, _RATIO = 64 * 2**20, 100
"""What compressed files may hold: 64 MiB, or a hundred times what was read of them. MNIST holds five times as much."""


class Inflating(io.RawIOBase):
    """Content of a file that may be gzip-compressed, as a stream that ends with an error past ``limit`` bytes."""

    def __init__(self, file: BinaryIO, origin: str, *, limit: int) -> None:
        self._file, self._origin, self._limit = file, origin, limit
        self._given = 0
        head = file.read(2)
        file.seek(0)
        self._inflate = zlib.decompressobj(wbits=31) if head == _GZIP else None

    def readable(self) -> bool:
        """True: this is what the stream is for."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all that is left for −1; empty at the end.

        Raises:
            DataError: If the compressed data are damaged, truncated, trailed by others, or exceed the limit.
        """
        parts: list[bytes] = []
        while size < 0 or size > 0:
            part = self._some(_CHUNK if size < 0 else min(size, _CHUNK))
            if not part:
                break
            parts.append(part)
            size -= len(part) if size > 0 else 0
            self._given += len(part)
            if self._given > self._limit:
                raise DataError(f"{self._origin}: expected at most {self._limit} bytes of content, found more")
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        """Between 1 and ``size`` bytes, or none at the end."""
        if self._inflate is None:
            return self._file.read(size)
        while not self._inflate.eof:
            if self._given > _FREE + _RATIO * self._file.tell():
                raise DataError(f"{self._origin}: the gzip data hold over {_RATIO} times what they take: a bomb")
            raw = self._inflate.unconsumed_tail or self._file.read(_CHUNK)
            try:
                part = self._inflate.decompress(raw, size)
            except zlib.error as error:
                raise DataError(f"{self._origin}: the gzip data are damaged ({error})") from error
            if part:
                return part
            if not raw:
                raise DataError(f"{self._origin}: the gzip data are truncated")
        if self._inflate.unused_data or self._file.read(1):
            raise DataError(f"{self._origin}: more bytes follow the end of the gzip data")
        return b""


def read_bounded(path: Path, *, limit: int) -> bytes:
    """Content of a file, inflated if it is gzip-compressed.

    Args:
        path: A file; its first two bytes, not its name, tell whether it is compressed.
        limit: Largest length of the content in bytes.

    Returns:
        The content.

    Raises:
        DataError: If the file cannot be read, is damaged, or holds more than ``limit`` bytes.
    """
    try:
        with path.open("rb") as file:
            return Inflating(file, str(path), limit=limit).read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_members(path: Path, names: Collection[str], *, limit: int, total: int) -> dict[str, bytes]:
    """Content of some regular files of a tar archive, by exact name; nothing is extracted.

    Args:
        path: A tar archive, plain or gzip-compressed.
        names: Full names of the wanted members; links, folders and all others are passed over.
        limit: Largest length of a wanted member in bytes.
        total: Largest length of the whole archive in bytes, inflated.

    Returns:
        Content by name, in the order of ``names``.

    Raises:
        DataError: If the archive cannot be read, is damaged, exceeds a limit or lacks a member.
    """
    found: dict[str, bytes] = {}
    try:
        with path.open("rb") as file:
            stream = Inflating(file, str(path), limit=total)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                _collect(archive, names, found, origin=str(path), limit=limit)
    except DataError:
        raise
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a tar archive ({error})") from error
    lacking = [name for name in names if name not in found]
    if lacking:
        raise DataError(f"{path}: the archive lacks {', '.join(lacking)}")
    return {name: found[name] for name in names}


def _collect(
    archive: tarfile.TarFile, names: Collection[str], found: dict[str, bytes], *, origin: str, limit: int
) -> None:
    """Read the wanted members into ``found``, stopping when all are there."""
    for count, member in enumerate(archive):
        if count >= _MAX_MEMBERS:
            raise DataError(f"{origin}: expected at most {_MAX_MEMBERS} archive members, found more")
        name = member.name.removeprefix("./")
        if name not in names or name in found or not member.isreg() or member.issparse():
            continue
        if member.size > limit:
            raise DataError(f"{origin}: {name} claims {member.size} bytes, expected at most {limit}")
        content = archive.extractfile(member)
        found[name] = content.read() if content is not None else b""
        if len(found[name]) != member.size:
            raise DataError(f"{origin}: {name} is truncated, {len(found[name])} of {member.size} bytes")
        if len(found) == len(names):
            return
