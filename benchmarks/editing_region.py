"""Style Intervention beside the plain edit and edits of single style channels, where the true region is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.editing_heads import Bench, median, read, shown
from legato.editing.boundary import extremes, fit_boundary
from legato.editing.style_intervention import (
    Classifier,
    InterventionOptions,
    intervene,
    latent_step,
    normal_step,
)
from legato.editing.style_space import attribute_channels, flatten_styles, split_styles, style_statistics
from legato.evaluation.editability import true_edit
from legato.synthetic.factors import ATTRIBUTES, attributes_of, sample_z

TRIED = ("smile", "mouth_open", "blink", "glasses", "hair_tone", "background_value")
ABLATED = ("mouth_open", "glasses")  # coarse to fine, with a classifier, by the cosine to a sparse boundary
STRENGTH = 2.0  # standard deviations of the attribute, towards the other side of the median
STRENGTHS = torch.linspace(0.25, 3.0, 12)  # of the plain edit, among which the equal response is sought
DEVIATIONS = torch.linspace(2.5, 30.0, 12)  # of style channels
CHANNELS = 5  # moved together
CHANGED = 0.1  # of [-1, 1]: pixels that the true edit changes more make the region
MARGIN = 4  # pixels that the region is wider


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One attribute on all heads."""

    attribute: str
    sign: Tensor  # [N] of 1 and -1: up or down
    region: Tensor  # [N, 1, R, R]
    truth: Tensor  # [N, 3, R, R]: the change that the true edit makes
    plain: Tensor  # [N, 3, R, R]: the plain edit at `STRENGTH`


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One edit of every head, each [N]: figures in the units of [-1, 1] images, or standard deviations."""

    response: Tensor  # of the attribute, in the direction asked for
    outside: Tensor  # root mean square change outside the region
    outside_abs: Tensor  # mean absolute change there
    inside: Tensor  # root mean square change in the region
    inside_cosine: Tensor  # of the change in the region to that of the plain edit at `STRENGTH`
    leakage: Tensor  # mean absolute change of the other attributes
    truth_cosine: Tensor  # of the change of the whole image to the true one

    def medians(self) -> dict[str, float]:
        return {name: median(getattr(self, name)) for name in self.__dataclass_fields__}


def run(bench: Bench, tell: Callable[[str], None]) -> tuple[dict[str, Any], list[tuple[Case, Mapping[str, Tensor]]]]:
    """Figures of every attribute and method; and for the picture the images of each."""
    results: dict[str, Any] = {}
    pictures: list[tuple[Case, Mapping[str, Tensor]]] = []
    for attribute in TRIED:
        case = make_case(bench, attribute)
        methods = {"intervention": _intervened, "style_channels": _channels}
        if attribute in ABLATED:
            methods |= {
                "intervention_coarse_to_fine": _coarse_to_fine,
                "intervention_classifier": _by_classifier,
                "intervention_cosine": _by_cosine,
            }
        plain = [_plain(bench, case, strength) for strength in STRENGTHS.tolist()]
        along = torch.stack([measure(bench, case, images).response for images in plain])
        found: dict[str, Any] = {
            "region": median(case.region.mean((1, 2, 3))),
            "plain": measure(bench, case, case.plain).medians(),
        }
        images: dict[str, Tensor] = {}
        for name, make in methods.items():
            images[name] = make(bench, case)
            own = measure(bench, case, images[name])
            strengths, reached = equal_strength(STRENGTHS, along, own.response)
            equal = measure(bench, case, _plain(bench, case, strengths))
            ratio = equal.outside / own.outside
            found[name] = own.medians() | {
                "plain_at_equal_response": equal.medians(),
                "times_less_outside": median(ratio[reached]),
                "times_less_outside_abs": median((equal.outside_abs / own.outside_abs)[reached]),
                "times_less_outside_of_each": [round(value, 2) for value in ratio.tolist()],
                "heads": int(reached.sum()),
            }
            told = f"response {found[name]['response']:.2f}, {found[name]['times_less_outside']:.2f} times less outside"
            tell(f"{attribute}, {name}: {told}")
        results[attribute] = found
        pictures.append((case, images))
    return results, pictures


def make_case(bench: Bench, attribute: str) -> Case:
    """The region is where the true edit changes the render."""
    row = ATTRIBUTES.index(attribute)
    middle = attributes_of(sample_z(range(2000), "train"))[:, row].median()
    sign = torch.where(attributes_of(bench.z)[:, row] <= middle, 1.0, -1.0)
    truth = torch.zeros_like(bench.renders)
    for way in (1.0, -1.0):
        index = (sign == way).nonzero().flatten()
        if len(index):
            truth[index] = true_edit(bench.renderer, bench.z[index], attribute, way * STRENGTH).images
    truth = truth - bench.renders
    changed = (truth.abs().amax(1, keepdim=True) > CHANGED).float()
    region = F.max_pool2d(changed, 2 * MARGIN + 1, 1, MARGIN)
    case = Case(attribute, sign, region, truth, bench.before)
    return Case(attribute, sign, region, truth, _plain(bench, case, STRENGTH))


def measure(bench: Bench, case: Case, images: Tensor) -> Measured:
    change = (images - bench.before).flatten(2)
    inside = case.region.flatten(2).expand_as(change)
    outside = 1 - inside
    column = ATTRIBUTES.index(case.attribute)
    moved = read(bench.judging, images) - bench.read_before
    others = moved.abs().sum(1) - moved[:, column].abs()
    plain = (case.plain - bench.before).flatten(2) * inside
    return Measured(
        response=moved[:, column] * case.sign,
        outside=((change.square() * outside).sum((1, 2)) / outside.sum((1, 2))).sqrt(),
        outside_abs=(change.abs() * outside).sum((1, 2)) / outside.sum((1, 2)),
        inside=((change.square() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).sqrt(),
        inside_cosine=F.cosine_similarity((change * inside).flatten(1), plain.flatten(1)),
        leakage=others / (len(ATTRIBUTES) - 1),
        truth_cosine=F.cosine_similarity(change.flatten(1), case.truth.flatten(1)),
    )


def equal_strength(strengths: Tensor, responses: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where each head's responses [S, N] along strengths [S] first reach `wanted` [N], linear between two; and whether
    they do. A head that does not is given the strength of its largest response."""
    found, reached = torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
    for head in range(len(wanted)):
        grid = torch.cat([torch.zeros(1), strengths])
        rising = torch.cat([torch.zeros(1), responses[:, head]])
        over = (rising >= wanted[head]).nonzero().flatten().tolist()
        reached[head] = bool(over) and over[0] > 0
        if not over:
            found[head] = grid[int(rising.argmax())]
        elif over[0] > 0:
            low, high = over[0] - 1, over[0]
            share = (wanted[head] - rising[low]) / (rising[high] - rising[low])
            found[head] = grid[low] + share * (grid[high] - grid[low])
    return found, reached


