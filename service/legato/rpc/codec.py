"""Image bytes <-> uint8 [H, W, 3] RGB, with every limit checked before a pixel is decoded.

In: RAW_RGB8 (height * width * 3 bytes), JPEG, PNG. Format, size in bytes, width and height come from the header alone;
what is over a limit is refused there. Both sides have at least 16 pixels. Gray becomes RGB, alpha is dropped, 16 bits
become 8, EXIF orientation is not applied. Damaged files are refused whole: a truncated JPEG has no lower half to guess.

Fitting (letterbox): the image is scaled, its aspect kept, until its longer side is the model's resolution R, and is
centered on a black R x R square; an odd pixel of bar lies below or to the right. A square image fills the square.
"""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from legato.errors import InvalidImage
from legato.options import Encoding, ImageFormat

MIN_SIDE = 16
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"

Pixels = NDArray[np.uint8]


def decode(
    format: ImageFormat, data: bytes, *, width: int, height: int, max_bytes: int, max_pixels: int, at_least: int = 0
) -> Pixels:
    """The image, uint8 [H, W, 3] RGB. Raises InvalidImage.

    `width` and `height` are what the sender says: needed for RAW_RGB8, otherwise checked unless 0. A JPEG may come out
    scaled down by a power of two while its longer side keeps `at_least` pixels (0: never): much is saved on large ones.
    """
    if not data:
        raise InvalidImage(f"image.data holds a {format.value} image; got no bytes", field="image.data")
    if len(data) > max_bytes:
        raise InvalidImage(
            f"an image has at most {max_bytes} bytes; got {len(data)}. Send it smaller or as JPEG",
            reason="IMAGE_TOO_LARGE",
            field="image.data",
        )
    actual = _size(format, data, width, height)
    _check_size(*actual, max_pixels)
    if format is not ImageFormat.RAW_RGB8 and (width or actual[0], height or actual[1]) != actual:
        raise InvalidImage(
            f"image.width and height are those of the {format.value} data, or 0; got {width}x{height} for an image of "
            f"{actual[0]}x{actual[1]}",
            field="image.width",
        )
    if format is ImageFormat.RAW_RGB8:
        return _raw(data, width, height)
    return _jpeg(data, *actual, at_least) if format is ImageFormat.JPEG else _png(data)


def fit(image: Pixels, resolution: int) -> Pixels:
    """The image [H, W, 3] letterboxed to [R, R, 3], C-contiguous."""
    height, width = image.shape[:2]
    if (height, width) == (resolution, resolution):
        return np.ascontiguousarray(image)
    scale = resolution / max(height, width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if inner == (resolution, resolution):
        return np.asarray(scaled, np.uint8)
    square = np.zeros((resolution, resolution, 3), np.uint8)
    top, left = (resolution - inner[1]) // 2, (resolution - inner[0]) // 2
    square[top : top + inner[1], left : left + inner[0]] = scaled
    return square


def encode(image: Pixels, encoding: Encoding) -> bytes:
    """The bytes of an image uint8 [H, W, 3] RGB. JPEG keeps full chroma: faces of 128 pixels have none to spare."""
    if encoding.format is ImageFormat.RAW_RGB8:
        return image.tobytes()
    contiguous = np.ascontiguousarray(image)
    if encoding.format is ImageFormat.JPEG:
        return bytes(simplejpeg.encode_jpeg(contiguous, encoding.quality, colorspace="RGB", colorsubsampling="444"))
    written, data = cv2.imencode(".png", cv2.cvtColor(contiguous, cv2.COLOR_RGB2BGR))
    if not written:
        raise RuntimeError("OpenCV could not write a PNG")
    return data.tobytes()


def _size(format: ImageFormat, data: bytes, width: int, height: int) -> tuple[int, int]:
    """Width and height, from the header alone."""
    if format is ImageFormat.RAW_RGB8:
        return width, height
    if format is ImageFormat.JPEG:
        if not data.startswith(JPEG_START):
            raise _not(format, data)
        try:
            rows, columns, *_ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            raise InvalidImage(
                f"the JPEG's header cannot be read ({error}); is it cut off?", field="image.data"
            ) from None
        return int(columns), int(rows)
    if not data.startswith(PNG_SIGNATURE):
        raise _not(format, data)
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise InvalidImage("the PNG ends within its header; it is cut off", field="image.data")
    return struct.unpack(">II", data[16:24])


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(
            f"an image is at least {MIN_SIDE}x{MIN_SIDE} pixels; got {width}x{height} (width x height)", field="image"
        )
    if width * height > max_pixels:
        raise InvalidImage(
            f"an image has at most {max_pixels} pixels; got {width}x{height} = {width * height}. Scale it down",
            reason="IMAGE_TOO_LARGE",
            field="image",
        )


def _raw(data: bytes, width: int, height: int) -> Pixels:
    wanted = height * width * 3
    if len(data) != wanted:
        raise InvalidImage(
            f"RAW_RGB8 of {width}x{height} is width * height * 3 = {wanted} bytes; got {len(data)}", field="image.data"
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _jpeg(data: bytes, width: int, height: int, at_least: int) -> Pixels:
    longer = max(width, height)
    bounds = {"min_width": at_least * width // longer, "min_height": at_least * height // longer} if at_least else {}
    try:
        image: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, **bounds)
    except ValueError as error:
        raise InvalidImage(f"the JPEG is cut off or damaged: {error}", field="image.data") from None
    return image


def _png(data: bytes) -> Pixels:
    _check_png_chunks(data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InvalidImage("the PNG is damaged: its pixels cannot be decoded", field="image.data")
    return np.asarray(image, np.uint8)


def _check_png_chunks(data: bytes) -> None:
    """Walks the chunks and their checksums up to IEND: the decoder itself fills what is missing without a word."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        body_end = position + 8 + length
        if body_end + 4 > len(data):
            break
        if zlib.crc32(data[position + 4 : body_end]) != int.from_bytes(data[body_end : body_end + 4], "big"):
            raise InvalidImage(f"the PNG is damaged: checksum of its {kind!r} chunk is wrong", field="image.data")
        if kind == b"IEND":
            return
        position = body_end + 4
    raise InvalidImage("the PNG is cut off: it ends before its IEND chunk", field="image.data")


def _not(format: ImageFormat, data: bytes) -> InvalidImage:
    return InvalidImage(
        f"image.data is not a {format.value} image: it begins with {data[:8].hex(' ')}. Wanted: a {format.value} file, "
        "or another image.format",
        field="image.data",
    )
