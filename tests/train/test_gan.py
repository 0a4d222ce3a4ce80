"""StyleGAN2 training: path length, mixing, lazy Adam, the mean w, and a run that goes on to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from legato.errors import LegatoError
from legato.models import load_generator, save_model
from legato.models.generator import Generator
from legato.train.gan import PATH_DECAY, W_AVG_DECAY, GanConfig, GanTraining, PathLength, lazy_adam, mix_styles
from tests.tolerances import EXACT, GENERATOR_ROUNDING, LOSS_ROUNDING
from tests.train.small import GENERATOR_16, Killed, assert_resumes_to_the_bit, heads, kill_after

CONFIG = GanConfig(
    GENERATOR_16, discriminator_base=128, images=17 * 4, batch=4, precision="float32", checkpoint_seconds=0
)


def training(folder: Path, config: GanConfig = CONFIG) -> GanTraining:
    data = heads(8, 16)
    return GanTraining(config, folder, lambda: data)


def test_path_length_is_the_norm_of_the_jacobian() -> None:
    """|J^T y| of every sample from the whole Jacobian, root mean square over layers, against its moving average."""
    net, penalty = Generator(replace(GENERATOR_16, resolution=8)).train(), PathLength()
    latents = torch.randn(2, net.num_layers, 8, requires_grad=True)
    state = torch.get_rng_state()
    image = net(latents, "none")
    found = penalty(image, latents)
    torch.set_rng_state(state)
    y = torch.randn_like(image) / 8
    lengths = []
    for b in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda w: net(w, "none").flatten(), latents[b : b + 1].detach(), create_graph=True
        )  # [3RR, 1, L, D]
        product = torch.einsum("pld,p->ld", jacobian[:, 0], y[b].flatten())
        lengths.append(product.square().sum(1).mean().sqrt())
    wanted_mean = PATH_DECAY * torch.stack(lengths).mean()
    wanted = (torch.stack(lengths) - wanted_mean).square().mean()
    torch.testing.assert_close(penalty.mean, wanted_mean.detach(), **GENERATOR_ROUNDING)
    torch.testing.assert_close(found, wanted, **GENERATOR_ROUNDING)
    weight = net.synthesis.block(8).conv0.weight
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (found, wanted)]
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(*gradients, **GENERATOR_ROUNDING)


def test_mixing_crosses_over_once() -> None:
    w, other = torch.zeros(64, 3), torch.ones(64, 3)
    random = torch.Generator().manual_seed(1)
    latents = mix_styles(w, other, 6, 1.0, random)
    assert latents.shape == (64, 6, 3)
    taken = latents[:, :, 0]
    assert (taken[:, 0] == 0).all()  # the first layer keeps its w,
    assert (taken[:, -1] == 1).all()  # the last one has the other,
    assert (taken.diff(dim=1) >= 0).all()  # and in between it changes once,
    assert set(taken.sum(1).tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}  # anywhere
    torch.testing.assert_close(mix_styles(w, other, 6, 0.0, random), torch.zeros(64, 6, 3), **EXACT)
    share = float(mix_styles(torch.zeros(4000, 1), torch.ones(4000, 1), 6, 0.9, random)[:, -1].mean())
    assert 0.87 < share < 0.93


def test_lazy_adam_slows_down_for_the_extra_step() -> None:
    (group,) = lazy_adam([torch.nn.Parameter(torch.zeros(1))], 0.002, 4).param_groups
    assert group["lr"] == pytest.approx(0.0016)
    assert group["betas"] == (0.0, pytest.approx(0.99**0.8))


def test_mean_w_follows_the_batches(tmp_path: Path) -> None:
    run = training(tmp_path)
    random = torch.Generator()
    random.set_state(run.random.get_state())
    z = torch.randn(8, 8, generator=random)
    with torch.no_grad():
        mean = run.generator.mapping(z)[:4].mean(0)
    run.step()
    torch.testing.assert_close(run.generator.w_avg, (1 - W_AVG_DECAY) * mean, **LOSS_ROUNDING)


def test_goes_on_to_the_bit(tmp_path: Path) -> None:
    """Killed after the 14th of 17 steps: regularizers, averages, optimizers and noise all go on where they were."""
    assert_resumes_to_the_bit(training, tmp_path, 14)


def test_writes_log_pictures_and_changes_the_networks(tmp_path: Path) -> None:
    run = training(tmp_path, replace(CONFIG, images=12, precision="bfloat16"))
    before = {name: p.detach().clone() for name, p in run.generator.named_parameters()}
    assert run.run()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows] == [4, 8, 12]
    assert {"fooled", "path", "real", "fake", "r1"} <= rows[-1].keys()
    assert (tmp_path / "samples.png").stat().st_size > 0
    still = [name for name, p in run.generator.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_exported_generator_gives_the_same_images(tmp_path: Path) -> None:
    run = training(tmp_path, replace(CONFIG, images=8))
    run.run()
    save_model(run.average, tmp_path / "generator.safetensors", meta={}, dtype=torch.float32)
    loaded = load_generator(tmp_path).train()
    z = torch.randn(2, 8)
    torch.testing.assert_close(loaded(loaded.map(z, 0.7)), run.average(run.average.map(z, 0.7)), **EXACT)


def test_training_that_goes_wrong_keeps_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        training(tmp_path).run(kill_after(3))
    good = (tmp_path / "checkpoint.pt").read_bytes()
    run = training(tmp_path)
    run.discriminator.b4.out.bias.data.fill_(float("nan"))
    with pytest.raises(LegatoError, match=r"went wrong by image 12: .*fooled.* is not finite"):
        run.run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
