"""The generator against the public implementation's output, against the published form, and against itself."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from legato.models import Generator, GeneratorConfig
from legato.models.generator import SynthesisLayer
from tests.models.golden import IMAGES, golden_generator, golden_z
from tests.tolerances import BFLOAT16_IMAGE, DOUBLE_GRADIENT, GENERATOR_ROUNDING, PUBLISHED_IMAGE

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"


def small(resolution: int = 32, **sizes: int) -> GeneratorConfig:
    defaults = {"z_dim": 16, "w_dim": 24, "mapping_layers": 2, "channel_base": 256, "channel_max": 32}
    return GeneratorConfig(resolution, **(defaults | sizes))


def ready(config: GeneratorConfig | None = None) -> Generator:
    """A generator for inference whose noise and biases are not zero."""
    generator = Generator(config or small())
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith((".noise_strength", ".bias")):
                parameter.add_(0.2 * torch.randn_like(parameter))
        generator.w_avg.normal_()
    return generator.requires_grad_(False).eval()


def close(actual: Tensor, expected: Tensor, bound: float) -> bool:
    """Whether the largest difference is within `bound` of the expected image's standard deviation."""
    return bool((actual - expected).abs().max() <= bound * expected.std())


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the public implementation's vectors are not beside the repository")
def test_agrees_with_the_public_implementation() -> None:
    state = load_file(FIXTURES / "nvidia_64_state.safetensors")
    vectors = np.load(FIXTURES / "nvidia_64_io.npz")
    generator = Generator(GeneratorConfig(64, 512, 512, 2, 0.01, 2048, 64, conv_clamp=256.0))
    generator.load_state_dict({name: t for name, t in state.items() if not name.endswith("resample_filter")})
    generator.requires_grad_(False).eval()
    from_w = generator(torch.from_numpy(vectors["w"]))
    from_z = generator(generator.map(torch.from_numpy(vectors["z"]), truncation=0.7))
    assert close(from_w, torch.from_numpy(vectors["image_w"]), PUBLISHED_IMAGE)
    assert close(from_z, torch.from_numpy(vectors["image_z"]), PUBLISHED_IMAGE)


def test_golden_images() -> None:
    generator = golden_generator()
    images = np.load(IMAGES)
    latents = generator.map(golden_z(), truncation=0.7)
    assert close(generator(latents), torch.from_numpy(images["fixed"]), PUBLISHED_IMAGE)
    assert close(generator(latents, "none"), torch.from_numpy(images["none"]), PUBLISHED_IMAGE)


def published_layer(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    """Karras et al. 2020, equations 1 and 3, word for word: one kernel a sample, scaled and then demodulated."""
    weight, batch = layer.weight, x.shape[0]
    styles = F.linear(w, layer.affine.weight / math.sqrt(w.shape[1]), layer.affine.bias)
    kernels = weight[None] * styles[:, None, :, None, None]
    kernels = kernels / (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    rows = []
    for x_b, kernel in zip(x, kernels, strict=True):
        if layer.up == 2:
            taps = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])).to(x) / 16
            y = F.conv_transpose2d(x_b[None], kernel.transpose(0, 1), stride=2)
            y = F.conv2d(F.pad(y, (1, 1, 1, 1)).transpose(0, 1), taps[None, None]).transpose(0, 1)
        else:
            y = F.conv2d(x_b[None], kernel, padding=1)
        rows.append(y)
    y = torch.cat(rows) + layer.noise_const * layer.noise_strength + layer.bias[:, None, None]
    assert y.shape[0] == batch
    return F.leaky_relu(y, 0.2) * math.sqrt(2)


@pytest.mark.parametrize("up", [1, 2])
def test_a_layer_is_the_published_one(up: int) -> None:
    layer = SynthesisLayer(6, 5, 8 * up, w_dim=7, up=up, clamp=None).double().requires_grad_(False).eval()
    layer.noise_strength.fill_(0.3)
    layer.bias.normal_()
    x, w = torch.randn(3, 6, 8, 8).double(), torch.randn(3, 7).double()
    actual = layer(x, layer.affine(w), "fixed")
    torch.testing.assert_close(actual, published_layer(layer, x, w), **GENERATOR_ROUNDING)


