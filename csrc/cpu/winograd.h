// Convolutions in float32 by tiles: inputs and weight are transformed (toom_cook.h), multiplied point by point, and
// transformed back. For three taps on both axes that is a quarter of the products; transformed tiles stay in the cache.
#pragma once

#include "cpu/common.h"
#include "cpu/convolution.h"
#include "cpu/panels.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace legato {

// Pixels of images, each a row of channels.
template <typename P>
struct Grid {
  P* data;
  int64_t batch, rows, columns;
  int64_t by_sample, by_row, by_column;

  P* at(int64_t sample, int64_t row, int64_t column) const {
    return data + sample * by_sample + row * by_row + column * by_column;
  }

  // Every second row and column, from these.
  Grid every_second(int64_t row, int64_t column) const {
    return {at(0, row, column), batch, (rows + 1 - row) / 2, (columns + 1 - column) / 2, by_sample, 2 * by_row,
            2 * by_column};
  }
};

// All pixels of a tensor [B,C,H,W], channels last.
template <typename P>
Grid<P> grid_of(P* pixels, const Tensor& tensor) {
  const int64_t channels = tensor.size(1), row = tensor.size(3) * channels;
  return {pixels, tensor.size(0), tensor.size(2), tensor.size(3), tensor.size(2) * row, row, channels};
}

// Taps of a weight: which ones on each axis, in the order in which they meet pixels.
struct Taps {
  const float* data;
  int64_t outputs, inputs;
  int64_t by_output, by_input, by_row, by_column;
  std::array<int64_t, 3> rows, columns;

  // Of the weight [O,I,3,3] itself, in any layout, or of its adjoint, which goes from outputs to inputs.
  Taps(const Tensor& weight, const std::array<int64_t, 3>& rows, const std::array<int64_t, 3>& columns, bool adjoint)
      : data(legato::data<float>(weight)),
        outputs(weight.size(adjoint)),
        inputs(weight.size(!adjoint)),
        by_output(weight.stride(adjoint)),
        by_input(weight.stride(!adjoint)),
        by_row(weight.stride(2)),
        by_column(weight.stride(3)),
        rows(rows),
        columns(columns) {}
};

