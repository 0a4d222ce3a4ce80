"""What can go wrong before the first frame: a detector that is not there, a model file that is none."""

from __future__ import annotations


class AlignmentError(Exception):
    """Alignment cannot begin; the message says what was wanted and what to do."""
