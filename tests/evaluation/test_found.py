"""What a direction moves, read by a network: the attribute is named, its sign is right, one-way change is leakage."""

from __future__ import annotations

import torch
from torch import Tensor

from legato.editing.directions import unmeasured
from legato.evaluation.found import moved_attributes
from legato.models.attributes import AttributeNetwork, AttributesConfig
from tests.pipeline.model import DIM, LAYERS, small_model


class Reader(AttributeNetwork):
    """Reads the mean of each color, times 10, in place of learned attributes."""

    def standardized(self, image: Tensor) -> Tensor:
        return 10 * image.mean((2, 3))


def test_the_attribute_that_moves_is_named() -> None:
    generator = small_model().generator
    network = Reader(AttributesConfig(names=("red", "green", "blue"), width=2, features=4))
    latents = generator.map(torch.randn(6, DIM))
    with torch.enable_grad():
        code = latents[:1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            network.standardized(generator(code))[0] @ torch.tensor([-0.5, 1.0, -0.5]), code
        )
    vector = 0.3 * gradient[0] / gradient.norm()
    directions = unmeasured({"a": vector, "b": -vector}, {"a": "", "b": ""}, generator)
    one, other = moved_attributes(generator, network, latents[:1], directions, strength=1.0)
    assert (one.name, one.attribute, other.attribute) == ("a", "green", "green")
    assert one.response > 0 > other.response
    assert one.selectivity > 1
    assert abs(one.response) >= abs(one.second_response)
    assert one.second in ("red", "blue")
    assert directions.vector("a").shape == (LAYERS, DIM)
    (alone,) = moved_attributes(generator, network, latents[:1], directions, names=["b"], strength=1.0)
    assert alone == other
