"""What the values of a configuration must be.

Each check takes a value as TOML has it and the folder of the file, and returns it as it is used, or
raises a ValueError that says what is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from igtl.addresses import parsed
from igtl.errors import EncodeError
from igtl.geometry.graph import TransformGraph
from igtl.options import Options, unknown
from igtl.tools.routing import Renaming

Check = Callable[[Any, Path], Any]


def flag(value: Any, folder: Path) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def text(value: Any, folder: Path) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    return value


def texts(value: Any, folder: Path) -> tuple[str, ...]:
    """Return a list of texts, one at least."""
    if isinstance(value, str) or not isinstance(value, list) or not value:
        raise ValueError(f"must be a list of texts, not {value!r}")
    return tuple(text(each, folder) for each in value)


def address(value: Any, folder: Path) -> tuple[str, int]:
    """Return HOST:PORT, unix:/PATH, or ws:// and wss://."""
    return parsed(text(value, folder))


def page(value: Any, folder: Path) -> tuple[str, int] | None:
    """Return HOST:PORT; None of ""."""
    return None if value == "" else address(value, folder)


def path(value: Any, folder: Path) -> Path:
    """Return a path, from the folder of the file."""
    return folder / text(value, folder)


def file(value: Any, folder: Path) -> Path:
    """Return the path of a file that is there."""
    found = path(value, folder)
    if not found.is_file():
        raise ValueError(f"there is no file {str(found)!r}")
    return found


def prefix(value: Any, folder: Path) -> Path:
    """Return folder and beginning of the names of files; the folder is there."""
    found = path(value, folder)
    if not found.parent.is_dir():
        raise ValueError(f"there is no folder {str(found.parent)!r}")
    return found


def number(*, above: float = 0.0, at_most: float = math.inf, at_least: float = -math.inf) -> Check:
    """Make a check for a number within bounds."""

    def check(value: Any, folder: Path) -> float:
        right = isinstance(value, int | float) and math.isfinite(value) and value is not True
        if not right or not (above < value <= at_most and value >= at_least):
            bounds = f"above {above:g}" if at_least == -math.inf else f"{at_least:g} or more"
            more = "" if at_most == math.inf else f", {at_most:g} at most"
            raise ValueError(f"must be a number {bounds}{more}, not {value!r}")
        return float(value)

    return check


def count(*, at_least: int = 1) -> Check:
    """Make a check for a whole number that is not too small."""

    def check(value: Any, folder: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise ValueError(f"must be a whole number, {at_least} or more, not {value!r}")
        return value

    return check


def choice(*choices: Any) -> Check:
    """Make a check for one of these."""

    def check(value: Any, folder: Path) -> Any:
        if not any(value == each and type(value) is type(each) for each in choices):
            raise ValueError(f"must be one of {', '.join(map(repr, choices))}, not {value!r}")
        return value

    return check


def choices(known: Iterable[str]) -> Check:
    """Make a check for a list of some of these."""

    def check(value: Any, folder: Path) -> tuple[str, ...]:
        for each in texts(value, folder):
            if each not in known:
                raise ValueError(f"there is no {unknown(each, known, 'choices')}")
        return texts(value, folder)

    return check


def devices(value: Any, folder: Path) -> tuple[str, ...]:
    """Return a list of simulated devices."""
    from igtl.simulate import DEVICES  # rarely wanted

    found: tuple[str, ...] = choices([name for name in DEVICES if name != "ct"])(value, folder)
    return found


def codec(value: Any, folder: Path) -> Any:
    """Return a codec of video."""
    from igtl.video.codecs import Codec  # rarely wanted

    return choice(*get_args(Codec))(value, folder)


def names(value: Any, folder: Path) -> dict[str, str]:
    """Return a table of new names by old ones."""
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ValueError(f"must be a table of new names by old ones, not {value!r}")
    try:
        Renaming(value)
    except EncodeError as error:
        raise ValueError(error.reason) from None
    return value


def pose(name: str, value: Any) -> tuple[tuple[float, ...], ...]:
    """Return four rows of four numbers, rigid, for a transform of this name.

    Raises:
        ValueError: they are not, or the name is not of the form XToY.
    """
    wrong = f"must be four rows of four numbers, not {value!r}"
    rows = value if isinstance(value, list) and len(value) == 4 else []
    if not rows or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise ValueError(wrong)
    try:
        found = tuple(tuple(map(float, row)) for row in rows)
    except TypeError:
        raise ValueError(wrong) from None
    TransformGraph().set(name, found)
    return found


def of_options(kind: type[Options], but: Iterable[str] = ()) -> Mapping[str, Check]:
    """Make a check for each option of a class.

    Args:
        kind: the class.
        but: options that no configuration may set.
    """

    def check_of(name: str) -> Check:
        def check(value: Any, folder: Path) -> Any:
            try:
                return getattr(kind.of({name: value}), name)
            except (TypeError, ValueError) as error:
                text = str(error).removeprefix(name).removeprefix(":").lstrip()
                raise ValueError(text) from None

        return check

    left = kind.known.keys() - set(but)
    return {name: check_of(name) for name in sorted(left)}
