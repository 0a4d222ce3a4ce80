# ruff: noqa: E501 (Markdown tables are one line a row)
"""The model cards: of a model of rendered heads, and of one of somebody's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from legato.models.encoder import Encoder
from legato.models.files import read_header
from legato.models.generator import Generator

DESCRIPTIONS = {
    "yaw": "head turned to the viewer's right",
    "pitch": "head lowered",
    "roll": "head tilted counter-clockwise",
    "mouth_open": "mouth open",
    "smile": "corners of the mouth up",
    "blink": "eyes closed",
    "gaze_x": "eyes to the viewer's right",
    "gaze_y": "eyes up",
    "brow_raise": "eyebrows raised",
    "hair_length": "longer hair",
    "hair_volume": "fuller hair",
    "hair_tone": "hair from black over brown and red to blond, gray",
    "fringe": "fringe",
    "beard": "beard",
    "glasses": "glasses",
    "skin_tone": "lighter skin",
    "eye_color": "eyes from brown over green to blue",
    "lip_color": "redder lips",
    "jaw_width": "wider jaw",
    "brow_thickness": "thicker eyebrows",
    "light_azimuth": "light from the viewer's right",
    "background_value": "brighter background",
}


def _millions(module: Generator | Encoder) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"


def _judge(folder: Path) -> str:
    """The row of the attribute network, where one goes with the model."""
    path = folder / "attributes.safetensors"
    if not path.is_file():
        return ""
    header = read_header(path)
    what = f"reads {len(header.config['names'])} attributes, judges edits, fitted nothing"
    return f"| attribute network | {what}, sha256 `{header.digest[:16]}` |\n"


def write_card(folder: Path, generator: Generator, encoder: Encoder, figures: dict[str, Any]) -> None:
    """MODEL_CARD.md from the figures of `finish`."""
    quality, frechet, recipe = figures["psnr_db"], figures["frechet"], figures["recipe"]
    g = generator.config
    rows = "\n".join(
        f"| {name} | {DESCRIPTIONS[name]} | {r['response']:.2f} | {r['leakage']:.2f} | {figures['attributes'][name]:.2f} |"
        for name, r in figures["directions"].items()
    )
    made = "\n".join(f"| {key} | {value} |" for key, value in recipe.items())
    (folder / "MODEL_CARD.md").write_text(
        f"""# heads-{g.resolution}

A StyleGAN2 generator of talking heads at {g.resolution} px with its encoder, trained by this project on heads that it renders
itself (`legato render`). No photograph and no foreign weights were used; license Apache-2.0, as the project's.

**For**: trying legato, its tests and demos, and research on inversion where the truth is known. **Not for**: real faces. The
model has seen none; footage of people comes back as the nearest rendered head.

| | |
|---|---|
| generator | {_millions(generator)} parameters, W+ [{generator.num_layers}, {g.w_dim}], channels min({g.channel_base}/r, {g.channel_max}), sha256 `{generator.digest[:16]}` |
| encoder | {_millions(encoder)} parameters, feature pyramid to W+, sha256 `{encoder.digest[:16]}` |
{_judge(folder)}{made}

The bundled `clip.mp4` is head 21 of the split `eval` (`legato render --clip clip.mp4 --identity 21 --motion 13`).

## Inversion of held-out heads
Mean PSNR in dB over 64 renders of 64 identities that no training saw.

| encoder | encoder, one w for all layers | encoder + 100 W+ steps | w_avg + 500 W+ steps | encoder, eye pixels alone |
|---|---|---|---|---|
| {quality["encoder"]:.2f} | {quality["encoder_single_w"]:.2f} | {quality["encoder_100"]:.2f} | {quality["w_avg_500"]:.2f} | {quality["eyes_encoder"]:.2f} |

![input, encoder, encoder + 100 steps, w_avg + 500 steps](inversion.png)

## Samples
`map(z)`, psi 0.7, seeds in order, none left out. Frechet distance in the attribute network's features over 2,048 images:
samples (psi 1) to renders **{frechet["samples"]:.2f}**, two disjoint sets of renders {frechet["renders"]:.2f}.
The mapping leaves {100 * figures["mapping_variance_left"]:.0f} % of w's variance unexplained on z that it was not fitted on.

![48 samples](samples.png)

## Directions
Strength is in standard deviations of the attribute over the renderer's population. Measured at strength 2 on 128 held-out
heads with an attribute network that no fit used: response is the change of the attribute, leakage the mean absolute change
of the other {len(figures["directions"]) - 1} attributes (misreadings counted), both in standard deviations. R^2 says how well that network reads the
attribute from held-out renders.

| direction | towards | response | leakage | R^2 |
|---|---|---|---|---|
{rows}
""",
        encoding="utf-8",
    )


def write_own_card(folder: Path, generator: Generator, encoder: Encoder, figures: dict[str, Any]) -> None:
    """MODEL_CARD.md from the figures of `own.finish_own`; what legato cannot know is left to fill in."""
    quality, recipe, g = figures["psnr_db"], figures["recipe"], generator.config
    made = "\n".join(f"| {key} | {value} |" for key, value in recipe.items())
    (folder / "MODEL_CARD.md").write_text(
        f"""# A model of {recipe["data"]}

A StyleGAN2 generator at {g.resolution} px with its encoder, trained together by `legato train generator`.

**To fill in by whoever trained it**: what and whom the images show, by whose consent, the license, what the model is for
and what it is not for. A model of few images holds these images: samples are near copies of them.

| | |
|---|---|
| generator | {_millions(generator)} parameters, W+ [{generator.num_layers}, {g.w_dim}], channels min({g.channel_base}/r, {g.channel_max}), sha256 `{generator.digest[:16]}` |
| encoder | {_millions(encoder)} parameters, feature pyramid to W+, sha256 `{encoder.digest[:16]}` |
{made}

## Inversion of held-out images
Mean PSNR in dB over the {figures["held_out"]} images that the training did not see; the column with steps over up to 64 of them.

| mean of the training's images | encoder, one w for all layers | encoder | encoder + 100 W+ steps |
|---|---|---|---|
| {quality["mean_image"]:.2f} | {quality["encoder_single_w"]:.2f} | {quality["encoder"]:.2f} | {quality["encoder_100"]:.2f} |

`inversion.png`: input, encoder, encoder + 100 steps. `samples.png`: `map(z)`, psi 0.7, seeds in order.

## Directions
Of SeFa (`legato directions sefa`): eigenvectors of the style weights, unnamed and unmeasured. Named ones come from labeled
pictures: `legato directions boundary`.
""",
        encoding="utf-8",
    )
