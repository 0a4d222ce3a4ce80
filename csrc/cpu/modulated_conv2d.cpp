// modulated_conv2d on the CPU: a pass that scales the input, oneDNN's convolution, a pass that does all the rest.
//
// Everything runs channels last, so that one pixel is a contiguous row of channels and every pass is a loop over
// channels. Sums over pixels go row by row into a buffer, so results do not depend on the number of threads.

#include "modulated_conv2d.h"

#include "cpu/common.h"
#include "cpu/convolution.h"
#include "cpu/phases.h"
#include "cpu/rows.h"
#include "cpu/tiled.h"
#include "math/activation.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace legato {
namespace {

using torch::stable::parallel_for;

constexpr double kEpsilon = 1e-8;

// What follows the convolution, in the precision of computation.
template <typename T>
struct Epilogue {
  using A = Accumulator<T>;
  int64_t outputs;
  std::vector<A> scale;         // [B, O], the demodulation
  std::vector<A> bias;          // [O]
  std::optional<Tensor> noise;  // contiguous
  Activation<A> activation;

  explicit Epilogue(const ModulatedConv2d& a)
      : outputs(a.outputs()),
        scale(a.batch() * a.outputs(), A(1)),
        bias(a.outputs(), A(0)),
        activation{static_cast<A>(a.slope), static_cast<A>(a.gain),
                   static_cast<A>(a.clamp.value_or(std::numeric_limits<double>::infinity()))} {
    if (a.noise) noise = torch::stable::contiguous(*a.noise);
    if (a.bias) {
      const Tensor values = torch::stable::contiguous(*a.bias);
      std::copy_n(data<T>(values), outputs, bias.begin());
    }
    if (a.q) {
      const Tensor styles = torch::stable::contiguous(a.styles), q = torch::stable::contiguous(*a.q);
      const int64_t inputs = a.inputs();
      std::vector<A> squares(data<A>(styles), data<A>(styles) + a.batch() * inputs);
      for (A& value : squares)
        value *= value;
      parallel_for(0, a.batch() * outputs, rows_per_task(inputs), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const A sum = weigh(squares.data() + i / outputs * inputs, data<A>(q) + i % outputs * inputs, inputs);
          scale[i] = A(1) / std::sqrt(sum + static_cast<A>(kEpsilon));
        }
      });
    }
  }

  const A* scale_of(int64_t sample) const { return scale.data() + sample * outputs; }

  const T* noise_row(int64_t sample, int64_t row, int64_t height, int64_t width) const {
    if (!noise) return nullptr;
    return data<T>(*noise) + ((noise->size(0) == 1 ? 0 : sample) * height + row) * width;
  }
};

// x * styles, channels last, in the dtype of the convolution
template <typename T>
Tensor scale_input(const Tensor& x, const Tensor& styles) {
  using A = Accumulator<T>;
  using C = Convolved<T>;
  const int64_t height = x.size(2), width = x.size(3), channels = x.size(1);
  const Tensor source = channels_last(x), scale = torch::stable::contiguous(styles);
  const Tensor result = empty_channels_last({x.size(0), channels, height, width}, x, dtype_of<C>());
  parallel_for(0, x.size(0) * height, rows_per_task(width * channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * width * channels;
      const A* s = data<A>(scale) + row / height * channels;
      scale_row(mutable_data<C>(result) + at, data<T>(source) + at, s, width, channels);
    }
  });
  return result;
}

// The input of the convolution, and the styles that its weight takes instead (null: the input has taken them). For one
// sample of many pixels the weight is far smaller than the input.
template <typename T>
struct Styled {
  using A = Accumulator<T>;
  Tensor input, styles;
  const A* of_weight = nullptr;

  explicit Styled(const ModulatedConv2d& a) : input(a.x), styles(torch::stable::contiguous(a.styles)) {
    const int64_t taps = a.weight.size(2) * a.weight.size(3);
    if (std::is_same_v<T, Convolved<T>> && a.batch() == 1 && 4 * taps * a.outputs() <= a.x.size(2) * a.x.size(3)) {
      input = channels_last(a.x);
      of_weight = data<A>(styles);
    } else {
      input = scale_input<T>(a.x, styles);
    }
  }
};

const std::vector<int64_t> kAllTaps{0, 1, 2};

// Whether a layer is computed in tiles, which only float32 is.
template <typename T>
bool in_tiles(const ModulatedConv2d& a) {
  return std::is_same_v<Convolved<T>, float> && a.taps() == 3 && pays_in_tiles(a.x, a.outputs(), a.up);
}

