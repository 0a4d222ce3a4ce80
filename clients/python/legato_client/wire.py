"""Client values to and from the messages of legato.v1: built and read here, those of clips in `clip_wire`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legato_client import alignment, images
from legato_client.errors import InvalidInput, MessageTooLarge, ServerError
from legato_client.images import Image, ImageFormat, Picture
from legato_client.model_types import ModelInfo, ModelRef
from legato_client.types import (
    Budget,
    Changes,
    Direction,
    Dropped,
    DropReason,
    Edit,
    Edits,
    Failed,
    Frame,
    FrameEncoding,
    FrameResult,
    Inversion,
    Limits,
    Notice,
    Opened,
    Outputs,
    Policy,
    SessionState,
    SessionStats,
    Synthesis,
    Variants,
    edit_list,
    variant_list,
)
from legato_pb import inversion_pb2 as pb

_ENVELOPE_BYTES = 4096  # what a frame's message may hold beside its image
_FORMATS: dict[ImageFormat, pb.ImageFormat.ValueType] = {
    "raw": pb.IMAGE_FORMAT_RAW_RGB8,
    "jpeg": pb.IMAGE_FORMAT_JPEG,
    "png": pb.IMAGE_FORMAT_PNG,
}
_FORMAT_NAMES: dict[int, ImageFormat] = {value: name for name, value in _FORMATS.items()}
_POLICIES: dict[Policy, pb.DeliveryPolicy.ValueType] = {
    "ordered": pb.DELIVERY_POLICY_ORDERED,
    "latest": pb.DELIVERY_POLICY_LATEST,
    "lossless": pb.DELIVERY_POLICY_LOSSLESS,
}
_DROP_REASONS: dict[int, DropReason] = {
    pb.DROP_REASON_STALE: "stale",
    pb.DROP_REASON_QUEUE_FULL: "queue_full",
    pb.DROP_REASON_DEADLINE: "deadline",
    pb.DROP_REASON_SHUTDOWN: "shutdown",
}


def policy(name: Policy) -> pb.DeliveryPolicy.ValueType:
    """Raises InvalidInput for a name that is no delivery policy."""
    if name not in _POLICIES:
        raise InvalidInput(f"a delivery policy is one of {', '.join(_POLICIES)}; got {name!r}", fields=("policy",))
    return _POLICIES[name]


def edits(values: Iterable[Edit]) -> list[pb.Edit]:
    return [pb.Edit(direction=edit.direction, strength=edit.strength) for edit in values]


def edit_messages(values: Edits | None) -> pb.EditList | None:
    return None if values is None else pb.EditList(edits=edits(edit_list(values)))


def variants(values: Variants) -> list[pb.Variant]:
    return [pb.Variant(name=name, edits=edits(wanted)) for name, wanted in variant_list(values)]


def variant_messages(values: Variants | None) -> pb.VariantList | None:
    return None if values is None else pb.VariantList(variants=variants(values))


def budget(value: Budget | None) -> pb.Budget | None:
    return None if value is None else pb.Budget(**dataclasses.asdict(value))


def outputs(value: Outputs | None) -> pb.OutputOptions | None:
    if value is None:
        return None
    return pb.OutputOptions(
        skip_reconstruction=not value.reconstruction,
        skip_edited=not value.edited,
        latents=value.latents,
        format=_FORMATS[value.format],
        jpeg_quality=value.jpeg_quality,
    )


def update(changes: Changes, next_seq: int) -> pb.Update:
    """A change of what frames ask for; it holds from `next_seq` on where it names no frame."""
    return pb.Update(
        edits=edit_messages(changes.get("edits")),
        variants=variant_messages(changes.get("variants")),
        budget=budget(changes.get("budget")),
        output=outputs(changes.get("outputs")),
        from_seq=changes.get("from_seq") or next_seq,
    )


def image(value: Image) -> pb.Image:
    return pb.Image(format=_FORMATS[value.format], data=value.data, width=value.width, height=value.height)


def flow(vectors: NDArray[np.float32] | None) -> pb.Flow | None:
    if vectors is None:
        return None
    return pb.Flow(width=vectors.shape[2], height=vectors.shape[1], data=vectors.astype("<f4").tobytes())


def frame(value: Frame | Picture, encoding: FrameEncoding, limits: Limits | None) -> pb.FrameInput:
    """The frame's message, without its seq. Raises InvalidImage, or MessageTooLarge over the server's limit."""
    whole = value if isinstance(value, Frame) else Frame(value)
    packed = images.packed(whole.image, encoding, limits.max_pixels if limits else 0)
    if limits and limits.max_message_bytes and len(packed.data) + _ENVELOPE_BYTES > limits.max_message_bytes:
        raise MessageTooLarge(
            f"a message has at most {limits.max_message_bytes} bytes here; this {packed.format} image alone has "
            f"{len(packed.data)}: scale it down, or send it as JPEG"
        )
    return pb.FrameInput(
        capture_time=whole.capture_time,
        image=image(packed),
        flow=flow(whole.flow),
        edits=edit_messages(whole.edits),
        variants=variant_messages(whole.variants),
    )


def latents(value: NDArray[np.float32]) -> pb.Latents:
    """Raises InvalidInput for anything but a finite float [L, D] array."""
    array = np.asarray(value)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise InvalidInput(
            f"latents are finite float32 [L, D]; got {array.dtype} {list(array.shape)}", fields=("latents",)
        )
    return pb.Latents(layers=array.shape[0], dim=array.shape[1], data=array.astype("<f4").tobytes())


def read_image(message: pb.Image) -> Image:
    if message.format not in _FORMAT_NAMES:
        raise ServerError(f"the server sent an image of unknown format {message.format}: is it newer than this client?")
    return Image(_FORMAT_NAMES[message.format], message.data, message.width, message.height)


def read_variants(messages: Iterable[pb.VariantImage]) -> dict[str, Image]:
    return {message.name: read_image(message.image) for message in messages}


def read_latents(message: pb.Latents) -> NDArray[np.float32]:
    """float32 [L, D], read-only."""
    return np.frombuffer(message.data, "<f4").reshape(message.layers, message.dim)


def read_ref(message: pb.ModelRef) -> ModelRef:
    return ModelRef(message.name, message.version, message.digest, message.encoder_digest)


def read_limits(message: pb.Limits) -> Limits:
    return Limits(
        max_message_bytes=message.max_message_bytes,
        max_pixels=message.max_pixels,
        max_steps=message.max_steps,
        max_edit_strength=message.max_edit_strength,
        max_edits=message.max_edits,
        resume_seconds=message.resume_seconds,
        max_variants=message.max_variants,
        max_window_steps=message.max_window_steps,
    )


def read_model(message: pb.ModelInfo) -> ModelInfo:
    return ModelInfo(
        name=message.name,
        digest=message.digest,
        resolution=message.resolution,
        layers=message.layers,
        dim=message.dim,
        description=message.description,
        version=message.version,
        encoder_digest=message.encoder_digest,
    )


def read_direction(message: pb.Direction) -> Direction:
    space = message.space or "w+"  # a server that does not tell knows no other
    return Direction(message.name, message.description, message.response, message.leakage, space)


def read_opened(message: pb.Opened) -> Opened:
    return Opened(
        session_id=message.session_id,
        resume_token=message.resume_token,
        limits=read_limits(message.limits),
        model=read_model(message.model),
        credits=message.credits,
    )


def read_result(message: pb.FrameResult, age_seconds: float) -> FrameResult:
    return FrameResult(
        seq=message.seq,
        **read_answer(message),
        steps=message.steps,
        state_version=message.state_version,
        capture_time=message.capture_time,
        server_seconds=message.server_seconds,
        stage_seconds={time.stage: time.seconds for time in message.timings},
        age_seconds=age_seconds,
        variants=read_variants(message.variants),
        model=read_ref(message.model_ref),
        alignment=alignment.read(message.alignment) if message.HasField("alignment") else None,
    )


def read_dropped(message: pb.Dropped) -> Dropped:
    return Dropped(message.seq, _DROP_REASONS.get(message.reason, "unspecified"))


def read_failed(message: pb.FrameFailed) -> Failed:
    return Failed(message.seq, message.reason, message.message)


def read_warning(message: pb.Warning) -> Notice:
    return Notice(message.reason, message.message)


def read_go_away(message: pb.GoAway) -> Notice:
    return Notice(message.reason, "the server is about to end this stream", message.deadline_seconds)


def read_stats(message: pb.SessionStats) -> SessionStats:
    return SessionStats(
        frames_received=message.frames_received,
        frames_completed=message.frames_completed,
        frames_dropped=message.frames_dropped,
        frames_failed=message.frames_failed,
        mean_psnr_db=message.mean_psnr_db,
    )


def read_session(message: pb.GetSessionResponse) -> SessionState:
    return SessionState(
        session_id=message.session_id,
        streaming=message.streaming,
        model=message.model,
        last_seq=message.last_seq,
        state_version=message.state_version,
        stats=read_stats(message.stats),
        model_ref=read_ref(message.model_ref),
    )


def read_inversion(message: pb.InvertResponse) -> Inversion:
    return Inversion(
        **read_answer(message),
        model_digest=message.model_digest,
        variants=read_variants(message.variants),
        model=read_ref(message.model_ref),
    )


def read_synthesis(message: pb.SynthesizeResponse) -> Synthesis:
    found = read_latents(message.latents) if message.HasField("latents") else None
    return Synthesis(read_image(message.image), found, message.model_digest, read_ref(message.model_ref))


def read_answer(message: pb.FrameResult | pb.InvertResponse | pb.ClipFrame) -> dict[str, Any]:
    """What all kinds of answers hold, by its name in theirs."""
    return {
        "reconstruction": read_image(message.reconstruction) if message.HasField("reconstruction") else None,
        "edited": read_image(message.edited) if message.HasField("edited") else None,
        "latents": read_latents(message.latents) if message.HasField("latents") else None,
        "psnr_db": message.quality.psnr_db if message.HasField("quality") else None,
    }
