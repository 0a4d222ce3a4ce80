"""Messages of legato.v1 <-> the server's own values. Every check that needs no session and no engine is made here."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from legato.errors import InvalidInput, LegatoError
from legato.images import Pixels, fit
from legato.options import Budget, Change, DropReason, Encoding, ImageFormat, Policy, Settings, Variant
from legato.rpc import aligning, codec
from legato.rpc.edits import EditRules
from legato.session import Session
from legato.types import MAX_EDIT_STRENGTH, DirectionInfo, Flow, Frame, FrameAnswer, ModelInfo, Outputs
from legato.work import Stats, Work
from legato_pb import inversion_pb2 as pb

FORMATS = {
    pb.IMAGE_FORMAT_RAW_RGB8: ImageFormat.RAW_RGB8,
    pb.IMAGE_FORMAT_JPEG: ImageFormat.JPEG,
    pb.IMAGE_FORMAT_PNG: ImageFormat.PNG,
}
WIRE_FORMATS = {own: wire for wire, own in FORMATS.items()}
WIRE_DROPS = {
    DropReason.STALE: pb.DROP_REASON_STALE,
    DropReason.QUEUE_FULL: pb.DROP_REASON_QUEUE_FULL,
    DropReason.DEADLINE: pb.DROP_REASON_DEADLINE,
    DropReason.SHUTDOWN: pb.DROP_REASON_SHUTDOWN,
    DropReason.DISCONNECTED: pb.DROP_REASON_UNSPECIFIED,
}
DEFAULT_QUALITY = 90
DEFAULT_TRUNCATION = 0.7
SMALL_PIXELS = 1 << 15  # a JPEG of 128 x 128 takes 0.05 to 0.2 ms


@dataclasses.dataclass(frozen=True, slots=True)
class Reader:
    """Reads requests under this server's limits and for one model. Every method raises InvalidInput."""

    model: ModelInfo
    rules: EditRules
    max_message_bytes: int
    max_pixels: int
    max_steps: int
    max_window_steps: int

    def policy(self, value: int) -> Policy:
        """The delivery policy of an open."""
        if value in (pb.DELIVERY_POLICY_UNSPECIFIED, pb.DELIVERY_POLICY_ORDERED):
            return Policy.ORDERED
        if value == pb.DELIVERY_POLICY_LATEST:
            return Policy.LATEST
        why = "LOSSLESS needs snapshots, which this server does not keep" if value == 3 else f"unknown policy {value}"
        raise InvalidInput(f"{why}; choose ORDERED or LATEST", reason="POLICY_NOT_AVAILABLE", field="options.policy")

    def settings(self, options: pb.SessionOptions) -> Settings:
        """What an open asks for."""
        outputs, encoding = self.output(options.output)
        edits, variants = self.rules.edits(options.edits), self.rules.variants(options.variants)
        return Settings(edits, variants, self.budget(options.budget), outputs, encoding)

    def change(self, update: pb.Update) -> Change:
        """What an update changes: the parts that it holds."""
        outputs, encoding = self.output(update.output) if update.HasField("output") else (None, None)
        return Change(
            from_seq=update.from_seq,
            edits=self.rules.edits(update.edits.edits) if update.HasField("edits") else None,
            variants=self.rules.variants(update.variants.variants) if update.HasField("variants") else None,
            budget=self.budget(update.budget) if update.HasField("budget") else None,
            outputs=outputs,
            encoding=encoding,
        )

    def budget(self, budget: pb.Budget) -> Budget:
        """Steps within the server's limit, a deadline in the future."""
        self.steps(budget.max_steps, "budget.max_steps")
        if not (math.isfinite(budget.deadline_seconds) and budget.deadline_seconds >= 0):
            raise InvalidInput(
                f"budget.deadline_seconds is a finite number from 0 up; got {budget.deadline_seconds}",
                field="budget.deadline_seconds",
            )
        if budget.window_steps > self.max_window_steps:
            most = f"at most {self.max_window_steps} on this server"
            if not self.max_window_steps:
                most = "0 on this server, which has no windows"
            raise InvalidInput(f"budget.window_steps is {most}; got {budget.window_steps}", field="budget.window_steps")
        return Budget(budget.max_steps, budget.deadline_seconds, budget.window_steps)

    def steps(self, steps: int, field: str) -> int:
        """Gradient steps within the server's limit."""
        if steps > self.max_steps:
            raise InvalidInput(f"{field} is at most {self.max_steps} on this server; got {steps}", field=field)
        return steps

    def output(self, options: pb.OutputOptions) -> tuple[Outputs, Encoding]:
        """What answers hold and how their images are encoded."""
        if options.jpeg_quality > 100:
            raise InvalidInput(
                f"output.jpeg_quality is 1..100, or 0 for {DEFAULT_QUALITY}; got {options.jpeg_quality}",
                field="output.jpeg_quality",
            )
        image_format = ImageFormat.JPEG
        if options.format != pb.IMAGE_FORMAT_UNSPECIFIED:
            image_format = self._format(options.format, "output.format")
        outputs = Outputs(not options.skip_reconstruction, not options.skip_edited, options.latents)
        return outputs, Encoding(image_format, options.jpeg_quality or DEFAULT_QUALITY)

    def frame(self, image: pb.Image) -> Frame:
        """The image, decoded and fitted to the model's square: [R, R, 3]. CPU work; not for the event loop."""
        return Frame(fit(self.pixels(image, 2 * self.model.resolution), self.model.resolution))

    def pixels(self, image: pb.Image, at_least: int = 0) -> Pixels:
        """The image, decoded: [H, W, 3]; a JPEG may be scaled down to `at_least` pixels (0: never)."""
        return codec.decode(
            self._format(image.format, "image.format"),
            image.data,
            width=image.width,
            height=image.height,
            max_bytes=self.max_message_bytes,
            max_pixels=self.max_pixels,
            at_least=at_least,
        )

    def size(self, image: pb.Image) -> tuple[int, int]:
        """Width and height of an image as it was sent."""
        return codec.size(self._format(image.format, "image.format"), image.data, image.width, image.height)

    def is_small(self, image: pb.Image) -> bool:
        """Whether `frame` takes no longer than to wake another thread; what it refuses is not."""
        if len(image.data) > 3 * SMALL_PIXELS or self.model.resolution**2 > SMALL_PIXELS:
            return False
        try:
            width, height = self.size(image)
        except LegatoError:
            return False
        return width * height <= SMALL_PIXELS and image.format != pb.IMAGE_FORMAT_PNG

    def flow(self, flow: pb.Flow) -> Flow:
        """A client's own flow, float32 [2, R, R]."""
        side, data = self.model.resolution, flow.data
        if (flow.width, flow.height) != (side, side) or len(data) != 8 * side * side:
            raise InvalidInput(
                f"flow is float32 [2, {side}, {side}], {8 * side * side} bytes, for model {self.model.name!r}; got "
                f"{flow.width}x{flow.height} with {len(data)} bytes",
                reason="INVALID_FLOW",
                field="flow",
            )
        return Flow(np.frombuffer(data, "<f4").reshape(2, side, side))

    def latents(self, latents: pb.Latents) -> NDArray[np.float32]:
        """Latents float32 [L, D] of this server's model."""
        shape, data = (self.model.layers, self.model.dim), latents.data
        if (latents.layers, latents.dim) != shape or len(data) != 4 * shape[0] * shape[1]:
            raise InvalidInput(
                f"latents of model {self.model.name!r} are float32 {list(shape)}; got "
                f"[{latents.layers}, {latents.dim}] with {len(data)} bytes",
                reason="INVALID_LATENTS",
                field="latents",
            )
        values = np.frombuffer(data, "<f4").reshape(shape)
        if not np.isfinite(values).all():
            raise InvalidInput("latents are finite; got NaN or infinity", reason="INVALID_LATENTS", field="latents")
        return values

    def truncation(self, value: float) -> float:
        """Psi of a seed's image; 0 asks for the default."""
        if not (math.isfinite(value) and 0 <= value <= 2):
            raise InvalidInput(
                f"truncation is between 0 (default {DEFAULT_TRUNCATION}) and 2; got {value}", field="truncation"
            )
        return value or DEFAULT_TRUNCATION

    def _format(self, value: int, field: str) -> ImageFormat:
        try:
            return FORMATS[pb.ImageFormat.ValueType(value)]
        except KeyError:
            names = ", ".join(own.value for own in FORMATS.values())
            got = "nothing" if value == pb.IMAGE_FORMAT_UNSPECIFIED else value
            raise InvalidInput(f"{field} is one of {names}; got {got}", reason="UNKNOWN_FORMAT", field=field) from None


