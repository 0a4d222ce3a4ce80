"""Values check themselves at birth, and print shapes rather than data."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from legato_client import Budget, Edit, Frame, FrameResult, Image, InvalidEdit, InvalidInput, Outputs
from legato_client.types import edit_list


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit("", 1.0), "names a direction"),
        (lambda: Edit("smile", math.nan), "'smile' is a finite number; got nan"),
        (lambda: Edit("smile", math.inf), "got inf"),
    ],
)
def test_an_edit_has_a_name_and_a_finite_strength(make: Callable[[], Edit], message: str) -> None:
    with pytest.raises(InvalidEdit, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(max_steps=-1), "max_steps"),
        (lambda: Budget(window_steps=-1), "window_steps"),
        (lambda: Budget(deadline_seconds=math.nan), "deadline_seconds"),
        (lambda: Outputs(format="gif"), "raw, jpeg, png; got 'gif'"),  # type: ignore[arg-type]
        (lambda: Outputs(jpeg_quality=0), "1..100; got 0"),
        (lambda: Frame(b"", capture_time=-1.0), "capture_time"),
        (lambda: Frame(b"", flow=np.zeros((4, 4, 2), np.float32)), r"float32 \[2, H, W\]; got float32 \[4, 4, 2\]"),
    ],
)
def test_other_values_say_what_they_wanted(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def test_edits_are_written_as_a_mapping_or_as_a_list() -> None:
    assert edit_list({"smile": 2, "yaw": -1.0}) == (Edit("smile", 2.0), Edit("yaw", -1.0))
    assert edit_list([Edit("smile", 2.0)]) == (Edit("smile", 2.0),)


def test_results_print_shapes_not_data() -> None:
    image = Image("raw", bytes(range(48)), 4, 4)
    latents = np.ones((12, 256), np.float32)
    shown = repr(FrameResult(1, image, None, latents, 30.0, 0, 1, 0.0, 0.01, {}, 0.02))
    assert "width=4" in shown
    assert len(shown) < 400
