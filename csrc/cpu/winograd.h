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
#include <type_traits>
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
    return {at(0, row, column), batch,      (rows + 1 - row) / 2, (columns + 1 - column) / 2,
            by_sample,          2 * by_row, 2 * by_column};
  }
};

// All pixels of a tensor [B,C,H,W], channels last.
template <typename P>
Grid<P> grid_of(P* pixels, const Tensor& tensor) {
  const int64_t channels = tensor.size(1), row = tensor.size(3) * channels;
  return {pixels, tensor.size(0), tensor.size(2), tensor.size(3), tensor.size(2) * row, row, channels};
}

// What follows a convolution where nothing does.
struct Nothing {
  void operator()(int64_t, int64_t, int64_t, int64_t) const {}
};

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
  // The weight that the taps point to has to outlive this.
  explicit Winograd(const Taps& taps) : taps_(taps) {}

  // Products for each pair of an input and an output.
  static int64_t products(int64_t batch, int64_t rows, int64_t columns) {
    return kPoints * batch * count(rows, R::kOutputs) * count(columns, C::kOutputs);
  }

  // target = the convolution of source * scale; scale [B, inputs], or null for 1. The first tap meets the pixel `pad_y`
  // above and `pad_x` left of the output, outside of the source it meets zeros. Calls done(sample, row, column,
  // columns) for what has been written.
  template <bool add = false, typename Done>
  void apply(const Grid<const float>& source, int64_t pad_y, int64_t pad_x, const float* scale,
             const Grid<float>& target, const Done& done) const {
    const Pass pass{*this, source, pad_y, pad_x, scale, target};
    const int64_t tiles = target.batch * pass.down * pass.across;
    const int64_t threads = torch::stable::get_num_threads();
    if (kPoints * tiles * taps_.inputs <= kFewInputs || tiles < threads * kFewestTiles)
      pass.template run_by_panels<add>(tiles, done);
    else
      pass.template run_by_tiles<add>(tiles, done);
  }

 private:
  static constexpr int64_t kTiles = 72;           // multiplied together: so many that reading the weight costs little
  static constexpr int64_t kFewestTiles = 24;     // the same for a thread that has no more to do
  static constexpr int64_t kFewInputs = 400'000;  // so many transformed ones stay in the cache
  static constexpr int64_t kPoints = R::kSpan * C::kSpan;
  static constexpr int64_t kApart = 48;  // between points, else all of them would lie in the same lines of the cache

  static int64_t count(int64_t size, int64_t part) { return (size + part - 1) / part; }
  int64_t depths() const { return count(taps_.inputs, kDepth); }
  int64_t panels() const { return count(taps_.outputs, kPanel); }

  // The taps between one panel and 32 inputs, or fewer.
  void transform_part(float* out, int64_t point_step, int64_t panel, int64_t depth) const {
    const float* corner = taps_.data + panel * kPanel * taps_.by_output + depth * kDepth * taps_.by_input;
    const float* sources[R::kTaps * C::kTaps];
    for (int tap = 0; tap < R::kTaps * C::kTaps; ++tap)
      sources[tap] =
          corner + taps_.rows[tap / C::kTaps] * taps_.by_row + taps_.columns[tap % C::kTaps] * taps_.by_column;
    transform_taps<R, C>(out, sources, point_step, std::min(kDepth, taps_.inputs - depth * kDepth),
                         std::min(kPanel, taps_.outputs - panel * kPanel), taps_.by_input, taps_.by_output);
  }

  struct Pass {
    const Winograd& of;
    const Grid<const float>& source;
    int64_t pad_y, pad_x;
    const float* scale;
    const Grid<float>& target;
    int64_t down = count(target.rows, R::kOutputs), across = count(target.columns, C::kOutputs);  // tiles of an image
    int64_t panels = of.panels(), depths = of.depths();
    std::vector<float> zeros = std::vector<float>(of.taps_.inputs, 0.0f);
    std::vector<float> ones = std::vector<float>(of.taps_.inputs, 1.0f);

    // Few tiles: each part of the weight is multiplied with all of them as soon as it is transformed.
    template <bool add, typename Done>
    void run_by_panels(int64_t tiles, const Done& done) const {
      using torch::stable::parallel_for;
      constexpr int64_t kPartStep = kDepth * kPanel + kApart;
      const int64_t input_step = tiles * depths * kDepth + kApart, product_step = tiles * kPanel + kApart;
      const Scratch inputs(kPoints * input_step);
      parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; ++tile)
          read(inputs.data() + tile * kDepth, tile, input_step, tiles * kDepth);
      });
      parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
        const Scratch products(kPoints * product_step), weight(kPoints * kPartStep + kPartStep);
        for (int64_t panel = begin; panel < end; ++panel) {
          for (int64_t depth = 0; depth < depths; ++depth) {
            of.transform_part(weight.data(), kPartStep, panel, depth);
            for (int64_t point = 0; point < kPoints; ++point) {
              const float* part = weight.data() + point * kPartStep;
              multiply_part(products.data() + point * product_step,
                            inputs.data() + point * input_step + depth * tiles * kDepth, part, tiles,
                            std::min(kDepth, of.taps_.inputs - depth * kDepth), depth == 0, part + kPartStep);
            }
          }
          for (int64_t tile = 0; tile < tiles; ++tile)
            write<add>(products.data() + tile * kPanel, tile, product_step, 0, panel, panel + 1);
        }
      });
      if constexpr (!std::is_same_v<Done, Nothing>) {
        parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
          for (int64_t tile = begin; tile < end; ++tile)
            finish(tile, done);
        });
      }
    }

    // Many tiles: block by block, with the whole weight transformed before.
    template <bool add, typename Done>
    void run_by_tiles(int64_t tiles, const Done& done) const {
      using torch::stable::parallel_for;
      const int64_t part = of.taps_.inputs * kPanel, weight_step = panels * part + kApart;
      const Scratch weight(kPoints * weight_step + kDepth * kPanel);
      parallel_for(0, panels * depths, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t panel = i / depths, depth = i % depths;
          of.transform_part(weight.data() + panel * part + depth * kDepth * kPanel, weight_step, panel, depth);
        }
      });
      const int64_t threads = torch::stable::get_num_threads();
      const int64_t blocks = std::min(count(count(tiles, kTiles), threads) * threads, tiles / kFewestTiles);
      parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
        const int64_t most = count(tiles, blocks);
        const Scratch inputs(kPoints * (most * depths * kDepth + kApart));
        const Scratch products(kPoints * (most * panels * kPanel + kApart));
        for (int64_t block = begin; block < end; ++block) {
          const int64_t first = block * tiles / blocks, rows = (block + 1) * tiles / blocks - first;
          const int64_t input_step = rows * depths * kDepth + kApart, product_step = rows * panels * kPanel + kApart;
          for (int64_t row = 0; row < rows; ++row)
            read(inputs.data() + row * kDepth, first + row, input_step, rows * kDepth);
          for (int64_t i = 0; i < kPoints * panels * depths; ++i) {
            const int64_t depth = i % depths, panel = i / depths % panels, point = i / (depths * panels);
            const float* right = weight.data() + point * weight_step + panel * part + depth * kDepth * kPanel;
            multiply_part(products.data() + point * product_step + panel * rows * kPanel,
                          inputs.data() + point * input_step + depth * rows * kDepth, right, rows,
                          std::min(kDepth, of.taps_.inputs - depth * kDepth), depth == 0, right + kDepth * kPanel);
          }
          for (int64_t row = 0; row < rows; ++row) {
            write<add>(products.data() + row * kPanel, first + row, product_step, rows * kPanel, 0, panels);
            finish(first + row, done);
          }
        }
      });
    }

    int64_t top(int64_t tile) const { return tile / across % down * R::kOutputs; }
    int64_t left(int64_t tile) const { return tile % across * C::kOutputs; }

    void read(float* to, int64_t tile, int64_t point_step, int64_t depth_step) const {
      const int64_t sample = tile / (down * across), row = top(tile) - pad_y, column = left(tile) - pad_x;
      const float* pixels[kPoints];
      for (int64_t y = 0; y < R::kSpan; ++y) {
        const bool inside = row + y >= 0 && row + y < source.rows;
        for (int64_t x = 0; x < C::kSpan; ++x) {
          const bool there = inside && column + x >= 0 && column + x < source.columns;
          pixels[y * C::kSpan + x] = there ? source.at(sample, row + y, column + x) : zeros.data();
        }
      }
      const float* factors = scale ? scale + sample * of.taps_.inputs : ones.data();
      transform_inputs<R, C>(to, pixels, factors, point_step, depth_step, of.taps_.inputs);
    }

    template <bool add>
    void write(const float* from, int64_t tile, int64_t point_step, int64_t panel_step, int64_t first_panel,
               int64_t last_panel) const {
      const int64_t sample = tile / (down * across), row = top(tile), column = left(tile);
      const int64_t first = first_panel * kPanel, last = std::min(last_panel * kPanel, of.taps_.outputs);
      float* pixels[R::kOutputs * C::kOutputs];
      for (int64_t y = 0; y < R::kOutputs; ++y) {
        for (int64_t x = 0; x < C::kOutputs; ++x) {
          const bool inside = row + y < target.rows && column + x < target.columns;
          pixels[y * C::kOutputs + x] = inside ? target.at(sample, row + y, column + x) + first : nullptr;
        }
      }
      transform_outputs<R, C, add>(pixels, from, point_step, panel_step, last - first);
    }

    template <typename Done>
    void finish(int64_t tile, const Done& done) const {
      const int64_t columns = std::min<int64_t>(C::kOutputs, target.columns - left(tile));
      for (int64_t y = top(tile); y < std::min(top(tile) + R::kOutputs, target.rows); ++y)
        done(tile / (down * across), y, left(tile), columns);
    }
  };

  Taps taps_;
};

}  // namespace legato
