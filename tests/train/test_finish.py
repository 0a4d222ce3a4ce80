"""From trained nets to a model that can be served, whole, at a tiny size: mapping, directions, figures, card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from legato.editing.directions import load_directions
from legato.evaluation.heads import sample
from legato.models.attributes import load_attributes
from legato.models.encoder import Encoder, EncoderConfig
from legato.models.encoder_files import load_encoder
from legato.models.files import load_generator
from legato.models.generator import Generator, GeneratorConfig
from legato.synthetic.dataset import Heads, read_shards, to_uint8
from legato.synthetic.factors import ATTRIBUTES, Z_DIM, attributes_of, sample_z, standard_deviations
from legato.synthetic.renderer import Renderer
from legato.train.attributes import explained, train_attributes
from legato.train.directions import HIGH, LOW, fit_direction, measure, render_pairs, set_length
from legato.train.finish import FinishOptions, attribute_networks, finish
from legato.train.mapping import encode_all, fit_mapping
from tests.tolerances import LENGTH

SIZE = 64


@pytest.fixture(scope="module")
def heads() -> Heads:
    """96 small renders, seeds 0..95 of the training split."""
    renderer = Renderer(SIZE, 1)
    batches = [renderer(sample_z(range(i, i + 16))) for i in range(0, 96, 16)]
    images = torch.cat([to_uint8(b.image) for b in batches]).numpy()
    masks = torch.cat([torch.nn.functional.avg_pool2d(torch.cat([b.eyes, b.mouth], 1), 2) for b in batches])
    return Heads(images, (masks * 255).to(torch.uint8).numpy(), torch.arange(96).numpy())


def nets() -> tuple[Generator, Encoder]:
    torch.manual_seed(3)
    generator = Generator(GeneratorConfig(SIZE, Z_DIM, 32, 2, channel_base=512, channel_max=32))
    encoder = Encoder(EncoderConfig(SIZE, generator.num_layers, 32, channel_base=512, channel_max=32))
    return generator.eval().requires_grad_(False), encoder.eval().requires_grad_(False)


def test_pairs_differ_in_one_attribute_alone() -> None:
    pairs = render_pairs(Renderer(SIZE, 1), "mouth_open", [5, 6], standard_deviations()["mouth_open"])
    z = sample_z([5, 6])
    column = ATTRIBUTES.index("mouth_open")
    assert pairs.change.min() > 2
    difference = (pairs.high - pairs.low).abs().mean(1)
    rows = difference.mean((0, 2))
    assert rows[SIZE // 2 :].sum() > 5 * rows[: SIZE // 2].sum()  # the mouth is in the lower half
    assert LOW < HIGH
    assert attributes_of(z)[:, column].shape == (2,)


def test_mapping_learns_the_codes_and_moves_the_mean_without_changing_the_encoder(heads: Heads) -> None:
    generator, encoder = nets()
    many = Heads(heads.images.repeat(8, 0)[:600], heads.masks.repeat(8, 0)[:600], heads.seeds.repeat(8)[:600])
    before = encode_all(encoder, heads)
    rough = fit_mapping(generator, encoder, many, steps=1)
    fitted = fit_mapping(generator, encoder, many, steps=150)
    assert fitted < 0.5 * rough
    torch.testing.assert_close(encode_all(encoder, heads), before, **LENGTH)
    torch.testing.assert_close(generator.w_avg, encoder.w_avg, **LENGTH)
    w = generator.map(sample_z([1]))
    assert (w == w[:, :1]).all()


def test_attribute_network_reads_what_it_was_shown(heads: Heads) -> None:
    network = train_attributes(heads, epochs=24, seed=1)
    found = explained(network, heads, "train")
    assert found["skin_tone"] > 0.5
    assert found["background_value"] > 0.5
    assert set(found) == set(ATTRIBUTES)


def test_length_is_set_by_what_the_network_reads(heads: Heads) -> None:
    generator, encoder = nets()
    network = train_attributes(heads, epochs=2, seed=1)
    codes = encode_all(encoder, heads)[:16]
    raw = torch.randn(codes.shape[1:])
    wanted = measure(generator, network, codes, "skin_tone", raw * 1.5).response
    found = set_length(generator, network, codes, "skin_tone", raw, wanted=wanted)
    got = measure(generator, network, codes, "skin_tone", found)
    assert got.response >= min(wanted, got.response)
    assert 0.1 <= float(found.norm() / raw.norm()) <= 3.0 + LENGTH["rtol"]


def test_refining_brings_the_edit_nearer_to_the_truth(heads: Heads) -> None:
    generator, encoder = nets()
    pairs = render_pairs(Renderer(SIZE, 1), "background_value", range(8), standard_deviations()["background_value"])

    def error(direction: torch.Tensor) -> float:
        with torch.no_grad():
            codes = encoder(pairs.low)
            moved = generator(codes + pairs.change[:, None, None] * direction, "none") - generator(codes, "none")
            return float((moved - (pairs.high - pairs.low)).square().mean())

    assert error(fit_direction(generator, encoder, pairs, steps=40)) < error(
        fit_direction(generator, encoder, pairs, steps=0)
    )


def test_finish_writes_a_model_that_loads(tmp_path: Path, heads: Heads) -> None:
    generator, encoder = nets()
    many = Heads(heads.images.repeat(8, 0), heads.masks.repeat(8, 0), heads.seeds.repeat(8))
    said: list[str] = []
    figures = finish(
        generator,
        encoder,
        many,
        heads,
        tmp_path,
        work=tmp_path / "work",
        recipe={"commit": "none"},
        options=FinishOptions(pairs=2, refine_steps=2, inversion_steps=2, long_steps=2, frechet_samples=64),
        networks=attribute_networks(many, tmp_path / "work", epochs=1),
        say=said.append,
    )
    loaded = load_generator(tmp_path)
    assert load_attributes(tmp_path).digest == load_attributes(tmp_path / "work" / "attributes-12.safetensors").digest
    assert load_encoder(tmp_path).config == encoder.config
    directions = load_directions(tmp_path, generator_digest=loaded.digest)
    assert set(directions.names) == set(ATTRIBUTES)
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert loaded.digest[:16] in card
    assert f"{figures['psnr_db']['encoder']:.2f}" in card
    assert sample(loaded, 4, 0.7).shape == (4, 3, SIZE, SIZE)
    assert any("mapping" in line for line in said)


def test_no_renders_in_a_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="legato render"):
        read_shards(tmp_path)
