"""The cases of `legato bench ops`: an op on one size, batch and dtype, forward or with backward, and its contenders.

A contender is named GROUP/VARIANT: "ours" alone, "eager/..." plain torch, "grouped/..." a weight for each sample, or a
public implementation. What plain torch can be compiled is compiled by the runner, as "compile/...".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from legato.benchmarks import convolutions, warps
from legato.benchmarks.convolutions import LayerInputs
from legato.benchmarks.layers import SYNTHESIS, Layer, Work, conv_memory, conv_work, layers_of, net_config, torgb_work
from legato.benchmarks.peers import Peers, PeerUnavailable
from legato.benchmarks.rounds import AGREEMENT, KINKS, Call, forward, with_backward
from legato.benchmarks.torgb import ToRGBInputs
from legato.benchmarks.torgb import formulations as torgb_formulations
from legato.benchmarks.warps import WarpInputs
from legato.models import Generator
from legato.ops import flow_warp, photometric_error, to_rgb

Mode = Literal["forward", "forward_backward"]
OPS = ("modulated_conv2d", "flow_warp", "photometric_error", "to_rgb", "synthesis")
MODES: tuple[Mode, ...] = ("forward", "forward_backward")


@dataclass(frozen=True, slots=True)
class Entrant:
    """What a contender calls, with what, and the tensors whose gradients it gives. `compiles`: so can inductor."""

    function: Callable[..., Any]  # gives a tensor, or several
    arguments: tuple[object, ...]
    leaves: tuple[Tensor, ...] = ()
    compiles: bool = False

    def call(self, mode: Mode, function: Callable[..., Any] | None = None) -> Call:
        run = function or self.function
        return forward(run, *self.arguments) if mode == "forward" else with_backward(run, self.leaves, *self.arguments)


Build = Callable[[int], dict[str, Callable[[], Entrant]]]  # from a seed: a maker for each contender, ours first


@dataclass(frozen=True, slots=True)
class Case:
    """`memory` and `memory_grouped`: bytes that the measurement holds, without and with the grouped formulations."""

    op: str
    name: str  # of the layer, or the size in pixels
    nets: tuple[str, ...]
    batch: int
    dtype: str
    mode: Mode
    work: Work
    build: Build
    memory: float = 0.0
    memory_grouped: float = 0.0
    layer: Layer | None = None

    @property
    def agreement(self) -> float:
        """How far contenders may be from each other."""
        return KINKS if self.op in ("flow_warp", "photometric_error") else AGREEMENT[self.dtype]

    @property
    def label(self) -> str:
        return f"{self.op} {self.name} B{self.batch} {self.dtype} {self.mode.replace('_', ' + ')}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all cases share."""

    device: torch.device
    peers: Peers


def cases(op: str, nets: list[str], batch: int, dtype: str, mode: Mode, setting: Setting) -> list[Case]:
    """All cases of one op."""
    if op == "modulated_conv2d":
        return [_convolution(layer, batch, dtype, mode, setting) for layer in layers_of(nets)]
    if op == "to_rgb":
        return [_to_rgb(layer, batch, dtype, mode, setting) for layer in layers_of(nets, torgb=True)]
    if op == "synthesis":
        return [_synthesis(name, batch, dtype, mode, setting) for name in SYNTHESIS]
    sides = (256, 512, 1024) if setting.device.type == "cuda" else (256, 512)
    make = _flow_warp if op == "flow_warp" else _photometric_error
    return [make(side, batch, dtype, mode, setting) for side in sides]


def _total(work: Callable[..., Work], mode: Mode, *sizes: object) -> Work:
    one = work(*sizes, backward=False)
    return one if mode == "forward" else one + work(*sizes, backward=True)


def _leaf(tensor: Tensor, mode: Mode) -> Tensor:
    return tensor.detach().clone().requires_grad_() if mode == "forward_backward" else tensor


def _convolution(layer: Layer, batch: int, dtype: str, mode: Mode, setting: Setting) -> Case:
    kind = getattr(torch, dtype)
    peers, backward = setting.peers, mode == "forward_backward"

    def build(seed: int) -> dict[str, Callable[[], Entrant]]:
        inputs = LayerInputs.random(layer, batch, kind, setting.device, seed)
        x, styles = _leaf(inputs.x, mode), _leaf(inputs.styles, mode)

        def shared(formulation: convolutions.Formulation, *, compiles: bool) -> Callable[[], Entrant]:
            function, constants = formulation
            return lambda: Entrant(function, (x, styles, *constants), (x, styles), compiles)

        def own_x(make: Callable[[], tuple[convolutions.Formulation, Tensor]]) -> Callable[[], Entrant]:
            def entrant() -> Entrant:
                (function, constants), plain = make()
                leaf = _leaf(plain, mode)
                return Entrant(function, (leaf, styles, *constants), (leaf, styles))

            return entrant

        found = {"ours": shared(convolutions.fused(inputs), compiles=False)}
        for name, formulation in convolutions.shared_weights(inputs).items():
            found[f"eager/{name}"] = shared(formulation, compiles=True)
        found["grouped/float32"] = own_x(lambda: convolutions.grouped(inputs, torch.float32))
        if dtype != "float32":
            found[f"grouped/{dtype}"] = own_x(lambda: convolutions.grouped(inputs, kind))
        theirs = torch.float16 if dtype == "float16" else torch.float32  # the dtypes that they know
        found["nvlabs/" + str(theirs).removeprefix("torch.")] = own_x(lambda: peers.nvlabs_conv(inputs, theirs))
        found["rosinality/float32"] = own_x(lambda: peers.rosinality_conv(inputs))
        return found

    size = kind.itemsize
    return Case(
        "modulated_conv2d",
        layer.name,
        layer.nets,
        batch,
        dtype,
        mode,
        _total(conv_work, mode, layer, batch, size),
        build,
        memory=conv_memory(layer, batch, size, backward=backward, grouped=False),
        memory_grouped=conv_memory(layer, batch, size, backward=backward, grouped=True),
        layer=layer,
    )


