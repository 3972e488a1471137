"""Sets by name: formats, layouts, options, and what is said when something is missing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

import deepprobe.data
from deepprobe.data import list_datasets, load_dataset
from deepprobe.errors import ConfigError, DataError, MissingDataError, UnknownNameError


def test_digits_are_those_of_scikit_learn() -> None:
    train, test = load_dataset("digits"), load_dataset("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.source == "digits (scikit-learn)"
    levels = np.rint(np.concatenate([train.images, test.images])[..., 0] / (255 / 16))
    found = {(tuple(x.ravel()), y) for x, y in zip(levels, [*train.labels, *test.labels], strict=True)}
    bunch = load_digits()
    assert found == {(tuple(x.ravel()), y) for x, y in zip(bunch.images, bunch.target, strict=True)}
    pixels, _ = train.tensors()
    assert pixels.shape == (1437, 1, 8, 8)
    assert pixels.mean().item() == pytest.approx(0, abs=1e-5)
    assert pixels.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert test.mean == train.mean
    assert np.abs(np.bincount(test.labels) / 360 - np.bincount(bunch.target) / 1797).max() < 1 / 360


def test_digits_split_depends_on_the_seed_alone() -> None:
    first = load_dataset("digits", split="test")
    assert np.array_equal(first.images, load_dataset("digits", split="test").images)
    assert not np.array_equal(first.images, load_dataset("digits", split="test", seed=1).images)


def test_limit_and_input_size() -> None:
    part = load_dataset("digits", limit=10, input_size=4)
    whole = load_dataset("digits")
    assert part.images.shape == (10, 4, 4, 1)
    assert part.images[3, 1, 2, 0] == np.floor(whole.images[3, 2:4, 4:6].mean() + 0.5)
    assert part.mean == whole.mean


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("place", ["", "{name}", "{raw}"])
def test_idx(make: SimpleNamespace, tmp_path: Path, name: str, compress: bool, place: str) -> None:
    images, labels = make.photos(7, (28, 28))
    folder = tmp_path / place.format(name=name, raw="MNIST/raw" if name == "mnist" else "FashionMNIST/raw")
    gz = ".gz" if compress else ""
    for stem, split in (("train", "train"), ("t10k", "test")):
        make.put(folder / f"{stem}-images-idx3-ubyte{gz}", make.idx(images), compress=compress)
        make.put(folder / f"{stem}-labels-idx1-ubyte{gz}", make.idx(np.array(labels)), compress=compress)
        found = load_dataset(name, data_dir=tmp_path, split=split)
        assert np.array_equal(found.images[..., 0], images)
        assert found.labels.tolist() == labels
        total = 60_000 if split == "train" else 10_000
        assert found.source == f"{name} (IDX, 7 of {total} images)"
    assert load_dataset(name, data_dir=tmp_path, split="test", limit=2, input_size=14).images.shape == (2, 14, 14, 1)


def cifar_files(make: SimpleNamespace, name: str, form: str) -> tuple[dict[str, bytes], dict[str, tuple]]:
    """Files of both splits in one official format, and what they hold."""
    fine = name == "cifar100"
    n_classes = 100 if fine else 10
    if fine:
        folder, train, test = {"binary": "cifar-100-binary"}.get(form, "cifar-100-python"), ["train"], "test"
    else:
        folder = {"binary": "cifar-10-batches-bin"}.get(form, "cifar-10-batches-py")
        train, test = [f"data_batch_{i}" for i in range(1, 6)], "test_batch"
    files, held = {}, {"train": ([], []), "test": ([], [])}
    for i, file in enumerate([*train, test]):
        images, labels = make.photos(3 + i, n_classes=n_classes, seed=i)
        if form == "binary":
            files[f"{folder}/{file}.bin"] = make.binary_batch(images, labels, coarse=fine)
        else:
            write = make.python2_batch if form == "python2" else make.python3_batch
            files[f"{folder}/{file}"] = write(images, labels, key="fine_labels" if fine else "labels")
        into = held["test" if file == test else "train"]
        into[0].extend(images)
        into[1].extend(labels)
    return files, held


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["python2", "python3", "binary"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("place", [".", "{name}"])
def test_cifar(make: SimpleNamespace, tmp_path: Path, name: str, form: str, packed: bool, place: str) -> None:
    files, held = cifar_files(make, name, form)
    folder = tmp_path / place.format(name=name)
    if packed:
        stem = name.replace("cifar", "cifar-")
        make.put(folder / f"{stem}-{form.rstrip('23')}.tar.gz", make.tar_gz(dict(reversed(files.items()))))
    else:
        for file, content in files.items():
            make.put(folder / file, content)
    for split in ("train", "test"):
        found = load_dataset(name, data_dir=tmp_path, split=split)
        assert np.array_equal(found.images, held[split][0])
        assert found.labels.tolist() == held[split][1]
        title = "binary format" if form == "binary" else "Python format"
        total = 50_000 if split == "train" else 10_000
        assert found.source == f"{name} ({title}, {len(found)} of {total} images)"
        assert found.mean[0] in (0.4914, 0.5071)


@pytest.mark.parametrize(("name", "form"), [("cifar10", "binary"), ("cifar100", "python")])
def test_archives_of_the_official_size(make: SimpleNamespace, tmp_path: Path, name: str, form: str) -> None:
    """The limits let whole archives pass, wherever in them the wanted file stands."""
    images = np.zeros((50_000, 32, 32, 3), np.uint8)
    images[:, 0] = np.random.default_rng(0).integers(0, 256, (50_000, 32, 3))
    if name == "cifar10":
        batch = make.binary_batch(images[:10_000], [9] * 10_000)
        parts = {f"cifar-10-batches-bin/data_batch_{i}.bin": batch for i in range(1, 6)}
        parts |= {"cifar-10-batches-bin/readme.html": bytes(88), "cifar-10-batches-bin/test_batch.bin": batch}
    else:
        parts = {
            f"cifar-100-python/{split}": make.python2_batch(images[:n], [99] * n, "fine_labels")
            for split, n in (("train", 50_000), ("test", 10_000))
        }
    archive = make.put(tmp_path / f"{name.replace('cifar', 'cifar-')}-{form}.tar.gz", make.tar_gz(parts))
    assert archive.stat().st_size < 2**23
    for split, n in (("train", 50_000), ("test", 10_000)):
        found = load_dataset(name, data_dir=tmp_path, split=split)
        assert found.images.shape == (n, 32, 32, 3)
        assert found.source == f"{name} ({form.capitalize() if form == 'python' else form} format)"


def test_exact_files_win_over_copies(make: SimpleNamespace, tmp_path: Path) -> None:
    files, _ = cifar_files(make, "cifar10", "binary")
    for file, content in files.items():
        make.put(tmp_path / file, content)
    for file in ("test-labels-idx1-ubyte", "test.avif"):
        make.put(tmp_path / "cifar10" / file, b"never opened")
    assert load_dataset("cifar10", data_dir=tmp_path, split="test").source.startswith("cifar10 (binary format")


def test_copies_without_a_folder_of_their_name_are_not_guessed(make: SimpleNamespace, tmp_path: Path) -> None:
    for file in ("test-labels-idx1-ubyte", "test.avif"):
        make.put(tmp_path / file, b"of which set?")
    with pytest.raises(MissingDataError):
        load_dataset("cifar100", data_dir=tmp_path, split="test")


def test_data_directory(make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPPROBE_DATA", str(tmp_path / "env"))
    assert deepprobe.data.data_directory() == (tmp_path / "env", "DEEPPROBE_DATA")
    assert deepprobe.data.data_directory(tmp_path) == (tmp_path, "data_dir")
    monkeypatch.setenv("DEEPPROBE_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, named_by = deepprobe.data.data_directory()
    assert named_by == "the user's cache"
    assert folder.parts[-2:] == ("deepprobe", "data")


def test_missing_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPPROBE_DATA", str(tmp_path / "none"))
    with pytest.raises(MissingDataError) as caught:
        load_dataset("mnist")
    home = tmp_path / "none"
    assert str(caught.value) == (
        f"the files of mnist (train) are not in {home} (from DEEPPROBE_DATA, which does not exist)\n"
        f"  looked in {home}/mnist, {home}/MNIST/raw, {home}, for\n"
        "    IDX: train-images-idx3-ubyte[.gz] + train-labels-idx1-ubyte[.gz]\n"
        "  get them from the MNIST page of Y. LeCun, C. Cortes and C. Burges, and name their folder with "
        "--data-dir, data_dir= or DEEPPROBE_DATA;\n"
        "  the data set 'digits' needs no files"
    )


def test_missing_part_of_cifar(make: SimpleNamespace, tmp_path: Path) -> None:
    make.put(tmp_path / "cifar10" / "test-labels-idx1-ubyte.gz", b"")
    with pytest.raises(MissingDataError) as caught:
        load_dataset("cifar10", data_dir=tmp_path, split="test")
    assert str(caught.value) == (
        f"the files of cifar10 (test) are not in {tmp_path} (from data_dir)\n"
        f"  looked in {tmp_path}, {tmp_path}/cifar10, for\n"
        "    Python format: cifar-10-batches-py/test_batch\n"
        "    Python format: cifar-10-python.tar.gz\n"
        "    binary format: cifar-10-batches-bin/test_batch.bin\n"
        "    binary format: cifar-10-binary.tar.gz\n"
        f"  looked in {tmp_path}/cifar10, for\n"
        "    AVIF copy: test-labels-idx1-ubyte[.gz] + test.avif\n"
        f"  {tmp_path}/cifar10 has test-labels-idx1-ubyte.gz, but lacks test.avif\n"
        "  get them from the CIFAR page of the University of Toronto, and name their folder with --data-dir, "
        "data_dir= or DEEPPROBE_DATA;\n"
        "  the data set 'digits' needs no files"
    )
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (
            UnknownNameError,
            "no data set 'cifar-10'; did you mean 'cifar10' or 'cifar100'? (image folders are given as 'folder:PATH')",
            {"name": "cifar-10"},
        ),
        (ConfigError, "split='valid' must be 'train' or 'test'", {"split": "valid"}),
        (ConfigError, "input_size=0 must be at least 1 pixel", {"input_size": 0}),
        (ConfigError, "seed=-1 must not be negative", {"seed": -1}),
        (
            ConfigError,
            "the path '~nobody-of-this-name/x' begins with the home of an unknown user",
            {"name": "mnist", "data_dir": "~nobody-of-this-name/x"},
        ),
        (
            ConfigError,
            "the path '~nobody-of-this-name/x' begins with the home of an unknown user",
            {"name": "folder:~nobody-of-this-name/x"},
        ),
        (ConfigError, "limit=0 must be at least 1 image", {"limit": 0}),
    ],
)
def test_wrong_options(error: type[Exception], message: str, options: dict) -> None:
    with pytest.raises(error) as caught:
        load_dataset(**({"name": "digits"} | options))
    assert str(caught.value) == message


def test_wrong_labels_for_mnist(make: SimpleNamespace, tmp_path: Path) -> None:
    file = make.idx(np.zeros(10_000))
    path = make.put(tmp_path / "t10k-labels-idx1-ubyte.gz", file, compress=True)
    make.put(tmp_path / "t10k-images-idx3-ubyte.gz", make.idx(np.zeros((10_000, 28, 28))), compress=True)
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", data_dir=tmp_path, split="test")
    assert str(caught.value) == (
        f"{path}: the labels are not those of mnist (MD5 {hashlib.md5(file).hexdigest()}, expected "
        "27ae3e4e09519cfbb04c329615203637); put the files of another set into a folder of its name"
    )


@pytest.mark.parametrize("folder", ["x" * 5000, "a\0b", "/dev/null"])
@pytest.mark.parametrize("name", list_datasets())
def test_impossible_folders(name: str, folder: str) -> None:
    if name == "digits":
        with pytest.raises(DataError, match=r"no image folder|cannot be read"):
            load_dataset(f"folder:{folder}")
    else:
        with pytest.raises(DataError, match=r"are not in|cannot be looked up"):
            load_dataset(name, data_dir=folder)


def test_surface() -> None:
    assert list_datasets() == ["cifar10", "cifar100", "digits", "fashion-mnist", "mnist"]
    assert dir(deepprobe.data) == sorted(deepprobe.data.__all__)
    assert all(callable(getattr(deepprobe.data, name)) for name in deepprobe.data.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'load_everything'"):
        deepprobe.data.load_everything  # noqa: B018


def test_loading_pixels_imports_neither_torch_nor_seaborn() -> None:
    code = (
        "import sys, deepprobe.data as d; d.list_datasets(); assert 'sklearn' not in sys.modules; "
        "d.load_dataset('digits', limit=3); assert not {'torch', 'seaborn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
