"""Images outside the model: arrays and JPEG or PNG bytes in, arrays out. uint8 RGB throughout."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from legato_client import png
from legato_client.errors import InvalidImage

ImageFormat = Literal["raw", "jpeg", "png"]
Picture: TypeAlias = NDArray[np.uint8] | bytes
"""uint8 [H, W, 3] RGB (gray [H, W] and alpha [H, W, 4] are converted), or the bytes of a JPEG or PNG file."""

_RAW_PIXELS = 256 * 256  # an array up to this size travels raw: 192 KiB a frame, less work than a JPEG
_SENT_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Image:
    """An image as it traveled. `pixels` decodes it, on first use."""

    format: ImageFormat
    data: bytes = field(repr=False)
    width: int
    height: int

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB, read-only. Raises InvalidImage where the bytes are not what they claim."""
        try:
            pixels = self._decode()
        except (ValueError, OverflowError) as error:
            raise InvalidImage(f"the answer holds no readable {self.format.upper()}: {error}") from error
        pixels.setflags(write=False)
        return pixels

    def _decode(self) -> NDArray[np.uint8]:
        if self.format == "raw":
            return np.frombuffer(self.data, np.uint8).reshape(self.height, self.width, 3)
        if self.format == "png":
            return png.read(self.data)
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(self.data, colorspace="RGB")
        return decoded


def rgb(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of gray [H, W] or [H, W, 1], RGB [H, W, 3], or RGBA [H, W, 4] (alpha is dropped).

    Raises InvalidImage for any other shape or type.
    """
    if picture.dtype != np.uint8:
        hint = "; multiply a 0..1 image by 255 first" if np.issubdtype(picture.dtype, np.floating) else ""
        raise InvalidImage(f"an image is uint8 [H, W, 3] RGB; got {picture.dtype} {list(picture.shape)}{hint}")
    shown = picture[..., None] if picture.ndim == 2 else picture
    if shown.ndim != 3 or shown.shape[2] not in (1, 3, 4) or 0 in shown.shape:
        raise InvalidImage(f"an image is uint8 [H, W, 3] RGB with H, W >= 1; got {list(picture.shape)}")
    if shown.shape[2] == 1:
        return np.repeat(shown, 3, axis=2)
    return np.ascontiguousarray(shown[..., :3])


def packed(picture: Picture, encoding: Literal["auto", "raw", "jpeg"], max_pixels: int = 0) -> Image:
    """The image as it shall travel: file bytes untouched (the server judges them), arrays raw or as JPEG.

    Raises InvalidImage for bytes that are neither JPEG nor PNG, for arrays that are no image, and for arrays of more
    than `max_pixels` pixels (0: no limit).
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        data = bytes(picture)
        return Image(_format_of(data), data, 0, 0)
    if not isinstance(picture, np.ndarray):
        raise InvalidImage(f"an image is a uint8 array or JPEG or PNG bytes; got {type(picture).__name__}")
    height, width = (*picture.shape, 0, 0)[:2]
    if max_pixels and height * width > max_pixels:  # before the work of a conversion
        raise InvalidImage(f"an image has at most {max_pixels} pixels here; got {width}x{height}: scale it down first")
    pixels = rgb(picture)
    if encoding == "raw" or (encoding == "auto" and height * width <= _RAW_PIXELS):
        return Image("raw", pixels.tobytes(), width, height)
    return Image("jpeg", jpeg(pixels), width, height)


def unpacked(picture: Picture) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB of any picture. Raises InvalidImage."""
    if isinstance(picture, np.ndarray):
        return rgb(picture)
    return Image(_format_of(picture), picture, 0, 0).pixels


def jpeg(pixels: NDArray[np.uint8], quality: int = _SENT_JPEG_QUALITY) -> bytes:
    """JPEG bytes of uint8 [H, W, 3] RGB, without chroma subsampling."""
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="444")
    return data


def _format_of(data: bytes) -> ImageFormat:
    if data.startswith(b"\xff\xd8"):
        return "jpeg"
    if data.startswith(png.SIGNATURE):
        return "png"
    shown = data[:8].hex(" ") or "nothing"
    raise InvalidImage(f"image bytes are a JPEG or PNG file; got {len(data)} bytes that begin with {shown}")
