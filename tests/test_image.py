"""Images as their users hold them: axes, dtypes, places."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from tests.wire import mended

rng = np.random.default_rng(11)


def oblique() -> Any:
    m = np.eye(4)
    m[:3, :3] = igtl.matrix_of_quaternion([0.1, 0.2, 0.3, 0.9]) @ np.diag([0.5, 0.75, 2.5])
    m[:3, 3] = [10, -20, 30]
    return m


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 4), (5, 4, 1), (9, 8, 7), (1, 2, 65535)])
def test_first_voxel_against_the_centre_on_the_wire(size: tuple[int, int, int]) -> None:
    k, j, i = size[::-1]
    im = igtl.Image.from_volume(np.zeros((k, j, i), np.uint8), ijk_to_world=oblique())
    np.testing.assert_allclose(im.ijk_to_world, oblique(), atol=2e-3)
    centre = oblique() @ [*((np.array(size) - 1) / 2), 1]
    np.testing.assert_allclose(im.matrix[:, 3], centre, rtol=1e-5)
    again = igtl.unpack(im.pack())
    assert isinstance(again, igtl.Image)
    np.testing.assert_allclose(again.ijk_to_world, oblique(), atol=2e-3)
    np.testing.assert_allclose(again.spacing, (0.5, 0.75, 2.5), rtol=1e-5)


def test_sub_volume_has_its_own_place() -> None:
    im = igtl.Image.from_volume(np.zeros((3, 4, 5), np.uint8), ijk_to_world=oblique())
    whole = im.ijk_to_world
    im.size = (50, 40, 30)
    im.offset = (7, 8, 9)
    im.ijk_to_world = whole
    again = igtl.unpack(im.pack())
    assert isinstance(again, igtl.Image)
    assert again.array.shape == (3, 4, 5)  # never the size of the whole
    np.testing.assert_allclose(again.ijk_to_world, whole, atol=1e-3)
    np.testing.assert_allclose(
        again.array_to_world @ [1, 2, 3, 1], whole @ [8, 10, 12, 1], atol=1e-3
    )
    im.offset = (46, 0, 0)
    with pytest.raises(igtl.EncodeError, match=r"Image.sub_size"):
        im.pack()


def test_spaces() -> None:
    ras = igtl.Image(np.zeros((2, 3, 4), np.uint8), ijk_to_world=oblique())
    lps = ras.to("LPS")
    assert (ras.space, lps.space, lps.coordinate) == ("RAS", "LPS", 2)
    np.testing.assert_allclose(lps.ijk_to_world[:2], -ras.ijk_to_world[:2], atol=1e-6)
    np.testing.assert_allclose(lps.ijk_to_world[2:], ras.ijk_to_world[2:], atol=1e-6)
    assert lps.array is ras.array or np.shares_memory(lps.array, ras.array)
    assert lps.to("RAS") == ras
    received = igtl.unpack(ras.pack())
    assert isinstance(received, igtl.Image)
    assert np.shares_memory(received.to("LPS").array, received.array)
    flip = np.diag([-1, -1, 1, 1])
    given_lps = igtl.Image(
        np.zeros((2, 3, 4), np.uint8), ijk_to_world=flip @ oblique(), space="LPS"
    )
    assert given_lps.coordinate == 1  # sent as RAS
    np.testing.assert_allclose(given_lps.ijk_to_world, oblique(), atol=1e-5)


def test_an_image_in_the_other_space_shares_its_pixels_only() -> None:
    im = igtl.Image(np.zeros((2, 3, 4), np.uint8), device_name="a", metadata={"k": "1"})
    before = im.pack()
    for space in ("RAS", "LPS"):
        other = im.to(space)  # type: ignore[arg-type]
        other.metadata["k"] = "2"
        other.matrix[0, 3] = 7
        other.size[0] = other.sub_size[0] = other.offset[0] = 1
    assert im.pack() == before
    video = igtl.Video(b"x", "VP90", (4, 3, 1))
    video.to("LPS").sub_size[0] = 1
    assert video.sub_size[0] == 4


@pytest.mark.parametrize("wrong", [np.eye(3), np.float64(5), [0, 0, 0, 1], np.eye(5)])
def test_a_placement_is_a_matrix(wrong: Any) -> None:
    with pytest.raises(igtl.EncodeError, match=r"must be \(4, 4\) or \(3, 4\)"):
        igtl.Image(np.zeros((2, 2, 2), np.uint8), ijk_to_world=wrong)
    im = igtl.Image(np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(igtl.EncodeError):
        im.ijk_to_world = wrong


def test_unknown_spacing_reads_as_one() -> None:
    im = igtl.Image(np.zeros((2, 3, 4), np.uint8))
    wire = bytearray(im.pack())
    wire[58 + 12 : 58 + 48] = bytes(36)
    zero = igtl.unpack(mended(bytes(wire)))
    assert isinstance(zero, igtl.Image)
    assert zero.spacing == (1, 1, 1)
    assert np.isfinite(zero.ijk_to_world).all()
    assert zero.pack() == mended(bytes(wire))


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 3), (1, 2, 3, 255), (0, 0, 0)])
@pytest.mark.parametrize("endian", [1, 2])
def test_every_kind(dtype: str, shape: tuple[int, ...], endian: int) -> None:
    values = rng.integers(0, 120, shape).astype(dtype)
    im = igtl.Image(values)
    im.endian = endian
    again = igtl.unpack(im.pack())
    assert isinstance(again, igtl.Image)
    assert again.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(again.array, values)
    assert again.pack() == im.pack()
    wire = im.pack()[58 + 72 :]
    assert wire == values.astype(values.dtype.newbyteorder("<" if endian == 2 else ">")).tobytes()


def test_big_endian_edits_count() -> None:
    im = igtl.Image(np.arange(24, dtype=np.uint16).reshape(2, 3, 4))
    im.endian = 1
    got = igtl.unpack(im.pack())
    assert isinstance(got, igtl.Image)
    got.array[0, 0, 1] = 999
    again = igtl.unpack(got.pack())
    assert isinstance(again, igtl.Image)
    assert again.array[0, 0, 1] == 999
    assert again.endian == 1
    for twin in (copy.copy(got), copy.deepcopy(got), pickle.loads(pickle.dumps(got))):
        assert twin == got
        assert twin.array[0, 0, 1] == 999


def test_given_array_is_not_copied() -> None:
    values = np.zeros((20, 100, 100), np.uint8)
    im = igtl.Image(values)
    assert np.shares_memory(im.array, values)
    parts = im.pack_parts()
    assert len(parts) == 2
    assert np.shares_memory(np.frombuffer(parts[1], np.uint8), values)
    values[0, 0, 0] = 9
    assert b"".join(im.pack_parts()) == im.pack()


def test_received_bytes_are_viewed_read_only() -> None:
    wire = igtl.Image(np.zeros((2, 3, 4), np.uint8)).pack()
    got = igtl.unpack(wire)
    assert isinstance(got, igtl.Image)
    assert not got.array.flags.writeable
    assert np.shares_memory(got.array, np.frombuffer(wire, np.uint8))
    got.array = got.array + 1  # a new array replaces it
    again = igtl.unpack(got.pack())
    assert isinstance(again, igtl.Image)
    assert again.array.min() == 1


def test_frames() -> None:
    grey = rng.integers(0, 255, (480, 640), np.uint8)
    im = igtl.Image.from_frame(grey)
    assert (im.size.tolist(), im.components) == ([640, 480, 1], 1)
    np.testing.assert_array_equal(im.array[0], grey)
    colour = rng.integers(0, 255, (48, 64, 3), np.uint8)
    rgb = igtl.Image.from_frame(colour, order="RGB")
    assert (rgb.size.tolist(), rgb.components) == ([64, 48, 1], 3)
    np.testing.assert_array_equal(rgb.array[0], colour)
    bgr = igtl.unpack(igtl.Image.from_frame(colour, order="BGR").pack())
    assert isinstance(bgr, igtl.Image)
    np.testing.assert_array_equal(bgr.array[0], colour[..., ::-1])
    four = rng.integers(0, 255, (4, 5, 4), np.uint8)
    np.testing.assert_array_equal(
        igtl.Image.from_frame(four, order="BGRA").array[0], four[..., [2, 1, 0, 3]]
    )


@pytest.mark.parametrize(
    ("shape", "order", "words"),
    [
        ((48, 64, 3), None, "order='RGB'"),
        ((3, 48, 64), None, "must be"),
        ((3, 48, 64), "RGB", "must be"),
        ((48, 64, 4), "RGB", "must be"),
        ((48, 64), "RGB", "must be"),
        ((1, 48, 64, 3), None, "must be"),
        ((48,), None, "must be"),
    ],
)
def test_frames_that_could_be_meant_otherwise(shape: Any, order: Any, words: str) -> None:
    with pytest.raises(igtl.EncodeError, match=words):
        igtl.Image.from_frame(np.zeros(shape, np.uint8), order=order)


def test_a_frame_is_no_volume() -> None:
    with pytest.raises(igtl.EncodeError, match="from_frame"):
        igtl.Image.from_volume(np.zeros((480, 640), np.uint8))


@pytest.mark.parametrize(
    ("dtype", "words"),
    [("i8", r"\.astype\(np.int16\)"), ("u8", r"np.uint32"), ("f2", "float32"), ("c16", "NDArray")],
)
def test_dtypes_the_wire_lacks(dtype: str, words: str) -> None:
    with pytest.raises(igtl.EncodeError, match=words):
        igtl.Image(np.zeros((1, 2, 3), dtype))


def test_bool_and_other_memory_layouts() -> None:
    mask = rng.random((2, 3, 4)) > 0.5
    assert igtl.Image(mask).array.dtype == np.uint8
    volume = rng.integers(0, 99, (4, 3, 2)).astype("i2")
    for given_array in (volume.T, volume[::2], np.asfortranarray(volume), volume.astype(">i2")):
        got = igtl.unpack(igtl.Image(given_array).pack())
        assert isinstance(got, igtl.Image)
        np.testing.assert_array_equal(got.array, given_array)


def test_header_and_array_must_agree() -> None:
    im = igtl.Image(np.zeros((2, 3, 4), np.uint8))
    im.components = 2
    with pytest.raises(igtl.EncodeError, match=r"Image.array.*does not agree"):
        im.pack()
    im.array = np.zeros((2, 3, 4, 2), np.int16)  # sets all of them
    assert igtl.unpack(im.pack()) == im
    with pytest.raises(igtl.EncodeError, match="65535"):
        igtl.Image(np.zeros((1, 1, 70000), np.uint8))


def test_repr() -> None:
    im = igtl.Image.from_frame(np.zeros((480, 640, 3), np.uint8), order="RGB", device_name="Cam")
    assert "640×480×1 uint8×3" in repr(im)
    d = im.to_dict()
    assert d["array"]["shape"] == [1, 480, 640, 3]
    assert len(d["array"]["sha256"]) == 64


@given(st.integers(0, 2), st.integers(1, 70000))
def test_no_bytes_copied_beyond_the_one(kind: int, n: int) -> None:
    """Counted: the parts that are sent hold the pixels once, by reference when large."""
    values = np.zeros((1, 1, min(n, 65535)), ("u1", "u2", "f8")[kind])
    parts = igtl.Image(values).pack_parts()
    shared = [p for p in parts if np.shares_memory(np.frombuffer(p, np.uint8), values)]
    assert bool(shared) == (values.nbytes >= 64 * 1024)


def test_video() -> None:
    v = igtl.Video(b"frame", "VP90", (640, 480, 1), frame_type=igtl.FrameType.KEY << 8)
    assert v.grey
    assert v.kind == igtl.FrameType.KEY
    got = igtl.unpack(v.pack())
    assert got == v
    assert "VP90" in repr(got)
    v.sub_size = (641, 1, 1)
    with pytest.raises(igtl.EncodeError, match=r"Video.sub_size"):
        v.pack()


def test_a_header_that_does_not_fit_the_pixels_is_refused() -> None:
    """Edited by hand, in an image that was built and in one that came."""
    built = igtl.Image(np.zeros((2, 3, 4), np.uint8))
    for edit in (
        {"scalar_type": 77},
        {"scalar_type": 0},
        {"scalar_type": 11},
        {"components": 3},
        {"components": 0},
        {"sub_size": (1, 1, 1)},
        {"size": (9, 9, 9), "sub_size": (9, 9, 9)},
    ):
        for image in (built, igtl.unpack(built.pack())):
            wrong = copy.deepcopy(image)
            for name, value in edit.items():
                setattr(wrong, name, value)
            with pytest.raises(igtl.EncodeError):
                wrong.pack()
            assert "Image" in repr(wrong)
            assert wrong != image


@pytest.mark.parametrize("shape", [(480, 640, 3), (480, 640, 4)])
def test_a_camera_frame_taken_for_a_volume_is_warned_of(shape: tuple[int, ...]) -> None:
    pixels = np.zeros(shape, np.uint8)
    with pytest.warns(UserWarning, match=r"Image\.from_frame") as caught:
        image = igtl.Image(pixels)
    assert [record.filename for record in caught] == [__file__]
    assert image.size.tolist() == list(shape[::-1])
    assert igtl.Image.from_volume(pixels).size.tolist() == image.size.tolist()  # without a warning
    assert igtl.Image.from_frame(pixels, order="RGBA"[: shape[2]]).components == shape[2]  # type: ignore[arg-type]
    assert igtl.unpack(image.pack()).array.shape == shape  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "shape", [(480, 640), (3, 480, 640), (4, 4, 3), (1, 480, 3), (480, 640, 5)]
)
def test_other_shapes_are_not_warned_of(shape: tuple[int, ...]) -> None:
    igtl.Image(np.zeros(shape if len(shape) == 3 else (1, *shape), np.uint8))


@pytest.mark.parametrize(
    "spacing",
    [(1, 1), (1, 1, 1, 1), 1.0, (1, 0, 1), (1, -1, 1), (1, 1, np.nan), (1, 1, np.inf), ()],
)
def test_spacing_is_three_positive_numbers(spacing: Any) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    for make in (igtl.Image, igtl.Image.from_volume):
        with pytest.raises(ValueError, match="three positive numbers"):
            make(pixels, spacing=spacing)
    with pytest.raises(ValueError, match="three positive numbers"):
        igtl.Image.from_frame(pixels[0], spacing=(np.nan, 1))


def test_a_wrong_field_lists_those_there_are() -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    for make in (igtl.Image, igtl.Image.from_volume):
        with pytest.raises(
            TypeError, match=r"no field 'spaceing'; it has array, spacing, .*device_name"
        ):
            make(pixels, spaceing=(1, 1, 1))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no field 'name'; it has type_name, content, device_name"):
        igtl.Unknown("ODD", b"", name="x")  # type: ignore[call-arg]