def image(pixels: NDArray[np.uint8] | None, encoding: Encoding) -> pb.Image | None:
    """An image message of uint8 [H, W, 3]; None stays None. CPU work; not for the event loop."""
    if pixels is None:
        return None
    height, width = pixels.shape[:2]
    data = codec.encode(pixels, encoding)
    return pb.Image(format=WIRE_FORMATS[encoding.format], data=data, width=width, height=height)


def variant_images(
    variants: Sequence[Variant], images: Sequence[NDArray[np.uint8]], encoding: Encoding
) -> list[pb.VariantImage]:
    """The images of variants, by name; none where none was synthesized. CPU work; not for the event loop."""
    return [
        pb.VariantImage(name=variant.name, image=image(pixels, encoding))
        for variant, pixels in zip(variants, images, strict=False)
    ]


def latents(values: NDArray[np.float32] | None) -> pb.Latents | None:
    """A latents message of float32 [L, D]; None stays None."""
    if values is None:
        return None
    return pb.Latents(layers=values.shape[0], dim=values.shape[1], data=values.astype("<f4", copy=False).tobytes())


def quality(psnr_db: float) -> pb.Quality | None:
    """None for a frame that was not reconstructed, and so not measured."""
    return pb.Quality(psnr_db=psnr_db) if math.isfinite(psnr_db) else None


