"""Operations that take several steps, written once for programs with and without an event loop.

An operation is a generator. It yields what a method of its driver has returned, and is given the
result: in a blocking driver that is the same, in asyncio it has been awaited meanwhile. So
`answer = yield link.request(…)` reads as it would in either world. `igtl.blocking.steps` and
`igtl.aio.steps` carry operations out, and make methods of them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Steps = Generator[Any, Any, T]
"""An operation that returns T in the end."""


def describe(method: Callable[..., Any], operation: Callable[..., Any]) -> None:
    """Give a method the name, docstring and arguments of its operation.

    It returns what the operation, whose annotations are not evaluated, returns in the end.
    """
    functools.update_wrapper(method, operation)
    returned = operation.__annotations__["return"].removeprefix("Steps[").removesuffix("]")
    method.__annotations__ = {**operation.__annotations__, "return": returned}
    shown = inspect.signature(operation).replace(return_annotation=returned)
    del method.__dict__["__wrapped__"]
    method.__dict__["__signature__"] = shown
