"""A network under the one naming, not read yet: its architecture from its tensors, and the module made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from legato.models.containers import Source, StoredTensor
from legato.models.containers.tensors import Step
from legato.models.discriminator import Discriminator
from legato.models.generator import Generator, GeneratorConfig

W_AVG = "mapping.w_avg"
PROGRESSIVE = "generator.progression."  # of rosinality/style-based-gan-pytorch
W_AVG_SAMPLES, W_AVG_BATCH, W_AVG_SEED = 8192, 1024, 0
FILTER = torch.outer(*2 * (torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8,))
FILTER_ERROR = 1e-3  # half precision
SHOWN = 4  # complaints in a message


@dataclass(frozen=True, slots=True)
class Network:
    """Tensors under NVIDIA's names, checked as far as names go. What a file does not say keeps the default."""

    source: Source
    tensors: Mapping[str, StoredTensor]
    conv_clamp: float | None = None
    mapping_lr_multiplier: float = 0.01
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """In the file."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The networks of a file."""

    format: str
    generator: Network | None = None
    discriminator: Network | None = None
    encoder: EncoderState | None = None
    others: tuple[str, ...] = field(default=())  # what else stands in the file, left alone


@dataclass(frozen=True, slots=True)
class EncoderState:
    """An encoder as pSp and e4e save it, under its own names (input_layer, body, styles, ...)."""

    source: Source
    tensors: Mapping[str, StoredTensor]
    options: Mapping[str, Any]  # plain values of the training's options
    latent_avg: StoredTensor | None  # [L, D] or [1, D]


Rule = tuple[str, str, tuple[Step, ...]]  # their name, ours, what is to be done


def rename(source: Source, found: Mapping[str, StoredTensor], rules: Iterable[Rule]) -> dict[str, StoredTensor]:
    """The tensors under our names; an empty one of ours stands for the resampling filter, which is checked and dropped.

    ModelFileError on a tensor that is missing or that no rule names.
    """
    refuse_other_architectures(source, found)
    left = dict(found)
    renamed, missing = {}, []
    for theirs, ours, steps in rules:
        tensor = left.pop(theirs, None)
        if tensor is None:
            missing.append(f"{theirs} is missing")
        elif ours:
            renamed[ours] = tensor.then(*steps)
        else:
            check_filter(source, tensor)
    complain(source, missing + [f"{_clean(name)} is not known" for name in left])
    return renamed


def check_filter(source: Source, tensor: StoredTensor) -> None:
    """ModelFileError unless it is the filter [1, 3, 3, 1], of gain 1 (down) or 4 (up), the one that is built in."""
    if tensor.nbytes > 1024 or sorted(tensor.shape)[-2:] != [4, 4]:
        complain(source, [f"{_clean(tensor.name)} is {list(tensor.shape)} where a filter of [4, 4] was wanted"])
    values = tensor.read().float().flatten()
    if not any(torch.allclose(values, gain * FILTER.flatten(), rtol=0, atol=gain * FILTER_ERROR) for gain in (1, 4)):
        raise source.refusal(
            f"resamples by another filter than [1, 3, 3, 1] ({_clean(tensor.name)}), which is not supported"
        )


def read_generator_config(network: Network) -> GeneratorConfig:
    """The architecture from shapes alone. Raises ModelFileError."""
    refuse_other_architectures(network.source, network.tensors)
    shapes = _shapes(network)
    channels: dict[int, int] = {}
    while (name := f"synthesis.b{4 << len(channels)}.conv1.weight") in shapes:
        channels[4 << len(channels)] = shapes[name][0] if shapes[name] else 0
    depth = 0
    while f"mapping.fc{depth}.weight" in shapes:
        depth += 1
    first, affine = shapes.get("mapping.fc0.weight", ()), shapes.get("synthesis.b4.conv1.affine.weight", ())
    if len(channels) < 2 or len(first) != 2 or len(affine) != 2:
        complain(network.source, _absent(shapes))
    base, largest = _channel_rule(network.source, channels)
    try:
        return GeneratorConfig(
            max(channels), first[1], affine[1], depth, network.mapping_lr_multiplier, base, largest, network.conv_clamp
        )
    except (TypeError, ValueError) as error:
        raise network.source.refusal(f"holds a generator that cannot be built: {error}") from error


def plan_generator(network: Network) -> Generator:
    """The generator without its weights, on torch's device "meta": every name, shape and kind is checked, nothing read.

    Raises ModelFileError.
    """
    config = read_generator_config(network)
    with torch.device("meta"):
        generator = Generator(config)
    _check(network, generator, optional={W_AVG})
    return generator


def build_generator(network: Network) -> Generator:
    """float32, evaluation mode, no gradients to weights; every tensor used, every shape checked.

    Raises ModelFileError.
    """
    generator, state = plan_generator(network), _read(network)
    known_average = W_AVG in state
    if not known_average:
        state[W_AVG] = torch.zeros(generator.config.w_dim)
    generator.load_state_dict(state, assign=True)
    generator.requires_grad_(False).eval()
    if not known_average:
        estimate_w_avg(generator)
    return generator


def plan_discriminator(network: Network) -> Discriminator:
    """As plan_generator."""
    shapes = _shapes(network)
    widths = {r: shapes.get(f"b{r}.conv0.weight", ()) for r in (2**k for k in range(3, 13))}
    channels = {r: shape[0] for r, shape in widths.items() if shape}
    last = shapes.get("b4.conv.weight", ())
    if not channels or not last:
        complain(network.source, ["no blocks b8, b16, ... and b4 are among its tensors"])
    base, largest = _channel_rule(network.source, {4: last[0], **channels})
    try:
        config = GeneratorConfig(max(channels), channel_base=base, channel_max=largest, conv_clamp=network.conv_clamp)
    except (TypeError, ValueError) as error:
        raise network.source.refusal(f"holds a discriminator that cannot be built: {error}") from error
    with torch.device("meta"):
        discriminator = Discriminator(config)
    _check(network, discriminator)
    return discriminator


