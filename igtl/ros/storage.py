"""The MCAP file of a bag, and metadata.yaml beside it.

Messages are many and small: the writer of the package mcap takes ten times as long for each, which
is why chunks are put together here.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

from igtl.extras import need

_MAGIC: Final = b"\x89MCAP0\r\n"
_CHUNK: Final = 1 << 20
_MESSAGE: Final = struct.Struct("<BQHIQQ")  # opcode, length, channel, sequence, two times
_INDEX: Final = struct.Struct("<BQHI")  # opcode, length, channel, bytes of the entries
_CHUNK_HEAD: Final = struct.Struct("<BQQQQIIQ")  # its times, size, CRC, compression, size
_MESSAGE_OPCODE, _INDEX_OPCODE, _CHUNK_OPCODE = 5, 7, 6


class _Topic:
    """A channel of the file."""

    def __init__(self, channel: Any, kind: str, digest: str) -> None:
        self.channel = channel
        self.kind = kind
        self.digest = digest
        self.count = 0


class BagFile:
    """Writes a bag: a folder with one MCAP file. Open it by `with`; a chunk is in memory.

    Args:
        folder: which is made.
        name: of the bag.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._records = need("mcap.records", "ros")
        self._builder = need("mcap.data_stream", "ros").RecordBuilder
        self._folder = folder
        self._name = f"{name}_0.mcap"
        self._schemas: dict[str, Any] = {}
        self._topics: list[_Topic] = []
        self._indexes: list[Any] = []
        self._span = [2**63 - 1, 0]
        self._new_chunk()
        folder.mkdir()
        self._file: BinaryIO = (folder / self._name).open("xb")

    def _new_chunk(self) -> None:
        self._parts: list[Any] = []
        self._size = 0
        self._entries: dict[int, list[int]] = {}

    def __enter__(self) -> BagFile:
        self._file.write(_MAGIC)
        self._put(self._records.Header(profile="ros2", library="igtl"))
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def _packed(self, record: Any) -> bytes:
        builder = self._builder()
        record.write(builder)
        data: bytes = builder.end()
        return data

    def _put(self, record: Any) -> None:
        self._file.write(self._packed(record))

    def add_topic(self, topic: str, kind: str, definition: str, digest: str) -> int:
        """Add a topic, and return its number.

        Args:
            topic: its name.
            kind: type of its messages.
            definition: of that type.
            digest: RIHS01 of that type.
        """
        if kind not in self._schemas:
            schema = self._records.Schema(
                id=len(self._schemas) + 1, name=kind, encoding="ros2msg", data=definition.encode()
            )
            self._schemas[kind] = schema
            self._append(schema)
        channel = self._records.Channel(
            id=len(self._topics) + 1, topic=topic, message_encoding="cdr",
            schema_id=self._schemas[kind].id, metadata={"offered_qos_profiles": ""},
        )  # fmt: skip
        self._topics.append(_Topic(channel, kind, digest))
        self._append(channel)
        return len(self._topics)

    def write(self, topic: int, time_ns: int, *data: Any) -> None:
        """Write a message, in one or more buffers, which must not change any more."""
        size = sum(map(len, data))
        self._entries.setdefault(topic, []).extend((time_ns, self._size))
        head = _MESSAGE.pack(_MESSAGE_OPCODE, size + 22, topic, 0, time_ns, time_ns)
        self._parts += head, *data
        self._size += _MESSAGE.size + size
        if self._size >= _CHUNK:
            self._write_chunk()

    def _append(self, record: Any) -> None:
        data = self._packed(record)
        self._parts.append(data)
        self._size += len(data)

    def _write_chunk(self) -> None:
        if not self._entries:  # a topic without messages: the summary has it
            return
        start = min(min(entries[::2]) for entries in self._entries.values())
        last = max(max(entries[::2]) for entries in self._entries.values())
        at = self._file.tell()
        length = _CHUNK_HEAD.size - 9 + self._size
        self._file.write(
            _CHUNK_HEAD.pack(
                _CHUNK_OPCODE, length, start, last, self._size, 0, 0, self._size
            )
        )  # fmt: skip
        self._file.writelines(self._parts)
        end = self._file.tell()
        offsets = {}
        for topic, entries in self._entries.items():
            offsets[topic] = self._file.tell()
            self._topics[topic - 1].count += len(entries) // 2
            size = 8 * len(entries)
            self._file.write(_INDEX.pack(_INDEX_OPCODE, size + 6, topic, size))
            self._file.write(struct.pack(f"<{len(entries)}Q", *entries))
        self._indexes.append(
            self._records.ChunkIndex(
                chunk_start_offset=at, chunk_length=end - at, message_start_time=start,
                message_end_time=last, message_index_offsets=offsets,
                message_index_length=self._file.tell() - end, compression="",
                compressed_size=self._size, uncompressed_size=self._size,
            )
        )  # fmt: skip
        self._span = [min(self._span[0], start), max(self._span[1], last)]
        self._new_chunk()

    def _finish(self) -> None:
        self._write_chunk()
        counts = {topic.channel.id: topic.count for topic in self._topics}
        total = sum(counts.values())
        start, end = self._span if total else (0, 0)
        self._put(self._records.DataEnd(data_section_crc=0))
        summary = self._file.tell()
        channels = [topic.channel for topic in self._topics]
        for record in (*self._schemas.values(), *channels, *self._indexes):
            self._put(record)
        self._put(
            self._records.Statistics(
                message_count=total, schema_count=len(self._schemas), attachment_count=0,
                channel_count=len(channels), metadata_count=0, chunk_count=len(self._indexes),
                message_start_time=start, message_end_time=end, channel_message_counts=counts,
            )
        )  # fmt: skip
        self._put(
            self._records.Footer(summary_start=summary, summary_offset_start=0, summary_crc=0)
        )
        self._file.write(_MAGIC)
        self._describe(start, end - start, total)

    def _describe(self, start: int, duration: int, count: int) -> None:
        """Write metadata.yaml, in the part of YAML that is JSON."""
        span = {
            "starting_time": {"nanoseconds_since_epoch": start},
            "duration": {"nanoseconds": duration}, "message_count": count,
        }  # fmt: skip
        topics = [
            {
                "topic_metadata": {
                    "name": topic.channel.topic, "type": topic.kind, "serialization_format": "cdr",
                    "offered_qos_profiles": "", "type_description_hash": topic.digest,
                },
                "message_count": topic.count,
            }
            for topic in self._topics
        ]  # fmt: skip
        facts = {
            "version": 8, "storage_identifier": "mcap", "relative_file_paths": [self._name],
            **span, "topics_with_message_count": topics, "compression_format": "",
            "compression_mode": "", "files": [{"path": self._name, **span}], "custom_data": None,
            "ros_distro": "igtl",
        }  # fmt: skip
        text = json.dumps({"rosbag2_bagfile_information": facts}, indent=2)
        (self._folder / "metadata.yaml").write_text(text + "\n", encoding="utf-8")
