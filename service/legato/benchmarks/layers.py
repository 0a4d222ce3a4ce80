"""The layers that are measured, and the least work that each takes."""

from __future__ import annotations

from dataclasses import dataclass

from legato.models import GeneratorConfig
from legato.models.files import read_header, resolve

CONFIG_F = {f"config-f-{side}": side for side in (256, 512, 1024)}  # Karras et al. 2020, table 1
NETS = ("heads-128", *CONFIG_F)
SYNTHESIS = {  # whole generators
    "heads-128": None,
    "256px-base-16384": GeneratorConfig(resolution=256, z_dim=512, w_dim=512, mapping_layers=2, channel_base=16384),
}


@dataclass(frozen=True, slots=True)
class Work:
    """The least that a computation takes: floating-point operations, and bytes with each tensor moved once."""

    flop: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flop + other.flop, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class Layer:
    """One modulated convolution. `nets` are those that it belongs to: nets of one family share most layers."""

    name: str
    nets: tuple[str, ...]
    c_in: int
    c_out: int
    size: int  # pixels of the output's side
    up: int
    taps: int

    @property
    def pixels_in(self) -> int:
        return (self.size // self.up) ** 2

    @property
    def pixels(self) -> int:
        return self.size**2


def net_config(net: str) -> GeneratorConfig:
    """Sizes of a net by name; those of heads-128 are read from the model itself. Raises LegatoError without it."""
    if net in CONFIG_F:
        return GeneratorConfig(resolution=CONFIG_F[net], z_dim=512, w_dim=512, channel_base=32768)
    return SYNTHESIS.get(net) or GeneratorConfig(**read_header(resolve(net, "generator.safetensors")).config)


def layers_of(nets: list[str], *, torgb: bool = False) -> list[Layer]:
    """The 3x3 convolutions of `nets`, or their ToRGB layers; a layer that several of them share stands once."""
    taps = 1 if torgb else 9
    found: dict[str, Layer] = {}
    for net in nets:
        config = net_config(net)
        family = "config-f" if net in CONFIG_F else net
        for r in config.resolutions:
            c = config.channels(r)
            sizes = {"torgb": (c, 3, r, 1)} if torgb else {"conv1": (c, c, r, 1)}
            if r > 4 and not torgb:
                sizes = {"conv0": (config.channels(r // 2), c, r, 2), **sizes}
            for part, (c_in, c_out, size, up) in sizes.items():
                name = f"{family} b{r}.{part}"
                before = found[name].nets if name in found else ()
                found[name] = Layer(name, (*before, net), c_in, c_out, size, up, taps)
    return list(found.values())


def conv_work(layer: Layer, batch: int, element: int, *, backward: bool) -> Work:
    """A modulated convolution whose tensors have `element` bytes a value; `backward` alone, to x and styles.

    With up = 2 the convolution has nine taps for every pixel of its input, and the [1,3,3,1] filter is separable. No
    tensor in between is written. Q and the styles stay float32.
    """
    x, y = batch * layer.c_in * layer.pixels_in, batch * layer.c_out * layer.pixels
    table = layer.c_in * layer.c_out
    flop = 2.0 * layer.taps * batch * table * layer.pixels_in + (2.0 * 8 * y if layer.up == 2 else 0.0)
    constants = layer.taps * table * element + 4 * table
    if backward:  # reads y, its gradient and x, writes the gradient to x
        return Work(flop, 2 * (x + y) * element + constants)
    return Work(flop, (x + y + layer.pixels) * element + constants)


def torgb_work(layer: Layer, batch: int, element: int, *, backward: bool) -> Work:
    """ToRGB with the upsampled running image, which is float32; `backward` alone, to x, styles and running image."""
    x, image = batch * layer.c_in * layer.pixels, 4 * 3 * batch * layer.pixels
    flop = 2.0 * 3 * x + 2.0 * 4 * 3 * batch * layer.pixels
    return Work(flop, (2 if backward else 1) * x * element + 1.25 * image)


def conv_memory(layer: Layer, batch: int, element: int, *, backward: bool, grouped: bool) -> float:
    """Bytes that a measurement holds at once, about: inputs, what a plain formulation keeps, results compared."""
    x, y = batch * layer.c_in * layer.pixels_in, batch * layer.c_out * layer.pixels
    if grouped:
        return 4.0 * (
            (3 + 2 * backward) * x + (5 + 3 * backward) * y + (3 + 3 * backward) * 9 * batch * layer.c_in * layer.c_out
        )
    return float(element * ((3 + 3 * backward) * x + (5 + 4 * backward) * y))
