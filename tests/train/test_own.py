"""From somebody's clip to a model folder: frames in, held-out frames out of the training, mapping, directions, card."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from legato.commands._train_options import hold_out
from legato.editing.directions import load_directions
from legato.errors import ConfigError
from legato.images import fit
from legato.models import Encoder, Generator
from legato.models.files import read_header
from legato.offline.networks import load_model
from legato.offline.reading import Timing
from legato.offline.video import write_video
from legato.train.data import open_data
from legato.train.frames import HoldOut
from legato.train.mapping import fit_normal
from legato.train.own import finish_own
from tests.tolerances import CODEC_LEVELS, EXACT, GENERATOR_ROUNDING, SAMPLED_DEVIATION
from tests.train.small import ENCODER_64, GENERATOR_64, heads


def write_clip(path: Path, count: int = 12, height: int = 32, width: int = 48) -> Path:
    """Frames of one gray that rises, with white sides beside the central square."""
    frames = np.full((count, height, width, 3), 255, np.uint8)
    side = (width - height) // 2
    frames[:, :, side:-side] = (np.arange(count) * 10 + 20)[:, None, None, None]
    write_video(path, frames, Timing(Fraction(25), Fraction(1, 25), tuple(range(count))))
    return path


def test_a_clip_is_its_frames_and_the_last_ones_are_held_out(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    data = open_data(clip, 16, tmp_path / "cache", hold_out=HoldOut(last=3))
    assert not data.rendered
    levels = [part.images[:, 0, 8, 8].astype(int) for part in (data.train(), data.held_out())]
    assert [len(part) for part in levels] == [9, 3]
    wanted = np.arange(12) * 10 + 20
    assert np.abs(np.concatenate(levels) - wanted).max() < CODEC_LEVELS
    assert data.train().images.max() < 200  # the white sides are cropped
    assert len(open_data(clip, 16, tmp_path / "cache").held_out()) == 1  # a tenth, and one at least
    whole = open_data(clip, 16, tmp_path / "cache", square=fit).train()
    assert whole.images[:, :, 8, 0].min() > 200
    assert whole.images[:, :, 0, 8].max() < 60  # the bars above


def test_what_is_held_out_of_images() -> None:
    assert HoldOut(every=4).of(9).nonzero()[0].tolist() == [0, 4, 8]
    assert HoldOut(last=2).of(5).nonzero()[0].tolist() == [3, 4]
    assert (hold_out("last:7"), hold_out("0.25")) == (HoldOut(last=7), HoldOut(every=4))
    assert (str(hold_out("last:7")), str(hold_out("0.25"))) == ("last:7", "0.25")


def test_a_clip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ConfigError, match=r"bad\.mp4 cannot be read"):
        open_data(tmp_path / "bad.mp4", 16, tmp_path / "cache")
    clip = write_clip(tmp_path / "clip.mp4", count=4)
    with pytest.raises(ConfigError, match=r"--hold-out last:4 keeps 4 of the 4 images of .*leave at least one"):
        open_data(clip, 16, tmp_path / "cache", hold_out=HoldOut(last=4))


def networks() -> tuple[Generator, Encoder]:
    torch.manual_seed(0)
    generator, encoder = Generator(GENERATOR_64).eval(), Encoder(ENCODER_64).eval()
    with torch.no_grad():
        encoder.offset_weight.normal_()
    return generator, encoder


def test_the_mapping_gets_mean_and_spread_of_the_codes() -> None:
    generator, encoder = networks()
    data = heads(40, 64)
    x = data.batch(torch.arange(4))[0]
    with torch.no_grad():
        before = encoder(x)
        codes = torch.cat([encoder(data.batch(torch.arange(i, i + 8))[0]) for i in range(0, 40, 8)])
    left = fit_normal(generator, encoder, data, steps=600)
    assert left < 0.1
    w = codes.mean(1)
    drawn = generator.map(torch.randn(4000, 64))[:, 0]
    spread = w.std(0).norm()
    assert float((drawn.mean(0) - w.mean(0)).norm() / spread) < SAMPLED_DEVIATION
    assert abs(float(drawn.std(0).norm() / spread) - 1) < 2 * SAMPLED_DEVIATION
    torch.testing.assert_close(generator.w_avg, w.mean(0), **GENERATOR_ROUNDING)
    torch.testing.assert_close(encoder.w_avg, w.mean(0), **GENERATOR_ROUNDING)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), before, **GENERATOR_ROUNDING)  # only what it is told around has moved


def test_what_a_finished_model_holds(tmp_path: Path) -> None:
    generator, encoder = networks()
    images, held_out = heads(24, 64), heads(3, 64, seed=1)
    recipe = {"recipe": "joint", "data": "24 frames of clip.mp4", "square": "crop"}
    figures = finish_own(generator, encoder, images, held_out, tmp_path, recipe=recipe, mapping_steps=5)
    assert {path.name for path in tmp_path.iterdir()} == {
        "generator.safetensors", "encoder.safetensors", "directions.safetensors", "figures.json", "MODEL_CARD.md",
        "inversion.png", "samples.png",
    }  # fmt: skip
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    quality = figures["psnr_db"]
    assert quality["encoder_100"] > quality["encoder"]
    model = load_model(str(tmp_path))
    assert (model.square, model.encoder_psnr) == ("crop", quality["encoder"])
    found = load_directions(tmp_path, generator_digest=model.generator.digest)
    assert found.names == tuple(sorted(f"sefa_{k}" for k in range(10)))
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "# A model of 24 frames of clip.mp4" in card
    assert f"{quality['encoder']:.2f}" in card
    assert read_header(tmp_path / "encoder.safetensors").recipe["square"] == "crop"
    x = held_out.batch(torch.arange(1))[0]
    torch.testing.assert_close(model.networks.encode(x).shape, torch.Size([1, 10, 16]), **EXACT)
