"""`--align face` and its options: what is to be found, by what, where, and how steadily."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from legato_client.alignment import Alignment
from legato_client.errors import InvalidImage
from legato_client.images import Picture, unpacked
from legato_client.media import MediaError

if TYPE_CHECKING:
    from legato_align.aligner import Aligner
    from legato_align.paste import Seam

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report says of the alignment."""

    detector: str
    on: str
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How footage is aligned: here by `aligner`, or by the server with the options `on_server`."""

    aligner: Aligner | None
    on_server: Alignment | None
    ahead: float
    seam: Seam
    facts: Facts


def add_align_options(parser: argparse.ArgumentParser) -> None:
    """The options, in a group of their own."""
    group = parser.add_argument_group(
        "faces in footage", "the face is found, cropped as FFHQ's are, kept steady, and the result put back"
    )
    group.add_argument("--align", choices=("face",), help="find and crop faces; without it frames are crops already")
    group.add_argument(
        "--align-on", choices=("client", "server"), default="client", help="who finds them (default: %(default)s)"
    )
    group.add_argument(
        "--face-detector",
        choices=("auto", "yunet", "haar", "lbp", "mediapipe"),
        default="auto",
        help="yunet and mediapipe need --face-model, haar OpenCV 4, lbp scikit-image (default: the best that is there)",
    )
    group.add_argument("--face-model", type=Path, metavar="FILE", help="YuNet's .onnx or MediaPipe's .task file")
    group.add_argument(
        "--face-box", type=_box, metavar="X,Y,W,H", help="the face in the first frame; it is followed from there"
    )
    group.add_argument("--lock-scale", action="store_true", help="keep the size that the crop has in its first second")
    group.add_argument(
        "--framing",
        type=_framing,
        default=(1.0, 0.0),
        metavar="SCALE,DOWN",
        help="the model's own crop, from FFHQ's: its width and its shift downwards, as in 0.96,0.04 of heads-128",
    )
    group.add_argument(
        "--min-cutoff", type=float, default=1.0, metavar="HZ", help="lower is steadier (default: %(default)s)"
    )
    group.add_argument(
        "--beta", type=float, default=1.0, help="higher lags less when the face moves (default: %(default)s)"
    )
    group.add_argument(
        "--detect-every", type=int, default=1, metavar="N", help="detect in every N-th frame, flow between"
    )
    group.add_argument("--no-color-match", action="store_true", help="put the model's colors back as they are")


def plan_of(args: argparse.Namespace, live: bool) -> Plan:
    """What the options ask for. `live`: no frame is seen ahead. Raises MediaError where it cannot be had."""
    try:
        from legato_align.aligner import Aligner
        from legato_align.detectors import DrawnBox, open_detector
        from legato_align.errors import AlignmentError
        from legato_align.paste import Seam
        from legato_align.smoothing import Steadiness
        from legato_align.tracking import HOLD_SECONDS
        from legato_client.footage import AHEAD_SECONDS
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        raise MediaError("--align face needs OpenCV: pip install 'legato-client[face]'") from None
    try:
        seam = Seam(color=not args.no_color_match)
        if args.align_on == "server":
            if args.face_box or args.face_model or args.face_detector != "auto":
                raise MediaError("with --align-on server the server's own detector is used; leave --face-... out")
            asked = Alignment(args.lock_scale, args.min_cutoff, args.beta, *args.framing)
            return Plan(None, asked, 0.0, seam, Facts("the server", "server"))
        detector = DrawnBox(args.face_box) if args.face_box else open_detector(args.face_detector, args.face_model)
        steadiness = Steadiness(args.min_cutoff, args.beta, lock_scale=args.lock_scale)
        hold = math.inf if args.face_box else HOLD_SECONDS
        aligner = Aligner(detector, steadiness, every=args.detect_every, hold_seconds=hold, framing=args.framing)
    except (AlignmentError, ValueError) as error:
        raise MediaError(str(error)) from None
    return Plan(aligner, None, 0.0 if live else AHEAD_SECONDS, seam, Facts(detector.name, "client", detector.note))


def complaint_of(picture: Picture) -> str:
    """Why a picture does not look like an aligned crop; empty: it may be one, or nothing here can tell."""
    try:
        pixels = unpacked(picture)
    except InvalidImage:
        return ""
    try:
        from legato_align.detectors import open_detector
        from legato_align.errors import AlignmentError
        from legato_align.judge import complaint
    except ModuleNotFoundError:
        return ""
    try:
        faces = open_detector().find(pixels, None)
    except AlignmentError:
        faces = []
    return complaint(pixels, faces)


def _framing(text: str) -> tuple[float, float]:
    try:
        scale, down = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a framing is SCALE,DOWN, as in 0.96,0.04; got {text!r}") from None
    return scale, down


def _box(text: str) -> Box:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a box is X,Y,WIDTH,HEIGHT in pixels, as in 120,80,160,160; got {text!r}"
        ) from None
    return x, y, width, height