def build_discriminator(network: Network) -> Discriminator:
    """As build_generator."""
    discriminator = plan_discriminator(network)
    discriminator.load_state_dict(read_state(network, discriminator), assign=True)
    return discriminator.requires_grad_(False).eval()


def estimate_w_avg(generator: Generator) -> None:
    """The mean of w over fixed random z, for files that do not keep it."""
    random = torch.Generator().manual_seed(W_AVG_SEED)
    total = torch.zeros(generator.config.w_dim, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(W_AVG_SAMPLES // W_AVG_BATCH):
            z = torch.randn(W_AVG_BATCH, generator.config.z_dim, generator=random)
            total += generator.mapping(z).double().sum(dim=0)
        generator.w_avg.copy_(total / W_AVG_SAMPLES)


def refuse_other_architectures(source: Source, names: Iterable[str]) -> None:
    """ModelFileError for tensors of StyleGAN1 and 3 and of conditional or residual generators, which it names."""
    found = list(names)
    if any(name.startswith(("synthesis.input.", "synthesis.L0_")) for name in found):
        raise source.refusal(
            "holds a StyleGAN3 generator, whose layers legato does not have. Give a StyleGAN2 network: with "
            "NVlabs/stylegan3 one that was trained by --cfg=stylegan2"
        )
    if any(".epilogue." in name or ".apply_noise." in name or name.startswith(PROGRESSIVE) for name in found):
        raise source.refusal(
            "holds a StyleGAN1 generator, whose layers legato does not have. Give a StyleGAN2 network of the same data"
        )
    if any(name.startswith("mapping.embed.") for name in found):
        raise source.refusal(
            "holds a generator that is conditional on labels, which legato cannot invert. Give one of no labels"
        )
    if any(name.startswith("synthesis.") and name.endswith(".skip.weight") for name in found):
        raise source.refusal(
            "holds a generator of the residual architecture. Give one of the skip architecture, StyleGAN2's own"
        )


def complain(source: Source, complaints: list[str], what: str = "StyleGAN2") -> None:
    """Raises ModelFileError if there is any complaint."""
    if complaints:
        more = f" and {len(complaints) - SHOWN} more" if len(complaints) > SHOWN else ""
        raise source.refusal(
            f"does not fit the {what} that its names tell of: {'; '.join(complaints[:SHOWN])}{more}. Fetch or save "
            "it again; a network whose layers were changed cannot be read"
        )


def read_state(
    network: Network, built: nn.Module, optional: Collection[str] = (), what: str = "StyleGAN2"
) -> dict[str, Tensor]:
    """All tensors that the module wants, float32, once names, shapes, kinds and sizes have been checked."""
    _check(network, built, optional, what)
    return _read(network)


def _check(network: Network, built: nn.Module, optional: Collection[str] = (), what: str = "StyleGAN2") -> None:
    """ModelFileError unless the tensors are exactly those of the module."""
    shapes = _shapes(network)
    wanted = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    complaints = [f"{name} is missing" for name in wanted if name not in shapes and name not in optional]
    for name, tensor in network.tensors.items():
        told = _clean(tensor.name) + (f" ({name})" if not tensor.name.endswith(name) else "")
        if name not in wanted:
            complaints.append(f"{told} is not known")
        elif shapes[name] != wanted[name]:
            complaints.append(f"{told} is {list(shapes[name])} where {list(wanted[name])} was wanted")
        elif not tensor.dtype.is_floating_point:
            complaints.append(f"{told} holds {tensor.dtype} where floating-point numbers were wanted")
    complain(network.source, complaints, what)
    if network.nbytes > network.source.size:
        raise network.source.refusal("holds tensors that lie over each other, more than it has bytes. Save it again")


def _read(network: Network) -> dict[str, Tensor]:
    """All tensors, float32, one after the other."""
    state = {}
    for name, tensor in network.tensors.items():
        state[name] = tensor.read().float()
        if not state[name].isfinite().all():
            raise network.source.damaged(f"{_clean(tensor.name)} holds values that are not finite")
    return state


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    try:
        return {name: tensor.shape for name, tensor in network.tensors.items()}
    except ValueError as error:
        raise network.source.refusal(
            f"does not fit the StyleGAN2 that its names tell of: {error}. Save it again"
        ) from error


def _absent(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    wanted = ("mapping.fc0.weight", "synthesis.b4.conv1.weight", "synthesis.b8.conv1.weight")
    return [f"{name} is missing" for name in (*wanted, "synthesis.b4.conv1.affine.weight") if not shapes.get(name)] or [
        "a weight has no shape of a weight"
    ]


def _channel_rule(source: Source, channels: Mapping[int, int]) -> tuple[int, int]:
    """channel_base and channel_max of min(channel_base // r, channel_max) = channels at r."""
    largest = max(channels.values())
    base = max(count * r for r, count in channels.items())
    if any(min(base // r, largest) != count for r, count in channels.items()):
        raise source.refusal(
            f"has channels that follow no rule min(base // resolution, maximum): {dict(sorted(channels.items()))}. "
            "Networks of other widths cannot be read"
        )
    return base, largest


def _clean(name: str) -> str:
    """A foreign name for a message."""
    return name if name.isascii() and name.isprintable() and len(name) < 80 else repr(name)[:80]
