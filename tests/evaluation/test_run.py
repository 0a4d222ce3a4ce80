"""Methods on clips: what is measured of a perfect inversion, what is kept, and what a report says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from legato.errors import InvalidInput
from legato.evaluation.cost import PeakMemory, at_passes
from legato.evaluation.figures import Difference, Spread, beside, reference_of, summary
from legato.evaluation.measure import Seen, edit, measure, of_source
from legato.evaluation.report import as_json, in_order, markdown
from legato.evaluation.results import Results
from legato.evaluation.run import Setup, run_all, run_method
from legato.evaluation.sheets import comparison
from legato.inversion.method import METHODS, parse_method
from legato.inversion.methods import InvertedClip, invert_clips
from tests.evaluation.small import EDITED, save_judged_model, small_setup
from tests.tolerances import LOSS_ROUNDING, SAME_PICTURE

STAMP = {
    "commit": "abc",
    "time": "now",
    "cpu": "one",
    "cpus": 1,
    "memory_gib": 1.0,
    "machine": "Linux",
    "gpu": None,
    "python": "3",
    "versions": {"legato": "0"},
}
ABOUT = {
    "stamp": STAMP,
    "notes": ["so it is"],
    "source": {"warp_error": 0.001, "response": 1.2},
    "made_with": {"seed": "0"},
}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return small_setup(save_judged_model(tmp_path_factory.mktemp("model")))


def test_the_true_codes_are_a_perfect_inversion(setup: Setup) -> None:
    for clip in setup.protocol.clips:
        assert clip.latents is not None
        seen = Seen.of(clip, InvertedClip(clip.latents, (0, 1, 2)), setup.networks.generator)
        found = measure(seen, setup.judges)
        assert found["psnr_db"] > 90
        assert found["latent_error"] == 0
        for key, wanted in of_source([clip]).items():
            assert found[key] == pytest.approx(wanted, abs=SAME_PICTURE)
        assert found["ssim"] == pytest.approx(1.0)
        assert (found["trunk_distance"], found["mse"]) == pytest.approx((0.0, 0.0), abs=SAME_PICTURE)
        assert found["identity_similarity"] == pytest.approx(1.0)
        assert setup.directions is not None
        direction = setup.directions.vector("smile")
        edited = edit(seen, "smile", direction, setup.networks.generator, setup.judges.attributes)
        assert edited is not None
        assert edited.figures["true_edit_cosine"] == pytest.approx(1.0)
        assert edited.figures["true_edit_gain"] == pytest.approx(1.0)
        torch.testing.assert_close(edited.images, clip.truths["smile"].images, **LOSS_ROUNDING)


def test_the_truth_is_read_as_edits_are(setup: Setup) -> None:
    clip, network = setup.protocol.clips[0], setup.judges.attributes
    assert clip.latents is not None
    assert network is not None
    assert setup.directions is not None
    seen = Seen.of(clip, InvertedClip(clip.latents, (0, 1, 2)), setup.networks.generator)
    found = [edit(seen, name, setup.directions.vector(name), setup.networks.generator, network) for name in EDITED]
    truth = of_source([clip], network)
    for key in ("response", "leakage", "identity"):
        values = [edited.figures[key] for edited in found if edited is not None]
        assert truth[key] == pytest.approx(np.mean(values), abs=SAME_PICTURE)


def test_frames_without_a_code_are_left_out(setup: Setup) -> None:
    clip = setup.protocol.clips[0]
    assert clip.latents is not None
    some = Seen.of(clip, InvertedClip(clip.latents[:2], (0, 1)), setup.networks.generator)
    assert some.motion is not None
    assert len(some.motion.flow) == 1
    one = Seen.of(clip, InvertedClip(clip.latents[1:2], (1,)), setup.networks.generator)
    assert not measure(one, setup.judges).keys() & {"warp_error", "change_error", "tl_id"}
    apart = Seen.of(clip, InvertedClip(clip.latents[::2], (0, 2)), setup.networks.generator)
    assert apart.motion is None


def test_an_edit_of_amount_0_is_none(setup: Setup) -> None:
    clip = replace(setup.protocol.clips[0], truths={}, amounts={"smile": 0.0})
    assert clip.latents is not None
    assert setup.directions is not None
    seen = Seen.of(clip, InvertedClip(clip.latents, (0, 1, 2)), setup.networks.generator)
    assert edit(seen, "smile", setup.directions.vector("smile"), setup.networks.generator, None) is None


@pytest.mark.parametrize(
    "text",
    [
        *METHODS,
        "consecutive:policy=stride1_first,window=2",
        "consecutive:policy=stride1_first,window=2,cover=false",
        "consecutive:policy=disjoint_all,window=2,keep_best=true",
        "in_domain:keep_best=true",
    ],
)
def test_passes_set_the_steps(setup: Setup, text: str) -> None:
    method = at_passes(parse_method(text), 8, setup.lengths)
    found = invert_clips(setup.networks, [clip.frames for clip in setup.protocol.clips], method)
    most = 1 if text == "encoder" else 8
    assert most - 3 < found.passes_per_frame <= most, "whole steps"
    if method.options is not None:
        with pytest.raises(InvalidInput, match="less than one step"):
            at_passes(method, 1, setup.lengths)


def test_peak_memory_is_what_came_on_top() -> None:
    with PeakMemory(torch.device("cpu")) as peak:
        large = torch.ones(32 * 2**20)
        del large
    assert peak.mib > 100
    with PeakMemory(torch.device("cpu")) as peak:
        pass
    assert peak.mib < 20


def test_what_is_finished_is_kept(setup: Setup, tmp_path: Path) -> None:
    said: list[str] = []
    told: list[tuple[str, int, int]] = []

    def run(*texts: str, about: str = "a") -> dict[str, str]:
        said.clear()
        told.clear()
        results = Results(tmp_path, {"about": about})
        methods = [parse_method(text) for text in texts]
        return run_all(
            setup, methods, results, STAMP, lambda m, done, total: told.append((m.label, done, total)), said.append
        )

    assert run("encoder", "w:steps=2") == {}
    assert told == [("w:steps=2", 1, 2), ("w:steps=2", 2, 2)]
    assert run("w:steps=2", "w:steps=3") == {}
    assert said == ["w:steps=2: finished before, kept"]
    assert {label for label, _, _ in told} == {"w:steps=3"}
    found = [record["method"] for record in in_order(Results(tmp_path, {"about": "a"}).all())]
    assert found == ["encoder", "w:steps=2", "w:steps=3"]
    assert Results(tmp_path, {"about": "b"}).all() == [], "other settings are another folder"
    results = Results(tmp_path, {"about": "a"})
    assert results.find(parse_method("w:steps=2").with_options(steps=5)) is None, "the same label, other steps"
    assert results.find(parse_method("w:steps=2")) is not None


def test_a_method_that_cannot_run_lets_the_others_go_on(tmp_path: Path) -> None:
    alone = small_setup(save_judged_model(tmp_path / "model"), frames=1)
    methods = [parse_method("consecutive:steps=1"), parse_method("encoder")]
    results = Results(tmp_path, {})
    failed = run_all(alone, methods, results, STAMP)
    assert "at least 2" in failed["consecutive:steps=1"]
    assert [record["method"] for record in results.all()] == ["encoder"]


def test_a_record_has_every_clip_and_edit(setup: Setup) -> None:
    record, pictures = run_method(setup, parse_method("w_plus:steps=1"))
    names = {clip.name for clip in setup.protocol.clips}
    assert record["clips"].keys() == names
    assert record["edits"].keys() == set(EDITED)
    assert all(by_clip.keys() == names for by_clip in record["edits"].values())
    assert record["passes_per_frame"] == 2
    assert pictures.keys() == {"reconstruction", *EDITED}
    assert pictures["smile"].shape == (2, 3, 64, 64)
    clip = record["clips"]["sample 0 along yaw"]
    by_attribute = [record["edits"][name]["sample 0 along yaw"]["response"] for name in EDITED]
    assert clip["response"] == pytest.approx(np.mean(by_attribute))
    assert clip["editability"] == pytest.approx(clip["response"] / clip["leakage"])


def test_spread() -> None:
    assert Spread.of([]) is None
    assert Spread.of([3.0, 1.0, 2.0, float("nan"), 4.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_methods_are_set_beside_one_clip_by_clip() -> None:
    def record(label: str, psnr: dict[str, float], warp: dict[str, float]) -> dict[str, object]:
        return {"method": label, "clips": {n: {"psnr_db": psnr[n], "warp_error": warp[n]} for n in psnr}}

    free = record("w_plus", {"a": 20.0, "b": 30.0, "c": 25.0}, {"a": 1.0, "b": 5.0, "c": 3.0})
    ours = record("consecutive", {"a": 21.0, "b": 29.5, "c": 25.25, "d": 9.0}, {"a": 0.5, "b": 4.0, "c": 4.0, "d": 9.0})
    assert beside(ours, free) == {"psnr_db": Difference(0.25, 2, 3), "warp_error": Difference(-0.5, 2, 3)}
    assert reference_of([ours, free]) == "w_plus"
    assert reference_of([free]) is None
    assert reference_of([ours, {**ours, "method": "consecutive:steps=1"}]) is None


def test_the_report(setup: Setup, tmp_path: Path) -> None:
    results = Results(tmp_path, {"about": "a"})
    run_all(setup, [parse_method("encoder"), parse_method("w_plus:steps=1,lr=1e-6")], results, STAMP)
    records = results.all()
    records[0]["stamp"] = {**STAMP, "commit": "older"}
    found = json.loads(json.dumps(as_json(records, setup.protocol, results.settings, ABOUT)))
    values = [clip["psnr_db"] for clip in records[0]["clips"].values()]
    assert found["summary"]["encoder"]["psnr_db"] == pytest.approx(np.median(values))
    assert found["quartiles"]["encoder"]["psnr_db"] == pytest.approx(np.percentile(values, (25, 75)).tolist())
    assert found["beside"]["reference"] == "encoder"
    assert found["beside"]["methods"]["w_plus:steps=1,lr=1e-6"]["psnr_db"]["count"] == 2
    assert summary(records[0]).keys() == found["summary"]["encoder"].keys()
    assert found["stamp"]["commit"] == "abc"
    text = markdown(records, setup.protocol, ABOUT, ["comparison.png"])
    for wanted in (
        "| w_plus:steps=1,lr=1e-6 |", "| (input) | 1.000 |", "- so it is", "![comparison.png](comparison.png)",
        "encoder was run by commit `older`", "psi 0.7", "- seed: 0", "## Beside encoder", "| (true edit) | 1.2",
    ):  # fmt: skip
        assert wanted in text
    assert "LPIPS |" not in text, "nothing computed it"
    comparison(tmp_path / "sheet.png", setup.protocol.clips, records, results)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
