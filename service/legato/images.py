"""JPEG and PNG as uint8 [H, W, 3] RGB, decoded strictly, and how an image of any shape is fitted to a model.

Gray becomes RGB, alpha is dropped, 16 bits become 8, EXIF orientation is not applied. Damaged files are refused whole:
a truncated JPEG has no lower half to guess.

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
from legato.options import ImageFormat

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"

Pixels = NDArray[np.uint8]


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


def crop(image: Pixels, resolution: int) -> Pixels:
    """The central square of the image [H, W, 3], as [R, R, 3], C-contiguous."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return fit(image[top : top + side, left : left + side], resolution)


def header_size(format: ImageFormat, data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG or PNG, from the header alone. Raises InvalidImage."""
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


def decode_jpeg(data: bytes, at_least: int = 0) -> Pixels:
    """A JPEG as uint8 [H, W, 3] RGB; scaled down by a power of two while its longer side keeps `at_least` pixels (0:
    never). Raises InvalidImage."""
    width, height = header_size(ImageFormat.JPEG, data)
    longer = max(width, height)
    bounds = {"min_width": at_least * width // longer, "min_height": at_least * height // longer} if at_least else {}
    try:
        image: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, **bounds)
    except ValueError as error:
        raise InvalidImage(f"the JPEG is cut off or damaged: {error}", field="image.data") from None
    return image


def decode_png(data: bytes) -> Pixels:
    """A PNG as uint8 [H, W, 3] RGB. Raises InvalidImage, also for a file of which only a part is there."""
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
