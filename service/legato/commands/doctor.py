"""`legato doctor`: what is installed, which op implementations are live, which models are whole, what sessions cost."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import legato
from legato import config
from legato.errors import LegatoError

PACKAGES = ("torch", "numpy", "grpcio", "protobuf", "opencv-python-headless", "simplejpeg", "safetensors")
MODEL_FILES = ("generator.safetensors", "encoder.safetensors", "directions.safetensors")
REFINERS = ("residual_encoder.safetensors", "curvature.safetensors")  # a model can be served without them


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="tell what is installed and what is live",
        description="Tells what is installed and what is live. Exit code 1 when the model could not be served.",
    )
    default = config.DEFAULT_MODEL
    parser.add_argument("--model", default=default, help=f"name or folder of the model to look at (default: {default})")
    parser.add_argument("--flow-weights", metavar="FILE", help="RAFT's weights, to be looked at too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the report. 0 if the model could be served, else 1."""
    report = examine(args.model, args.flow_weights)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for section, values in report.items():
            print(section.replace("_", " "))
            for name, value in values.items():
                print(f"  {name.replace('_', ' '):24} {value}")
    whole = all(str(state).startswith("ok") for state in report["model"].values())
    flows = args.flow_weights is None or report["flow"]["raft"].startswith("ok")
    return 0 if whole and flows and "missing" not in report["ops"].values() else 1


def examine(model: str, flow_weights: str | None = None) -> dict[str, dict[str, Any]]:
    """The report: sections of names and values."""
    import torch
    from google.protobuf.internal import api_implementation

    from legato.ops import cuda_half, live_backends

    versions = {name: _version(name) for name in PACKAGES}
    cuda = torch.cuda.is_available()
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else []
    return {
        "versions": {
            "legato": legato.__version__,
            "python": platform.python_version(),
            **versions,
            "protobuf_implementation": api_implementation.Type(),
        },
        "cpu": {
            "cores": len(os.sched_getaffinity(0)),
            "torch_threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": "yes" if torch.cpu._is_avx512_bf16_supported() else "no",
            "amx": "yes" if torch.cpu._is_amx_tile_supported() else "no",
        },
        "cuda": {
            "CUDA": ", ".join(devices) or "not available",
            "torch_built_for": torch.version.cuda or "CPU only",
            "legato_cuda_half": cuda_half(),
            "graphs": "captured by the server's warm-up, see its log and legato_graphs" if cuda else "none on the CPU",
        },
        "ops": {**live_backends("cpu"), **_on_cuda(live_backends("cuda") if cuda else {})},
        "model": {name: _file(model, name) for name in MODEL_FILES},
        "refinement": {name: _file(model, name) for name in REFINERS},
        "session": _state_bytes(model),
        "flow": {"dis": f"ok, OpenCV {versions['opencv-python-headless']}", "raft": _raft(flow_weights)},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _on_cuda(live: dict[str, str]) -> dict[str, str]:
    return {f"{op} on cuda": implementation for op, implementation in live.items()}


def _file(model: str, name: str) -> str:
    """ "ok", size and digest of one of the model's files; what is wrong with it otherwise."""
    from legato.models.files import read_tensors, resolve

    try:
        path = resolve(model, name)
        header, _ = read_tensors(path, kind=name.removesuffix(".safetensors"))
    except LegatoError as error:
        return str(error)
    return f"ok, {Path(path).stat().st_size / 2**20:.1f} MiB, sha256 {header.digest[:12]}, {path}"


def _raft(weights: str | None) -> str:
    """Whether `--flow raft` could be served, with these weights if they are given."""
    from legato.models.raft import load_raft

    if weights is None:
        found = _version("torchvision")
        if found == "not installed":
            return "not installed: pip install 'legato[flow]'"
        return f"torchvision {found}, weights not looked at: --flow-weights FILE"
    try:
        return f"ok, {load_raft(weights).arch}, {weights}"
    except LegatoError as error:
        return str(error)


def _state_bytes(model: str) -> dict[str, Any]:
    """Bytes that the engine keeps for each session of this model and for each frame in flight, without the model."""
    from legato.flights import state_bytes
    from legato.models import GeneratorConfig
    from legato.models.files import read_header, resolve

    try:
        header = read_header(resolve(model, "generator.safetensors"))
    except LegatoError:
        return {"bytes_of_state": "unknown without a generator"}
    session, flight = state_bytes(GeneratorConfig(**header.config))
    return {"bytes_of_state": session, "bytes_of_a_frame_in_flight": flight}
