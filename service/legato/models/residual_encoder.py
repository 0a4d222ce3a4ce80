"""Residual encoder: from an image and what a code gives of it, how to move the code.

After ReStyle (Alaluf et al. 2021, section 3): w' = w + R(x, G(w)), any number of times, without a gradient. Here R also
sees the difference of the two images, and the code: one that is carried from frame to frame may stray where no image
shows it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from legato.models.encoder import Encoder, EncoderConfig, ImageEncoder, PyramidEncoder
from legato.models.layers import EqualLinear

DIFFERENCE_GAIN = 4.0  # brings x - G(w) to the scale of the images


class ResidualEncoder(PyramidEncoder):
    """R(x, G(w), w) -> dw [B, L, D] float32; nothing at first.

    `config` and `autocast_dtype` are as an encoder's.
    """

    def __init__(self, config: EncoderConfig, *, autocast_dtype: torch.dtype | None = None) -> None:
        super().__init__(config, images=3, autocast_dtype=autocast_dtype)
        dim = config.w_dim
        self.seen = nn.ModuleList(EqualLinear(dim, dim) for _ in self.counts)
        self.codes = nn.ModuleList(EqualLinear(dim, dim) for _ in self.counts)
        for linear in (*self.seen, *self.codes):
            nn.init.zeros_(linear.weight)

    @classmethod
    def from_encoder(cls, encoder: ImageEncoder) -> ResidualEncoder:
        """Starts from the layers that an encoder has learned; the stem sees x and x - G(w) with the same filters.

        Beside an encoder of another design it begins anew, in legato's own.
        """
        if not isinstance(encoder, Encoder):
            sizes = encoder.config
            base = max(16 * sizes.resolution, 1024)
            config = EncoderConfig(sizes.resolution, sizes.num_layers, sizes.w_dim, base)
            made = cls(config, autocast_dtype=encoder.autocast_dtype).to(encoder.w_avg.device)
            made.w_avg.copy_(encoder.w_avg)
            nn.init.normal_(made.offset_weight)  # behind layers of zeros another zero would never learn
            return made
        made = cls(encoder.config, autocast_dtype=encoder.autocast_dtype).to(encoder.w_avg.device)
        learned = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        stem = learned["stem.weight"] * math.sqrt(3.0)  # three times the fan-in divide by as much
        learned["stem.weight"] = torch.cat([stem, torch.zeros_like(stem), stem], 1)
        for name in ("shared.bias", "offset_bias"):
            learned[name].zero_()
        made.load_state_dict(learned, strict=False)
        return made

    def forward(self, image: Tensor, rebuilt: Tensor, latents: Tensor) -> Tensor:
        """image x and rebuilt G(w) [B, 3, R, R] in [-1, 1], latents w [B, L, D] -> dw [B, L, D]. Raises ValueError."""
        self.check(image)
        self.check(rebuilt, "rebuilt")
        wanted = (len(image), self.config.num_layers, self.config.w_dim)
        if len(rebuilt) != len(image) or latents.shape != wanted:
            raise ValueError(
                f"rebuilt has {len(image)} images and latents is {list(wanted)}, as image has; got {len(rebuilt)} "
                f"and {list(latents.shape)}"
            )
        images = torch.cat([image, rebuilt, (image - rebuilt) * DIFFERENCE_GAIN], 1)
        parts = (latents - self.w_avg).split(self.counts, 1)
        levels = [
            seen(level) + code(part.mean(1)) if part.shape[1] else seen(level)
            for level, seen, code, part in zip(self.hidden(images), self.seen, self.codes, parts, strict=True)
        ]
        return self.offsets(*levels)
