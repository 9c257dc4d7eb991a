"""A device that is open: read by a thread, opened again when it fails, reported when it stalls."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any, Final, Self

from igtl.blocking.changes import Changes
from igtl.codec.message import Message
from igtl.devices.device import UNREADABLE, Device
from igtl.devices.spec import device_of
from igtl.errors import ConnectionClosed
from igtl.log import log
from igtl.messages.general import Status, StatusCode
from igtl.session.backoff import Backoff

_WAITING: Final = 64  # messages between the thread of the device and the caller
_LAST_WORDS: Final = 2.0  # seconds for a device to be closed


class Source:
    """A device that is open; see `open`. One thread at a time receives from it; any may close it.

    Attributes:
        device: the device, with its options.
        received: number of messages that the caller has received, without those of the state.
        failures: number of times that it failed, or could not be opened.
        stalls: number of times that it stalled.
        dropped: messages given up because the caller did not take them: the oldest ones.
        unreadable: pieces of data that the device delivered and that could not be read.
        error: why it does not work now; None while it works.
    """

    def __init__(self, device: Device, backoff: Backoff) -> None:
        device.require()
        self.device = device
        self.received = self.failures = self.stalls = self.dropped = self.unreadable = 0
        self.error: BaseException | None = None
        self._live = device.live
        self._backoff = backoff
        self._waiting: deque[tuple[Message, bool]] = deque()  # and whether it tells the state
        self._last = time.monotonic()  # when data came
        self._changed = Changes()
        self._stop = False
        self._over = False
        self._thread = threading.Thread(
            target=self._run, name=f"igtl device {device.name}", daemon=True
        )
        self._thread.start()

    # -- the thread of the device

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stop:
                opened = time.monotonic()
                try:
                    self._read()
                    return
                except BaseException as error:  # a driver may even call sys.exit
                    now = time.monotonic()
                    failures = 1 if now - opened >= self._backoff.settled else failures + 1
                    with self._changed:
                        self._failed(error, worked=self._last > opened)
                        delay = self._backoff.limit(failures)
                        self._changed.wait_for(lambda: self._stop, delay)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _read(self) -> None:
        items = self.device.messages()
        try:
            for item in items:
                with self._changed:
                    if item is not None:
                        self._came()
                    self.unreadable += item is UNREADABLE
                    if isinstance(item, Message):
                        self._put(item)
                    if self._stop:
                        return
        finally:
            if hasattr(items, "close"):
                items.close()

    def _came(self) -> None:
        """Note that the device delivers data."""
        self._last = time.monotonic()
        if self.error is not None:
            self.error = None
            name = self.device.name
            log(logging.WARNING, "device %s works again", name, device=name)
            self._put(Status.ok(f"{name} works again", device_name=name), state=True)

    def _failed(self, error: BaseException, *, worked: bool) -> None:
        self.failures += 1
        if self._stop or (self.error is not None and str(error) == str(self.error)):
            return  # it is known
        if worked:
            self._report(error, "DeviceLost", StatusCode.HARDWARE_FAILURE)
        else:
            self._report(error, "DeviceNotReady", StatusCode.NOT_READY)

    def _report(self, error: BaseException, name: str, code: StatusCode) -> None:
        self.error = error
        device = self.device.name
        text = f"{type(error).__name__}: {error}"
        log(logging.WARNING, "device %s does not work: %s", device, text, device=device,
            cause=error)  # fmt: skip
        self._put(Status(code, 0, name, text, device_name=device), state=True)

    def _put(self, message: Message, *, state: bool = False) -> None:
        """Queue a message for the caller."""
        if not (self._live or state):
            self._changed.wait_for(lambda: len(self._waiting) < _WAITING or self._stop)
        elif len(self._waiting) >= _WAITING:
            oldest = next((n for n, (_, told) in enumerate(self._waiting) if not told), 0)
            del self._waiting[oldest]
            self.dropped += 1
        self._waiting.append((message, state))
        self._changed.notify_all()

    # -- the caller

    def recv(self, timeout: float | None = None) -> Message:
        """Receive the next message, of the device or of its state.

        The state is a STATUS with the name of the device: it cannot be opened (NOT_READY), fails
        (HARDWARE_FAILURE), stalls (NOT_READY), or works again (OK).

        Args:
            timeout: seconds to wait; None (default) waits without end.

        Raises:
            TimeoutError: no message arrived in this time.
            ConnectionClosed: the device has ended, or was closed.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                now = time.monotonic()
                stalls = self._stalls_at()
                if not self._waiting and stalls is not None and now >= stalls:
                    self.stalls += 1
                    error = TimeoutError(f"no data for {self.device.stall:g} s")
                    self._report(error, "DeviceStalled", StatusCode.NOT_READY)
                if self._waiting and not self._stop:
                    message, state = self._waiting.popleft()
                    self.received += not state
                    self._changed.notify_all()
                    return message
                if self._over or self._stop:
                    raise ConnectionClosed(f"{self.device.name} has ended", clean=True)
                if end is not None and now >= end:
                    raise TimeoutError(f"no message of {self.device.name} within {timeout} s")
                limits = [at - now for at in (end, stalls) if at is not None]
                self._changed.wait(min(limits, default=None))

    def _stalls_at(self) -> float | None:
        """When the device counts as stalled, unless data comes."""
        if not self.device.stall or self.error is not None or self._over:
            return None
        return self._last + self.device.stall

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        try:
            return self.recv()
        except ConnectionClosed:
            raise StopIteration from None

    def close(self) -> None:
        """Close the device, and end the iteration.

        A driver that does not return within 2 s is left to its thread.
        """
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(_LAST_WORDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "works" if self.error is None else f"does not work: {self.error}"
        return f"<Source {self.device.name}, {self.received} messages, {state}>"


def open(spec: str | Device, *, backoff: Backoff | None = None, **options: Any) -> Source:
    """Open a device, and receive what it sends.

        with igtl.devices.open("camera:/dev/video0", fps=30) as camera:
            for message in camera: ...

    The device is read in a thread of its own. When it fails it is opened again; the caller gets a
    STATUS then, and another one when it works again. Of a live device at most 64 messages wait for
    the caller, the oldest are given up and counted; a film waits for the caller.

    Args:
        spec: "kind:argument?option=value,option=value", or a device object. `igtl devices` lists
            kinds and options.
        backoff: how long to wait after each failure (`Backoff.limit`); default 0.5 to 10 s.
        options: of the device; they take the place of those in the specification.

    Raises:
        ValueError: no such kind or option, or a value that is not allowed.
        ModuleNotFoundError: what the device needs is not installed; the text names the extra.
    """
    if not isinstance(spec, Device):
        device = device_of(spec, **options)
    elif options:
        raise TypeError("options go with a specification: a device object has its own")
    else:
        device = spec
    return Source(device, backoff or Backoff(0.5, 10.0))
