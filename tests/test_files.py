"""Images in files and in other libraries: the same voxels at the same place, by their own word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.files import dicom, images, nifti
from igtl.files import nrrd as nrrdfiles

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
nrrd = pytest.importorskip("nrrd", reason="pynrrd is not installed")
pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS <-> LPS
MM = 2e-3  # the wire has float32: at 300 mm two digits behind the point, and a few voxels more


def oblique(spacing: Any = (0.7, 1.3, 2.5), origin: Any = (31.5, -120.25, 77.0)) -> Any:
    """Rotated about all three axes."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    turned = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
    matrix[:3, :3] = turned * spacing
    matrix[:3, 3] = origin
    return matrix


def received(array: Any, matrix: Any = None, space: Any = "RAS", name: str = "CT") -> igtl.Image:
    """An image as it comes from a link."""
    matrix = oblique() if matrix is None else matrix
    image = igtl.Image(array, ijk_to_world=matrix, space=space, device_name=name)
    m = igtl.unpack(image.pack())
    assert isinstance(m, igtl.Image)
    return m


def volume(shape: Any, dtype: Any) -> Any:
    rng = np.random.default_rng(len(shape) + sum(shape))
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, int(info.max) + 1, shape, dtype)


CASES = {
    "odd": (volume((5, 7, 9), np.int16), oblique(), "RAS"),
    "even": (volume((4, 6, 8), np.int16), oblique(), "RAS"),
    "LPS": (volume((4, 7, 6), np.uint16), oblique(), "LPS"),
    "one slice": (volume((1, 5, 6), np.uint8), oblique(), "RAS"),
    "straight": (volume((3, 4, 5), np.uint8), np.diag([0.5, 0.25, 3, 1.0]), "RAS"),
    "mirrored": (volume((3, 4, 5), np.int16), oblique((-0.7, 1.3, 2.5)), "RAS"),
    "colour": (volume((3, 4, 6, 3), np.uint8), oblique(), "RAS"),
    "float": (volume((3, 4, 5), np.float32), oblique(), "RAS"),
    "double": (volume((3, 4, 5), np.float64), oblique(), "LPS"),
    "signed bytes": (volume((3, 4, 5), np.int8), oblique(), "RAS"),
    "long": (volume((3, 4, 5), np.int32), oblique(), "RAS"),
    "vectors": (volume((3, 4, 5, 2), np.float32), oblique(), "RAS"),
}
every = pytest.mark.parametrize("case", CASES)


def ten_voxels(array: Any) -> Any:
    rng = np.random.default_rng(11)
    k, j, i = array.shape[:3]
    return np.stack([rng.integers(0, n, 10) for n in (i, j, k)], 1)


def agree(image: igtl.Image, value: Any, place_ras: Any) -> None:
    """What another library says of ten voxels: their values and where they are."""
    ours = image.to("RAS").ijk_to_world
    for index in ten_voxels(image.array):
        i, j, k = (int(n) for n in index)
        np.testing.assert_array_equal(np.asarray(value(i, j, k)), image.array[k, j, i])
        expected = (ours @ [i, j, k, 1])[:3]
        np.testing.assert_allclose(place_ras(i, j, k), expected, atol=MM)


def itk_agrees(image: igtl.Image, other: Any) -> None:
    def place(*index: int) -> Any:
        x, y, z = other.TransformIndexToPhysicalPoint(index)
        return -x, -y, z

    agree(image, lambda *index: other.GetPixel(*index), place)
    assert other.GetSize() == image.array.shape[2::-1]


def nibabel_agrees(image: igtl.Image, other: Any) -> None:
    data = np.asanyarray(other.dataobj)

    def value(i: int, j: int, k: int) -> Any:
        found = data[i, j, k]
        return list(found.tolist()) if found.dtype.names else np.ravel(found)

    def as_scalar(*index: int) -> Any:
        found = value(*index)
        return found[0] if image.components == 1 else found

    agree(image, as_scalar, lambda *index: (other.affine @ [*index, 1])[:3])


