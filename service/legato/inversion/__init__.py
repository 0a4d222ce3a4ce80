"""Inversion: what is free (`code`), what is minimized (`objective`), how (`solve`); one method a file."""

from legato.inversion.code import Code, Correction, FreeLatents
from legato.inversion.consecutive import ClipInversion, ConsecutiveInversion, ConsecutiveOptions, consecutive
from legato.inversion.in_domain import InDomainOptions, in_domain
from legato.inversion.multi_code import Composition, MultiCodeInversion, MultiCodeOptions, multi_code
from legato.inversion.objective import Features, FreeTerm, Objective, Term
from legato.inversion.solve import Inversion, Schedule, solve
from legato.inversion.state import Checkpoint, Moments, SolveState
from legato.inversion.streaming import Tracker, TrackerOptions, TrackerState
from legato.inversion.w_plus import w_plus

__all__ = [
    "Checkpoint",
    "ClipInversion",
    "Code",
    "Composition",
    "ConsecutiveInversion",
    "ConsecutiveOptions",
    "Correction",
    "Features",
    "FreeLatents",
    "FreeTerm",
    "InDomainOptions",
    "Inversion",
    "Moments",
    "MultiCodeInversion",
    "MultiCodeOptions",
    "Objective",
    "Schedule",
    "SolveState",
    "Term",
    "Tracker",
    "TrackerOptions",
    "TrackerState",
    "consecutive",
    "in_domain",
    "multi_code",
    "solve",
    "w_plus",
]
