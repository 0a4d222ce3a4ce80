"""Exact optical flow and occlusion between two motion states of one head, from its geometry.

Convention: **pull**, pixels, (x, y) order, pixel centers at integers. The material point that image A shows at p is in
image B at p + flow(p), so `flow_warp(B, flow)` ~ A wherever it is visible.

A ray is traced to A's surface, the material point there is carried to B's expression and pose, and a second ray is
traced through B to that very point: the point is visible if it is what that ray meets.

What is exact is where points go. How they look may still change on the way: light stands still while the head turns
(shade, highlights, occlusion, glints), lids shadow the eyeball, and a beard on the neck keeps to the head. Warping by
the flow leaves these differences, and the softness of bilinear interpolation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from legato.synthetic.factors import MOTION, MOTION_START, Factors, factors_of
from legato.synthetic.geometry import (
    CAMERA_Y,
    CAMERA_Z,
    EYE_Z,
    HALF_HEIGHT,
    Parts,
    Point,
    align,
    eyelid,
    head_to_rest,
    head_to_world,
    lid_margins,
    parts,
    rest_to_head,
    skin_distance,
)
from legato.synthetic.renderer import along, rays, trace_rays
from legato.synthetic.shading import is_hit

SKIN, EYE, HAIR, GLASSES, NECK, CLOTH, WALL = range(7)
_DEPTH = 0.05  # world units along the ray within which two points are one: what sphere tracing leaves at a silhouette
_LID = 0.02  # units of the eyeball's radius, likewise


class _Seen(NamedTuple):
    """What the rays of one image meet."""

    point: Point  # world
    parts: Parts
    part: Tensor  # [B, N] one of SKIN .. WALL


class _Carried(NamedTuple):
    """A's points in B's world, and where that means anything."""

    point: Point
    exists: Tensor  # bool [B, N]


@torch.no_grad()
def exact_flow(z_a: Tensor, z_b: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Pull flow of A from B [B, 2, R, R] in pixels (x, y) and where A's point is seen in B, bool [B, 1, R, R].

    z_a, z_b [B, 64] share their identity and differ in motion; the tensors come back on their device. Skin, hair, ears
    and glasses move with the head, skin with the expression too; eyeballs turn with the gaze, lids slide over them,
    neck and clothes shift, the wall stands still. The inside of the mouth has no material point: it is never visible.
    Where nothing is visible the flow is finite and plausible, no more. Raises ValueError for z of other shapes or of
    two identities.
    """
    _check(z_a, z_b, resolution)
    a, b = align(factors_of(z_a)), align(factors_of(z_b))
    ray = rays(resolution, z_a.device)
    seen = _look(ray, a)
    carried = _carry(seen, a, b)
    x, y, z = carried.point
    reach = (x.square() + (y - CAMERA_Y).square() + (z - CAMERA_Z).square()).sqrt()
    wall = seen.part == WALL
    sight = _choose(wall, ray, (x / reach, (y - CAMERA_Y) / reach, (z - CAMERA_Z) / reach))
    there = _look(sight, b)
    far = [(p - q).square() for p, q in zip(there.point, carried.point, strict=True)]
    met = far[0] + far[1] + far[2] < _DEPTH**2
    start, end = _position(ray, resolution), _position(sight, resolution)
    shift = torch.stack([(e - s).masked_fill(wall, 0) for s, e in zip(start, end, strict=True)], 1)
    inside = torch.maximum(end[0].abs(), end[1].abs()) <= (resolution - 1) / 2 + 1e-3
    visible = (there.part == seen.part) & (wall | (carried.exists & met & inside))
    return shift.unflatten(2, (resolution, resolution)), visible.unflatten(1, (1, resolution, resolution))


def _check(z_a: Tensor, z_b: Tensor, resolution: int) -> None:
    if z_a.ndim != 2 or z_a.shape != z_b.shape or z_a.shape[1] < MOTION_START + len(MOTION):
        raise ValueError(f"exact_flow: z_a and z_b are [B, 64]; got {tuple(z_a.shape)} and {tuple(z_b.shape)}")
    if resolution < 1:
        raise ValueError(f"exact_flow: resolution is at least 1; got {resolution}")
    if not torch.equal(z_a[:, :MOTION_START], z_b[:, :MOTION_START]):
        raise ValueError("exact_flow: z_a and z_b differ in identity; replace the motion alone (factors.with_motion)")


def _look(ray: Point, f: Factors) -> _Seen:
    """Traces rays [1 or B, N] to the nearest surfaces."""
    point = along(ray, trace_rays(ray, f))
    found = parts(point, f)
    surfaces = torch.stack([found.skin, found.eye, found.hair, found.glasses, found.neck, found.cloth])
    near, part = surfaces.min(0)
    return _Seen(point, found, torch.where(is_hit(point, near), part, WALL))


