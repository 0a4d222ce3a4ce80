"""Variants on the wire: further edited images of a frame, their names, and what is wrong with some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from legato_pb import inversion_pb2 as pb
from tests.rpc.running import Running
from tests.rpc.wire import picture, pixels, refusal
from tests.tolerances import BESIDE_OTHERS_LEVELS

SMILE = pb.Edit(direction="smile", strength=1.5)
YAW = pb.Edit(direction="yaw", strength=-2.0)
RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW_RGB8)
BOTH = [pb.Variant(name="happy", edits=[SMILE]), pb.Variant(edits=[SMILE, YAW])]


def shown(images: Any) -> dict[str, Any]:
    return {each.name: pixels(each.image) for each in images}


def test_a_stream_answers_every_variant_beside_edited(running: Running) -> None:
    with running.wire().open(edits=[SMILE], variants=BOTH, output=RAW) as wire:
        assert wire.opened.limits.max_variants == 16
        wire.frame(1)
        result = wire.result()
        found = shown(result.variants)
        assert list(found) == ["happy", "2"]
        np.testing.assert_array_equal(found["happy"], pixels(result.edited))
        assert not np.array_equal(found["2"], found["happy"])
        wire.send(update=pb.Update(output=pb.OutputOptions(skip_edited=True)))
        wire.frame(2)
        skipped = wire.result()
        assert not skipped.variants
        assert not skipped.HasField("edited")


def test_updates_and_a_frame_s_own_variants_change_what_is_asked(running: Running) -> None:
    with running.wire().open(output=RAW) as wire:
        wire.send(update=pb.Update(from_seq=2, variants=pb.VariantList(variants=BOTH)))
        wire.frame(1)
        wire.frame(2)
        wire.frame(3, variants=pb.VariantList(variants=[pb.Variant(name="turned", edits=[YAW])]))
        wire.frame(4, variants=pb.VariantList())
        results = [wire.result() for _ in range(4)]
        wire.send(update=pb.Update(edits=pb.EditList(edits=[YAW])))  # says nothing of the variants
        wire.frame(5)
        results.append(wire.result())
    names = [[variant.name for variant in result.variants] for result in results]
    assert names == [[], ["happy", "2"], ["turned"], [], ["happy", "2"]]
    assert [result.HasField("edited") for result in results] == [False] * 4 + [True]


def test_one_image_with_variants(running: Running) -> None:
    request = pb.InvertRequest(image=picture(), edits=[YAW], variants=BOTH, output=RAW)
    answer = running.stub.Invert(request)
    plain = running.stub.Invert(pb.InvertRequest(image=picture(), edits=[SMILE, YAW], output=RAW))
    assert list(shown(answer.variants)) == ["happy", "2"]
    others = [abs(pixels(each.image).astype(int) - pixels(plain.edited)).mean() for each in answer.variants]
    assert others[1] <= BESIDE_OTHERS_LEVELS < others[0]


WRONG: dict[str, tuple[list[pb.Variant], str, str, str]] = {
    "too many": ([pb.Variant(edits=[SMILE])] * 17, "INVALID_EDIT", "at most 16 variants on this server; got 17", ""),
    "twice": (
        [pb.Variant(name="2", edits=[SMILE]), pb.Variant(edits=[SMILE])],
        "INVALID_EDIT",
        "two variants are called '2': give each a name of its own",
        "[1].name",
    ),
    "empty": (
        [pb.Variant(name="a")],
        "INVALID_EDIT",
        "'a' has no edit, and would show the reconstruction",
        "[0].edits",
    ),
    "long name": ([pb.Variant(name="a" * 65, edits=[SMILE])], "INVALID_EDIT", "at most 64 characters", "[0].name"),
    "name that cannot be printed": (
        [pb.Variant(name="a\n", edits=[SMILE])],
        "INVALID_EDIT",
        "that can be printed; got 'a\\n'",
        "[0].name",
    ),
    "unknown direction": (
        [pb.Variant(edits=[SMILE]), pb.Variant(edits=[YAW, pb.Edit(direction="nose")])],
        "UNKNOWN_DIRECTION",
        "known: smile, yaw",
        "[1].edits[1].direction",
    ),
    "too strong": (
        [pb.Variant(edits=[pb.Edit(direction="yaw", strength=11)])],
        "INVALID_EDIT",
        "within +-10",
        "[0].edits[0]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_refused_wherever_they_come(running: Running, name: str) -> None:
    variants, reason, words, field = WRONG[name]
    refused = refusal(lambda: running.wire().open(variants=variants))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", reason)
    assert words in refused.message
    assert refused.field == f"variants{field}"
    assert refusal(running.stub.Invert, pb.InvertRequest(image=picture(), variants=variants)).field == refused.field
    with running.wire().open() as wire:
        wire.send(update=pb.Update(variants=pb.VariantList(variants=variants)))
        assert words in wire.next().warning.message
        wire.frame(1, variants=pb.VariantList(variants=variants))
        failed = wire.failed()
        assert (failed.reason, failed.message) == (reason, refused.message)
        wire.frame(2)
        assert not wire.result().variants
