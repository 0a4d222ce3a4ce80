// The convolutions of modulated_conv2d in tiles (winograd.h), and when they pay.
#pragma once

#include "cpu/common.h"
#include "cpu/convolution.h"
#include "cpu/winograd.h"

#include <array>
#include <cstdint>
#include <type_traits>

namespace legato {

using TapOrder = std::array<int64_t, 3>;
constexpr TapOrder kForward{0, 1, 2}, kBackward{2, 1, 0};

// Calls f(R, C, odd_rows, odd_columns) for the four parities of a transposed convolution of stride 2 (phases.h): axes
// of even rows or columns have two taps, odd ones one.
template <typename F>
void for_parities(const F& f) {
  f(TwoTaps{}, TwoTaps{}, 0, 0);
  f(TwoTaps{}, OneTap{}, 0, 1);
  f(OneTap{}, TwoTaps{}, 1, 0);
  f(OneTap{}, OneTap{}, 1, 1);
}

// Whether a 3x3 layer of input [B,I,H,W] is faster in tiles. Transforming the weight takes as long as some products for
// each pair of an input and an output; measured with 32 to 512 channels, one thread.
inline bool pays_in_tiles(const Tensor& input, int64_t outputs, int64_t up) {
  const int64_t batch = input.size(0), rows = input.size(2), columns = input.size(3);
  if (PanelKernels::here().most == 0 || std::min(input.size(1), outputs) < 16) return false;
  if (up == 1)
    return Winograd<ThreeTaps, ThreeTaps>::products(batch, rows, columns) + 1000 < 9 * batch * rows * columns;
  int64_t products = 0;
  for_parities([&](auto r, auto c, int64_t odd_rows, int64_t odd_columns) {
    products += Winograd<decltype(r), decltype(c)>::products(batch, rows + 1 - odd_rows, columns + 1 - odd_columns);
  });
  return products + 500 < 12 * batch * rows * columns;  // the plain way is four convolutions
}

// The adjoint of the convolution, or of the transposed one of stride 2, applied to g [B,O,H,W] or [B,O,2H+1,2W+1],
// float32, channels last -> [B,I,H,W]
inline Tensor adjoint_in_tiles(const Tensor& g, const Tensor& weight, int64_t up, int64_t rows, int64_t columns) {
  const Tensor h = empty_channels_last({g.size(0), weight.size(1), rows, columns}, g);
  const Grid<const float> source = grid_of(data<float>(g), g);
  const Grid<float> target = grid_of(mutable_data<float>(h), h);
  if (up == 1) {
    const Taps taps(weight, kBackward, kBackward, true);
    Winograd<ThreeTaps, ThreeTaps>(taps).apply(source, 1, 1, nullptr, target, Nothing{});
    return h;
  }
  constexpr TapOrder kOf[2] = {{0, 2, 0}, {1, 0, 0}};  // of even and odd rows or columns of g
  for_parities([&](auto r, auto c, int64_t odd_rows, int64_t odd_columns) {
    const Winograd<decltype(r), decltype(c)> part(Taps(weight, kOf[odd_rows], kOf[odd_columns], true));
    const auto parity = source.every_second(odd_rows, odd_columns);
    if (odd_rows || odd_columns)
      part.template apply<true>(parity, 0, 0, nullptr, target, Nothing{});
    else
      part.apply(parity, 0, 0, nullptr, target, Nothing{});
  });
  return h;
}

}  // namespace legato
