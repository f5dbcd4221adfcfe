"""Two forms of one test: a quick one for `make test`, a full one for `make test-full`."""

from __future__ import annotations

from typing import Any

import pytest


def forms(names: str, *, quick: Any, full: Any, seconds: int = 1800, quick_seconds: int = 120) -> pytest.MarkDecorator:
    """Parametrizes a test with its quick and its full arguments.

    Args:
        names: Names of the arguments, as `pytest.mark.parametrize` takes them.
        quick: The arguments of the quick form: a tuple where there are several names.
        full: Those of the full form, marked `full`.
        seconds: Time limit of the full form.
        quick_seconds: Time limit of the quick one. A `timeout` mark on the test itself would win over both.
    """

    def values(given: Any) -> tuple[Any, ...]:
        return given if isinstance(given, tuple) else (given,)

    return pytest.mark.parametrize(
        names,
        [
            pytest.param(*values(quick), id="quick", marks=[pytest.mark.timeout(quick_seconds)]),
            pytest.param(*values(full), id="full", marks=[pytest.mark.full, pytest.mark.timeout(seconds)]),
        ],
    )