// What is multiplied there: float32 itself takes the styles when it is transformed, anything else before.
template <typename T>
struct Untiled {
  static constexpr bool kAlone = std::is_same_v<T, float>;
  Tensor x, weight, styles;
  const float* scale;

  explicit Untiled(const ModulatedConv2d& a)
      : x(kAlone ? channels_last(a.x) : scale_input<T>(a.x, a.styles)),
        weight(torch::stable::to(a.weight, ScalarType::Float)),
        styles(torch::stable::contiguous(a.styles)),
        scale(kAlone ? data<float>(styles) : nullptr) {}
};

template <typename T>
Tensor forward_same_in_tiles(const ModulatedConv2d& a, const Epilogue<T>& epilogue) {
  const int64_t height = a.height(), width = a.width(), channels = a.outputs();
  const Untiled<T> from(a);
  const Tensor y = empty_channels_last(a.output_shape(), a.x);
  const Tensor t = from.kAlone ? y : empty_channels_last(a.output_shape(), a.x, ScalarType::Float);
  const auto finish = [&](int64_t sample, int64_t row, int64_t column, int64_t pixels) {
    const int64_t at = ((sample * height + row) * width + column) * channels;
    const T* noise = epilogue.noise_row(sample, row, height, width);
    finish_row(mutable_data<T>(y) + at, data<float>(t) + at, epilogue.scale_of(sample), epilogue.bias.data(),
               noise ? noise + column : nullptr, epilogue.activation, pixels, channels);
  };
  const Winograd<ThreeTaps, ThreeTaps> convolution(Taps(from.weight, kForward, kForward, false));
  convolution.apply(grid_of(data<float>(from.x), from.x), 1, 1, from.scale, grid_of(mutable_data<float>(t), t), finish);
  return y;
}

template <typename T>
Tensor forward_same(const ModulatedConv2d& a, const Epilogue<T>& epilogue) {
  using C = Convolved<T>;
  if constexpr (std::is_same_v<C, float>) {
    if (in_tiles<T>(a)) return forward_same_in_tiles<T>(a, epilogue);
  }
  const int64_t taps = a.weight.size(2), pad = taps / 2;
  const int64_t height = a.height(), width = a.width(), channels = a.outputs();
  const Styled<T> styled(a);
  Tensor weight = a.weight;
  if (styled.of_weight && taps == 3) {
    weight = select_taps<T, C>(a.weight, kAllTaps, kAllTaps, styled.of_weight);
  } else if (styled.of_weight) {
    weight = select_taps<T, C>(a.weight, {0}, {0}, styled.of_weight);
  } else {
    weight = channels_last(torch::stable::to(a.weight, dtype_of<C>()));
  }
  const Tensor t = convolve<C>(styled.input, weight, {taps, taps, 1, pad, pad});
  const bool in_place = std::is_same_v<T, C> && t.dim() == 4 && is_channels_last(t);
  const Tensor y = in_place ? t : empty_channels_last(a.output_shape(), a.x);
  parallel_for(0, a.batch() * height, rows_per_task(width * channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t sample = row / height, at = row * width * channels;
      finish_row(mutable_data<T>(y) + at, data<C>(t) + at, epilogue.scale_of(sample), epilogue.bias.data(),
                 epilogue.noise_row(sample, row % height, height, width), epilogue.activation, width, channels);
    }
  });
  return y;
}

// The filter across the rows and columns of a transposed convolution, and what follows.
template <typename T>
Tensor finish_up(const ModulatedConv2d& a, const Epilogue<T>& epilogue, const Phases<T>& t) {
  using A = Accumulator<T>;
  const int64_t columns = a.x.size(3), channels = a.outputs(), height = a.height(), width = a.width();
  const Tensor y = empty_channels_last(a.output_shape(), a.x);
  parallel_for(0, a.batch() * height, rows_per_task(width * channels), [&](int64_t begin, int64_t end) {
    std::vector<A> filtered((width + 3) * channels, A(0));  // columns -1 .. 2W+1; the first and the last stay 0
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / height, row = i % height;
      for (int64_t odd = 0; odd < 2; ++odd) {
        filter_rows(filtered.data() + (1 + odd) * channels, t.row(sample, row - 1, odd), t.row(sample, row, odd),
                    t.row(sample, row + 1, odd), t.row(sample, row + 2, odd), columns + 1 - odd, channels, t.step(),
                    2 * channels);
      }
      finish_filtered_row(mutable_data<T>(y) + i * width * channels, filtered.data(), epilogue.scale_of(sample),
                          epilogue.bias.data(), epilogue.noise_row(sample, row, height, width), epilogue.activation,
                          width, channels);
    }
  });
  return y;
}

