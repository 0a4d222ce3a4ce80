// The arguments of modulated_conv2d and what has to hold of them, for both backends.
#pragma once

#include "check.h"
#include "dtypes.h"

#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>

namespace legato {

struct ModulatedConv2d {
  Tensor x, weight, styles;
  std::optional<Tensor> q, noise, bias;
  int64_t up;
  double slope, gain;
  std::optional<double> clamp;

  void check() const {
    const char* op = "modulated_conv2d";
    const Checker check{op, x};
    const ScalarType dtype = x.scalar_type(), precise = accumulator_dtype(dtype);
    STD_TORCH_CHECK(up == 1 || up == 2, op, ": up has to be 1 or 2; got ", up);
    STD_TORCH_CHECK(slope >= 0 && slope <= 1, op, ": slope has to be within [0, 1]; got ", slope);
    STD_TORCH_CHECK(gain > 0 && std::isfinite(gain), op, ": gain has to be positive and finite; got ", gain);
    STD_TORCH_CHECK(!clamp || *clamp > 0, op, ": clamp has to be None or positive; got ", clamp.value_or(0));
    check.shape("x", x, {kAny, kAny, kAny, kAny}, "[B,I,H,W]");
    STD_TORCH_CHECK(inputs() > 0 && x.size(2) > 0 && x.size(3) > 0, op,
                    ": x has to have at least one channel and pixel");
    check.tensor("weight", weight, {kAny, inputs(), kAny, kAny}, "[O,I,k,k]", dtype);
    STD_TORCH_CHECK(outputs() > 0 && taps() == weight.size(3) && (taps() == 3 || (taps() == 1 && up == 1)), op,
                    ": weight has to have 3x3 taps, or 1x1 when up is 1; got ", taps(), "x", weight.size(3));
    check.tensor("styles", styles, {batch(), inputs()}, "[B,I]", precise);
    check.tensor("q", q, {outputs(), inputs()}, "[O,I]", precise);
    check.tensor("bias", bias, {outputs()}, "[O]", dtype);
    const int64_t rows = noise && noise->dim() == 4 && noise->size(0) == 1 ? 1 : batch();
    check.tensor("noise", noise, {rows, 1, height(), width()}, "[1 or B,1,H*up,W*up]", dtype);
  }

  // Of the backward op, after check(): the gradient and the saved output.
  void check_output(const Tensor& grad_y, const Tensor& y) const {
    const Checker check{"modulated_conv2d_backward", x};
    for (const auto& [name, tensor] : {std::pair{"grad_y", grad_y}, std::pair{"y", y}}) {
      check.tensor(name, tensor, {batch(), outputs(), height(), width()}, "[B,O,H*up,W*up]", x.scalar_type());
    }
  }

  int64_t batch() const { return x.size(0); }
  int64_t inputs() const { return x.size(1); }
  int64_t outputs() const { return weight.size(0); }
  int64_t taps() const { return weight.size(2); }    // on one axis
  int64_t height() const { return x.size(2) * up; }  // of the output
  int64_t width() const { return x.size(3) * up; }
  std::array<int64_t, 4> output_shape() const { return {batch(), outputs(), height(), width()}; }
};

}  // namespace legato
