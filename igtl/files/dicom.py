"""IMAGE and the data sets of pydicom: series of slices, files of several frames, ultrasound."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl.errors import EncodeError, FileError
from igtl.extras import MissingExtra, need
from igtl.files.blame import blamed
from igtl.files.notes import note
from igtl.files.series import Matrix, Series, Voxels, flipped, one, placed, squared
from igtl.messages.imaging import Image

__all__ = ["from_dicom", "to_dicom"]

_ROUNDING: Final = 0.1  # mm, and of a gap: more than that is no rounding of a position
_EXACT: Final = 1e-2  # mm
_CM: Final = 3  # unit of a region of ultrasound
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


class _Frame:
    """One frame of a data set, with its place where it has one."""

    def __init__(self, data_set: Any, number: int, shared: Any = None, own: Any = None) -> None:
        self.data_set = data_set
        self.number = number
        self._groups = [group for group in (own, shared) if group is not None]

    def find(self, name: str, *sequences: str) -> Any:
        """Return a value of the frame, of all frames, or of the file.

        None if it is missing or empty.
        """
        for group in self._groups:
            for sequence in sequences:
                if inner := group.get(sequence):
                    value = inner[0].get(name)
                    if value is not None and value != "":
                        return value
        value = self.data_set.get(name)
        return None if value == "" else value

    @property
    def position(self) -> Any:
        found = self.find("ImagePositionPatient", "PlanePositionSequence")
        return None if found is None else np.array(found, np.float64)

    @property
    def orientation(self) -> Any:
        found = self.find("ImageOrientationPatient", "PlaneOrientationSequence")
        return None if found is None else np.array(found, np.float64)

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Millimetres from row to row, and from column to column."""
        for name in _SPACINGS:
            if (found := self.find(name, "PixelMeasuresSequence")) is not None:
                return float(found[0]), float(found[1])
        for region in self.data_set.get("SequenceOfUltrasoundRegions") or ():
            if (
                region.get("PhysicalUnitsXDirection")
                == _CM
                == region.get("PhysicalUnitsYDirection")
            ):
                return 10 * abs(region.PhysicalDeltaY), 10 * abs(region.PhysicalDeltaX)
        return None

    @property
    def thickness(self) -> float:
        for name in ("SpacingBetweenSlices", "SliceThickness"):
            found = self.find(name, "PixelMeasuresSequence")
            if found is not None and float(found):
                return abs(float(found))
        return 1.0

    def rescaled(self, values: Voxels) -> Voxels:
        """Integers stay integers where slope and intercept are."""
        sequence = "PixelValueTransformationSequence"
        slope = float(_or(self.find("RescaleSlope", sequence), 1))
        offset = float(_or(self.find("RescaleIntercept", sequence), 0))
        if (slope, offset) == (1, 0):
            return values
        if slope.is_integer() and offset.is_integer() and abs(slope) + abs(offset) < 1 << 31:
            return values.astype(np.int64) * int(slope) + int(offset)
        return (values * slope + offset).astype(np.float32)


def _or(value: Any, default: float) -> Any:
    return default if value is None else value


def from_dicom(slices: Sequence[Any], *, device_name: str = "") -> Image:
    """From the data sets of one series (pydicom.Dataset), in any order.

    Values are rescaled, palettes become RGB, and MONOCHROME1 is inverted so that high values are
    bright.

    Raises:
        EncodeError: the slices are not an evenly spaced stack of equal slices, or are a series in
            time.
        ModuleNotFoundError: the pixels are compressed, and their decoder is missing; the text says
            which package has it.
    """
    series = _series(slices).fitted()
    if len(series.frames) != 1:
        raise EncodeError("Image", "array", f"a series of {len(series.frames)} images in time")
    return Image.from_volume(
        series.frames[0], ijk_to_world=series.ijk_to_world, device_name=device_name
    )


