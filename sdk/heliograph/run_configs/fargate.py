"""Sizes of Fargate tasks: which pairs of processors and memory there are, and how people write them."""

from __future__ import annotations

import re

__all__ = ["check_fargate_size", "cpu_units", "memory_mib"]

GIB = 1024
_SIZES: dict[int, tuple[int, ...]] = {
    256: (512, 1024, 2048),
    512: tuple(range(1 * GIB, 4 * GIB + 1, GIB)),
    1024: tuple(range(2 * GIB, 8 * GIB + 1, GIB)),
    2048: tuple(range(4 * GIB, 16 * GIB + 1, GIB)),
    4096: tuple(range(8 * GIB, 30 * GIB + 1, GIB)),
    8192: tuple(range(16 * GIB, 60 * GIB + 1, 4 * GIB)),
    16384: tuple(range(32 * GIB, 120 * GIB + 1, 8 * GIB)),
}
"""Memory in MiB that each size in CPU units may have."""

_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def cpu_units(value: str | int) -> int:
    """Reads CPU units (`1024`), or virtual processors (`1 vcpu`).

    Raises:
        ValueError: It is neither.
    """
    match = _TEXT.fullmatch(str(value).strip().lower())
    if isinstance(value, bool) or match is None or match[2] not in ("", "vcpu"):
        raise ValueError(f"{value!r} is no cpu; write CPU units, 1024 for one processor, or a text like '1 vcpu'")
    units = float(match[1]) * (1024 if match[2] else 1)
    if units < 1 or units != int(units):
        raise ValueError(f"{value!r} is no cpu: CPU units are whole numbers, at least 1")
    return int(units)


def memory_mib(value: str | int) -> int:
    """Reads MiB (`2048`), or a text like `2 GB` or `512 MB`, by which AWS means powers of 1,024.

    Raises:
        ValueError: It is neither.
    """
    match = _TEXT.fullmatch(str(value).strip().lower())
    factors = {"": 1, "mb": 1, "mib": 1, "gb": GIB, "gib": GIB}
    if isinstance(value, bool) or match is None or match[2] not in factors:
        raise ValueError(f"{value!r} is no memory; write MiB, 2048 for two GiB, or a text like '2 GB'")
    mib = float(match[1]) * factors[match[2]]
    if mib < 1 or mib != int(mib):
        raise ValueError(f"{value!r} is no memory: MiB are whole numbers, at least 1")
    return int(mib)


def check_fargate_size(cpu: int, memory: int) -> None:
    """Checks that Fargate has tasks of that size.

    Args:
        cpu: CPU units; 0 when not said.
        memory: MiB; 0 when not said.

    Raises:
        ValueError: It has none; the message names the nearest one that is large enough, or else the largest.
    """
    fits = (
        cpu in _SIZES and memory in _SIZES[cpu]
        if cpu and memory
        else (not cpu or cpu in _SIZES) and (not memory or any(memory in sizes for sizes in _SIZES.values()))
    )
    if fits:
        return
    units, mib = _nearest(cpu, memory)
    asked = ", ".join(f"{name} {value}" for name, value in (("cpu", cpu), ("memory", memory)) if value)
    raise ValueError(
        f"Fargate has no task with {asked}; the nearest has cpu {units} ({units / 1024:g} vCPU) and memory {mib}"
        f" ({mib / GIB:g} GB). With cpu {units} there are {_range(_SIZES[units])}."
    )


def _nearest(cpu: int, memory: int) -> tuple[int, int]:
    """The smallest that is large enough."""
    for units, sizes in _SIZES.items():
        for mib in sizes:
            if units >= cpu and mib >= memory:
                return units, mib
    units = max(_SIZES)
    return units, _SIZES[units][-1]


def _range(sizes: tuple[int, ...]) -> str:
    if len(sizes) < 4:
        return ", ".join(str(mib) for mib in sizes)
    return f"{sizes[0]} to {sizes[-1]} by {sizes[1] - sizes[0]}"
