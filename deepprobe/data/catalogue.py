"""What is known of each data set: sizes, classes, statistics, where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

_TEN = tuple("0123456789")

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is known of a data set.

    Attributes:
        name: Name by which it is loaded.
        classes: Class names in the order of the labels.
        shape: Height, width, channels.
        n_train: Images of the training split.
        n_test: Images of the test split.
        mean: Mean of each channel over the training split, pixels divided by 255; empty if computed on loading.
        std: Standard deviation, likewise.
        copy_mean: The same of the AVIF copy; empty if there is none.
        copy_std: The same of the AVIF copy.
        origin: Where the files come from, in words.
        label_md5: MD5 of the official label file of each split, uncompressed, where known.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    n_train: int
    n_test: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    copy_mean: tuple[float, ...] = ()
    copy_std: tuple[float, ...] = ()
    origin: str = ""
    label_md5: dict[str, str] = field(default_factory=dict)

    def n(self, split: str) -> int:
        """Images of a split."""
        return self.n_train if split == "train" else self.n_test


DIGITS = Facts("digits", _TEN, (8, 8, 1), 1437, 360, origin="scikit-learn")

MNIST = Facts(
    "mnist", _TEN, (28, 28, 1), 60_000, 10_000, mean=(0.1307,), std=(0.3081,),
    origin="the MNIST page of Y. LeCun, C. Cortes and C. Burges",
    label_md5={"train": "a25bea736e30d166cdddb491f175f624", "test": "27ae3e4e09519cfbb04c329615203637"},
)  # fmt: skip

FASHION_MNIST = Facts(
    "fashion-mnist", _FASHION, (28, 28, 1), 60_000, 10_000, mean=(0.2860,), std=(0.3530,),
    origin="the Fashion-MNIST repository of Zalando Research",
)  # fmt: skip

CIFAR10 = Facts(
    "cifar10", _CIFAR10, (32, 32, 3), 50_000, 10_000,
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    copy_mean=(0.4892, 0.4840, 0.4439), copy_std=(0.2468, 0.2432, 0.2611),
    origin="the CIFAR page of the University of Toronto",
)  # fmt: skip

CIFAR100 = Facts(
    "cifar100", _CIFAR100, (32, 32, 3), 50_000, 10_000,
    mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762),
    copy_mean=(0.5049, 0.4883, 0.4383), copy_std=(0.2668, 0.2558, 0.2750),
    origin="the CIFAR page of the University of Toronto",
)  # fmt: skip

CATALOGUE = {facts.name: facts for facts in (CIFAR10, CIFAR100, DIGITS, FASHION_MNIST, MNIST)}


def list_datasets() -> list[str]:
    """Names of the known data sets, sorted; image folders are loaded as ``folder:PATH``.

    Example:
        >>> list_datasets()
        ['cifar10', 'cifar100', 'digits', 'fashion-mnist', 'mnist']
    """
    return sorted(CATALOGUE)
