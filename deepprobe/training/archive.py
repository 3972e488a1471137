"""The zip of a checkpoint, looked at before torch reads it: its frame, sizes and CRCs, and what its pickle asks for.

torch trusts an archive in ways that a flipped bit or a hostile hand can use: an entry marked as a folder leaves its
tensor uninitialised (torch 2.13), and a second directory at the end of the file shows one archive to one reader and
another to the next. So an archive must look exactly as ``torch.save`` writes it, and its tensors claim the very bytes
that are there; then all readers see the same, and the CRCs stand for all of it.
"""

from __future__ import annotations

import os
import pickletools
import re
import struct
import zipfile
from typing import IO, Any

from deepprobe.errors import CheckpointError

MAX_PICKLE_BYTES = 16 * 2**20
MAX_ENTRIES = 100_000
MAX_INSTRUCTIONS, MAX_INSTRUCTIONS_AN_ENTRY = 200_000, 100
"""Of the pickle; an honest one takes about 30 for each tensor."""
NEEDED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.storage UntypedStorage",
}
ELEMENT_BYTES = {
    "Float": 4, "Double": 8, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
STORAGES = {f"torch {kind}Storage": size for kind, size in ELEMENT_BYTES.items()} | {"torch.storage UntypedStorage": 1}
_INSTRUCTIONS = {
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS",
    "SETITEM", "SETITEMS", "REDUCE", "BUILD",
}  # fmt: skip
"""Those of an honest table of tensors, beside the ones that ``_asked_for`` follows."""
_ENTRY = re.compile(
    r"[^/\\]{1,200}/(?P<part>data\.pkl|byteorder|version|\.format_version|\.storage_alignment|"
    r"\.data/serialization_id|data/[0-9]{1,9})\Z"
)
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")


def check_archive(file: IO[bytes]) -> None:
    """Refuse an archive that is damaged, grows, or asks for anything but tensors.

    Args:
        file: The archive, open for reading; afterwards at an arbitrary place.

    Raises:
        CheckpointError: If it is not as ``torch.save`` writes it. The message does not name the file.
        Exception: Whatever the reader of a torn or hostile archive meets.
    """
    size = file.seek(0, os.SEEK_END)
    _check_end(file, size)
    with zipfile.ZipFile(file) as archive:
        entries = _entries(archive, size)
        damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"is damaged: its part {damaged[:100]!r} does not have the CRC that it states")
        pickled = archive.read(entries["data.pkl"])
    wanted, claimed = _asked_for(pickled, MAX_INSTRUCTIONS + MAX_INSTRUCTIONS_AN_ENTRY * len(entries))
    strange = sorted(wanted - NEEDED - STORAGES.keys())
    if strange:
        raise CheckpointError(
            f"is refused: it asks for {strange[0][:100]!r}, which no table of tensors needs; of a whole network save "
            "model.state_dict()"
        )
    for key, length in claimed:
        entry = entries.get(f"data/{key}")
        if entry is None or entry.file_size != length:
            found = "none" if entry is None else f"{entry.file_size:,}"
            raise CheckpointError(f"is damaged: a tensor claims {length:,} bytes in its part data/{key}, found {found}")


def _check_end(file: IO[bytes], size: int) -> None:
    """Refuse an archive whose directory is not the one thing that stands right before the file's end."""
    whole = _END_64.size + _LOCATOR_64.size + _END.size
    file.seek(max(0, size - whole))
    tail = file.read(whole)
    end = _END.unpack(tail[-_END.size :])
    expected, n, length, start = _END.size, end[4], end[5], end[6]
    if tail[:4] == b"PK\6\6" and len(tail) == whole:
        end_64, locator = _END_64.unpack_from(tail), _LOCATOR_64.unpack_from(tail, _END_64.size)
        expected, n, length, start = whole, *end_64[7:]
        shown = (min(n, 2**16 - 1), min(n, 2**16 - 1), min(length, 2**32 - 1), min(start, 2**32 - 1))
        stated = (end_64[1], *end_64[4:7], *locator, *end[3:7])
        regular = stated == (_END_64.size - 12, 0, 0, n, b"PK\6\7", 0, size - whole, 1, *shown)
    else:
        regular = end[3] == n
    if end[0] != b"PK\5\6" or end[1:3] != (0, 0) or end[7] or not regular or start + length + expected != size:
        raise CheckpointError("is no checkpoint, or damaged: expected a zip that ends as torch.save ends it")
    if n > MAX_ENTRIES:
        raise CheckpointError(f"has {n:,} parts; at most {MAX_ENTRIES:,} are read")


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Entries by the name of their part; CheckpointError if one is not of the kinds that ``torch.save`` writes."""
    entries: dict[str, zipfile.ZipInfo] = {}
    folder = archive.infolist()[0].filename.partition("/")[0] if archive.infolist() else ""
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            total = sum(e.file_size for e in archive.infolist())
            raise CheckpointError(f"is compressed ({total:,} bytes when unpacked); checkpoints never are")
        match = _ENTRY.match(entry.filename)
        odd = entry.external_attr or entry.internal_attr or entry.volume or entry.flag_bits & 1 or entry.comment
        if match is None or match["part"] in entries or odd or not entry.filename.startswith(f"{folder}/"):
            raise CheckpointError(f"is damaged: its part {entry.filename[:100]!r} is none that torch.save writes")
        entries[match["part"]] = entry
    if "data.pkl" not in entries or entries["data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError("is no checkpoint: expected one table of tensors of at most 16 MiB")
    if sum(e.file_size for e in entries.values()) > size:
        raise CheckpointError("is damaged: its parts lie over one another")
    return entries


def _asked_for(pickled: bytes, most: int) -> tuple[set[str], list[tuple[str, int]]]:
    """What a pickle would import, as ``module name``, and (key, bytes) of its storages; nothing is run.

    Storages must be written in the one way that pickle writes them: a tuple of five plain values, then the instruction.
    """
    wanted: set[str] = set()
    claimed: list[tuple[str, int]] = []
    memo: dict[int, Any] = {}
    items: list[Any] = []
    group: list[Any] = []
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if count > most:
            raise CheckpointError(f"is refused: its table of tensors takes more than {most:,} instructions")
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = items[-1] if items else None
                continue
            case "MARK":
                items = []
            case "TUPLE":
                group, items = items, []
                continue
            case "BINPERSID":
                claimed.append(_storage(group))
            case "BINGET" | "LONG_BINGET":
                items.append(memo.get(argument))
            case "GLOBAL":
                wanted.add(str(argument))
                items.append(argument)
            case name:
                wanted |= {name} - _INSTRUCTIONS
                items.append(argument)
        group = []
    return wanted, claimed


def _storage(group: list[Any]) -> tuple[str, int]:
    """Key and bytes of one storage as the pickle names it."""
    match group:
        case ["storage", str(kind), str(key), str(), int(n)] if kind in STORAGES:
            return key, n * STORAGES[kind]
    raise CheckpointError("is refused: a tensor's storage is not named as torch.save names it")
