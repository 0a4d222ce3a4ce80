// The transposed convolution of stride 2, as four small convolutions, one for each parity of the output's row and
// column.
//
// It has 2H+1 rows: row 2j is x[j] w[0] + x[j-1] w[2], row 2j+1 is x[j] w[1]; columns alike. That is 9 taps in all.
// In float32 they are computed in tiles where that pays. With few outputs in bfloat16 one convolution of 2x2 taps for
// all four is faster, though 7 of its 16 taps are zero.
#pragma once

#include "cpu/common.h"
#include "cpu/convolution.h"
#include "cpu/scratch.h"
#include "cpu/tiled.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

namespace legato {

// weight [O,I,3,3] -> [4 * O,I,2,2], channels last, the outputs of one parity after those of another
template <typename T, typename C, typename A>
Tensor unite_phases(const Tensor& weight, const A* styles) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const Tensor taps = empty_channels_last({4 * outputs, inputs, 2, 2}, weight, dtype_of<C>());
  C* to = mutable_data<C>(taps);
  const auto source = [](int64_t odd, int64_t tap) { return odd ? 2 * tap - 1 : 2 - 2 * tap; };  // below 0: none
  for (int64_t k = 0; k < 4 * outputs * 4; ++k, to += inputs) {
    const int64_t phase = k / (4 * outputs), o = k / 4 % outputs;
    const int64_t y = source(phase / 2, k / 2 % 2), x = source(phase % 2, k % 2);
    if (y < 0 || x < 0) {
      std::fill_n(to, inputs, C(0.0f));
      continue;
    }
    const T* tap = data<T>(weight) + o * weight.stride(0) + y * weight.stride(2) + x * weight.stride(3);
    style_taps(to, tap, styles, inputs, weight.stride(1));
  }
  return taps;
}

template <typename T>
class Phases {
 public:
  using A = Accumulator<T>;
  using C = Convolved<T>;

  // input [B,I,H,W] C, channels last; weight [O,I,3,3] T, which takes `styles` [I] unless they are null
  Phases(const Tensor& input, const Tensor& weight, const A* styles)
      : Phases(input, weight.size(0), input.size(0) * input.size(2) * input.size(3) <= kFewPixels && !styles) {
    if (few_ || united_) {
      tensors_ = {few_ ? add_taps(input, channels_last(torch::stable::to(weight, dtype_of<C>())))
                       : convolve<C>(input, unite_phases<T, C>(weight, styles), {2, 2, 1, 1, 1})};
      for (int64_t phase = 0; phase < 4; ++phase)
        phases_[phase] = data<C>(tensors_[0]) + phase * channels_;
      return;
    }
    const std::vector<int64_t> even{2, 0}, odd{1};
    for (const auto& rows : {even, odd}) {
      for (const auto& columns : {even, odd}) {
        const int64_t height = rows.size(), width = columns.size();
        tensors_.push_back(convolve<C>(input, select_taps<T, C>(weight, rows, columns, styles),
                                       {height, width, 1, height - 1, width - 1}));
        phases_[tensors_.size() - 1] = data<C>(tensors_.back());
      }
    }
  }

  // The same in tiles, of input * scale [B,I]
  struct InTiles {};
  Phases(const Tensor& input, const Tensor& weight, const float* scale, InTiles)
      : Phases(input, weight.size(0), false) {
    static_assert(std::is_same_v<C, float>);
    const int64_t batch = input.size(0);
    memory_.emplace(batch * (2 * rows_ + 1) * (2 * columns_ + 1) * channels_);
    float* memory = memory_->data();
    constexpr TapOrder kOf[2] = {{2, 0, 0}, {1, 0, 0}};  // of even and odd rows or columns
    for_parities([&](auto r, auto c, int64_t odd_rows, int64_t odd_columns) {
      const int64_t rows = rows_ + 1 - odd_rows, columns = columns_ + 1 - odd_columns, row = columns * channels_;
      phases_[2 * odd_rows + odd_columns] = memory;
      const Grid<float> target{memory, batch, rows, columns, rows * row, row, channels_};
      const Winograd<decltype(r), decltype(c)> convolution(Taps(weight, kOf[odd_rows], kOf[odd_columns], false));
      convolution.apply(grid_of(data<float>(input), input), 1 - odd_rows, 1 - odd_columns, scale, target, Nothing{});
      memory += batch * rows * row;
    });
  }

  // Values from one pixel of a row to the next.
  int64_t step() const { return united_ ? 4 * channels_ : channels_; }

  // The even or the odd columns, W+1 or W of them, of row -1 .. 2H+1: [columns, step]; zeros in the first and the last.
  const C* row(int64_t sample, int64_t row, int64_t odd_columns) const {
    if (row < 0 || row > 2 * rows_) return zeros_.data();
    const int64_t odd_row = row % 2, phase = 2 * odd_row + odd_columns;
    const int64_t rows = united_ ? rows_ + 1 : rows_ + 1 - odd_row;
    const int64_t columns = united_ ? columns_ + 1 : columns_ + 1 - odd_columns;
    return phases_[phase] + (sample * rows + row / 2) * columns * step();
  }

 private:
  static constexpr int64_t kFewOutputs = 64;

  Phases(const Tensor& input, int64_t channels, bool few)
      : rows_(input.size(2)),
        columns_(input.size(3)),
        channels_(channels),
        few_(few),
        united_(few_ || (std::is_same_v<C, BFloat16> && channels_ <= kFewOutputs)),
        zeros_((columns_ + 1) * step(), C(0.0f)) {}

  // The phases [B,H+1,W+1,4,O] from the product of each pixel and tap.
  Tensor add_taps(const Tensor& input, const Tensor& weight) const {
    const int64_t batch = input.size(0), inputs = input.size(1), outputs = channels_;
    const Tensor products = product(as_matrix(input, inputs), as_matrix(weight, inputs), true);  // [B*H*W, O*9]
    const Tensor result = empty_channels_last({batch, 4 * outputs, rows_ + 1, columns_ + 1}, input);
    const int64_t pixels = batch * (rows_ + 1) * (columns_ + 1);
    torch::stable::parallel_for(0, pixels, rows_per_task(9 * outputs), [&](int64_t begin, int64_t end) {
      std::vector<A> sums(outputs);
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        const int64_t column = pixel % (columns_ + 1), row = pixel / (columns_ + 1) % (rows_ + 1);
        const int64_t sample = pixel / ((columns_ + 1) * (rows_ + 1));
        for (int64_t phase = 0; phase < 4; ++phase) {
          std::fill(sums.begin(), sums.end(), A(0));
          for (int64_t tap = 0; tap < 9; ++tap) {
            const int64_t y = row - tap / 6, x = column - tap % 3 / 2;  // tap 2 of an axis is of the pixel before
            const bool mine = tap / 3 % 2 == phase / 2 && tap % 3 % 2 == phase % 2;
            if (!mine || y < 0 || y >= rows_ || x < 0 || x >= columns_) continue;
            const int64_t source = (sample * rows_ + y) * columns_ + x;
            add_strided(sums.data(), data<C>(products) + source * outputs * 9 + tap, 9, outputs);
          }
          std::copy(sums.begin(), sums.end(), mutable_data<C>(result) + (pixel * 4 + phase) * outputs);
        }
      }
    });
    return result;
  }

  int64_t rows_, columns_, channels_;
  bool few_, united_;
  std::vector<C> zeros_;
  std::vector<Tensor> tensors_;
  std::optional<Scratch> memory_;
  const C* phases_[4];
};

}  // namespace legato
