"""Tells errors of a file's content from errors of the system when a library reads or writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from igtl.errors import EncodeError, FileError, naming
from igtl.extras import MissingExtra

_NOT_THERE: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


@contextlib.contextmanager
def blamed(path: Any) -> Iterator[None]:
    """Turn what a library raises about the content of a file into FileError, whatever its type.

    There are many decoders behind these libraries, and some want modules of their own for odd
    bytes. OSErrors of the system (with a number) pass, with the name of the file, and so does the
    error of a missing library.
    """
    try:
        with naming(path):
            yield
    except (FileError, MissingExtra):
        raise
    except EncodeError as error:
        raise FileError(path, error.reason) from None
    except OSError as error:
        other = error.filename is not None and Path(error.filename) != Path(path)
        if isinstance(error, _NOT_THERE) and other and Path(path).exists():
            raise FileError(path, f"belongs to {error.filename}, which is not a file") from None
        if error.errno is not None:
            raise
        raise FileError(path, _told(error)) from None  # "not a gzipped file", too few bytes
    except (Exception, SystemExit) as error:  # some readers end the process
        raise FileError(path, _told(error)) from None


def _told(error: BaseException) -> str:
    """Return what is wrong, without the place in the library."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RuntimeError) and lines:
        return lines[-1]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
