"""Types of _stream.pyx: a stream of messages without I/O."""

from collections import Counter
from typing import Any, Literal, final

from typing_extensions import Buffer, disjoint_base

from igtl._core import Frame, Record
from igtl.codec.message import Message
from igtl.options import CRCPolicy

@final
class StreamStats:
    """Counters of one (type, device name) of a connection.

    Attributes:
        type_name, device_name: of the stream.
        received, received_bytes, sent, sent_bytes: messages, and their bytes.
        lost: number of messages lost by cause: an error ("CRCError", "BodyError", …) or the
            policy of a full queue ("drop_oldest", …).
        crc_errors: how many of them had a wrong CRC.
        age: seconds since the last one arrived; None before the first.
        rate: messages received a second, over the last 32 or so; 0 before the second.
        jitter: how far their intervals are from the mean one, on average, in seconds.
    """

    def __init__(self, type_name: str, device_name: str) -> None: ...
    @property
    def type_name(self) -> str: ...
    @property
    def device_name(self) -> str: ...
    @property
    def received(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def lost(self) -> dict[str, int]: ...
    @property
    def crc_errors(self) -> int: ...
    @property
    def age(self) -> float | None: ...
    @property
    def rate(self) -> float: ...
    @property
    def jitter(self) -> float: ...

@final
class Stats:
    """What passed through a connection, what was lost, and why.

    Attributes:
        received, received_bytes: whole messages that arrived, bad ones included.
        sent, sent_bytes: messages handed to the transport.
        errors: number of bad messages received, by the name of their error ("CRCError", …).
        dropped: number of messages given up, by cause: the policy of the queue that was full
            ("drop_oldest", "drop_newest", "latest"), "disconnected", "stalled", ….
        lost: all of both.
        streams: the same for each (type name, device name), see StreamStats. After 4096 of
            them the rest is counted under ("*", "*").
    """

    def __init__(self) -> None: ...
    @property
    def received(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def errors(self) -> Counter[str]: ...
    @property
    def dropped(self) -> Counter[str]: ...
    @property
    def lost(self) -> int: ...
    @property
    def streams(self) -> dict[tuple[str, str], StreamStats]: ...
    def count_received(self, frame: Frame | Buffer, now: float) -> None: ...
    def _repr_html_(self) -> str: ...
    def count_sent(
        self, what: Record | Frame | Buffer | list[Any], size: int, times: int = 1
    ) -> None: ...
    def count_dropped(self, what: Record | Frame | Buffer, cause: str, times: int = 1) -> None: ...
    def count_error(self, cause: str, frame: Frame | None = None) -> None: ...

@disjoint_base
class Decoder:
    """Cuts a byte stream into frames; owns whatever has arrived in part.

    Args:
        max_size: largest message, header included; default 1 GiB, at least 58 bytes.
        stats: counts what arrives.
        resync: see `igtl.Protocol`.

    Attributes:
        last_size: bytes of the last frame.
        peer_version: highest header version so far; 0 before the first frame.
        waiting: bytes received behind the message that is arriving.
    """

    def __init__(
        self, max_size: int = ..., stats: Stats | None = None, resync: bool = False
    ) -> None: ...
    stats: Stats | None
    last_size: int
    @property
    def peer_version(self) -> int: ...
    @property
    def max_size(self) -> int: ...
    @property
    def resync(self) -> bool: ...
    @property
    def at_boundary(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    def feed(self, data: Buffer) -> None: ...
    def get_buffer(self) -> memoryview: ...
    def received(self, n: int) -> None: ...
    def next_frame(self) -> Frame | None: ...

@disjoint_base
class Stream(Decoder):
    def __init__(
        self,
        max_size: int,
        stats: Stats,
        crc: CRCPolicy,
        fixed: int,
        cut_names: bool,
        peer: Any,
        resync: bool = False,
    ) -> None: ...
    stats: Stats
    peer: Any
    @property
    def cut_names(self) -> bool: ...
    @property
    def fixed(self) -> Literal[0, 1, 2]: ...
    @property
    def version(self) -> Literal[1, 2]: ...
    def receive_data(self, data: Buffer) -> None: ...
    def next_message(self) -> Message | None: ...
    def decoded(self, frame: Frame) -> Message: ...
    def parts(self, message: Message | Frame, *, crc: bool = True) -> list[bytes | memoryview]: ...
    def pack(self, message: Message | Frame, *, crc: bool = True) -> bytes: ...
