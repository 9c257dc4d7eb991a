"""What a client of PLUS does, in steps (see `igtl.session.steps`).

`link` and `aio` make methods of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from igtl.codec.message import Message
from igtl.errors import ProtocolError
from igtl.log import named
from igtl.messages.imaging import Image
from igtl.messages.queries import GetStatus
from igtl.peers.plus import core
from igtl.peers.plus.core import Matrix, Reading, Reply, Request, State, Tools
from igtl.peers.plus.rules import check_for_server
from igtl.peers.plus.selection import Select
from igtl.session.facade import AnyLink
from igtl.session.operations import OVER
from igtl.session.requests import Exchange
from igtl.session.steps import Steps
from igtl.session.subscribing import Changing, Heard, until

C = TypeVar("C", bound="Client")
M = TypeVar("M", bound=Message)
P = TypeVar("P")
T = TypeVar("T")


class ParametersOf(Generic[C]):
    """The parameters of one ultrasound device."""

    def __init__(self, plus: C, device: str) -> None:
        self.plus = plus
        self.device = device


class Devices(Generic[P]):
    """The ultrasound devices, by their id."""

    def __init__(self, plus: Client, parameters: Callable[[Any, str], P]) -> None:
        self._plus = plus
        self._parameters = parameters

    def __getitem__(self, device: str) -> P:
        return self._parameters(self._plus, device)


class Client(Heard):
    """What clients of PLUS share.

    Args:
        call: calls a function of the user, and logs what that raises.

    Attributes:
        link: the connection, or None.
        timeout: seconds for the answer to a command.
        here: gives the present connection, or the next one.
        others: see `igtl.plus.Plus`.
    """

    state: State
    link: AnyLink | None
    here: Callable[[], Any]
    ask: Callable[..., Any]

    def __init__(
        self,
        state: State,
        changed: Changing,
        call: Callable[..., Any],
        address: tuple[str, int],
        select: Select | None,
        timeout: float,
    ) -> None:
        self.state = state
        self.changed = changed
        self.timeout = timeout
        self._address = address
        self._call = call
        if select is not None:
            state.select(select)

    @property
    def tools(self) -> Tools:
        """The statuses of the tools by name, and `tools.on_change`."""
        return self.state.tools

    def until_silent(self) -> float | None:
        """Seconds until a tool becomes silent; None: no tool can, or no handler waits for it."""
        left = self.state.tools.next_deadline() - time.monotonic()
        return max(0.0, left) if left < 3600 else None

    @property
    def connected(self) -> bool:
        """Whether the connection to PLUS exists, as far as this end knows."""
        return self.link is not None and self.link.connected

    # -- what its threads or tasks do

    def read(self, link: AnyLink) -> Steps[Exception]:
        """Take what arrives on a connection until it ends; returns the reason of the end."""
        while True:
            message: Message | None = None
            try:
                message = yield link.recv(timeout=self.until_silent())
            except TimeoutError:
                pass
            except (*OVER, OSError) as error:
                return error
            except ProtocolError:  # it is counted
                continue
            with self.changed:
                if message is not None:
                    self.state.take(message, link.session.protocol.last_size)
                self.state.expire(time.monotonic())
            self.changed.tell()

    def call_handlers(self) -> Steps[None]:
        """Call the handlers of what arrives, one after the other."""
        while True:
            try:
                work: Any = yield self.changed.until(self._work, self.idle())
            except TimeoutError:
                self.rest()
                continue
            changes, message = work
            for change in changes:
                for told in self.tools.handlers:
                    yield self._call(told, *change)
            if message is not None:
                for handler in self.state.handlers_of(message):
                    yield self._call(handler, message)
            elif not changes:
                return

    def _work(self) -> tuple[list[Any], Message | None] | None:
        """Return the messages that wait for their handlers; None at the end."""
        changes, self.state.changes = self.state.changes, []
        message = self.state.waiting.take()
        over = self.state.reason is not None
        return (changes, message) if changes or message is not None or over else None

    def idle(self) -> float | None:
        """Seconds that `call_handlers` waits until it calls `rest`; None: for ever."""
        return None

    def rest(self) -> None:
        """Note that nothing has arrived for the seconds of `idle`."""

    def __repr__(self) -> str:
        state = "connected to" if self.connected else "waiting for"
        return f"<Plus {state} {named(self._address)}>"


# -- what is sent


def send(plus: Client, message: Message, *, force: bool = False) -> Steps[None]:
    """Send a message, unless it harms PLUS.

    Raises:
        PlusRefuses: the message freezes, ends or confuses PLUS; `force` sends it.
    """
    if not force:
        check_for_server(message)
    link: AnyLink = yield plus.here()
    yield link.send(message)


def ask(
    plus: Client, request: Request[T], *, timeout: float | None = None, force: bool = False
) -> Steps[T]:
    """Carry out a command, and return what its reply means."""
    if not force:
        check_for_server(request.exchange.request)
    link: AnyLink = yield plus.here()
    answer = yield link.request(request.exchange, plus.timeout if timeout is None else timeout)
    return request.result(answer)


def command(
    plus: Client,
    /,
    name: str,
    inner: str = "",
    *,
    legacy: bool = False,
    device_name: str = "",
    timeout: float | None = None,
    force: bool = False,
    **attributes: object,
) -> Steps[Reply]:
    """Carry out any command of PLUS.

    Args:
        name: upper and lower case count.
        inner: XML within the element of the command.
        legacy: as STRING CMD_n, for old versions of PLUS, which give no reason for a failure.
        device_name: of the COMMAND.
        timeout: seconds; default that of `connect`.
        force: send it even if it harms PLUS.
        attributes: of the command: `output_filename="a.mha"` is written OutputFilename="a.mha".
            None is left out, True is written TRUE, an array as its numbers.

    Raises:
        CommandFailed: the command has failed in PLUS; the text is its reason.
        PlusRefuses: the text is not well-formed.
        TimeoutError: PLUS does not answer.
    """
    request = Request(
        name, core.as_it_is, attributes, inner=inner, legacy=legacy, device_name=device_name
    )
    return (yield from ask(plus, request, timeout=timeout, force=force))


def version(plus: Client) -> Steps[str]:
    """Return the version of PLUS."""
    return (yield from ask(plus, core.version()))


def device_ids(plus: Client, kind: str | None = None) -> Steps[list[str]]:
    """Return the ids of the devices of PLUS.

    Args:
        kind: of which type, for example "VirtualCapture"; default all.
    """
    return (yield from ask(plus, core.device_ids(kind)))


def channel_ids(plus: Client) -> Steps[list[str]]:
    """Return the ids of the output channels of PLUS."""
    return (yield from ask(plus, core.channel_ids()))


def transform(plus: Client, name: str) -> Steps[Matrix]:
    """4x4 of XToY, mm: one of the configuration of PLUS, or a tracked one.

    Raises:
        CommandFailed: PLUS has none of this name.
    """
    return (yield from ask(plus, core.transform(name)))


def update_transform(
    plus: Client,
    name: str,
    matrix: npt.ArrayLike,
    *,
    persistent: bool = True,
    error: float | None = None,
    date: str | None = None,
) -> Steps[str]:
    """Set a transform, for example a calibration; returns the reply of PLUS in words.

    Args:
        name: XToY.
        matrix: 4x4, mm.
        persistent: whether `save_config` writes it.
        error: of the calibration.
        date: when it was made.

    Raises:
        CommandFailed: the command has failed in PLUS; the text is its reason.
    """
    return (yield from ask(plus, core.update_transform(name, matrix, persistent, error, date)))


def save_config(plus: Client, filename: str | None = None) -> Steps[str]:
    """Write the configuration of PLUS; returns its reply in words.

    Args:
        filename: on the machine of PLUS; default: the one that it was started with.

    Raises:
        CommandFailed: the command has failed in PLUS; the text is its reason.
    """
    return (yield from ask(plus, core.save_config(filename)))


def ping(plus: Client, timeout: float | None = None) -> Steps[float]:
    """Seconds until PLUS answers a GET_STATUS.

    This is the only test of life while PLUS has no valid transform, when it sends nothing at all.

    Raises:
        TimeoutError: it does not answer: it is frozen, or gone.
    """
    link: AnyLink = yield plus.here()
    begun = time.perf_counter()
    yield link.request(Exchange(GetStatus()), plus.timeout if timeout is None else timeout)
    return time.perf_counter() - begun


def parameter(of: ParametersOf[Any], name: str) -> Steps[float | str]:
    """Return the value of a parameter: a number, or a text of several.

    Raises:
        CommandFailed: there is no such device or parameter, or it is not set.
    """
    return (yield from ask(of.plus, core.get_parameter(of.device, name)))


def set_parameter(of: ParametersOf[Any], name: str, value: object) -> Steps[None]:
    """Set a parameter."""
    yield from ask(of.plus, core.set_parameter(of.device, name, value))


class ReconstructionOf(Generic[C]):
    """A volume that is reconstructed; see `igtl.plus.Plus.reconstruct`.

    Attributes:
        image: the final volume; None until the end of the `with` block.
    """

    def __init__(self, plus: C, name: str, device: str | None, timeout: float) -> None:
        self.image: Image | None = None
        self._plus = plus
        self._name = name
        self._device = device
        self._timeout = timeout

    def step(self, step: str) -> Steps[str]:
        """Carry out "start", "snapshot" or "stop"."""
        request = core.reconstruction(step, self._name, self._device)
        return ask(self._plus, request, timeout=self._timeout)

    def volume(self, step: str) -> Steps[Image]:
        """Return the volume that PLUS sends because of a step."""
        with self._plus.changed:
            frames: Reading[Image] = Reading(self._plus.state, Image, self._name)
        yield from self.step(step)
        return (yield from until(self._plus, frames.next, frames.wanted, self._timeout))

    def end(self, failed: bool) -> Steps[None]:
        """Stop, and take the volume, unless the block has failed."""
        if not failed:
            self.image = yield from self.volume("stop")
            return
        with contextlib.suppress(Exception):  # the caller gets the error of the block
            yield from self.step("stop")


def snapshot(volume: ReconstructionOf[Any]) -> Steps[Image]:
    """Return the volume so far."""
    return volume.volume("snapshot")
