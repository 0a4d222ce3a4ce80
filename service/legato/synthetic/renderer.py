"""Sphere tracing of the head: factors -> images with masks, on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.synthetic.factors import Factors, attributes_of, factors_of
from legato.synthetic.geometry import CAMERA_Y, CAMERA_Z, HALF_HEIGHT, Point, align, distance
from legato.synthetic.shading import GAMMA, Shaded, background, shade

CONE_STEPS, STEPS = 16, 13
_CONE = 4  # fine rays of a _CONE x _CONE block share one coarse ray
_CONE_RADIUS = 0.06  # world units; wider than a block is, for the distances are not exact
_CONE_GRID = 64  # coarse rays a side where the fine ones lie anywhere
_NEAR, _FAR_Z = CAMERA_Z - 1.45, -2.4
_RELAXATION = 0.95
_BLOCK = 2048  # active rays are padded to a multiple of this


@dataclass(frozen=True, slots=True)
class Rendered:
    """A batch of renders."""

    image: Tensor  # [B, 3, R, R] in [-1, 1]
    eyes: Tensor  # [B, 1, R, R] in [0, 1]: share of the pixel on an eye
    mouth: Tensor  # [B, 1, R, R]
    attributes: Tensor  # [B, A], in the order of factors.ATTRIBUTES


def rays(size: int, device: torch.device | None = None) -> Point:
    """Unit directions [1, size^2] through the pixel centers, rows first."""
    a = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    gy, gx = torch.meshgrid(-a, a, indexing="ij")
    x, y = gx.reshape(1, -1) * HALF_HEIGHT / CAMERA_Z, gy.reshape(1, -1) * HALF_HEIGHT / CAMERA_Z
    n = (x * x + y * y + 1).sqrt()
    return x / n, y / n, -1 / n


def along(ray: Point, t: Tensor) -> Point:
    """Points [B, N] at distance t from the camera."""
    return t * ray[0], CAMERA_Y + t * ray[1], CAMERA_Z + t * ray[2]


def _march(t: Tensor, ray: Point, f: Factors, inflate: float) -> Tensor:
    return t + (distance(along(ray, t), f) - inflate).clamp(min=0 if inflate else -1) * _RELAXATION


def _surface(t: Tensor, ray: Point, f: Factors) -> tuple[Tensor, Point, Tensor]:
    """Distance left, unit normal (tetrahedron differences) and one-tap ambient occlusion at the end of the rays."""
    x, y, z = along(ray, t)
    e = 0.012
    d = distance((x, y, z), f)
    a = distance((x + e, y - e, z - e), f)
    b = distance((x - e, y - e, z + e), f)
    c = distance((x - e, y + e, z - e), f)
    g = distance((x + e, y + e, z + e), f)
    nx, ny, nz = a - b - c + g, -a - b + c + g, -a + b - c + g
    n = (nx * nx + ny * ny + nz * nz + 1e-12).sqrt()
    nx, ny, nz = nx / n, ny / n, nz / n
    occlusion = distance((x + 0.22 * nx, y + 0.22 * ny, z + 0.22 * nz), f) / 0.22
    return d, (nx, ny, nz), occlusion


def _shade(t: Tensor, d: Tensor, normal: Point, occlusion: Tensor, ray: Point, f: Factors, pixel: float) -> Shaded:
    return shade(along(ray, t), d, normal, occlusion, ray, f, pixel)


def trace_rays(ray: Point, f: Factors) -> Tensor:
    """Distances [B, N] at which any rays [1 or B, N] from the camera end: at the nearest surface, or past `_FAR_Z`.

    Takes twice the steps of an image's rays, for positions rather than colors.
    """
    cones = rays(_CONE_GRID, f["yaw"].device)
    t = torch.full((f["yaw"].shape[0], _CONE_GRID**2), _NEAR, device=f["yaw"].device)
    for _ in range(CONE_STEPS):
        t = _march(t, cones, f, _CONE_RADIUS)
    column, row = ((s / ray[2] * CAMERA_Z / HALF_HEIGHT + 1) * _CONE_GRID / 2 for s in (-ray[0], ray[1]))
    block = row.long().clamp(0, _CONE_GRID - 1) * _CONE_GRID + column.long().clamp(0, _CONE_GRID - 1)
    t = t.gather(1, block.expand(t.shape[0], -1))
    for _ in range(2 * STEPS):
        t = _march(t, ray, f, 0.0)
    return t


class Renderer:
    """Renders heads at `resolution` with supersample^2 rays a pixel.

    A coarse cone march finds, for every 4x4 block of rays, how far all of them are free, and which blocks see only the
    wall; only the others are traced and shaded. `compiled` fuses the arithmetic with torch.compile (about six times
    faster after a minute of compiling; it needs a C++ compiler on the CPU). The images of both agree to rounding.
    Raises ValueError for a resolution or supersample that is not positive, and unless their product is a multiple of 4.
    """

    def __init__(self, resolution: int = 128, supersample: int = 2, *, compiled: bool = False,
                 device: torch.device | str = "cpu") -> None:  # fmt: skip
        if resolution < 1 or supersample < 1:
            raise ValueError(f"resolution and supersample are at least 1; got {resolution} and {supersample}")
        self.resolution = resolution
        self.supersample = supersample
        self.device = torch.device(device)
        self.size = resolution * supersample
        if self.size % _CONE:
            raise ValueError(f"resolution * supersample is a multiple of {_CONE}; got {resolution} * {supersample}")
        self._rays = rays(self.size, self.device)
        self._cones = rays(self.size // _CONE, self.device)
        wrap: Callable[[Any], Any] = (lambda fn: torch.compile(fn, dynamic=True)) if compiled else (lambda fn: fn)
        self._march, self._surface, self._shade = wrap(_march), wrap(_surface), wrap(_shade)

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Rendered:
        """Renders normalized z [B, 64]."""
        z = z.to(self.device)
        f = align(factors_of(z))
        index, ray, t = self.trace(f)
        d, normal, occlusion = self._surface(t, ray, f)
        shaded = self._shade(t, d, normal, occlusion, ray, f, 2 * HALF_HEIGHT / self.size)
        wall = background(self._rays, f)
        layers = [w.expand(-1, self.size**2).scatter(1, index, c) for w, c in zip(wall, shaded.rgb, strict=True)]
        layers += [torch.zeros_like(layers[0]).scatter(1, index, m) for m in (shaded.eyes, shaded.mouth)]
        stack = torch.stack(layers, 1).reshape(-1, 5, self.size, self.size).clamp(0, 1)
        if self.supersample > 1:
            stack = F.avg_pool2d(stack, self.supersample)
        image = stack[:, :3].clamp(min=1e-4) ** GAMMA * 2 - 1
        return Rendered(image, stack[:, 3:4], stack[:, 4:5], attributes_of(z))

    def trace(self, f: Factors) -> tuple[Tensor, Point, Tensor]:
        """Traces the rays that may hit. Returns their indices [B, N] among size^2, directions, and distances [B, N]."""
        batch = f["yaw"].shape[0]
        t = torch.full((batch, self._cones[0].shape[1]), _NEAR, device=self.device)
        for _ in range(CONE_STEPS):
            t = self._march(t, self._cones, f, _CONE_RADIUS)
        side = self.size // _CONE
        t = t.reshape(batch, side, side).repeat_interleave(_CONE, 1).repeat_interleave(_CONE, 2).reshape(batch, -1)
        active = along(self._rays, t)[2] > _FAR_Z
        count = min(-(-int(active.sum(1).max()) // _BLOCK) * _BLOCK, self.size**2)
        index = active.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :count]
        ray = tuple(c.expand(batch, -1).gather(1, index) for c in self._rays)
        t = t.gather(1, index)
        for _ in range(STEPS):
            t = self._march(t, ray, f, 0.0)
        return index, (ray[0], ray[1], ray[2]), t
