"""Joint inversion of consecutive images (Xu et al. 2021, From Continuity to Editability).

The frames of a window are inverted together: what they share (`shared`) keeps each code reachable from the others by
steps in latent space, which keeps them editable, and their consistency (`consistency`) lets each frame be completed by
the others. A window may be a few frames of a video or all of it, or photos of one subject in any order; then there is
no flow and no consistency between them, and the first is the anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion.check import check_images
from legato.inversion.code import Synthesize
from legato.inversion.consistency import Anchor, Consistency, FlowFunction, Pairs, consistency, dis_flow
from legato.inversion.in_domain import Encode, domain
from legato.inversion.objective import Features, Objective, perceptual, pixel, pyramid, squared
from legato.inversion.shared import Share, SharedCode
from legato.inversion.solve import Inversion, Schedule, solve
from legato.inversion.state import Checkpoint

Policy = Literal["stride1_first", "disjoint_all", "whole_clip"]
Start = Literal["encoder", "w_avg", "zeros"]


@dataclass(frozen=True, slots=True)
class ConsecutiveOptions:
    """What is shared, what is compared, and which frames make a window. `released` is the authors' code.

    The defaults were chosen from a first look at 2 held-out clips of 8 frames, heads-128, 30 steps of .02 from E, once
    each (encoder: 26.2 dB; warp: masked squared error in 1e-3 between neighbors, by the same DIS flow and mask that the
    terms use, so that cross_gen minimizes what is measured; dT: mean absolute error of the change from frame to frame).
    At this size differences of some tenths of a dB between the first four are not to be read:

        share           consistency      PSNR      warp   dT
        free            none             29.82 dB  0.816  .0140
        static_steps    none             29.76 dB  0.701  .0132
        static_gains    none             29.75 dB  0.714  .0131
        static          none             29.65 dB  0.762  .0142
        released        none             29.02 dB  0.305  .0148
        static_steps    cross_gen .5     29.71 dB  0.490  .0129
        static_steps    cross_gen 2      29.23 dB  0.141  .0137
        static_steps    cross_real .5    29.75 dB  0.648  .0131
        static_steps    residual .5      29.76 dB  0.712  .0132
    """

    share: Share = "static_steps"
    start: Start = "encoder"  # b_n of every frame; of "released", w_1
    policy: Policy = "whole_clip"
    window: int = 5  # N; "whole_clip" has the clip's length. A clip that is shorter is one window
    cover: bool = True  # "stride1_first" keeps the last window whole; released: its last N - 1 frames are given up
    ordered: bool = True  # False: photos in no order, hence no flow and no consistency
    consistency: Consistency = "cross_gen"
    anchor: Anchor = "adjacent"
    occlusion: bool = True  # compare only what the flow says is visible in both frames
    consistency_weight: float = 0.5
    squared: bool = False  # MSE in place of L1 for pixels and consistency
    pyramid_weight: float = 1.0  # where there are no features
    perceptual_weight: float = 1.0  # where there are
    domain_weight: float = 0.0  # of mean((w - E(G(w)))^2), the term of in-domain inversion; wants an encoder
    steps: int = 100
    lr: float = 0.02
    cooldown: float = 0.25
    patience: int = 0
    keep_best: bool = False
    frames_per_batch: int = 64  # as many windows are solved at once as fit; one at least

    def __post_init__(self) -> None:
        if self.window < 2 or self.frames_per_batch < 1:
            raise InvalidInput(f"a window has at least 2 images and a batch at least 1; got {self}")

    @staticmethod
    def released(*, steps: int = 5000, start: Start = "zeros") -> ConsecutiveOptions:
        """The published code, given the four VGG16 slices that it takes as features.

        Its generator is StyleGAN1, for which zeros are a start; StyleGAN2 wants "w_avg".
        """
        return ConsecutiveOptions(
            share="released",
            start=start,
            policy="stride1_first",
            cover=False,
            consistency="residual",
            anchor="first",
            occlusion=False,
            consistency_weight=1.0,
            squared=True,
            pyramid_weight=0.0,
            steps=steps,
            lr=0.01,
            cooldown=0.0,
        )

    @property
    def compares(self) -> bool:
        """Whether frames are compared with each other."""
        return self.ordered and self.consistency != "none" and self.consistency_weight != 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive frames of a clip that are inverted together, and which of them are kept from it."""

    clip: int
    first: int
    length: int
    kept: range  # frames of the clip


@dataclass(frozen=True, slots=True, eq=False)
class ClipInversion:
    """The codes of one clip."""

    latents: Tensor  # [T, L, D]
    frames: tuple[int, ...]  # which frames of the clip they are; all of them unless `cover` was off

    @property
    def steps(self) -> Tensor:
        """What moves the codes from frame to frame, [T - 1, L, D]: the paper's n_k, a semantic found without labels."""
        return self.latents.diff(dim=0)


@dataclass(frozen=True, slots=True, eq=False)
class ConsecutiveInversion:
    """The codes of the clips, in their order, and what it took."""

    clips: tuple[ClipInversion, ...]
    solves: tuple[Inversion, ...]  # one a batch of windows, with the history of its terms

    @property
    def seconds(self) -> float:
        return sum(found.seconds for found in self.solves)

    @property
    def passes(self) -> int:
        """Of the generator over an image; forward and backward count one each."""
        return sum(found.passes for found in self.solves)

    @property
    def passes_per_frame(self) -> float:
        """Generator passes for each frame that is kept."""
        return self.passes / sum(len(clip.frames) for clip in self.clips)


