"""Every method under one call: clips in, codes out. What the commands, the server and the evaluation go through."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion.check import check_images
from legato.inversion.consecutive import ConsecutiveOptions, consecutive, plan
from legato.inversion.consistency import FlowFunction, dis_flow
from legato.inversion.in_domain import InDomainOptions, in_domain
from legato.inversion.method import Method, WPlusOptions
from legato.inversion.multi_code import Composition, MultiCodeOptions, multi_code
from legato.inversion.objective import Features
from legato.inversion.pauses import in_rows
from legato.inversion.solve import Inversion
from legato.inversion.state import Checkpoint
from legato.inversion.w_plus import LatentNoise, latent_deviation, normalized, w_plus
from legato.models import Generator, ImageEncoder

FRAMES_PER_BATCH = 32  # of the methods that invert each image for itself

Progress = Callable[[int, int], None]  # steps taken, steps of the whole at most


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """What a method may ask for. Weights frozen, evaluation mode."""

    generator: Generator
    encoder: ImageEncoder | None = None
    features: Features | None = None  # of a perceptual term; without them the Laplacian pyramid is compared

    def encode(self, images: Tensor) -> Tensor:
        """E(x) of images [B, 3, R, R]: [B, L, D]. Raises InvalidInput without an encoder."""
        if self.encoder is None:
            raise InvalidInput(
                "this method starts from an encoder, and the model has none: train one with `legato train encoder`, or "
                "start from w_avg with the methods w, w_plus and consecutive (start=w_avg)",
                reason="NO_ENCODER",
            )
        return in_rows(self.encoder, images)


@dataclass(frozen=True, slots=True, eq=False)
class InvertedClip:
    """The codes of one clip."""

    latents: Tensor  # [T, L, D]; of multi_code the codes' mean by importance, which is not the image's code
    frames: tuple[int, ...]  # [T]: which frames of the clip they are of
    composition: Composition | None = None  # of multi_code
    noise: tuple[Tensor, ...] = ()  # [T, 1, r, r] maps, where they were free

    @torch.no_grad()
    def images(self, generator: Generator, move: Tensor | None = None, *, batch: int = 16) -> Tensor:
        """The reconstruction [T, 3, R, R], or, with `move` [L, D] or [T, L, D], the image of the codes moved by it."""
        drawn = []
        for first in range(0, len(self.latents), batch):
            part = slice(first, first + batch)
            step = move if move is None or move.dim() == 2 else move[part]
            drawn.append(self._drawn(generator, part, step).clamp(-1.0, 1.0))
        return torch.cat(drawn)

    def _drawn(self, generator: Generator, part: slice, step: Tensor | None) -> Tensor:
        if self.composition is not None:
            some = self.composition.rows(part)
            return (some if step is None else some.moved(step)).image(generator)
        codes = self.latents[part] if step is None else self.latents[part] + step.to(self.latents)
        if not self.noise:
            return in_rows(generator, codes)
        maps = [normalized(noise[part]) for noise in self.noise]
        return in_rows(lambda some, *noise: generator(some, noise), codes, *maps)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What an inversion of clips found, and what it took."""

    clips: tuple[InvertedClip, ...]
    solves: tuple[Inversion, ...]  # one a batch, with the history of its terms; none of "encoder"
    seconds: float
    passes: int  # of the generator over an image, forward and backward one each; of multi_code those of the tail

    @property
    def passes_per_frame(self) -> float:
        """For each frame that has a code."""
        return self.passes / sum(len(clip.frames) for clip in self.clips)


