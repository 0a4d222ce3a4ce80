"""Comparison pictures: rows of images with their names at the left, and a word above each column."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
_MARGIN, _LINE, _TOP = 8, 16, 22  # pixels
_SMALLEST, _LARGEST = 128, 256  # sides of an image on the sheet
_LETTERS = 24  # of a line of a row's name
_FEW, _ACROSS = 5, 10  # single images that are shown large, that stand side by side

Images = NDArray[np.uint8]  # [N, R, R, 3] RGB


def labeled(rows: Sequence[tuple[str, Images]], columns: Sequence[str]) -> NDArray[np.uint8]:
    """One picture [H, W, 3]: a row of images for each name, each with as many as there are `columns`.

    Where there is one column alone, few images stand side by side instead, under the names of their rows. Small images
    are enlarged by whole factors, large ones reduced. Raises ValueError where the numbers differ.
    """
    for name, images in rows:
        if len(images) != len(columns):
            raise ValueError(f"row {name!r} has {len(images)} images under {len(columns)} columns")
    smallest = _SMALLEST
    if len(columns) == 1 and 1 < len(rows) <= _ACROSS:
        rows, columns = [(columns[0], np.concatenate([row for _, row in rows]))], [name for name, _ in rows]
        smallest = _SMALLEST if len(columns) > _FEW else _LARGEST
    shown = [_shown(images, smallest) for _, images in rows]
    side = max(images.shape[1] for images in shown)
    lines = [textwrap.wrap(_plain(re.sub(r",\s*", ", ", name)), _LETTERS) or [""] for name, _ in rows]
    left = 2 * _MARGIN + max(_width(line) for wrapped in lines for line in wrapped)
    sheet = np.full((_TOP + side * len(rows), left + side * len(columns), 3), 255, np.uint8)
    for column, text in enumerate(columns):
        _write(sheet, _cut(_plain(text), side - 8), left + column * side + 4, _TOP - 7)
    for row, (wrapped, images) in enumerate(zip(lines, shown, strict=True)):
        top = _TOP + row * side
        first = top + (side - _LINE * (len(wrapped) - 1)) // 2 + 4
        for number, line in enumerate(wrapped):
            _write(sheet, line, _MARGIN, first + number * _LINE)
        for column, image in enumerate(images):
            x = left + column * side
            sheet[top : top + image.shape[0], x : x + image.shape[1]] = image
    return sheet


def spread(count: int, most: int = 10) -> list[int]:
    """At most so many of `count` numbers from 0 on, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def _shown(images: Images, smallest: int) -> Images:
    """The images at the size that they have on a sheet."""
    side = images.shape[1]
    if side > _LARGEST:
        small = [cv2.resize(image, (_LARGEST, _LARGEST), interpolation=cv2.INTER_AREA) for image in images]
        return np.stack(small).astype(np.uint8)
    factor = max(1, smallest // side)
    return images.repeat(factor, 1).repeat(factor, 2)


def _plain(text: str) -> str:
    """The font has ASCII alone."""
    return text.encode("ascii", "replace").decode()


def _cut(text: str, width: int) -> str:
    """Text that fits, its end kept: names of frames differ there."""
    if _width(text) <= width:
        return text
    while text and _width(f"..{text}") > width:
        text = text[1:]
    return f"..{text}"


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _SIZE, 1)[0][0])


def _write(sheet: NDArray[np.uint8], text: str, x: int, y: int) -> None:
    cv2.putText(sheet, text, (x, y), _FONT, _SIZE, (0, 0, 0), 1, cv2.LINE_AA)
