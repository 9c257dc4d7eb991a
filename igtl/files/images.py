"""IMAGE and the images of SimpleITK, nibabel, pynrrd and pydicom: the same voxels, same place.

A 4x4 here maps voxel indices (i, j, k) to mm and puts the centre of the first voxel into its last
column, as all of these libraries have it. igtl and nibabel count in RAS, the others in LPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from igtl.errors import EncodeError, FileError
from igtl.extras import need
from igtl.files.blame import blamed
from igtl.message import Message
from igtl.messages.imaging import Image, Space

ITK_SUFFIXES: Final = (
    ".mha", ".mhd", ".gipl", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp",
)  # fmt: skip
_SQUARE: Final = 1e-4  # of a right angle: more is a shear, not rounding
_EVEN: Final = 1e-2  # mm, or of a gap: slices that differ by more are not evenly spaced
_MM: Final = {"meter": 1000.0, "micron": 0.001}
Matrix = npt.NDArray[np.float64]
Voxels = npt.NDArray[Any]


def _image(message: Message, path: Any) -> Image:
    if not isinstance(message, Image):
        raise FileError(path, f"a {message.type_name} is no image")
    return message


def _placed(image: Image, space: Space) -> Matrix:
    """4x4 of the first voxel that is there: of the part, if the image is one."""
    matrix: Matrix = image.to(space).array_to_world
    return matrix


def _squared(image: Image, space: Space) -> tuple[Matrix, Matrix, Matrix]:
    """Directions (3x3, columns), spacing and origin, for formats without shear."""
    matrix = _placed(image, space)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    directions = matrix[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > _SQUARE:
        raise EncodeError("Image", "matrix", "the axes are not at right angles, which only NRRD "
                          "and NIfTI can say")  # fmt: skip
    u, _, v = np.linalg.svd(directions)  # float32 on the wire leaves a rounding error
    return u @ v, spacing, matrix[:3, 3]


def _joined(directions: Any, spacing: Any, origin: Any) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(directions, np.float64) * np.asarray(spacing, np.float64)
    matrix[:3, 3] = origin
    return matrix


# ---- SimpleITK ----------------------------------------------------------------------------------


def to_sitk(image: Image) -> Any:
    """As a SimpleITK.Image, three-dimensional, in LPS; components become a vector pixel.

    Raises:
        EncodeError: the axes are not at right angles.
        ModuleNotFoundError: see `igtl.files`.
    """
    sitk = need("SimpleITK", "imaging")
    directions, spacing, origin = _squared(image, "LPS")
    out = sitk.GetImageFromArray(image.array, isVector=image.components > 1)
    out.SetDirection(directions.ravel().tolist())
    out.SetSpacing(spacing.tolist())
    out.SetOrigin(origin.tolist())
    return out


def from_sitk(image: Any, *, device_name: str = "") -> Image:
    """From a SimpleITK.Image of two or three dimensions.

    Raises:
        EncodeError: OpenIGTLink has no such pixels (64-bit integers, complex numbers), or no such
            dimensions.
    """
    sitk = need("SimpleITK", "imaging")
    size = image.GetDimension()
    if size not in (2, 3):
        raise EncodeError("Image", "array", f"{size} dimensions, 2 or 3 can be sent")
    array = sitk.GetArrayFromImage(image)
    directions, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    directions[:size, :size] = np.reshape(image.GetDirection(), (size, size))
    spacing[:size], origin[:size] = image.GetSpacing(), image.GetOrigin()
    return Image(
        array[np.newaxis] if size == 2 else array,
        ijk_to_world=_joined(directions, spacing, origin), space="LPS", device_name=device_name,
    )  # fmt: skip


def load_itk(path: Path) -> Image:
    """By SimpleITK; see `igtl.files.load`."""
    sitk = need("SimpleITK", "imaging")
    with blamed(path):
        return from_sitk(sitk.ReadImage(str(path)))


def save_itk(message: Message, path: Path) -> None:
    """By SimpleITK; see `igtl.files.save`."""
    image = _image(message, path)
    sitk = need("SimpleITK", "imaging")
    flat = path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp")
    if flat and image.array.shape[0] != 1:
        raise FileError(path, f"holds one slice, not {image.array.shape[0]}")
    with blamed(path):
        out = to_sitk(image)
        sitk.WriteImage(out[:, :, 0] if flat else out, str(path))


# ---- NIfTI --------------------------------------------------------------------------------------

_RGB: Final = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_RGBA: Final = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])


def to_nibabel(image: Image) -> Any:
    """As a nibabel.Nifti1Image, in RAS: 8-bit colours as RGB(A), other components as a vector of
    the fifth dimension, as NIfTI has them."""
    nib = need("nibabel", "imaging")
    voxels = image.array
    kind = {3: _RGB, 4: _RGBA}.get(image.components)
    if kind is not None and voxels.dtype == np.uint8:
        data = np.ascontiguousarray(voxels).view(kind)[..., 0].transpose(2, 1, 0)
    elif image.components > 1:
        data = voxels.transpose(2, 1, 0, 3)[:, :, :, np.newaxis]
    else:
        data = voxels.transpose(2, 1, 0)
    out = nib.Nifti1Image(data, _placed(image, "RAS"), dtype=data.dtype)
    out.header.set_xyzt_units("mm")
    if data.ndim == 5:
        out.header.set_intent("vector")
    return out


def from_nibabel(image: Any, *, device_name: str = "") -> Image:
    """From an image of nibabel, scaled as it says.

    Raises:
        EncodeError: OpenIGTLink has no such voxels, or it is a series in time.
    """
    data = np.asanyarray(image.dataobj)
    units = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _MM.get(units, 1.0)
    if data.dtype.names is not None:
        data = data.view("u1").reshape(*data.shape, -1) if data.flags.c_contiguous else (
            np.stack([data[name] for name in data.dtype.names], -1)
        )  # fmt: skip
        data = data.reshape(*data.shape[:3], data.shape[-1])
    elif data.ndim == 5 and data.shape[3] == 1:
        data = data[:, :, :, 0]
    elif data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    elif data.ndim > 3:
        raise EncodeError("Image", "array", f"{data.shape} is a series in time: send its volumes "
                          "one by one, from_nibabel(image.slicer[..., t])")  # fmt: skip
    while data.ndim < 3:
        data = data[..., np.newaxis]
    axes = (2, 1, 0) if data.ndim == 3 else (2, 1, 0, 3)
    return Image(data.transpose(axes), ijk_to_world=affine, space="RAS", device_name=device_name)


def load_nifti(path: Path) -> Image:
    """By nibabel; see `igtl.files.load`."""
    nib = need("nibabel", "imaging")
    with blamed(path):
        return from_nibabel(nib.load(path))


def save_nifti(message: Message, path: Path) -> None:
    """By nibabel; see `igtl.files.save`."""
    image = _image(message, path)
    nib = need("nibabel", "imaging")
    with blamed(path):
        nib.save(to_nibabel(image), path)


# ---- NRRD ---------------------------------------------------------------------------------------

_NRRD_SPACES: Final = {
    "right-anterior-superior": "RAS", "ras": "RAS", "left-posterior-superior": "LPS", "lps": "LPS",
    "left-anterior-superior": "LAS", "las": "LAS",
}  # fmt: skip
_TO_RAS: Final = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1), "LAS": (-1, 1, 1)}


def to_nrrd(image: Image) -> tuple[Voxels, dict[str, Any]]:
    """Data and header as pynrrd has them: axes (i, j, k), components first; LPS."""
    matrix = _placed(image, "LPS")
    data = image.array.transpose(2, 1, 0) if image.components == 1 else (
        image.array.transpose(3, 2, 1, 0)
    )  # fmt: skip
    directions = [row.tolist() for row in matrix[:3, :3].T]
    kinds = ["domain"] * 3
    if image.components > 1:
        directions.insert(0, [np.nan] * 3)
        kinds.insert(0, {3: "RGB-color", 4: "RGBA-color"}.get(image.components, "vector")
                     if image.array.dtype == np.uint8 else "vector")  # fmt: skip
    header = {
        "space": "left-posterior-superior",
        "space directions": np.array(directions),
        "space origin": matrix[:3, 3],
        "kinds": kinds,
    }
    return data, header


def from_nrrd(data: Voxels, header: dict[str, Any], *, device_name: str = "") -> Image:
    """From what pynrrd reads, axes in the order of the file (its default).

    Raises:
        EncodeError: it has other than two or three axes in space, or a space that is unknown.
    """
    space = str(header.get("space", "left-posterior-superior")).lower()
    if space not in _NRRD_SPACES:
        raise EncodeError("Image", "matrix", f"the space {space!r} of NRRD is not known here")
    directions, domain = _nrrd_axes(data, header)
    extra = [axis for axis in range(data.ndim) if axis not in domain]
    if len(domain) not in (2, 3) or len(extra) > 1:
        raise EncodeError("Image", "array", f"{data.shape} with axes {header.get('kinds')}: two or "
                          "three in space and one of components can be sent")  # fmt: skip
    voxels = np.transpose(data, [*reversed(domain), *extra])
    if len(domain) == 2:
        voxels = voxels[np.newaxis]
    origin = np.zeros(3)
    given = header.get("space origin")
    if given is not None and len(given) == 3:
        origin[:] = given
    matrix = _joined(directions, 1.0, origin)
    matrix[:3] *= np.array(_TO_RAS[_NRRD_SPACES[space]])[:, np.newaxis]
    return Image(voxels, ijk_to_world=matrix, space="RAS", device_name=device_name)


def _nrrd_axes(data: Voxels, header: dict[str, Any]) -> tuple[Matrix, list[int]]:
    """Columns of the matrix, and which axes of the data they belong to."""
    out = np.eye(3)
    rows = header.get("space directions")
    if rows is not None:
        domain = [
            axis for axis, row in enumerate(rows)
            if row is not None and np.size(row) == 3 and np.isfinite(np.asarray(row, float)).all()
        ]  # fmt: skip
        for column, axis in enumerate(domain[:3]):
            out[:, column] = rows[axis]
        return out, domain
    kinds = header.get("kinds") or ["domain"] * data.ndim
    domain = [axis for axis, kind in enumerate(kinds) if kind in ("domain", "space")]
    spacings = header.get("spacings")
    for column, axis in enumerate(domain[:3]):
        if spacings is not None and np.isfinite(spacings[axis]):
            out[column, column] = spacings[axis]
    return out, domain


def load_nrrd(path: Path) -> Image:
    """By pynrrd; see `igtl.files.load`."""
    nrrd = need("nrrd", "imaging")
    with blamed(path):
        return from_nrrd(*nrrd.read(str(path)))


def save_nrrd(message: Message, path: Path) -> None:
    """By pynrrd; see `igtl.files.save`."""
    image = _image(message, path)
    nrrd = need("nrrd", "imaging")
    with blamed(path):
        nrrd.write(str(path), *to_nrrd(image))


# ---- DICOM --------------------------------------------------------------------------------------


def from_dicom(slices: Sequence[Any], *, device_name: str = "") -> Image:
    """From the data sets of one series (pydicom.Dataset), in any order; values are rescaled.

    Raises:
        EncodeError: they are no evenly spaced stack of equal slices.
    """
    first = slices[0]
    for each in slices:
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if name not in each:
                raise EncodeError("Image", "matrix", f"a slice has no {name}")
        if int(getattr(each, "NumberOfFrames", 1)) != 1:
            raise EncodeError("Image", "array", "several frames in one file are not read here")
    u, v = np.reshape(np.array(first.ImageOrientationPatient, np.float64), (2, 3))
    normal = np.cross(u, v)
    slices = sorted(slices, key=lambda s: float(np.dot(normal, np.array(s.ImagePositionPatient))))
    places = np.array([s.ImagePositionPatient for s in slices], np.float64)
    for each in slices:
        same = np.allclose(each.ImageOrientationPatient, first.ImageOrientationPatient, atol=1e-4)
        if not same or (each.Rows, each.Columns) != (first.Rows, first.Columns):
            raise EncodeError("Image", "array", "the slices differ in size or orientation")
        if not np.allclose(each.PixelSpacing, first.PixelSpacing, atol=1e-5):
            raise EncodeError("Image", "matrix", "the slices differ in pixel spacing")
    if len(slices) > 1:
        steps = np.diff(places, axis=0)
        step = steps.mean(axis=0)
        if np.abs(steps - step).max() > _EVEN * max(1.0, float(np.linalg.norm(step))):
            gaps = np.linalg.norm(steps, axis=1)
            apart = f"{gaps.min():.3f} to {gaps.max():.3f} mm apart"
            raise EncodeError(
                "Image", "matrix", f"the slices are {apart}: some are missing, or double"
            )
    else:
        step = normal * float(getattr(first, "SliceThickness", None) or 1.0)
    matrix = np.eye(4)
    down, across = (float(n) for n in first.PixelSpacing)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = u * across, v * down, step
    matrix[:3, 3] = places[0]
    voxels = np.stack([_rescaled(s) for s in slices])
    return Image(voxels, ijk_to_world=matrix, space="LPS", device_name=device_name)


def _rescaled(data_set: Any) -> Voxels:
    pixels: Voxels = data_set.pixel_array
    slope = float(getattr(data_set, "RescaleSlope", 1))
    offset = float(getattr(data_set, "RescaleIntercept", 0))
    if slope == 1 and offset == 0:
        return pixels
    if slope.is_integer() and offset.is_integer():
        # by what the bits can hold, so that all slices come out alike
        top = (1 << int(data_set.BitsStored)) * abs(slope) + abs(offset)
        kind = np.int16 if top <= 1 << 15 else np.int32 if top <= 1 << 31 else np.float64
        return (pixels.astype(np.int64) * int(slope) + int(offset)).astype(kind)
    return (pixels * slope + offset).astype(np.float32)


def load_dicom(path: Path) -> Image:
    """A folder with one series, or one file of it alone; see `igtl.files.load`."""
    pydicom = need("pydicom", "imaging")
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    found: dict[str, list[Any]] = {}
    for file in files:
        with blamed(file):
            try:
                data_set = pydicom.dcmread(file)
            except pydicom.errors.InvalidDicomError:
                if path.is_dir():
                    continue  # a README, a DICOMDIR's companion
                raise
        if "PixelData" in data_set:
            found.setdefault(str(data_set.get("SeriesInstanceUID", "")), []).append(data_set)
    if not found:
        raise FileError(path, "holds no DICOM image")
    if len(found) > 1:
        sizes = ", ".join(f"{uid} ({len(sets)})" for uid, sets in found.items())
        raise FileError(path, f"holds {len(found)} series, each needs its own folder: {sizes}")
    (slices,) = found.values()
    with blamed(path):
        return from_dicom(slices)


def to_dicom(image: Image) -> list[Any]:
    """As data sets of pydicom, one a slice: a new series of CT images (secondary, derived).

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
    directions, spacing, origin = _squared(image, "LPS")
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
    """A decimal string of DICOM, 16 characters."""
    text = f"{float(number):.10g}"
    return text if len(text) <= 16 else f"{float(number):.8e}"


def save_dicom(message: Message, path: Path) -> None:
    """A folder of one file a slice, or one file of one slice; see `igtl.files.save`."""
    image = _image(message, path)
    if path.suffix:
        with blamed(path):
            slices = to_dicom(image)
            if len(slices) != 1:
                raise FileError(path, f"holds one slice, not {len(slices)}: name a folder")
            slices[0].save_as(path, enforce_file_format=True)
        return
    with blamed(path):
        slices = to_dicom(image)
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise FileError(path, "is not empty: another series there would be mixed with this one")
        for k, each in enumerate(slices):
            each.save_as(path / f"{k + 1:04}.dcm", enforce_file_format=True)
