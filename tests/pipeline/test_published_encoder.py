"""A pSp or e4e checkpoint behind `legato serve` and the tracker, as legato's own encoder is."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from legato import cli, config
from legato.commands.serve import build_engine
from legato.editing.directions import Directions, save_directions
from legato.errors import LegatoError, ModelFileError
from legato.models import Generator, GeneratorConfig, load_encoder, load_generator, save_model
from legato.pipeline import Pipeline
from legato.types import DirectionInfo, Frame, FrameJob, Outputs
from tests.models.encoders.public import checkpoint, random_state
from tests.tolerances import EXACT

SIDE, LAYERS, DIM = 32, 8, 128
ALL = Outputs(latents=True)
OPTS = {"encoder_type": "Encoder4Editing", "stylegan_size": SIDE, "start_from_latent_avg": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a generator and directions, without an encoder; e4e.pt beside them."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(SIDE, DIM, DIM, 2, channel_base=256, channel_max=8))
    save_model(generator, folder / "generator.safetensors", meta={}, dtype=torch.float32)
    digest = load_generator(folder).digest
    directions = Directions(
        {"smile": torch.ones(LAYERS, DIM)}, {"smile": DirectionInfo("smile", "", 1.0, 0.0)}, generator_digest=digest
    )
    save_directions(directions, folder / "directions.safetensors", provenance={})
    state = random_state(LAYERS, DIM // 8)
    for name, tensor in state.items():
        if "linear" in name:
            state[name] = 0.02 * tensor  # codes of the size of w
    checkpoint(folder / "e4e.pt", state, torch.zeros(LAYERS, DIM), **OPTS)
    return folder


@pytest.fixture(scope="module")
def frame() -> Frame:
    return Frame(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def test_the_tracker_starts_from_its_codes_and_refines_them(model: Path, frame: Frame) -> None:
    generator = load_generator(model)
    encoder = load_encoder(model / "e4e.pt", generator)
    directions = Directions({}, {}, generator_digest=generator.digest)
    pipeline = Pipeline(generator, encoder, directions, slots=2, max_steps=4)
    plain, refined = pipeline.run([FrameJob(slot, 0, frame, max_steps=4 * slot, outputs=ALL) for slot in range(2)])
    assert not isinstance(plain, LegatoError)
    assert not isinstance(refined, LegatoError)
    image = torch.from_numpy(frame.pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert plain.latents is not None
    torch.testing.assert_close(torch.as_tensor(plain.latents), encoder(image.expand(2, -1, -1, -1))[0], **EXACT)
    assert refined.steps == 4
    assert refined.psnr_db > plain.psnr_db


def test_serve_takes_it(model: Path) -> None:
    settings = {"engine.model": str(model), "engine.max_sessions": "1", "engine.batch_buckets": "1"}
    with pytest.raises(ModelFileError, match=r"--encoder FILE.*or train one with: legato train encoder --generator"):
        build_engine(config.load(None, flags=settings).engine)
    with_encoder = settings | {"engine.encoder": str(model / "e4e.pt")}
    engine = build_engine(config.load(None, flags=with_encoder).engine)
    assert engine.model.layers == LAYERS


def test_invert_takes_it(model: Path, tmp_path: Path, frame: Frame) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), frame.pixels[..., ::-1])
    more = ["--encoder", str(model / "e4e.pt"), "--method", "encoder", "--device", "cpu", "--precision", "float32"]
    out = tmp_path / "out"
    assert cli.main(["invert", str(tmp_path / "face.png"), "--model", str(model), "--out", str(out), *more]) == 0
    report = out / "face" / "report.json"
    assert json.loads(report.read_text())["encoder_psnr_db"] is not None


def test_a_training_goes_on_from_it(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = ["--generator", str(model), "--out", str(out), "--batch", "4", "--images", "8", "--device", "cpu"]
    command = ["train", "encoder", "--init", str(model / "e4e.pt"), *common, "--precision", "float32"]
    assert cli.main(command) == 0
    before, after = load_encoder(model / "e4e.pt"), load_encoder(out / "model", load_generator(model))
    assert after.config == before.config
    changed = [
        name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    ]
    assert any(name.startswith("body.") for name in changed)
    assert not any("running_" in name for name in changed)
    assert json.loads((out / "run.json").read_text())["config"]["init"] == before.digest
