"""Where the tests of the ops run: on the CPU always, on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device on which torch makes the tensors of a test.

    A file whose tests name no device of their own takes both with `pytestmark = pytest.mark.usefixtures("device")`.
    """
    with torch.device(request.param):
        yield request.param
