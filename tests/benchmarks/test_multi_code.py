"""The benchmark of multi-code inversion on a tiny model: what it writes, and what it counts as a pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench_multi_code import degradations, head_share, main
from legato.models import GeneratorConfig
from tests.rpc.model import save_tiny_model


def test_a_part_is_written_beside_those_that_are_there(tmp_path: Path) -> None:
    model, out = save_tiny_model(tmp_path / "tiny"), tmp_path / "multi_code.json"
    out.write_text('{"restoration": 1}')
    small = ("--heads", "1", "--codes", "1", "2", "--resolutions", "8", "--steps", "1", "--threads", "1")
    wanted = ("--part", "curve-heads", "--model", str(model), "--out", str(out), "--pictures", str(tmp_path))
    assert main([*wanted, *small]) == 0
    result = json.loads(out.read_text())
    assert result["restoration"] == 1
    found = result["curve-heads"]
    assert found["setting"]["images"] == 1
    assert found["stamp"]["commit"]
    assert {"w", "w_plus", "1 at 32", "2 at 32", "8 at 8"} < set(found)
    assert found["1 at 32"]["passes"] == found["w"]["passes"] == 2.0
    assert found["2 at 32"]["passes"] > 2.0
    assert (tmp_path / "multi_code-heads.png").exists()


def test_a_head_is_a_part_of_a_pass() -> None:
    config = GeneratorConfig(64, channel_base=1024, channel_max=32)  # 32 channels up to 32 pixels, 16 at 64
    shares = [head_share(config, resolution) for resolution in config.resolutions]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    cost = {4: 16, 8: 2 * 64, 16: 2 * 256, 32: 2 * 1024, 64: 4096 * (0.25 + 0.5)}  # in 32 * 32 multiply-adds
    assert shares[1] == pytest.approx((cost[4] + cost[8]) / sum(cost.values()))


def test_masks_leave_and_lose_pixels() -> None:
    for name, degradation in degradations(128).items():
        mask = getattr(degradation, "mask", None)
        if mask is not None:
            assert 0.1 < float(mask.mean()) < 0.95, name
