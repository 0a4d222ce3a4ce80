"""Perceptual networks: which maps, in which normalization, from which files; what is said when one is not there."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from legato.errors import BackendUnavailable, InvalidInput, ModelFileError
from legato.losses import l1, mse, perceptual_distance
from legato.models import perceptual
from legato.models.attributes import AttributeNetwork, AttributesConfig, save_attributes
from legato.models.perceptual import (
    SLICES,
    VGG16,
    AttributeTrunk,
    Slices,
    at_side,
    load_lpips,
    load_perceptual,
    load_vgg16,
)
from tests.tolerances import FEATURE_ROUNDING, LOSS_ROUNDING

# torchvision's vgg16 up to relu4_3, written as its `features` print: numbers are channels, M is pooling.
LAYOUT = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512)


def vgg_state(prefix: str = "features.") -> dict[str, Tensor]:
    state, position, channels = {}, 0, 3
    for width in LAYOUT:
        if isinstance(width, int):
            state[f"{prefix}{position}.weight"] = torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
            state[f"{prefix}{position}.bias"] = 0.1 * torch.randn(width)
            channels = width
        position += 2 if isinstance(width, int) else 1
    return state


def run(state: dict[str, Tensor], x: Tensor, ends: tuple[int, ...], prefix: str = "features.") -> list[Tensor]:
    """torchvision's `features[:end]` for each end, layer by layer."""
    maps, position = [], 0
    for width in LAYOUT:
        if isinstance(width, int):
            x = F.relu(F.conv2d(x, state[f"{prefix}{position}.weight"], state[f"{prefix}{position}.bias"], padding=1))
        else:
            x = F.max_pool2d(x, 2)
        position += 2 if isinstance(width, int) else 1
        if position in ends:
            maps.append(x)
    return maps


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, 32, 32) * 2 - 1


def close(actual: list[Tensor], expected: list[Tensor]) -> None:
    """In units of each map's spread: Caffe's features are of order 100."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a / b.std(), b / b.std(), **FEATURE_ROUNDING)


def test_slices_of_the_consecutive_images_code(image: Tensor, tmp_path: Path) -> None:
    """features[:2], [:4], [:14], [:21], fed [0, 1] without a mean, at 256 pixels, bilinear."""
    state = vgg_state()
    torch.save(state, tmp_path / "vgg16.pth")
    found = load_vgg16(SLICES["consecutive"], tmp_path / "vgg16.pth").features(image[:1])
    fed = F.interpolate(image[:1] * 0.5 + 0.5, size=(256, 256), mode="bilinear", align_corners=False)
    close(found, run(state, fed, (2, 4, 14, 21)))


def test_slice_of_the_multi_code_prior(image: Tensor, tmp_path: Path) -> None:
    """features[:16] of images normalized as torchvision's training was."""
    state = vgg_state()
    save_file(state, tmp_path / "vgg16.safetensors")
    network = load_vgg16(at_side(SLICES["multi_code"], None), tmp_path / "vgg16.safetensors")
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    fed = (image * 0.5 + 0.5 - mean[:, None, None]) / deviation[:, None, None]
    close(network.features(image), run(state, fed, (16,)))


def test_slice_of_in_domain_inversion_is_fed_bgr_bytes(image: Tensor, tmp_path: Path) -> None:
    state = vgg_state("layer")
    torch.save(state, tmp_path / "vgg16.pth")
    network = load_vgg16(at_side(SLICES["in_domain"], None), tmp_path / "vgg16.pth")
    fed = (image * 127.5 + 127.5).flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    close(network.features(image), run(state, fed, (23,), "layer"))


def test_weights_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    torch.save(vgg_state("layer"), tmp_path / "caffe.pth")
    with pytest.raises(ModelFileError, match=r"holds VGG16 of caffe.*slices made for caffe: in_domain$"):
        load_vgg16(SLICES["multi_code"], tmp_path / "caffe.pth")


def test_missing_weights_name_file_option_and_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelFileError, match=r"option weights.*checkpoints/vgg16-397923af\.pth.*'attributes'.*pyramid"):
        load_perceptual("vgg16-consecutive")
    with pytest.raises(ModelFileError, match=r"Caffe's weights.*option weights"):
        load_perceptual("vgg16-in_domain")
    with pytest.raises(ModelFileError, match=r"no weights of vgg16 at .*nowhere\.pth"):
        load_perceptual("vgg16-consecutive", tmp_path / "nowhere.pth")
    with pytest.raises(ModelFileError, match=r"heads-128"):
        load_perceptual("attributes")


