"""From a generator and encoder of images that nothing is known of to a model that can be served: mapping, directions,
figures, card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from legato.editing.directions import save_directions
from legato.editing.sefa import sefa
from legato.evaluation.heads import sample
from legato.inversion.w_plus import w_plus
from legato.losses import psnr
from legato.models.encoder import Encoder, EncoderConfig
from legato.models.files import load_generator, load_own, save_model
from legato.models.generator import Generator
from legato.synthetic.dataset import Heads
from legato.train.card import write_own_card
from legato.train.mapping import encode_all, fit_normal
from legato.train.state import write_grid
from legato.train.training import chunks

DIRECTIONS = 10
JUDGED = 64  # held-out images that W+ steps are measured on
STEPS = 100
SHOWN = 12


def finish_own(
    generator: Generator,
    encoder: Encoder,
    images: Heads,
    held_out: Heads,
    folder: Path,
    *,
    recipe: dict[str, Any],
    say: Callable[[str], None] = lambda text: None,
    mapping_steps: int = 4000,
) -> dict[str, Any]:
    """Writes the networks, SeFa's directions, pictures, figures.json and MODEL_CARD.md; returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    generator.eval().requires_grad_(False).cpu()
    encoder.eval().requires_grad_(False).cpu()
    say("encoding the images, fitting the mapping network")
    left = fit_normal(generator, encoder, images, steps=mapping_steps)
    recipe = {**recipe, "mapping_variance_left": round(left, 4)}
    save_model(generator, folder / "generator.safetensors", meta=recipe)
    save_model(encoder, folder / "encoder.safetensors", meta=recipe)
    generator, encoder = load_generator(folder), load_own(folder, Encoder, EncoderConfig)
    write_sefa(folder)
    say("inverting held-out images")
    figures = {**judge_own(generator, encoder, images, held_out, folder), "recipe": recipe}
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_own_card(folder, generator, encoder, figures)
    return figures


def write_sefa(folder: Path, count: int = DIRECTIONS) -> None:
    """directions.safetensors of the generator in the folder: SeFa's, which need neither labels nor samples."""
    generator = load_generator(folder)
    found = sefa(generator, count=min(count, generator.config.w_dim))
    save_directions(found.directions(generator), folder / "directions.safetensors", provenance=found.provenance)


def judge_own(generator: Generator, encoder: Encoder, images: Heads, held_out: Heads, folder: Path) -> dict[str, Any]:
    """Inversion of held-out images in dB, beside what the mean image would have; pictures of it, and of samples."""
    codes = encode_all(encoder, held_out)
    single = codes.mean(1, keepdim=True).expand_as(codes)
    some = torch.linspace(0, len(held_out) - 1, min(JUDGED, len(held_out))).round().long()
    targets, _ = held_out.batch(some)
    moved = [
        w_plus(generator, target, start, layers=generator.num_layers, steps=STEPS).latents
        for target, start in zip(targets.split(16), codes[some].split(16), strict=True)
    ]
    mean = torch.from_numpy(images.images.mean(0)).float().div(127.5).sub(1)[None]
    shown = torch.linspace(0, len(some) - 1, min(SHOWN, len(some))).round().long()
    rows = [targets[shown], _made(generator, codes[some][shown]), _made(generator, torch.cat(moved)[shown])]
    write_grid(folder / "inversion.png", rows)
    write_grid(folder / "samples.png", sample(generator, 48, 0.7).split(12))
    return {
        "psnr_db": {
            "encoder": _quality(generator, codes, held_out),
            "encoder_single_w": _quality(generator, single, held_out),
            f"encoder_{STEPS}": float(psnr(_made(generator, torch.cat(moved)), targets).mean()),
            "mean_image": _against(mean, held_out),
        },
        "held_out": len(held_out),
    }


@torch.no_grad()
def _made(generator: Generator, codes: Tensor) -> Tensor:
    return torch.cat([generator(part) for part in codes.split(16)])


def _quality(generator: Generator, codes: Tensor, heads: Heads) -> float:
    """Mean PSNR in dB of all images through their codes."""
    total = 0.0
    for index in chunks(len(heads), 16):
        total += float(psnr(_made(generator, codes[index]), heads.batch(index)[0]).sum())
    return total / len(heads)


def _against(image: Tensor, heads: Heads) -> float:
    """Mean PSNR in dB of one image [1, 3, R, R] against all."""
    found = [psnr(image.expand(len(i), -1, -1, -1), heads.batch(i)[0]) for i in chunks(len(heads), 64)]
    return float(torch.cat(found).mean())
