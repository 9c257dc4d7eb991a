"""Libraries that are not for everybody: loaded when they are first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingExtra(ModuleNotFoundError):
    """A library that is not for everybody is not installed; the text says what brings it."""


def need(module: str, extra: str) -> Any:
    """The module of an extra.

    Raises:
        MissingExtra: it is not installed; the text says what brings it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, but something else is missing
        raise MissingExtra(
            f'{module} is not installed: pip install "igtl[{extra}]"', name=error.name
        ) from None
