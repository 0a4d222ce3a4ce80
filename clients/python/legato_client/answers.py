"""Answers between their arrival and the caller: their order, who still wants them, and when to ask for more."""

from __future__ import annotations

from collections import deque

from legato_client.types import Answer


class Answers:
    """Buffer of answers. `ordered` gives them out in the order in which their frames were sent.

    `window` answers may lie here at most: the server holds further ones back until `credit_due` was granted.
    """

    def __init__(self, *, ordered: bool, window: int) -> None:
        self._ordered, self._window = ordered, window
        self._ready: deque[tuple[Answer, bool]] = deque()  # with: did it come over the wire
        self._order: deque[int] = deque()  # ordered: frames whose answer is not ready
        self._held: dict[int, tuple[Answer, bool]] = {}  # ordered: answers behind an earlier frame
        self._unwanted: set[int] = set()
        self._taken = 0  # answers taken that were not granted anew

    def __bool__(self) -> bool:
        return bool(self._ready)

    @property
    def held(self) -> int:
        return len(self._held)

    def expect(self, seq: int) -> None:
        """A frame was sent: its answer has its place in the order."""
        if self._ordered:
            self._order.append(seq)

    def put(self, answer: Answer, *, over_wire: bool) -> None:
        """Takes in an answer; those that the order allows become ready."""
        if not self._ordered:
            self._release(answer, over_wire)
            return
        self._held[answer.seq] = (answer, over_wire)
        while self._order and self._order[0] in self._held:
            self._release(*self._held.pop(self._order.popleft()))

    def take(self) -> Answer:
        """The next ready answer."""
        answer, over_wire = self._ready.popleft()
        self._taken += over_wire
        return answer

    def discard(self, seqs: set[int]) -> None:
        """Throws away the answers of these frames, here or to come."""
        self._unwanted |= seqs
        waiting, self._ready = self._ready, deque()
        for answer, over_wire in waiting:
            self._release(answer, over_wire)

    def release_held(self) -> None:
        """No earlier answer comes any more: what is here becomes ready."""
        for seq in sorted(self._held):
            self._release(*self._held.pop(seq))

    def credit_due(self) -> int:
        """Answers to grant the server anew, in lots of a quarter of the window; 0: not yet."""
        if self._taken < max(1, self._window // 4):
            return 0
        due, self._taken = self._taken, 0
        return due

    def _release(self, answer: Answer, over_wire: bool) -> None:
        if answer.seq in self._unwanted:
            self._unwanted.discard(answer.seq)
            self._taken += over_wire
        else:
            self._ready.append((answer, over_wire))
