"""Images in and out: what is accepted, what is refused before a pixel is decoded, and how a frame is fitted."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from legato import images
from legato.errors import InvalidImage
from legato.options import Encoding, ImageFormat
from legato.rpc import codec
from tests.tolerances import JPEG_LEVELS

RAW, JPEG, PNG = ImageFormat.RAW_RGB8, ImageFormat.JPEG, ImageFormat.PNG


def picture(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """A smooth picture whose three channels differ."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 9)], axis=2).astype(np.uint8)


def png(image: NDArray[Any]) -> bytes:
    """A PNG of an array as OpenCV takes it (BGR order)."""
    return cv2.imencode(".png", image)[1].tobytes()


def decode(format: ImageFormat, data: bytes, width: int = 0, height: int = 0, **changed: int) -> NDArray[np.uint8]:
    limits = {"max_bytes": 1 << 20, "max_pixels": 1 << 20, **changed}
    return codec.decode(format, data, width=width, height=height, **limits)


@pytest.mark.parametrize("format", list(ImageFormat))
def test_what_is_encoded_is_decoded(format: ImageFormat) -> None:
    image = picture()
    back = decode(format, codec.encode(image, Encoding(format, 95)), 60, 40)
    assert back.shape == image.shape
    worst = np.abs(back.astype(int) - image).max()
    assert worst <= (JPEG_LEVELS if format is JPEG else 0)


def test_jpeg_quality_is_heard() -> None:
    sizes = [len(codec.encode(picture(200, 200), Encoding(JPEG, quality))) for quality in (10, 50, 95)]
    assert sizes == sorted(set(sizes))


def test_a_view_is_encoded_as_what_it_shows() -> None:
    flipped = picture()[:, ::-1]
    for format in (RAW, PNG):
        assert (decode(format, codec.encode(flipped, Encoding(format)), 60, 40) == flipped).all()


def test_gray_becomes_rgb() -> None:
    gray = picture()[:, :, 0]
    jpeg = simplejpeg.encode_jpeg(
        np.ascontiguousarray(gray[:, :, None]), 95, colorspace="GRAY", colorsubsampling="Gray"
    )
    for format, data in ((JPEG, jpeg), (PNG, png(gray))):
        image = decode(format, data)
        assert image.shape == (40, 60, 3)
        assert (image[:, :, 0] == image[:, :, 1]).all()
        assert (image[:, :, 0] == image[:, :, 2]).all()


def test_alpha_is_dropped_and_sixteen_bits_become_eight() -> None:
    image = picture()
    alpha = np.dstack([image, np.full((40, 60), 7, np.uint8)])
    assert (decode(PNG, png(alpha)) == image[:, :, ::-1]).all()
    assert (decode(PNG, png(image.astype(np.uint16) * 257)) == image[:, :, ::-1]).all()


def test_cmyk_jpeg_is_read() -> None:
    ink = np.dstack([picture(), np.full((40, 60), 255, np.uint8)])
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(ink), 90, colorspace="CMYK")
    assert decode(JPEG, data).shape == (40, 60, 3)


def test_bytes_behind_the_image_do_no_harm() -> None:
    for format in (JPEG, PNG):
        assert decode(format, codec.encode(picture(), Encoding(format)) + b"tail").shape == (40, 60, 3)


