"""Responses, true edits and agreement, on codes and readers whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.evaluation.editability import TrueEdit, agreement, attribute_response, score_edit, true_edit
from legato.models.attributes import AttributeNetwork, AttributesConfig
from legato.synthetic.clips import clip_z
from legato.synthetic.factors import ATTRIBUTES, attributes_of, sample_z, standard_deviations
from legato.synthetic.renderer import Renderer
from tests.tolerances import ATTRIBUTE_CHANGE, LOSS_ROUNDING

NAMES = ("smile", "skin_tone", "beard")


def test_response_is_a_slope_and_leakage_a_share() -> None:
    before = torch.randn(4, 3)
    amount = torch.tensor([1.0, -1.0, 2.0, 0.0])
    after = before.clone()
    after[:, 0] += 0.8 * amount
    after[:, 2] += torch.tensor([0.3, 0.3, -0.2, 0.0])
    found = attribute_response(before, after, NAMES, "smile", amount)
    assert found.response == pytest.approx(0.8)
    assert found.others == pytest.approx({"skin_tone": 0.0, "beard": 0.2})
    assert found.leakage == pytest.approx(0.1)
    with pytest.raises(ValueError, match="amount 0"):
        attribute_response(before, after, NAMES, "smile", torch.zeros(4))


@pytest.mark.parametrize(("attribute", "amount"), [("yaw", 0.5), ("smile", -0.7), ("skin_tone", 0.4)])
def test_true_edit_changes_one_attribute_by_so_many_deviations(attribute: str, amount: float) -> None:
    z = clip_z(3, 0, 3)
    rendered: list[Tensor] = []

    class Recorder(Renderer):
        def __call__(self, z: Tensor) -> object:  # type: ignore[override]
            rendered.append(z)
            return super().__call__(z)

    found = true_edit(Recorder(16, 1), z, attribute, amount)
    assert found.images.shape == (3, 3, 16, 16)
    read = (attributes_of(torch.cat(rendered)) - attributes_of(z)) / torch.tensor(list(standard_deviations().values()))
    column = ATTRIBUTES.index(attribute)
    torch.testing.assert_close(read[:, column], torch.full((3,), amount), **ATTRIBUTE_CHANGE)
    torch.testing.assert_close(found.change, read[:, column], **LOSS_ROUNDING)
    others = torch.cat([read[:, :column], read[:, column + 1 :]], 1)
    assert others.abs().max() == 0


def test_true_edit_says_where_an_attribute_ends() -> None:
    z = sample_z(range(40))
    bald = attributes_of(z)[:, ATTRIBUTES.index("beard")] == 0
    assert bald.any()
    z = z[bald][:2]
    less, more = (true_edit(Renderer(16, 1), z, "beard", amount) for amount in (-1.0, 100.0))
    assert less.change.tolist() == [0.0, 0.0]
    full = 0.85 / standard_deviations()["beard"]
    torch.testing.assert_close(more.change, torch.full((2,), full), **ATTRIBUTE_CHANGE)
    assert (more.images - less.images).abs().max() > 0.05


def test_agreement() -> None:
    before = torch.zeros(2, 3, 8, 8)
    truth = before.clone()
    truth[:, 0] = 0.5
    found = agreement(before, before + 0.5 * truth, before, truth)
    assert (found.cosine, found.gain) == pytest.approx((1.0, 0.5))
    assert found.psnr_db == pytest.approx(10 * torch.log10(torch.tensor(4 / (0.25**2 / 3))).item())
    across = before.clone()
    across[:, 1] = 0.5
    assert agreement(before, across, before, truth).cosine == pytest.approx(0.0)
    assert agreement(before, truth + across, before, truth).cosine == pytest.approx(0.5**0.5)
    half = torch.stack([truth[0], before[0]])  # one frame could not change
    assert agreement(before, half, before, half).cosine == pytest.approx(1.0)
    with pytest.raises(ValueError, match="nothing to agree with"):
        agreement(before, truth, before, before)


class Means(AttributeNetwork):
    """Reads the means of the color channels."""

    def standardized(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


def test_scores_of_an_edit_move_each_code_as_far_as_the_truth() -> None:
    """Codes [T, 1, 3] are the colors of flat images; the direction moves 2/3 of what it should, and leaks."""

    def synthesize(latents: Tensor) -> Tensor:
        return latents[:, 0, :, None, None].expand(-1, 3, 16, 16)

    codes = torch.tensor([[0.1, 0.2, -0.1], [0.0, 0.2, -0.1]])[:, None]
    frames = synthesize(codes)
    change = torch.tensor([0.3, 0.6])
    truth = frames.clone()
    truth[:, 0] += change[:, None, None]
    direction = torch.tensor([[2 / 3, 0.0, 0.1]])
    network = Means(AttributesConfig(NAMES, width=2, features=2))
    found = score_edit(synthesize, codes, direction, network, "smile", frames, TrueEdit(truth, change))
    assert found.response.response == pytest.approx(2 / 3)
    assert found.response.others == pytest.approx({"skin_tone": 0.0, "beard": 0.1})
    assert found.agreement.gain == pytest.approx(2 / 3)
    assert found.agreement.cosine == pytest.approx(float(torch.tensor(2 / 3) / torch.tensor([2 / 3, 0.1]).norm()))
    before, after = codes[:, 0, 1:], (codes + change[:, None, None] * direction)[:, 0, 1:]
    assert found.identity == pytest.approx(float(torch.cosine_similarity(before, after).mean()))
