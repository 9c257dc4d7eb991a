"""Decoders that a damaged file can crash run in a process of their own.

VTK and the TIFF reader of ITK write outside their memory on wrong counts. When the process
crashes, the caller gets a FileError.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from igtl.errors import FileError
from igtl.files.blame import blamed
from igtl.files.notes import collected, note

T = TypeVar("T")
_START: Final = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from igtl.files.apart import answer; answer()"
)
_MEMORY: Final = 4 << 30  # bytes of addresses, and as many times the file as
_TIMES: Final = 32


def apart(read: Callable[[Path], T], path: Path) -> T:
    """Return the result of a function for a file, computed in another Python process.

    Args:
        read: a function of a module; its result can be pickled.
        path: of the file, the function's argument.

    Raises:
        FileError: the process ended without an answer. And what `read` raises.
    """
    with path.open("rb"):  # OSError as usual
        pass
    asked = pickle.dumps(sys.path) + pickle.dumps((read, path, path.stat().st_size))
    done = subprocess.run(
        [sys.executable, "-c", _START], input=asked, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    try:
        result, error, notes = pickle.loads(done.stdout)
    except (EOFError, pickle.UnpicklingError):
        raise FileError(path, "is damaged: it crashes its decoder") from None
    for text in notes:
        note(text)
    if error is not None:
        raise error
    found: T = result
    return found


def answer() -> None:
    """Read the question from standard input, and answer on standard output.

    This runs in the other process.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no part of the answer
    read, path, size = pickle.load(sys.stdin.buffer)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY + _TIMES * size,) * 2)
    result = error = None
    with collected() as notes:
        try:
            with blamed(path):
                result = read(path)
        except Exception as caught:
            error = caught
    with out:
        pickle.dump((result, error, notes), out)
