"""Adapters to public implementations, from a folder of checkouts that legato does not ship.

Nothing of theirs is changed but what keeps them from running at all, as told beside it. One that is absent or does not
run gives PeerUnavailable with the reason, and the reason goes into the result.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from legato.benchmarks.convolutions import Formulation, LayerInputs
from legato.benchmarks.rounds import reason
from legato.benchmarks.stamp import commit
from legato.models import Generator, GeneratorConfig
from legato.models.layers import LRELU_GAIN

FOLDERS = {
    "nvlabs": "stylegan2-ada-pytorch",  # NVlabs/stylegan2-ada-pytorch
    "rosinality": "stylegan2-pytorch",  # rosinality/stylegan2-pytorch
    "resample2d": "flownet2-pytorch",  # NVIDIA/flownet2-pytorch
}


class PeerUnavailable(Exception):
    """Why a public implementation cannot be raced."""


class Peers:
    """The public implementations below `folder` (None: none are asked for) on `device`."""

    def __init__(self, folder: Path | None, device: torch.device) -> None:
        self.folder = folder
        self.device = device
        self._found: dict[str, Any] = {}
        self._reasons: dict[str, str] = {}

    def report(self) -> dict[str, dict[str, str]]:
        """What is there: commit, and "ok" or the reason, by name."""
        found = {}
        for name, folder in FOLDERS.items():
            try:
                self._module(name)
                status = "ok"
            except PeerUnavailable as error:
                status = str(error)
            at = commit(self.folder / folder) if self.folder else "unknown"
            found[name] = {"folder": folder, "commit": at, "status": status}
        return found

    def nvlabs_conv(self, inputs: LayerInputs, dtype: torch.dtype) -> tuple[Formulation, Tensor]:
        """modulated_conv2d and bias_act as SynthesisLayer calls them, and x as they keep it: contiguous."""
        theirs = self._module("nvlabs")
        fused = dtype == torch.float32 or inputs.x.shape[0] == 1  # as SynthesisBlock chooses outside of training
        up, kernel = inputs.up, theirs.upfirdn2d.setup_filter([1, 3, 3, 1]).to(self.device)

        def layer(x: Tensor, styles: Tensor, weight: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
            y = theirs.modulated_conv2d(
                x=x,
                weight=weight,
                styles=styles,
                noise=noise,
                up=up,
                padding=1,
                resample_filter=kernel,
                flip_weight=up == 1,
                fused_modconv=fused,
            )
            result: Tensor = theirs.bias_act.bias_act(y, bias, act="lrelu", gain=LRELU_GAIN)
            return result

        constants = (inputs.weight.float().contiguous(), inputs.noise[0, 0].to(dtype), inputs.bias.to(dtype))
        return (layer, constants), _contiguous(inputs.x, dtype)

    def nvlabs_synthesis(self, config: GeneratorConfig, own: Generator, *, half: bool) -> Callable[[Tensor], Tensor]:
        """Their generator of the same sizes, whose weights `own` receives."""
        theirs = self._module("nvlabs")
        generator = theirs.Generator(
            config.z_dim,
            0,
            config.w_dim,
            config.resolution,
            3,
            mapping_kwargs={"num_layers": config.mapping_layers},
            synthesis_kwargs={
                "channel_base": config.channel_base,
                "channel_max": config.channel_max,
                "num_fp16_res": 4 if half else 0,
            },
        )
        generator = generator.eval().requires_grad_(False).to(self.device)
        own.load_state_dict(generator.state_dict(), strict=False)
        return lambda latents: generator.synthesis(latents, noise_mode="const")

    def rosinality_conv(self, inputs: LayerInputs) -> tuple[Formulation, Tensor]:
        """ModulatedConv2d, NoiseInjection and FusedLeakyReLU as StyledConv calls them; float32 is all they know."""
        theirs = self._module("rosinality")
        outputs, channels = inputs.weight.shape[:2]
        conv = theirs.ModulatedConv2d(channels, outputs, 3, channels, upsample=inputs.up == 2)
        conv.modulation = nn.Identity()  # the styles are given
        conv.weight = nn.Parameter(inputs.weight.float().contiguous()[None], requires_grad=False)
        noise, activate = theirs.NoiseInjection(), theirs.FusedLeakyReLU(outputs)
        noise.weight = nn.Parameter(torch.ones(1), requires_grad=False)
        activate.bias = nn.Parameter(inputs.bias.float(), requires_grad=False)
        layers = nn.ModuleList([conv, noise, activate]).to(self.device)

        def layer(x: Tensor, styles: Tensor, map_: Tensor) -> Tensor:
            result: Tensor = layers[2](layers[1](layers[0](x, styles), noise=map_))
            return result

        return (layer, (inputs.noise.float(),)), _contiguous(inputs.x, torch.float32)

    def resample2d(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Their warp of an image [B,C,H,W] by a flow, both float32 on CUDA."""
        warp: Callable[[Tensor, Tensor], Tensor] = self._module("resample2d").Resample2d()
        return warp

    def _module(self, name: str) -> Any:
        """What the adapter needs of a peer, imported once."""
        if name not in self._found and name not in self._reasons:
            try:
                self._found[name] = _LOADERS[name](self._path(name), self.device)
            except PeerUnavailable as error:
                self._reasons[name] = str(error)
            except Exception as error:  # theirs, whatever it is
                self._reasons[name] = f"its import fails: {reason(error)}"
        if name in self._reasons:
            raise PeerUnavailable(self._reasons[name])
        return self._found[name]

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise PeerUnavailable("no folder of peers")
        path = self.folder / FOLDERS[name]
        if not path.is_dir():
            raise PeerUnavailable(f"no folder {path}")
        return path


