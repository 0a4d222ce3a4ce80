"""The joint training: through its phases, to the bit after a kill, and down in its loss; its recipe at other sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from legato.errors import ConfigError
from legato.models import load_encoder, load_generator
from legato.models.files import read_header
from legato.train.joint import HEADS_128, JointConfig, JointTraining, Phase, single_w
from legato.train.recipes import Options, export_joint, joint_config, joint_phases
from tests.tolerances import EXACT, HALF_STORAGE
from tests.train.small import ENCODER_64, GENERATOR_64, assert_resumes_to_the_bit, heads

PHASES = (Phase(16, 8, 8), Phase(64, 8, 4), Phase(64, 16, 4, adversarial=0.1))
CONFIG = JointConfig(
    GENERATOR_64,
    ENCODER_64,
    discriminator_base=64,
    phases=PHASES,
    warmup_discriminator_images=4,
    precision="float32",
    checkpoint_seconds=0,
)


def training(folder: Path, config: JointConfig = CONFIG) -> JointTraining:
    data = heads(8, 64)
    return JointTraining(config, folder, lambda: data, data)


def test_goes_on_to_the_bit(tmp_path: Path) -> None:
    """Killed after the 6th of 7 steps, in the adversarial phase."""
    assert_resumes_to_the_bit(training, tmp_path, 6)


def test_goes_on_where_a_phase_begins(tmp_path: Path) -> None:
    """The optimizers are made anew before the adversarial phase; the checkpoint between the two has the new ones."""
    assert_resumes_to_the_bit(training, tmp_path, 4)


def test_a_finished_training_stays_finished(tmp_path: Path) -> None:
    run = training(tmp_path)
    assert run.total_images == 32
    run.run()
    again = training(tmp_path)
    assert again.finished
    assert again.run(lambda batch, values: pytest.fail("a finished training made a step"))
    assert again.images == 32


def test_phases_bring_their_losses(tmp_path: Path) -> None:
    run = training(tmp_path)
    seen: list[set[str]] = []
    run.run(lambda batch, values: seen.append(set(values)))
    ours, judge = {"rebuilt", "spread"}, {"real", "fake"}
    assert seen == [ours, ours, ours, judge, *[ours | judge | {"fooled"}] * 3]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == [1, 1, 2, 2, 2, 2, 2]
    assert {"psnr_db", "single_w_psnr_db"} <= rows[-1].keys()


def test_encoder_alone_begins_from_the_averages_and_leaves_the_generator(tmp_path: Path) -> None:
    phases = (Phase(16, 32, 8), Phase(64, 32, 8, encoder_alone=True))
    run = training(tmp_path, replace(CONFIG, phases=phases, checkpoint_seconds=1e9))
    averages: list[dict[str, torch.Tensor]] = []
    codes: list[torch.Tensor] = []
    x = run.evaluation.batch(torch.arange(2))[0]

    def look(batch: int, values: object) -> None:
        with torch.no_grad():
            codes.append(run.average_encoder(x))
        averages.append({name: t.clone() for name, t in run.average_generator.state_dict().items()})

    run.run(look)
    for name, frozen in averages[3].items():
        torch.testing.assert_close(averages[-1][name], frozen, **EXACT)
        torch.testing.assert_close(run.generator.state_dict()[name], frozen, **EXACT)
    assert not torch.equal(codes[3], codes[-1])
    assert any(not torch.equal(averages[0][name], averages[3][name]) for name in averages[0])


def test_encoder_alone_runs_where_no_fused_op_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases = (Phase(64, 8, 8), Phase(64, 8, 8, encoder_alone=True))
    monkeypatch.setattr("legato.train.joint.live_backends", lambda device: {"modulated_conv2d": "missing"})
    run = training(tmp_path, replace(CONFIG, phases=phases, checkpoint_seconds=1e9))
    modes: list[bool] = []
    run.run(lambda batch, values: modes.append(run.generator.training))
    assert modes == [True, True]


def test_learns_a_small_set(tmp_path: Path) -> None:
    run = training(tmp_path, replace(CONFIG, phases=(Phase(16, 60 * 8, 8, rate=1e-2),), checkpoint_seconds=1e9))
    losses: list[float] = []
    run.run(lambda batch, values: losses.append(float(values["rebuilt"])))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_single_w_replaces_the_first_codes_by_their_mean() -> None:
    codes = torch.randn(3, 10, 4)
    found = single_w(codes, 2)
    torch.testing.assert_close(found[:2], codes[:2].mean(1, keepdim=True).expand(2, 10, 4), **EXACT)
    torch.testing.assert_close(found[2], codes[2], **EXACT)


def test_recipe_of_heads_128_is_the_default() -> None:
    assert joint_phases(128) == HEADS_128
    config = joint_config(128, Options())
    assert (config.generator.channel_base, config.generator.channel_max, config.discriminator_base) == (4096, 256, 2048)
    assert config.encoder == JointConfig(GENERATOR_64, type(ENCODER_64)()).encoder


@pytest.mark.parametrize("resolution", [64, 256])
def test_recipe_at_another_resolution(resolution: int) -> None:
    phases = joint_phases(resolution, images=10_000, batch=8)
    assert [p.resolution for p in phases][-2:] == [resolution, resolution]
    assert sorted({p.resolution for p in phases}) == [2**k for k in range(4, resolution.bit_length())]
    assert [p.adversarial > 0 for p in phases] == [False] * (len(phases) - 2) + [True, False]
    assert [p.encoder_alone for p in phases] == [False] * (len(phases) - 1) + [True]
    assert abs(sum(p.images for p in phases) - 10_000) < len(phases)
    assert (phases[0].batch, phases[-1].batch) == (16, 8)
    assert phases[-3].rate_end < phases[-3].rate  # cools down once, before the adversarial phase


def test_recipe_refuses_a_size_that_no_encoder_has() -> None:
    with pytest.raises(ConfigError, match="power of two of at least 32; got 16"):
        joint_config(16, Options())


def test_exported_files_give_the_same_images(tmp_path: Path) -> None:
    data = heads(520, 64)
    run = JointTraining(replace(CONFIG, phases=PHASES[:1]), tmp_path, lambda: data, data)
    run.run()
    x, _ = data.batch(torch.arange(3))
    with torch.no_grad():
        wanted = run.average_generator(run.average_encoder(x), "none")
    folder = export_joint(run, data, {"recipe": "joint"}, weights_only=True, say=lambda text: None, mapping_steps=2)
    generator, encoder = load_generator(folder), load_encoder(folder)
    found = generator(encoder(x), "none")
    assert float((found - wanted).abs().max() / wanted.std()) < HALF_STORAGE
    assert float(generator.w_avg.abs().max()) > 0  # the mean of the codes
    recipe = read_header(folder / "generator.safetensors").recipe
    assert recipe["recipe"] == "joint"
    assert "mapping_variance_left" in recipe
