"""Optional libraries, loaded when they are first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingExtra(ModuleNotFoundError):
    """An optional library is not installed; the text names the extra that installs it."""


def need(module: str, extra: str) -> Any:
    """Return the module of an extra.

    Raises:
        MissingExtra: it is not installed; the text says which extra has it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, but something else is missing
        raise MissingExtra(
            f'{module} is not installed: pip install "igtl[{extra}]"', name=error.name
        ) from None
