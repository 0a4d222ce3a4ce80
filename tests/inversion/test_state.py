"""A solve that was killed goes on where it was, with the same result; a file that is not its own is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from legato.errors import InvalidInput, ModelFileError
from legato.inversion import Checkpoint, FreeLatents, Inversion, Schedule, solve
from tests.inversion.test_solve import Problem
from tests.tolerances import EXACT

SCHEDULE = Schedule(23, 0.5, cooldown=0.5, keep_best=True, patience=20)


class Killed(Exception):
    pass


def run(problem: Problem, checkpoint: Checkpoint | None, *, killed_at: int = 0) -> tuple[Inversion, int]:
    """The solve and how many steps it took here."""
    taken = 0

    def on_step(step: int) -> None:
        nonlocal taken
        taken += 1
        if step == killed_at:
            raise Killed

    found = solve(
        FreeLatents(problem.start),
        problem.objective(),
        SCHEDULE,
        problem.synthesize,
        on_step=on_step,
        checkpoint=checkpoint,
    )
    return found, taken


def test_a_killed_solve_goes_on_to_the_same_result(tmp_path: Path) -> None:
    problem, checkpoint = Problem(2), Checkpoint(tmp_path / "state.safetensors", every=5)
    whole, _ = run(problem, None)
    with pytest.raises(Killed):
        run(problem, checkpoint, killed_at=12)
    rest, taken = run(problem, checkpoint)
    assert taken == 23 - 10
    torch.testing.assert_close(rest.latents, whole.latents, **EXACT)
    torch.testing.assert_close(rest.moments[0].second, whole.moments[0].second, **EXACT)
    torch.testing.assert_close(dict(rest.losses), dict(whole.losses), **EXACT)
    torch.testing.assert_close(rest.totals, whole.totals, **EXACT)
    assert rest.passes == whole.passes


def test_a_finished_solve_takes_no_more_steps(tmp_path: Path) -> None:
    problem, checkpoint = Problem(2), Checkpoint(tmp_path / "state.safetensors", every=5)
    first, _ = run(problem, checkpoint)
    again, taken = run(problem, checkpoint)
    assert taken == 0
    torch.testing.assert_close(again.latents, first.latents, **EXACT)
    assert again.passes == first.passes


def test_rows_that_are_no_number_are_kept_too(tmp_path: Path) -> None:
    problem, checkpoint = Problem(2), Checkpoint(tmp_path / "state.safetensors", every=5)
    problem.target[0] = float("nan")
    with pytest.raises(Killed):
        run(problem, checkpoint, killed_at=6)
    rest, _ = run(problem, checkpoint)
    assert torch.equal(rest.latents[0], problem.start[0])
    assert rest.latents[1].isfinite().all()


def test_the_state_of_another_solve_is_refused(tmp_path: Path) -> None:
    problem, checkpoint = Problem(2), Checkpoint(tmp_path / "state.safetensors", every=5)
    run(problem, checkpoint.about(problem.target))
    with pytest.raises(InvalidInput, match="another solve"):
        run(problem, checkpoint.about(problem.target + 1))
    problem.start += 1
    with pytest.raises(InvalidInput, match="another solve"):
        run(problem, checkpoint.about(problem.target))


def test_a_damaged_file_is_told_and_left(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelFileError, match=r"no state of a solve.*Remove it"):
        run(Problem(1), Checkpoint(path))
    assert path.read_bytes() == b"no tensors"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be written"):
        run(Problem(1), Checkpoint(tmp_path / "nowhere" / "state.safetensors", every=2))


def test_parts_of_a_run_have_files_and_identities_of_their_own(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "clip.safetensors")
    assert checkpoint.numbered(3).path == tmp_path / "clip.3.safetensors"
    one, two = checkpoint.about("x", torch.zeros(2)), checkpoint.about("x", torch.zeros(2))
    assert one == two
    assert len({one.identity, one.about("y").identity, checkpoint.about("x", torch.zeros(2, 1)).identity}) == 3
