"""Operations in steps, in both worlds."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import weakref
from typing import Any

import pytest

import igtl
import igtl.aio
from igtl.aio import steps as awaited
from igtl.blocking import steps as blocking
from igtl.session.steps import Steps


class Driver:
    """Doubles numbers; both drivers count what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def double(self, n: int) -> Any:
        raise NotImplementedError


def doubled_twice(driver: Driver, n: int, *, extra: int = 0) -> Steps[int]:
    """Double a number two times."""
    try:
        once: int = yield driver.double(n)
        twice: int = yield driver.double(once)
        return twice + extra
    except ArithmeticError as error:
        return -len(str(error))
    finally:
        driver.done.append("end")


class Threaded(Driver):
    run = blocking.method(doubled_twice)

    def double(self, n: int) -> int:
        if n > 100:
            raise OverflowError("too large")
        return 2 * n


class Tasked(Driver):
    run = awaited.method(doubled_twice)

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Event()
        self.waits.set()

    async def double(self, n: int) -> int:
        await self.waits.wait()
        if n > 100:
            raise OverflowError("too large")
        return 2 * n


def test_both_do_the_same() -> None:
    def there(n: int, **kwargs: int) -> int:
        async def main() -> int:
            return await Tasked().run(n, **kwargs)

        return asyncio.run(main())

    for do in (Threaded().run, there):
        assert do(3) == 12
        assert do(3, extra=1) == 13
        assert do(60) == -len("too large")  # the second step fails, in the operation


def test_an_error_that_the_operation_lets_pass() -> None:
    def fails(driver: Driver) -> Steps[None]:
        """Fail."""
        yield driver.double(101)

    with pytest.raises(OverflowError):
        blocking.method(fails)(Threaded())

    async def main() -> None:
        with pytest.raises(OverflowError) as caught:
            await awaited.method(fails)(Tasked())
        assert "fails" in [entry.name for entry in caught.traceback]

    asyncio.run(main())


def test_a_cancellation_ends_the_operation() -> None:
    async def main() -> None:
        driver = Tasked()
        driver.waits.clear()
        task = asyncio.create_task(driver.run(3))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert driver.done == ["end"]

    asyncio.run(main())


def test_an_operation_may_end_with_steps() -> None:
    """As a stream does that is stopped because its task is cancelled."""
    seen: list[str] = []

    def work(driver: Driver) -> Steps[None]:
        """Work."""
        try:
            yield driver.double(1)
        finally:
            yield asyncio.sleep(0)
            seen.append("said goodbye")

    async def main() -> None:
        driver = Tasked()
        driver.waits.clear()
        task = asyncio.create_task(awaited.run(work(driver)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["said goodbye"]


def test_an_error_keeps_nothing_alive() -> None:
    class Marked(OverflowError):
        pass

    kept: list[weakref.ref[Any]] = []

    def fails(driver: Driver) -> Steps[None]:
        """Fail."""
        yield driver.double(1)

    class Failing(Tasked):
        async def double(self, n: int) -> int:
            error = Marked()
            kept.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    async def main() -> None:
        with contextlib.suppress(Marked):
            await awaited.run(fails(Failing()))

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        assert kept[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("link", [igtl.Link, igtl.aio.Link])
def test_a_method_looks_like_one(link: Any) -> None:
    shown = inspect.signature(link.query)
    assert list(shown.parameters)[1:] == ["request", "timeout"]
    assert shown.return_annotation == "M | NoData"
    assert link.query.__name__ == "query"
    assert "NoData if the peer has none" in inspect.getdoc(link.query)
    assert inspect.iscoroutinefunction(link.query) == (link is igtl.aio.Link)
