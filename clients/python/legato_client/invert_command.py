"""`legato-client invert`: one image, or a clip as a whole."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from tqdm import tqdm

from legato_client.client import Client
from legato_client.clip_types import ClipFrame, ClipInversion, ClipProgress
from legato_client.images import Image, Picture
from legato_client.media import IMAGE_SUFFIXES, MediaError, Shot, open_sink, open_source
from legato_client.types import Inversion, Outputs
from legato_client.variant_option import beside, named

_IMAGE_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


def invert(args: argparse.Namespace) -> None:
    """One image without a method by the tracker; everything else as a clip."""
    is_image = args.input.suffix.lower() in IMAGE_SUFFIXES and not args.input.is_dir()
    if args.steps and (args.method or not is_image):
        raise MediaError("--steps is for one image without a --method; write --method consecutive:steps=N")
    if args.variant and (args.method or not is_image):
        raise MediaError("--variant is for `stream`, and for one image without a --method")
    if not is_image:
        _clip(args)
        return
    image_format = _IMAGE_FORMATS.get(args.output.suffix.lower())
    if image_format is None:
        raise MediaError(f"{args.output}: the output is a .png or .jpg file")
    if not args.input.is_file():
        raise MediaError(f"{args.input} does not exist; an image is a PNG or JPEG file")
    _image(args, Outputs(latents=True, format=cast(Any, image_format), jpeg_quality=95))


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes a compressed npz file under exactly this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # a path would get ".npz" appended
        np.savez_compressed(file, **arrays)


def _image(args: argparse.Namespace, outputs: Outputs) -> None:
    data, options = args.input.read_bytes(), {"model": args.model, "edits": args.edit, "outputs": outputs}
    found: Inversion | ClipFrame
    variants, further = named(args.variant), cast(Mapping[str, Image], {})
    with Client(args.server) as client:
        if args.method is None:
            found = single = client.invert(data, steps=args.steps, variants=variants, **options)
            digest, further = single.model_digest, single.variants
        else:
            with _Bar() as bar:
                whole = client.invert_clip([data], args.method, on_progress=bar.show, **options)
            found, digest = whole.frames[0], whole.model_digest
    shown = cast(Image, found.edited if args.edit else found.reconstruction)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_bytes(shown.data)
    for name, picture in further.items():
        beside(args.output, name).write_bytes(picture.data)
    if args.latents is not None:
        save_arrays(args.latents, latents=found.latents, model_digest=digest)
    if args.json:
        report = {"psnr_db": round(found.psnr_db or 0, 3), "model_digest": digest, "output": str(args.output)}
        print(json.dumps(report, indent=2))
    else:
        print(f"{args.output}: {shown.width}x{shown.height}, reconstruction at {found.psnr_db or 0:.2f} dB")


def _clip(args: argparse.Namespace) -> None:
    """A clip in, a clip out: exactly as many frames, at the same times."""
    source = open_source(args.input, args.fps)
    sink = open_sink(args.output, source.rate, source.tick)
    shots: list[Shot] = []

    def pictures() -> Iterator[Picture]:
        for shot, picture in source.frames():
            shots.append(shot)
            yield picture

    outputs = Outputs(reconstruction=not args.edit, latents=args.latents is not None, format=sink.format)
    with Client(args.server) as client, _Bar() as bar:
        found = client.invert_clip(
            pictures(),
            args.method or "consecutive",
            model=args.model,
            edits=args.edit,
            outputs=outputs,
            on_progress=bar.show,
        )
    filled = _filled(found, len(shots))
    with sink:
        for shot, frame in zip(shots, filled, strict=True):
            sink.write(cast(Image, frame.edited if args.edit else frame.reconstruction), shot)
    replaced = np.array([frame.index != index for index, frame in enumerate(filled)])
    if args.latents is not None:
        save_arrays(
            args.latents,
            latents=np.stack([cast(Any, frame.latents) for frame in filled]),
            time_seconds=np.array([float(shot.pts * source.tick) for shot in shots]),
            replaced=replaced,
            method=found.method,
            model_digest=found.model_digest,
        )
    report = {
        "frames_in": len(shots),
        "frames_out": len(filled),
        "frames_replaced": int(replaced.sum()),
        "psnr_db": round(found.psnr_db or 0.0, 3),
        "method": found.method,
        "steps": found.steps,
        "seconds": round(found.seconds, 3),
        "passes_per_frame": found.passes_per_frame,
        "model_digest": found.model_digest,
        "show": "edited" if args.edit else "reconstruction",
        "output": str(args.output),
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{args.output}: {len(filled)} frames ({report['show']}), {found.method}, reconstruction at "
            f"{found.psnr_db or 0:.2f} dB, {found.seconds:.1f} s"
        )


def _filled(found: ClipInversion, count: int) -> list[ClipFrame]:
    """One frame for each of the clip's; where a method gave one up, the last before it, or the first."""
    known = {frame.index: frame for frame in found.frames}
    last, filled = found.frames[0], []
    for index in range(count):
        last = known.get(index, last)
        filled.append(last)
    return filled


class _Bar:
    """A progress bar of steps, on a terminal; before the first step it tells of the queue."""

    def __init__(self) -> None:
        self._bar = tqdm(
            unit="step",
            disable=None,
            file=sys.stderr,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}",
        )

    def show(self, progress: ClipProgress) -> None:
        """For `on_progress`."""
        bar = self._bar
        if not progress.steps:
            bar.set_description(f"{progress.ahead} clips are worked on first" if progress.ahead else "begins")
            return
        bar.total = progress.steps
        bar.set_description("steps", refresh=False)
        bar.set_postfix_str(f"{progress.seconds_left:.0f} s left", refresh=False)
        bar.update(progress.step - bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