def test_torchvisions_cache_is_found(image: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(vgg_state(), tmp_path / "checkpoints" / "vgg16-397923af.pth")
    network = load_perceptual("vgg16-multi_code")
    assert [list(x.shape) for x in network.features(image[:1])] == [[1, 256, 64, 64]]


def test_damaged_and_incomplete_files(tmp_path: Path) -> None:
    (tmp_path / "noise.pth").write_bytes(b"no weights at all")
    with pytest.raises(ModelFileError, match=r"noise\.pth cannot be read as a state dict"):
        load_vgg16(SLICES["multi_code"], tmp_path / "noise.pth")
    state = vgg_state()
    del state["features.10.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(ModelFileError, match=r"part\.pth does not fit its network: 10\.bias is \[256\], found nothing"):
        load_vgg16(SLICES["multi_code"], tmp_path / "part.pth")


def test_names() -> None:
    with pytest.raises(InvalidInput, match="no perceptual network is named 'vgg19'; there are: vgg16-consecutive"):
        load_perceptual("vgg19")
    with pytest.raises(ValueError, match=r"named relu1_1 \.\.\. relu5_3"):
        VGG16(Slices(("relu1_3",), "none"))
    assert VGG16(Slices(("relu5_3",), "none")).relus[-1] == "relu5_3"
    with pytest.raises(ValueError, match=r"with R >= 16; got \[3, 32, 32\]"):
        VGG16(SLICES["multi_code"]).features(torch.zeros(3, 32, 32))


def test_distance_is_the_sum_of_the_maps_means(image: Tensor) -> None:
    found = [torch.rand(2, 4, 8, 8), torch.rand(2, 6, 4, 4)]
    wanted = [torch.rand(2, 4, 8, 8), torch.rand(2, 6, 4, 4)]
    squares = sum((mse(a, b) for a, b in zip(found, wanted, strict=True)), start=torch.zeros(2))
    absolute = sum((l1(a, b) for a, b in zip(found, wanted, strict=True)), start=torch.zeros(2))
    torch.testing.assert_close(perceptual_distance(found, wanted), squares, **LOSS_ROUNDING)
    torch.testing.assert_close(perceptual_distance(found, wanted, "l1"), absolute, **LOSS_ROUNDING)
    with pytest.raises(ValueError, match="maps of one network"):
        perceptual_distance(found, wanted[:1])


def test_trunk_compares_directions_of_maps(tmp_path: Path) -> None:
    network = AttributeNetwork(AttributesConfig(("yaw", "smile"), width=4, features=8)).eval()
    save_attributes(network, tmp_path / "attributes.safetensors", recipe={})
    trunk = load_perceptual("attributes", tmp_path / "attributes.safetensors")
    assert isinstance(trunk, AttributeTrunk)
    one, other = torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 3, 64, 64) * 2 - 1
    expected = torch.zeros(1)
    for a, b in zip(trunk.network.maps(one), trunk.network.maps(other), strict=True):
        expected += 2 - 2 * F.cosine_similarity(a, b).mean((1, 2))
    torch.testing.assert_close(
        perceptual_distance(trunk.features(one), trunk.features(other)), expected, **LOSS_ROUNDING
    )
    dark = one.clone()
    dark[..., :32] = 0  # where every channel is 0, a length has no derivative
    dark.requires_grad_()
    (gradient,) = torch.autograd.grad(perceptual_distance(trunk.features(dark), trunk.features(other)), dark)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning", "ignore:Arguments other than a weight")
@pytest.mark.parametrize("backbone", ["alex", "vgg", "squeeze"])
def test_lpips_is_the_packages(backbone: str, tmp_path: Path) -> None:
    """On random backbones: the learned linear weights come with the package, the backbones do not."""
    if find_spec("lpips") is None:
        pytest.skip("the extra `perceptual` is not installed")
    drawn = perceptual._import_lpips().LPIPS(net=backbone, pnet_rand=True, verbose=False)
    state = {"features." + name.split(".", 1)[1]: t for name, t in drawn.net.state_dict().items()}
    torch.save(state, tmp_path / "backbone.pth")
    network = load_lpips(backbone, tmp_path / "backbone.pth")
    one, other = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = drawn.eval()(one, other).flatten()
        found = perceptual_distance(network.features(one), network.features(other))
    torch.testing.assert_close(found, expected, **FEATURE_ROUNDING)


def test_lpips_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(BackendUnavailable, match=r"legato\[perceptual\].*pyramid"):
        load_perceptual("lpips-alex")


def test_lpips_has_three_backbones() -> None:
    with pytest.raises(InvalidInput, match="alex, vgg and squeeze; got 'vgg19'"):
        load_lpips("vgg19")
