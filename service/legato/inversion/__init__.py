"""Inversion: what is free (`code`), what is minimized (`objective`), how (`solve`); one method a file."""

from legato.inversion.code import Code, Correction, FreeLatents
from legato.inversion.objective import Objective, Term
from legato.inversion.solve import Inversion, Moments, Schedule, solve
from legato.inversion.streaming import Tracker, TrackerOptions, TrackerState
from legato.inversion.w_plus import w_plus

__all__ = [
    "Code",
    "Correction",
    "FreeLatents",
    "Inversion",
    "Moments",
    "Objective",
    "Schedule",
    "Term",
    "Tracker",
    "TrackerOptions",
    "TrackerState",
    "solve",
    "w_plus",
]
