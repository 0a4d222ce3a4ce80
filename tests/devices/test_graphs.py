"""Which graph serves a batch: the smallest that it fits into, several for one that is too large, none where none is."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from legato.devices import Graphs, anywhere, find_device, open_device
from legato.errors import ConfigError
from tests.devices.emulated import capture
from tests.tolerances import EXACT


class Counted:
    """A function of rows that counts the batches it sees."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(x))
        return x + 2.0 * y, x.sum(1)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def graphs(counted: Counted) -> Graphs:
    """With graphs of 2 and of 4 rows."""
    graphs = Graphs(capture)
    with graphs.capturing():
        for size in (4, 2):
            graphs.run("sum", counted, *rows(size))
    counted.sizes.clear()
    return graphs


def rows(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3), torch.randn(count, 3)


@pytest.mark.parametrize(
    ("count", "replayed"), [(1, [2]), (2, [2]), (3, [4]), (4, [4]), (5, [4, 2]), (11, [4, 4, 4]), (0, [0])]
)
def test_a_batch_goes_into_the_graphs_that_it_fits(
    graphs: Graphs, counted: Counted, count: int, replayed: list[int]
) -> None:
    x, y = rows(count)
    found = graphs.run("sum", counted, x, y)
    assert counted.sizes == replayed
    torch.testing.assert_close(found[0], x + 2.0 * y, **EXACT)
    torch.testing.assert_close(found[1], x.sum(1), **EXACT)


def test_what_a_graph_gave_stays_when_it_runs_again(graphs: Graphs, counted: Counted) -> None:
    x, y = rows(2)
    first = graphs.run("sum", counted, x, y)[0]
    graphs.run("sum", counted, *rows(2))
    torch.testing.assert_close(first, x + 2.0 * y, **EXACT)


def test_nothing_is_captured_after_the_warm_up_and_the_log_tells_what_runs_directly(
    graphs: Graphs, counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            x, y = torch.randn(2, 5), torch.randn(2, 5)  # of another shape
            torch.testing.assert_close(graphs.run("sum", counted, x, y)[0], x + 2.0 * y, **EXACT)
    assert graphs.counts() == {"sum": (2, 1)}
    assert [record.message for record in caplog.records] == [
        "no graph: this runs operation by operation, which is slower"
    ]


def test_what_reads_a_number_is_not_captured_and_runs_directly(caplog: pytest.LogCaptureFixture) -> None:
    graphs = Graphs(capture)

    def reads(x: Tensor) -> Tensor:
        return x * float(x.max())

    x = torch.rand(2, 3)
    with caplog.at_level(logging.WARNING), graphs.capturing():
        found = graphs.run("scale", reads, x)
    torch.testing.assert_close(found, x * x.max(), **EXACT)
    assert graphs.counts() == {"scale": (0, 1)}
    assert "_local_scalar_dense" in caplog.records[0].fields["why"]  # type: ignore[attr-defined]


def test_a_mask_is_read_on_the_cpu_alone() -> None:
    assert not anywhere(torch.zeros(3))
    assert anywhere(torch.eye(2))
    assert anywhere(torch.zeros(3, device="meta"))


def test_a_device_is_named_and_opened_or_refused() -> None:
    assert open_device(find_device("cpu")).run("double", lambda x: (2 * x,), torch.ones(1))[0].item() == 2.0
    with pytest.raises(ConfigError, match="CPU or on a CUDA device"):
        open_device(torch.device("meta"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="does not find"):
            find_device("cuda")
