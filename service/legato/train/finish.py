"""From a trained generator and encoder to a model that can be served: mapping, directions, figures, card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from legato.editing.directions import Directions, save_directions
from legato.evaluation.heads import fidelity, sample, sample_distance
from legato.models.attributes import AttributeNetwork
from legato.models.encoder import Encoder
from legato.models.files import load_encoder, load_generator, save_model
from legato.models.generator import Generator
from legato.synthetic.dataset import Heads
from legato.synthetic.renderer import Renderer
from legato.train.attributes import explained, train_attributes
from legato.train.card import DESCRIPTIONS, write_card
from legato.train.directions import fit_all, measure
from legato.train.mapping import encode_all, fit_mapping
from legato.train.state import write_grid
from legato.types import DirectionInfo

FITTING_SEED, JUDGING_SEED = 11, 12  # two attribute networks: one sets lengths, the other measures them


def finish(
    generator: Generator,
    encoder: Encoder,
    heads: Heads,
    held_out: Heads,
    folder: Path,
    *,
    recipe: dict[str, Any],
    renderer: Renderer | None = None,
    attribute_epochs: int = 8,
    pairs: int = 48,
    steps: int = 100,
    long_steps: int = 500,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Writes generator, encoder, directions, pictures and MODEL_CARD.md into `folder`; returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    generator.eval().requires_grad_(False)
    encoder.eval().requires_grad_(False)
    say("encoding the renders")
    with torch.no_grad():
        left = fit_mapping(generator, encoder, heads, codes=encode_all(encoder, heads))
    say(f"mapping fitted: {left:.3f} of w's variance left on held-out z")
    save_model(generator, folder / "generator.safetensors", meta=recipe)
    save_model(encoder, folder / "encoder.safetensors", meta=recipe)
    generator, encoder = load_generator(folder), load_encoder(folder)  # as they are shipped: rounded to float16
    networks: dict[int, AttributeNetwork] = {}
    for seed in (FITTING_SEED, JUDGING_SEED):
        networks[seed] = train_attributes(heads, epochs=attribute_epochs, seed=seed)
        say(f"attribute network {seed} trained")
    figures: dict[str, Any] = {
        "mapping_variance_left": left,
        "attributes": explained(networks[JUDGING_SEED], held_out, "eval"),
    }
    codes = encode_all(encoder, held_out)
    found = fit_all(
        generator,
        encoder,
        networks[FITTING_SEED],
        renderer or Renderer(generator.config.resolution),
        codes[-64:],
        pairs=pairs,
        progress=lambda name: say(f"direction {name}"),
    )
    responses = {n: measure(generator, networks[JUDGING_SEED], codes[:128], n, d) for n, d in found.items()}
    infos = {n: DirectionInfo(n, DESCRIPTIONS[n], r.response, r.leakage) for n, r in responses.items()}
    directions = Directions(found, infos, generator_digest=generator.digest)
    save_directions(directions, folder / "directions.safetensors", provenance=recipe)
    figures["directions"] = {n: asdict(r) for n, r in responses.items()}
    say("inverting held-out heads")
    quality = fidelity(generator, encoder, held_out, steps=steps, long_steps=long_steps)
    figures["psnr_db"] = {k: v for k, v in asdict(quality).items() if k != "rows"}
    figures["frechet"] = dict(
        zip(("samples", "renders"), sample_distance(generator, networks[JUDGING_SEED], heads), strict=True)
    )
    write_grid(folder / "inversion.png", quality.rows)
    write_grid(folder / "samples.png", sample(generator, 48, 0.7).split(12))
    figures["recipe"] = recipe
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_card(folder, generator, encoder, figures)
    return figures
