// Bilinear sampling. Convention: pixel centers at integers, positions clamped to the border.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace legato {

// Where a position falls on one axis: value = (1 - fraction) * pixel[lower] + fraction * pixel[upper].
template <typename A>
struct Taps {
  int32_t lower;
  int32_t upper;
  A fraction;
  bool inside;  // position within [0, size - 1]; false for NaN, which samples pixel 0
};

template <typename A>
C10_HOST_DEVICE inline Taps<A> split(A position, int32_t size) {
  const A last = static_cast<A>(size - 1);
  const A above = position > A(0) ? position : A(0);
  const A clamped = above < last ? above : last;
  const int32_t lower = static_cast<int32_t>(clamped);  // floor, as clamped >= 0
  const int32_t upper = lower + 1 < size ? lower + 1 : lower;
  return {lower, upper, clamped - static_cast<A>(lower), position >= A(0) && position <= last};
}

template <typename A>
C10_HOST_DEVICE inline A mix(A a, A b, A fraction) {
  return a + fraction * (b - a);
}

}  // namespace legato
