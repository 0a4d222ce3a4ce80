"""All methods under one call, and their options as text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.errors import InvalidImage, InvalidInput
from legato.inversion import Checkpoint, ConsecutiveOptions, InDomainOptions, MultiCodeOptions
from legato.inversion.method import METHODS, Method, WPlusOptions, parse_method
from legato.inversion.methods import (
    Networks,
    Outcome,
    invert_clips,
    steps_in_all,
)
from legato.losses import psnr
from tests.pipeline.model import DIM, LAYERS, SIDE, small_model, stream, to_image
from tests.tolerances import EXACT, GENERATOR_ROUNDING

SHORT = {
    "encoder": "encoder",
    "w": "w:steps=3",
    "w_plus": "w_plus:steps=3",
    "in_domain": "in_domain:steps=3",
    "consecutive": "consecutive:steps=3",
    "multi_code": "multi_code:steps=3,codes=2,resolution=8",
}


def networks() -> Networks:
    model = small_model()
    return Networks(model.generator.requires_grad_(False), model.encoder.requires_grad_(False))


def clips(*lengths: int) -> list[Tensor]:
    model = small_model()
    return [torch.cat([to_image(f) for f in stream(model, n, seed=i)]) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_inverts_clips_of_different_lengths(name: str) -> None:
    nets, given = networks(), clips(2, 3)
    told: list[tuple[int, int]] = []
    found = invert_clips(nets, given, parse_method(SHORT[name]), on_step=lambda done, total: told.append((done, total)))
    assert [clip.latents.shape for clip in found.clips] == [(2, LAYERS, DIM), (3, LAYERS, DIM)]
    assert [clip.frames for clip in found.clips] == [(0, 1), (0, 1, 2)]
    images = [clip.images(nets.generator) for clip in found.clips]
    assert [image.shape for image in images] == [(2, 3, SIDE, SIDE), (3, 3, SIDE, SIDE)]
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    if name != "encoder":
        assert told[-1][0] == told[-1][1] == steps_in_all([2, 3], parse_method(SHORT[name]))
        first = torch.cat([solve.totals[0] for solve in found.solves])
        assert (torch.cat([solve.totals[-1] for solve in found.solves]) < first).all()
    assert found.passes_per_frame == {"encoder": 1.0}.get(name, 6.0)


@pytest.mark.parametrize("name", METHODS)
def test_a_move_moves_what_is_shown(name: str) -> None:
    nets, given = networks(), clips(2)
    (clip,) = invert_clips(nets, given, parse_method(SHORT[name])).clips
    still, zero = clip.images(nets.generator), torch.zeros(LAYERS, DIM)
    torch.testing.assert_close(clip.images(nets.generator, zero), still, **EXACT)
    step = torch.randn(LAYERS, DIM, generator=torch.Generator().manual_seed(3)) * 0.3
    moved = clip.images(nets.generator, step)
    assert (moved - still).abs().mean() > 0.01
    each = clip.images(nets.generator, torch.stack([zero, step]), batch=1)
    torch.testing.assert_close(each, torch.stack([still[0], moved[1]]), **GENERATOR_ROUNDING)


def test_more_images_than_a_batch_are_inverted_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    nets, given = networks(), clips(3, 2)
    whole = invert_clips(nets, given, parse_method("multi_code:steps=2,codes=2,resolution=8"))
    monkeypatch.setattr("legato.inversion.methods.FRAMES_PER_BATCH", 4)
    parted = invert_clips(nets, given, parse_method("w_plus:steps=2,noise_weight=1"))
    assert len(parted.solves) == 2
    assert len(whole.solves) == 1
    assert [len(clip.noise[0]) for clip in parted.clips] == [3, 2]
    plain = torch.cat([clip.images(nets.generator) for clip in parted.clips])
    assert psnr(plain, torch.cat(given)).isfinite().all()


def test_free_noise_maps_are_part_of_what_is_shown() -> None:
    nets, given = networks(), clips(1)
    (clip,) = invert_clips(nets, given, parse_method("w_plus:steps=2,noise_weight=1,latent_noise=.05")).clips
    without = nets.generator(clip.latents).clamp(-1, 1)
    assert (clip.images(nets.generator) - without).abs().max() > 1e-3


def test_frames_that_a_policy_gives_up_are_told() -> None:
    found = invert_clips(networks(), clips(4), parse_method("consecutive:released,start=w_avg,steps=1,window=2"))
    assert found.clips[0].frames == (0, 1, 2)
    assert len(found.clips[0].latents) == 3


def test_a_killed_inversion_goes_on(tmp_path: Path) -> None:
    nets, given, method = networks(), clips(2), parse_method("w_plus:steps=6")
    whole = invert_clips(nets, given, method)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    kept = Checkpoint(tmp_path / "solve.safetensors", every=2)
    with pytest.raises(KeyboardInterrupt):
        invert_clips(nets, given, method, on_step=stop, checkpoint=kept)
    told: list[int] = []
    resumed = invert_clips(nets, given, method, on_step=lambda done, total: told.append(done), checkpoint=kept)
    assert told == [5, 6]
    torch.testing.assert_close(resumed.clips[0].latents, whole.clips[0].latents, **EXACT)
    other = small_model(seed=1)
    other.generator.digest = "another"
    with pytest.raises(InvalidInput, match="another solve"):
        invert_clips(Networks(other.generator.requires_grad_(False), nets.encoder), given, method, checkpoint=kept)


def _outcome(nets: Networks, given: list[Tensor], text: str) -> Outcome:
    return invert_clips(nets, given, parse_method(text))


def test_what_does_not_fit_is_told() -> None:
    nets = networks()
    with pytest.raises(InvalidInput, match="at least 2; clip 0 has 1"):
        _outcome(nets, clips(1), "consecutive:steps=1")
    with pytest.raises(InvalidInput, match="at least one image"):
        _outcome(nets, [], "encoder")
    with pytest.raises(InvalidInput, match=r"makes 64 x 64 pixels; clip 0 is \[2, 3, 32, 32\]"):
        _outcome(nets, [torch.zeros(2, 3, 32, 32)], "encoder")
    with pytest.raises(InvalidImage, match="frame 1 of the frames of clip 0"):
        _outcome(nets, [torch.stack([torch.zeros(3, 64, 64), torch.full((3, 64, 64), torch.nan)])], "w:steps=1")
    with pytest.raises(InvalidInput, match="starts from an encoder"):
        _outcome(Networks(nets.generator), clips(1), "in_domain")
    without = _outcome(Networks(nets.generator), clips(2), "consecutive:start=w_avg,steps=1")
    assert without.clips[0].frames == (0, 1)


def test_options_are_read_from_text() -> None:
    assert parse_method("encoder") == Method("encoder", None, "encoder")
    assert parse_method("w").options == WPlusOptions()
    found = parse_method(" consecutive: share=static, occlusion=off ,steps=7,consistency_weight=.25 ")
    assert found.options == ConsecutiveOptions(share="static", occlusion=False, steps=7, consistency_weight=0.25)
    assert found.steps == 7
    assert found.label == "consecutive: share=static, occlusion=off ,steps=7,consistency_weight=.25"
    assert found.with_options(steps=9).steps == 9
    assert parse_method("in_domain:released,steps=5").options == InDomainOptions(5, 0.01, True, 0.0, 5e-5, 2.0)
    assert parse_method("multi_code:codes=3").options == MultiCodeOptions(codes=3)
    assert parse_method("encoder").with_options(steps=3).steps == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vae", "no method is named 'vae'; there are encoder, w, w_plus"),
        ("encoder:steps=1", "takes no options; got 'steps=1'"),
        ("w:step=1", "no option 'step=1'; there are KEY=VALUE with one of start, steps, lr"),
        ("w:steps", "no option 'steps'"),
        ("w:steps=many", "steps is a whole number; got 'many'"),
        ("w:lr=nan", "lr is a number; got 'nan'"),
        ("consecutive:share=all", "share is one of released, static"),
        ("consecutive:occlusion=perhaps", "occlusion is true or false"),
        ("consecutive:window=1", "at least 2 images"),
        ("multi_code:codes=0", "at least 1 code"),
    ],
)
def test_options_that_do_not_exist_are_told(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_method(text)
