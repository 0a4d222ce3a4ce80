"""The head as signed distances, and where its points go when it moves.

Convention: world space has x right, y up, z towards the camera, which looks down -z from (0, CAMERA_Y, CAMERA_Z). Head
space is world space with pose undone (rotation about the neck `PIVOT`). Rest space is head space with the expression
undone; paint and shape live there, so that they move with the face. A point is three tensors [B, N]; factors [B, 1].
Angles in radians: yaw > 0 turns to the viewer's right, pitch > 0 looks down, roll > 0 tilts counter-clockwise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from legato.synthetic.factors import Factors, smoothstep

CAMERA_Z, CAMERA_Y = 6.0, -0.06
HALF_HEIGHT = 1.42  # of the view, at z = 0
PIVOT_Y, PIVOT_Z = -0.55, -0.20
EYE_Z = 0.52  # center of the eyeballs
_INVERSE_STEPS = 32
_FACE_ANCHOR = (0.0, -0.12, 0.55)  # projected to the middle of the image: the aligned crop that encoders expect

Point = tuple[Tensor, Tensor, Tensor]


class Parts(NamedTuple):
    """Distances [B, N] to each surface, and the coordinates that paint needs."""

    skin: Tensor
    eye: Tensor
    hair: Tensor
    glasses: Tensor
    neck: Tensor
    cloth: Tensor
    rest: Point
    head: Point
    mouth_gap: Tensor  # bool: inside the open mouth
    eye_local: Point  # relative to the nearer eyeball's center, x mirrored so that it grows outwards
    lid: Tensor  # > 0: covered by a lid

    def nearest(self) -> Tensor:
        near = torch.minimum(torch.minimum(self.skin, self.eye), torch.minimum(self.hair, self.neck))
        return torch.minimum(near, torch.minimum(self.cloth, self.glasses))


def mix(a: Tensor | float, b: Tensor | float, t: Tensor) -> Tensor:
    return a + (b - a) * t


def ellipsoid(x: Tensor, y: Tensor, z: Tensor, rx: Tensor | float, ry: Tensor | float, rz: Tensor | float) -> Tensor:
    """First-order distance to an axis-aligned ellipsoid at the origin."""
    x, y, z = x / rx, y / ry, z / rz
    k = (x * x + y * y + z * z + 1e-9).sqrt()
    x, y, z = x / rx, y / ry, z / rz
    return k * (k - 1) / (x * x + y * y + z * z + 1e-9).sqrt()


def smooth_min(a: Tensor, b: Tensor, k: float) -> Tensor:
    h = (k - (a - b).abs()).clamp(min=0) / k
    return torch.minimum(a, b) - h * h * (k * 0.25)


def smooth_max(a: Tensor, b: Tensor, k: float) -> Tensor:
    return -smooth_min(-a, -b, k)


def rotation(f: Factors) -> tuple[Tensor, ...]:
    """Row-major 3x3 of head -> world, R = Rz(roll) Rx(pitch) Ry(yaw); nine tensors [B, 1]."""
    cy, sy = f["yaw"].cos(), f["yaw"].sin()
    cp, sp = f["pitch"].cos(), f["pitch"].sin()
    cr, sr = f["roll"].cos(), f["roll"].sin()
    return (
        cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy,
        sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy,
        -cp * sy, sp, cp * cy,
    )  # fmt: skip


def head_to_world(p: Point, f: Factors) -> Point:
    x, y, z = p[0], p[1] - PIVOT_Y, p[2] - PIVOT_Z
    r = rotation(f)
    return (
        r[0] * x + r[1] * y + r[2] * z + f["shift_x"],
        r[3] * x + r[4] * y + r[5] * z + PIVOT_Y + f["shift_y"],
        r[6] * x + r[7] * y + r[8] * z + PIVOT_Z,
    )


def world_to_head(p: Point, f: Factors) -> Point:
    x, y, z = p[0] - f["shift_x"], p[1] - PIVOT_Y - f["shift_y"], p[2] - PIVOT_Z
    r = rotation(f)
    return (
        r[0] * x + r[3] * y + r[6] * z,
        r[1] * x + r[4] * y + r[7] * z + PIVOT_Y,
        r[2] * x + r[5] * y + r[8] * z + PIVOT_Z,
    )


def align(f: Factors) -> Factors:
    """Adds shift_x, shift_y [B, 1] that keep the middle of the face in the middle of the image."""
    zero = torch.zeros_like(f["yaw"])
    f = {**f, "shift_x": zero, "shift_y": zero}
    x, y, _ = head_to_world((zero + _FACE_ANCHOR[0], zero + _FACE_ANCHOR[1], zero + _FACE_ANCHOR[2]), f)
    return {**f, "shift_x": _FACE_ANCHOR[0] - x, "shift_y": _FACE_ANCHOR[1] - y}


def _jaw(x: Tensor, f: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Width profile of the mouth opening [B, N] and its lower and upper edge's y."""
    drop = 0.30 * f["mouth_open"]
    profile = (1 - (x / (f["mouth_width"] * 0.92)).square()).clamp(min=0).sqrt()
    return profile, f["mouth_height"] - 0.85 * drop * profile, f["mouth_height"] + 0.15 * drop * profile


