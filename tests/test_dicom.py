"""DICOM as machines and archives deliver it: palettes, frames, ultrasound, compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.files import dicom

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
uid = pydicom.uid
PLACED = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
          "PixelSpacing": [0.5, 0.25], "SliceThickness": 2}  # fmt: skip


def data_set(pixels: Any, **fields: Any) -> Any:
    """A data set of (rows, columns), or (frames, rows, columns[, 3]) if the fields say frames."""
    s = pydicom.Dataset()
    s.file_meta = pydicom.dataset.FileMetaDataset()
    s.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    s.file_meta.MediaStorageSOPClassUID = s.SOPClassUID = uid.SecondaryCaptureImageStorage
    s.file_meta.MediaStorageSOPInstanceUID = s.SOPInstanceUID = uid.generate_uid()
    s.SeriesInstanceUID = uid.generate_uid()
    pixels = np.asarray(pixels)
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    s.Rows, s.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    s.SamplesPerPixel = 3 if colour else 1
    s.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        s.PlanarConfiguration = 0
    s.BitsAllocated = s.BitsStored = 8 * pixels.itemsize
    s.HighBit = s.BitsStored - 1
    s.PixelRepresentation = int(pixels.dtype.kind == "i")
    raw = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    s.PixelData = raw + b"\0" * (len(raw) % 2)
    s["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    for name, value in fields.items():
        setattr(s, name, value)
    return s


def sequence(**fields: Any) -> Any:
    item = pydicom.Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return [item]


def stored(s: Any, path: Path) -> Path:
    s.save_as(path, enforce_file_format=True)
    return path


def image_of(path: Path, **how: Any) -> igtl.Image:
    loaded = igtl.files.load(path, **how)
    assert isinstance(loaded, igtl.Image)
    return loaded


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def test_palette(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    shades = np.random.default_rng(1).integers(0, 256, (3, 256)).astype("<u2") * 257
    for name, table in zip(("Red", "Green", "Blue"), shades, strict=True):
        fields[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        fields[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    path = stored(data_set(GREY, **PLACED, **fields), tmp_path / "a.dcm")
    image = image_of(path)
    np.testing.assert_array_equal(image.array[0], (shades.T >> 8)[GREY])
    assert image.array.dtype == np.uint8


@pytest.mark.parametrize(
    "pixels", [GREY, GREY.astype(np.uint16) * 200, GREY.astype(np.int16) - 100]
)
def test_monochrome1(tmp_path: Path, pixels: Any) -> None:
    """High values become bright, as SimpleITK gives them."""
    fields = PLACED | {"PhotometricInterpretation": "MONOCHROME1"}
    path = stored(data_set(pixels, **fields), tmp_path / "a.dcm")
    image = image_of(path)
    if pixels.dtype.kind == "u":
        other = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        np.testing.assert_array_equal(image.array, other)
    order = np.argsort(pixels, axis=None)
    assert (np.diff(image.array.ravel()[order].astype(int)) < 0).all()
    assert image.array.dtype == pixels.dtype


def test_frames_that_have_places(tmp_path: Path) -> None:
    """An enhanced file: each frame says where it is, in any order; all frames say how large."""
    pixels = np.arange(4 * 12, dtype=np.int16).reshape(4, 3, 4)
    own = [
        sequence(
            PlanePositionSequence=sequence(ImagePositionPatient=[1, 2, 3 + 2.5 * k]),
            PixelValueTransformationSequence=sequence(RescaleSlope="2", RescaleIntercept="-10"),
        )[0]
        for k in (2, 0, 3, 1)
    ]
    shared = sequence(
        PlaneOrientationSequence=sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelMeasuresSequence=sequence(PixelSpacing=[0.5, 0.25], SliceThickness=2.5),
    )
    s = data_set(pixels, NumberOfFrames=4, SharedFunctionalGroupsSequence=shared,
                 PerFrameFunctionalGroupsSequence=own)  # fmt: skip
    image = image_of(stored(s, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.array, pixels[[1, 3, 0, 2]] * 2 - 10)
    np.testing.assert_allclose(image.spacing, (0.25, 0.5, 2.5))
    np.testing.assert_allclose(image.to("LPS").ijk_to_world[:3, 3], [1, 2, 3])


def test_ultrasound_without_a_position(tmp_path: Path) -> None:
    """Frames in time, whose pixels are as large as the region says."""
    pixels = np.random.default_rng(2).integers(0, 256, (5, 3, 4, 3), np.uint8)
    region = sequence(PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.02,
                      PhysicalDeltaY=0.03)  # fmt: skip
    s = data_set(pixels, NumberOfFrames=5, FrameTime="40", SequenceOfUltrasoundRegions=region)
    path = stored(s, tmp_path / "us.dcm")
    with pytest.warns(igtl.FileWarning, match="no position in the patient"):
        image = image_of(path, frame=2)
    np.testing.assert_array_equal(image.array[0], pixels[2])
    np.testing.assert_allclose(image.spacing, (0.2, 0.3, 1), rtol=1e-6)
    with pytest.raises(igtl.FileError, match="holds 5 images: choose one"):
        igtl.files.load(path)
    with pytest.warns(igtl.FileWarning):
        messages = igtl.files.load_sequence(path)
    assert [m.timestamp for m in messages[1:]] == pytest.approx([0.04, 0.08, 0.12, 0.16])
    with pytest.warns(igtl.FileWarning, match="pixels have no size"):
        assert image_of(stored(data_set(GREY), tmp_path / "b.dcm")).spacing == (1, 1, 1)


def test_nuclear_medicine(tmp_path: Path) -> None:
    """One position for all frames, and how far apart they are."""
    pixels = np.arange(4 * 12, dtype=np.uint16).reshape(4, 3, 4)
    s = data_set(pixels, **PLACED, NumberOfFrames=4, SpacingBetweenSlices="-3")
    image = image_of(stored(s, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.array, pixels[::-1])
    np.testing.assert_allclose(image.to("LPS").ijk_to_world[:3, 3], [1, 2, 3 - 9])


def test_files_without_preamble_and_with_empty_values(tmp_path: Path) -> None:
    s = data_set(GREY, **PLACED, RescaleSlope="", RescaleIntercept="")
    whole = stored(s, tmp_path / "a.dcm").read_bytes()
    bare = tmp_path / "bare.dcm"
    s.remove_private_tags()
    del s.file_meta
    pydicom.filewriter.dcmwrite(bare, s, implicit_vr=True, little_endian=True)
    assert bare.read_bytes()[128:132] != b"DICM" == whole[128:132]
    for path in (tmp_path / "a.dcm", bare):
        image = image_of(path)
        np.testing.assert_array_equal(image.array[0], GREY)
        np.testing.assert_allclose(image.spacing, (0.25, 0.5, 2))


def test_positions_that_were_rounded() -> None:
    """Slices of 0.625 mm, whose positions have one digit behind the point."""

    def slices(*places: float) -> list[Any]:
        return [data_set(GREY, **PLACED | {"ImagePositionPatient": [0, 0, z]}) for z in places]

    rounded = [round(0.625 * k, 1) for k in range(20)]
    with pytest.warns(igtl.FileWarning, match="beside even places"):
        image = dicom.from_dicom(slices(*rounded))
    assert image.spacing[2] == pytest.approx(0.625, rel=1e-3)
    for wrong in ([*rounded[:7], *rounded[8:]], rounded[:-2] + rounded[-1:], [0, 1, 2, 3.3]):
        with pytest.raises(igtl.EncodeError, match="missing, or double"):
            dicom.from_dicom(slices(*wrong))


def test_smallest_type() -> None:
    stack = [
        data_set(np.arange(12, dtype=np.int16).reshape(3, 4) * 300, **PLACED, RescaleSlope="1",
                 RescaleIntercept="-1024")
    ]  # fmt: skip
    assert dicom.from_dicom(stack).array.dtype == np.int16
    stack[0].RescaleSlope = "100"
    with pytest.warns(igtl.FileWarning, match="need int32, which 3D Slicer shows wrong"):
        assert dicom.from_dicom(stack).array.dtype == np.int32
    stack[0].RescaleSlope = "0.5"
    assert dicom.from_dicom(stack).array.dtype == np.float32


ENCODED = ("RLELossless", "JPEG2000Lossless")  # that pydicom can write


@pytest.mark.parametrize("syntax", ["JPEGBaseline8Bit", "RLELossless", "JPEG2000Lossless",
                                    "JPEGLSLossless", "JPEGLosslessSV1"])  # fmt: skip
def test_compressed(tmp_path: Path, monkeypatch: Any, syntax: str) -> None:
    """It is decoded, or the error says as what it is compressed and what to install."""
    kind = getattr(uid, syntax)
    s = data_set(np.full((64, 64), 100, np.uint8), **PLACED)
    if syntax == "JPEGBaseline8Bit":
        simplejpeg = pytest.importorskip("simplejpeg", reason="simplejpeg is not installed")
        coded = [simplejpeg.encode_jpeg(np.full((64, 64, 1), 100, np.uint8), colorspace="GRAY")]
        s.PixelData = pydicom.encaps.encapsulate(coded)
        s["PixelData"].VR = "OB"
        s.file_meta.TransferSyntaxUID = kind
    elif syntax in ENCODED and pydicom.pixels.get_encoder(kind).is_available:
        s.compress(kind)
    else:
        s.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(30)])
        s["PixelData"].VR = "OB"
        s.file_meta.TransferSyntaxUID = kind
    path = stored(s, tmp_path / "a.dcm")
    decoder = pydicom.pixels.get_decoder(kind)
    if decoder.is_available:
        try:
            np.testing.assert_allclose(image_of(path).array, 100, atol=1)
        except igtl.FileError:  # no encoder made it
            assert syntax not in (*ENCODED, "JPEGBaseline8Bit")
    monkeypatch.setattr(type(decoder), "is_available", False)
    with pytest.raises(ModuleNotFoundError, match=rf"compressed as {kind.name[:8]}.*igtl\[dicom\]"):
        igtl.files.load(path)
