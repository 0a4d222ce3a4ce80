"""Inversion: what is free (`code`), what is minimized (`objective`), how (`solve`); one method a file."""

from legato.inversion.code import Code, Correction, FreeLatents
from legato.inversion.consecutive import ClipInversion, ConsecutiveInversion, ConsecutiveOptions, consecutive
from legato.inversion.in_domain import InDomainOptions, in_domain
from legato.inversion.method import METHODS, Method, WPlusOptions, parse_method
from legato.inversion.methods import InvertedClip, Networks, Outcome, invert_clips
from legato.inversion.multi_code import Composition, MultiCodeInversion, MultiCodeOptions, multi_code
from legato.inversion.objective import Features, FreeTerm, Objective, Term
from legato.inversion.solve import Inversion, Schedule, solve
from legato.inversion.state import Checkpoint, Moments, SolveState
from legato.inversion.streaming import Motion, Tracker, TrackerOptions
from legato.inversion.tracker_state import TrackerState
from legato.inversion.w_plus import w_plus
from legato.inversion.window import Window, WindowOptions

__all__ = [
    "METHODS",
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
    "InvertedClip",
    "Method",
    "Moments",
    "Motion",
    "MultiCodeInversion",
    "MultiCodeOptions",
    "Networks",
    "Objective",
    "Outcome",
    "Schedule",
    "SolveState",
    "Term",
    "Tracker",
    "TrackerOptions",
    "TrackerState",
    "WPlusOptions",
    "Window",
    "WindowOptions",
    "consecutive",
    "in_domain",
    "invert_clips",
    "multi_code",
    "parse_method",
    "solve",
    "w_plus",
]
