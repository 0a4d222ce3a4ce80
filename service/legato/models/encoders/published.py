"""A pSp or e4e checkpoint, read as data, to a StyleEncoder: every tensor used, every shape checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from legato.models.containers import Source, excerpt
from legato.models.encoders.style_encoder import Design, StyleEncoder, StyleEncoderConfig
from legato.models.formats import EncoderState, Network, open_checkpoint
from legato.models.formats._network import complain, read_state
from legato.models.generator import Generator

DESIGNS: dict[str, Design] = {"GradualStyleEncoder": "psp", "Encoder4Editing": "e4e"}
AVERAGE = "latent_avg"
COUNTER = ".num_batches_tracked"  # of batch normalization; nothing reads it
CARS = "cars"  # how the names of their data sets begin
CARS_ROWS = 16  # of 18, where the generator of cars has 16 layers


def read_published(path: str | Path, generator: Generator | None = None) -> StyleEncoder:
    """The encoder of a checkpoint: float32, evaluation mode, no gradients to weights.

    Its sizes are those of `generator`, or else what the file says, or its number of heads. The mean latent is added
    where the file's options say start_from_latent_avg; where it is missing then, the generator's w_avg takes its place.
    Raises ModelFileError.
    """
    with open_checkpoint(path) as (content, checkpoint):
        state = checkpoint.encoder
        if state is None:
            raise content.source.refusal(f"({checkpoint.format}) holds no encoder. Give a pSp or e4e checkpoint")
        config = _config(state, generator)
        with torch.device("meta"):
            encoder = StyleEncoder(config)
        unused = (COUNTER, *(f"styles.{i}." for i in range(config.num_layers, _heads(state))))
        kept = {name: t for name, t in state.tensors.items() if not any(part in name for part in unused)}
        read = read_state(Network(state.source, kept), encoder, {AVERAGE}, f"encoder of {config.num_layers} layers")
        read[AVERAGE] = _average(state, config, generator)
    encoder.load_state_dict(read, assign=True)
    return encoder.requires_grad_(False).eval()


def holds_encoder(path: str | Path) -> bool:
    """Whether a checkpoint brings an encoder beside its generator. Raises ModelFileError."""
    with open_checkpoint(path) as (_, checkpoint):
        return checkpoint.encoder is not None


def _config(state: EncoderState, generator: Generator | None) -> StyleEncoderConfig:
    """Raises ModelFileError where the file does not say what it is, or where it is of another size."""
    options, heads = state.options, _heads(state)
    first = state.tensors.get("input_layer.0.weight")
    if first is None or not heads:
        complain(state.source, ["input_layer.0.weight or styles.0 is missing"], "encoder")
    assert first is not None
    wide = str(options.get("dataset_type", "")).startswith(CARS)
    resolution = generator.config.resolution if generator is not None else _resolution(state.source, options, heads)
    layers = 2 * resolution.bit_length() - 4
    if heads != layers and not (wide and heads > layers == CARS_ROWS):
        raise state.source.refusal(
            f"holds an encoder of {heads} layers; a generator of {resolution} pixels has {layers}. Give one that was "
            "trained for it, or train one with: legato train encoder"
        )
    try:
        return StyleEncoderConfig(resolution, layers, 8 * first.shape[0], _design(state.source, options), wide)
    except (ValueError, IndexError) as error:
        raise state.source.refusal(f"holds an encoder that cannot be built: {error}") from error


def _design(source: Source, options: Mapping[str, Any]) -> Design:
    """Names and shapes are the same: the options alone tell."""
    named = options.get("encoder_type")
    if named in DESIGNS:
        return DESIGNS[named]
    if named is None and ("stylegan_size" in options) != ("output_size" in options):
        return "e4e" if "stylegan_size" in options else "psp"
    told = "does not say which encoder it holds (encoder_type)" if named is None else f"holds a {excerpt(named)}"
    raise source.refusal(f"{told}; {' (pSp) and '.join(DESIGNS)} (e4e) can be read. Give a checkpoint of one of them")


def _resolution(source: Source, options: Mapping[str, Any], heads: int) -> int:
    """Of the generator: what the options say, or as many layers as there are heads."""
    found = options.get("stylegan_size", options.get("output_size", 2 ** (heads // 2 + 1)))
    if type(found) is not int or not 8 <= found <= 1024 or found & (found - 1):
        raise source.refusal(
            f"says that its generator has {excerpt(found)} pixels; a power of two up to 1024 was wanted"
        )
    return found


def _heads(state: EncoderState) -> int:
    heads = 0
    while f"styles.{heads}.linear.weight" in state.tensors:
        heads += 1
    return heads


def _average(state: EncoderState, config: StyleEncoderConfig, generator: Generator | None) -> Tensor:
    """What is added to the codes, [L, D]."""
    wanted = (config.num_layers, config.w_dim)
    if not state.options.get("start_from_latent_avg"):
        return torch.zeros(wanted)
    if state.latent_avg is None:
        if generator is None:
            raise state.source.refusal("starts from latent_avg and holds none. Give the generator that it belongs to")
        return generator.w_avg.detach().cpu().expand(wanted).clone()
    average: Tensor = torch.atleast_2d(state.latent_avg.read().float())
    if average.dim() != 2 or average.shape[1] != wanted[1] or 1 < len(average) < wanted[0] or not len(average):
        complain(state.source, [f"latent_avg is {list(average.shape)} where {list(wanted)} was wanted"], "encoder")
    return average[: wanted[0]].expand(wanted).clone()
