"""The manifest of a run: its status and the SHA-256 of every closed file.

The manifest is the one file that says what belongs to a run. A file is written first and listed after, so a file that
is not listed was never acknowledged; the status changes in the same write as the list. The manifest carries its own
digest. It finds accidents (torn writes, flipped bytes, edits), not an attacker, who could rewrite it as well.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from deepprobe.errors import RunError
from deepprobe.runs.atomic import write_bytes

MANIFEST = "manifest.json"
FORMAT = 1
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?\Z")
MAX_JSON_BYTES = 2 * 2**20
"""Some 19,000 probed steps; a hostile table of this length takes 24 times as much memory."""
MAX_DEPTH = 64
STATUSES = ("running", "interrupted", "diverged", "complete")
"""``running`` also stands on a run whose process died; ``diverged`` and ``complete`` are final."""


@dataclass(frozen=True)
class Manifest:
    """What is on disk and how far the run has come.

    Attributes:
        status: One of STATUSES.
        message: What the status is about, in words; may be empty.
        files: Path relative to the run, with ``/``, to the hexadecimal SHA-256 of the content.
    """

    status: str = "running"
    message: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def with_file(self, name: str, digest: str) -> Manifest:
        """The manifest with one file added."""
        return replace(self, files={**self.files, name: digest})

    def without_files(self, *names: str) -> Manifest:
        """The manifest with some files taken off the list."""
        return replace(self, files={n: d for n, d in self.files.items() if n not in names})

    def write(self, folder: Path) -> None:
        """Put the manifest into a run's folder; RunError if it cannot be written."""
        body = {"format": FORMAT, "status": self.status, "message": self.message, "files": self.files}
        write_sealed(folder / MANIFEST, body)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check the manifest of a run.

        Args:
            folder: The run.

        Returns:
            The manifest.

        Raises:
            RunError: If there is none, or it is damaged, or it is of a format that is not known.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise RunError(f"{folder} is no run: it has no {MANIFEST}; a run is a folder written by deepprobe train")
        content = read_sealed(path, version=FORMAT)
        status, message, files = (content.get(key) for key in ("status", "message", "files"))
        if status not in STATUSES or not isinstance(message, str) or not _is_file_list(files):
            raise RunError(f"{path} is damaged: expected a status, a message and a list of the run's files")
        return cls(str(status), message, files)

    def check(self, folder: Path, name: str) -> Path:
        """Path of a listed file whose content is what was written.

        Args:
            folder: The run.
            name: Path relative to it.

        Returns:
            The full path.

        Raises:
            RunError: If the file is not listed, not there, or of another content.
        """
        path = folder / name
        if name not in self.files:
            raise RunError(f"{path} is not in {MANIFEST}; it was never completely written, or is not of the run")
        if not path.is_file():
            raise RunError(f"{path} is missing; {MANIFEST} lists it")
        found = digest_of_file(path)
        if found != self.files[name]:
            raise RunError(
                f"{path} is damaged: expected SHA-256 {self.files[name][:16]}…, found {found[:16]}… "
                f"({path.stat().st_size:,} bytes)"
            )
        return path


def digest_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content; RunError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON table with its own SHA-256 in it; RunError as ``write_json``."""
    write_json(path, {**content, "sha256": _digest_of(content)})


def read_sealed(path: Path, *, version: int) -> dict[str, Any]:
    """Read what ``write_sealed`` wrote, without the digest; RunError if it is damaged, or its ``format`` another."""
    content = read_json(path)
    digest = content.pop("sha256", None)
    if digest != _digest_of(content):
        raise RunError(f"{path} is damaged: its content does not have the SHA-256 that it states")
    if content.get("format") != version:
        raise RunError(f"{path} has format {content.get('format')!r}; this version of deepprobe reads {version}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON aside and rename it; RunError if that fails, or it could not be read back (NaN, objects, size)."""
    try:
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"cannot write {path}: {error}; only text, finite numbers, lists and tables go there") from error
    if len(text) >= MAX_JSON_BYTES:
        raise RunError(f"cannot write {path}: it would have {len(text):,} bytes, and {MAX_JSON_BYTES:,} are read")
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON table of at most 2 MiB; RunError naming the file if it is anything else."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise RunError(f"{path} has {size:,} bytes; at most {MAX_JSON_BYTES:,} were expected")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged: expected a JSON table, found {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: expected a JSON table, found a {type(content).__name__}")
    if _is_deeper(content, MAX_DEPTH):
        raise RunError(f"{path} is damaged: expected tables and lists at most {MAX_DEPTH} deep, found deeper ones")
    return content


def _is_deeper(content: Any, depth: int) -> bool:
    """Whether tables and lists stand in one another more than so many times."""
    level = [content]
    for _ in range(depth):
        level = [v for t in level for v in (t.values() if isinstance(t, dict) else t) if isinstance(v, dict | list)]
    return bool(level)


def _is_file_list(files: Any) -> TypeGuard[dict[str, str]]:
    """Whether this maps paths that stay inside the run to digests."""
    return isinstance(files, dict) and all(
        _FILE.match(name) is not None and isinstance(digest, str) for name, digest in files.items()
    )


def _digest_of(content: Any) -> str:
    """SHA-256 of JSON content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
