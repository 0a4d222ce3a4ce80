"""Image bytes <-> uint8 [H, W, 3] RGB, with every limit checked before a pixel is decoded.

In: RAW_RGB8 (height * width * 3 bytes), JPEG, PNG. Format, size in bytes, width and height come from the header alone;
what is over a limit is refused there. Both sides have at least 16 pixels. Gray becomes RGB, alpha is dropped, 16 bits
become 8, EXIF orientation is not applied (`legato.images`).
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from legato.errors import InvalidImage
from legato.images import Pixels, decode_jpeg, decode_png, header_size
from legato.options import Encoding, ImageFormat

MIN_SIDE = 16


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
    actual = size(format, data, width, height)
    _check_size(*actual, max_pixels)
    if format is not ImageFormat.RAW_RGB8 and (width or actual[0], height or actual[1]) != actual:
        raise InvalidImage(
            f"image.width and height are those of the {format.value} data, or 0; got {width}x{height} for an image of "
            f"{actual[0]}x{actual[1]}",
            field="image.width",
        )
    if format is ImageFormat.RAW_RGB8:
        return _raw(data, width, height)
    return decode_jpeg(data, at_least) if format is ImageFormat.JPEG else decode_png(data)


def size(format: ImageFormat, data: bytes, width: int, height: int) -> tuple[int, int]:
    """Width and height as sent, before any scaling. Raises InvalidImage."""
    return (width, height) if format is ImageFormat.RAW_RGB8 else header_size(format, data)


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
