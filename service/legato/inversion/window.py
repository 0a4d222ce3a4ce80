"""The streaming window: joint inversion of a stream's keyframes, in compute that no frame waits for.

Xu et al. 2021 (From Continuity to Editability) solve consecutive images together: one anchor that all share, and a step
of each. Here, with coordinates of the generator's curvature, keyframe j of a stream has the code

    w_j = E(x_j) + moves(c + n_j)

with c shared by all keyframes, what the encoder gets wrong about this person and light, and n_j each keyframe's own,
what it gets wrong in this pose. A frame of the stream is offered c + sum_j a_j n_j, the n_j of keyframes with a code
like its own counting most: the stream gains where it is, keeps what it learned of poses it comes back to, and pays
nothing for it. The steps n_j are not shared over the layers as the paper's are: those brought 0.7 dB less
(docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.inversion.code import Code, Synthesize
from legato.inversion.objective import Objective, squared
from legato.inversion.solve import Schedule, solve
from legato.inversion.state import Moments
from legato.models.curvature import Curvature

NEAR = 4.0  # keyframes at the mean distance count e^-NEAR times as much as one that is the frame itself


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """What the window keeps of a stream, and how much is spent on it."""

    share: float = 0.5  # of the time that no frame needs, spent on windows; 0: there are none
    keyframes: int = 8
    rows: int = 2  # keyframes of one step; a frame that comes meanwhile waits for so many
    lr: float = 0.08  # of Adam on c, in standard deviations of a correction
    own_gain: float = 1.33  # times lr: of Adam on n_j
    betas: tuple[float, float] = (0.7, 0.99)
    enough: int = 32  # steps of a keyframe after which it is left as it is
    settled: int = 2  # steps of the newest keyframe before the next frame may become one
    blend_seconds: float = 0.2  # in which a stream follows its window


@dataclass(frozen=True, slots=True, eq=False)
class JointCorrection(Code):
    """w_j = base_j + moves(c + n_j); rows are windows, images keyframes."""

    base: Tensor  # [M, L, D]
    initial: tuple[Tensor, Tensor]  # c [1, L, D], n_j [M, L, D]: coordinates
    curvature: Curvature

    @property
    def start(self) -> tuple[Tensor, ...]:
        return self.initial

    def latents(self, *free: Tensor) -> Tensor:
        shared, own = free
        return self.base + self.curvature.moves(shared + own)


class Window:
    """The keyframes of S streams, in tensors that are allocated once.

    Args:
        synthesize: the generator, weights frozen.
        curvature: of the generator.
        slots: streams, S.
        resolution, device: of the keyframes.
        options: sizes, rates.
    """

    def __init__(
        self,
        synthesize: Synthesize,
        curvature: Curvature,
        *,
        slots: int,
        resolution: int,
        device: torch.device,
        options: WindowOptions | None = None,
    ) -> None:
        self.options = options or WindowOptions()
        self._synthesize, self._curvature = synthesize, curvature
        n, layers, dim = self.options.keyframes, *curvature.spread.shape
        self._images = torch.zeros(slots, n, 3, resolution, resolution, dtype=torch.uint8, device=device)
        self._base = torch.zeros(slots, n, layers, dim, device=device)
        self._places = torch.zeros(slots, n, layers * dim, device=device)  # of the base codes
        self._own = [torch.zeros_like(self._base) for _ in range(3)]  # n_j, Adam's moments
        self._shared = [torch.zeros(slots, 1, layers, dim, device=device) for _ in range(3)]  # c, Adam's moments
        self._steps = torch.zeros(slots, n)  # of each n_j
        self._shared_steps = torch.zeros(slots, 1)
        self._count = [0] * slots  # keyframes
        self._newest = [0] * slots
        self._turns = list[int]()  # slots that have keyframes, the next one first
        self._owed = dict[int, int]()  # steps, the next slot first

    @property
    def bytes_of_slot(self) -> int:
        """Memory that a stream's window takes."""
        tensors = [self._images, self._base, self._places, *self._own, *self._shared]
        return sum(tensor.nbytes for tensor in tensors) // max(1, len(self._count))

    def keyframes(self, slot: int) -> int:
        """How many a stream has."""
        return self._count[slot]

    def codes(self, slot: int) -> Tensor:
        """[N, L, D] of a stream's keyframes, before any correction."""
        return self._base[slot, : self._count[slot]]

    def reset(self, slot: int) -> None:
        """Forgets a stream's keyframes, and what was found on them."""
        self._count[slot] = 0
        self._owed.pop(slot, None)
        for tensor in (*self._own, *self._shared, self._steps, self._shared_steps):
            tensor[slot] = 0
        if slot in self._turns:
            self._turns.remove(slot)

    def offer(self, slot: int, image: Tensor, encoded: Tensor) -> None:
        """A frame [3, R, R] in [-1, 1] and its code [L, D] before any correction; it may become a keyframe.

        Among too many, of the two that are most alike the older one goes.
        """
        count, newest, options = self._count[slot], self._newest[slot], self.options
        if count and float(self._steps[slot, newest]) < options.settled:
            return
        (point,) = self._curvature.place(encoded[None])
        own = self._blend(slot, point) if count else torch.zeros_like(encoded)
        if count < options.keyframes:
            place = count
            self._count[slot] += 1
        else:
            place = self._redundant(slot, point)
        if not count:
            self._turns.append(slot)
        self._images[slot, place] = image.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        self._base[slot, place], self._places[slot, place] = encoded, point
        for tensor in self._own:
            tensor[slot, place] = 0
        self._own[0][slot, place] = own
        self._steps[slot, place] = 0
        self._newest[slot] = place

    def owe(self, slot: int, steps: int) -> None:
        """A stream asks for these joint steps now. It is not owed those of its last frame any more."""
        self._owed.pop(slot, None)
        if steps > 0:
            self._owed[slot] = steps

    def target(self, slots: Sequence[int], encoded: Tensor) -> tuple[Tensor, Tensor]:
        """What frames with codes [B, L, D] are offered: coordinates [B, L, D], and whether there is something [B]."""
        found, known = torch.zeros_like(encoded), torch.zeros(len(slots), dtype=torch.bool, device=encoded.device)
        rows = [row for row, slot in enumerate(slots) if slot >= 0 and self._count[slot] and self._shared_steps[slot]]
        points = self._curvature.place(encoded[rows]) if rows else ()
        for row, point in zip(rows, points, strict=True):
            found[row] = self._shared[0][slots[row], 0] + self._blend(slots[row], point)
            known[row] = True
        return found, known

    @property
    def ready(self) -> bool:
        """Whether a stream has keyframes that are not done."""
        return any(self._wants(slot) for slot in self._turns)

    @property
    def owes(self) -> bool:
        """Whether a stream has asked for steps that it has not had, and its keyframes are not done."""
        return any(self._wants(slot) for slot in self._owed)

    def improve(self) -> int:
        """One joint step of the next stream's keyframes, the least worked on first: how many; 0 if all are done.

        Streams that are owed steps come first.
        """
        slot = next((slot for slot in (*self._owed, *self._turns) if self._wants(slot)), -1)
        if slot < 0:
            return 0
        self.owe(slot, self._owed.get(slot, 0) - 1)
        self._turns.remove(slot)
        self._turns.append(slot)
        count, options = self._count[slot], self.options
        rows = self._steps[slot, :count].argsort(stable=True)[: options.rows]
        images = self._images[slot, rows].float().div_(127.5).sub_(1.0)
        c, c_first, c_second = (tensor[slot] for tensor in self._shared)
        n, n_first, n_second = (tensor[slot, rows] for tensor in self._own)
        found = solve(
            JointCorrection(self._base[slot, rows], (c, n), self._curvature),
            Objective((squared(images),)),
            Schedule(1, options.lr, betas=options.betas, gains=(1.0, options.own_gain)),
            self._synthesize,
            moments=(
                Moments(c_first, c_second, self._shared_steps[slot].to(images.device)),
                Moments(n_first, n_second, self._steps[slot, rows].to(images.device)),
            ),
        )
        if not all(bool(tensor.isfinite().all()) for tensor in found.free):
            self.reset(slot)
            return len(rows)
        (c, n), (of_c, of_n) = found.free, found.moments
        for mine, new in zip(self._shared, (c, of_c.first, of_c.second), strict=True):
            mine[slot] = new
        for mine, new in zip(self._own, (n, of_n.first, of_n.second), strict=True):
            mine[slot, rows] = new
        self._shared_steps[slot] += 1
        self._steps[slot, rows] += 1
        return len(rows)

    def _wants(self, slot: int) -> bool:
        return bool((self._steps[slot, : self._count[slot]] < self.options.enough).any())

    def _blend(self, slot: int, point: Tensor) -> Tensor:
        """sum_j a_j n_j [L, D] for the place [L D] of a code."""
        distances = (self._places[slot, : self._count[slot]] - point).square().sum(1)
        weights = torch.softmax(-NEAR * distances / (distances.mean() + 1e-12), 0)
        return torch.einsum("n,nld->ld", weights, self._own[0][slot, : self._count[slot]])

    def _redundant(self, slot: int, point: Tensor) -> int:
        """The keyframe that is most like another one, or like the new code's place [L D]."""
        places = torch.cat([self._places[slot], point[None]])
        apart = torch.cdist(places, places).fill_diagonal_(torch.inf)
        return int(apart.amin(1)[:-1].argmin())
