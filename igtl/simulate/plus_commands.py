"""The commands that a simulated PlusServer carries out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from igtl.codec.message import Message
from igtl.codec.xml import element, elements
from igtl.messages.imaging import Image
from igtl.simulate.plus_frames import Acquisition, text_of

_FAILED: Final = "Command failed. See error message."
_VERSION: Final = "Plus-2.9.0.igtl - simulated"


class Failure(Exception):
    """A command failed: the reason that PLUS gives, and its message."""

    def __init__(self, error: str, message: str = _FAILED, name: str | None = None) -> None:
        super().__init__(error)
        self.message = message
        self.name = name


class Answer(NamedTuple):
    """The result of a command.

    It has the message, values, text if it has one of its own, and what is sent besides.
    """

    message: str
    values: Mapping[str, str] = {}
    text: str = ""
    besides: Message | None = None


class Commands(Acquisition):
    """What is acquired, and the commands on it.

    The devices are Tracker, UsDevice, CaptureDevice and VolumeReconstructorDevice.

    Args:
        rate: frames a second.
        size, valid_only: see `Acquisition`.

    Attributes:
        begun: when, on the monotonic clock.
        period: seconds between two frames.
        saved: names of the files that SaveConfig would have written.
    """

    def __init__(self, rate: float, size: tuple[int, int], *, valid_only: bool) -> None:
        super().__init__(size, valid_only=valid_only)
        self.begun = time.monotonic()
        self.period = 1 / rate
        self.saved: list[str] = []
        self._facts: dict[str, dict[str, str]] = {}

    def carried_out(
        self, name: str, attributes: dict[str, str], inner: list[dict[str, str]]
    ) -> Answer:
        """Carry out a command.

        Raises:
            Failure: the command has failed, or is unknown.
        """
        commands: dict[str, Callable[[dict[str, str], list[dict[str, str]]], Answer]] = {
            "Version": self._version, "RequestDeviceIds": self._device_ids,
            "RequestChannelIds": self._channel_ids, "GetFrameRate": self._frame_rate,
            "GetTransform": self._get_transform, "UpdateTransform": self._update_transform,
            "SaveConfig": self._save_config, "StartRecording": self._start_recording,
            "StopRecording": self._stop_recording,
            "StartVolumeReconstruction": self._start_volume,
            "GetVolumeReconstructionSnapshot": self._snapshot,
            "StopVolumeReconstruction": self._stop_volume,
            "GetUsParameter": self._get_parameter, "SetUsParameter": self._set_parameter,
        }  # fmt: skip
        if name not in commands:
            raise Failure("Unknown command type requested.", "", "")
        return commands[name](attributes, inner)

    def _version(self, attributes: dict[str, str], inner: Any) -> Answer:
        versions = {"IGTLHeaderVersion": "2", "IGTLProtocolVersion": "3", "PlusVersion": _VERSION}
        return Answer("Success.", versions)

    def _device_ids(self, attributes: dict[str, str], inner: Any) -> Answer:
        kinds = {
            "Tracker": "FakeTracker", "UsDevice": "SavedDataSource",
            "CaptureDevice": "VirtualCapture",
            "VolumeReconstructorDevice": "VirtualVolumeReconstructor",
        }  # fmt: skip
        wanted = attributes.get("DeviceType", "")
        ids = [name for name, kind in kinds.items() if wanted in ("", kind)]
        return Answer(",".join(ids), {name: name for name in ids})

    def _channel_ids(self, attributes: dict[str, str], inner: Any) -> Answer:
        ids = ["TrackerStream", "UsStream"]
        return Answer(",".join(ids), {name: name for name in ids})

    def _frame_rate(self, attributes: dict[str, str], inner: Any) -> Answer:
        rate, spread = f"{1 / self.period:.6f}", "0.000122"
        text = f"<CommandReply FrameRate={rate} FrameRateStdDev={spread} />"  # as PLUS writes it
        return Answer("", {"FrameRate": rate, "FrameRateStdDev": spread}, text)

    def _get_transform(self, attributes: dict[str, str], inner: Any) -> Answer:
        name = attributes.get("TransformName", "")
        try:
            m, _ = self.placed(name, time.monotonic() - self.begun)
        except KeyError:
            raise Failure(f"GetTransform ({name}) Failed. Transform not found.") from None
        facts = {name: text_of(m), "persistent": "true", **self._facts.get(name, {})}
        return Answer(f"GetTransform ({name}) Command successful.", facts)

    def _update_transform(self, attributes: dict[str, str], inner: Any) -> Answer:
        name = attributes.get("TransformName", "")
        numbers = attributes.get("TransformValue", "").split()
        if len(numbers) != 16 or "To" not in name:
            raise Failure("Unknown command type requested.", "", "")
        self.transforms[name] = np.reshape([float(n) for n in numbers], (4, 4))
        told = {"TransformError": "error", "TransformDate": "date"}
        facts = {key: attributes[given] for given, key in told.items() if given in attributes}
        facts["persistent"] = attributes.get("TransformPersistent", "TRUE").lower()
        self._facts[name] = facts
        return Answer(f"UpdateTransform ({name}) completed successfully")

    def _save_config(self, attributes: dict[str, str], inner: Any) -> Answer:
        name = attributes.get("Filename", "simulated.xml")
        self.saved.append(name)
        return Answer(f"SaveConfig ({name}) Completed successfully.")

    def _captures(self, attributes: dict[str, str], command: str) -> str:
        device = attributes.get("CaptureDeviceId", "")
        if device != "CaptureDevice":
            raise Failure(f"VirtualCapture has not been found ({device}), {command}")
        return f"VirtualCapture ({device}) {command} "

    def _start_recording(self, attributes: dict[str, str], inner: Any) -> Answer:
        base = self._captures(attributes, "StartRecording")
        if self.recording is not None:
            raise Failure(f"{base}Recording to file is already in progress.")
        self.recording = []
        return Answer(f"{base}successful.")

    def _stop_recording(self, attributes: dict[str, str], inner: Any) -> Answer:
        base = self._captures(attributes, "StopRecording")
        if self.recording is None:
            raise Failure(f"{base}Recording to file is already stopped.")
        count, self.recording = len(self.recording), None
        name = attributes.get("OutputFilename", "rec.igs.mha")
        return Answer(f"{base}Recording {count} frames successful to file {name}")

    def _reconstructs(self, attributes: dict[str, str], command: str) -> tuple[str, str]:
        device = attributes.get("VolumeReconstructorDeviceId", "")
        if device not in ("", "VolumeReconstructorDevice"):
            raise Failure(f"Device {device} is not found.")
        name = attributes.get("OutputVolDeviceName", "recvol_Reference")
        return f"{command}(VolumeReconstructorDevice)", name

    def _start_volume(self, attributes: dict[str, str], inner: Any) -> Answer:
        base, _ = self._reconstructs(attributes, "StartVolumeReconstruction")
        if self.volume is not None:
            raise Failure(
                f"{base} Reconstruction starting from live frames failed: live volume "
                "reconstruction is in progress."
            )
        self.volume = []
        return Answer(f"{base} Volume reconstruction from live frames started.")

    def _volume_so_far(self, base: str, name: str) -> Image:
        if self.volume is None:
            raise Failure(
                f"{base} Reconstruction stop from live frames failed: live volume reconstruction "
                "is already stopped, device."
            )
        most = np.maximum.reduce(self.volume or [self.picture])[np.newaxis]
        # its stamp counts from the start of PLUS
        since = time.monotonic() - self.begun
        return Image(most, spacing=(1, 1, 1), device_name=name, timestamp=since)

    def _snapshot(self, attributes: dict[str, str], inner: Any) -> Answer:
        base, name = self._reconstructs(attributes, "GetVolumeReconstructionSnapshot")
        volume = self._volume_so_far(base, name)
        text = f"{base} Volume reconstruction snapshot: image sent as: {name}"
        return Answer(text, besides=volume)

    def _stop_volume(self, attributes: dict[str, str], inner: Any) -> Answer:
        base, name = self._reconstructs(attributes, "StopVolumeReconstruction")
        volume = self._volume_so_far(base, name)
        self.volume = None
        return Answer(f"{base} Reconstruction completed: image sent as: {name}", besides=volume)

    def _scans(self, attributes: dict[str, str]) -> None:
        device = attributes.get("UsDeviceId", "")
        if device not in ("", "UsDevice"):
            raise Failure(f"Device {device} is not found.")

    def _get_parameter(self, attributes: dict[str, str], inner: list[dict[str, str]]) -> Answer:
        self._scans(attributes)
        wrong, values = "", {}
        for parameter in inner:
            name = parameter.get("Name", "")
            if name in self.parameters:
                values[name] = f"{self.parameters[name]:g}"
            else:
                wrong += f"Invalid parameter {name}. "
        if wrong:
            raise Failure(wrong)
        entries = [
            element("Parameter", {"Name": name, "Success": "true", "Value": value})
            for name, value in values.items()
        ]
        return Answer("", values, element("CommandReply", {}, entries))

    def _set_parameter(self, attributes: dict[str, str], inner: list[dict[str, str]]) -> Answer:
        self._scans(attributes)
        wrong, values = "", {}
        for parameter in inner:
            name, value = parameter.get("Name", ""), parameter.get("Value", "")
            try:
                number = float(value)
            except ValueError:
                wrong += f"Failed to parse {name}. "
                continue
            if name not in self.parameters:
                wrong += f"Invalid parameter {name}. "
                continue
            self.parameters[name] = number
            values[name] = "SUCCESS"
        if wrong:
            raise Failure(wrong)
        entries = [element("Parameter", {"Name": name, "Success": "true"}) for name in values]
        return Answer("", values, element("CommandReply", {}, entries))


def parsed(text: str) -> tuple[str, dict[str, str], list[dict[str, str]]]:
    """Name, attributes and nested elements of a command.

    Raises:
        Failure: the text is not a command.
    """
    try:
        (_, attributes), *rest = elements(text)
    except ValueError:
        raise Failure("Unknown command type requested.", "", "") from None
    name = attributes.get("Name", "")
    return name, attributes, [inner for tag, inner in rest if tag == "Parameter"]