def result(work: Work, answer: FrameAnswer, ref: pb.ModelRef) -> pb.FrameResult:
    """The answer's message, with its images encoded, of the model that computed it. CPU work, not on the event loop."""
    start = time.perf_counter()
    encoding = work.settings.encoding
    result = pb.FrameResult(
        seq=work.seq,
        reconstruction=image(answer.reconstruction, encoding),
        edited=image(answer.edited, encoding),
        variants=variant_images(work.settings.variants, answer.variants, encoding),
        latents=latents(answer.latents),
        quality=quality(answer.psnr_db),
        steps=answer.steps,
        state_version=answer.state_version,
        capture_time=work.capture_time,
        model_ref=ref,
        alignment=aligning.message(work.alignment),
    )
    stages = {"decode": work.decode_seconds, **answer.stage_seconds, "encode_image": time.perf_counter() - start}
    stages["queue"] = 0.0
    result.server_seconds = time.monotonic() - work.arrival
    stages["queue"] = max(0.0, result.server_seconds - sum(stages.values()))  # all the time that nobody worked on it
    result.timings.extend(pb.StageTime(stage=stage, seconds=seconds) for stage, seconds in stages.items())
    return result


def limits(reader: Reader, resume_seconds: float) -> pb.Limits:
    """What a client must keep to."""
    return pb.Limits(
        max_message_bytes=reader.max_message_bytes,
        max_pixels=reader.max_pixels,
        max_steps=reader.max_steps,
        max_window_steps=reader.max_window_steps,
        max_edit_strength=MAX_EDIT_STRENGTH,
        max_edits=reader.rules.max_edits,
        max_variants=reader.rules.max_variants,
        resume_seconds=resume_seconds,
    )


def model(info: ModelInfo) -> pb.ModelInfo:
    """What a client may know of a model."""
    return pb.ModelInfo(**dataclasses.asdict(info))


def model_ref(info: ModelInfo) -> pb.ModelRef:
    """What every result says of its model."""
    return pb.ModelRef(name=info.name, version=info.version, digest=info.digest, encoder_digest=info.encoder_digest)


def directions(infos: Iterable[DirectionInfo]) -> list[pb.Direction]:
    """Named directions with their measured response, leakage and space."""
    return [pb.Direction(**dataclasses.asdict(info)) for info in infos]


def stats(stats: Stats) -> pb.SessionStats:
    """Counters of a session."""
    return pb.SessionStats(
        frames_received=stats.received,
        frames_completed=stats.completed,
        frames_dropped=stats.dropped,
        frames_failed=stats.failed,
        mean_psnr_db=stats.mean_psnr_db,
    )


def session(session: Session, *, streaming: bool, ref: pb.ModelRef) -> pb.GetSessionResponse:
    """State and counters of a session."""
    return pb.GetSessionResponse(
        session_id=session.id,
        streaming=streaming,
        model=session.model,
        last_seq=session.last_seq,
        state_version=session.state_version,
        stats=stats(session.stats),
        model_ref=ref,
    )