def _soften(p: Point, f: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """p without smile and raised brows: x and y [B, N], before the jaw is undone, and how far p lies in front."""
    x, y, z = p
    front = smoothstep((z - 0.1) / 0.4)
    band = torch.exp(-((y - f["mouth_height"]) / 0.22).square()) * front
    across = (x / f["mouth_width"]).clamp(-1.6, 1.6)
    corner = across.square() - 0.45
    dy = f["smile"] * 0.085 * corner * band * torch.exp(-(x / 0.55).square())
    dx = f["smile"] * 0.16 * x * band
    brow_y = f["eye_height"] + f["brow_height"]
    dy = dy + f["brow_raise"] * 0.075 * torch.exp(-((y - brow_y) / 0.13).square()) * front
    return x - dx, y - dy, smoothstep((z + 0.1) / 0.5)


class _Jaw(NamedTuple):
    profile: Tensor  # of the mouth's opening
    low: Tensor  # y of the opening's lower edge
    high: Tensor
    below: Tensor  # rest y of a point under the opening
    above: Tensor  # rest y of a point over it


def _close(x: Tensor, y: Tensor, fade: Tensor, f: Factors) -> _Jaw:
    """Undoes the jaw for points of either lip; both formulas are monotonic in y, inside the opening too."""
    drop = 0.30 * f["mouth_open"]
    profile, low, high = _jaw(x, f)
    below = mix(0.85 * drop * profile, drop * 0.8, smoothstep((low - y) / 0.55))
    above = -0.15 * drop * profile * torch.exp(-((y - high) / 0.15).square())
    return _Jaw(profile, low, high, y + below * fade, y + above * fade)


def head_to_rest(p: Point, f: Factors) -> tuple[Point, Tensor, Tensor, Tensor]:
    """Undoes the expression. Returns rest point, in the mouth gap (bool), height in the gap 0..1, mouth profile."""
    x, y, fade = _soften(p, f)
    profile, low, high, below, above = _close(x, y, fade, f)
    gap = (y >= low) & (y <= high) & (p[2] > 0.3) & (profile > 0)
    rest_y = torch.where(y < low, below, torch.where(y > high, above, f["mouth_height"] + 0 * y))
    return (x, rest_y, p[2]), gap, (y - low) / (high - low + 1e-3), profile


def rest_to_head(rest: Point, f: Factors) -> tuple[Point, Tensor]:
    """Puts the expression on: the head point p with head_to_rest(p) = rest, by fixed-point iteration.

    Also returns whether that was reached (bool [B, N]): the mouth's inside has no rest point of its own. The step in y
    shrinks an error to 2/3 at worst (an open jaw, beside the mouth), so `_INVERSE_STEPS` leave float32 rounding.
    """
    x, y, z = rest
    upper = y > f["mouth_height"]
    px, py = x.expand(y.shape), y
    for _ in range(_INVERSE_STEPS):
        soft_x, soft_y, fade = _soften((px, py, z), f)
        jaw = _close(soft_x, soft_y, fade, f)
        px, py = px + (x - soft_x), py + (y - torch.where(upper, jaw.above, jaw.below))
    (back_x, back_y, _), gap, _, _ = head_to_rest((px, py, z), f)
    return (px, py, z), ((back_x - x).abs() + (back_y - y).abs() < 2e-4) & ~gap


def skin_distance(rest: Point, gap: Tensor, f: Factors) -> Tensor:
    x, y, z = rest
    ax = x.abs()
    cranium = ellipsoid(x, y - 0.22, z + 0.12, 0.74 * f["head_width"], 0.80 * f["head_height"], 0.86)
    face = ellipsoid(x, y + 0.28, z - 0.10, 0.60 * f["jaw_width"], 0.72 * f["jaw_length"], 0.64)
    d = smooth_min(cranium, face, 0.28)
    chin = (x * x + (y + 0.80 * f["jaw_length"]).square() + (z - 0.44 - f["chin"]).square() + 1e-9).sqrt() - 0.17
    d = smooth_min(d, chin, 0.28)
    cheek = ((ax - 0.34).square() + (y + 0.2).square() + (z - 0.47).square()).sqrt()
    d = smooth_min(d, cheek - 0.2 - f["cheeks"] - 0.03 * f["smile"], 0.25)
    socket = ((ax - f["eye_spacing"]).square() + (y - f["eye_height"]).square() + (z - 0.93).square()).sqrt() - 0.2
    d = smooth_max(d, -socket, 0.2)
    y0, y1, z0, z1 = f["eye_height"] + 0.02, -0.16 - f["nose_length"], 0.66, 0.88 + f["nose_tip"]
    t = (((y - y0) * (y1 - y0) + (z - z0) * (z1 - z0)) / ((y1 - y0).square() + (z1 - z0).square())).clamp(0, 1)
    bridge = ((x / f["nose_width"]).square() + (y - mix(y0, y1, t)).square() + (z - mix(z0, z1, t)).square()).sqrt()
    wing = (ax - 0.10 * f["nose_width"]).square() + (y - y1 + 0.015).square() + (z - z1 + 0.09).square()
    wing = wing.sqrt() - 0.055
    d = smooth_min(d, smooth_min((bridge - 0.04 - 0.058 * t) * 0.8, wing, 0.06), 0.09)
    lip_x, lip_y = x / (f["mouth_width"] * 0.8), (y - f["mouth_height"]) / (f["lip_thickness"] * 1.3)
    lips = torch.exp(-(lip_x.square() + lip_y.square()))
    d = d - torch.where(z > 0.3, 0.035 * lips, torch.zeros_like(lips))
    d = d + torch.where(gap, torch.full_like(d, 0.04), torch.zeros_like(d))
    ear = ellipsoid(ax - 0.75 * f["head_width"], y - 0.02, z + 0.08, 0.09 * f["ear_size"], 0.19 * f["ear_size"], 0.13)
    return smooth_min(d, ear, 0.06)


def lid_margins(local: Point, f: Factors) -> tuple[Tensor, Tensor]:
    """How far [B, N] a point of the eyeball lies behind the upper and the lower lid's edge, in units of its radius."""
    x, y, z = local
    height = y / (x * x + y * y + z * z + 1e-9).sqrt()
    bend = 0.35 * (x / f["eye_size"]).square()
    upper = mix(0.60 + 0.08 * f["brow_raise"], -0.42, f["blink"]) - bend
    lower = -0.52 + 0.12 * f["smile"].clamp(min=0) + bend
    return height - upper, lower - height


def eyelid(local: Point, f: Factors) -> Tensor:
    """The larger of `lid_margins`: above 0 where a lid covers the eyeball."""
    upper, lower = lid_margins(local, f)
    return torch.maximum(upper, lower)


def hair_root(head: Point, f: Factors) -> Tensor:
    """Distance-like value [B, N] above the hairline: positive where hair grows."""
    x, y, z = head
    side = x - f["hair_part"]
    ragged = 0.85 + 0.15 * torch.sin(14 * x + 3 * f["hair_part"])
    fringe = f["fringe"] * 0.30 * torch.exp(-(x / 0.42).square()) * ragged
    line = y - f["hairline"] + fringe + 0.50 * side.square() - 0.13
    return line - 0.95 * (z - 0.55)


def _hair(head: Point, f: Factors) -> Tensor:
    x, y, z = head
    root = hair_root(head, f)
    volume = f["hair_volume"] * (0.30 + 0.70 * smoothstep(root / 0.55))
    crest = 0.02 * torch.exp(-((x - 0.5 * f["hair_part"]) / 0.07).square())  # the parting is a shallow groove
    lumps = torch.sin(11 * x + 2) * torch.sin(10 * y) * torch.sin(11 * z + 1)
    volume = volume - crest + 0.045 * f["curl"] * lumps
    rx, ry = 0.75 * f["head_width"] + volume, 0.80 * f["head_height"] + volume
    cap = ellipsoid(x, y - 0.26, z + 0.16, rx, ry, 0.86 + volume * 0.7)
    cap = smooth_max(cap, -root * 0.7, 0.12)
    length = f["hair_length"]
    wave = 0.03 * f["curl"] * torch.sin(9 * y + 4 * x)
    side = ellipsoid(x, y + 0.10 + 0.45 * length, z + 0.30, (0.55 + 0.50 * length) * f["head_width"] + wave,
                     0.5 + 0.60 * length, 0.40 + 0.22 * length)  # fmt: skip
    hair = smooth_min(cap, side, 0.12)
    bun = (x * x + (y - 1.08).square() + (z + 0.35).square()).sqrt() - f["bun"]
    return smooth_min(hair, bun, 0.08)


def _glasses(head: Point, f: Factors) -> Tensor:
    """Two rounded rims, a bridge and temples; moved out of reach as the factor goes to 0."""
    x, y, z = head
    ax = x.abs()
    dx, dy = ax - f["eye_spacing"] - 0.01, y - f["eye_height"] + 0.01
    plane = z - 0.80 + 0.35 * ax.square()
    radius = ((dx / 1.08).square().square() + dy.square().square() + 1e-9).sqrt().sqrt()
    rim = ((radius - 0.205).square() + plane.square() + 1e-9).sqrt()
    inner = f["eye_spacing"] - 0.21
    bridge_x = (ax - inner.clamp(min=0.03)).clamp(min=0)
    bridge = (bridge_x.square() + (dy - 0.06).square() + plane.square() + 1e-9).sqrt()
    temple_z = (z + 0.10).clamp(max=0) + (z - 0.58).clamp(min=0)
    temple_x = ax - 0.58 - 0.22 * smoothstep((0.6 - z) / 0.7)
    temple = (temple_x.square() + (dy - 0.05).square() + temple_z.square() + 1e-9).sqrt()
    thickness = 0.027 * f["glasses"]
    return torch.minimum(torch.minimum(rim, bridge), temple) - thickness + 0.1 * (1 - f["glasses"])


def parts(p: Point, f: Factors) -> Parts:
    """All surfaces at world points p."""
    x, y, z = p
    head = world_to_head(p, f)
    rest, gap, _, _ = head_to_rest(head, f)
    sx = rest[0].abs() - f["eye_spacing"]
    local = (sx, head[1] - f["eye_height"], head[2] - EYE_Z)
    lid = eyelid(local, f)
    radius = (local[0].square() + local[1].square() + local[2].square() + 1e-9).sqrt()
    eye = radius - f["eye_size"] - 0.010 * smoothstep(lid / 0.06 + 0.5)
    tx, ty = x - f["shift_x"], y - f["shift_y"]
    along = (-(ty + 0.45)).clamp(0, 1)
    neck = (tx.square() + (ty + 0.45 + along).square() + (z + 0.18 + 0.1 * along).square() + 1e-9).sqrt()
    neck = neck - 0.36 * (0.5 + 0.5 * f["jaw_width"]) - 0.06 * along.square()
    cloth = ellipsoid(tx, ty + 1.98, z + 0.25, 1.35, 0.75, 0.55)
    collar = smooth_max(neck - 0.06, ty + 1.18, 0.05)
    return Parts(
        skin_distance(rest, gap, f), eye, _hair(head, f), _glasses(head, f), neck, smooth_min(cloth, collar, 0.15),
        rest, head, gap, local, lid,
    )  # fmt: skip


def distance(p: Point, f: Factors) -> Tensor:
    """Distance [B, N] to the nearest surface."""
    return parts(p, f).nearest()
