"""The real files: every figure that the notes beside them state."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from deepprobe.data import load_dataset

MNIST_COUNTS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
COPIES = {
    ("cifar10", "train"): (
        "44217bf3077420c899dbfd4a9668d6bd22940c8743ed6561bc254833204a2f48",
        (0.4892, 0.4840, 0.4439),
        (0.2468, 0.2432, 0.2611),
    ),
    ("cifar10", "test"): (
        "7390d17d11b34735c267beb71785385cc08bf41a8250547e6bd9a7039ec60c14",
        (0.4920, 0.4869, 0.4477),
        (0.2464, 0.2426, 0.2610),
    ),
    ("cifar100", "train"): (
        "e2d436324c8fad9b1f4abc2cbe800b3e923fd30ec9ace4c51ec7438f96062acf",
        (0.5049, 0.4883, 0.4383),
        (0.2668, 0.2558, 0.2750),
    ),
    ("cifar100", "test"): (
        "3d5c9f405b252c9b26e1c596f1ff1c5b2f615dce5f8385beb4d03b59024bc764",
        (0.5067, 0.4891, 0.4393),
        (0.2677, 0.2567, 0.2759),
    ),
}


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[3])])
    share, levels = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ levels
    return mean, np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))


@pytest.mark.parametrize(("split", "mean", "std"), [("train", 0.1307, 0.3081), ("test", 0.1325, 0.3105)])
def test_mnist(real_data: Path, split: str, mean: float, std: float) -> None:
    mnist = load_dataset("mnist", data_dir=real_data, split=split)
    assert mnist.source == "mnist (IDX)"
    assert np.bincount(mnist.labels).tolist() == MNIST_COUNTS[split]
    found = moments(mnist.images)
    assert found[0] == pytest.approx([mean], abs=5e-5)
    assert found[1] == pytest.approx([std], abs=5e-5)
    stem = "train" if split == "train" else "t10k"
    pixels = bytes((0, 0, 8, 3)) + b"".join(s.to_bytes(4, "big") for s in mnist.images.shape[:3])
    assert hashlib.md5(pixels + mnist.images.tobytes()).hexdigest() == MNIST_MD5[f"{stem}-images-idx3-ubyte"]
    labels = gzip.decompress((real_data / "mnist" / f"{stem}-labels-idx1-ubyte.gz").read_bytes())
    assert hashlib.md5(labels).hexdigest() == MNIST_MD5[f"{stem}-labels-idx1-ubyte"]
    assert mnist.labels.tolist() == list(labels[8:])


@pytest.mark.parametrize(("name", "split"), COPIES)
def test_cifar_copies(real_data: Path, name: str, split: str) -> None:
    sha256, mean, std = COPIES[name, split]
    cifar = load_dataset(name, data_dir=real_data, split=split)
    assert cifar.source == f"{name} (AVIF copy)"
    assert set(np.bincount(cifar.labels)) == {len(cifar) // len(cifar.classes)}
    found = moments(cifar.images)
    assert found[0] == pytest.approx(mean, abs=6e-5)
    assert found[1] == pytest.approx(std, abs=6e-5)
    assert cifar.mean == COPIES[name, "train"][1]
    assert cifar.std == COPIES[name, "train"][2]
    if features.version("avif") == "1.4.2":  # another decoder may differ by a rounding step
        assert hashlib.sha256(cifar.images.tobytes()).hexdigest() == sha256


def test_cifar10_copy_is_the_test_set_in_its_order(real_data: Path) -> None:
    with Image.open(real_data / "cifar10" / "test-first800-lossless.webp") as picture:
        exact = np.asarray(picture.convert("RGB")).reshape(20, 32, 40, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    copy = load_dataset("cifar10", data_dir=real_data, split="test", limit=800).images
    error = ((copy.astype(np.float64) - exact) ** 2).mean(axis=(1, 2, 3))
    assert 10 * np.log10(255**2 / error.mean()) == pytest.approx(35.4, abs=0.2)
    assert (10 * np.log10(255**2 / error)).min() > 32


def test_limit_decodes_only_what_it_needs(real_data: Path, tmp_path: Path) -> None:
    for file in ("train-labels-idx1-ubyte.gz", "train-0.avif"):
        (tmp_path / "cifar10").mkdir(exist_ok=True)
        (tmp_path / "cifar10" / file).write_bytes((real_data / "cifar10" / file).read_bytes())
    for i in range(1, 5):
        (tmp_path / "cifar10" / f"train-{i}.avif").write_bytes(b"never opened")
    part = load_dataset("cifar10", data_dir=tmp_path / "cifar10", limit=10_000)
    assert part.images.shape == (10_000, 32, 32, 3)
    assert part.source == "cifar10 (AVIF copy)"


def test_class_names_are_those_beside_the_files(real_data: Path) -> None:
    import json

    names = json.loads((real_data / "classes.json").read_text())
    for name in ("mnist", "cifar10", "cifar100"):
        assert list(load_dataset(name, data_dir=real_data, split="test", limit=1).classes) == names[name]


def test_mnist_is_not_taken_for_fashion_mnist(real_data: Path) -> None:
    from deepprobe.errors import DataError

    path = real_data / "mnist" / "t10k-labels-idx1-ubyte.gz"
    with pytest.raises(DataError) as caught:
        load_dataset("fashion-mnist", data_dir=real_data / "mnist", split="test")
    assert str(caught.value) == (
        f"{path}: the labels are those of mnist, not of fashion-mnist; "
        "put the files of fashion-mnist into a folder of that name"
    )
