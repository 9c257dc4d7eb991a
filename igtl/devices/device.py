"""What a device is: a dataclass of its options that yields messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Final

from igtl.codec.message import Message
from igtl.extras import MissingExtra, need
from igtl.options import LONGEST


class Note(Enum):
    """What a device yields beside messages."""

    ALIVE = "the device works, and has nothing to send"
    UNREADABLE = "the device has delivered data that cannot be read"


ALIVE: Final = Note.ALIVE
"""The device works, and has nothing to send."""
UNREADABLE: Final = Note.UNREADABLE
"""The device has delivered data that cannot be read."""
_LONGEST: Final = 20  # bytes of a device name
Item = Message | Note | None
"""What a device yields: a message, a note, or None for a turn without one."""


def option(default: Any, text: str) -> Any:
    """Declare a field of a device that its specification can set."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Device(ABC):
    """Base of devices: a frozen dataclass whose fields are the options.

    A subclass sets the class attributes and `messages`. Options are fields by `option`, of the
    types str, int, float, bool, a Literal, a tuple of ints, or one of them and None.

    Attributes:
        argument: what stands behind the colon of the specification.
        name: device name of the messages.
        stall: seconds without an item after which the device is reported as stalled; 0: never.
    """

    argument: str = field(default="", kw_only=False)
    name: str = option("", "device name of the messages")
    stall: float = option(5.0, "seconds without data until it is reported as stalled; 0: never")

    takes: ClassVar[str] = ""
    """What the argument is, for the list of devices; "" if there is none."""
    sends: ClassVar[str] = ""
    """The types that it sends."""
    stamp: ClassVar[str] = "arrival"
    """Where the time stamps come from."""
    needs: ClassVar[Mapping[str, str]] = {}
    """Modules that it imports, each with the extra of igtl that brings it."""

    def __post_init__(self) -> None:
        if not 0 < len(self.name.encode()) <= _LONGEST:
            raise ValueError(f"name must have 1 to {_LONGEST} bytes, not {self.name!r}")
        if not 0 <= self.stall <= LONGEST:
            raise ValueError(f"stall must be from 0 to {LONGEST:g} s, not {self.stall}")

    @classmethod
    def require(cls) -> None:
        """Load the modules that the device needs.

        Raises:
            MissingExtra: one is not installed, or cannot be loaded; the text says what to do.
        """
        for module, extra in cls.needs.items():
            try:
                need(module, extra)
            except MissingExtra:
                raise
            except Exception as error:  # a library of the system is missing
                text = f"{module} cannot be loaded: {error}"
                raise MissingExtra(text, name=module) from error

    @classmethod
    def found(cls) -> list[str] | None:
        """Return what is connected to this machine, as arguments with a few words.

        None: it is unknown.
        """
        return None

    @property
    def live(self) -> bool:
        """Whether the device goes on while nothing is taken from it, so that data gets old."""
        return True

    @abstractmethod
    def messages(self) -> Iterator[Item]:
        """Open the device, and yield what it sends until the device ends; close it in a `finally`.

        The method runs in a thread of its own, and is closed there, at a yield: so a device that
        waits longer than half a second yields None meanwhile. It yields ALIVE where the device has
        delivered data and there is no message to make of them, and UNREADABLE, which is counted,
        where it cannot read them. Whatever it raises counts as a failure of the device, which is
        then opened again; returning means that the device sends nothing more.
        """
