"""Where points go: pose and expression there and back, the crop that stays on the face, signs of the angles."""

from __future__ import annotations

import torch
from torch import Tensor

from legato.synthetic.factors import MOTION, Factors, factors_of, sample_z, with_motion
from legato.synthetic.geometry import (
    Point,
    align,
    distance,
    eyelid,
    head_to_rest,
    head_to_world,
    lid_margins,
    parts,
    rest_to_head,
    rotation,
    world_to_head,
)
from tests.tolerances import EXACT, POSITION_ROUNDING


def heads(count: int, **motion: float) -> Factors:
    """Aligned factors of eval heads, their motion in Gaussian units as given."""
    z = sample_z(range(count), "eval")
    values = torch.zeros(count, len(MOTION))
    for name, value in motion.items():
        values[:, MOTION.index(name)] = value
    return align(factors_of(with_motion(z, values) if motion else z))


def cloud(count: int, points: int = 400) -> Point:
    """Random points [B, N] around the head."""
    x, y, z = torch.rand(3, count, points).unbind()
    return x * 1.6 - 0.8, y * 2.0 - 1.0, z * 1.6 - 0.6


def assert_same_point(actual: Point, expected: Point) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, **POSITION_ROUNDING)


def _where(mask: Tensor, p: Point) -> Point:
    return p[0][mask], p[1][mask], p[2][mask]


def test_pose_is_undone() -> None:
    f, p = heads(8), cloud(8)
    assert_same_point(world_to_head(head_to_world(p, f), f), p)
    r = torch.stack(rotation(f)).view(3, 3, 8).permute(2, 0, 1)
    torch.testing.assert_close(r @ r.mT, torch.eye(3).expand(8, 3, 3), **POSITION_ROUNDING)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(8), **POSITION_ROUNDING)


def test_signs_of_the_angles() -> None:
    """Yaw turns the nose to the right, pitch lowers it, roll moves the crown to the left."""
    zero = torch.zeros(1, 1)
    nose, crown = (zero, zero - 0.2, zero + 0.9), (zero, zero + 1, zero)

    def moved(point: Point, **motion: float) -> Point:
        f = {**heads(1, **motion), "shift_x": zero, "shift_y": zero}
        return head_to_world(point, f)

    assert moved(nose, yaw=1.0)[0] > 0.05
    assert moved(nose, pitch=1.0)[1] < -0.2 - 0.05
    assert moved(crown, roll=1.0)[0] < -0.02


def test_expression_is_undone_outside_the_open_mouth() -> None:
    """rest_to_head is the inverse of head_to_rest, and what it says to exist comes back to the same rest point."""
    f, p = heads(16), cloud(16, 1000)
    rest, gap, _, _ = head_to_rest(p, f)
    head, exists = rest_to_head(rest, f)
    solid = ~gap & (rest[1] != f["mouth_height"])  # at z < 0.3 the mouth ends inside the head, in one line of points
    assert gap.any()
    there, back = _where(exists, rest), _where(exists, head_to_rest(head, f)[0])
    assert_same_point(back, there)
    assert exists[solid].float().mean() > 0.999
    assert_same_point(_where(solid & exists, head), _where(solid & exists, p))


def test_a_calm_face_is_at_rest() -> None:
    f = heads(4)
    f = {**f, "smile": f["smile"] * 0, "brow_raise": f["brow_raise"] * 0, "mouth_open": f["mouth_open"] * 0}
    p = cloud(4)
    rest, gap, _, _ = head_to_rest(p, f)
    assert_same_point(rest, p)
    assert not gap.any()


def test_an_open_jaw_lowers_the_chin() -> None:
    """The rest point of the lowered chin is the chin: the jaw's material goes down with it."""
    shut, wide = heads(1, mouth_open=-2.0), heads(1, mouth_open=2.0)
    chin: Point = (torch.zeros(1, 1), torch.full((1, 1), -0.85), torch.full((1, 1), 0.6))
    head, exists = rest_to_head(head_to_rest(chin, shut)[0], wide)
    assert exists.all()
    assert head[1] < chin[1] - 0.15


def test_the_face_stays_in_the_middle() -> None:
    f = heads(32)
    anchor = tuple(torch.full((32, 1), v) for v in (0.0, -0.12, 0.55))
    x, y, _ = head_to_world((anchor[0], anchor[1], anchor[2]), f)
    torch.testing.assert_close(x, anchor[0], **POSITION_ROUNDING)
    torch.testing.assert_close(y, anchor[1], **POSITION_ROUNDING)


def test_lids_shut() -> None:
    """Of the eyeball's visible front, blinking covers everything; the upper lid comes down, the lower one stays."""
    height = torch.linspace(-0.45, 0.45, 31)

    def local(f: Factors) -> Point:
        radius = f["eye_size"]
        return torch.zeros(1, 31), height * radius, (1 - height**2).sqrt() * radius

    awake, asleep = heads(1, blink=-1.0), heads(1, blink=2.2)
    assert (eyelid(local(awake), awake) < 0).all()
    assert (eyelid(local(asleep), asleep) > 0).float().mean() > 0.9

    def margins(f: Factors) -> tuple[Tensor, Tensor]:
        return lid_margins(local(f), f)

    assert (margins(asleep)[0] - margins(awake)[0] > 0.5).all()
    torch.testing.assert_close(margins(asleep)[1], margins(awake)[1], **EXACT)


def test_distance_is_that_of_the_nearest_part() -> None:
    f, p = heads(4), cloud(4)
    found = parts(p, f)
    surfaces = torch.stack([found.skin, found.eye, found.hair, found.glasses, found.neck, found.cloth])
    torch.testing.assert_close(distance(p, f), surfaces.amin(0), **EXACT)
    assert surfaces.isfinite().all()