template <typename T>
Tensor forward_up(const ModulatedConv2d& a, const Epilogue<T>& epilogue) {
  if constexpr (std::is_same_v<Convolved<T>, float>) {
    if (in_tiles<T>(a)) {
      const Untiled<T> from(a);
      return finish_up(a, epilogue, Phases<T>(from.x, from.weight, from.scale, typename Phases<T>::InTiles{}));
    }
  }
  const Styled<T> styled(a);
  return finish_up(a, epilogue, Phases<T>(styled.input, a.weight, styled.of_weight));
}

Tensor forward(Tensor x, Tensor weight, Tensor styles, std::optional<Tensor> q, std::optional<Tensor> noise,
               std::optional<Tensor> bias, int64_t up, double slope, double gain, std::optional<double> clamp) {
  const ModulatedConv2d a{x, weight, styles, q, noise, bias, up, slope, gain, clamp};
  a.check();
  if (a.batch() == 0) return empty_channels_last(a.output_shape(), x);
  return dispatch("modulated_conv2d", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Epilogue<T> epilogue(a);
    return up == 1 ? forward_same<T>(a, epilogue) : forward_up<T>(a, epilogue);
  });
}

// Sums of rows [B * rows, channels] -> [B, channels], always in the same order.
template <typename A>
std::vector<A> sum_rows(const std::vector<A>& sums, int64_t batch, int64_t rows, int64_t channels) {
  std::vector<double> totals(batch * channels, 0.0);
  for (int64_t row = 0; row < batch * rows; ++row) {
    double* total = totals.data() + row / rows * channels;
    for (int64_t c = 0; c < channels; ++c)
      total[c] += sums[row * channels + c];
  }
  return std::vector<A>(totals.begin(), totals.end());
}

// The adjoint of the filter that finishes the upsampling: [B,O,2H,2W] -> [B,O,2H+1,2W+1].
template <typename T, typename A>
Tensor filter_adjoint(const Tensor& grad) {
  const int64_t batch = grad.size(0), channels = grad.size(1), height = grad.size(2), width = grad.size(3);
  const Tensor result = empty_channels_last({batch, channels, height + 1, width + 1}, grad);
  const std::vector<T> zeros(width * channels, T(0.0f));
  const auto source = [&](int64_t sample, int64_t row) {
    const bool outside = row < 0 || row >= height;
    return outside ? zeros.data() : data<T>(grad) + (sample * height + row) * width * channels;
  };
  parallel_for(0, batch * (height + 1), rows_per_task(width * channels), [&](int64_t begin, int64_t end) {
    std::vector<A> filtered((width + 4) * channels, A(0));  // columns -2 .. 2W+1; two on either side stay 0
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / (height + 1), row = i % (height + 1);
      filter_rows(filtered.data() + 2 * channels, source(sample, row - 2), source(sample, row - 1), source(sample, row),
                  source(sample, row + 1), width, channels, channels, channels);
      filter_columns(mutable_data<T>(result) + i * (width + 1) * channels, filtered.data(), width + 1, channels);
    }
  });
  return result;
}

// The adjoint of the convolution, applied to g [B,O,H*up,W*up] -> the memory of [B,I,H,W], channels last
template <typename T>
Tensor adjoint(const ModulatedConv2d& a, const Tensor& g) {
  using C = Convolved<T>;
  const int64_t pad = a.weight.size(2) / 2;
  const Tensor source = a.up == 1 ? g : filter_adjoint<C, Accumulator<T>>(g);
  if constexpr (std::is_same_v<C, float>) {
    if (in_tiles<T>(a)) {
      const Tensor weight = torch::stable::to(a.weight, ScalarType::Float);
      return adjoint_in_tiles(source, weight, a.up, a.x.size(2), a.x.size(3));
    }
  }
  if (pad == 1 && a.batch() * a.x.size(2) * a.x.size(3) <= kFewPixels) {
    const Tensor weight = channels_last(torch::stable::to(a.weight, dtype_of<C>()));
    return adjoint_of_few<C>(source, weight, a.up, a.x.size(2), a.x.size(3));
  }
  if (a.up == 2) return convolution(source, transpose_weight<T, C>(a.weight), 2, 0, 0, false);
  return convolution(source, torch::stable::to(a.weight, dtype_of<C>()), 1, pad, pad, true);
}

