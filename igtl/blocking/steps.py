"""Operations in steps (see `igtl.session.steps`) in a program without an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate

from igtl.session.steps import P, S, Steps, T, describe


def run(steps: Steps[T]) -> T:
    """Carry out an operation; returns what it returns."""
    result: Any = None
    try:
        while True:
            result = steps.send(result)
    except StopIteration as done:
        result = done.value
    return result  # type: ignore[no-any-return]


def method(operation: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[S, P], T]:
    """Return a method that carries out an operation."""

    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(operation(self, *args, **kwargs))

    describe(call, operation)
    return call