def _plain(bench: Bench, case: Case, strength: Tensor | float) -> Tensor:
    amount = torch.as_tensor(strength) * case.sign
    moved = bench.codes + amount[:, None, None] * bench.directions.vector(case.attribute)
    return shown(bench.generator, moved)


def _entangled(bench: Bench, case: Case) -> Tensor:
    direction = STRENGTH * bench.directions.vector(case.attribute)
    steps = [latent_step(bench.generator, bench.codes, way * direction, 1.0) for way in (1.0, -1.0)]
    return torch.where(case.sign[:, None] > 0, steps[0], steps[1])


def _intervened(
    bench: Bench,
    case: Case,
    normal: Tensor | None = None,
    classifier: Classifier | None = None,
    options: InterventionOptions | None = None,
) -> Tensor:
    step = _entangled(bench, case)
    found = intervene(bench.generator, bench.codes, step, normal, case.region, classifier=classifier, options=options)
    with torch.no_grad():
        return bench.generator.synthesize(found.styles).clamp(-1, 1)


def _coarse_to_fine(bench: Bench, case: Case) -> Tensor:
    return _intervened(bench, case, options=InterventionOptions(steps=20, coarse_to_fine=True))


def _by_classifier(bench: Bench, case: Case) -> Tensor:
    """In place of the picture inside, the score of the plain edit is asked for, by the network that does not judge."""
    column = ATTRIBUTES.index(case.attribute)

    def score(images: Tensor) -> Tensor:
        return case.sign * bench.fitting.standardized(images.clamp(-1, 1))[:, column]

    with torch.no_grad():
        classifier = Classifier(score, score(case.plain))
    return _intervened(bench, case, classifier=classifier, options=InterventionOptions(inside_weight=0.0))


def _by_cosine(bench: Bench, case: Case) -> Tensor:
    """The objective of the re-implementation: nothing but the cosine to a sparse boundary's normal holds the edit."""
    styles, scores = bench.population
    deviation = styles.std(0)
    index, labels = extremes(scores[:, ATTRIBUTES.index(case.attribute)], 0.2)
    boundary = fit_boundary(styles[index] / deviation, labels, sparsity=0.01)
    base = flatten_styles(bench.generator.styles(bench.codes))
    normal = normal_step(boundary, _entangled(bench, case), base, deviation)
    return _intervened(
        bench, case, normal, options=InterventionOptions(steps=20, inside_weight=0.0, coarse_to_fine=True)
    )


def _channels(bench: Bench, case: Case) -> Tensor:
    """The strongest channels of StyleSpace, moved as far as the plain edit's response asks for."""
    styles, scores = bench.population
    positives = styles[scores[:, ATTRIBUTES.index(case.attribute)].argsort(descending=True)[:30]]
    statistics = style_statistics(bench.generator, samples=5000)
    channels = attribute_channels(statistics, split_styles(bench.generator, positives), count=CHANNELS)
    step = [torch.zeros_like(mean) for mean in statistics.mean]
    for (layer, channel), ratio in channels:
        step[layer][channel] = statistics.deviation[layer][channel] * (1.0 if ratio > 0 else -1.0)
    base = flatten_styles(bench.generator.styles(bench.codes))

    def at(strengths: Tensor) -> Tensor:
        moved = base + (strengths * case.sign)[:, None] * flatten_styles([layer[None] for layer in step])
        with torch.no_grad():
            return bench.generator.synthesize(split_styles(bench.generator, moved)).clamp(-1, 1)

    tried = [measure(bench, case, at(torch.full_like(case.sign, float(d)))).response for d in DEVIATIONS]
    wanted = measure(bench, case, case.plain).response
    return at(equal_strength(DEVIATIONS, torch.stack(tried), wanted)[0])
