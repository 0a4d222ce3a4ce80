"""Two processes on one training, by gloo on the CPU: they see what one would see, and stay the same to the bit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from legato.errors import ConfigError
from legato.train.gan import GanTraining
from legato.train.joint import JointTraining, Phase
from legato.train.processes import ALONE, Group, join
from tests.tolerances import AVERAGED_GRADIENTS
from tests.train.small import checkpoint, heads, same_bits
from tests.train.test_gan import CONFIG as GAN
from tests.train.test_joint import CONFIG as JOINT

WORKER = """
import sys
from pathlib import Path
import torch
from legato.train import processes
from tests.train import test_processes as ours
torch.set_num_threads(1)
group, device = processes.join("cpu")
run = ours.{make}(Path(sys.argv[1]), group)
run.run()
state = {{name: part.state_dict() for name, part in run.parts().items()}}
torch.save(state, Path(sys.argv[1]) / f"rank{{group.rank}}.pt")
processes.leave()
"""


PHASES = (Phase(16, 24, 8), Phase(64, 16, 4, adversarial=0.1))


def joint(folder: Path, group: Group = ALONE, phases: tuple[Phase, ...] = PHASES) -> JointTraining:
    config = replace(JOINT, phases=phases, ada_target=-2.0, ada_images=100)
    data = heads(8, 64)
    return JointTraining(config, folder, lambda: data, data, "cpu", group)


def one_step(folder: Path, group: Group = ALONE) -> JointTraining:
    return joint(folder, group, (Phase(16, 8, 8),))


def gan(folder: Path, group: Group = ALONE) -> GanTraining:
    config = replace(GAN, ada_target=-2.0, ada_images=100)
    data = heads(8, 16)
    return GanTraining(config, folder, lambda: data, held_out=data, group=group)


def spread(make: str, folder: Path) -> list[dict[str, Any]]:
    """The end states of two processes that trained in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", WORKER.format(make=make), str(folder)]
    started = []
    for rank in range(2):
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "t"}
        started.append(
            subprocess.Popen(command, env={**os.environ, **where, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
        )
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("make", ["joint", "gan"])
def test_two_processes_keep_one_state(make: str, tmp_path: Path) -> None:
    first, second = spread(make, tmp_path)
    assert same_bits(first, second)
    found = checkpoint(tmp_path)
    assert same_bits({name: found[name] for name in first}, first)  # what the first one wrote is what both hold
    assert found["augment"]["p"] > 0  # a target below every r_t lets it rise


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """The loss is a mean over images: two halves of a batch give the gradient of the whole, which Adam's mean holds."""
    alone = one_step(tmp_path / "alone")
    alone.run()
    (tmp_path / "both").mkdir()
    both, _ = spread("one_step", tmp_path / "both")
    wanted, found = alone.optimizer.state_dict()["state"], both["optimizer"]["state"]
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        scale = value["exp_avg"].abs().max() + 1e-8
        torch.testing.assert_close(found[key]["exp_avg"] / scale, value["exp_avg"] / scale, **AVERAGED_GRADIENTS)


def test_batch_that_cannot_be_dealt_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="a batch of 5 images cannot be dealt out evenly to 2 processes"):
        Group(0, 2).check(5)


def test_alone_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert join("cpu") == (ALONE, "cpu")
    with ALONE.in_turn():
        assert ALONE.agree(True, False) == (True, False)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "t")
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(ConfigError, match=r"torchrun started process \d+ of this machine, which has \d+ GPUs"):
        join("cuda")
