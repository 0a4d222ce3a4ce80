"""RAFT of torchvision with weights from a file. What needs the network itself is skipped where torchvision is absent;
its weights here are random, since none come with it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from legato.errors import BackendUnavailable, ModelFileError
from legato.inversion import TrackerOptions
from legato.models import raft
from legato.models.raft import load_raft
from legato.pipeline import Pipeline
from legato.types import FrameAnswer, FrameJob, Outputs
from tests.pipeline.model import small_model, stream
from tests.tolerances import RAFT_PIXELS

KEY = "feature_encoder.convnormrelu.0.weight"
needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="the extra `flow` is not installed")


def network(arch: str = "raft_small") -> Any:
    torch.manual_seed(0)
    return getattr(raft._module(), arch)(weights=None, progress=False).eval()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "raft.pth"
    torch.save(network().state_dict(), path)
    return path


def grays(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@needs_torchvision
@pytest.mark.parametrize("arch", ["raft_small", "raft_large"])
def test_the_file_tells_which_network_it_is(arch: str, tmp_path: Path) -> None:
    made = network(arch)
    save_file(made.state_dict(), tmp_path / "raft.safetensors")
    found = load_raft(tmp_path / "raft.safetensors")
    assert found.arch == arch
    one, other = grays(1, 128), grays(1, 128, seed=1)
    with torch.no_grad():
        images = [(each[:, None] / 127.5 - 1).expand(-1, 3, -1, -1) for each in (one, other)]
        expected = made(*images, num_flow_updates=raft.UPDATES)[-1]
    torch.testing.assert_close(found.pairs(one, other)[0], expected, **RAFT_PIXELS)


@needs_torchvision
def test_both_ways_and_any_number_of_pairs_at_once(weights: Path) -> None:
    found = load_raft(weights)
    one, other = grays(5, 128), grays(5, 128, seed=1)
    pull, back = found.pairs(one, other)
    assert pull.shape == back.shape == (5, 2, 128, 128)
    for pair in (0, 4):
        single, opposite = found.pairs(other[pair : pair + 1], one[pair : pair + 1])
        torch.testing.assert_close(back[pair], single[0], **RAFT_PIXELS)
        torch.testing.assert_close(pull[pair], opposite[0], **RAFT_PIXELS)


@needs_torchvision
@pytest.mark.parametrize("side", [64, 100, 132])
def test_sides_that_raft_does_not_take(weights: Path, side: int) -> None:
    """Enlarged to a multiple of 8, 128 at least; the vectors are in pixels of the picture that was given."""
    found, large = load_raft(weights), max(128, -(-side // 8) * 8)
    one, other = grays(1, side), grays(1, side, seed=1)
    pull, _ = found.pairs(one, other)
    assert pull.shape == (1, 2, side, side)
    images = [F.interpolate(each[:, None] / 127.5 - 1, (large, large), mode="bilinear") for each in (one, other)]
    with torch.no_grad():
        whole = found._network(*(image.expand(-1, 3, -1, -1) for image in images), num_flow_updates=raft.UPDATES)[-1]
    expected = F.interpolate(whole, (side, side), mode="bilinear") * side / large
    torch.testing.assert_close(pull, expected, **RAFT_PIXELS)


@needs_torchvision
def test_a_pipeline_takes_the_flow_that_it_is_given(weights: Path) -> None:
    model, asked, held = small_model(), Outputs(latents=True), TrackerOptions(flow_weight=0.5)
    frames = stream(model, 2)
    found = []
    for flow in (None, load_raft(weights)):
        pipeline = Pipeline(model.generator, model.encoder, model.directions, slots=1, flow=flow, tracker=held)
        pipeline.run([FrameJob(0, 1, frames[0])])
        (answer,) = pipeline.run([FrameJob(0, 2, frames[1], outputs=asked, max_steps=2)])
        assert isinstance(answer, FrameAnswer)
        assert answer.latents is not None
        found.append(answer.latents)
    assert np.abs(found[0] - found[1]).max() > 0


@needs_torchvision
def test_weights_that_do_not_fit_name_what_is_wrong(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    lost = {name: value for name, value in state.items() if not name.startswith("update_block.flow_head")}
    torch.save(lost | {"else": torch.zeros(1)}, tmp_path / "lost.pth")
    with pytest.raises(
        ModelFileError, match=r"does not fit torchvision's raft_small: update_block\.flow_head.* missing"
    ):
        load_raft(tmp_path / "lost.pth")
    torch.save(state | {"else": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(ModelFileError, match="raft_small: else is not known"):
        load_raft(tmp_path / "more.pth")
    torch.save(state | {KEY: torch.zeros(1, 3, 7, 7)}, tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match=rf"{KEY} is \[32, 3, 7, 7\], found \[1, 3, 7, 7\]"):
        load_raft(tmp_path / "other.pth")


def test_files_that_are_no_raft(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no weights of RAFT at .*nowhere; give torchvision's \.pth"):
        load_raft(tmp_path / "nowhere")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ModelFileError, match="cannot be read as a state dict"):
        load_raft(tmp_path / "text.pth")
    torch.save({"module.fnet.conv1.weight": torch.zeros(1)}, tmp_path / "princeton.pth")
    with pytest.raises(ModelFileError, match="no RAFT in torchvision's naming: feature_encoder"):
        load_raft(tmp_path / "princeton.pth")


def test_without_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    torch.save({KEY: torch.zeros(1)}, tmp_path / "raft.pth")
    with pytest.raises(
        BackendUnavailable, match=r"pip install 'legato\[flow\]', or take the flow that needs nothing, dis"
    ):
        load_raft(tmp_path / "raft.pth")