@pytest.mark.parametrize(
    ("resolution", "base", "most"), [(8, 64, 512), (16, 512, 24), (32, 96, 7), (64, 512, 16), (128, 512, 16)]
)
def test_shapes_follow_the_channel_table(resolution: int, base: int, most: int) -> None:
    config = small(resolution, channel_base=base, channel_max=most)
    generator = Generator(config).requires_grad_(False).eval()
    layers = 2 * int(math.log2(resolution)) - 2
    latents = generator.map(torch.randn(2, 16))
    styles = generator.styles(latents)
    assert generator.num_layers == layers
    assert latents.shape == (2, layers, 24)
    sizes = [4 * 2**k for k in range(int(math.log2(resolution)) - 1)]
    expected = [min(base // 4, most)] * 2
    for r in sizes[1:]:
        expected += [min(base // (r // 2), most), min(base // r, most), min(base // r, most)]
    assert [s.shape for s in styles] == [(2, c) for c in expected]
    assert generator.synthesize(styles).shape == (2, 3, resolution, resolution)


@pytest.mark.parametrize("resolution", [4, 8, 16])
def test_head_and_tail_make_the_whole(resolution: int) -> None:
    generator = ready()
    styles = generator.styles(generator.map(torch.randn(2, 16)))
    features = generator.head(styles, resolution)
    assert features.x.shape[2:] == (resolution, resolution)
    assert torch.equal(generator.tail(features, styles, resolution), generator.synthesize(styles))
    assert torch.equal(generator.synthesize(styles, max_resolution=resolution), features.rgb)


def test_w_plus_index_of_every_layer() -> None:
    """The latent of layer l moves nothing below its own block: b4 has 0, ToRGB shares with the next block's conv0."""
    generator = ready()
    latents = generator.map(torch.randn(1, 16))
    for layer in range(generator.num_layers):
        moved = latents.clone()
        moved[:, layer] += 1
        for index, r in enumerate(generator.config.resolutions):
            image, other = generator(latents, max_resolution=r), generator(moved, max_resolution=r)
            first = layer // 2  # the block in which the layer acts first: conv1 on even, ToRGB on odd ones
            assert torch.equal(image, other) == (index < first), (layer, r)


def test_noise() -> None:
    generator = ready()
    styles = generator.styles(generator.map(torch.randn(2, 16)))
    fixed, none = generator.synthesize(styles), generator.synthesize(styles, "none")
    assert torch.equal(fixed, generator.synthesize(styles))
    assert not torch.equal(fixed, none)
    first, second = generator.synthesize(styles, "random"), generator.synthesize(styles, "random")
    assert not torch.equal(first, second)
    same_w = [s[:1].repeat(2, 1) for s in styles]
    drawn = generator.synthesize(same_w, "random")
    assert not torch.equal(drawn[0], drawn[1])


def test_truncation_moves_towards_the_mean() -> None:
    generator = ready()
    z = torch.randn(3, 16)
    whole = generator.map(z)
    assert torch.equal(whole, whole[:, :1].expand_as(whole))
    half = generator.map(z, truncation=0.5)
    torch.testing.assert_close(half, (whole + generator.w_avg) / 2, **GENERATOR_ROUNDING)
    assert torch.equal(generator.map(z, truncation=0.0), generator.w_avg.expand_as(whole))
    torch.testing.assert_close(generator.map(5 * z), whole, **GENERATOR_ROUNDING)


def test_training_and_inference_agree_and_kept_constants_follow_the_weights() -> None:
    generator = ready()
    latents = generator.map(torch.randn(2, 16))

    def live() -> Tensor:
        generator.train()
        image: Tensor = generator(latents)
        generator.eval()
        return image

    before = generator(latents)
    torch.testing.assert_close(before, live(), **GENERATOR_ROUNDING)
    with torch.no_grad():  # as an optimizer or an average of weights writes, without leaving evaluation mode
        for parameter in generator.parameters():
            parameter.mul_(1.1)
    after = generator(latents)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, live(), **GENERATOR_ROUNDING)
    other = ready()
    generator.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(generator(latents), other(latents))
    assert torch.equal(copy.deepcopy(generator)(latents), other(latents))


def test_gradients_reach_latents_after_inference_mode() -> None:
    generator = ready()
    latents = generator.map(torch.randn(2, 16))
    with torch.inference_mode():
        generator(latents)
    free = latents.clone().requires_grad_(True)
    generator(free).square().mean().backward()
    assert free.grad is not None
    assert bool((free.grad.abs().amax(dim=(0, 2)) > 0).all())


def test_gradients_reach_every_weight_in_training() -> None:
    generator = Generator(small())
    generator(generator.map(torch.randn(2, 16)), "random").square().mean().backward()
    assert [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_stays_close(training: bool) -> None:
    generator = ready(small(64)).train(training)
    latents = generator.map(torch.randn(2, 16))
    exact = generator(latents)
    generator.autocast_dtype = torch.bfloat16
    rough = generator(latents)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean().sqrt() < BFLOAT16_IMAGE * exact.std()


def test_wrong_sizes_are_told() -> None:
    generator = ready()
    with pytest.raises(ValueError, match=r"z is \[B, 16\]; got \[2, 15\]"):
        generator.map(torch.randn(2, 15))
    with pytest.raises(ValueError, match=r"latents are \[B, 8, 24\]; got \[2, 7, 24\]"):
        generator.styles(torch.randn(2, 7, 24))
    with pytest.raises(ValueError, match=r"one of \[4, 8, 16, 32\] pixels; got 64"):
        generator(torch.randn(1, 8, 24), max_resolution=64)
    with pytest.raises(ValueError, match="a power of two of at least 8; got 48"):
        GeneratorConfig(48)
    with pytest.raises(ValueError, match="channel_base is at least the resolution"):
        GeneratorConfig(128, channel_base=64)


def test_noise_may_be_given_as_maps() -> None:
    generator = ready()
    latents = torch.randn(2, generator.num_layers, generator.config.w_dim)
    convolutions = [module for module in generator.modules() if isinstance(module, SynthesisLayer)]
    maps = [layer.noise_const[None, None] for layer in convolutions]
    assert torch.equal(generator(latents, maps), generator(latents))
    styles = generator.styles(latents)
    halves = generator.tail(generator.head(styles, 8, maps), styles, 8, maps)
    assert torch.equal(halves, generator(latents))
    doubled = [*maps[:-1], 2 * maps[-1]]
    assert not torch.equal(generator(latents, doubled), generator(latents))
    with pytest.raises(ValueError, match="noise is given as 7 maps"):
        generator(latents, maps[1:])


def test_maps_of_noise_have_gradients() -> None:
    generator = ready().double()
    latents = torch.randn(1, generator.num_layers, generator.config.w_dim, dtype=torch.float64)
    convolutions = [module for module in generator.modules() if isinstance(module, SynthesisLayer)]
    maps = [layer.noise_const[None, None].clone().requires_grad_() for layer in convolutions]
    styles = generator.styles(latents)
    probe = torch.randn_like(generator.head(styles, 32).x)  # the image itself is summed in float32

    def along(maps: list[Tensor]) -> Tensor:
        return (generator.head(styles, 32, maps).x * probe).sum()

    gradients = torch.autograd.grad(along(maps), maps)
    direction = [torch.randn_like(noise) for noise in maps]
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (
            along([noise + sign * step * d for noise, d in zip(maps, direction, strict=True)]) for sign in (1, -1)
        )
    expected = torch.stack([(g * d).sum() for g, d in zip(gradients, direction, strict=True)]).sum()
    torch.testing.assert_close((ahead - behind) / (2 * step), expected, **DOUBLE_GRADIENT)
