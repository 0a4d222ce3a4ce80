"""`legato-client stream`: a clip or a camera in, a clip, a window or a virtual camera out, frame for frame."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from legato_client.align_option import Plan, add_align_options, complaint_of, plan_of
from legato_client.alignment import FrameAlignment
from legato_client.client import Client
from legato_client.clip import paced, through
from legato_client.errors import InvalidEdit
from legato_client.images import Image, Picture
from legato_client.invert_command import save_arrays
from legato_client.media import Shot, Stopped, is_device, open_source
from legato_client.report import Meter, Report
from legato_client.session import Session
from legato_client.types import Budget, Outputs
from legato_client.variant_option import Sinks, named


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """One frame of the output. `result` is None where the frame stands as it came: no face was there."""

    shot: Shot
    image: Image
    variants: Mapping[str, Image]
    latents: NDArray[np.float32] | None
    alignment: FrameAlignment | None
    passed_on: bool
    replaced: bool


def add_stream_options(clip: argparse.ArgumentParser) -> None:
    """What `stream` takes beside the options that all commands share."""
    clip.add_argument("input", type=Path, metavar="IN", help="a video file, a folder of PNG or JPEG files, or camera:0")
    clip.add_argument(
        "output",
        type=Path,
        metavar="OUT",
        help="a .mp4, .mkv, .mov or .webm file, a folder, window, or virtualcam",
    )
    clip.add_argument("--policy", choices=("ordered", "latest"), default="ordered", help="(default: %(default)s)")
    clip.add_argument("--show", choices=("reconstruction", "edited"), help="default: edited, if there is an --edit")
    clip.add_argument(
        "--window-steps",
        type=int,
        default=0,
        metavar="N",
        help="quality first: joint steps on the stream's keyframes after every frame, on a busy server too "
        "(default: %(default)s, in time that it has left)",
    )
    clip.add_argument("--live", action="store_true", help="send each frame at its time, as a camera would")
    clip.add_argument("--no-sound", action="store_true", help="leave the sound of a video file out")
    add_align_options(clip)


def stream(args: argparse.Namespace) -> None:
    """A clip in, a clip out: exactly as many frames."""
    show = args.show or ("edited" if args.edit else "reconstruction")
    if show == "edited" and not args.edit:
        raise InvalidEdit("--show edited needs an --edit NAME=STRENGTH")
    source = open_source(args.input, args.fps)
    live = args.live or is_device(args.input) or is_device(args.output)
    plan = plan_of(args, live) if args.align else None
    variants, edits = named(args.variant), args.edit if show == "edited" else ()
    sink = Sinks(args.output, tuple(variants), source.rate, source.tick, None if args.no_sound else source)
    outputs = Outputs(
        reconstruction=show == "reconstruction" or plan is not None,
        edited=bool(edits or variants),
        latents=args.latents is not None,
        format="raw" if plan else sink.format,
    )
    meter, track = Meter(), _Track()
    with Client(args.server) as client:
        opening = client.open(
            model=args.model,
            edits=edits,
            variants=variants,
            policy=args.policy,
            budget=Budget(max_steps=args.steps, window_steps=args.window_steps),
            outputs=outputs,
            alignment=plan.on_server if plan else None,
        )
        with opening as session, sink:
            frames = paced(source.frames(), source.tick) if args.live else source.frames()
            done = (
                _plain(session, _watched(frames, session), meter, show)
                if plan is None
                else _pasted(session, frames, source.tick, plan, meter, show, tuple(variants))
            )
            try:
                for written in tqdm(done, total=source.count, unit="frame", disable=None, file=sys.stderr):
                    sink.write(written.image, written.variants, written.shot)
                    track.add(written, source.tick)
            except (Stopped, KeyboardInterrupt):
                if not is_device(args.input):
                    raise
            finally:
                if args.latents is not None and track.times:
                    track.save(args.latents, session)
    _tell(args, plan, session, meter.report(len(track.times), len(track.times)), meter, track, sink, show)


def _plain(session: Session, frames: Iterator[tuple[Shot, Picture]], meter: Meter, show: str) -> Iterator[_Written]:
    """The model's own square pictures."""
    for filled in through(session, frames, meter):
        result = filled.result
        shown = cast(Image, result.edited if show == "edited" else result.reconstruction)
        yield _Written(filled.shot, shown, result.variants, result.latents, None, False, filled.replaced)


def _pasted(
    session: Session,
    frames: Iterator[tuple[Shot, Picture]],
    tick: Fraction,
    plan: Plan,
    meter: Meter,
    show: Any,
    variants: tuple[str, ...],
) -> Iterator[_Written]:
    """Whole frames, with the model's pictures in them."""
    from legato_client.footage import place

    def raw(pixels: NDArray[np.uint8]) -> Image:
        return Image("raw", pixels.tobytes(), pixels.shape[1], pixels.shape[0])

    placed = place(
        session,
        frames,
        tick,
        plan.aligner,
        show=show,
        ahead=plan.ahead,
        seam=plan.seam,
        variants=variants,
        meter=meter,
    )
    for one in placed:
        images = {name: raw(pixels) for name, pixels in one.variants.items()}
        result = one.result
        latents, alignment = (None, None) if result is None else (result.latents, result.alignment)
        yield _Written(one.shot, raw(one.pixels), images, latents, alignment, result is None, one.replaced)


