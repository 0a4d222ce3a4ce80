"""What an emulation cannot show: the current stream, CUDA graphs, and devices beside the first."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerances import EXACT

pytestmark = pytest.mark.cuda

Arguments = list[Any]
SIZE = (2, 16, 64, 64)  # B, channels, H, W


def flow(device: str) -> Tensor:
    return 3 * torch.randn(SIZE[0], 2, *SIZE[2:], device=device)


def image(device: str, channels: int = 3) -> Tensor:
    return torch.randn(SIZE[0], channels, *SIZE[2:], device=device)


def features(device: str) -> Arguments:
    """x and styles of a modulated convolution, between them a weight to three colors."""
    x = torch.randn(SIZE, device=device).to(memory_format=torch.channels_last).half()
    return [x, torch.randn(3, SIZE[1], 1, 1, device=device).half(), torch.randn(SIZE[:2], device=device)]


def convolution(device: str) -> Arguments:
    x, _, styles = features(device)
    weight = torch.randn(24, SIZE[1], 3, 3, device=device).half()
    return [x, weight, styles, weight.float().square().sum((2, 3)), None, None, 2, 0.2, 2**0.5, None]


def result_of(device: str) -> Tensor:
    return (
        torch.randn(SIZE[0], 24, 2 * SIZE[2], 2 * SIZE[3], device=device).half().to(memory_format=torch.channels_last)
    )


CALLS: dict[str, Callable[[str], Arguments]] = {
    "modulated_conv2d": convolution,
    "modulated_conv2d_backward": lambda d: [result_of(d), result_of(d), *convolution(d)],
    "to_rgb": lambda d: [*features(d), None, image(d)[..., ::2, ::2], 1.0],
    "to_rgb_backward": lambda d: [image(d), *features(d), None, 1.0, True],
    "flow_warp": lambda d: [image(d), flow(d), flow(d), True],
    "flow_warp_backward_image": lambda d: [image(d), flow(d), True],
    "flow_warp_backward_flow": lambda d: [image(d), image(d), flow(d)],
    "photometric_error": lambda d: [image(d), image(d), flow(d), None, True, 2, 1e-3],
    "photometric_error_backward": lambda d: [
        torch.randn(SIZE[0], device=d), image(d), image(d), image(d, 1).sign().relu(), 2, 1e-3
    ],
}  # fmt: skip
EACH_OP = pytest.mark.parametrize("op", CALLS)


def call(op: str, arguments: Arguments) -> list[Tensor]:
    importlib.import_module("legato._C")
    results = getattr(torch.ops.legato, op)(*arguments)
    return list(results) if isinstance(results, tuple) else [results]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@EACH_OP
def test_two_runs_are_the_same(op: str) -> None:
    arguments = CALLS[op]("cuda")
    assert_same(call(op, arguments), call(op, arguments))


@EACH_OP
def test_runs_on_the_current_stream(op: str) -> None:
    """The inputs arrive late on another stream: whoever reads them on the default stream reads zeros."""
    arguments = CALLS[op]("cuda")
    expected = call(op, arguments)
    late = [torch.zeros_like(a) if isinstance(a, Tensor) else a for a in arguments]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for to, source in zip(late, arguments, strict=True):
            if isinstance(to, Tensor):
                to.copy_(source)
        actual = call(op, late)
    stream.synchronize()
    assert_same(actual, expected)


@EACH_OP
def test_a_captured_graph_follows_its_inputs(op: str) -> None:
    arguments, others = CALLS[op]("cuda"), CALLS[op]("cuda")
    expected = call(op, others)
    call(op, arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = call(op, arguments)
    for to, source in zip(arguments, others, strict=True):
        if isinstance(to, Tensor):
            to.copy_(source)
    graph.replay()
    graph.replay()
    assert_same(actual, expected)


@EACH_OP
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second device")
def test_runs_on_the_device_of_its_tensors(op: str) -> None:
    arguments = CALLS[op]("cuda:0")
    there = [a.to("cuda:1") if isinstance(a, Tensor) else a for a in arguments]
    with torch.cuda.device(0):
        actual = call(op, there)
        assert torch.cuda.current_device() == 0
    assert all(a.device.index == 1 for a in actual)
    assert_same([a.to("cuda:0") for a in actual], call(op, arguments))
