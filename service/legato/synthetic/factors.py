"""What a rendered head is made of: identity factors, motion factors, and how a seed becomes both.

A head is a vector z of `Z_DIM` Gaussian numbers, normalized as a StyleGAN2 mapping network does (x * rsqrt(mean(x^2))),
so that the same z can be given to `Generator.map`. Each number passes through the Gaussian's distribution function to a
uniform u in [0, 1] and from there to a physical value. Identity (who, and in which light and room) and motion (pose and
expression) are disjoint slices of z: a clip holds the first and moves the second.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Z_DIM = 64
Split = Literal["train", "eval"]
Factors = dict[str, Tensor]  # physical values, each [B, 1]; colors [B, 3]

# name -> (low, high): linear in u
_LINEAR: dict[str, tuple[float, float]] = {
    "head_width": (0.90, 1.09),
    "head_height": (0.93, 1.09),
    "jaw_width": (0.83, 1.14),
    "jaw_length": (0.90, 1.12),
    "chin": (-0.03, 0.08),
    "cheeks": (-0.02, 0.06),
    "nose_length": (-0.02, 0.10),
    "nose_width": (0.75, 1.30),
    "nose_tip": (-0.07, 0.05),
    "eye_size": (0.185, 0.235),
    "eye_spacing": (0.27, 0.33),
    "eye_height": (0.05, 0.13),
    "brow_thickness": (0.022, 0.068),
    "brow_tilt": (-0.30, 0.25),
    "brow_height": (0.25, 0.31),
    "mouth_width": (0.25, 0.34),
    "lip_thickness": (0.05, 0.11),
    "mouth_height": (-0.50, -0.43),
    "ear_size": (0.7, 1.3),
    "hairline": (0.40, 0.78),
    "hair_volume": (0.03, 0.24),
    "hair_part": (-0.5, 0.5),
    "background_gradient": (-0.5, 0.5),
    "background_angle": (0.0, math.pi),
    "background_phase": (0.0, 2 * math.pi),
    "light_azimuth": (-1.1, 1.1),
    "light_elevation": (0.2, 0.9),
    "light_warmth": (-0.06, 0.06),
}
# name -> (edge, width, scale): scale * smoothstep((u - edge) / width): absent below the edge, full above edge + width
_PRESENCE: dict[str, tuple[float, float, float]] = {
    "hair_length": (0.25, 0.60, 1.0),
    "fringe": (0.45, 0.45, 1.0),
    "curl": (0.45, 0.50, 1.0),
    "bun": (0.68, 0.30, 0.36),
    "beard": (0.60, 0.35, 0.85),
    "mustache": (0.68, 0.25, 0.85),
    "glasses": (0.70, 0.10, 1.0),
    "background_texture": (0.35, 0.65, 1.0),
    "cloth_stripes": (0.55, 0.40, 1.0),
}
_COLOR = (
    "skin_tone", "skin_hue", "hair_tone", "hair_shade", "lip_color", "eye_color", "glasses_tone",
    "background_hue", "background_saturation", "background_value", "cloth_hue", "cloth_value",
)  # fmt: skip
IDENTITY: tuple[str, ...] = (*_LINEAR, *_PRESENCE, *_COLOR)
MOTION: tuple[str, ...] = ("yaw", "pitch", "roll", "mouth_open", "smile", "blink", "gaze_x", "gaze_y", "brow_raise")
MOTION_START = len(IDENTITY)
assert MOTION_START + len(MOTION) <= Z_DIM

# Returned with every image; what directions are fitted for and the attribute network reads.
ATTRIBUTES: tuple[str, ...] = (
    *MOTION,
    "hair_length", "hair_volume", "hair_tone", "fringe", "beard", "glasses", "skin_tone", "eye_color", "lip_color",
    "jaw_width", "brow_thickness", "light_azimuth", "background_value",
)  # fmt: skip


def smoothstep(x: Tensor) -> Tensor:
    """3x^2 - 2x^3 on [0, 1], constant outside."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def sample_z(seeds: Sequence[int], split: Split = "train") -> Tensor:
    """Draws z [B, 64] for the given seeds; the streams of the two splits never meet, so neither do their identities."""
    rows = []
    for seed in seeds:
        digest = hashlib.sha256(f"legato heads {split} {seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        rows.append(torch.randn(Z_DIM, generator=generator))
    return normalize_z(torch.stack(rows))


def normalize_z(z: Tensor) -> Tensor:
    """Unit second moment, as the mapping network's input: z [B, Z]."""
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def uniform(z: Tensor) -> dict[str, Tensor]:
    """u in [0, 1] per factor name, each [B]."""
    u = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    return {name: u[:, i] for i, name in enumerate((*IDENTITY, *MOTION))}


def factors_of(z: Tensor) -> Factors:
    """Physical values of z [B, 64] (normalized): geometry [B, 1], angles in radians, colors [B, 3] linear RGB."""
    u = uniform(z)
    f: Factors = {name: low + (high - low) * u[name] for name, (low, high) in _LINEAR.items()}
    for name, (edge, width, scale) in _PRESENCE.items():
        f[name] = scale * smoothstep((u[name] - edge) / width)
    g = {name: z[:, MOTION_START + i].clamp(-2.2, 2.2) for i, name in enumerate(MOTION)}
    f["yaw"] = 0.25 * g["yaw"]
    f["pitch"] = 0.11 * g["pitch"]
    f["roll"] = 0.05 * g["roll"]
    f["mouth_open"] = smoothstep((u["mouth_open"] - 0.35) / 0.65)
    f["smile"] = -0.6 + 1.6 * u["smile"]
    f["blink"] = smoothstep((u["blink"] - 0.60) / 0.35)
    f["gaze_x"] = -0.5 + u["gaze_x"]
    f["gaze_y"] = -0.28 + 0.56 * u["gaze_y"]
    f["brow_raise"] = -0.6 + 1.6 * u["brow_raise"]
    out = {name: value[:, None].contiguous() for name, value in f.items()}
    out.update(_colors(u))
    return out


def attributes_of(z: Tensor) -> Tensor:
    """The values of `ATTRIBUTES` [B, A]: physical where there is one, u where the factor is a color or shade."""
    u, f = uniform(z), factors_of(z)
    return torch.stack([f[name][:, 0] if name in f else u[name] for name in ATTRIBUTES], 1)


def standard_deviations(count: int = 4096) -> dict[str, float]:
    """Of every attribute, over the first `count` training heads."""
    values = attributes_of(sample_z(range(count), "train")).std(0)
    return dict(zip(ATTRIBUTES, values.tolist(), strict=True))


def with_motion(z: Tensor, motion: Tensor) -> Tensor:
    """z [B, 64] with its motion slice replaced by motion [B, 9] (Gaussian units, `MOTION` order)."""
    z = z.clone()
    z[:, MOTION_START : MOTION_START + len(MOTION)] = motion
    return z


def _palette(t: Tensor, stops: Sequence[Sequence[float]]) -> Tensor:
    """Piecewise linear color [B, 3] at t [B] in [0, 1]."""
    colors = torch.tensor(stops, dtype=torch.float32, device=t.device)
    x = (t * (len(stops) - 1)).clamp(0, len(stops) - 1 - 1e-4)
    i = x.floor().long()
    fraction = (x - i)[:, None]
    return colors[i] * (1 - fraction) + colors[i + 1] * fraction


def _hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    k = torch.stack([hue * 6 + 5, hue * 6 + 3, hue * 6 + 1], -1) % 6
    chroma = torch.minimum(torch.minimum(k, 4 - k), torch.ones_like(k)).clamp(min=0)
    return value[:, None] - (value * saturation)[:, None] * chroma


def _colors(u: dict[str, Tensor]) -> Factors:
    skin = _palette(u["skin_tone"], [[0.30, 0.18, 0.12], [0.50, 0.32, 0.22], [0.72, 0.50, 0.37], [0.86, 0.66, 0.53],
                                     [0.95, 0.79, 0.69]])  # fmt: skip
    hue = u["skin_hue"] * 2 - 1
    skin = skin * (1 + torch.stack([0.03 * hue, torch.zeros_like(hue), -0.08 * hue], -1))
    hair = _palette(u["hair_tone"], [[0.06, 0.05, 0.05], [0.16, 0.10, 0.07], [0.36, 0.21, 0.12], [0.58, 0.26, 0.11],
                                     [0.80, 0.62, 0.33], [0.74, 0.72, 0.70]])  # fmt: skip
    eye = _palette(u["eye_color"], [[0.20, 0.11, 0.06], [0.36, 0.22, 0.10], [0.30, 0.42, 0.22], [0.22, 0.45, 0.62],
                                    [0.45, 0.58, 0.68]])  # fmt: skip
    glasses = _palette(u["glasses_tone"], [[0.04, 0.04, 0.05], [0.25, 0.12, 0.06], [0.55, 0.10, 0.10],
                                           [0.12, 0.20, 0.45], [0.72, 0.60, 0.30]])  # fmt: skip
    lip = skin * 0.62 + torch.tensor([0.32, 0.08, 0.10], device=skin.device) * (0.35 + 0.85 * u["lip_color"])[:, None]
    return {
        "skin_color": skin,
        "hair_color": (hair * (0.8 + 0.35 * u["hair_shade"])[:, None]).clamp(0, 1),
        "eye_color_rgb": eye,
        "glasses_color": glasses,
        "lip_color_rgb": lip,
        "background_color": _hsv(
            u["background_hue"], 0.08 + 0.47 * u["background_saturation"], 0.35 + 0.57 * u["background_value"]
        ),
        "cloth_color": _hsv(u["cloth_hue"], torch.full_like(u["cloth_hue"], 0.55), 0.2 + 0.65 * u["cloth_value"]),
    }