def _series(data_sets: Sequence[Any]) -> Series:
    """One volume of slices that have places; frames without places are images in time."""
    frames = [frame for data_set in data_sets for frame in _frames(data_set)]
    first = frames[0]
    for each in frames:
        if (each.data_set.Rows, each.data_set.Columns) != (first.data_set.Rows,
                                                          first.data_set.Columns):  # fmt: skip
            raise EncodeError("Image", "array", "the slices differ in size or orientation")
    if all(each.position is not None and each.orientation is not None for each in frames):
        order, matrix = _stacked(frames)
        pixels = _pixels([frames[n] for n in order])
        return Series(pixels[np.newaxis], flipped(matrix))
    if len(data_sets) > 1:
        raise EncodeError("Image", "matrix", "a slice has no position in the patient")
    note("it has no position in the patient and is put at the origin")
    matrix = np.eye(4)
    if (spacing := first.spacing) is None:
        note("its pixels have no size and are taken for 1 mm")
    else:
        matrix[0, 0], matrix[1, 1] = spacing[1], spacing[0]
    step = float(_or(data_sets[0].get("FrameTime"), 0)) / 1e3
    times = [step * n for n in range(len(frames))] if step else None
    return Series(_pixels(frames)[:, np.newaxis], flipped(matrix), times)


def _frames(data_set: Any) -> list[_Frame]:
    count = int(data_set.get("NumberOfFrames") or 1)
    shared = (data_set.get("SharedFunctionalGroupsSequence") or [None])[0]
    own = data_set.get("PerFrameFunctionalGroupsSequence") or [None] * count
    if len(own) != count:
        raise EncodeError("Image", "array", f"{count} frames announced, {len(own)} described")
    frames = [_Frame(data_set, n, shared, own[n]) for n in range(count)]
    if count > 1 and own[0] is None and frames[0].position is not None:
        # one position for all: that of the first; nuclear medicine says how far apart they are
        frames = [_Beside(data_set, n) for n in range(count)]
    return frames


class _Beside(_Frame):
    """A frame of a file that says its position and distance once for all."""

    @property
    def position(self) -> Any:
        u, v = np.reshape(self.orientation, (2, 3))
        step = float(_or(self.data_set.get("SpacingBetweenSlices"), self.thickness))
        return np.array(self.data_set.ImagePositionPatient, float) + self.number * step * np.cross(
            u, v
        )


def _stacked(frames: Sequence[_Frame]) -> tuple[list[int], Matrix]:
    """Return the order of the slices along their normal, and the 4x4 of the first voxel in LPS."""
    first = frames[0]
    u, v = np.reshape(first.orientation, (2, 3))
    normal = np.cross(u, v)
    spacing = first.spacing
    for each in frames:
        if not np.allclose(each.orientation, first.orientation, atol=1e-4):
            raise EncodeError("Image", "array", "the slices differ in size or orientation")
        if spacing is None or (own := each.spacing) is None:
            raise EncodeError("Image", "matrix", "a slice has no PixelSpacing")
        if not np.allclose(own, spacing, atol=1e-5):
            raise EncodeError("Image", "matrix", "the slices differ in pixel spacing")
    assert spacing is not None
    places = np.array([each.position for each in frames])
    order = np.argsort(places @ normal, kind="stable")
    places = places[order]
    step, first_place = normal * first.thickness, places[0]
    if len(frames) > 1:
        number = np.arange(len(frames))[:, np.newaxis] - (len(frames) - 1) / 2
        step = (number * places).sum(axis=0) / (number**2).sum()  # the line nearest to all
        gap = float(np.linalg.norm(step))
        even = places.mean(axis=0) + number * step
        apart = float(np.abs(places - even).max())
        if not apart <= max(_EXACT, min(_ROUNDING * gap, _ROUNDING)) or not gap:
            gaps = np.linalg.norm(np.diff(places, axis=0), axis=1)
            raise EncodeError(
                "Image", "matrix", f"the slices are {gaps.min():.3f} to {gaps.max():.3f} mm apart: "
                "some are missing, or double",
            )  # fmt: skip
        if apart > _EXACT:
            first_place = even[0]
            note(f"its slices lie up to {apart:.3f} mm beside even places, which they get")
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = u * spacing[1], v * spacing[0], step
    matrix[:3, 3] = first_place
    return [int(n) for n in order], matrix


