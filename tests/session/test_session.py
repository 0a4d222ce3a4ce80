"""The session's rules, without gRPC and without a clock."""

from __future__ import annotations

import math

import pytest

from legato.errors import InvalidImage, InvalidInput, Overloaded, ProtocolViolation
from legato.options import Budget, Change, DropReason, Encoding, ImageFormat, Policy, Settings
from legato.session import MAX_UNTAKEN, MAX_UPDATES, RUNNING
from legato.types import Edit, Outputs
from legato.work import Failed
from tests.session.play import Settled, answer, seqs, session, settings_of_all, started, told

SMILE, YAW = (Edit("smile", 1.0),), (Edit("yaw", 2.0),)


def test_a_frame_is_taken_settled_and_told_once() -> None:
    seen = Settled()
    s = session(observer=seen)
    s.receive(1, "pixels", 0.5, capture_time=7.0)
    work = s.take()
    assert work is not None
    assert (work.seq, work.payload, work.arrival, work.capture_time) == (1, "pixels", 0.5, 7.0)
    assert told(s) == []
    s.settle(work, answer(1, version=9))
    s.settle(work, DropReason.SHUTDOWN)
    assert told(s) == [(1, "FrameAnswer")]
    assert s.finished
    assert s.state_version == 9
    assert (seen.came_in, seen.seqs) == (1, [1])
    assert work.payload is None


def test_answers_leave_in_order_of_seq_and_drops_at_once() -> None:
    s = session(credits=2)
    for seq in (1, 2, 3):
        s.receive(seq, None, 0.0)
    assert told(s) == [(3, "QUEUE_FULL")]
    first, second = started(s)
    s.settle(second, Failed("INVALID_IMAGE", "no"))
    assert told(s) == []
    s.settle(first, answer(1))
    assert told(s) == [(1, "FrameAnswer"), (2, "Failed")]


def test_ordered_runs_a_few_frames_at_a_time_in_order() -> None:
    s = session(credits=10)
    for seq in range(1, 6):
        s.receive(seq, None, 0.0)
    running = started(s)
    assert seqs(running) == [1, 2]
    assert len(running) == RUNNING
    s.settle(running[0], answer(1))
    assert started(s) == [], "an answer that has not left still holds its place"
    assert told(s) == [(1, "FrameAnswer")]
    assert seqs(started(s)) == [3]


def test_ordered_drops_what_was_sent_without_a_credit_and_nothing_else() -> None:
    s = session(credits=3)
    for seq in range(1, 6):
        s.receive(seq, None, 0.0)
    assert told(s) == [(4, "QUEUE_FULL"), (5, "QUEUE_FULL")]
    for work in started(s):
        s.settle(work, answer(work.seq))
    told(s)
    s.receive(6, None, 0.0)
    assert told(s) == [], "answers gave their credits back"
    assert seqs(started(s)) == [3, 6]


def test_latest_keeps_the_newest_and_tells_every_frame_that_it_passed_over() -> None:
    s = session(Policy.LATEST)
    s.receive(1, None, 0.0)
    s.receive(2, None, 0.0)
    (second,) = started(s)
    assert second.seq == 2
    for seq in range(3, 50):
        s.receive(seq, None, 0.0)
    assert told(s) == [(1, "STALE"), *((seq, "STALE") for seq in range(3, 49))]
    assert seqs(started(s)) == [49]


def test_latest_names_the_frames_in_the_engine_that_became_stale() -> None:
    s = session(Policy.LATEST)
    s.receive(1, None, 0.0)
    s.receive(2, None, 0.0)
    s.receive(3, None, 0.0)
    (third,) = started(s)
    assert s.passed_over() == [], "nothing newer waits"
    s.receive(4, None, 0.0)
    (fourth,) = started(s)
    s.receive(5, None, 0.0)
    assert s.passed_over() == [fourth, third]
    s.settle(fourth, DropReason.STALE)
    s.settle(fourth, answer(4))
    assert seqs(started(s)) == [5], "a canceled frame makes room"
    assert session(Policy.ORDERED).passed_over() == []


