"""Clips of one head that moves as people do: slow drifts of pose, blinks, bursts of talk, saccades and fixations.

Everything follows from (split, identity seed, clip seed); a longer clip begins with the shorter one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.synthetic.dataset import to_uint8
from legato.synthetic.factors import MOTION, Split, attributes_of, factors_of, sample_z, with_motion
from legato.synthetic.flow import exact_flow
from legato.synthetic.renderer import Renderer

FPS = 25.0
RUN = 4  # frames of one moving head that lie in a row in a data set of runs
RUN_STEPS = (1, 2, 5, 20)  # frames at FPS between two of them
_BATCH = 8
_LIMIT = 2.1  # of pose and expression, in standard deviations: further out the training images are few
_EYES_OPEN, _EYES_CLOSED = 0.2, 1.7  # the lids begin to move at 0.25 and are shut at 1.65
_LIPS_CLOSED, _LIPS_OPEN = -0.7, 1.5
_GAZE_RANGE = (0.44, 0.25)  # radians to either side that a saccade may use
_SACCADE = 0.05  # seconds
_RUN_HEADS = 1 << 20  # the first head of the runs: no data set of single heads goes that far
_RUN_START = 8.0  # seconds into its motion that a run begins at, at most

Times = NDArray[np.float64]  # [T] seconds


@dataclass(frozen=True)
class Clip:
    """Rendered frames and what they show."""

    images: NDArray[np.uint8]  # [T, R, R, 3] RGB
    attributes: Tensor  # [T, A], in the order of factors.ATTRIBUTES
    z: Tensor  # [T, 64]


def clip_z(identity: int, clip: int, frames: int, split: Split = "eval", *, fps: float = FPS) -> Tensor:
    """The factors z [T, 64] of a clip: the identity of `sample_z([identity], split)`, a moving motion slice.

    Raises ValueError for less than one frame or a frame rate that is not positive.
    """
    if frames < 1 or not fps > 0:
        raise ValueError(f"a clip has at least 1 frame and a positive frame rate; got {frames} at {fps} frames/s")
    motion = _motion(f"{split} {identity} {clip}", np.arange(frames) / fps)
    return with_motion(sample_z([identity], split).expand(frames, -1), motion)


def run_z(seeds: Sequence[int], split: Split = "train") -> Tensor:
    """The factors z [B, 64] of images whose seeds RUN n .. RUN n + RUN - 1 show run n, at some time of its motion.

    The time between two frames is the same in a run and differs between runs (RUN_STEPS): what learns from them has
    seen neighboring frames, and heads that have moved on.
    """
    runs = {n: _run(n, split) for n in {seed // RUN for seed in seeds}}
    return torch.stack([runs[seed // RUN][seed % RUN] for seed in seeds])


def _run(number: int, split: Split) -> Tensor:
    digest = hashlib.sha256(f"legato run {split} {number}".encode()).digest()
    random = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    start, step = random.uniform(0, _RUN_START), random.choice(RUN_STEPS) / FPS
    motion = _motion(f"{split} run {number}", start + step * np.arange(RUN))
    return with_motion(sample_z([_RUN_HEADS + number], split).expand(RUN, -1), motion)


def render_clip(
    renderer: Renderer,
    identity: int,
    clip: int,
    frames: int,
    split: Split = "eval",
    *,
    fps: float = FPS,
    progress: Callable[[int], object] = lambda n: None,
) -> Clip:
    """Renders `clip_z`; `progress` is told of frames as they are done. Raises as that does."""
    z = clip_z(identity, clip, frames, split, fps=fps)
    images = np.empty((frames, renderer.resolution, renderer.resolution, 3), np.uint8)
    for start in range(0, frames, _BATCH):
        batch = to_uint8(renderer(z[start : start + _BATCH]).image)
        images[start : start + len(batch)] = batch.permute(0, 2, 3, 1).cpu().numpy()
        progress(len(batch))
    return Clip(images, attributes_of(z), z)


def clip_flow(
    z: Tensor, resolution: int, *, progress: Callable[[int], object] = lambda n: None
) -> tuple[Tensor, Tensor]:
    """Exact pull flow [T - 1, 2, R, R] of each frame but the first from the one before it, and where it is visible.

    previous(p + flow(p)) ~ current(p), as the service takes it with a frame; visible is bool [T - 1, 1, R, R].
    """
    flows = [z.new_empty(0, 2, resolution, resolution)]
    masks = [z.new_empty(0, 1, resolution, resolution).bool()]
    for start in range(1, len(z), _BATCH):
        current = z[start : start + _BATCH]
        flow, visible = exact_flow(current, z[start - 1 : start - 1 + len(current)], resolution)
        flows.append(flow)
        masks.append(visible)
        progress(len(current))
    return torch.cat(flows), torch.cat(masks)


def _motion(seed: str, t: Times) -> Tensor:
    """The motion slice [T, 9] in Gaussian units, at times t."""

    def random(part: str) -> np.random.Generator:  # a stream for each part, so that none depends on another's length
        digest = hashlib.sha256(f"legato clip {seed} {part}".encode()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))

    talking, spoken = _speech(random("speech"), t)
    yaw = _drift(random("yaw"), t, 3.5, 9.0)
    motion = dict.fromkeys(MOTION, np.zeros_like(t))
    motion["yaw"] = 0.95 * yaw
    motion["pitch"] = 0.7 * _drift(random("pitch"), t, 2.5, 7.0) + 0.25 * talking * _drift(random("nod"), t, 0.5, 0.9)
    motion["roll"] = 0.35 * yaw + 0.6 * _drift(random("roll"), t, 3.0, 8.0)
    mood = random("smile").normal(0.2, 0.5)
    motion["smile"] = mood + 0.6 * _drift(random("smiles"), t, 4.0, 10.0) - 0.25 * spoken
    motion["brow_raise"] = 0.5 * _drift(random("brows"), t, 2.5, 7.0) + 0.4 * talking * _drift(
        random("stress"), t, 0.7, 1.5
    )
    motion["mouth_open"] = _LIPS_CLOSED + (_LIPS_OPEN - _LIPS_CLOSED) * spoken
    motion["blink"] = _EYES_OPEN + (_EYES_CLOSED - _EYES_OPEN) * _blinks(random("blinks"), t)
    drawn = torch.from_numpy(np.stack([motion[name] for name in MOTION], 1)).float().clamp(-_LIMIT, _LIMIT)
    return _look_ahead(drawn, *_fixations(random("gaze"), t))


def _look_ahead(motion: Tensor, across: Times, up: Times) -> Tensor:
    """Sets the gaze [T, 9] so that the eyes keep to their target in the room (radians) while the head turns."""
    head = factors_of(with_motion(torch.zeros(len(motion), 64), motion))
    wanted = (torch.from_numpy(across).float() - head["yaw"][:, 0], torch.from_numpy(up).float() + head["pitch"][:, 0])
    motion = motion.clone()
    for name, angle, limit, full in zip(("gaze_x", "gaze_y"), wanted, _GAZE_RANGE, (0.5, 0.28), strict=True):
        motion[:, MOTION.index(name)] = math.sqrt(2) * torch.erfinv(angle.clamp(-limit, limit) / full)
    return motion


def _drift(random: np.random.Generator, t: Times, shortest: float, longest: float) -> Times:
    """A smooth wave of unit variance: four sinusoids with periods (seconds) between the two given."""
    periods = np.exp(random.uniform(math.log(shortest), math.log(longest), 4))
    phases = random.uniform(0, 2 * math.pi, 4)
    waves: Times = np.sin(2 * math.pi * t[:, None] / periods + phases).sum(1)
    return waves / math.sqrt(2)


def _ramp(x: Times) -> Times:
    x = x.clip(0, 1)
    return x * x * (3 - 2 * x)


def _speech(random: np.random.Generator, t: Times) -> tuple[Times, Times]:
    """Whether there is talk (0..1), and how far each syllable opens the mouth (0..1)."""
    talking, spoken = np.zeros_like(t), np.zeros_like(t)
    now = random.uniform(0.2, 1.0)
    while now < t[-1]:
        end = now + random.uniform(1.2, 3.5)
        talking = np.maximum(talking, _ramp((t - now) / 0.2) * _ramp((end - t) / 0.3))
        while now < end:
            length = random.uniform(0.16, 0.32)
            place = ((t - now) / (1.35 * length)).clip(0, 1)  # syllables overlap: lips do not close between all of them
            spoken = np.maximum(spoken, random.uniform(0.2, 0.95) * np.sin(math.pi * place) ** 2)
            now += length
        now = end + random.uniform(0.5, 1.6)
    return talking, spoken


def _blinks(random: np.random.Generator, t: Times) -> Times:
    """How far the eyes are shut (0..1): every 2 to 5 seconds for 0.2 to 0.32 seconds, faster shut than open."""
    shut = np.zeros_like(t)
    now = random.uniform(0.6, 2.5)
    while now < t[-1]:
        length = random.uniform(0.20, 0.32)
        close, held = 0.3 * length, 0.04
        closing, opening = (t - now) / close, (now + length - t) / (length - close - held)
        shut = np.maximum(shut, np.minimum(closing, opening).clip(0, 1))
        now += length + random.uniform(2.0, 5.0)
    return shut


def _fixations(random: np.random.Generator, t: Times) -> tuple[Times, Times]:
    """Where the eyes look in the room (radians to the right and up): at the camera, or at something for a while."""
    across, up = np.zeros_like(t), np.zeros_like(t)
    now, x, y = random.uniform(0.4, 1.8), 0.0, 0.0
    while now < t[-1]:
        aside = random.random() < 0.5
        next_x, next_y = (random.normal(0, 0.28), random.normal(0, 0.12)) if aside else (0.0, 0.0)
        jump = _ramp((t - now) / _SACCADE)
        across, up = across + (next_x - x) * jump, up + (next_y - y) * jump
        x, y = next_x, next_y
        now += random.uniform(0.3, 1.0) if aside else random.uniform(0.6, 2.2)
    return across, up
