"""Color of a surface point: paint in rest space, half-Lambert light, gamma."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from legato.synthetic.factors import Factors, smoothstep
from legato.synthetic.geometry import Parts, Point, head_to_rest, mix, parts

HIT_DISTANCE = 0.03
GRAZING_DISTANCE = 0.12  # a ray still this near to the head after all steps is shown the surface, not the wall
GAMMA = 1 / 1.35


class Shaded(NamedTuple):
    rgb: tuple[Tensor, Tensor, Tensor]  # linear, each [B, N]
    eyes: Tensor  # [B, N] 1 on the eyeballs and lids
    mouth: Tensor  # [B, N] 1 on lips and inside the mouth


class _Light(NamedTuple):
    diffuse: Tensor  # ambient + half-Lambert, times occlusion
    half: Tensor  # (n . h) for highlights


def is_hit(p: Point, d: Tensor) -> Tensor:
    """Whether a ray that ended at p, at distance d from the nearest surface, shows that surface and not the wall."""
    return (d < HIT_DISTANCE) | ((p[2] > -1.2) & (d < GRAZING_DISTANCE))


def _light(normal: Point, ray: Point, occlusion: Tensor, f: Factors) -> _Light:
    ca, sa = f["light_azimuth"].cos(), f["light_azimuth"].sin()
    ce, se = f["light_elevation"].cos(), f["light_elevation"].sin()
    lx, ly, lz = sa * ce, se, ca * ce
    nx, ny, nz = normal
    dx, dy, dz = ray
    wrap = ((nx * lx + ny * ly + nz * lz) * 0.62 + 0.38).clamp(min=0)
    wrap = 0.55 * wrap * wrap + 0.45 * wrap
    hx, hy, hz = lx - dx, ly - dy, lz - dz
    facing = ((-(nx * dx + ny * dy + nz * dz) - 0.15) * 3).clamp(0, 1)
    half = ((nx * hx + ny * hy + nz * hz) / (hx * hx + hy * hy + hz * hz).sqrt()).clamp(min=0) * facing
    return _Light((0.30 + 0.85 * wrap) * (0.45 + 0.55 * occlusion.clamp(0, 1)), half)


class _Paint(NamedTuple):
    lips: Tensor
    line: Tensor
    brow: Tensor
    blush: Tensor
    beard: Tensor


def _paint(p: Parts, f: Factors, pixel: float) -> _Paint:
    """Coverage [B, N] of each layer painted on the skin; `pixel` is the width of a sample in world units."""
    x, y, z = p.rest
    ax = x.abs()
    front = (z > 0.25).to(x.dtype)
    profile = (1 - (x / f["mouth_width"]).square()).clamp(min=0)
    upper = f["lip_thickness"] * profile * (1 - 0.25 * torch.exp(-(x / 0.05).square()))
    lower = 1.25 * f["lip_thickness"] * profile.sqrt()
    dy = y - f["mouth_height"]
    lips = smoothstep((upper - dy) / pixel * 0.5 + 0.5) * smoothstep((dy + lower) / pixel * 0.5 + 0.5)
    lips = lips * smoothstep(profile * 4) * front
    line = torch.exp(-(dy / 0.02).square()) * smoothstep((1.08 - (x / f["mouth_width"]).abs()) / 0.12) * 0.75 * front
    bx = ax - f["eye_spacing"] - 0.02
    brow_y = f["eye_height"] + f["brow_height"] + f["brow_tilt"] * bx - 1.3 * bx * bx
    thickness = f["brow_thickness"] * (1 - 0.5 * smoothstep((bx + 0.05) / 0.3))
    brow = smoothstep((thickness - (y - brow_y).abs()) / pixel * 0.5 + 0.5)
    brow = brow * smoothstep((0.23 - bx.abs()) / 0.05) * front
    beard = smoothstep((-0.22 - y) / 0.2) * smoothstep((ax * 1.1 + (-0.28 - y) * 0.9 - 0.05) / 0.25)
    above = smoothstep((dy - 0.3 * f["lip_thickness"]) / 0.05) * smoothstep((f["mouth_height"] + 0.24 - y) / 0.08)
    mustache = above * smoothstep((f["mouth_width"] * 1.15 - ax) / 0.1) * front
    hairy = torch.maximum(f["beard"] * beard, f["mustache"] * mustache) * (1 - lips)
    blush = torch.exp(-((ax - 0.42).square() + (y + 0.2).square()) / 0.03) * 0.35 * front
    return _Paint(lips, line, brow, blush, hairy)


def _gaze(p: Parts, f: Factors) -> tuple[Point, Point]:
    """Eye-local point with x to the right again, and the direction of sight."""
    x, y, z = p.eye_local
    x = torch.where(p.head[0] > 0, x, -x)
    gx, gy = f["gaze_x"], f["gaze_y"]
    return (x, y, z), (gx.sin() * gy.cos(), gy.sin() + 0 * gx, gx.cos() * gy.cos())


def background(ray: Point, f: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """A wall [B, N] x 3: gradient, vignette, soft crossed waves. It stands still when the head moves."""
    dx, dy, _ = ray
    ca, sa = f["background_angle"].cos(), f["background_angle"].sin()
    a, b = (ca * dx + sa * dy) * 26, (ca * dy - sa * dx) * 17
    waves = torch.sin(a + f["background_phase"]) * torch.sin(b + 1.7 * f["background_phase"])
    shade = 1 + 0.35 * f["background_gradient"] * dy * 5 + 0.10 * dx * 5 + 0.22 * f["background_texture"] * waves
    shade = shade * (1 - 1.8 * (dx * dx + dy * dy))
    r, g, b3 = (f["background_color"][:, c : c + 1] for c in range(3))
    return r * shade, g * shade, b3 * shade


def shade(p: Point, d: Tensor, normal: Point, occlusion: Tensor, ray: Point, f: Factors, pixel: float) -> Shaded:
    """Shades points p where the distance d says that a surface was hit, and the background elsewhere."""
    s = parts(p, f)
    light = _light(normal, ray, occlusion, f)
    paint = _paint(s, f, pixel)
    nearest = s.nearest()
    is_eye, is_hair = s.eye <= nearest, s.hair <= nearest
    is_glasses, is_cloth = s.glasses <= nearest, s.cloth <= nearest
    in_mouth = s.mouth_gap & (s.rest[2] > 0.25)
    (ex, ey, ez), (vx, vy, vz) = _gaze(s, f)
    radius = (ex * ex + ey * ey + ez * ez + 1e-9).sqrt()
    angle = (2 - 2 * ((ex * vx + ey * vy + ez * vz) / radius).clamp(-1, 1)).clamp(min=1e-9).sqrt()
    edge = pixel / f["eye_size"]
    iris = smoothstep((0.60 - angle) / edge * 0.5 + 0.5)
    ring = smoothstep((0.60 - angle) / 0.14)
    pupil = smoothstep((0.29 - angle) / edge * 0.5 + 0.5)
    lid = smoothstep(s.lid / (edge * 0.8) + 0.5)
    lash = torch.exp(-(s.lid / 0.13).square()) * (ey > -0.3 * f["eye_size"]).to(ex.dtype) * 0.8
    gx, gy = ex / f["eye_size"] - vx * 0.9 + 0.16, ey / f["eye_size"] - vy * 0.9 - 0.20
    glint = torch.exp(-(gx * gx + gy * gy) / 0.012) * (1 - lid)
    _, _, gap_height, profile = head_to_rest(s.head, f)
    teeth = smoothstep((gap_height - 0.66) / 0.08) * smoothstep((profile - 0.25) / 0.2)
    tongue = smoothstep((0.42 - gap_height) / 0.2)
    hx, hy, hz = s.head
    around = torch.atan2(hx - 0.5 * f["hair_part"], hy - 0.1)
    strands = 1 + 0.06 * torch.sin(17 * around + 3 * hz) + 0.045 * torch.sin(31 * around + 5 * hz + 1.0)
    strands = strands * (0.86 + 0.14 * smoothstep((hy + 0.9) / 1.5))
    stripes = 1 + 0.28 * f["cloth_stripes"] * smoothstep(torch.sin(24 * (p[1] - f["shift_y"])) * 2 + 0.5)
    hit = is_hit(p, d)
    wall = background(ray, f)
    rgb = []
    for c in range(3):
        skin, hair = f["skin_color"][:, c : c + 1], f["hair_color"][:, c : c + 1]
        lip, eye = f["lip_color_rgb"][:, c : c + 1], f["eye_color_rgb"][:, c : c + 1]
        col = skin + paint.blush * skin * (0.18, -0.14, -0.08)[c]
        col = mix(col, hair * 0.8 + skin * 0.12, paint.beard)
        col = mix(col, lip, paint.lips * 0.85)
        col = mix(col, lip * 0.28, paint.line)
        col = mix(col, hair * 0.6, paint.brow * 0.92)
        inside = mix(mix((0.22, 0.05, 0.06)[c], (0.72, 0.30, 0.32)[c], tongue), (0.95, 0.94, 0.90)[c], teeth)
        col = torch.where(in_mouth, inside, col)
        warmth = 1 + f["light_warmth"] * (1, 0, -1)[c]
        col = col * light.diffuse * (1.03, 1.0, 0.97)[c] + 0.10 * light.half**24 * (1 - paint.beard)
        ball = mix(mix((0.94, 0.94, 0.95)[c], eye * mix(0.45, 1.15, ring), iris), 0.03, pupil)
        ball = ball * (0.75 + 0.25 * smoothstep(-s.lid / 0.35))
        ball = mix(mix(ball, skin * 0.90, lid), 0.06, lash * (1 - 0.35 * lid))
        col = torch.where(is_eye, ball * light.diffuse * 1.05 + 0.9 * glint, col)
        locks = hair * strands * light.diffuse * 1.05 + 0.22 * light.half**12 * (0.4 + hair)
        col = torch.where(is_hair & ~is_eye, locks, col)
        col = torch.where(is_cloth, f["cloth_color"][:, c : c + 1] * stripes * light.diffuse, col)
        col = torch.where(is_glasses, f["glasses_color"][:, c : c + 1] * light.diffuse + 0.5 * light.half**20, col)
        rgb.append(torch.where(hit, col * warmth, wall[c]))
    eyes = (is_eye & hit).to(d.dtype)
    mouth = torch.maximum(paint.lips, in_mouth.to(d.dtype)) * (hit & ~is_eye & ~is_hair & ~is_cloth).to(d.dtype)
    return Shaded((rgb[0], rgb[1], rgb[2]), eyes, mouth)
