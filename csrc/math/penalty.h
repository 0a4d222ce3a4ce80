// The penalties of a difference, their derivatives, and the mean over what is visible.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace legato {

enum class Penalty : int64_t { kL1 = 0, kL2 = 1, kCharbonnier = 2 };

// |d|, d^2 or sqrt(d^2 + epsilon^2)
template <Penalty kind, typename A>
C10_HOST_DEVICE inline A rho(A d, A epsilon) {
  if constexpr (kind == Penalty::kL1) return d < A(0) ? -d : d;
  if constexpr (kind == Penalty::kL2) return d * d;
  return std::sqrt(d * d + epsilon * epsilon);
}

// drho/dd; 0 where |d| has none
template <Penalty kind, typename A>
C10_HOST_DEVICE inline A rho_derivative(A d, A epsilon) {
  if constexpr (kind == Penalty::kL1) return d > A(0) ? A(1) : d < A(0) ? A(-1) : A(0);
  if constexpr (kind == Penalty::kL2) return d + d;
  return d / std::sqrt(d * d + epsilon * epsilon);
}

// What a sample's sum of penalties is divided by: channels times visible pixels, 1 where there are none.
template <typename A>
C10_HOST_DEVICE inline A error_divisor(A channels, A visible) {
  const A values = channels * visible;
  return values > A(1) ? values : A(1);
}

}  // namespace legato
