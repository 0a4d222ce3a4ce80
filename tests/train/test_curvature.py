"""The curvature is measured: it tells how images change, and steps along it go further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from legato.cli import main
from legato.inversion.code import Correction
from legato.inversion.objective import Objective, squared
from legato.inversion.solve import Schedule, solve
from legato.losses import mse
from legato.models import Curvature, CurvatureConfig, load_curvature, save_model
from legato.train.curvature import CurvatureOptions, measure_curvature
from tests.pipeline.model import DIM, LAYERS, SIDE, Model, small_model, stream, to_image

SMALL = CurvatureOptions(images=24, probes=8, solved=8, steps=6, joint=8, batch=8)


@pytest.fixture(scope="module")
def model() -> Model:
    made = small_model()
    made.generator.requires_grad_(False)
    made.encoder.requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def images(model: Model) -> Tensor:
    return torch.cat([to_image(frame) for seed in range(4) for frame in stream(model, 8, seed)])


@pytest.fixture(scope="module")
def measured(model: Model, images: Tensor) -> Curvature:
    return measure_curvature(model.generator, model.encoder, lambda index: images[index], len(images), SMALL)


def test_it_tells_how_much_small_moves_change_the_image(model: Model, images: Tensor, measured: Curvature) -> None:
    with torch.no_grad():
        codes = model.encoder(images)
        changes, expected = [], []
        for flat in (0, LAYERS * DIM - 1):
            index = measured.sharpness.flatten().argsort()[flat]
            move = torch.zeros(LAYERS * DIM)
            move[index] = 1e-2
            moves = (measured.moves(move.view(1, LAYERS, DIM)) / measured.spread.flatten()[index]).expand(
                len(codes), -1, -1
            )
            changes.append(float(mse(model.generator(codes + moves), model.generator(codes)).mean()))
            expected.append(float(measured.sharpness.max() if flat else measured.sharpness.min()) * 1e-4)
    assert changes[1] > 20 * changes[0]
    assert 0.5 < changes[1] / expected[1] < 2.0


def test_steps_along_it_go_further(model: Model, images: Tensor, measured: Curvature) -> None:
    with torch.no_grad():
        encoded = model.encoder(images[24:])

    def reached(curvature: Curvature, lr: float) -> float:
        code = Correction(encoded, torch.zeros_like(encoded), curvature)
        found = solve(code, Objective((squared(images[24:]),)), Schedule(12, lr, betas=(0.7, 0.99)), model.generator)
        with torch.no_grad():
            return float(mse(model.generator(found.latents), images[24:]).mean())

    identity = Curvature(CurvatureConfig(LAYERS, DIM), spread=1.0)
    plain = min(reached(identity, lr) for lr in (0.01, 0.02, 0.04, 0.08))
    ours = min(reached(measured, lr) for lr in (0.1, 0.2, 0.4))
    assert ours < plain


def test_the_command_writes_what_the_server_reads(
    model: Model, images: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    save_model(model.generator, tmp_path / "generator.safetensors", meta={})
    save_model(model.encoder, tmp_path / "encoder.safetensors", meta={})
    data = tmp_path / "data"
    data.mkdir()
    for n, image in enumerate(images[:20]):
        pixels = ((image.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy().astype(np.uint8)
        cv2.imwrite(str(data / f"{n}.png"), pixels)
    made = [str(part) for part in ("train", "curvature", "--generator", tmp_path, "--data", data, "--out", tmp_path)]
    assert main([*made, "--images", "16", "--device", "cpu"]) == 0
    assert "curvature.safetensors: sha256" in capsys.readouterr().out
    found = load_curvature(tmp_path)
    assert found.spread.shape == (LAYERS, DIM)
    assert model.generator.config.resolution == SIDE