def test_the_client_decides_how_many_answers_it_takes() -> None:
    s = session(credits=8)
    s.attach(0, 1)
    for seq in (1, 2):
        s.receive(seq, None, 0.0)
    for work in started(s):
        s.settle(work, answer(work.seq))
    assert told(s) == [(1, "FrameAnswer")]
    s.grant(1)
    assert told(s) == [(2, "FrameAnswer")]


def test_a_client_that_takes_no_answer_is_cut_off_before_memory_fills() -> None:
    s = session()
    s.attach(0, 1)
    for seq in range(1, MAX_UNTAKEN + 5):
        s.receive(seq, None, 0.0)
    with pytest.raises(Overloaded, match="takes none") as caught:
        s.receive(MAX_UNTAKEN + 5, None, 0.0)
    assert caught.value.reason == "ANSWERS_NOT_TAKEN"


@pytest.mark.parametrize("seq", [0, 4, 5])
def test_a_seq_that_does_not_rise_fails_and_the_session_goes_on(seq: int) -> None:
    s = session()
    s.receive(5, None, 0.0)
    s.receive(seq, None, 0.0)
    s.fail(seq, InvalidImage("no"), 0.0)
    works = [s.next_answer(), s.next_answer()]
    for work in works:
        assert work is not None
        assert work.outcome == Failed(
            "SEQ_NOT_INCREASING", f"each seq is greater than the one before, the first at least 1; got {seq} after 5"
        )
    s.receive(6, None, 0.0)
    assert seqs(started(s)) == [5, 6]
    assert s.stats.failed == 2


def test_a_frame_whose_message_is_wrong_is_answered_in_its_place() -> None:
    s = session()
    s.receive(1, None, 0.0)
    s.fail(2, InvalidImage("bad"), 0.0)
    s.receive(3, None, 0.0)
    assert told(s) == []
    for work in started(s):
        s.settle(work, answer(work.seq))
    assert told(s) == [(1, "FrameAnswer"), (2, "Failed"), (3, "FrameAnswer")]


def test_no_frame_follows_close() -> None:
    s = session()
    s.closing = True
    s.receive(1, None, 0.0)
    work = s.next_answer()
    assert work is not None
    assert isinstance(work.outcome, Failed)
    assert work.outcome.reason == "SESSION_CLOSING"


def test_updates_hold_from_the_frame_that_they_name() -> None:
    s = session(credits=9)
    s.update(Change(from_seq=3, edits=YAW))
    s.update(Change(edits=SMILE, budget=Budget(2, 0.5)))
    for seq in (1, 2, 3, 4):
        s.receive(seq, None, 0.0)
    s.update(Change(from_seq=2, outputs=Outputs(latents=True), encoding=Encoding(ImageFormat.PNG)))
    s.receive(5, None, 0.0)
    settings = settings_of_all(s)
    assert [each.edits for each in settings] == [SMILE, SMILE, YAW, YAW, YAW]
    assert {each.budget for each in settings} == {Budget(2, 0.5)}
    assert [each.outputs.latents for each in settings] == [False] * 4 + [True]
    assert settings[4].encoding.format is ImageFormat.PNG


def test_edits_of_a_frame_are_for_that_frame_alone() -> None:
    s = session(settings=Settings(edits=SMILE))
    s.receive(1, None, 0.0, own=Change(edits=YAW))
    s.receive(2, None, 0.0, own=Change(edits=()))
    s.receive(3, None, 0.0)
    assert [each.edits for each in settings_of_all(s)] == [YAW, (), SMILE]


def test_updates_that_wait_are_bounded() -> None:
    s = session()
    for _ in range(MAX_UPDATES):
        s.update(Change(from_seq=100, edits=YAW))
    with pytest.raises(ProtocolViolation, match=f"at most {MAX_UPDATES} updates"):
        s.update(Change(from_seq=100, edits=YAW))