def _nvlabs(path: Path, device: torch.device) -> Any:
    with _importing(path):
        networks = importlib.import_module("training.networks")
    if device.type == "cuda":  # without their kernels they fall back to a slow path and only warn
        for op in (networks.upfirdn2d, networks.bias_act):
            if not op._init():
                raise PeerUnavailable(f"{op.__name__} does not build here")
    return networks


def _rosinality(path: Path, device: torch.device) -> Any:
    """Its ops are compiled with nvcc at import, also where only their CPU paths are called: not here on the CPU."""
    from torch.utils import cpp_extension

    load = cpp_extension.load
    if device.type == "cpu":
        cpp_extension.load = lambda *args, **kwargs: None
    try:
        with _importing(path):
            return importlib.import_module("model")
    finally:
        cpp_extension.load = load


def _resample2d(path: Path, device: torch.device) -> Any:
    """Its setup.py names devices up to sm_70 and C++11 alone, so the sources are built with torch's own defaults."""
    if device.type != "cuda":
        raise PeerUnavailable("CUDA only")
    from torch.utils.cpp_extension import load

    sources = path / "networks" / "resample2d_package"
    files = [str(sources / "resample2d_cuda.cc"), str(sources / "resample2d_kernel.cu")]
    built = load("resample2d_cuda", files, build_directory=tempfile.mkdtemp(prefix="resample2d"))
    sys.modules["resample2d_cuda"] = built
    with _importing(path / "networks"):
        return SimpleNamespace(Resample2d=importlib.import_module("resample2d_package.resample2d").Resample2d)


_LOADERS: dict[str, Callable[[Path, torch.device], Any]] = {
    "nvlabs": _nvlabs,
    "rosinality": _rosinality,
    "resample2d": _resample2d,
}


_theirs: dict[str, Path] = {}  # modules of peers that were imported, and the folders they came from


@contextlib.contextmanager
def _importing(path: Path) -> Iterator[None]:
    """Modules below `path` can be imported; what came from elsewhere under their names is forgotten."""
    path = path.resolve()
    for name in [name for name, folder in _theirs.items() if folder != path]:
        top = name.partition(".")[0]
        if (path / top).exists() or (path / f"{top}.py").exists():
            sys.modules.pop(name, None)
            del _theirs[name]
    before = set(sys.modules)
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).resolve().is_relative_to(path):
                _theirs[name] = path


def _contiguous(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype, memory_format=torch.contiguous_format).contiguous()
