"""pSp and e4e checkpoints to encoders: what their options mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from legato import cli
from legato.errors import ModelFileError
from legato.models import Generator, GeneratorConfig, ImageEncoder, load_encoder, load_generator, save_model
from legato.models.encoders import StyleEncoder
from legato.models.files import read_header
from legato.offline.networks import load_model
from tests.models.encoders.public import State, checkpoint, codes, random_state
from tests.models.formats.writers import rosinality_state
from tests.tolerances import ENCODER_ROUNDING

HEADS, DIM = 8, 128
PSP = {"encoder_type": "GradualStyleEncoder", "output_size": 32, "start_from_latent_avg": True, "learn_in_w": False}
E4E = {"encoder_type": "Encoder4Editing", "stylegan_size": 32, "start_from_latent_avg": True}


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(HEADS, DIM // 8)


@pytest.fixture(scope="module")
def average() -> Tensor:
    return torch.randn(HEADS, DIM, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def generator(resolution: int = 32, w_dim: int = DIM) -> Generator:
    config = GeneratorConfig(resolution, w_dim, w_dim, 2, channel_base=2 * resolution, channel_max=4)
    made = Generator(config).requires_grad_(False).eval()
    made.w_avg.normal_()
    return made


def both(path: Path, state: State, average: Tensor) -> Path:
    """An e4e checkpoint with its decoder."""
    names = {f"encoder.{name}": t for name, t in state.items()}
    names |= {f"decoder.{name}": t for name, t in rosinality_state(generator()).items()}
    torch.save({"state_dict": names, "latent_avg": average, "opts": E4E}, path)
    return path


def whole(state: State, images: Tensor, *, progressive: bool) -> Tensor:
    """Codes by the plain form, of images that are enlarged to 256 pixels."""
    large = torch.nn.functional.interpolate(images.double(), size=(256, 256), mode="bilinear", align_corners=False)
    return codes(state, large, HEADS, progressive=progressive)


@pytest.mark.parametrize(("opts", "progressive"), [(PSP, False), (E4E, True)])
def test_codes_of_a_checkpoint(
    tmp_path: Path, state: State, average: Tensor, images: Tensor, opts: dict[str, Any], progressive: bool
) -> None:
    encoder = load_encoder(checkpoint(tmp_path / "e.pt", state, average, **opts))
    assert isinstance(encoder, StyleEncoder)
    assert (encoder.config.resolution, encoder.config.num_layers, encoder.config.w_dim) == (32, HEADS, DIM)
    wanted = whole(state, images, progressive=progressive) + average
    torch.testing.assert_close(encoder.double()(images.double()), wanted, **ENCODER_ROUNDING)
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_converted_it_is_the_same_to_the_bit(tmp_path: Path, state: State, average: Tensor, images: Tensor) -> None:
    encoder = load_encoder(checkpoint(tmp_path / "e.pt", state, average, **E4E))
    save_model(encoder, tmp_path / "encoder.safetensors", meta={"origin": "e.pt"}, dtype=torch.float32)
    again = load_encoder(tmp_path)
    assert again.config == encoder.config
    assert again.digest == encoder.digest == read_header(tmp_path / "encoder.safetensors").digest
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name])
    assert torch.equal(again(images), encoder(images))


def test_a_folder_made_by_convert_is_a_model(tmp_path: Path, state: State, average: Tensor, images: Tensor) -> None:
    path = both(tmp_path / "e4e.pt", state, average)
    for network in ("generator", "encoder"):
        assert cli.main(["convert", str(path), str(tmp_path / "model"), "--network", network]) == 0
    encoder = load_encoder(tmp_path / "model", load_generator(tmp_path / "model"))
    assert torch.equal(encoder(images), load_encoder(path)(images))
    recipe = read_header(tmp_path / "model" / "encoder.safetensors").recipe
    assert recipe["origin"]["file"] == "e4e.pt"


def test_a_checkpoint_of_both_is_a_model(tmp_path: Path, state: State, average: Tensor) -> None:
    """For the offline commands, without converting it."""
    path = both(tmp_path / "e4e.pt", state, average)
    assert isinstance(load_model(str(path)).encoder, StyleEncoder)
    plain = tmp_path / "g.pt"
    torch.save({"g_ema": rosinality_state(generator()), "latent_avg": torch.zeros(DIM)}, plain)
    assert load_model(str(plain)).encoder is None
    assert isinstance(load_model(str(plain), encoder=str(path)).encoder, StyleEncoder)


@pytest.mark.parametrize("starts", [False, None])
def test_the_mean_latent_is_added_only_where_the_options_say_so(
    tmp_path: Path, state: State, average: Tensor, starts: bool | None
) -> None:
    opts = {name: value for name, value in PSP.items() if name != "start_from_latent_avg"}
    if starts is not None:
        opts["start_from_latent_avg"] = starts
    encoder = load_encoder(checkpoint(tmp_path / "e.pt", state, average, **opts))
    assert not encoder.state_dict()["latent_avg"].any()


def test_one_mean_latent_stands_for_all_layers(tmp_path: Path, state: State, average: Tensor) -> None:
    path = checkpoint(tmp_path / "e.pt", state, average[:1], **{**PSP, "learn_in_w": True})
    assert torch.equal(load_encoder(path).state_dict()["latent_avg"], average[:1].expand(HEADS, DIM))


def test_without_a_mean_latent_the_generators_is_taken(tmp_path: Path, state: State) -> None:
    path = checkpoint(tmp_path / "e.pt", state, None, **E4E)
    owner = generator()
    encoder = load_encoder(path, owner)
    assert torch.equal(encoder.state_dict()["latent_avg"], owner.w_avg.expand(HEADS, DIM))
    with pytest.raises(ModelFileError, match=r"starts from latent_avg and holds none\. Give the generator"):
        load_encoder(path)


def test_beside_its_decoder(tmp_path: Path, state: State, average: Tensor) -> None:
    """One file is both networks."""
    path = both(tmp_path / "e4e.pt", state, average)
    decoder = load_generator(path)
    encoder = load_encoder(path, decoder)
    picture = torch.rand(1, 3, 32, 32)
    assert decoder(encoder(picture)).shape == picture.shape


def test_size_from_the_options_or_the_heads(tmp_path: Path, state: State, average: Tensor) -> None:
    opts = {name: value for name, value in PSP.items() if name != "output_size"}
    assert load_encoder(checkpoint(tmp_path / "e.pt", state, average, **opts)).config.resolution == 32


def test_cars_drop_to_sixteen_layers(tmp_path: Path) -> None:
    state, average = random_state(18), torch.randn(18, DIM)
    opts = {"encoder_type": "Encoder4Editing", "stylegan_size": 512, "dataset_type": "cars_encode"}
    path = checkpoint(tmp_path / "e.pt", state, average, **opts, start_from_latent_avg=True)
    encoder = load_encoder(path)
    assert isinstance(encoder, StyleEncoder)
    assert (encoder.config.resolution, encoder.config.num_layers, encoder.config.wide) == (512, 16, True)
    assert torch.equal(encoder.latent_avg, average[:16])
    encoder.latent_avg.zero_()
    rows = torch.rand(1, 3, 192, 256)
    wide = torch.nn.functional.interpolate(rows, size=(384, 512), mode="nearest")
    image = torch.cat([torch.zeros(1, 3, 64, 512), wide, torch.zeros(1, 3, 64, 512)], 2)
    encoder, image = encoder.double(), image.double()
    wanted = codes(state, encoder.seen(image), 18, progressive=True)[:, :16]
    torch.testing.assert_close(encoder(image), wanted, **ENCODER_ROUNDING)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"encoder_type": "BackboneEncoderUsingLastLayerIntoW"}, "holds a 'BackboneEncoderUsingLastLayerIntoW'"),
    ({"encoder_type": None}, r"does not say which encoder it holds \(encoder_type\)"),
    ({"output_size": 64}, "holds an encoder of 8 layers; a generator of 64 pixels has 10"),
    ({"output_size": 2**40}, "says that its generator has 1099511627776 pixels"),
]


@pytest.mark.parametrize(("change", "told"), REFUSED)
def test_options_that_are_refused(
    tmp_path: Path, state: State, average: Tensor, change: dict[str, Any], told: str
) -> None:
    opts = {**PSP, **change}
    if opts["encoder_type"] is None:
        opts = {"start_from_latent_avg": True}
    with pytest.raises(ModelFileError, match=told):
        load_encoder(checkpoint(tmp_path / "e.pt", state, average, **opts))


def broken(state: State, how: str) -> State:
    changed = dict(state)
    if how == "missing":
        del changed["body.7.shortcut_layer.0.weight"]
    elif how == "more":
        changed["body.24.res_layer.0.weight"] = torch.ones(1)
    elif how == "shape":
        changed["styles.1.linear.weight"] = torch.ones(DIM, DIM + 1)
    elif how == "first":
        changed["input_layer.0.weight"] = torch.ones(16, 19, 3, 3)
    elif how == "nan":
        changed["latlayer1.bias"] = torch.full((DIM,), torch.nan)
    elif how == "heads":
        del changed["styles.3.linear.weight"]
    return changed


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("missing", r"body\.7\.shortcut_layer\.0\.weight is missing"),
        ("more", r"body\.24\.res_layer\.0\.weight.* is not known"),
        ("shape", r"styles\.1\.linear\.weight.* is \[128, 129\] where \[128, 128\] was wanted"),
        ("first", r"input_layer\.0\.weight.* is \[16, 19, 3, 3\] where \[16, 3, 3, 3\] was wanted"),
        ("nan", r"latlayer1\.bias.* holds values that are not finite"),
        ("heads", "holds an encoder of 3 layers"),
    ],
)
def test_tensors_that_are_refused(tmp_path: Path, state: State, average: Tensor, how: str, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        load_encoder(checkpoint(tmp_path / "e.pt", broken(state, how), average, **PSP))


def test_another_generator_is_told(tmp_path: Path, state: State, average: Tensor) -> None:
    path = checkpoint(tmp_path / "e.pt", state, average, **PSP)
    with pytest.raises(ModelFileError, match="of 8 layers; a generator of 64 pixels has 10"):
        load_encoder(path, generator(64))
    with pytest.raises(ModelFileError, match="does not fit the generator: w_dim 128 where 64 is wanted"):
        load_encoder(path, generator(w_dim=64))
    with pytest.raises(ModelFileError, match=r"latent_avg is \[3, 128\] where \[8, 128\] was wanted"):
        load_encoder(checkpoint(tmp_path / "f.pt", state, average[:3], **PSP))


def test_a_generator_alone_holds_no_encoder(tmp_path: Path) -> None:
    path = tmp_path / "g.pt"
    torch.save({"g_ema": rosinality_state(generator()), "latent_avg": torch.zeros(DIM)}, path)
    with pytest.raises(ModelFileError, match="holds no encoder"):
        load_encoder(path)


def test_a_folder_without_an_encoder_says_which_command_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=rf"legato train encoder --generator {tmp_path} --out FOLDER"):
        load_encoder(tmp_path)


def test_every_encoder_is_an_image_encoder(tmp_path: Path, state: State, average: Tensor) -> None:
    for encoder in (load_encoder("heads-128"), load_encoder(checkpoint(tmp_path / "e.pt", state, average, **PSP))):
        assert isinstance(encoder, ImageEncoder)
        assert encoder.w_avg.shape == (encoder.config.w_dim,)
