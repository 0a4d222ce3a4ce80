"""Which slots of an engine are free, and which are to be made as new. The user holds a lock. No torch here."""

from __future__ import annotations

from legato.errors import Overloaded


class Slots:
    """Places for the state of `count` sessions."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = list(reversed(range(count)))
        self._resets: list[int] = []

    def open(self) -> int:
        """A free one. Raises Overloaded (SESSIONS_FULL)."""
        if not self._free:
            full = f"all {self._count} sessions are taken; close one, or try again later"
            raise Overloaded(full, reason="SESSIONS_FULL")
        return self._free.pop()

    def close(self, slot: int) -> None:
        """Frees one, which is made as new at once, so that its window takes no time. Raises ValueError where it is not
        open."""
        self.reset(slot)
        self._free.append(slot)

    def reset(self, slot: int) -> None:
        """Makes one as new. Raises ValueError where it is not open."""
        self._check_open(slot)
        self._resets.append(slot)

    def take_resets(self) -> list[int]:
        """Those to be made as new, once."""
        taken, self._resets = self._resets, []
        return taken

    def _check_open(self, slot: int) -> None:
        if not 0 <= slot < self._count or slot in self._free:
            raise ValueError(f"slot {slot} is not open; open_slot() gives one of 0..{self._count - 1}")