// The gradients, with g = grad_y * activation'(y) * d and h the adjoint of the convolution applied to g:
// grad_x = h * s;  grad_s = sum_p h x - s * ((grad_d * d^3) @ Q),  grad_d = sum_p grad_y * activation'(y) * conv(x *
// s), where conv(x * s) is (activation^-1(y) - noise - bias) / d: nothing but y has to be kept.
template <typename T>
std::tuple<Tensor, Tensor> differentiate(const ModulatedConv2d& a, const Tensor& grad_y, const Tensor& y) {
  using A = Accumulator<T>;
  using C = Convolved<T>;
  const Epilogue<T> epilogue(a);
  const int64_t batch = a.batch(), inputs = a.inputs(), outputs = a.outputs();
  const int64_t height = a.height(), width = a.width();

  const Tensor incoming = channels_last(grad_y), kept = channels_last(y);
  const Tensor g = empty_channels_last(a.output_shape(), a.x, dtype_of<C>());
  std::vector<A> row_sums(batch * height * outputs, A(0));
  parallel_for(0, batch * height, rows_per_task(width * outputs), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t sample = row / height, at = row * width * outputs;
      differentiate_row(mutable_data<C>(g) + at, row_sums.data() + row * outputs, data<T>(incoming) + at,
                        data<T>(kept) + at, epilogue.scale_of(sample), epilogue.bias.data(),
                        epilogue.noise_row(sample, row % height, height, width), epilogue.activation, width, outputs);
    }
  });
  const std::vector<A> scale_sums = sum_rows(row_sums, batch, height, outputs);  // grad_d * d

  const Tensor h = adjoint<T>(a, g);
  const Tensor x = channels_last(a.x), styles = torch::stable::contiguous(a.styles);
  const int64_t rows = x.size(2), columns = x.size(3);
  const bool in_place = std::is_same_v<T, C> && h.dim() == 4 && is_channels_last(h);
  const Tensor grad_x = in_place ? h : empty_channels_last({batch, inputs, rows, columns}, x);
  row_sums.assign(batch * rows * inputs, A(0));
  parallel_for(0, batch * rows, rows_per_task(columns * inputs), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * columns * inputs;
      unscale_row(mutable_data<T>(grad_x) + at, row_sums.data() + row * inputs, data<C>(h) + at, data<T>(x) + at,
                  data<A>(styles) + row / rows * inputs, columns, inputs);
    }
  });
  const std::vector<A> direct = sum_rows(row_sums, batch, rows, inputs);
  const Tensor grad_styles = torch::stable::new_empty(styles, std::array<int64_t, 2>{batch, inputs});
  A* out = mutable_data<A>(grad_styles);
  std::copy(direct.begin(), direct.end(), out);
  if (a.q) {
    const Tensor q = torch::stable::contiguous(*a.q);
    parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const A* scale = epilogue.scale_of(b);
        std::vector<A> energy_gradient(inputs, A(0));
        for (int64_t o = 0; o < outputs; ++o) {
          const A weight = scale_sums[b * outputs + o] * scale[o] * scale[o];
          add_scaled(energy_gradient.data(), data<A>(q) + o * inputs, weight, inputs);
        }
        for (int64_t i = 0; i < inputs; ++i)
          out[b * inputs + i] -= data<A>(styles)[b * inputs + i] * energy_gradient[i];
      }
    });
  }
  return {grad_x, grad_styles};
}

std::tuple<Tensor, Tensor> backward(Tensor grad_y, Tensor y, Tensor x, Tensor weight, Tensor styles,
                                    std::optional<Tensor> q, std::optional<Tensor> noise, std::optional<Tensor> bias,
                                    int64_t up, double slope, double gain, std::optional<double> clamp) {
  const ModulatedConv2d a{x, weight, styles, q, noise, bias, up, slope, gain, clamp};
  a.check();
  a.check_output(grad_y, y);
  if (a.batch() == 0)
    return {empty_channels_last({0, a.inputs(), x.size(2), x.size(3)}, x), torch::stable::empty_like(styles)};
  return dispatch("modulated_conv2d", x.scalar_type(),
                  [&](auto type) { return differentiate<decltype(type)>(a, grad_y, y); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CPU, m) {
  m.impl("modulated_conv2d", TORCH_BOX(&forward));
  m.impl("modulated_conv2d_backward", TORCH_BOX(&backward));
}

}  // namespace legato
