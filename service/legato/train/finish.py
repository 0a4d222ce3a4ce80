"""From a trained generator and encoder to a model that can be served: mapping, directions, figures, card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from legato.editing.directions import Directions, save_directions
from legato.evaluation.editability import Response
from legato.evaluation.heads import fidelity, sample, sample_distance
from legato.models.attributes import AttributeNetwork, load_attributes, save_attributes
from legato.models.encoder import Encoder, EncoderConfig
from legato.models.files import load_generator, load_own, save_model
from legato.models.generator import Generator
from legato.synthetic.dataset import Heads
from legato.synthetic.renderer import Renderer
from legato.train.attributes import explained, train_attributes
from legato.train.card import DESCRIPTIONS, write_card
from legato.train.directions import all_pairs, fit_direction, measure, read_heads, set_length
from legato.train.mapping import encode_all, fit_mapping
from legato.train.state import write_grid
from legato.types import DirectionInfo

FITTING_SEED, JUDGING_SEED = 11, 12  # two attribute networks: one sets lengths, the other measures them


@dataclass(frozen=True, slots=True)
class FinishOptions:
    """Sizes of the fits and of the measurements."""

    pairs: int = 48  # heads for each direction
    refine_steps: int = 60
    inversion_steps: int = 100
    long_steps: int = 500
    frechet_samples: int = 2048
    compiled: bool = False  # render with torch.compile


def attribute_networks(
    heads: Heads, folder: Path, *, epochs: int = 8, say: Callable[[str], None] = lambda text: None
) -> tuple[AttributeNetwork, AttributeNetwork]:
    """The two networks of a data set, trained once and kept in `folder`: one sets lengths, the other measures them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in (FITTING_SEED, JUDGING_SEED):
        file = folder / f"attributes-{seed}.safetensors"
        if not file.exists():
            say(f"training attribute network {seed}")
            recipe = {"seed": seed, "epochs": epochs, "images": len(heads)}
            save_attributes(train_attributes(heads, epochs=epochs, seed=seed), file, recipe=recipe)
        found.append(load_attributes(file))
    return found[0], found[1]


def fit_weights(
    generator: Generator,
    encoder: Encoder,
    heads: Heads,
    folder: Path,
    recipe: dict[str, Any],
    mapping_steps: int = 8000,
) -> tuple[Generator, Encoder, float]:
    """Fits the mapping, writes both networks, and returns them as they are shipped, rounded to float16.

    The last number is the share of w's variance that the mapping leaves on z that it was not fitted on.
    """
    generator.eval().requires_grad_(False)
    encoder.eval().requires_grad_(False)
    codes = encode_all(encoder, heads)
    left = fit_mapping(generator.cpu(), encoder.cpu(), heads, codes=codes, steps=mapping_steps)
    recipe = {**recipe, "mapping_variance_left": round(left, 4)}
    folder.mkdir(parents=True, exist_ok=True)
    save_model(generator, folder / "generator.safetensors", meta=recipe)
    save_model(encoder, folder / "encoder.safetensors", meta=recipe)
    return load_generator(folder), load_own(folder, Encoder, EncoderConfig), left


def fit_directions(
    generator: Generator,
    encoder: Encoder,
    held_out: Heads,
    networks: tuple[AttributeNetwork, AttributeNetwork],
    work: Path,
    options: FinishOptions,
    say: Callable[[str], None],
) -> tuple[Directions, dict[str, Response]]:
    """A direction for every attribute, its length set by one network and its response measured by the other."""
    fitting, judging = networks
    codes = encode_all(encoder, held_out)
    judged = codes[:128]
    before = read_heads(generator, judging, judged)
    found, responses = {}, {}
    renderer = Renderer(generator.config.resolution, compiled=options.compiled)
    for name, pairs in all_pairs(work / "pairs", renderer, options.pairs):
        raw = fit_direction(generator, encoder, pairs, steps=options.refine_steps)
        found[name] = set_length(generator, fitting, codes[-64:], name, raw)
        responses[name] = measure(generator, judging, judged, name, found[name], before=before)
        say(f"{name}: response {responses[name].response:.2f}, leakage {responses[name].leakage:.2f}")
    infos = {n: DirectionInfo(n, DESCRIPTIONS[n], r.response, r.leakage) for n, r in responses.items()}
    return Directions(found, infos, generator_digest=generator.digest), responses


def judge(
    generator: Generator,
    encoder: Encoder,
    judging: AttributeNetwork,
    heads: Heads,
    held_out: Heads,
    folder: Path,
    options: FinishOptions,
) -> dict[str, Any]:
    """Inversion of held-out heads and samples, in figures and in the pictures of the card."""
    quality = fidelity(generator, encoder, held_out, steps=options.inversion_steps, long_steps=options.long_steps)
    samples, renders = sample_distance(generator, judging, heads, options.frechet_samples)
    write_grid(folder / "inversion.png", quality.rows)
    write_grid(folder / "samples.png", sample(generator, 48, 0.7).split(12))
    return {
        "psnr_db": {k: v for k, v in asdict(quality).items() if k != "rows"},
        "frechet": {"samples": samples, "renders": renders},
        "attributes": explained(judging, held_out, "eval"),
    }


def finish(
    generator: Generator,
    encoder: Encoder,
    heads: Heads,
    held_out: Heads,
    folder: Path,
    *,
    work: Path,
    recipe: dict[str, Any],
    options: FinishOptions | None = None,
    networks: tuple[AttributeNetwork, AttributeNetwork] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Writes the networks, directions, pictures and MODEL_CARD.md into `folder`; returns the figures.

    `work` keeps what does not depend on the model (attribute networks, renders of pairs) for the next time.
    """
    options = options or FinishOptions()
    say("encoding the renders, fitting the mapping")
    generator, encoder, left = fit_weights(generator, encoder, heads, folder, recipe)
    networks = networks or attribute_networks(heads, work, say=say)
    directions, responses = fit_directions(generator, encoder, held_out, networks, work, options, say)
    save_directions(directions, folder / "directions.safetensors", provenance=recipe)
    ship_judge(networks[1], folder, heads)
    say("inverting held-out heads")
    figures = judge(generator, encoder, networks[1], heads, held_out, folder, options)
    write_report(folder, generator, encoder, figures, left, responses, recipe)
    return figures


def ship_judge(network: AttributeNetwork, folder: Path, heads: Heads) -> None:
    """Writes the judging network beside the model, for `legato evaluate`: nothing was fitted with it."""
    recipe = {"seed": JUDGING_SEED, "images": len(heads), "use": "measures directions and evaluations; fitted nothing"}
    save_attributes(network, folder / "attributes.safetensors", recipe=recipe)


def write_report(
    folder: Path,
    generator: Generator,
    encoder: Encoder,
    figures: dict[str, Any],
    left: float,
    responses: dict[str, Response],
    recipe: dict[str, Any],
) -> None:
    """figures.json and MODEL_CARD.md from all that was measured; `figures` receives the rest."""
    figures["mapping_variance_left"] = left
    figures["directions"] = {name: asdict(response) for name, response in responses.items()}
    figures["recipe"] = recipe
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_card(folder, generator, encoder, figures)
