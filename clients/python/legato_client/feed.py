"""What `stream` keeps of the frames that it sends, in both transports."""

from __future__ import annotations


class Feed:
    """Frames on their way through `stream`: which of them are unanswered, and how their source ended."""

    def __init__(self) -> None:
        self.unanswered: set[int] = set()
        self.ended = False  # the source has no further frame
        self.abandoned = False  # the reader has gone
        self.error: BaseException | None = None  # what the source raised; told after the answers

    @property
    def finished(self) -> bool:
        return self.ended and not self.unanswered