def plan(lengths: Sequence[int], options: ConsecutiveOptions) -> list[list[Window]]:
    """The windows of clips of so many frames, in the batches that are solved one after the other.

    All windows of a batch have one length. Raises InvalidInput for a clip of fewer than 2 images.
    """
    by_length: dict[int, list[Window]] = {}
    for clip, length in enumerate(lengths):
        if length < 2:
            raise InvalidInput(
                f"consecutive images are at least 2; clip {clip} has {length}. Invert a single image with w_plus or "
                "in_domain"
            )
        size = length if options.policy == "whole_clip" else min(options.window, length)
        done = 0
        while done < length:
            if options.policy == "stride1_first":
                first, last = done, done + size == length
                kept = range(first, first + size if last and options.cover else first + 1)
            else:
                first, last = min(done, length - size), done + size >= length
                kept = range(done, first + size)
            by_length.setdefault(size, []).append(Window(clip, first, size, kept))
            done = length if last else kept.stop
    batches = []
    for size, windows in by_length.items():
        count = max(1, options.frames_per_batch // size)
        batches += [windows[i : i + count] for i in range(0, len(windows), count)]
    return batches


def consecutive(
    synthesize: Synthesize,
    clips: Sequence[Tensor],  # each [T, 3, R, R] in [-1, 1], T >= 2
    *,
    encode: Encode | None = None,
    mean: Tensor | None = None,  # w_avg [D] or [L, D], with `layers` of them
    layers: int = 0,
    options: ConsecutiveOptions | None = None,
    flow: FlowFunction = dis_flow,
    features: Features | None = None,
    on_step: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> ConsecutiveInversion:
    """The codes of clips whose frames are inverted jointly.

    Args:
        synthesize: the generator; all frames of a batch of windows go through it at once.
        clips: videos, or sets of photos of one subject each.
        encode: the encoder; wanted where the start is "encoder".
        mean: w_avg; wanted for the starts "w_avg" and "zeros", of which it gives the size.
        layers: L of the generator; wanted with `mean`.
        options: what is shared and compared.
        flow: of real frames, asked once.
        features: maps for a perceptual term; without them the Laplacian pyramid is compared.
        on_step: told the steps taken, counted over all batches of `plan`; each takes up to options.steps.
        checkpoint: files to go on from, one a batch.

    Raises InvalidInput for clips too short, of different sizes or with pixels that are no numbers.
    """
    options = options or ConsecutiveOptions()
    _check(clips)
    if encode is None and (options.start == "encoder" or options.domain_weight):
        raise InvalidInput(
            "the start 'encoder' and the domain term want an encoder; give one, or start from 'w_avg' without that term"
        )
    if options.start != "encoder" and (mean is None or layers < 1):
        raise InvalidInput(f"the start {options.start!r} wants the generator's w_avg and its number of layers")
    codes: list[dict[int, Tensor]] = [{} for _ in clips]
    solves: list[Inversion] = []
    taken = 0
    for number, windows in enumerate(plan([len(clip) for clip in clips], options)):
        size = windows[0].length
        images = torch.cat([clips[w.clip][w.first : w.first + size] for w in windows])
        base = _start(images, options, encode, mean, layers).unflatten(0, (len(windows), size))
        found = solve(
            SharedCode(base, options.share),
            _objective(images, size, options, encode, flow, features),
            Schedule(
                options.steps,
                options.lr,
                options.cooldown,
                patience=options.patience,
                keep_best=options.keep_best,
            ),
            synthesize,
            on_step=None if on_step is None else _shifted(on_step, taken),
            checkpoint=checkpoint
            and checkpoint.numbered(number).about("consecutive", images, options, features is None),
        )
        solves.append(found)
        taken += found.steps
        for window, latents in zip(windows, found.latents.unflatten(0, (-1, size)), strict=True):
            codes[window.clip] |= {frame: latents[frame - window.first] for frame in window.kept}
    inverted = [ClipInversion(torch.stack([code[t] for t in sorted(code)]), tuple(sorted(code))) for code in codes]
    return ConsecutiveInversion(tuple(inverted), tuple(solves))


def _check(clips: Sequence[Tensor]) -> None:
    for number, clip in enumerate(clips):
        check_images(clip, f"frames of clip {number}", "frame")
        if clip.shape[1:] != clips[0].shape[1:]:
            raise InvalidInput(
                f"clips are of one size; clip {number} is {list(clip.shape)}, the first {list(clips[0].shape)}"
            )


@torch.no_grad()
def _start(
    images: Tensor, options: ConsecutiveOptions, encode: Encode | None, mean: Tensor | None, layers: int
) -> Tensor:
    """b_n of every image: [B, L, D]."""
    if options.start == "encoder":
        assert encode is not None
        return encode(images)
    assert mean is not None
    codes = mean.expand(len(images), layers, mean.shape[-1])
    return torch.zeros_like(codes) if options.start == "zeros" else codes


def _objective(
    images: Tensor,
    size: int,
    options: ConsecutiveOptions,
    encode: Encode | None,
    flow: FlowFunction,
    features: Features | None,
) -> Objective:
    terms = [squared(images) if options.squared else pixel(images)]
    if features is not None:
        terms.append(perceptual(features, images, options.perceptual_weight))
    elif options.pyramid_weight:
        terms.append(pyramid(images, options.pyramid_weight))
    if options.compares:
        pairs = Pairs.of(images, size, options.anchor, flow, occlusion=options.occlusion)
        weight = options.consistency_weight
        terms.append(consistency(options.consistency, pairs, images, size, weight, squared=options.squared))
    if options.domain_weight and encode is not None:
        terms.append(domain(encode, options.domain_weight))
    return Objective(tuple(terms))


def _shifted(on_step: Callable[[int], None], taken: int) -> Callable[[int], None]:
    return lambda step: on_step(taken + step)
