"""Training of the attribute network on labelled renders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.models.attributes import SIZE, AttributeNetwork, AttributesConfig
from legato.synthetic.dataset import Heads
from legato.synthetic.factors import ATTRIBUTES, Split, attributes_of, sample_z
from legato.train.training import chunks

_BATCH = 64


def train_attributes(
    heads: Heads,
    *,
    epochs: int = 8,
    seed: int = 0,
    rate: float = 2e-3,
) -> AttributeNetwork:
    """Mean squared error in standard deviations; half of the images are blurred or made noisy.

    A generator's images are a little softer than renders: a network that never saw soft edges would read them as closed
    eyes.
    """
    torch.manual_seed(seed)
    network = AttributeNetwork(AttributesConfig(names=ATTRIBUTES)).train()
    labels = attributes_of(sample_z([int(s) for s in heads.seeds], "train"))
    network.mean.copy_(labels.mean(0))
    network.deviation.copy_(labels.std(0))
    target = (labels - network.mean) / network.deviation
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    total = epochs * (len(heads) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total)
    for _ in range(epochs):
        order = torch.randperm(len(heads))
        for i in range(0, len(order) - _BATCH + 1, _BATCH):
            index = order[i : i + _BATCH].sort().values
            image, _masks = heads.batch(index)
            image = soften(F.avg_pool2d(image, image.shape[2] // SIZE))
            with torch.autocast("cpu", torch.bfloat16):
                found = network.standardized(image.contiguous(memory_format=torch.channels_last))
            loss = (found.float() - target[index]).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def soften(image: Tensor) -> Tensor:
    """A random share of blur for each image, and faint noise."""
    blurred = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="bilinear", align_corners=False)
    share = (torch.rand(len(image), 1, 1, 1) * 1.2 - 0.4).clamp(0, 0.8)
    return image.lerp(blurred, share) + 0.02 * torch.randn_like(image)


@torch.no_grad()
def explained(network: AttributeNetwork, heads: Heads, split: Split) -> dict[str, float]:
    """R^2 of each attribute on a set of renders."""
    labels = attributes_of(sample_z([int(s) for s in heads.seeds], split))
    found = torch.cat([network(heads.batch(index)[0]) for index in chunks(len(heads), _BATCH)])
    residual = (found - labels).square().mean(0) / labels.var(0)
    return {name: 1 - float(r) for name, r in zip(ATTRIBUTES, residual, strict=True)}
