"""Protocols: what their clips are said to be is what they are; renders are made once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from legato.editing.directions import load_directions
from legato.errors import ConfigError, InvalidEdit, InvalidInput
from legato.evaluation.footage import folder_clips
from legato.evaluation.known import away
from legato.evaluation.rendered import rendered_clips, rendered_frames
from legato.evaluation.synthetic import REACH, synthetic_clips
from legato.models import load_generator
from legato.models.attributes import load_attributes
from legato.synthetic.clips import clip_flow, clip_z, render_clip
from legato.synthetic.dataset import from_uint8
from legato.synthetic.factors import ATTRIBUTES, attributes_of, standard_deviations
from legato.synthetic.renderer import Renderer
from tests.evaluation.small import save_judged_model
from tests.tolerances import ATTRIBUTE_CHANGE, LOSS_ROUNDING

SIDE = 16


class Counting(Renderer):
    """A renderer that counts its pictures."""

    drawn = 0

    def __call__(self, z: Tensor) -> object:  # type: ignore[override]
        self.drawn += len(z)
        return super().__call__(z)


def test_rendered_clips_are_what_the_renderer_makes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    renderer = Renderer(SIDE, 1)
    found = rendered_clips(
        renderer,
        tmp_path,
        clips=2,
        frames=3,
        fps=10.0,
        attributes=("yaw",),
        strength=0.5,
        seed=4,
        progress=lambda done, total: told.append((done, total)),
    )
    assert [clip.name for clip in found.clips] == ["head 4000", "head 4001"]
    assert told[-1] == (2 * 3 * 3, 2 * 3 * 3)
    clip = found.clips[1]
    wanted = render_clip(renderer, 4001, 4, 3, "eval", fps=10.0)
    torch.testing.assert_close(clip.frames, from_uint8(torch.from_numpy(wanted.images).permute(0, 3, 1, 2)))
    assert clip.motion is not None
    torch.testing.assert_close(clip.motion.flow, clip_flow(wanted.z, SIDE)[0])
    column = ATTRIBUTES.index("yaw")
    mean = attributes_of(wanted.z)[:, column].mean() / standard_deviations()["yaw"]
    change = torch.full((3,), -0.5 if mean > 0 else 0.5)
    torch.testing.assert_close(clip.truths["yaw"].change, change, **ATTRIBUTE_CHANGE)
    assert clip.truths["yaw"].images.shape == clip.frames.shape


def test_renders_are_made_once_and_again_where_they_are_damaged(tmp_path: Path) -> None:
    def drawn(**changes: float) -> int:
        renderer = Counting(SIDE, 1)
        settings = {"clips": 2, "frames": 2, "strength": 1.0, **changes}
        rendered_clips(renderer, tmp_path, attributes=("yaw",), **settings)  # type: ignore[arg-type]
        return renderer.drawn

    assert drawn() == 2 * 2 * 2
    assert drawn() == 0
    assert drawn(strength=0.5) == 2 * 2, "frames are kept, the edit is another"
    assert drawn(clips=3) == 2 * 2
    first = max((tmp_path / "rendered").glob("*.npz"), key=lambda path: path.stat().st_size)
    first.write_bytes(b"broken")
    assert drawn() <= 2
    assert drawn() == 0


def test_heads_at_the_end_of_an_attribute_move_too(tmp_path: Path) -> None:
    fringes = torch.stack([attributes_of(clip_z(i, 0, 1))[0, ATTRIBUTES.index("fringe")] for i in range(4)])
    assert (fringes == 0).any()
    assert (fringes > 0).any()
    found = rendered_clips(Renderer(SIDE, 1), tmp_path, clips=4, frames=1, attributes=("fringe",), strength=1.0)
    change = torch.cat([clip.truths["fringe"].change for clip in found.clips])
    assert (change[fringes == 0] > 0).all()
    assert (change[fringes > 0] != 0).all()
    assert all(clip.motion is None for clip in found.clips), "one frame does not move"
    with pytest.raises(InvalidInput, match=r"no attribute 'age'; there are yaw"):
        rendered_clips(Renderer(SIDE, 1), tmp_path, attributes=("age",))


def test_frames_alone_are_those_of_the_clips_and_come_from_the_same_folder(tmp_path: Path) -> None:
    whole = rendered_clips(Renderer(SIDE, 1), tmp_path, clips=2, frames=3, fps=25.0)
    renderer = Counting(SIDE, 1)
    told: list[tuple[int, int]] = []
    alone = rendered_frames(renderer, tmp_path, clips=3, frames=3, progress=lambda *done: told.append(done))
    assert renderer.drawn == 3, "the third clip alone"
    assert all(torch.equal(a, b.frames) for a, b in zip(alone, whole.clips, strict=False))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        rendered_clips(Renderer(SIDE, 1), tmp_path / "file", clips=1, frames=1)


def test_edits_lead_away_from_the_end() -> None:
    assert (away(0.3, 2.0), away(-0.3, 2.0)) == (-2.0, 2.0)


def test_synthetic_clips_are_the_generator_s(tmp_path: Path) -> None:
    folder = save_judged_model(tmp_path / "model")
    generator, directions, network = load_generator(folder), load_directions(folder), load_attributes(folder)
    found = synthetic_clips(generator, directions, clips=3, frames=4, attributes=("smile",), strength=2.0, seed=3)
    assert [clip.name.rpartition(" ")[2] for clip in found.clips] == ["yaw", "smile", "yaw"]
    for clip in found.clips:
        assert clip.latents is not None
        shown = generator(clip.latents).clamp(-1, 1)
        torch.testing.assert_close(clip.frames, shown, **LOSS_ROUNDING)
        step = directions.vector(clip.name.rpartition(" ")[2]) * 2 * REACH / 3
        torch.testing.assert_close(clip.latents.diff(dim=0), step.expand(3, -1, -1), **LOSS_ROUNDING)
        truth = clip.truths["smile"]
        moved = generator(clip.latents + truth.change[:, None, None] * directions.vector("smile")).clamp(-1, 1)
        torch.testing.assert_close(truth.images, moved, **LOSS_ROUNDING)
        assert truth.change.tolist() == [2.0] * 4, "nothing read them: edits go up"
    read = synthetic_clips(generator, directions, clips=3, frames=4, attributes=("smile",), seed=3, network=network)
    column = network.config.names.index("smile")
    for clip in read.clips:
        mean = network.standardized(clip.frames)[:, column].mean()
        assert clip.truths["smile"].change.sign().tolist() == [-float(mean.sign())] * 4
    with pytest.raises(InvalidEdit, match="no direction is named 'age'"):
        synthetic_clips(generator, directions, clips=1, attributes=("age",))


def test_clips_of_a_folder(tmp_path: Path) -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    for name, count in (("b", 5), ("a", 2), ("c", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), picture + 40 * index)
    (tmp_path / "a" / "0.png").write_bytes(b"no picture")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.png").write_bytes(b"no picture")
    found = folder_clips(tmp_path, SIDE, clips=3, frames=4, attributes=("smile",), strength=1.5)
    assert [(clip.name, len(clip.frames)) for clip in found.clips] == [("a", 1), ("b", 4), ("c", 1)]
    assert found.clips[1].frames.shape == (4, 3, SIDE, SIDE)
    assert found.clips[1].motion is not None
    assert found.clips[1].amounts == {"smile": 1.5}
    text = "\n".join(found.told)
    assert "a/0.png is no image" in text
    assert "bad" in text
    assert "30x20 -> 16x16, letterboxed" in text
    fewer = folder_clips(tmp_path, SIDE, clips=1, frames=4)
    assert [clip.name for clip in fewer.clips] == ["a"]
    assert "b: 1 clips come before it (--clips)" in fewer.told


def test_a_folder_without_clips(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is no folder"):
        folder_clips(tmp_path / "nowhere", SIDE)
    with pytest.raises(ConfigError, match="holds neither images"):
        folder_clips(tmp_path, SIDE)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"holds no clip that can be read: .*a\.png"):
        folder_clips(tmp_path, SIDE)