# ---- pixels -------------------------------------------------------------------------------------


def _pixels(frames: Sequence[_Frame]) -> Voxels:
    """(n, rows, columns[, 3])."""
    decoded: dict[int, Voxels] = {}
    out = []
    for each in frames:
        key = id(each.data_set)
        if key not in decoded:
            values = _decoded(each.data_set)
            several = int(each.data_set.get("NumberOfFrames") or 1) > 1
            decoded[key] = values if several else values[np.newaxis]
        out.append(each.rescaled(decoded[key][each.number]))
    kinds = {values.dtype.kind for values in out}
    if "f" in kinds and len(kinds) > 1:
        out = [values.astype(np.float32) for values in out]
    return np.stack(out)


def _decoded(data_set: Any) -> Voxels:
    """Return the pixels of a data set as numbers or RGB."""
    _need_decoder(data_set)
    values: Voxels = data_set.pixel_array
    kind = str(data_set.get("PhotometricInterpretation", "MONOCHROME2")).strip()
    if kind == "PALETTE COLOR":
        values = need("pydicom.pixels", "imaging").apply_color_lut(values, data_set)
        if values.dtype == np.uint16:
            values = (values >> 8).astype(np.uint8)
    elif kind == "MONOCHROME1":
        stored = int(data_set.BitsStored)
        low = -(1 << (stored - 1)) if data_set.get("PixelRepresentation") else 0
        values = (2 * low + (1 << stored) - 1 - values.astype(np.int64)).astype(values.dtype)
    return values


def _need_decoder(data_set: Any) -> None:
    """MissingExtra where the pixels are compressed in a way that nothing here can decode."""
    meta = data_set.file_meta
    if "TransferSyntaxUID" not in meta:
        uid = need("pydicom.uid", "imaging")
        implicit, little = data_set.original_encoding
        meta.TransferSyntaxUID = (
            uid.ImplicitVRLittleEndian if implicit or implicit is None
            else uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        )  # fmt: skip
    syntax = meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    decoder = need("pydicom.pixels", "imaging").get_decoder(syntax)
    if not decoder.is_available:
        raise MissingExtra(f'its pixels are compressed as {syntax.name}: pip install "igtl[dicom]"')


# ---- files --------------------------------------------------------------------------------------


def read(path: Path) -> Series:
    """Read a folder with one series, or one file."""
    pydicom = need("pydicom", "imaging")
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    found: dict[str, list[Any]] = {}
    for file in files:
        with blamed(file):
            data_set = _read(pydicom, file)
        if data_set is None:
            if path.is_dir():
                continue  # a README, a DICOMDIR's companion
            raise FileError(path, "is not a DICOM file")
        if "PixelData" in data_set:
            found.setdefault(str(data_set.get("SeriesInstanceUID", "")), []).append(data_set)
    if not found:
        raise FileError(path, "holds no DICOM image")
    if len(found) > 1:
        sizes = ", ".join(f"{uid} ({len(sets)})" for uid, sets in found.items())
        raise FileError(path, f"holds {len(found)} series, each needs its own folder: {sizes}")
    (slices,) = found.values()
    return _series(slices)


def _read(pydicom: Any, file: Path) -> Any:
    """Return the data set of a file, also of one without preamble; None if it is not DICOM."""
    data = file.read_bytes()  # in memory, a length that is wrong cannot take more than there is
    try:
        return pydicom.dcmread(io.BytesIO(data))
    except pydicom.errors.InvalidDicomError:
        try:
            data_set = pydicom.dcmread(io.BytesIO(data), force=True)
            known = "SOPClassUID" in data_set or {"Rows", "Columns"} <= set(data_set.dir())
        except Exception:  # bytes of anything else
            return None
        return data_set if known else None


