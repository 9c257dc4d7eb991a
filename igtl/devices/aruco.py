"""Printed ArUco markers before a camera or in a film: their poses as TRANSFORM or TDATA."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.devices.camera import Filmed
from igtl.devices.device import ALIVE, Item, option
from igtl.devices.film import Picture
from igtl.devices.registry import meant
from igtl.extras import need
from igtl.messages.imaging import Image
from igtl.messages.tracking import Tool, ToolType, TrackingData, Transform

Matrix = npt.NDArray[np.float64]
# the names that OpenCV's samples, its tools and ROS give them in files
_MATRICES: Final = ("camera_matrix", "mtx", "K")
_DISTORTIONS: Final = ("distortion_coefficients", "dist_coeffs", "dist", "D")


class Lens(NamedTuple):
    """How a camera maps points to pixels.

    Attributes:
        matrix: 3x3, pixels: fx, fy and the centre.
        distortion: coefficients as OpenCV orders them.
    """

    matrix: Matrix
    distortion: Matrix


@dataclass(frozen=True, kw_only=True)
class Aruco(Filmed):
    """Poses of printed ArUco markers that a camera sees."""

    name: str = option("Aruco", "device name of TDATA, IMAGE and STATUS")
    calibration: str = option("", "file of the camera matrix: .json, .yaml, .xml or .npz")
    mm: float = option(40.0, "side of the black square, mm")
    dictionary: str = option("4X4_50", "as in OpenCV: 4X4_50, 6X6_250, APRILTAG_36h11, …")
    ids: tuple[int, ...] | None = option(None, "only these markers; default all of the dictionary")
    send: Literal["transform", "tdata"] = option("transform", "TRANSFORM each, or TDATA")
    image: bool = option(False, "send the frames too")

    sends: ClassVar = "TRANSFORM MarkerNToCamera, or TDATA; mm; IMAGE if asked"
    needs: ClassVar = {"cv2": "aruco", "av": "aruco"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mm > 0:
            raise ValueError(f"mm must be above 0, not {self.mm}")
        if not self.calibration:
            raise ValueError(
                "aruco needs calibration=FILE, the camera matrix: without it no distance is right"
            )
        _dictionary(self.dictionary)

    def messages(self) -> Iterator[Item]:
        """Yield a TRANSFORM for each marker that is seen, or one TDATA for each frame.

        Raises:
            OSError: the calibration cannot be read, or FFmpeg cannot open the camera.
            ValueError: the calibration or the dictionary is not usable.
        """
        lens = read_lens(self.calibration)
        find = _Finder(self.dictionary, self.mm, self.ids, lens)
        for picture in self.pictures():
            if picture is None:
                yield None
                continue
            if self.image:
                yield Image.from_frame(
                    picture.pixels, order=None if picture.pixels.ndim == 2 else "RGB",
                    device_name=self.name, timestamp=picture.stamp,
                )  # fmt: skip
            yield from self._told(find(picture), picture)

    def _told(self, poses: dict[int, Matrix], picture: Picture) -> Iterator[Item]:
        if self.send == "tdata":
            tools = [Tool(f"Marker{n}", ToolType.INSTRUMENT_6D, pose) for n, pose in poses.items()]
            yield TrackingData(tools, device_name=self.name, timestamp=picture.stamp)
            return
        for number, pose in poses.items():
            yield Transform(pose, device_name=f"Marker{number}ToCamera", timestamp=picture.stamp)
        if not poses:
            yield ALIVE


class _Finder:
    """Finds markers, and their poses."""

    def __init__(self, dictionary: str, mm: float, ids: tuple[int, ...] | None, lens: Lens) -> None:
        self._cv = cv = need("cv2", "aruco")
        parameters = cv.aruco.DetectorParameters()
        parameters.cornerRefinementMethod = cv.aruco.CORNER_REFINE_SUBPIX
        self._detector = cv.aruco.ArucoDetector(_dictionary(dictionary), parameters)
        corners = [[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]]  # as IPPE_SQUARE wants them
        self._corners = np.array(corners, np.float64) * mm / 2
        self._ids = ids
        self._lens = lens

    def __call__(self, picture: Picture) -> dict[int, Matrix]:
        """4x4 pose of each marker in the camera, mm: x right, y down, z forwards.

        The marker has x right, y up, z out of the paper.
        """
        cv = self._cv
        grey = picture.pixels
        if grey.ndim == 3:
            grey = cv.cvtColor(grey, cv.COLOR_RGB2GRAY)
        found, ids, _ = self._detector.detectMarkers(grey)
        poses: dict[int, Matrix] = {}
        for corners, number in zip(found, [] if ids is None else ids.ravel(), strict=True):
            if self._ids is not None and int(number) not in self._ids:
                continue
            ok, turn, place = cv.solvePnP(
                self._corners, corners.reshape(4, 2).astype(np.float64), self._lens.matrix,
                self._lens.distortion, flags=cv.SOLVEPNP_IPPE_SQUARE,
            )  # fmt: skip
            if ok:
                pose = np.eye(4)
                pose[:3, :3] = cv.Rodrigues(turn)[0]
                pose[:3, 3] = np.ravel(place)
                poses[int(number)] = pose
        return poses


def _dictionary(name: str) -> Any:
    aruco = need("cv2", "aruco").aruco
    there = {n.removeprefix("DICT_"): n for n in dir(aruco) if n.startswith("DICT_")}
    if name not in there:
        raise ValueError(f"there is no dictionary {name!r}{meant(name, there)}")
    return aruco.getPredefinedDictionary(getattr(aruco, there[name]))


def read_lens(path: str) -> Lens:
    """Return the calibration of a camera from a file.

    Args:
        path: .npz or .json with "camera_matrix" (or "mtx", "K") and, if there are any,
            "distortion_coefficients" (or "dist_coeffs", "dist", "D"); .yaml, .yml and .xml as
            OpenCV writes them, with the same names.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no camera matrix.
    """
    found = _arrays_of(path)
    matrix = next((found[n] for n in _MATRICES if n in found), None)
    if matrix is None or matrix.size != 9:
        raise ValueError(
            f"{path} has no camera_matrix of 3 × 3; it has {', '.join(found) or 'none'}"
        )
    distortion = next((found[n] for n in _DISTORTIONS if n in found), np.zeros(5))
    return Lens(matrix.reshape(3, 3), distortion.ravel())


def _arrays_of(path: str) -> dict[str, Matrix]:
    kind = Path(path).suffix.lower()
    if kind == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name], float) for name in archive.files}
    if kind == ".json":
        return {
            name: np.asarray(value.get("data", ()) if isinstance(value, dict) else value, float)
            for name, value in json.loads(Path(path).read_text()).items()
            if isinstance(value, list | dict)
        }
    if kind in (".yaml", ".yml", ".xml"):
        return _of_opencv(path)
    raise ValueError(f"{path}: a calibration is a .json, .yaml, .xml or .npz file")


def _of_opencv(path: str) -> dict[str, Matrix]:
    cv = need("cv2", "aruco")
    Path(path).stat()  # an OSError that names the file, instead of OpenCV's own
    storage: Any = cv.FileStorage(path, cv.FILE_STORAGE_READ)
    try:
        nodes = {name: storage.getNode(name) for name in (*_MATRICES, *_DISTORTIONS)}
        return {name: np.asarray(n.mat(), float) for name, n in nodes.items() if n.isMap()}
    finally:
        storage.release()
