"""Means, ratios and floors."""

from __future__ import annotations

import math

import pytest

from legato.benchmarks.ceilings import Ceilings
from legato.benchmarks.layers import Work, conv_work, layers_of
from legato.benchmarks.rounds import geometric_mean
from legato.benchmarks.summary import RATIOS, SUMMARY, ratios, summarize


def test_geometric_mean() -> None:
    assert geometric_mean([]) is None
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0), "twice as fast and half as fast is neither"


def test_a_ratio_is_against_the_fastest_of_its_group() -> None:
    median = {"ours": 1.0, "eager/a": 3.0, "eager/b": 2.0, "grouped/float32": 8.0, "grouped/bfloat16": 6.0}
    assert ratios("modulated_conv2d", "bfloat16", median) == {
        "vs_eager": 2.0,
        "vs_grouped": 8.0,
        "vs_grouped_same_dtype": 6.0,
    }
    assert ratios("modulated_conv2d", "float32", {"eager/a": 3.0}) == {}, "ours did not run"


def test_the_summary_has_every_key_and_says_what_entered() -> None:
    def case(mode: str, name: str, **found: float) -> dict[str, object]:
        return {"op": "photometric_error", "name": name, "nets": [], "batch": 1, "dtype": "float32", "mode": mode,
                "ratios": found}  # fmt: skip

    cases = [
        case("forward", "256 px", vs_grid_sample=2.0),
        case("forward", "512 px", vs_grid_sample=8.0),
        case("forward_backward", "256 px", vs_grid_sample=3.0),
        case("forward_backward", "512 px"),
    ]
    found = summarize(cases)
    assert found["summary"].keys() == SUMMARY.keys()
    assert {"vs_eager", "vs_compile", "vs_grouped"} <= found["summary"]["modulated_conv2d"].keys()
    assert found["summary"]["modulated_conv2d"]["vs_eager"] is None
    assert found["summary"]["flow_warp"]["vs_grid_sample"] == pytest.approx(4.0)
    assert found["summary"]["flow_warp"]["vs_grid_sample_forward_backward"] == pytest.approx(3.0)
    assert found["entered"]["flow_warp"]["vs_grid_sample"]["layers"] == ["256 px", "512 px"]
    assert [row["cases"] for row in found["breakdown"]] == [1, 1, 1]
    assert all(source in RATIOS for keys in SUMMARY.values() for source, _ in keys.values())


def test_floors() -> None:
    ceilings = Ceilings({"float32": 100.0}, {10: 50.0, 1000: 5.0})
    assert ceilings.floor(Work(200.0, 10.0), "float32") == 2.0, "bound by operations"
    assert ceilings.floor(Work(0.0, 10.0), "float32") == 0.2, "fits the cache"
    assert ceilings.floor(Work(0.0, 2000.0), "float32") == 400.0, "larger than every copy"
    better = ceilings.or_better(Ceilings({"float32": 80.0}, {10: 60.0, 1000: 4.0}))
    assert better == Ceilings({"float32": 100.0}, {10: 60.0, 1000: 5.0})


def test_layers_that_nets_share_stand_once() -> None:
    layers = {layer.name: layer for layer in layers_of(["config-f-256", "config-f-1024"])}
    assert len(layers) == 17
    assert layers["config-f b256.conv0"].nets == ("config-f-256", "config-f-1024")
    assert layers["config-f b1024.conv0"].nets == ("config-f-1024",)
    conv = layers["config-f b64.conv1"]
    work = conv_work(conv, 1, 2, backward=False)
    assert work.flop == 2 * 9 * 512 * 512 * 64 * 64
    assert math.isclose(work.bytes, 2 * (2 * 512 * 64 * 64 + 64 * 64 + 9 * 512 * 512) + 4 * 512 * 512)
    heads = layers_of(["heads-128"])
    assert [layer.name for layer in heads][-2:] == ["heads-128 b128.conv0", "heads-128 b128.conv1"]
    assert (heads[-1].c_in, heads[-1].c_out, heads[-1].up) == (32, 32, 1)
