// The arguments that flow_warp and photometric_error share, and what has to hold of them.
#pragma once

#include "check.h"
#include "dtypes.h"

#include <array>
#include <cstdint>
#include <limits>
#include <optional>

namespace legato {

struct WarpShape {
  int64_t batch, channels, height, width;

  explicit WarpShape(const Tensor& image)
      : batch(image.size(0)), channels(image.size(1)), height(image.size(2)), width(image.size(3)) {}

  int64_t pixels() const { return height * width; }
  std::array<int64_t, 4> planes(int64_t count) const { return {batch, count, height, width}; }
};

// `argument` names `image`, the first argument of the op or a gradient to what it gave.
inline void check_warp(const Checker& check, const char* argument, const Tensor& image, const Tensor& flow,
                       const std::optional<Tensor>& backward = std::nullopt) {
  check.shape(argument, image, {kAny, kAny, kAny, kAny}, "[B,C,H,W]");
  STD_TORCH_CHECK(image.size(2) * image.size(3) <= std::numeric_limits<int32_t>::max(), check.op, ": ", argument,
                  " has to have at most 2^31 - 1 pixels a plane");
  const ScalarType precise = accumulator_dtype(image.scalar_type());
  check.tensor("flow", flow, {image.size(0), 2, image.size(2), image.size(3)}, "[B,2,H,W]", precise);
  check.tensor("backward", backward, {image.size(0), 2, image.size(2), image.size(3)}, "[B,2,H,W]", precise);
}

}  // namespace legato