def steps_in_all(lengths: Sequence[int], method: Method) -> int:
    """Steps that clips of so many frames take at most."""
    if isinstance(method.options, ConsecutiveOptions):
        return method.steps * len(plan(lengths, method.options))
    return method.steps * -(-sum(lengths) // FRAMES_PER_BATCH)


def invert_clips(
    networks: Networks,
    clips: Sequence[Tensor],  # each [T, 3, R, R] in [-1, 1]
    method: Method,
    *,
    flow: FlowFunction = dis_flow,
    on_step: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """The codes of clips; a single image is a clip of one frame.

    Args:
        networks: the model.
        clips: of the generator's size.
        method: which, and how.
        flow: of real frames, for `consecutive`.
        on_step: told (steps taken, steps in all at most); what it raises ends the inversion.
        checkpoint: files to go on from, one a batch, under this name.

    Raises InvalidInput where method, model and clips do not fit together, InvalidImage for pixels that are no numbers,
    ModelFileError for a checkpoint that cannot be read or written.
    """
    _check(networks.generator, clips)
    began = time.perf_counter()
    generator, lengths = networks.generator, [len(clip) for clip in clips]
    total = steps_in_all(lengths, method)
    if checkpoint is not None:
        digests = (generator.digest, networks.encoder.digest if networks.encoder is not None else "")
        checkpoint = checkpoint.about(method.name, *digests)

    def tell(base: int) -> Callable[[int], None] | None:
        return None if on_step is None else lambda step: on_step(base + step, total)

    if isinstance(method.options, ConsecutiveOptions):
        found = consecutive(
            generator,
            clips,
            encode=networks.encode if networks.encoder is not None or method.options.start == "encoder" else None,
            mean=generator.w_avg,
            layers=generator.num_layers,
            options=method.options,
            flow=flow,
            features=networks.features,
            on_step=tell(0),
            checkpoint=checkpoint,
        )
        inverted = tuple(InvertedClip(clip.latents, clip.frames) for clip in found.clips)
        return Outcome(inverted, found.solves, time.perf_counter() - began, found.passes)
    each: list[InvertedClip] = []
    solves: list[Inversion] = []
    for number, images in enumerate(torch.cat(list(clips)).split(FRAMES_PER_BATCH)):
        row, solved = _each(
            networks, images, method, tell(number * method.steps), checkpoint and checkpoint.numbered(number)
        )
        each.append(row)
        solves += [solved] if solved is not None else []
    passes = sum(solved.passes for solved in solves) if solves else sum(lengths)
    return Outcome(_parted(each, lengths), tuple(solves), time.perf_counter() - began, passes)


def _check(generator: Generator, clips: Sequence[Tensor]) -> None:
    if not clips:
        raise InvalidInput("there is no clip to invert; give at least one image")
    side = generator.config.resolution
    for number, clip in enumerate(clips):
        check_images(clip, f"frames of clip {number}", "frame")
        if clip.shape[-1] != side:
            raise InvalidInput(f"the generator makes {side} x {side} pixels; clip {number} is {list(clip.shape)}")


def _each(
    networks: Networks,
    images: Tensor,
    method: Method,
    on_step: Callable[[int], None] | None,
    checkpoint: Checkpoint | None,
) -> tuple[InvertedClip, Inversion | None]:
    """Images [B, 3, R, R] that are inverted each for itself, as one clip."""
    generator, features, frames = networks.generator, networks.features, tuple(range(len(images)))
    match method.options:
        case None:
            with torch.no_grad():
                return InvertedClip(networks.encode(images), frames), None
        case InDomainOptions():
            found = in_domain(
                generator,
                networks.encode,
                images,
                options=method.options,
                features=features,
                on_step=on_step,
                checkpoint=checkpoint,
            )
            return InvertedClip(found.latents, frames), found
        case MultiCodeOptions():
            with torch.no_grad():
                start = networks.encode(images) if networks.encoder is not None else None
            coded = multi_code(
                generator,
                images,
                options=method.options,
                start=start,
                features=features,
                on_step=on_step,
                checkpoint=checkpoint,
            )
            return InvertedClip(coded.inversion.latents, frames, coded.composition), coded.inversion
        case WPlusOptions() as options:
            with torch.no_grad():
                start = networks.encode(images) if options.start == "encoder" else generator.w_avg
            strength = options.latent_noise
            found = w_plus(
                generator,
                images,
                start,
                layers=generator.num_layers,
                space="w" if method.name == "w" else "w_plus",
                steps=options.steps,
                lr=options.lr,
                features=features,
                perceptual_weight=options.perceptual_weight,
                latent_noise=LatentNoise(latent_deviation(generator), strength, seed=options.seed)
                if strength
                else None,
                noise_weight=options.noise_weight,
                noise_seed=options.seed,
                on_step=on_step,
                checkpoint=checkpoint,
            )
            return InvertedClip(found.latents, frames, noise=found.free[1:]), found
        case _:
            raise AssertionError(f"{method.name} inverts no image for itself")


def _parted(batches: Sequence[InvertedClip], lengths: Sequence[int]) -> tuple[InvertedClip, ...]:
    """What was inverted in batches, clip by clip."""
    latents = torch.cat([batch.latents for batch in batches]).split(list(lengths))
    noise = [torch.cat(maps).split(list(lengths)) for maps in zip(*(batch.noise for batch in batches), strict=True)]
    compositions = [batch.composition for batch in batches if batch.composition is not None]
    whole = Composition.joined(compositions) if compositions else None
    clips, first = [], 0
    for number, length in enumerate(lengths):
        composition = whole.rows(slice(first, first + length)) if whole is not None else None
        maps = tuple(parts[number].contiguous() for parts in noise)
        # of its own memory: a view would keep the whole batch alive, and in every file
        clips.append(InvertedClip(latents[number].clone(), tuple(range(length)), composition, maps))
        first += length
    return tuple(clips)