def nrrd_agrees(image: igtl.Image, data: Any, header: Any) -> None:
    assert header["space"] == "left-posterior-superior"
    rows = np.array(header["space directions"], float)
    rows = rows[np.isfinite(rows).all(axis=1)]
    colours = image.components > 1

    def place(*index: int) -> Any:
        x, y, z = np.array(index) @ rows + header["space origin"]
        return -x, -y, z

    agree(image, lambda *index: data[(slice(None), *index) if colours else index], place)


def same(a: igtl.Image, b: igtl.Image) -> None:
    assert a.array.dtype == b.array.dtype
    np.testing.assert_array_equal(a.array, b.array)
    np.testing.assert_allclose(
        a.to("RAS").ijk_to_world, b.to("RAS").ijk_to_world, atol=MM
    )  # fmt: skip


def loaded_image(path: Path) -> igtl.Image:
    loaded = igtl.files.load(path)
    assert isinstance(loaded, igtl.Image)
    return loaded


# ---- objects of other libraries ---------------------------------------------------------------


@every
def test_simpleitk(case: str) -> None:
    image = received(*CASES[case])
    other = images.to_sitk(image)
    itk_agrees(image, other)
    same(images.from_sitk(other, device_name="CT"), image)


@every
def test_nibabel(case: str) -> None:
    image = received(*CASES[case])
    other = nifti.to_nibabel(image)
    nibabel_agrees(image, other)
    same(nifti.from_nibabel(other), image)


@every
def test_pynrrd(case: str) -> None:
    image = received(*CASES[case])
    nrrd_agrees(image, *nrrdfiles.to_nrrd(image))
    same(nrrdfiles.from_nrrd(*nrrdfiles.to_nrrd(image)), image)


def test_part_of_an_image_is_where_it_was() -> None:
    whole = received(volume((6, 8, 10), np.int16))
    part = igtl.unpack(whole.pack())
    assert isinstance(part, igtl.Image)
    part.array = whole.array[2:4, 3:8, 1:7]
    part.size, part.offset = whole.size, (1, 3, 2)
    part.matrix = whole.matrix
    other = images.to_sitk(part)
    there = images.to_sitk(whole)
    np.testing.assert_allclose(
        other.TransformIndexToPhysicalPoint((0, 0, 0)),
        there.TransformIndexToPhysicalPoint((1, 3, 2)), atol=MM,
    )  # fmt: skip
    assert other.GetPixel(2, 1, 1) == there.GetPixel(3, 4, 3)


# ---- files, read by others --------------------------------------------------------------------


@every
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha"])
def test_volume_files(tmp_path: Path, case: str, suffix: str) -> None:
    image = received(*CASES[case])
    path = tmp_path / f"image{suffix}"
    igtl.files.save(image, path)
    itk_agrees(image, sitk.ReadImage(str(path)))
    if suffix.startswith(".nii"):
        nibabel_agrees(image, nib.load(path))
    elif suffix != ".mha":
        nrrd_agrees(image, *nrrd.read(str(path)))
    if case == "long":
        with pytest.warns(igtl.FileWarning, match="need int32, which 3D Slicer shows wrong"):
            loaded = loaded_image(path)
    else:
        loaded = loaded_image(path)
    same(loaded, image)
    assert loaded.device_name == "image"


