"""What a client of PLUS asks for, and what CLIENTINFO says of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from igtl.codec.message import Message
from igtl.codec.xml import element, elements
from igtl.messages.plus import ClientInfo

_NAMES: Final = {  # list, entry, attribute
    "MessageTypes": ("Message", "Type"),
    "TransformNames": ("Transform", "Name"),
    "ImageNames": ("Image", "Name"),
    "StringNames": ("String", "Name"),
}


@dataclass(frozen=True, kw_only=True)
class Select:
    """The messages that PLUS sends to this client, instead of those of its DefaultClientInfo.

    Args:
        transforms: names of the form XToY ("ProbeToTracker"); any X and Y that PLUS can join.
        images: names of the form Image_Reference: the image and the frame that its place is in.
        strings: names of frame fields, sent as STRING.
        tracked_frames: TRACKEDFRAME: the images, with all transforms of the same instant.
        tracking_data: TDATA: all transforms in one message.
        positions: POSITION instead of TRANSFORM.
        types: further message types, such as "VIDEO" and "USMESSAGE". Images are sent as these
            then, and as IMAGE only if it is among them.

    Raises:
        ValueError: PLUS would send nothing at all: the text says why.
    """

    transforms: Sequence[str] = ()
    images: Sequence[str] = ()
    strings: Sequence[str] = ()
    tracked_frames: bool = False
    tracking_data: bool = False
    positions: bool = False
    types: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("transforms", "images", "strings", "types"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise ValueError(f"{name} must be a list of names, not the text {given!r}")
            object.__setattr__(self, name, tuple(given))
        for transform in self.transforms:
            check_transform(transform)
        for image in self.images:
            image_and_frame(image)
        if not self.message_types:
            raise ValueError("nothing is selected, and PLUS would send nothing at all")
        if self.tracked_frames and not self.images:
            raise ValueError("tracked_frames needs images: PLUS sends a frame for each of them")
        if (self.tracking_data or self.positions) and not self.transforms:
            raise ValueError("tracking_data and positions need transforms: their names")

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """From words: XToY for a transform, Image_Frame for an image, a message type in capitals.

        Raises:
            ValueError: a word is none of these, or they select nothing.
        """
        found: dict[str, list[str]] = {"transforms": [], "images": [], "types": []}
        for name in names:
            if name.isupper() and "_" not in name:
                found["types"].append(name)
            elif "_" in name:
                found["images"].append(name)
            else:
                found["transforms"].append(name)
        kinds = {
            "TRACKEDFRAME": "tracked_frames",
            "TDATA": "tracking_data",
            "POSITION": "positions",
        }
        flags = {flag: kind in found["types"] for kind, flag in kinds.items()}
        types = [kind for kind in found.pop("types") if kind not in (*kinds, "TRANSFORM")]
        return cls(**found, **flags, types=types)  # type: ignore[arg-type]

    @property
    def message_types(self) -> list[str]:
        """The types of the messages that PLUS is asked for."""
        otherwise = self.tracking_data or self.positions
        wanted = {
            "TRANSFORM": self.transforms and not otherwise,
            "IMAGE": self.images and not self.tracked_frames and not self.types,
            "TRACKEDFRAME": self.tracked_frames,
            "TDATA": self.tracking_data,
            "POSITION": self.positions,
            "STRING": self.strings,
        }
        return list(dict.fromkeys([*(kind for kind, on in wanted.items() if on), *self.types]))

    def message(self) -> ClientInfo:
        """Return the selection as CLIENTINFO.

        PLUS replaces its record of the client by this message, so it always contains header version
        2 and the request for TDATA.
        """
        lists: dict[str, Iterable[dict[str, str]]] = {
            "MessageTypes": [{"Type": kind} for kind in self.message_types],
            "TransformNames": [{"Name": name} for name in self.transforms],
            "ImageNames": [
                dict(zip(("Name", "EmbeddedTransformToFrame"), image_and_frame(name), strict=True))
                for name in self.images
            ],
            "StringNames": [{"Name": name} for name in self.strings],
        }
        attributes = {
            "ClientHeaderVersion": "2",
            "TDATARequested": "TRUE" if self.tracking_data else "FALSE",
            "TDATAResolution": "0",  # any other starves: each message of any type starts it anew
        }
        parts = [
            element(name, {}, [element(_NAMES[name][0], entry) for entry in entries])
            for name, entries in lists.items()
        ]
        return ClientInfo(element("ClientInfo", attributes, parts))


@dataclass(frozen=True, kw_only=True)
class Client:
    """What a client has said by CLIENTINFO.

    Attributes:
        version: the header version that it asks for, 1 if it names none.
        types: message types.
        transforms, strings: names.
        images: (name, frame) each.
        tracking_data: whether it asks for TDATA.
        resolution: in what interval, seconds.
    """

    version: int = 1
    types: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    strings: tuple[str, ...] = ()
    tracking_data: bool = False
    resolution: float = 0.0

    @classmethod
    def read(cls, info: ClientInfo) -> Self:
        """From the message.

        Raises:
            ValueError: the text is not well-formed, or not a selection.
        """
        head, *rest = elements(info.xml)
        if head[0] != "ClientInfo":
            raise ValueError(f"it is <{head[0]}>, not <ClientInfo>")
        names: dict[str, list[str]] = {entry: [] for entry, _ in _NAMES.values()}
        images = []
        for tag, attributes in rest:
            for entry, key in _NAMES.values():
                if tag == entry and key in attributes:
                    names[tag].append(attributes[key])
            if tag == "Image" and "Name" in attributes:
                frame = attributes.get("EmbeddedTransformToFrame", "")
                images.append((attributes["Name"], frame))
        version = head[1].get("ClientHeaderVersion", "1")
        resolution = head[1].get("TDATAResolution", "0")
        return cls(
            version=2 if version == "2" else 1, types=tuple(names["Message"]),
            transforms=tuple(names["Transform"]), images=tuple(images),
            strings=tuple(names["String"]),
            tracking_data=head[1].get("TDATARequested", "").upper() == "TRUE",
            resolution=float(resolution) if resolution.replace(".", "", 1).isdigit() else 0.0,
        )  # fmt: skip

    def wants(self, message: Message, name: str | None = None) -> bool:
        """Return whether a message of this type and name is among what it asks for."""
        name = message.device_name if name is None else name
        kind = message.type_name
        if kind == "TDATA":
            return kind in self.types and self.tracking_data
        if kind not in self.types:
            return False
        if kind in ("TRANSFORM", "POSITION"):
            return name in self.transforms
        if kind in ("IMAGE", "VIDEO"):
            return name in {f"{image}_{frame}" for image, frame in self.images}
        return kind != "STRING" or name in self.strings


def check_transform(name: str) -> None:
    """ValueError if a name is not of the form XToY, as PLUS reads it."""
    at = name.find("To", 1)
    while at > 0:
        x, y = name[:at], name[at + 2 :]
        if y[:1].isupper() and (x[:1].isupper() or x[:1].isdigit()):
            return
        at = name.find("To", at + 1)
    raise ValueError(
        f"PLUS names transforms XToY, each with a capital first letter, not {name!r}"
    )  # fmt: skip


def image_and_frame(name: str) -> tuple[str, str]:
    """Return the two parts of Image_Reference.

    Raises:
        ValueError: the name does not have two parts.
    """
    image, _, frame = name.rpartition("_")
    if not image or not frame:
        raise ValueError(
            f"PLUS names images by image and frame, as 'Image_Reference', not {name!r}"
        )
    return image, frame
