// to_rgb on the CPU: one pass over x, a row of pixels at a time, which leaves each row finished: projected to three
// colors, clamped, the upsampled image added. The backward pass reads x once as well.

#include "to_rgb.h"
#include "check.h"
#include "cpu/common.h"
#include "cpu/convolution.h"
#include "cpu/vectors.h"
#include "math/fir.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace legato {
namespace {

using torch::stable::contiguous;
using torch::stable::new_empty;
using torch::stable::parallel_for;

constexpr int64_t kColors = ToRgb::kColors;
constexpr int64_t kPixels = 4;  // that are projected together

// The arguments in the precision of computation. Whole blocks of channels are in the order of Block, the rest is as it
// was: see arrange().
template <typename T>
struct Projection {
  using A = Accumulator<T>;
  int64_t height, width, channels;
  Tensor x;               // channels last
  std::vector<A> weight;  // [3, channels]
  std::vector<A> styles;  // [B, channels]
  std::vector<A> styled;  // [B, 3, channels], weight * styles
  std::array<A, kColors> bias = {};
  A bound;

  explicit Projection(const ToRgb& a)
      : height(a.height()),
        width(a.width()),
        channels(a.channels()),
        x(channels_last(a.x)),
        weight(kColors * channels),
        styles(a.batch() * channels),
        styled(a.batch() * kColors * channels),
        bound(static_cast<A>(a.clamp.value_or(std::numeric_limits<double>::infinity()))) {
    for (int64_t o = 0; o < kColors; ++o) {
      arrange(weight.data() + o * channels, data<T>(a.weight) + o * a.weight.stride(0), a.weight.stride(1));
      if (a.bias) bias[o] = static_cast<A>(data<T>(*a.bias)[o * a.bias->stride(0)]);
    }
    for (int64_t b = 0; b < a.batch(); ++b) {
      A* row = styles.data() + b * channels;
      arrange(row, data<A>(a.styles) + b * a.styles.stride(0), a.styles.stride(1));
      for (int64_t o = 0; o < kColors; ++o) {
        for (int64_t c = 0; c < channels; ++c)
          styled[(b * kColors + o) * channels + c] = weight[o * channels + c] * row[c];
      }
    }
  }

  int64_t rows_per_task() const { return legato::rows_per_task(width * channels); }
  int64_t whole() const { return channels / kBlock * kBlock; }
  const T* x_row(int64_t row) const { return data<T>(x) + row * width * channels; }
  const A* styled_of(int64_t sample) const { return styled.data() + sample * kColors * channels; }

 private:
  template <typename V>
  void arrange(A* to, const V* from, int64_t stride) const {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t source = c < whole() ? c / kBlock * kBlock + Block<T>::place(c % kBlock) : c;
      to[c] = static_cast<A>(from[source * stride]);
    }
  }
};

// out = styled x, the three colors `plane` values apart
template <typename T, typename A>
LEGATO_CLONES void project_row(A* __restrict__ out,           // [3, pixels]
                               const T* __restrict__ x,       // [pixels, channels]
                               const A* __restrict__ styled,  // [3, channels]
                               int64_t pixels, int64_t channels, int64_t plane) {
  const int64_t whole = channels / kBlock * kBlock;
  const A *red = styled, *green = styled + channels, *blue = styled + 2 * channels;
  int64_t count = 0;
  for (int64_t first = 0; first < pixels; first += count) {
    count = first + kPixels <= pixels ? kPixels : 1;
    const int64_t step = count == kPixels ? channels : 0;  // a single one is computed four times
    const T* pixel = x + first * channels;
    Vector<A> sums[kColors][kPixels] = {};
    for (int64_t c = 0; c < whole; c += kBlock) {
      Block<A> weight[kColors];
      weight[0].load(red + c);
      weight[1].load(green + c);
      weight[2].load(blue + c);
#pragma GCC unroll 4
      for (int64_t p = 0; p < kPixels; ++p) {
        Block<T> values;
        values.load(pixel + p * step + c);
#pragma GCC unroll 3
        for (int64_t o = 0; o < kColors; ++o) {
          sums[o][p] += values.lower * weight[o].lower;
          sums[o][p] += values.upper * weight[o].upper;
        }
      }
    }
#pragma GCC unroll 3
    for (int64_t o = 0; o < kColors; ++o) {
      A totals[kPixels];
      add_up(totals, sums[o][0], sums[o][1], sums[o][2], sums[o][3]);
      for (int64_t c = whole; c < channels; ++c) {
        for (int64_t p = 0; p < kPixels; ++p)
          totals[p] += static_cast<A>(pixel[p * step + c]) * styled[o * channels + c];
      }
      A* to = out + o * plane + first;
      if (count == kPixels)
        std::memcpy(to, totals, sizeof(totals));
      else
        *to = totals[0];
    }
  }
}

// NaN stays NaN.
template <typename A>
LEGATO_CLONES void clamp_row(A* row, A bias, A bound, int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p) {
    const A value = row[p] + bias, below = bound < value ? bound : value;
    row[p] = -bound > below ? -bound : below;
  }
}

