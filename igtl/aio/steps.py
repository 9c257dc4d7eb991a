"""Operations in steps (see `igtl.session.steps`) in an event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate

from igtl.session.steps import P, S, Steps, T, describe


async def run(steps: Steps[T]) -> T:
    """Carry out an operation; returns what it returns.

    What ends a step, a cancellation too, is raised in the operation.
    """
    result: Any = None
    resume: Callable[[Any], Any] = steps.send
    try:
        while True:
            step = resume(result)
            try:
                result, resume = await step, steps.send
            except BaseException as error:
                result, resume = error, steps.throw
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        del result  # an error would refer to this frame, which refers to it


def method(
    operation: Callable[Concatenate[S, P], Steps[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return a coroutine function that carries out an operation."""

    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await run(operation(self, *args, **kwargs))

    describe(call, operation)
    return call
