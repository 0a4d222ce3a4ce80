// The activation at the end of a modulated convolution, its derivative and its inverse, the last two from the output
// alone.
#pragma once

#include <torch/headeronly/macros/Macros.h>

namespace legato {

// y = clamp(gain * lrelu(v, slope), -bound, bound); 0 <= slope <= 1, gain > 0, bound > 0 (infinity: no clamp). NaN
// stays NaN.
template <typename A>
struct Activation {
  A slope;
  A gain;
  A bound;

  // Each choice is a single max or min instruction that gives its second operand, here the NaN, when it cannot compare.
  C10_HOST_DEVICE A operator()(A v) const {
    const A below = v * slope;
    const A y = (below > v ? below : v) * gain;  // slope <= 1: the larger one is v above 0 and slope * v below
    const A capped = bound < y ? bound : y;
    return -bound > capped ? -bound : capped;
  }

  // dy/dv; a value at the bound counts as clamped.
  C10_HOST_DEVICE A derivative(A y) const {
    const A inside = y > A(0) ? gain : gain * slope;
    return y >= bound || y <= -bound ? A(0) : inside;
  }

  // The v that gave y. Where the derivative is 0 (clamped, or below 0 with slope 0) v is lost: some finite number.
  C10_HOST_DEVICE A inverse(A y) const {
    const A below = slope > A(0) ? A(1) / (gain * slope) : A(0);
    return y > A(0) ? y / gain : y * below;
  }
};

}  // namespace legato
