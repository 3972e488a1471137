"""Writers of the official formats, and the folder of the real files."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def python3_batch(images: np.ndarray, labels: list[int], key: str = "labels") -> bytes:
    """A batch as Python 3 dumps it with protocol 2."""
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))
    names = [b"image_%d.png" % i for i in range(len(labels))]
    batch = {b"batch_label": b"batch 1 of 5", key.encode(): labels, b"data": rows, b"filenames": names}
    return pickle.dumps(batch, protocol=2)


def python2_batch(images: np.ndarray, labels: list[int], key: str = "labels") -> bytes:
    """A batch as Python 2's cPickle wrote the official archives, instruction by instruction."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    rows = images.transpose(0, 3, 1, 2).tobytes()
    shape = b"M" + struct.pack("<H", len(images)) + b"M\x00\x0c\x86"
    names = b"".join(string(b"image_%d.png" % i) + b"r" + struct.pack("<I", 300 + i) for i in range(len(labels)))
    return b"".join(
        (
            b"\x80\x02}q\x01(",
            string(b"batch_label") + b"q\x02" + string(b"training batch 1 of 5") + b"q\x03",
            string(key.encode()) + b"q\x04]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
            string(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\x09",
            string(b"b")
            + b"\x87Rq\x0a(K\x01"
            + shape
            + b"cnumpy\ndtype\nq\x0b"
            + string(b"u1")
            + b"K\x00K\x01\x87Rq\x0c",
            b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + string(rows) + b"tb",
            string(b"filenames") + b"q\x0d]q\x0e(" + names + b"e",
            b"u.",
        )
    )


def binary_batch(images: np.ndarray, labels: list[int], coarse: bool = False) -> bytes:
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    head = [[7] for _ in labels] if coarse else [[] for _ in labels]
    return b"".join(bytes([*h, label]) + row.tobytes() for h, label, row in zip(head, labels, rows, strict=True))


def tar_gz(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def put(path: Path, content: bytes, *, compress: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compress else content)
    return path


def photos(n: int, shape: tuple[int, ...] = (32, 32, 3), n_classes: int = 10, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), [int(v) for v in rng.integers(0, n_classes, n)]


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The writers."""
    return SimpleNamespace(
        idx=idx,
        python3_batch=python3_batch,
        python2_batch=python2_batch,
        binary_batch=binary_batch,
        tar_gz=tar_gz,
        put=put,
        photos=photos,
    )


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tests that run many examples."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real files: DEEPPROBE_TEST_DATA, else shared/data beside the repository."""
    given = os.environ.get("DEEPPROBE_TEST_DATA")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "mnist").is_dir():
        pytest.skip("the real image files are not here; set DEEPPROBE_TEST_DATA to their folder")
    return folder
