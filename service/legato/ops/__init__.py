"""Ops of legato: each `x` with its plain-torch `x_reference` of the same signature."""

from legato.ops.flow_warp import flow_warp, flow_warp_reference
from legato.ops.modulated_conv2d import modulated_conv2d, modulated_conv2d_reference
from legato.ops.upsample2d import upsample2d

__all__ = [
    "flow_warp",
    "flow_warp_reference",
    "modulated_conv2d",
    "modulated_conv2d_reference",
    "upsample2d",
]