def to_dicom(image: Image) -> list[Any]:
    """As data sets of pydicom, one for each slice: a new series of CT images (secondary, derived).

    Raises:
        EncodeError: the voxels are not 8 or 16 bit integers, or 8 bit colours; or the axes are
            not at right angles.
    """
    pydicom = need("pydicom", "imaging")
    voxels = image.array
    if voxels.dtype.kind not in "iu" or voxels.itemsize > 2 or voxels.dtype == np.int8 or (
        image.components not in (1, 3) or (image.components == 3 and voxels.dtype != np.uint8)
    ):  # fmt: skip
        raise EncodeError("Image", "array", f"DICOM holds uint8, int16, uint16 and 8-bit RGB, not "
                          f"{voxels.dtype} with {image.components} components")  # fmt: skip
    directions, spacing, origin = squared(placed(image, "LPS"))
    uid = pydicom.uid
    study, series, frame = uid.generate_uid(), uid.generate_uid(), uid.generate_uid()
    out = []
    for k, pixels in enumerate(voxels):
        s = pydicom.Dataset()
        s.file_meta = pydicom.dataset.FileMetaDataset()
        s.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        s.file_meta.MediaStorageSOPClassUID = s.SOPClassUID = uid.CTImageStorage
        s.file_meta.MediaStorageSOPInstanceUID = s.SOPInstanceUID = uid.generate_uid()
        s.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        s.Modality = "CT"
        s.PatientName = s.PatientID = s.PatientBirthDate = s.PatientSex = ""
        s.StudyDate = s.StudyTime = s.AccessionNumber = s.ReferringPhysicianName = s.StudyID = ""
        s.StudyInstanceUID, s.SeriesInstanceUID, s.FrameOfReferenceUID = study, series, frame
        s.SeriesDescription = image.device_name
        s.SeriesNumber, s.InstanceNumber = 1, k + 1
        s.ImageOrientationPatient = [_ds(n) for n in (*directions[:, 0], *directions[:, 1])]
        place = origin + k * spacing[2] * directions[:, 2]
        s.ImagePositionPatient = [_ds(n) for n in place]
        s.PixelSpacing = [_ds(spacing[1]), _ds(spacing[0])]
        s.SliceThickness = s.SpacingBetweenSlices = _ds(spacing[2])
        s.Rows, s.Columns = pixels.shape[:2]
        s.SamplesPerPixel = image.components
        s.PhotometricInterpretation = "RGB" if image.components == 3 else "MONOCHROME2"
        if image.components == 3:
            s.PlanarConfiguration = 0
        s.BitsAllocated = s.BitsStored = 8 * voxels.itemsize
        s.HighBit = s.BitsStored - 1
        s.PixelRepresentation = int(voxels.dtype.kind == "i")
        if image.components == 1:
            s.RescaleSlope, s.RescaleIntercept = "1", "0"
        data = pixels.astype(voxels.dtype.newbyteorder("<")).tobytes()
        s.PixelData = data + b"\0" * (len(data) % 2)
        s["PixelData"].VR = "OB" if voxels.itemsize == 1 else "OW"
        out.append(s)
    return out


def _ds(number: float) -> str:
    """Return a decimal string of DICOM, 16 characters."""
    text = f"{float(number):.10g}"
    return text if len(text) <= 16 else f"{float(number):.8e}"


def write(series: Series, path: Path) -> None:
    """Write a folder with one file for each slice, or one file of one slice."""
    slices = to_dicom(one(series, path))
    if path.suffix:
        if len(slices) != 1:
            raise FileError(path, f"holds one slice, not {len(slices)}: name a folder")
        slices[0].save_as(path, enforce_file_format=True)
        return
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise FileError(path, "is not empty: another series there would be mixed with this one")
    for k, each in enumerate(slices):
        each.save_as(path / f"{k + 1:04}.dcm", enforce_file_format=True)