def test_a_large_jpeg_is_decoded_no_larger_than_asked() -> None:
    data = codec.encode(picture(480, 640), Encoding(JPEG))
    assert decode(JPEG, data, at_least=128).shape == (120, 160, 3)
    assert decode(JPEG, data, at_least=300).shape == (240, 320, 3)
    assert decode(JPEG, data, at_least=641).shape == (480, 640, 3)
    assert decode(JPEG, data).shape == (480, 640, 3)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header says so and which holds next to nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return images.PNG_SIGNATURE + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose frame header was rewritten."""
    data = bytearray(codec.encode(picture(), Encoding(JPEG)))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("claim", [png_claiming, jpeg_claiming])
@pytest.mark.parametrize(("width", "height"), [(8000, 8000), (65000, 17), (1025, 1024)])
def test_a_size_over_the_limit_is_refused_by_its_header_alone(claim: Any, width: int, height: int) -> None:
    with pytest.raises(InvalidImage, match=f"at most 1048576 pixels; got {width}x{height}") as caught:
        decode(PNG if claim is png_claiming else JPEG, claim(width, height))
    assert caught.value.reason == "IMAGE_TOO_LARGE"


JPEG_BYTES, PNG_BYTES = (codec.encode(picture(), Encoding(format)) for format in (JPEG, PNG))
REFUSED = {
    "no bytes": (JPEG, b"", 0, 0, "got no bytes"),
    "not an image": (JPEG, b"hello world, this is text", 0, 0, r"not a JPEG image: it begins with 68 65 6c 6c"),
    "a PNG called JPEG": (JPEG, PNG_BYTES, 0, 0, "not a JPEG image: it begins with 89 50 4e 47"),
    "a JPEG called PNG": (PNG, JPEG_BYTES, 0, 0, "not a PNG image: it begins with ff d8"),
    "half a JPEG": (JPEG, JPEG_BYTES[: len(JPEG_BYTES) // 2], 0, 0, "cut off or damaged"),
    "a JPEG without its end": (JPEG, JPEG_BYTES[:-2], 0, 0, "cut off or damaged"),
    "a JPEG's first bytes": (JPEG, JPEG_BYTES[:20], 0, 0, "header cannot be read .* is it cut off"),
    "half a PNG": (PNG, PNG_BYTES[: len(PNG_BYTES) // 2], 0, 0, "cut off"),
    "a PNG's first bytes": (PNG, PNG_BYTES[:20], 0, 0, "ends within its header"),
    "a PNG without its end": (PNG, PNG_BYTES[:-12], 0, 0, "before its IEND chunk"),
    "a PNG with a wrong bit": (PNG, PNG_BYTES[:60] + bytes([PNG_BYTES[60] ^ 1]) + PNG_BYTES[61:], 0, 0, "checksum"),
    "0x0": (RAW, b"x", 0, 0, "at least 16x16 pixels; got 0x0"),
    "1x1": (RAW, b"xyz", 1, 1, "at least 16x16 pixels; got 1x1"),
    "1x1 PNG": (PNG, png(np.zeros((1, 1, 3), np.uint8)), 0, 0, "at least 16x16 pixels; got 1x1"),
    "one side too short": (RAW, bytes(15 * 100 * 3), 100, 15, "at least 16x16 pixels; got 100x15"),
    "8000x8000": (RAW, b"xyz", 8000, 8000, "at most 1048576 pixels; got 8000x8000"),
    "raw too short": (RAW, bytes(100), 20, 20, r"width \* height \* 3 = 1200 bytes; got 100"),
    "raw too long": (RAW, bytes(1201), 20, 20, r"= 1200 bytes; got 1201"),
    "other size than said": (JPEG, JPEG_BYTES, 61, 40, "got 61x40 for an image of 60x40"),
    "too many bytes": (RAW, bytes((1 << 20) + 1), 1, 1, "at most 1048576 bytes; got 1048577"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_with_what_was_wanted(name: str) -> None:
    format, data, width, height, message = REFUSED[name]
    with pytest.raises(InvalidImage, match=message):
        decode(format, data, width, height)


@given(st.sampled_from([JPEG, PNG]), st.data())
def test_damaged_files_decode_or_are_refused_and_nothing_else(format: ImageFormat, data: st.DataObject) -> None:
    whole = bytearray(JPEG_BYTES if format is JPEG else PNG_BYTES)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        image = decode(format, cut)
    except InvalidImage:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


def test_a_square_fills_the_square() -> None:
    image = picture(64, 64)
    assert (images.fit(image, 64) == image).all()
    for side in (20, 100, 101):
        fitted = images.fit(np.full((side, side, 3), 255, np.uint8), 64)
        assert fitted.shape == (64, 64, 3)
        assert (fitted == 255).all(), "no bars"


@pytest.mark.parametrize(
    ("height", "width", "top", "bottom", "left", "right"),
    [(32, 64, 16, 48, 0, 64), (64, 32, 0, 64, 16, 48), (90, 200, 17, 46, 0, 64), (16, 4000, 31, 32, 0, 64)],
)
def test_other_aspects_are_letterboxed(height: int, width: int, top: int, bottom: int, left: int, right: int) -> None:
    white = np.full((height, width, 3), 255, np.uint8)
    square = images.fit(white, 64)
    inside = np.zeros((64, 64), bool)
    inside[top:bottom, left:right] = True
    assert (square[inside] == 255).all()
    assert (square[~inside] == 0).all()


def test_fitting_keeps_the_picture_where_it_was() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = 255
    square = images.fit(image, 50)
    assert (square[13:37, :24] == 0).all()
    assert (square[13:37, 26:] == 255).all()