template <typename R, typename C>
class Winograd {
 public:
  explicit Winograd(const Taps& taps)
      : outputs_(taps.outputs), inputs_(taps.inputs), weight_(kPoints * point_step()) {
    const int64_t depths = count(inputs_, kDepth);
    torch::stable::parallel_for(0, panels() * depths, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t panel = i / depths, first = i % depths * kDepth;
        const float* corner = taps.data + panel * kPanel * taps.by_output + first * taps.by_input;
        const float* sources[R::kTaps * C::kTaps];
        for (int tap = 0; tap < R::kTaps * C::kTaps; ++tap)
          sources[tap] = corner + taps.rows[tap / C::kTaps] * taps.by_row + taps.columns[tap % C::kTaps] * taps.by_column;
        float* points = weight_.data() + (panel * inputs_ + first) * kPanel;
        transform_taps<R, C>(points, sources, point_step(), std::min(kDepth, inputs_ - first),
                             std::min(kPanel, outputs_ - panel * kPanel), taps.by_input, taps.by_output);
      }
    });
  }

  // Products for each pair of an input and an output.
  static int64_t products(int64_t batch, int64_t rows, int64_t columns) {
    return kPoints * batch * count(rows, R::kOutputs) * count(columns, C::kOutputs);
  }

  // target = the convolution of source * scale; scale [B, inputs], or null for 1. The first tap meets the pixel `pad_y` above and
  // `pad_x` left of the output, outside of the source it meets zeros. Calls done(sample, row, column, columns) for what
  // has been written.
  template <bool add = false, typename Done>
  void apply(const Grid<const float>& source, int64_t pad_y, int64_t pad_x, const float* scale,
             const Grid<float>& target, const Done& done) const {
    const Pass<Done> pass{*this, source, pad_y, pad_x, scale, target, done, count(target.rows, R::kOutputs),
                          count(target.columns, C::kOutputs), std::vector<float>(inputs_, 0.0f), std::vector<float>(inputs_, 1.0f)};
    const int64_t tiles = target.batch * pass.down * pass.across, threads = torch::stable::get_num_threads();
    if (tiles < threads * kTiles) {
      pass.template run<add>(0, tiles, Buffers(*this, tiles));
      return;
    }
    const int64_t blocks = count(count(tiles, kTiles), threads) * threads;
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      const Buffers buffers(*this, count(tiles, blocks));
      for (int64_t block = begin; block < end; ++block)
        pass.template run<add>(block * tiles / blocks, (block + 1) * tiles / blocks, buffers);
    });
  }

 private:
  static constexpr int64_t kTiles = 72;  // multiplied together: so many that reading the weight costs little
  static constexpr int64_t kPoints = R::kSpan * C::kSpan;
  static constexpr int64_t kApart = 48;  // between points, else all of them would lie in the same lines of the cache

  static int64_t count(int64_t size, int64_t part) { return (size + part - 1) / part; }
  int64_t panels() const { return count(outputs_, kPanel); }
  int64_t point_step() const { return panels() * inputs_ * kPanel + kApart; }

  int64_t input_step(int64_t tiles) const { return tiles * count(inputs_, kDepth) * kDepth + kApart; }
  int64_t product_step(int64_t tiles) const { return tiles * panels() * kPanel + kApart; }

  struct Buffers {
    Scratch inputs, products;  // transformed

    Buffers(const Winograd& of, int64_t tiles)
        : inputs(kPoints * of.input_step(tiles)), products(kPoints * of.product_step(tiles)) {}
  };

  template <typename Done>
  struct Pass {
    const Winograd& of;
    const Grid<const float>& source;
    int64_t pad_y, pad_x;
    const float* scale;
    const Grid<float>& target;
    const Done& done;
    int64_t down, across;  // tiles of an image
    std::vector<float> zeros, ones;

    // Some tiles, by one thread if this is called in a parallel region, else by all.
    template <bool add>
    void run(int64_t first, int64_t last, const Buffers& buffers) const {
      using torch::stable::parallel_for;
      const int64_t tiles = last - first;
      float *inputs = buffers.inputs.data(), *products = buffers.products.data();
      const int64_t input_step = of.input_step(tiles), product_step = of.product_step(tiles);
      parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; ++tile)
          read(inputs + tile * kDepth, first + tile, input_step, tiles * kDepth);
      });
      parallel_for(0, kPoints, 1, [&](int64_t begin, int64_t end) {
        for (int64_t point = begin; point < end; ++point) {
          const float* weight = of.weight_.data() + point * of.point_step();
          multiply_panels(products + point * product_step, inputs + point * input_step, weight, tiles, of.inputs_,
                          of.panels());
        }
      });
      parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; ++tile)
          write<add>(products + tile * kPanel, first + tile, product_step, tiles * kPanel);
      });
    }

    void read(float* to, int64_t tile, int64_t point_step, int64_t depth_step) const {
      const int64_t sample = tile / (down * across);
      const int64_t top = tile / across % down * R::kOutputs - pad_y, left = tile % across * C::kOutputs - pad_x;
      const float* pixels[kPoints];
      for (int64_t y = 0; y < R::kSpan; ++y) {
        const bool inside = top + y >= 0 && top + y < source.rows;
        const float* row = source.at(sample, top + y, left);
        for (int64_t x = 0; x < C::kSpan; ++x) {
          const bool there = inside && left + x >= 0 && left + x < source.columns;
          pixels[y * C::kSpan + x] = there ? row + x * source.by_column : zeros.data();
        }
      }
      const float* factors = scale ? scale + sample * of.inputs_ : ones.data();
      transform_inputs<R, C>(to, pixels, factors, point_step, depth_step, of.inputs_);
    }

    template <bool add>
    void write(const float* from, int64_t tile, int64_t point_step, int64_t panel_step) const {
      const int64_t sample = tile / (down * across);
      const int64_t top = tile / across % down * R::kOutputs, left = tile % across * C::kOutputs;
      float* pixels[R::kOutputs * C::kOutputs];
      for (int64_t y = 0; y < R::kOutputs; ++y) {
        for (int64_t x = 0; x < C::kOutputs; ++x) {
          const bool inside = top + y < target.rows && left + x < target.columns;
          pixels[y * C::kOutputs + x] = inside ? target.at(sample, top + y, left + x) : nullptr;
        }
      }
      transform_outputs<R, C, add>(pixels, from, point_step, panel_step, of.outputs_);
      for (int64_t y = top; y < std::min(top + R::kOutputs, target.rows); ++y)
        done(sample, y, left, std::min<int64_t>(C::kOutputs, target.columns - left));
    }
  };

  int64_t outputs_, inputs_;
  Scratch weight_;  // [points, point_step], [panels, inputs, 32]
};

}  // namespace legato
