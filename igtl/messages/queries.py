"""Messages that ask for data: GET_, STT_ and STP_, and the answer to the last two, RTS_.

GET_ asks for one message, STT_ for a stream, STP_ for its end (protocol.md section 9). Each class
knows what it asks for: `GetImage.answer is Image`. Never send these to 3D Slicer, which answers no
queries: most of them crash it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar, get_args

from igtl.codec.message import Message
from igtl.fields import coded, i32, optional, text, u8, u32, u64
from igtl.messages.general import (
    Bind,
    Capability,
    NDArray,
    Sensor,
    Status,
    String,
    Wanted,
    _WantedCodec,
)  # fmt: skip
from igtl.messages.geometry import Points, PolyData, Trajectories
from igtl.messages.imaging import ColorTable, Image, ImageMeta, LabelMeta, Video, VideoMeta
from igtl.messages.tracking import (
    Position,
    QuaternionTrackingData,
    QuaternionTransform,
    TrackingData,
    Transform,
)  # fmt: skip

T = TypeVar("T", bound=Message)


class _Asking(Message, Generic[T]):
    """What all of these share: the type they ask for."""

    answer: ClassVar[type[Message]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, Message):
                    cls.answer = argument


class Get(_Asking[T]):
    """Asks for one message, of the device `device_name` (empty: any, or all).

    The answer has the same device name.
    """


class Start(_Asking[T]):
    """Asks for a stream. The peer answers with the Ready class, then sends the stream."""


class Stop(_Asking[T]):
    """Asks for the end of a stream."""


class Ready(_Asking[T]):
    """Answer to Start and Stop.

    Args:
        status: 0 success, 1 an error; None if the message has no byte for it.
    """

    status: int | None = optional(u8(), default=0)


class GetTransform(Get[Transform], type_name="GET_TRANS", aliases=("GET_TRANSFOR",)):
    """Ask for one TRANSFORM."""


class StartTransform(Start[Transform], type_name="STT_TRANS", aliases=("STT_TRANSFOR",)):
    """Ask for a stream of TRANSFORM."""


class StopTransform(Stop[Transform], type_name="STP_TRANS", aliases=("STP_TRANSFOR",)):
    """End a stream of TRANSFORM."""


class ReadyTransform(Ready[Transform], type_name="RTS_TRANS", aliases=("RTS_TRANSFOR",)):
    """Answer to a request for TRANSFORM."""


class GetPosition(Get[Position], type_name="GET_POSITION"):
    """Ask for one POSITION."""


class StartPosition(Start[Position], type_name="STT_POSITION"):
    """Ask for a stream of POSITION."""


class StopPosition(Stop[Position], type_name="STP_POSITION"):
    """End a stream of POSITION."""


class ReadyPosition(Ready[Position], type_name="RTS_POSITION"):
    """Answer to a request for POSITION."""


class GetQuaternionTransform(Get[QuaternionTransform], type_name="GET_QTRANS"):
    """Ask for one QTRANS."""


class StartQuaternionTransform(Start[QuaternionTransform], type_name="STT_QTRANS"):
    """Ask for a stream of QTRANS."""


class StopQuaternionTransform(Stop[QuaternionTransform], type_name="STP_QTRANS"):
    """End a stream of QTRANS."""


class ReadyQuaternionTransform(Ready[QuaternionTransform], type_name="RTS_QTRANS"):
    """Answer to a request for QTRANS."""


class GetImage(Get[Image], type_name="GET_IMAGE"):
    """Ask for one IMAGE."""


class StartImage(Start[Image], type_name="STT_IMAGE"):
    """Ask for a stream of IMAGE."""


class StopImage(Stop[Image], type_name="STP_IMAGE"):
    """End a stream of IMAGE."""


class ReadyImage(Ready[Image], type_name="RTS_IMAGE"):
    """Answer to a request for IMAGE."""


class GetStatus(Get[Status], type_name="GET_STATUS"):
    """Ask for one STATUS."""


class ReadyStatus(Ready[Status], type_name="RTS_STATUS"):
    """Answer to a request for STATUS."""


class GetCapability(Get[Capability], type_name="GET_CAPABIL"):
    """Ask for one CAPABILITY."""


class ReadyCapability(Ready[Capability], type_name="RTS_CAPABIL"):
    """Answer to a request for CAPABILITY."""


class GetImageMeta(Get[ImageMeta], type_name="GET_IMGMETA"):
    """Ask for one IMGMETA."""


class ReadyImageMeta(Ready[ImageMeta], type_name="RTS_IMGMETA"):
    """Answer to a request for IMGMETA."""


class GetLabelMeta(Get[LabelMeta], type_name="GET_LBMETA"):
    """Ask for one LBMETA."""


class ReadyLabelMeta(Ready[LabelMeta], type_name="RTS_LBMETA"):
    """Answer to a request for LBMETA."""


class GetPoints(Get[Points], type_name="GET_POINT"):
    """Ask for one POINT."""


class ReadyPoints(Ready[Points], type_name="RTS_POINT"):
    """Answer to a request for POINT."""


class GetTrajectories(Get[Trajectories], type_name="GET_TRAJ"):
    """Ask for one TRAJ."""


class ReadyTrajectories(Ready[Trajectories], type_name="RTS_TRAJ"):
    """Answer to a request for TRAJ."""


class GetTrackingData(Get[TrackingData], type_name="GET_TDATA"):
    """Ask for one TDATA."""


class StartTrackingData(Start[TrackingData], type_name="STT_TDATA"):
    """Ask for a stream of TDATA.

    Args:
        resolution_ms: least time between two messages; 0: as fast as possible.
        coordinate_name: coordinate system wanted, at most 32 bytes; empty: the default one.
    """

    resolution_ms: int = i32(default=0)
    coordinate_name: str = text(32, default="")


class StopTrackingData(Stop[TrackingData], type_name="STP_TDATA"):
    """End a stream of TDATA."""


class ReadyTrackingData(Ready[TrackingData], type_name="RTS_TDATA"):
    """Answer to a request for TDATA."""


class GetQuaternionTrackingData(Get[QuaternionTrackingData], type_name="GET_QTDATA"):
    """Ask for one QTDATA."""


class StartQuaternionTrackingData(Start[QuaternionTrackingData], type_name="STT_QTDATA"):
    """Ask for a stream of QTDATA.

    Args:
        resolution_ms: least time between two messages; 0: as fast as possible.
        coordinate_name: coordinate system wanted, at most 32 bytes; empty: the default one.
    """

    resolution_ms: int = i32(default=0)
    coordinate_name: str = text(32, default="")


class StopQuaternionTrackingData(Stop[QuaternionTrackingData], type_name="STP_QTDATA"):
    """End a stream of QTDATA."""


class ReadyQuaternionTrackingData(Ready[QuaternionTrackingData], type_name="RTS_QTDATA"):
    """Answer to a request for QTDATA."""


class GetSensor(Get[Sensor], type_name="GET_SENSOR"):
    """Ask for one SENSOR."""


class StartSensor(Start[Sensor], type_name="STT_SENSOR"):
    """Ask for a stream of SENSOR."""


class StopSensor(Stop[Sensor], type_name="STP_SENSOR"):
    """End a stream of SENSOR."""


class ReadySensor(Ready[Sensor], type_name="RTS_SENSOR"):
    """Answer to a request for SENSOR."""


class GetNDArray(Get[NDArray], type_name="GET_NDARRAY"):
    """Ask for one NDARRAY."""


class StartNDArray(Start[NDArray], type_name="STT_NDARRAY"):
    """Ask for a stream of NDARRAY."""


class StopNDArray(Stop[NDArray], type_name="STP_NDARRAY"):
    """End a stream of NDARRAY."""


class ReadyNDArray(Ready[NDArray], type_name="RTS_NDARRAY"):
    """Answer to a request for NDARRAY."""


class GetString(Get[String], type_name="GET_STRING"):
    """Ask for one STRING."""


class ReadyString(Ready[String], type_name="RTS_STRING"):
    """Answer to a request for STRING."""


class GetColorTable(Get[ColorTable], type_name="GET_COLORT"):
    """Ask for one COLORT."""


class GetPolyData(Get[PolyData], type_name="GET_POLYDATA"):
    """Ask for one POLYDATA."""


class StartPolyData(Start[PolyData], type_name="STT_POLYDATA"):
    """Ask for a stream of POLYDATA.

    Args:
        interval_ns: least time between two messages. Default: not sent, as the official library.
    """

    interval_ns: int | None = optional(u64())


class StopPolyData(Stop[PolyData], type_name="STP_POLYDATA"):
    """End a stream of POLYDATA."""


class ReadyPolyData(Ready[PolyData], type_name="RTS_POLYDATA"):
    """Answer to a request for POLYDATA. The official library writes 1 for success here."""


class GetBind(Get[Bind], type_name="GET_BIND"):
    """Ask for one BIND.

    Args:
        wanted: (type name, device name) of each child wanted; empty: everything.
    """

    wanted: list[Wanted] = coded(_WantedCodec(), default=())


class StartBind(Start[Bind], type_name="STT_BIND"):
    """Ask for a stream of BIND.

    Args:
        interval_ns: least time between two messages. The official library sends an undefined one.
        wanted: (type name, device name) of each child wanted; empty: everything.
    """

    interval_ns: int | None = optional(u64(), default=0)
    wanted: list[Wanted] = coded(_WantedCodec(), default=())


class StopBind(Stop[Bind], type_name="STP_BIND"):
    """End a stream of BIND."""


class ReadyBind(Ready[Bind], type_name="RTS_BIND"):
    """Answer to a request for BIND."""


class GetVideo(Get[Video], type_name="GET_VIDEO"):
    """Ask for one VIDEO."""


class StartVideo(Start[Video], type_name="STT_VIDEO"):
    """Ask for a stream of VIDEO.

    Args:
        codec: four characters, see Video.
        interval_ms: least time between two frames; 0: as fast as possible.
        reserved: a ninth byte that the official library sends; None leaves it out.
    """

    codec: str = text(4, default="VP90")
    interval_ms: int = u32(default=50)
    reserved: int | None = optional(u8(), default=0)


class StopVideo(Stop[Video], type_name="STP_VIDEO"):
    """End a stream of VIDEO."""


class GetVideoMeta(Get[VideoMeta], type_name="GET_VMETA"):
    """Ask for one VIDEOMETA."""
