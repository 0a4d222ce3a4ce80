// The low-pass filter of StyleGAN2's upsampling: [1,3,3,1] / 8 on each axis, with the gain 2 that inserted zeros call
// for.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace legato {

// One axis of the filter over four neighbors. It is symmetric, so the same taps serve the adjoint.
template <typename A>
C10_HOST_DEVICE inline A low_pass(A a, A b, A c, A d) {
  return A(0.25) * (a + d) + A(0.75) * (b + c);
}

// On one axis, pixel i of the upsampled image is 3/4 of `near` and 1/4 of `far`, which may lie just outside.
struct UpsampleTaps {
  int32_t near, far;
};

C10_HOST_DEVICE inline UpsampleTaps upsample_taps(int32_t i) {
  return {i / 2, i % 2 == 0 ? i / 2 - 1 : i / 2 + 1};
}

}  // namespace legato
