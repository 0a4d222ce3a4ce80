"""Restoration: a degradation operator each, solved by the multi-code prior."""

from legato.restoration.calibration import CalibratedEncoder, calibrate
from legato.restoration.colorize import Colorize
from legato.restoration.degradation import Degradation
from legato.restoration.denoise import Denoise, lost_pixels, noise_level
from legato.restoration.inpaint import Inpaint
from legato.restoration.restore import Restoration, restore, suggested
from legato.restoration.super_resolve import SuperResolve

__all__ = [
    "CalibratedEncoder",
    "Colorize",
    "Degradation",
    "Denoise",
    "Inpaint",
    "Restoration",
    "SuperResolve",
    "calibrate",
    "lost_pixels",
    "noise_level",
    "restore",
    "suggested",
]
