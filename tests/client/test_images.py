"""Images in and out of the client: what is accepted, how it travels, what comes back."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from legato_client import InvalidImage, png
from legato_client.images import Image, jpeg, packed, rgb, unpacked


def picture(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """A smooth image with noise on top: every PNG row filter finds something to do."""
    y, x, c = np.mgrid[:height, :width, :channels]
    noise = np.random.default_rng(0).integers(0, 6, (height, width, channels))
    return np.asarray((x * 3 + y * 2 + c * 40 + noise) % 256, np.uint8)


@pytest.mark.parametrize("kind", range(5), ids=["none", "sub", "up", "average", "paeth"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_files_of_another_writer_are_read(channels: int, kind: int) -> None:
    pixels = picture(9, 7, channels)
    bgr = pixels[..., [2, 1, 0, 3][:channels]] if channels > 1 else pixels
    done, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_FILTER, 8 << kind])
    assert done
    body = data.tobytes().partition(b"IDAT")[2]
    rows = np.frombuffer(zlib.decompressobj().decompress(body), np.uint8).reshape(9, -1)
    assert kind in rows[:, 0]
    wanted = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[..., :3]
    assert np.array_equal(png.read(data.tobytes()), wanted)


@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_written_png_files_are_read_by_another_reader(height: int, width: int) -> None:
    pixels = picture(height, width)
    read = cv2.imdecode(np.frombuffer(png.write(pixels), np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    assert np.array_equal(read[..., ::-1], pixels)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, depth: int = 8, color: int = 2, interlace: int = 0) -> bytes:
    return png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GIF89a", "no PNG signature"),
        (png.SIGNATURE, "no PNG header"),
        (png.write(picture(4, 4))[:40], "PNG"),
        (png.write(picture(4, 4)).replace(b"IDAT", b"IDAU"), "damaged PNG chunk"),
        (header(4, 4, depth=16), "got depth 16"),
        (header(4, 4, interlace=1), "without interlace"),
        (header(4, 4) + chunk(b"IDAT", b"no zlib"), "damaged PNG data"),
        (header(4, 4) + chunk(b"IDAT", zlib.compress(bytes(5))), "ends early"),
        (header(1, 1) + chunk(b"IDAT", zlib.compress(bytes([9, 0, 0, 0]))), "filter 9 does not exist"),
    ],
)
def test_damaged_png_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        png.read(data)


def test_an_answer_is_decoded_on_first_use_and_cannot_be_written_to() -> None:
    pixels = picture(8, 6)
    for image in (Image("raw", pixels.tobytes(), 6, 8), Image("png", png.write(pixels), 6, 8)):
        assert np.array_equal(image.pixels, pixels)
        assert not image.pixels.flags.writeable
        assert image.pixels is image.pixels
    assert "data" not in repr(image)


@pytest.mark.parametrize("kind", ["raw", "jpeg", "png"])
def test_a_damaged_answer_is_an_error_that_says_so(kind: str) -> None:
    with pytest.raises(InvalidImage, match=f"no readable {kind.upper()}"):
        _ = Image(kind, b"\xff\xd8 nothing", 6, 8).pixels  # type: ignore[arg-type]


def test_gray_is_repeated_and_alpha_dropped() -> None:
    assert np.array_equal(rgb(picture(4, 5, 1)), np.repeat(picture(4, 5, 1), 3, axis=2))
    assert np.array_equal(rgb(picture(4, 5, 1)[..., 0]), np.repeat(picture(4, 5, 1), 3, axis=2))
    assert np.array_equal(rgb(picture(4, 5, 4)), picture(4, 5, 4)[..., :3])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "got float32.*multiply a 0..1 image by 255"),
        (np.zeros((4, 4, 3), np.int64), r"got int64 \[4, 4, 3\]$"),
        (np.zeros((0, 4, 3), np.uint8), r"H, W >= 1; got \[0, 4, 3\]"),
        (np.zeros((3, 4, 4, 3), np.uint8), r"got \[3, 4, 4, 3\]"),
        (np.zeros((3, 8, 8), np.uint8), r"got \[3, 8, 8\]"),
        (np.zeros(4, np.uint8), r"got \[4\]"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        rgb(array)


def test_files_travel_untouched_and_arrays_raw_while_they_are_small() -> None:
    file = png.write(picture(4, 4))
    assert packed(file, "auto") == Image("png", file, 0, 0)
    assert packed(memoryview(file), "raw").data == file  # type: ignore[arg-type]
    assert packed(picture(256, 256), "auto").format == "raw"
    assert packed(picture(256, 257), "auto").format == "jpeg"
    assert packed(picture(256, 257), "raw").format == "raw"
    assert packed(picture(4, 4), "jpeg").format == "jpeg"


def test_raw_bytes_keep_the_pixels_of_a_view() -> None:
    pixels = picture(6, 8)
    assert np.array_equal(packed(pixels[::2, ::-1], "raw").pixels, pixels[::2, ::-1])


def test_any_picture_is_unpacked_to_pixels() -> None:
    gray = picture(8, 8, 1)
    assert np.array_equal(unpacked(gray), rgb(gray))
    assert np.array_equal(unpacked(png.write(rgb(gray))), rgb(gray))
    assert unpacked(jpeg(picture(8, 6))).shape == (8, 6, 3)


@pytest.mark.parametrize("thing", [b"", b"GIF89a....", "frame.png", None, [[0]]])
def test_what_is_no_image_is_refused(thing: object) -> None:
    with pytest.raises(InvalidImage, match="JPEG"):
        packed(thing, "auto")  # type: ignore[arg-type]
