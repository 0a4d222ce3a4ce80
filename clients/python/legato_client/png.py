"""PNG files without an imaging library: what answers need, 8-bit gray, RGB and RGBA without interlace.

After the PNG specification (third edition), sections 5 (chunks) and 9 (filters).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # color type: channels


def write(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of uint8 [H, W, 3] RGB."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 6)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def read(data: bytes) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB of PNG bytes; gray is repeated, alpha is dropped.

    Raises ValueError for anything but an intact 8-bit gray, RGB or RGBA file without interlace.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("no PNG signature")
    header, body = b"", b""
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            body += content
    if len(header) != 13:
        raise ValueError("no PNG header")
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if depth != 8 or color not in _CHANNELS or interlace:
        raise ValueError(f"only 8-bit gray, RGB and RGBA without interlace are read; got depth {depth}, color {color}")
    channels = _CHANNELS[color]
    size = height * (1 + width * channels)
    try:
        raw = zlib.decompressobj().decompress(body, size)
    except zlib.error as error:
        raise ValueError(f"damaged PNG data: {error}") from error
    if len(raw) != size:
        raise ValueError("the PNG data ends early")
    pixels = _unfilter(np.frombuffer(raw, np.uint8).reshape(height, -1), channels).reshape(height, width, channels)
    return pixels[..., :3].copy() if channels > 2 else np.repeat(pixels[..., :1], 3, axis=2)


def _unfilter(rows: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    height, stride = rows.shape[0], rows.shape[1] - 1
    out = np.zeros((height, stride), np.uint8)
    above = np.zeros(stride, np.uint8)
    for y in range(height):
        kind, line = int(rows[y, 0]), rows[y, 1:]
        if kind == 0:
            out[y] = line
        elif kind == 1:  # Sub: a running sum along the row, per channel
            out[y] = np.add.accumulate(line.reshape(-1, channels), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == 2:  # Up
            out[y] = line + above
        elif kind in (3, 4):
            out[y] = _unfilter_serial(kind, line.tolist(), above.tolist(), channels)
        else:
            raise ValueError(f"PNG row filter {kind} does not exist")
        above = out[y]
    return out


def _unfilter_serial(kind: int, line: list[int], above: list[int], channels: int) -> list[int]:
    """Average and Paeth: each byte depends on the one before it, so no array operation does it."""
    for i in range(len(line)):
        a = line[i - channels] if i >= channels else 0
        b = above[i]
        if kind == 3:
            predicted = (a + b) // 2
        else:
            c = above[i - channels] if i >= channels else 0
            pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            predicted = a if pa <= pb and pa <= pc else b if pb <= pc else c
        line[i] = (line[i] + predicted) & 255
    return line


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        crc = data[at + 8 + length : at + 12 + length]
        if len(crc) < 4 or zlib.crc32(kind + content) != int.from_bytes(crc, "big"):
            raise ValueError(f"damaged PNG chunk {kind!r}")
        yield kind, content
        at += 12 + length
