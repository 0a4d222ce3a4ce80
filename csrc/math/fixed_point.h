// Sums that do not depend on the order of their terms: terms are rounded to multiples of a power of two and added as
// integers.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace legato {

// The power of two by which values of magnitude up to `largest` are multiplied so that any sum of `terms` of them stays
// below 2^62. With 2^20 terms the unit is 2^-42 of the largest value.
C10_HOST_DEVICE inline double fixed_point_scale(double largest, int64_t terms) {
  int bits = 0, magnitude = 0;
  while ((int64_t{1} << bits) < terms)
    ++bits;
  std::frexp(largest, &magnitude);  // largest < 2^magnitude
  const int exponent = 62 - bits - magnitude;
  return std::ldexp(1.0, exponent < 1000 ? exponent : 1000);  // finite, and its inverse as well
}

}  // namespace legato
