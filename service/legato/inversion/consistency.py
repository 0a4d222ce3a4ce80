"""Inversion consistency of a window of frames (Xu et al. 2021, L_ICC), in the three forms that it may have.

For a pair of frames a, b with the pull flows of the **real** frames, f: I_a(p + f(p)) ~ I_b(p) and b the other way,
W the warp and M the mask of what can be seen in both:

    residual     M (W(G_a, f) - W(I_a, f))^2 + M (W(G_b, b) - W(I_b, b))^2     as released
    cross_gen    M (W(G_a, f) - G_b)^2       + M (W(G_b, b) - G_a)^2
    cross_real   M (W(G_a, f) - I_b)^2       + M (W(G_b, b) - I_a)^2

each a mean over all pixels, and over the pairs. W is linear in the image, so the residual is the warped residual
W(G - I): it compares no frame with another, and mostly re-weights the anchor. Pairs are the first frame with each other
one (as released) or neighbors. Flow: pixels, (x, y) order, pixel centers at integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from legato.inversion.objective import Term
from legato.inversion.pauses import in_rows, pause
from legato.models.flow import MAX_SIDE, DisFlow, gray, resize_flow, visible
from legato.ops import flow_warp

Consistency = Literal["residual", "cross_gen", "cross_real", "none"]
Anchor = Literal["first", "adjacent"]

# (current, previous), each [P, 3, R, R] in [-1, 1] -> pull flow [P, 2, R, R] of current from previous, and the reverse
FlowFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Which images of a batch are compared, and how they move."""

    first: Tensor  # [P]: index of a in the batch
    second: Tensor  # [P]: index of b
    forward: Tensor  # [P, 2, R, R]: I_a(p + f(p)) ~ I_b(p)
    backward: Tensor  # [P, 2, R, R]: I_b(p + b(p)) ~ I_a(p)
    seen_forward: Tensor  # [P, 1, R, R]: 1 where f can be trusted
    seen_backward: Tensor  # [P, 1, R, R]: 1 where b can be trusted

    @staticmethod
    @torch.no_grad()
    def of(images: Tensor, frames: int, anchor: Anchor, flow: FlowFunction, *, occlusion: bool) -> Pairs:
        """Of windows of `frames` images, window by window: [C * frames, 3, R, R]. The flow is found once, here.

        With `occlusion`, only what `models.flow.visible` trusts is compared; else everything.
        """
        second = torch.arange(len(images), device=images.device)
        second = second[second % frames > 0]
        first = second - 1 if anchor == "adjacent" else second - second % frames
        forward, backward = (found.to(images) for found in flow(images[second], images[first]))
        if occlusion:
            masks = visible(forward, backward), visible(backward, forward)
        else:
            masks = torch.ones_like(forward[:, :1]), torch.ones_like(forward[:, :1])
        return Pairs(first, second, forward, backward, *masks)


def consistency(
    kind: Consistency, pairs: Pairs, images: Tensor, frames: int, weight: float, *, squared: bool = False
) -> Term:
    """The term of windows of `frames` images [C * frames, 3, R, R]: L1, or squares as released.

    A pair's value stands with its second image, times frames / (frames - 1): summed over a window, and divided by its
    frames as the other terms then are, it is the mean over the pairs.
    """

    def error(image: Tensor, wanted: Tensor, flow: Tensor, mask: Tensor) -> Tensor:
        difference = flow_warp(image, flow)[0] - wanted
        return ((difference.square() if squared else difference.abs()) * mask).mean((1, 2, 3))

    def measure(image: Tensor, latents: Tensor) -> Tensor:
        a, b = pairs.first, pairs.second
        if kind == "residual":
            source, target = image - images, torch.zeros_like(images)
        else:
            source, target = image, image if kind == "cross_gen" else images
        each = in_rows(error, source[a], target[b], pairs.forward, pairs.seen_forward)
        each = each + in_rows(error, source[b], target[a], pairs.backward, pairs.seen_backward)
        return image.new_zeros(len(image)).index_add(0, b, each * (frames / (frames - 1)))

    return Term("consistency", weight, measure)


def dis_flow(current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """Flow of images [P, 3, R, R] in [-1, 1] by DIS on the CPU: (of current from previous, of previous from current).

    Each [P, 2, R, R] in pixels, found at up to 256 pixels and scaled up.
    """
    side = min(current.shape[-1], MAX_SIDE)
    dis, found = DisFlow(), []
    for pair in zip(current, previous, strict=True):
        pause()
        frames = [((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous() for x in pair]
        found.append(torch.cat(dis.both(*(gray(frame.cpu().numpy(), side) for frame in frames))))
    both = torch.stack(found) if found else current.new_zeros(0, 2, 2, side, side)
    forward, backward = (resize_flow(both[:, i], current.shape[-1]).to(current.device) for i in (0, 1))
    return forward, backward