def _to_rgb(layer: Layer, batch: int, dtype: str, mode: Mode, setting: Setting) -> Case:
    kind = getattr(torch, dtype)

    def build(seed: int) -> dict[str, Callable[[], Entrant]]:
        inputs = ToRGBInputs.random(layer, batch, kind, setting.device, seed)
        inputs = replace(inputs, x=_leaf(inputs.x, mode), styles=_leaf(inputs.styles, mode))
        if inputs.image is not None:
            inputs = replace(inputs, image=_leaf(inputs.image, mode))
        leaves = tuple(t for t in (inputs.x, inputs.styles, inputs.image) if t is not None)
        arguments = (inputs.x, inputs.weight, inputs.styles, inputs.bias, inputs.image)

        def op(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, image: Tensor | None) -> Tensor:
            return to_rgb(x, weight, styles, bias=bias, image=image)

        found = {"ours": lambda: Entrant(op, arguments, leaves)}
        for name, function in torgb_formulations().items():
            found[f"eager/{name}"] = lambda f=function: Entrant(f, arguments, leaves, compiles=True)  # type: ignore[misc]
        return found

    work = _total(torgb_work, mode, layer, batch, kind.itemsize)
    memory = conv_memory(layer, batch, kind.itemsize, backward=mode == "forward_backward", grouped=False)
    return Case("to_rgb", layer.name, layer.nets, batch, dtype, mode, work, build, memory=memory, layer=layer)


def _flow_warp(side: int, batch: int, dtype: str, mode: Mode, setting: Setting) -> Case:
    kind = getattr(torch, dtype)

    def build(seed: int) -> dict[str, Callable[[], Entrant]]:
        inputs = WarpInputs.random(side, batch, kind, setting.device, seed)
        image, flow = _leaf(inputs.image, mode), _leaf(inputs.flow, mode)
        constants = (inputs.grid, inputs.scale)
        one = mode == "forward_backward"  # the validity has no gradient

        def resample() -> Entrant:
            theirs, plain = setting.peers.resample2d(), _leaf(inputs.image.float(), mode)
            return Entrant(theirs, (plain, flow), (plain, flow))

        pipeline = _first(warps.warp) if one else warps.warp
        found = {
            "ours": lambda: Entrant(_first(flow_warp) if one else flow_warp, (image, flow), (image, flow)),
            "eager/grid_sample": lambda: Entrant(pipeline, (image, flow, *constants), (image, flow), compiles=True),
        }
        if setting.device.type == "cuda":
            found["resample2d/float32"] = resample
        return found

    work = _total(warps.warp_work, mode, side, batch, kind.itemsize)
    return Case("flow_warp", f"{side} px", (), batch, dtype, mode, work, build)


def _photometric_error(side: int, batch: int, dtype: str, mode: Mode, setting: Setting) -> Case:
    kind = getattr(torch, dtype)

    def build(seed: int) -> dict[str, Callable[[], Entrant]]:
        inputs = WarpInputs.random(side, batch, kind, setting.device, seed)
        image, target = _leaf(inputs.image, mode), _leaf(inputs.target, mode)
        arguments = (image, target, inputs.flow, inputs.backward)
        one = mode == "forward_backward"

        def op(image: Tensor, target: Tensor, flow: Tensor, backward: Tensor) -> Sequence[Tensor]:
            return photometric_error(image, target, flow, backward=backward, boundaries=True)

        def entrant(function: Callable[..., Sequence[Tensor]], *constants: Tensor) -> Callable[[], Entrant]:
            run = _first(function) if one else function
            return lambda: Entrant(run, (*arguments, *constants), (image, target), compiles=bool(constants))

        return {
            "ours": entrant(op),
            "eager/grid_sample": entrant(warps.error, inputs.grid, inputs.scale),
            "eager/one grid_sample": entrant(warps.error_in_one, inputs.grid, inputs.scale),
        }

    work = _total(warps.error_work, mode, side, batch, kind.itemsize)
    return Case("photometric_error", f"{side} px", (), batch, dtype, mode, work, build)


def _first(function: Callable[..., Sequence[Tensor]]) -> Callable[..., Tensor]:
    def first(*arguments: Tensor) -> Tensor:
        return function(*arguments)[0]

    return first


def _synthesis(name: str, batch: int, dtype: str, mode: Mode, setting: Setting) -> Case:
    """Whole generators with random weights. No floor: its layers have theirs."""
    config, device = net_config(name), setting.device
    half = None if dtype == "float32" else getattr(torch, dtype)

    def build(seed: int) -> dict[str, Callable[[], Entrant]]:
        own = Generator(config, autocast_dtype=half).eval().requires_grad_(False).to(device)
        random = torch.Generator().manual_seed(seed)
        latents = _leaf(torch.randn(batch, config.num_layers, config.w_dim, generator=random).to(device), mode)

        known = "float16" if dtype == "float16" else "float32"
        try:  # first of all, for their weights become ours
            synthesis = setting.peers.nvlabs_synthesis(config, own, half=known == "float16")
        except PeerUnavailable as error:
            why = str(error)

            def theirs() -> Entrant:
                raise PeerUnavailable(why)
        else:

            def theirs() -> Entrant:
                return Entrant(synthesis, (latents,), (latents,))

        return {"ours": lambda: Entrant(own, (latents,), (latents,)), f"nvlabs/{known}": theirs}

    return Case("synthesis", name, (), batch, dtype, mode, Work(0.0, 0.0), build)
