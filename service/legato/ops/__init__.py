"""Ops of legato: each `x` with its plain-torch `x_reference` of the same signature.

`x` runs the fused kernel of the extension and raises BackendUnavailable where there is none: it never falls back in
silence. `x_reference` runs anywhere, in any floating dtype, is differentiable twice and in every argument: it is what
training uses.
"""

from legato.ops._library import cuda_half, live_backends, require_backends
from legato.ops.flow_warp import flow_warp, flow_warp_reference
from legato.ops.modulated_conv2d import modulated_conv2d, modulated_conv2d_reference
from legato.ops.photometric_error import photometric_error, photometric_error_reference
from legato.ops.to_rgb import to_rgb, to_rgb_reference
from legato.ops.upsample2d import upsample2d

__all__ = [
    "cuda_half",
    "flow_warp",
    "flow_warp_reference",
    "live_backends",
    "modulated_conv2d",
    "modulated_conv2d_reference",
    "photometric_error",
    "photometric_error_reference",
    "require_backends",
    "to_rgb",
    "to_rgb_reference",
    "upsample2d",
]
