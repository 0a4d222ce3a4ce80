// The arguments of to_rgb and what has to hold of them.
#pragma once

#include "check.h"
#include "dtypes.h"

#include <array>
#include <cstdint>
#include <optional>

namespace legato {

struct ToRgb {
  static constexpr int64_t kColors = 3;
  static constexpr const char* kOp = "to_rgb";

  Tensor x, weight, styles;
  std::optional<Tensor> bias, image;
  std::optional<double> clamp;

  void check() const {
    const Checker check{kOp, x};
    const ScalarType dtype = x.scalar_type(), precise = accumulator_dtype(dtype);
    STD_TORCH_CHECK(!clamp || *clamp > 0, kOp, ": clamp has to be None or positive; got ", clamp.value_or(0));
    check.shape("x", x, {kAny, kAny, kAny, kAny}, "[B,I,H,W]");
    STD_TORCH_CHECK(channels() > 0 && height() > 0 && width() > 0, kOp,
                    ": x has to have at least one channel and pixel");
    check.tensor("weight", weight, {kColors, channels(), 1, 1}, "[3,I,1,1]", dtype);
    check.tensor("styles", styles, {batch(), channels()}, "[B,I]", precise);
    check.tensor("bias", bias, {kColors}, "[3]", dtype);
    if (image) check_even();
    check.tensor("image", image, {batch(), kColors, height() / 2, width() / 2}, "[B,3,H/2,W/2]", precise);
  }

  // Of the backward op, after check().
  void check_gradient(const Tensor& grad, bool with_image) const {
    const Checker check{kOp, x};
    check.tensor("grad", grad, {batch(), kColors, height(), width()}, "[B,3,H,W]", accumulator_dtype(x.scalar_type()));
    if (with_image) check_even();
  }

  int64_t batch() const { return x.size(0); }
  int64_t channels() const { return x.size(1); }
  int64_t height() const { return x.size(2); }
  int64_t width() const { return x.size(3); }
  std::array<int64_t, 4> output_shape() const { return {batch(), kColors, height(), width()}; }

 private:
  void check_even() const {
    STD_TORCH_CHECK(height() % 2 == 0 && width() % 2 == 0, kOp, ": x has to have an even height and width beside ",
                    "an image; got ", height(), "x", width());
  }
};

}  // namespace legato