def _watched(frames: Iterator[tuple[Shot, Picture]], session: Session) -> Iterator[tuple[Shot, Picture]]:
    """The frames; of the first that can be read it says where it looks unaligned."""
    watching = True
    for shot, picture in frames:
        if watching:
            watching = False
            if why := complaint_of(picture):
                print(
                    f"legato-client: this input looks unaligned: {why}. If {session.model.name} is a model of faces, "
                    "--align face finds them, crops them and puts the result back",
                    file=sys.stderr,
                )
        yield shot, picture


@dataclass(eq=False)
class _Track:
    """What a clip leaves beside its pictures: times, latents, alignment, which frames stand in for others."""

    times: list[float] = field(default_factory=list)
    replaced: list[bool] = field(default_factory=list)
    passed_on: list[bool] = field(default_factory=list)
    _latents: list[NDArray[np.float32] | None] = field(default_factory=list)
    alignments: list[FrameAlignment | None] = field(default_factory=list)

    def add(self, written: _Written, tick: Fraction) -> None:
        self.times.append(float(written.shot.pts * tick))
        self.replaced.append(written.replaced)
        self.passed_on.append(written.passed_on)
        self._latents.append(written.latents)
        self.alignments.append(written.alignment)

    def save(self, path: Path, session: Session) -> None:
        """latents float32 [T, L, D], time_seconds [T], replaced bool [T], model and its digest; of aligned footage also
        aligned, held bool [T], confidence [T] and crop [T, 4] (x, y, side, angle). Where there was no face: NaN."""
        shape = session.model.layers, session.model.dim
        nothing = np.full(shape, np.nan, np.float32)
        arrays: dict[str, Any] = {}
        if any(found is not None for found in self.alignments):
            crops = [(f.x, f.y, f.side, f.angle) if f else (np.nan,) * 4 for f in self.alignments]
            arrays = {
                "aligned": np.array([bool(found and found.aligned) for found in self.alignments]),
                "held": np.array([bool(found and found.held) for found in self.alignments]),
                "confidence": np.array([found.confidence if found else 0.0 for found in self.alignments]),
                "crop": np.array(crops),
            }
        save_arrays(
            path,
            latents=np.stack([nothing if found is None else found for found in self._latents]),
            time_seconds=np.array(self.times),
            replaced=np.array(self.replaced),
            model=session.model.name,
            model_digest=session.model.digest,
            **arrays,
        )


def _tell(
    args: argparse.Namespace,
    plan: Plan | None,
    session: Session,
    report: Report,
    meter: Meter,
    track: _Track,
    sink: Sinks,
    show: str,
) -> None:
    """The report on stdout, what went wrong on stderr."""
    count, replaced = len(track.times), sum(track.replaced)
    facts: dict[str, Any] = {"model": session.model.name, "model_digest": session.model.digest, "show": show}
    facts["variants"] = {name: str(path) for name, path in sink.paths.items()}
    if plan is not None:
        held = sum(found is not None and found.held for found in track.alignments)
        facts["alignment"] = {
            **asdict(plan.facts),
            "frames_aligned": count - sum(track.passed_on),
            "frames_held": held,
            "frames_without_face": sum(track.passed_on),
        }
    if args.json:
        print(json.dumps({**report, "frames_replaced": replaced, **facts}, indent=2))
    else:
        side, age = session.model.resolution, report["frame_age_ms"]
        quality = "" if report["psnr_db"] is None else f"{report['psnr_db']:.2f} dB, "
        pasted = "" if plan is None else " faces put back,"
        print(
            f"{args.output}: {count} frames of {side}x{side} ({show}),{pasted} {report['fps']:.1f} frames/s, "
            f"{quality}age {age['p50']:.0f} ms median, {age['p95']:.0f} ms p95"
        )
        for name, path in sink.paths.items():
            print(f"{path}: variant {name}")
        if plan is not None:
            found = facts["alignment"]
            print(
                f"faces by {plan.facts.detector}: in {found['frames_aligned']} frames, {found['frames_held']} of them "
                f"carried on without a detection, none in {found['frames_without_face']}"
            )
    for note in (sink.note, plan.facts.note if plan else ""):
        if note:
            print(f"legato-client: {note}", file=sys.stderr)
    if replaced:
        print(
            f"{replaced} frames were not answered ({meter.dropped} dropped, {meter.failed} failed) and show "
            f"the last good one{f'; the first said: {meter.complaint}' if meter.complaint else ''}",
            file=sys.stderr,
        )
