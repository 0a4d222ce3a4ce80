"""A residual encoder in training: it learns what its encoder misses, its streams live on, and it goes on to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from legato.models import Encoder, load_residual_encoder, save_model
from legato.models.generator import Generator
from legato.synthetic.clips import RUN
from legato.train.residual import STEPS, ResidualConfig, ResidualTraining
from tests.tolerances import EXACT
from tests.train.small import ENCODER_64, GENERATOR_64, assert_resumes_to_the_bit, heads

CONFIG = ResidualConfig(images=3 * 8, batch=8, pool=4, restart=0.5, precision="float32", checkpoint_seconds=0)


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, Encoder]:
    torch.manual_seed(3)
    generator = Generator(GENERATOR_64).requires_grad_(False)
    generator.w_avg.copy_(torch.randn(GENERATOR_64.w_dim))
    encoder = Encoder(ENCODER_64).requires_grad_(False)
    encoder.w_avg.copy_(generator.w_avg)
    return generator, encoder


def training(folder: Path, networks: tuple[Generator, Encoder], config: ResidualConfig) -> ResidualTraining:
    data, runs = heads(4, 64), heads(4 * RUN, 64, seed=1)
    return ResidualTraining(config, folder, *networks, lambda: data, runs, data, runs)


def test_begins_as_its_encoder(tmp_path: Path, networks: tuple[Generator, Encoder]) -> None:
    figures = training(tmp_path, networks, CONFIG).figures()
    assert figures["psnr3_db"] == figures["psnr2_db"] == figures["psnr1_db"] == figures["psnr0_db"]
    assert figures["carried_psnr_db"] == figures["run_psnr_db"]


def test_learns_what_the_encoder_misses(tmp_path: Path, networks: tuple[Generator, Encoder]) -> None:
    config = replace(CONFIG, images=8 * 60, checkpoint_seconds=1e9, rate=3e-2, ema_images=1, restart=0.1)
    before = [p.clone() for network in networks for p in network.parameters()]
    training(tmp_path, networks, config).run()
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert row["psnr0_db"] + 0.5 < row["psnr1_db"] < row["psnr2_db"]
    assert row["carried_psnr_db"] > row["run_psnr_db"] + 0.5
    assert {"rebuilt1", "rebuilt2", "unsteady", "correction"} <= row.keys()
    after = [p for network in networks for p in network.parameters()]
    assert all(torch.equal(now, then) for now, then in zip(after, before, strict=True))


def test_streams_live_on(tmp_path: Path, networks: tuple[Generator, Encoder]) -> None:
    """Without restarts every visit changes the corrections of the streams it visits, and no others."""
    run = training(tmp_path, networks, replace(CONFIG, restart=0.0, carried=0.5, rate=1e-2))
    runs = run.streams.run.clone()
    run.step()  # the first moves codes by nothing but the gradient
    before = run.streams.correction.clone()
    run.step()
    changed = (run.streams.correction != before).flatten(1).any(1)
    assert int(changed.sum()) == CONFIG.batch // STEPS // 2
    while not run.streams.correction.flatten(1).any(1).all():
        run.step()
    assert torch.equal(run.streams.run, runs)


def test_a_restarted_stream_starts_at_the_encoder(tmp_path: Path, networks: tuple[Generator, Encoder]) -> None:
    run = training(tmp_path, networks, replace(CONFIG, restart=1.0, inherit=0.0, carried=1.0))
    run.streams.correction.fill_(1.0)
    batch = run._draw()
    assert not batch.correction.any()
    assert len(batch.streams) == CONFIG.batch // STEPS
    inheriting = training(tmp_path / "b", networks, replace(CONFIG, restart=1.0, inherit=1.0, carried=1.0))
    inheriting.streams.correction.fill_(1.0)
    assert inheriting._draw().correction.all()


def test_the_frames_of_a_stream_are_neighbors_of_one_run(tmp_path: Path, networks: tuple[Generator, Encoder]) -> None:
    run = training(tmp_path, networks, replace(CONFIG, carried=1.0))
    rows = run.runs.batch(torch.arange(len(run.runs)))[0]
    batch = run._draw()
    first, second = ([_place(rows, image) for image in images] for images, _ in batch.frames)
    for a, b, head in zip(first, second, run.streams.run[batch.streams].tolist(), strict=True):
        assert abs(a - b) == 1
        assert a // RUN == b // RUN == head


def _place(rows: torch.Tensor, image: torch.Tensor) -> int:
    (place,) = [i for i, row in enumerate(rows) if torch.equal(row, image)]
    return place


def test_goes_on_to_the_bit(tmp_path: Path, networks: tuple[Generator, Encoder]) -> None:
    assert_resumes_to_the_bit(lambda folder: training(folder, networks, CONFIG), tmp_path, 2)


def test_exported_gives_the_same_steps(tmp_path: Path, networks: tuple[Generator, Encoder]) -> None:
    run = training(tmp_path, networks, replace(CONFIG, images=8))
    run.run()
    save_model(run.average, tmp_path / "residual_encoder.safetensors", meta={}, dtype=torch.float32)
    x, w = torch.randn(2, 3, 64, 64), torch.randn(2, 10, 16)
    expected = run.average.eval()(x, -x, w)
    assert expected.any()
    torch.testing.assert_close(load_residual_encoder(tmp_path)(x, -x, w), expected, **EXACT)