// row += the upsampled image at this row. `between` is scratch whose first and last values are the zeros around it.
template <typename A>
LEGATO_CLONES void add_upsampled(A* __restrict__ row,         // [2 * pixels]
                                 A* __restrict__ between,     // [pixels + 2]
                                 const A* __restrict__ near,  // [pixels], a row of the image
                                 const A* __restrict__ far,   // [pixels] or null: outside
                                 int64_t pixels) {
  A* mixed = between + 1;
  for (int64_t i = 0; i < pixels; ++i)
    mixed[i] = A(0.75) * near[i];
  if (far) {
    for (int64_t i = 0; i < pixels; ++i)
      mixed[i] += A(0.25) * far[i];
  }
  for (int64_t i = 0; i < pixels; ++i) {
    row[2 * i] += A(0.75) * mixed[i] + A(0.25) * mixed[i - 1];
    row[2 * i + 1] += A(0.75) * mixed[i] + A(0.25) * mixed[i + 1];
  }
}

// The gradient does not pass where the value reached the bound.
template <typename A>
LEGATO_CLONES void mask_row(A* __restrict__ grad, const A* __restrict__ projected, A bias, A bound, int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p) {
    const A value = projected[p] + bias;
    grad[p] = value >= bound || value <= -bound ? A(0) : grad[p];
  }
}

// grad_x = styles * h, sum = sum over pixels of h * x, with h = weight^T grad
template <typename T, typename A>
LEGATO_CLONES void unproject_row(T* __restrict__ grad_x,        // [pixels, channels]
                                 A* __restrict__ sum,           // [channels], as they lie in memory
                                 const A* __restrict__ grad,    // [3, pixels]
                                 const T* __restrict__ x,       // [pixels, channels]
                                 const A* __restrict__ weight,  // [3, channels]
                                 const A* __restrict__ styles,  // [channels]
                                 int64_t pixels, int64_t channels) {
  const int64_t whole = channels / kBlock * kBlock;
  for (int64_t c = 0; c < whole; c += kBlock) {
    Block<A> red, green, blue, style, total = {};
    red.load(weight + c);
    green.load(weight + channels + c);
    blue.load(weight + 2 * channels + c);
    style.load(styles + c);
    for (int64_t p = 0; p < pixels; ++p) {
      const A r = grad[p], g = grad[pixels + p], b = grad[2 * pixels + p];
      const Vector<A> lower = red.lower * r + green.lower * g + blue.lower * b;
      const Vector<A> upper = red.upper * r + green.upper * g + blue.upper * b;
      Block<T> values;
      values.load(x + p * channels + c);
      total.lower += lower * values.lower;
      total.upper += upper * values.upper;
      values.lower = lower * style.lower;
      values.upper = upper * style.upper;
      values.store(grad_x + p * channels + c);
    }
    for (int64_t k = 0; k < kBlock; ++k)
      sum[c + Block<T>::place(k)] = k < kLane ? total.lower[k] : total.upper[k - kLane];
  }
  for (int64_t c = whole; c < channels; ++c) {
    sum[c] = 0;
    for (int64_t p = 0; p < pixels; ++p) {
      const A h = weight[c] * grad[p] + weight[channels + c] * grad[pixels + p] +
                  weight[2 * channels + c] * grad[2 * pixels + p];
      sum[c] += h * static_cast<A>(x[p * channels + c]);
      grad_x[p * channels + c] = static_cast<T>(h * styles[c]);
    }
  }
}

// The adjoint of the upsampling at one row of the image, from four rows of the gradient.
template <typename A>
LEGATO_CLONES void downsample_row(A* __restrict__ out,      // [pixels]
                                  A* __restrict__ between,  // [2 * pixels + 2], its first and last values 0
                                  const A* __restrict__ a,  // [2 * pixels], as b, c, d
                                  const A* __restrict__ b, const A* __restrict__ c, const A* __restrict__ d,
                                  int64_t pixels) {
  for (int64_t i = 0; i < 2 * pixels; ++i)
    between[i + 1] = low_pass(a[i], b[i], c[i], d[i]);
  for (int64_t i = 0; i < pixels; ++i)
    out[i] = low_pass(between[2 * i], between[2 * i + 1], between[2 * i + 2], between[2 * i + 3]);
}

template <typename T>
Tensor project(const ToRgb& a) {
  using A = Accumulator<T>;
  const Projection<T> projection(a);
  const int64_t height = a.height(), width = a.width(), plane = height * width;
  const std::optional<Tensor> image = a.image ? std::optional(contiguous(*a.image)) : std::nullopt;
  const Tensor result = new_empty(a.styles, a.output_shape());
  parallel_for(0, a.batch() * height, projection.rows_per_task(), [&](int64_t begin, int64_t end) {
    std::vector<A> between(width / 2 + 2, A(0));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / height, row = i % height;
      A* out = mutable_data<A>(result) + sample * kColors * plane + row * width;
      project_row(out, projection.x_row(i), projection.styled_of(sample), width, projection.channels, plane);
      for (int64_t o = 0; o < kColors; ++o) {
        clamp_row(out + o * plane, projection.bias[o], projection.bound, width);
        if (!image) continue;
        const UpsampleTaps taps = upsample_taps(static_cast<int32_t>(row));
        const A* source = data<A>(*image) + (sample * kColors + o) * (plane / 4);
        const bool inside = taps.far >= 0 && taps.far < height / 2;
        add_upsampled(out + o * plane, between.data(), source + taps.near * (width / 2),
                      inside ? source + taps.far * (width / 2) : nullptr, width / 2);
      }
    }
  });
  return result;
}

