"""Cameras, windows and virtual cameras. Imported only where one is named: OpenCV and pyvirtualcam are extras.

`camera:0` is an input, `window` and `virtualcam` are outputs.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legato_client.images import Image, Picture
from legato_client.media import MediaError, Shot, Sink, Stopped

MICROSECOND = Fraction(1, 1_000_000)
_USUAL_RATE = Fraction(30)
_QUIT_KEYS = (ord("q"), 27)


class CameraSource:
    """A camera by its OpenCV index, as uint8 [H, W, 3] RGB, at the times at which frames came; it never ends."""

    def __init__(self, index: int) -> None:
        self._cv2 = _opencv()
        self._index = index
        self._camera: Any = self._cv2.VideoCapture(index)
        if not self._camera.isOpened():
            self._camera.release()
            raise MediaError(
                f"there is no camera {index}, or another program has it, or this user may not open it (on Linux: "
                f"/dev/video{index}, group video)"
            )
        told = self._camera.get(self._cv2.CAP_PROP_FPS)
        self.rate = Fraction(told).limit_denominator(1001) if 1 <= told <= 240 else _USUAL_RATE
        self.count: int | None = None
        self.tick = MICROSECOND

    def frames(self) -> Iterator[tuple[Shot, Picture]]:
        begun = time.monotonic()
        index = 0
        try:
            while True:
                there, frame = self._camera.read()
                if not there:
                    raise MediaError(f"camera {self._index} gives no more frames: was it unplugged?")
                pts = round((time.monotonic() - begun) / MICROSECOND)
                yield Shot(index, pts, f"{index:06d}"), self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)
                index += 1
        finally:
            self._camera.release()


class WindowSink(Sink):
    """A window; Escape, q, or closing it ends the stream."""

    TITLE = "legato"

    def __init__(self) -> None:
        self._cv2 = _opencv()
        try:
            self._cv2.namedWindow(self.TITLE, self._cv2.WINDOW_NORMAL | self._cv2.WINDOW_KEEPRATIO)
        except self._cv2.error:
            raise MediaError(
                "this OpenCV draws no windows (opencv-python-headless has none), or there is no display: pip uninstall "
                "opencv-python-headless, then pip install opencv-python; or write to a file or virtualcam"
            ) from None

    def write(self, image: Image, shot: Shot) -> None:
        """Shows the frame. Raises Stopped when the user has had enough."""
        self._cv2.imshow(self.TITLE, self._cv2.cvtColor(image.pixels, self._cv2.COLOR_RGB2BGR))
        pressed = self._cv2.waitKey(1) & 0xFF
        gone = self._cv2.getWindowProperty(self.TITLE, self._cv2.WND_PROP_VISIBLE) < 1
        if pressed in _QUIT_KEYS or gone:
            raise Stopped

    def close(self) -> None:
        self._cv2.destroyAllWindows()


class VirtualCameraSink(Sink):
    """A camera that other programs see (pyvirtualcam: OBS on Windows and macOS, v4l2loopback on Linux)."""

    def __init__(self, rate: Fraction, opened: Callable[..., Any] | None = None) -> None:
        self._rate, self._opened = float(rate), opened or _virtual_camera()
        self._camera: Any = None
        self._size = (0, 0)

    def write(self, image: Image, shot: Shot) -> None:
        pixels: NDArray[np.uint8] = np.ascontiguousarray(image.pixels)
        size = pixels.shape[1], pixels.shape[0]
        if self._camera is None:
            try:
                self._camera = self._opened(width=size[0], height=size[1], fps=self._rate)
            except RuntimeError as error:
                raise MediaError(
                    f"no virtual camera can be opened ({error}): on Linux load one with `modprobe v4l2loopback`, "
                    "elsewhere install OBS and start its virtual camera once"
                ) from None
            self._size = size
        if size != self._size:
            raise MediaError(
                f"a virtual camera keeps its size, {self._size[0]}x{self._size[1]}; got {size[0]}x{size[1]}"
            )
        self._camera.send(pixels)
        self._camera.sleep_until_next_frame()

    def close(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()


def _virtual_camera() -> Callable[..., Any]:
    try:
        opened: Callable[..., Any] = importlib.import_module("pyvirtualcam").Camera
    except ModuleNotFoundError:
        raise MediaError("a virtual camera needs pyvirtualcam: pip install 'legato-client[virtualcam]'") from None
    return opened


def _opencv() -> ModuleType:
    try:
        return importlib.import_module("cv2")
    except ModuleNotFoundError:
        raise MediaError("cameras and windows need OpenCV: pip install 'legato-client[face]'") from None
