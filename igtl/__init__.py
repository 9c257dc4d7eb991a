"""OpenIGTLink for Python: trackers, images, and everything between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from igtl import fields
from igtl._core import Frame, crc64, fit, matrix_of_quaternion, quaternion_of_matrix, unpack
from igtl._stream import Decoder, Stats, StreamStats
from igtl.codec import rtp
from igtl.codec.compression import Compressed, Compression, CompressionStats, compress, decompress
from igtl.codec.elements import Element, Elements
from igtl.codec.message import Message, NoData, Unknown, message_types
from igtl.codec.metadata import Metadata
from igtl.codec.units import Unit
from igtl.errors import (
    BodyError,
    ClockUnknown,
    CommandFailed,
    ConnectionClosed,
    CRCError,
    EncodeError,
    FileError,
    FileWarning,
    IgtlError,
    MessageTooLarge,
    ProtocolError,
    VersionError,
)  # fmt: skip
from igtl.messages.general import (
    Bind,
    Capability,
    Command,
    CommandReply,
    NDArray,
    Query,
    Sensor,
    Status,
    StatusCode,
    String,
)  # fmt: skip
from igtl.messages.geometry import (
    Attribute,
    AttributeType,
    Cells,
    Point,
    Points,
    PolyData,
    Trajectories,
    Trajectory,
    TrajectoryType,
)  # fmt: skip
from igtl.messages.imaging import (
    ColorTable,
    FrameType,
    Image,
    ImageInfo,
    ImageMeta,
    LabelInfo,
    LabelMeta,
    ScalarType,
    Video,
    VideoInfo,
    VideoMeta,
)  # fmt: skip
from igtl.messages.plus import ClientInfo, TrackedFrame, UsMessage
from igtl.messages.queries import (
    Get,
    GetBind,
    GetCapability,
    GetColorTable,
    GetImage,
    GetImageMeta,
    GetLabelMeta,
    GetNDArray,
    GetPoints,
    GetPolyData,
    GetPosition,
    GetQuaternionTrackingData,
    GetQuaternionTransform,
    GetSensor,
    GetStatus,
    GetString,
    GetTrackingData,
    GetTrajectories,
    GetTransform,
    GetVideo,
    GetVideoMeta,
    Ready,
    ReadyBind,
    ReadyCapability,
    ReadyImage,
    ReadyImageMeta,
    ReadyLabelMeta,
    ReadyNDArray,
    ReadyPoints,
    ReadyPolyData,
    ReadyPosition,
    ReadyQuaternionTrackingData,
    ReadyQuaternionTransform,
    ReadySensor,
    ReadyStatus,
    ReadyString,
    ReadyTrackingData,
    ReadyTrajectories,
    ReadyTransform,
    Start,
    StartBind,
    StartImage,
    StartNDArray,
    StartPolyData,
    StartPosition,
    StartQuaternionTrackingData,
    StartQuaternionTransform,
    StartSensor,
    StartTrackingData,
    StartTransform,
    StartVideo,
    Stop,
    StopBind,
    StopImage,
    StopNDArray,
    StopPolyData,
    StopPosition,
    StopQuaternionTrackingData,
    StopQuaternionTransform,
    StopSensor,
    StopTrackingData,
    StopTransform,
    StopVideo,
)  # fmt: skip
from igtl.messages.tracking import (
    Position,
    QuaternionTool,
    QuaternionTrackingData,
    QuaternionTransform,
    Tool,
    ToolType,
    TrackingData,
    Transform,
)  # fmt: skip
from igtl.options import PORT, CRCPolicy

if TYPE_CHECKING:
    from igtl import aio, bridge, devices, files, foxglove, ros, simulate, video
    from igtl.blocking import udp
    from igtl.blocking.healing import ReconnectingLink
    from igtl.blocking.link import Link
    from igtl.blocking.listener import Listener, listen
    from igtl.blocking.opening import connect
    from igtl.blocking.pipe import pipe
    from igtl.blocking.reconnect import reconnect
    from igtl.blocking.server import Peer, Server, serve
    from igtl.blocking.subscriber import Subscriber, subscribe
    from igtl.codec import batch
    from igtl.files.exporting import export
    from igtl.geometry import CalibrationError, NoTransform, Pose, TransformGraph
    from igtl.peers import plus, slicer
    from igtl.recording import Recorder, Recording
    from igtl.session import tls
    from igtl.session.backoff import Backoff, LinkEvent
    from igtl.session.clock import Clock
    from igtl.session.protocol import Protocol
    from igtl.tools import transfer
    from igtl.tools.rate import Rate
    from igtl.video import VideoDecoder, VideoEncoder
    from igtl.view import View

__version__ = "0.1.0"
# Types of messages are there at once, for any of them may arrive. The rest is loaded when it is
# first used: links, what computes, what needs asyncio, ssl or an extra. Here is the module of each
# name; a name that is the last part of it, and not in it, is the module itself.
_LAZY = {
    "Backoff": "session.backoff", "LinkEvent": "session.backoff", "Clock": "session.clock",
    "CalibrationError": "geometry", "NoTransform": "geometry", "Pose": "geometry",
    "TransformGraph": "geometry",
    "Link": "blocking.link", "ReconnectingLink": "blocking.healing",
    "Listener": "blocking.listener", "listen": "blocking.listener", "connect": "blocking.opening",
    "Peer": "blocking.server", "Server": "blocking.server", "serve": "blocking.server",
    "Subscriber": "blocking.subscriber", "subscribe": "blocking.subscriber",
    "Protocol": "session.protocol", "Rate": "tools.rate",
    "Recorder": "recording", "Recording": "recording",
    "VideoDecoder": "video", "VideoEncoder": "video", "View": "view",
    "aio": "aio", "batch": "codec.batch", "bridge": "bridge", "devices": "devices",
    "export": "files.exporting", "files": "files", "foxglove": "foxglove", "geometry": "geometry",
    "pipe": "blocking.pipe", "plus": "peers.plus", "reconnect": "blocking.reconnect", "ros": "ros",
    "simulate": "simulate", "slicer": "peers.slicer", "tls": "session.tls",
    "transfer": "tools.transfer", "udp": "blocking.udp", "video": "video",
}  # fmt: skip


def get_include() -> str:
    """Folder of `igtl_capi.h` and `_core.pxd`: the C level, for C and Cython extensions."""
    return __path__[0]


def __getattr__(name: str) -> Any:
    """Return a name of `_LAZY`, loaded now."""
    path = _LAZY.get(name)
    if path is None:
        raise AttributeError(f"module 'igtl' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"igtl.{path}")
    is_module = name == path.rpartition(".")[2] and not hasattr(module, name)
    found = globals()[name] = module if is_module else getattr(module, name)
    return found


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "PORT",
    "Attribute",
    "AttributeType",
    "Backoff",
    "Bind",
    "BodyError",
    "CRCError",
    "CRCPolicy",
    "CalibrationError",
    "Capability",
    "Cells",
    "ClientInfo",
    "Clock",
    "ClockUnknown",
    "ColorTable",
    "Command",
    "CommandFailed",
    "CommandReply",
    "Compressed",
    "Compression",
    "CompressionStats",
    "ConnectionClosed",
    "Decoder",
    "Element",
    "Elements",
    "EncodeError",
    "FileError",
    "FileWarning",
    "Frame",
    "FrameType",
    "Get",
    "GetBind",
    "GetCapability",
    "GetColorTable",
    "GetImage",
    "GetImageMeta",
    "GetLabelMeta",
    "GetNDArray",
    "GetPoints",
    "GetPolyData",
    "GetPosition",
    "GetQuaternionTrackingData",
    "GetQuaternionTransform",
    "GetSensor",
    "GetStatus",
    "GetString",
    "GetTrackingData",
    "GetTrajectories",
    "GetTransform",
    "GetVideo",
    "GetVideoMeta",
    "IgtlError",
    "Image",
    "ImageInfo",
    "ImageMeta",
    "LabelInfo",
    "LabelMeta",
    "Link",
    "LinkEvent",
    "Listener",
    "Message",
    "MessageTooLarge",
    "Metadata",
    "NDArray",
    "NoData",
    "NoTransform",
    "Peer",
    "Point",
    "Points",
    "PolyData",
    "Pose",
    "Position",
    "Protocol",
    "ProtocolError",
    "QuaternionTool",
    "QuaternionTrackingData",
    "QuaternionTransform",
    "Query",
    "Rate",
    "Ready",
    "ReadyBind",
    "ReadyCapability",
    "ReadyImage",
    "ReadyImageMeta",
    "ReadyLabelMeta",
    "ReadyNDArray",
    "ReadyPoints",
    "ReadyPolyData",
    "ReadyPosition",
    "ReadyQuaternionTrackingData",
    "ReadyQuaternionTransform",
    "ReadySensor",
    "ReadyStatus",
    "ReadyString",
    "ReadyTrackingData",
    "ReadyTrajectories",
    "ReadyTransform",
    "ReconnectingLink",
    "Recorder",
    "Recording",
    "ScalarType",
    "Sensor",
    "Server",
    "Start",
    "StartBind",
    "StartImage",
    "StartNDArray",
    "StartPolyData",
    "StartPosition",
    "StartQuaternionTrackingData",
    "StartQuaternionTransform",
    "StartSensor",
    "StartTrackingData",
    "StartTransform",
    "StartVideo",
    "Stats",
    "Status",
    "StatusCode",
    "Stop",
    "StopBind",
    "StopImage",
    "StopNDArray",
    "StopPolyData",
    "StopPosition",
    "StopQuaternionTrackingData",
    "StopQuaternionTransform",
    "StopSensor",
    "StopTrackingData",
    "StopTransform",
    "StopVideo",
    "StreamStats",
    "String",
    "Subscriber",
    "Tool",
    "ToolType",
    "TrackedFrame",
    "TrackingData",
    "Trajectories",
    "Trajectory",
    "TrajectoryType",
    "Transform",
    "TransformGraph",
    "Unit",
    "Unknown",
    "UsMessage",
    "VersionError",
    "Video",
    "VideoDecoder",
    "VideoEncoder",
    "VideoInfo",
    "VideoMeta",
    "View",
    "aio",
    "batch",
    "bridge",
    "compress",
    "connect",
    "crc64",
    "decompress",
    "devices",
    "export",
    "fields",
    "files",
    "fit",
    "foxglove",
    "get_include",
    "listen",
    "matrix_of_quaternion",
    "message_types",
    "pipe",
    "plus",
    "quaternion_of_matrix",
    "reconnect",
    "ros",
    "rtp",
    "serve",
    "simulate",
    "slicer",
    "subscribe",
    "tls",
    "transfer",
    "udp",
    "unpack",
    "video",
]