@pytest.mark.parametrize("case", ["odd", "even", "LPS", "one slice", "straight", "colour"])
def test_dicom_series(tmp_path: Path, case: str) -> None:
    image = received(*CASES[case])
    folder = tmp_path / "series"
    igtl.files.save(image, folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    itk_agrees(image, reader.Execute())
    loaded = igtl.files.load(folder, device_name="CT")
    assert isinstance(loaded, igtl.Image)
    same(loaded, image)
    for file in folder.iterdir():  # a reader that checks
        data_set = pydicom.dcmread(file)
        assert data_set.SOPClassUID == data_set.file_meta.MediaStorageSOPClassUID


def test_dicom_is_a_left_handed_stack_too(tmp_path: Path) -> None:
    """Slices stored against the normal: the same place, read in the other order."""
    image = received(CASES["mirrored"][0], CASES["mirrored"][1])
    igtl.files.save(image, tmp_path / "series")
    loaded = loaded_image(tmp_path / "series")
    np.testing.assert_array_equal(loaded.array[::-1], image.array)
    last = loaded.ijk_to_world @ [0, 0, len(image.array) - 1, 1]
    np.testing.assert_allclose(last, image.ijk_to_world[:, 3], atol=MM)


def test_dicom_of_a_scanner(tmp_path: Path) -> None:
    """Written in any order, rescaled, beside a file that is none."""
    image = received(volume((5, 6, 7), np.uint16) // 16)
    for n, (k, s) in enumerate(sorted(enumerate(dicom.to_dicom(image)), reverse=True)):
        s.RescaleSlope, s.RescaleIntercept, s.BitsStored, s.HighBit = "1", "-1024", 12, 11
        s.save_as(tmp_path / f"IM{n}_{k}", enforce_file_format=True)
    (tmp_path / "README").write_text("not DICOM")
    loaded = loaded_image(tmp_path)
    assert loaded.array.dtype == np.int16
    np.testing.assert_array_equal(loaded.array, image.array.astype(int) - 1024)
    np.testing.assert_allclose(loaded.ijk_to_world, image.ijk_to_world, atol=MM)


def test_pictures(tmp_path: Path) -> None:
    grey, colour = volume((1, 5, 6), np.uint8), volume((1, 5, 6, 3), np.uint8)
    for suffix in (".png", ".bmp", ".tif"):
        for array in (grey, colour):
            if suffix == ".bmp" and array is grey:
                continue  # ITK reads its palette as colours
            path = tmp_path / f"picture{suffix}"
            igtl.files.save(igtl.Image(array), path)
            loaded = loaded_image(path)
            np.testing.assert_array_equal(loaded.array, array)


# ---- files of others --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_files_that_simpleitk_wrote(tmp_path: Path, suffix: str) -> None:
    array = volume((4, 5, 7), np.int16)
    other = sitk.GetImageFromArray(array)
    other.SetSpacing((0.5, 0.75, 2))
    other.SetOrigin((-10, 20, 30))
    turned = oblique((1, 1, 1))[:3, :3]
    other.SetDirection(turned.ravel().tolist())
    sitk.WriteImage(other, str(tmp_path / f"a{suffix}"))
    loaded = loaded_image(tmp_path / f"a{suffix}")
    itk_agrees(loaded, other)


def test_nibabel_images_of_other_kinds() -> None:
    affine = LPS @ oblique()
    data = volume((7, 5, 4), np.int16)
    scaled = nib.Nifti1Image(data, affine)
    scaled.header.set_slope_inter(2, -5)
    scaled = nib.Nifti1Image.from_bytes(scaled.to_bytes())
    image = nifti.from_nibabel(scaled)
    np.testing.assert_allclose(image.array, data.transpose(2, 1, 0) * 2.0 - 5)
    metres = nib.Nifti1Image(data, np.diag([0.001, 0.002, 0.003, 1]))
    metres.header.set_xyzt_units("meter")
    np.testing.assert_allclose(nifti.from_nibabel(metres).spacing, (1, 2, 3), rtol=1e-6)
    sheared = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    image = nifti.from_nibabel(nib.Nifti1Image(data, sheared))
    np.testing.assert_allclose(image.ijk_to_world, sheared, atol=1e-5)
    np.testing.assert_allclose(nifti.to_nibabel(image).affine, sheared, atol=1e-5)
    with pytest.raises(igtl.EncodeError, match="right angles"):
        images.to_sitk(image)
    with pytest.raises(igtl.EncodeError, match="series in time"):
        nifti.from_nibabel(nib.Nifti1Image(np.zeros((3, 3, 3, 4), np.int16), affine))
    with pytest.raises(igtl.EncodeError, match="int64"):
        nifti.from_nibabel(nib.Nifti1Image(np.zeros((3, 3, 3), np.int64), affine, dtype="int64"))


def test_nrrd_of_other_spaces() -> None:
    data = volume((7, 5, 4), np.int16)
    directions = np.diag([0.5, 0.75, 2.0])
    for space, sign in (("right-anterior-superior", (1, 1, 1)), ("LPS", (-1, -1, 1)),
                        ("left-anterior-superior", (-1, 1, 1))):  # fmt: skip
        header = {"space": space, "space directions": directions, "space origin": [1, 2, 3]}
        image = nrrdfiles.from_nrrd(data, header)
        for index in ((0, 0, 0), (6, 4, 3)):
            place = (image.ijk_to_world @ [*index, 1])[:3]
            np.testing.assert_allclose(place, np.multiply(index @ directions + [1, 2, 3], sign),
                                       atol=1e-5)  # fmt: skip
    image = nrrdfiles.from_nrrd(data, {"spacings": [1, 2, 3]})
    np.testing.assert_allclose(image.spacing, (1, 2, 3))
    with pytest.raises(igtl.EncodeError, match="scanner-xyz"):
        nrrdfiles.from_nrrd(data, {"space": "scanner-xyz", "space directions": directions})
    with pytest.raises(igtl.EncodeError, match="axes"):
        nrrdfiles.from_nrrd(np.zeros((2, 3, 4, 5, 6)), {"kinds": ["list", "list", *["domain"] * 3]})


# ---- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix",
    [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".dcm", ".jpg", ".bmp", ".gipl", ".tif"],
)
def test_truncated_and_foreign_files(tmp_path: Path, suffix: str) -> None:
    image = received(volume((1, 40, 50), np.uint8), LPS)
    path = tmp_path / f"whole{suffix}"
    igtl.files.save(image, path)
    whole = path.read_bytes()
    bad = tmp_path / f"bad{suffix}"
    few = suffix == ".tif"  # a process each
    for n in (
        (10, len(whole) // 2)
        if few
        else (0, 1, 10, len(whole) // 4, len(whole) // 2, len(whole) - 1)
    ):
        bad.write_bytes(whole[:n])
        if n == len(whole) - 1 and suffix in (".nii.gz", ".nrrd"):
            same(loaded_image(bad), image)  # a checksum is cut, which their readers do not miss
            continue
        with pytest.raises(igtl.FileError) as caught:
            igtl.files.load(bad)
        assert str(bad) in str(caught.value)
    for content in (b"GIF89a" + bytes(500), b"<html></html>" * 50, bytes(4000))[: 1 if few else 3]:
        bad.write_bytes(content)
        with pytest.raises(igtl.FileError):
            igtl.files.load(bad)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_a_file_can_be_written_again(tmp_path: Path, suffix: str) -> None:
    """Its pixels are in memory, and not in the file that is being written."""
    image = received(volume((9, 40, 50), np.int16))
    path = tmp_path / f"a{suffix}"
    igtl.files.save(image, path)
    igtl.files.save(igtl.files.load(path), path)
    same(loaded_image(path), image)


def test_pictures_have_no_place(tmp_path: Path) -> None:
    """Which is said where there was one."""
    placed = received(volume((1, 5, 6), np.uint8))
    for suffix in (".png", ".jpg", ".bmp", ".tif"):
        with pytest.warns(igtl.FileWarning, match="no place for position, directions and"):
            igtl.files.save(placed, tmp_path / f"a{suffix}")
    with pytest.warns(igtl.FileWarning, match="no place for directions"):
        igtl.files.save(placed, tmp_path / "a.gipl")
    igtl.files.save(igtl.Image.from_frame(placed.array[0]), tmp_path / "b.png")  # never had one
    igtl.files.save(igtl.files.load(tmp_path / "b.png"), tmp_path / "c.png")


def test_what_formats_cannot_hold(tmp_path: Path) -> None:
    image = received(volume((3, 4, 5), np.float32))
    with pytest.raises(igtl.FileError, match="DICOM holds"):
        igtl.files.save(image, tmp_path / "series")
    with pytest.raises(igtl.FileError, match="one slice, not 3"):
        igtl.files.save(image, tmp_path / "a.png")
    with pytest.raises(igtl.FileError, match="is not an image"):
        igtl.files.save(igtl.Status.ok(), tmp_path / "a.nii")
    with pytest.raises(igtl.FileError, match=r"no known suffix; known are .*\.nii\.gz"):
        igtl.files.save(image, tmp_path / "a.xyz")
    with pytest.raises(FileNotFoundError):
        igtl.files.load(tmp_path / "none.nii")
    complex_ = sitk.Image([2, 2, 2], sitk.sitkComplexFloat32)
    with pytest.raises(igtl.EncodeError, match="complex64"):
        images.from_sitk(complex_)
    with pytest.raises(igtl.EncodeError, match="int64"):
        images.from_sitk(sitk.Image([2, 2, 2], sitk.sitkInt64))
    with pytest.raises(igtl.EncodeError, match="4 dimensions"):
        images.from_sitk(sitk.Image([2, 2, 2, 2], sitk.sitkInt16))


def test_series_that_are_none(tmp_path: Path) -> None:
    image = received(volume((5, 6, 7), np.int16))
    slices = dicom.to_dicom(image)
    with pytest.raises(igtl.EncodeError, match="some are missing"):
        dicom.from_dicom([slices[0], slices[1], slices[3]])
    with pytest.raises(igtl.EncodeError, match="some are missing, or double"):
        dicom.from_dicom([*slices, slices[2]])
    slices[1].Rows = 5
    with pytest.raises(igtl.EncodeError, match="differ in size"):
        dicom.from_dicom(slices)
    slices[1].Rows = 6
    del slices[0].PixelSpacing
    with pytest.raises(igtl.EncodeError, match="no PixelSpacing"):
        dicom.from_dicom(slices)
    folder = tmp_path / "two"
    folder.mkdir()
    with pytest.raises(igtl.FileError, match="no DICOM image"):
        igtl.files.load(folder)
    for n in range(2):
        for k, s in enumerate(dicom.to_dicom(image)):
            s.save_as(folder / f"{n}_{k}.dcm", enforce_file_format=True)
    with pytest.raises(igtl.FileError, match="holds 2 series"):
        igtl.files.load(folder)
    with pytest.raises(igtl.FileError, match="not empty"):
        igtl.files.save(image, folder)
    with pytest.raises(igtl.FileError, match="one slice, not 5"):
        igtl.files.save(image, tmp_path / "one.dcm")


@pytest.mark.processes
def test_missing_extras_are_named(tmp_path: Path) -> None:
    code = f"""
import sys
for name in ("SimpleITK", "nibabel", "nrrd", "pydicom"):
    sys.modules[name] = None
import igtl, numpy as np
image = igtl.Image(np.zeros((1, 4, 4), np.uint8))
for suffix in (".nii", ".nrrd", ".mha", ".png", ".dcm"):
    path = r"{tmp_path}/a" + suffix
    try:
        igtl.files.save(image, path)
    except ModuleNotFoundError as error:
        assert 'pip install "igtl[imaging]"' in str(error), error
    else:
        raise AssertionError(suffix)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.processes
@pytest.mark.parametrize(
    "work", ["igtl.files.FORMATS", "igtl.compress(b'x' * 100, level='fast')", "igtl.video"]
)
def test_nothing_is_loaded_before_it_is_needed(work: str) -> None:
    bad = {
        "SimpleITK", "nibabel", "nrrd", "pydicom", "meshio", "trimesh", "vtkmodules", "av",
        "simplejpeg", "scipy", "matplotlib",
    }  # fmt: skip
    code = f"import sys, igtl; {work}; found = {bad} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
