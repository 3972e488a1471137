"""The subset of pickle in which the CIFAR archives are written, read without calling anything.

A pickle is a program for a small stack machine. This one knows the instructions that dictionaries, lists, tuples,
numbers, strings and NumPy arrays need (protocols 2 and 3), keeps the names of functions as inert symbols, and turns
the two calls that rebuild an array into plain records. Nothing is imported and nothing is called; any other
instruction, name or call ends with a DataError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from deepprobe.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_MAX_INSTRUCTIONS: Final = 1_000_000

_SYMBOLS: Final = {
    b"numpy.core.multiarray\n_reconstruct": "reconstruct",
    b"numpy._core.multiarray\n_reconstruct": "reconstruct",
    b"numpy\nndarray": "ndarray",
    b"numpy\ndtype": "dtype",
    b"_codecs\nencode": "encode",
}


@dataclass(frozen=True)
class _Symbol:
    """A name that the pickle mentions; never the thing itself."""

    name: str


@dataclass
class _Type:
    """A NumPy dtype; only unsigned bytes pass."""


@dataclass
class _Array:
    """A NumPy array, empty until its state has been set."""

    shape: tuple[int, ...] = ()
    content: bytes | None = None


def read_array_pickle(content: bytes, origin: str) -> dict[str, object]:
    """The dictionary that a CIFAR batch holds.

    Args:
        content: The pickle.
        origin: Name of the file, for error messages.

    Returns:
        Values by key. Arrays are uint8; byte strings, as Python 2 wrote them, stay bytes as values.

    Raises:
        DataError: If the pickle is damaged, or uses anything but the subset described above.
    """
    top = _Machine(content, origin).run()
    if not isinstance(top, dict):
        raise DataError(f"{origin}: expected a dictionary, found {type(top).__name__}")
    return {_text(key): _finished(value, origin) for key, value in top.items()}


def _text(key: object) -> str:
    """Key of the dictionary as text."""
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def _finished(value: object, origin: str) -> object:
    """A value of the dictionary, arrays made real."""
    if not isinstance(value, _Array):
        return value
    size = 1
    for side in value.shape:
        size *= side
    if value.content is None or len(value.content) != size:
        found = "none" if value.content is None else len(value.content)
        raise DataError(f"{origin}: expected {size} bytes for an array of shape {value.shape}, found {found}")
    array: NDArray[np.uint8] = np.frombuffer(value.content, np.uint8).reshape(value.shape)
    return array


class _Machine:
    """The stack machine."""

    def __init__(self, content: bytes, origin: str) -> None:
        self.content, self.origin, self.at = content, origin, 0
        self.stack: list[object] = []
        self.outer: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.to_encode = len(content)

    def run(self) -> object:
        """Object that is on top of the stack when the pickle stops."""
        for _ in range(_MAX_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                return self.pop()
            if code not in _INSTRUCTIONS:
                raise self.refusal(f"instruction 0x{code.hex()} is not allowed")
            _INSTRUCTIONS[code](self)
        raise self.refusal(f"more than {_MAX_INSTRUCTIONS} instructions")

    def refusal(self, reason: str) -> DataError:
        """Error that names file, place and reason."""
        return DataError(f"{self.origin}: not a pickle of a CIFAR batch, at byte {self.at}: {reason}")

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        if n < 0 or self.at + n > len(self.content):
            raise self.refusal(f"expected {n} more bytes, found {len(self.content) - self.at}")
        self.at += n
        return self.content[self.at - n : self.at]

    def number(self, width: int, *, signed: bool = False) -> int:
        """The next little-endian integer."""
        return int.from_bytes(self.take(width), "little", signed=signed)

    def text(self, width: int) -> str:
        """The next UTF-8 string, whose length stands before it."""
        try:
            return self.take(self.number(width)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.refusal("a string is not UTF-8") from error

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> object:
        """Take a value off the stack."""
        if not self.stack:
            raise self.refusal("the stack is empty")
        return self.stack.pop()

    def top(self) -> object:
        """The value on the stack, left there."""
        if not self.stack:
            raise self.refusal("the stack is empty")
        return self.stack[-1]

    def mark(self) -> None:
        """Begin a group of values."""
        self.outer.append(self.stack)
        self.stack = []

    def group(self) -> list[object]:
        """The values since the last mark."""
        if not self.outer:
            raise self.refusal("a group ends that never began")
        values, self.stack = self.stack, self.outer.pop()
        return values

    def tie(self, n: int) -> None:
        """Tuple of the last n values."""
        values = [self.pop() for _ in range(n)]
        self.push(tuple(reversed(values)))

    def append(self, values: list[object]) -> None:
        """Add values to the list below them."""
        target = self.top()
        if not isinstance(target, list):
            raise self.refusal(f"values are appended to a {type(target).__name__}")
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        """Add keys and values to the dictionary below them."""
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            raise self.refusal(f"{len(values)} keys and values are set in a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | bytes):
                raise self.refusal(f"a key is a {type(key).__name__}")
            target[key] = value

    def remember(self, width: int) -> None:
        """Keep the top of the stack under a number."""
        self.memo[self.number(width)] = self.top()

    def recall(self, width: int) -> None:
        """Push what was kept under a number."""
        index = self.number(width)
        if index not in self.memo:
            raise self.refusal(f"nothing was kept under {index}")
        self.push(self.memo[index])

    def symbol(self) -> None:
        """Push a name, if it is one of those that arrays need."""
        middle = self.content.find(b"\n", self.at, self.at + 256)
        end = self.content.find(b"\n", middle + 1, middle + 257) if middle >= 0 else -1
        if end < 0:
            raise self.refusal("a name does not end")
        name = self.take(end + 1 - self.at)[:-1]
        if name not in _SYMBOLS:
            shown = name.replace(b"\n", b".").decode("ascii", "backslashreplace")
            raise self.refusal(f"the name {shown!r} is not allowed")
        self.push(_Symbol(_SYMBOLS[name]))

    def call(self) -> None:
        """Replace a name and its arguments by the record of what they describe."""
        arguments, function = self.pop(), self.pop()
        match function, arguments:
            case _Symbol("reconstruct"), (_Symbol("ndarray"), (0,), b"b" | "b"):
                self.push(_Array())
            case _Symbol("dtype"), ("u1" | b"u1", *_):
                self.push(_Type())
            case _Symbol("encode"), (str(text), "latin1"):
                self.push(self.encoded(text))
            case _Symbol(name), _:
                raise self.refusal(f"{name} is called with arguments that are not allowed")
            case _:
                raise self.refusal(f"a {type(function).__name__} is called")

    def encoded(self, text: str) -> bytes:
        """Bytes that Python 3 wrote as text; all of them together no more than the file is long."""
        self.to_encode -= len(text)
        if self.to_encode < 0:
            raise self.refusal("the byte strings are longer than the file")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise self.refusal("a byte string holds more than bytes") from error

    def build(self) -> None:
        """Set the state of the record below."""
        state, target = self.pop(), self.top()
        if isinstance(target, _Type):
            return
        match target, state:
            case _Array(), (1, tuple(shape), _Type(), False, bytes(content)):
                if len(shape) > 4 or not all(type(side) is int and 1 <= side <= len(content) for side in shape):
                    raise self.refusal("the shape of an array does not fit its content")
                target.shape, target.content = shape, content
            case _:
                raise self.refusal(f"the state of a {type(target).__name__} is not that of an array of bytes")


_INSTRUCTIONS: Final[dict[bytes, Callable[[_Machine], None]]] = {
    b"\x80": lambda m: None if m.number(1) in (2, 3) else _wrong_protocol(m),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"\x8a": lambda m: m.push(m.number(m.number(1), signed=True)),
    b"U": lambda m: m.push(m.take(m.number(1))),
    b"T": lambda m: m.push(m.take(m.number(4, signed=True))),
    b"C": lambda m: m.push(m.take(m.number(1))),
    b"B": lambda m: m.push(m.take(m.number(4))),
    b"X": lambda m: m.push(m.text(4)),
    b"(": lambda m: m.mark(),
    b"t": lambda m: m.push(tuple(m.group())),
    b"\x85": lambda m: m.tie(1),
    b"\x86": lambda m: m.tie(2),
    b"\x87": lambda m: m.tie(3),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.group()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.group()),
    b"q": lambda m: m.remember(1),
    b"r": lambda m: m.remember(4),
    b"h": lambda m: m.recall(1),
    b"j": lambda m: m.recall(4),
    b"c": lambda m: m.symbol(),
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
}


def _wrong_protocol(machine: _Machine) -> None:
    """Refuse other protocols than 2 and 3."""
    raise machine.refusal(f"expected protocol 2 or 3, found {machine.content[machine.at - 1]}")