// [B,3,H,W] -> [B,3,H/2,W/2]
template <typename A>
Tensor downsample(const Tensor& grad, const ToRgb& a) {
  const int64_t height = a.height() / 2, width = a.width() / 2;
  const Tensor result = new_empty(grad, Shape{a.batch(), kColors, height, width});
  const std::vector<A> zeros(2 * width, A(0));
  parallel_for(0, a.batch() * kColors * height, rows_per_task(8 * width), [&](int64_t begin, int64_t end) {
    std::vector<A> between(2 * width + 2, A(0));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = 2 * (i % height);
      const A* own = data<A>(grad) + (i / height * 2 * height + row) * 2 * width;
      const A* above = row > 0 ? own - 2 * width : zeros.data();
      const A* below = row + 2 < 2 * height ? own + 4 * width : zeros.data();
      downsample_row(mutable_data<A>(result) + i * width, between.data(), above, own, own + 2 * width, below, width);
    }
  });
  return result;
}

// With h = weight^T (grad where not clamped): grad_x = styles * h, grad_styles = sum over pixels of h * x. Sums go row
// by row into a buffer, so that they do not depend on the number of threads.
template <typename T>
std::tuple<Tensor, Tensor, Tensor> differentiate(const ToRgb& a, const Tensor& grad_in, bool with_image) {
  using A = Accumulator<T>;
  const Projection<T> projection(a);
  const int64_t batch = a.batch(), height = a.height(), width = a.width(), channels = a.channels();
  const int64_t plane = height * width;
  const Tensor grad = contiguous(grad_in);
  const Tensor grad_x = empty_channels_last({batch, channels, height, width}, a.x);
  std::vector<A> sums(batch * height * channels);
  parallel_for(0, batch * height, projection.rows_per_task(), [&](int64_t begin, int64_t end) {
    std::vector<A> own(kColors * width), projected(kColors * width);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / height;
      const A* from = data<A>(grad) + sample * kColors * plane + i % height * width;
      for (int64_t o = 0; o < kColors; ++o)
        std::copy_n(from + o * plane, width, own.data() + o * width);
      if (a.clamp) {
        project_row(projected.data(), projection.x_row(i), projection.styled_of(sample), width, channels, width);
        for (int64_t o = 0; o < kColors; ++o) {
          mask_row(own.data() + o * width, projected.data() + o * width, projection.bias[o], projection.bound, width);
        }
      }
      unproject_row(mutable_data<T>(grad_x) + i * width * channels, sums.data() + i * channels, own.data(),
                    projection.x_row(i), projection.weight.data(), projection.styles.data() + sample * channels, width,
                    channels);
    }
  });
  const Tensor grad_styles = new_empty(a.styles, std::array<int64_t, 2>{batch, channels});
  std::vector<double> totals(channels);
  for (int64_t b = 0; b < batch; ++b) {
    std::fill(totals.begin(), totals.end(), 0.0);
    for (int64_t i = b * height; i < (b + 1) * height; ++i) {
      for (int64_t c = 0; c < channels; ++c)
        totals[c] += sums[i * channels + c];
    }
    std::copy(totals.begin(), totals.end(), mutable_data<A>(grad_styles) + b * channels);
  }
  const Tensor grad_image = with_image ? downsample<A>(grad, a) : new_empty(grad, std::array<int64_t, 1>{0});
  return {grad_x, grad_styles, grad_image};
}

Tensor forward(Tensor x, Tensor weight, Tensor styles, std::optional<Tensor> bias, std::optional<Tensor> image,
               std::optional<double> clamp) {
  const ToRgb a{x, weight, styles, bias, image, clamp};
  a.check();
  return dispatch(ToRgb::kOp, x.scalar_type(), [&](auto type) { return project<decltype(type)>(a); });
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, Tensor x, Tensor weight, Tensor styles,
                                            std::optional<Tensor> bias, std::optional<double> clamp, bool with_image) {
  const ToRgb a{x, weight, styles, bias, std::nullopt, clamp};
  a.check();
  a.check_gradient(grad, with_image);
  return dispatch(ToRgb::kOp, x.scalar_type(),
                  [&](auto type) { return differentiate<decltype(type)>(a, grad, with_image); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CPU, m) {
  m.impl("to_rgb", TORCH_BOX(&forward));
  m.impl("to_rgb_backward", TORCH_BOX(&backward));
}

}  // namespace legato