def test_a_cut_stream_forgets_what_had_not_begun_and_keeps_what_had() -> None:
    s = session(credits=8)
    for seq in range(1, 5):
        s.receive(seq, None, 0.0)
    first, second = started(s)
    assert s.detach() == [first, second]
    s.settle(second, DropReason.DISCONNECTED)  # the engine gave it back
    s.settle(first, answer(1))
    assert s.in_flight == 0
    assert (s.stats.completed, s.stats.dropped) == (1, 3)
    s.attach(0, math.inf)
    assert s.finished, "nothing of the old stream is told to the new one unasked"


def test_a_client_that_comes_back_sends_again_what_it_misses() -> None:
    seen = Settled()
    s = session(credits=8, observer=seen)
    for seq in (1, 2):
        s.receive(seq, None, 0.0)
    for work in started(s):
        s.settle(work, answer(work.seq, version=work.seq))
    told(s)
    s.receive(3, None, 0.0)
    s.detach()
    s.attach(1, math.inf)
    s.receive(2, None, 0.0)  # computed: answered from memory
    s.receive(3, None, 0.0)  # dropped at the cut: computed now
    assert told(s) == [(2, "FrameAnswer")]
    (third,) = started(s)
    assert third.seq == 3
    s.settle(third, answer(3, version=3))
    assert told(s) == [(3, "FrameAnswer")]
    assert (s.stats.received, s.stats.completed, s.stats.dropped) == (4, 3, 1)
    assert (seen.came_in, len(seen.seqs)) == (4, 4), "one from memory is not counted twice"


def test_a_frame_that_newer_ones_overtook_is_stale_after_a_resume() -> None:
    s = session(Policy.LATEST, credits=1)
    for seq in range(1, 9):
        s.receive(seq, None, 0.0)
        for work in started(s):
            s.settle(work, answer(work.seq))
        told(s)
    s.detach()
    s.attach(2, math.inf)
    s.receive(3, None, 0.0)
    assert told(s) == [(3, "STALE")], "its answer is not kept any more, and the state does not go back"


def test_a_stream_cannot_go_on_after_a_frame_that_never_was() -> None:
    s = session()
    s.receive(1, None, 0.0)
    s.detach()
    with pytest.raises(InvalidInput, match="at most 1; got 2"):
        s.attach(2, math.inf)


def test_running_places_are_free_again_after_a_resume() -> None:
    s = session(credits=8)
    for seq in (1, 2):
        s.receive(seq, None, 0.0)
    for work in started(s):
        s.settle(work, answer(work.seq))  # settled, never told
    s.detach()
    s.attach(2, math.inf)
    for seq in (3, 4):
        s.receive(seq, None, 0.0)
    assert seqs(started(s)) == [3, 4]


def test_shutdown_drops_all_that_has_not_settled() -> None:
    s = session(credits=8)
    for seq in range(1, 5):
        s.receive(seq, None, 0.0)
    first, second = started(s)
    s.settle(second, answer(2))
    s.drop_all(DropReason.SHUTDOWN)
    s.settle(first, answer(1))
    assert sorted(told(s)) == [(1, "SHUTDOWN"), (2, "FrameAnswer"), (3, "SHUTDOWN"), (4, "SHUTDOWN")]


def test_mean_psnr_is_of_the_frames_that_were_measured() -> None:
    s = session()
    for seq, db in ((1, 20.0), (2, math.nan), (3, 30.0)):
        s.receive(seq, None, 0.0)
        for work in started(s):
            s.settle(work, answer(seq, psnr=db))
        told(s)
    assert s.stats.mean_psnr_db == 25.0


def test_the_stream_is_woken_when_it_may_go_on() -> None:
    s, woken = session(), []
    s.wake = lambda: woken.append(s.stats.received)
    s.receive(1, None, 0.0)
    s.settle(started(s)[0], answer(1))
    s.grant(1)
    assert len(woken) == 3
