"""Requests of every kind of nonsense, made from descriptors, from seeds of real values, and by breaking good ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

TEXTS = [
    "", "-", ".", "..", "a", "projects/p", "projects/-", "projects/p/flows/f", "projects/p/flowRuns/x", "agents/a",
    "projects/p/flows/f/versions/999999999", "projects/p/flowRuns/00000000-0000-0000-0000-000000000000",
    "projects/p/flowRuns/00000000-0000-0000-0000-000000000000/taskRuns/4294967295.1", "tokens/x", "users/a", "{}", "[]",
    '{"x": 1}', '{"x": NaN}', '{"x": 1e999}', "[" * 5_000, "' OR 1=1 --", "%", "_", "\x00", "\u202e", "<x>", "漢字",
    "a" * 300, "sha256:" + "0" * 64, "latest", "* * * * *", "*/0 * * * *", "0 0 31 2 *", "Europe/Rome",
    "../../etc/passwd", "eyJhIjoxfQ==", "WzFd", "WyJhIl0", "AAAA", "a" * 70_000,
    "((((((((((a+)+)+)+)+)+)+)+)+)+)$", "a" * 40 + "!",
]  # fmt: skip
NUMBERS = [0, 1, 2, 7, 100, 1_000, 2**31 - 1, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**64 - 1, -1, -(2**31), -(2**63)]
_RANGES = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
}
_FLOATS = [0.0, -1.0, float("nan"), float("inf"), 1e308]
_BROKEN = [
    b"\xff\xff\xff",
    b"\x0a\x02\xff\xfe",  # a text that is no UTF-8
    b"\x0a\x03\xed\xa0\x80",  # a surrogate
    b"\x0b" * 10_000,  # groups in groups
    b"\x0a\xff\xff\xff\xff\x0f",  # a text of 4 GB that is not there
    b"\x08" + b"\xff" * 11,  # a number that does not end
    b"\xfa\x3f\x06SECRET",  # a field that nobody knows
    b"\x00",
    b"",
]


class Nonsense:
    """Makes requests of one type.

    Args:
        seed: The same seed makes the same requests.
        descriptor: The type.
        good: Makes a good request.
        names: Names of what really exists.
    """

    def __init__(self, seed: str, descriptor: Descriptor, good: Callable[[], Message], names: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._descriptor, self._good = descriptor, good
        self._texts = [*TEXTS, *list(names) * 4]

    def request(self) -> bytes:
        """One request, good or bad, as bytes."""
        kind = self._random.random()
        if kind < 0.35:
            return self.message(self._descriptor).SerializeToString()
        if kind < 0.65:
            return self._bent().SerializeToString()
        if kind < 0.85:
            return self._broken(self._good().SerializeToString())
        if kind < 0.95:
            return self._random.randbytes(self._random.choice([1, 2, 7, 40, 1_000]))
        if kind < 0.99:
            return self._good().SerializeToString() + self._random.choice(_BROKEN)
        return self._random.choice([b"\x0a\x80\x80\x40", b"\x12\xa0\xc2\x1e"]) + b"x" * self._random.choice(
            [10, 1_048_576]
        )

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        """A message of odd values."""
        made = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self._random.random() >= (0.25 if depth < 4 else 0.8):
                self._fill(made, field, depth)
        return made

    def _bent(self) -> Message:
        """A good request with one or two odd values."""
        made = self._good()
        for _ in range(self._random.choice([1, 1, 2])):
            place: Any = made
            fields: Any = place.DESCRIPTOR.fields
            while fields:
                field = self._random.choice(fields)
                inner = field.message_type is not None and not field.is_repeated and place.HasField(field.name)
                if not inner or self._random.random() < 0.3:
                    place.ClearField(field.name)
                    self._fill(place, field, 2)
                    break
                place = getattr(place, field.name)
                fields = place.DESCRIPTOR.fields
        return made

    def _broken(self, data: bytes) -> bytes:
        """Good bytes, some of them changed, left out or doubled."""
        made = bytearray(data)
        for _ in range(self._random.choice([1, 1, 3, 10])):
            if not made:
                break
            at = self._random.randrange(len(made))
            match self._random.randrange(4):
                case 0:
                    made[at] ^= 1 << self._random.randrange(8)
                case 1:
                    del made[at : at + self._random.choice([1, 3, 20])]
                case 2:
                    made[at:at] = made[at : at + 10]
                case _:
                    made[at] = self._random.randrange(256)
        return bytes(made)

    def _fill(self, made: Any, field: FieldDescriptor, depth: int) -> None:
        if field.is_repeated:
            values = [self._value(field, depth) for _ in range(self._random.choice([1, 1, 2, 5]))]
            getattr(made, field.name).extend(value for value in values if value is not None)
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(self._value(field, depth))
        elif (value := self._value(field, depth)) is not None:
            setattr(made, field.name, value)

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        if field.message_type is not None:
            return self.message(field.message_type, depth + 1)
        if field.type == field.TYPE_STRING:
            return self._random.choice(self._texts)
        if field.type == field.TYPE_BYTES:
            return self._random.randbytes(self._random.choice([0, 1, 40]))
        if field.type == field.TYPE_BOOL:
            return self._random.random() < 0.5
        if field.type in (field.TYPE_DOUBLE, field.TYPE_FLOAT):
            return self._random.choice(_FLOATS)
        if field.enum_type is not None:
            return self._random.choice([*field.enum_type.values_by_number, 99])
        number = self._random.choice(NUMBERS)
        low, high = _RANGES.get(field.type, (-(2**63), 2**63 - 1))
        return number if low <= number <= high else None