def _position(ray: Point, resolution: int) -> tuple[Tensor, Tensor]:
    """Where a direction meets the image: pixels from its middle, x to the right and y down."""
    scale = resolution / 2 * CAMERA_Z / HALF_HEIGHT
    return -ray[0] / ray[2] * scale, ray[1] / ray[2] * scale


def _choose(where: Tensor, a: Point, b: Point) -> Point:
    x, y, z = (torch.where(where, p, q) for p, q in zip(a, b, strict=True))
    return x, y, z


def _carry(seen: _Seen, a: Factors, b: Factors) -> _Carried:
    """The material points of A in B's world."""
    x, y, z = seen.point
    torso = (seen.part == NECK) | (seen.part == CLOTH)
    shifted = (x - a["shift_x"] + b["shift_x"], y - a["shift_y"] + b["shift_y"], z)
    skin, skin_exists = _carry_skin(seen.parts, a, b)
    eye, eye_exists = _carry_eye(seen.parts, a, b)
    is_skin, is_eye = seen.part == SKIN, seen.part == EYE
    head = _choose(is_skin, skin, _choose(is_eye, eye, seen.parts.head))
    exists = torch.where(is_skin, skin_exists, torch.where(is_eye, eye_exists, True))
    return _Carried(_choose(torso, shifted, head_to_world(head, b)), exists)


def _carry_skin(seen: Parts, a: Factors, b: Factors) -> _Carried:
    """Rest point -> B's expression. Cheeks swell with a smile: a point moves along the normal of the rest shape."""
    closed = torch.zeros_like(seen.mouth_gap)
    x, y, z = seen.rest
    e = 0.01
    grown = skin_distance(seen.rest, closed, b) - skin_distance(seen.rest, closed, a)
    dx = skin_distance((x + e, y, z), closed, b) - skin_distance((x - e, y, z), closed, b)
    dy = skin_distance((x, y + e, z), closed, b) - skin_distance((x, y - e, z), closed, b)
    dz = skin_distance((x, y, z + e), closed, b) - skin_distance((x, y, z - e), closed, b)
    step = 2 * e * grown / (dx * dx + dy * dy + dz * dz).clamp(min=e * e)
    rest = (x - step * dx, y - step * dy, z - step * dz)
    head, exists = rest_to_head(rest, b)
    inside_mouth = seen.mouth_gap & (z > 0.25)
    return _Carried(_choose(inside_mouth, seen.head, head), exists & ~inside_mouth)


def _carry_eye(seen: Parts, a: Factors, b: Factors) -> _Carried:
    """The eyeball turns with the gaze; a lid slides with its edge, at the distance from it that it had.

    What is ball has to be ball in B, and what is lid has to lie under the same lid.
    """
    side = torch.where(seen.head[0] > 0, 1.0, -1.0)
    x, y, z = seen.eye_local
    turned = _turn((side * x, y, z), a, b)
    is_lid = seen.lid > 0
    radius = (x * x + y * y + z * z + 1e-9).sqrt()
    (upper_a, lower_a), (upper_b, lower_b) = (lid_margins(seen.eye_local, f) for f in (a, b))
    raised = y + radius * torch.where(upper_a > lower_a, upper_a - upper_b, lower_b - lower_a)
    depth = radius.square() - x.square() - raised.square()
    slid = (x, raised, depth.clamp(min=0).sqrt() * z.sign())
    local = _choose(is_lid, slid, (side * turned[0], turned[1], turned[2]))
    lid = eyelid(local, b)
    exists = torch.where(is_lid, (depth > 0) & ((lid - seen.lid).abs() < _LID), lid < 0)
    rest_x = side * (b["eye_spacing"] + local[0])
    head = (rest_x, b["eye_height"] + local[1], EYE_Z + local[2])
    (back_x, _, _), _, _, _ = head_to_rest(head, b)  # the eyes' x is of rest space, where a smile has not widened it
    return _Carried((2 * rest_x - back_x, head[1], head[2]), exists)


def _turn(p: Point, a: Factors, b: Factors) -> Point:
    """Rotates eye-local points [B, N], x to the right, from A's line of sight to B's."""
    x, y, z = p
    c, s = a["gaze_x"].cos(), a["gaze_x"].sin()
    x, z = c * x - s * z, s * x + c * z
    c, s = a["gaze_y"].cos(), a["gaze_y"].sin()
    y, z = c * y - s * z, s * y + c * z
    c, s = b["gaze_y"].cos(), b["gaze_y"].sin()
    y, z = c * y + s * z, c * z - s * y
    c, s = b["gaze_x"].cos(), b["gaze_x"].sin()
    return c * x + s * z, y, c * z - s * x
