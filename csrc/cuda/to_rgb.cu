// to_rgb on CUDA: x is read once, channels last, and the running image is upsampled on the way to the one write.
//
// The gradient reads x once more and writes grad_x; sums over pixels for the styles go
// through a partial sum of each block, added in a fixed order that depends on the size of a sample alone.

#include "check.h"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "cuda/to_rgb.cuh"
#include "math/fir.h"
#include "to_rgb.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>

namespace legato {
namespace {

using torch::headeronly::MemoryFormat;
using torch::stable::contiguous;
using namespace rgb;

constexpr int kSumColumns = 32, kSumRows = 8;

// The upsampled image [H/2,W/2] at one pixel; zeros outside
template <typename A>
__device__ __forceinline__ A upsampled(const A* image, int32_t row, int32_t column, const Plan& plan) {
  const int32_t height = plan.height / 2, width = plan.width / 2;
  const UpsampleTaps y = upsample_taps(row), x = upsample_taps(column);
  const auto at_row = [&](int32_t r) {
    const A near = image[r * width + x.near];
    const A far = x.far >= 0 && x.far < width ? image[r * width + x.far] : A(0);
    return A(0.75) * near + A(0.25) * far;
  };
  const A far = y.far >= 0 && y.far < height ? at_row(y.far) : A(0);
  return A(0.75) * at_row(y.near) + A(0.25) * far;
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads, 2)
    project(Accumulator<T>* __restrict__ rgb,           // [B,3,H,W]
            const T* __restrict__ x,                    // [B,H,W,I]
            const T* __restrict__ weight,               // [3,I]
            const Accumulator<T>* __restrict__ styles,  // [B,I]
            const T* __restrict__ bias,                 // [3] or null
            const Accumulator<T>* __restrict__ image,   // [B,3,H/2,W/2] or null
            Accumulator<T> bound, Plan plan) {
  using A = Accumulator<T>;
  using L = Lanes<T, kVector>;
  Channel<A>* channels = &shared_memory<Channel<A>>();
  const int64_t sample = blockIdx.x / plan.parts;
  fetch_channels<L>(channels, weight, styles + sample * plan.channels, plan);
  const L lanes;
  const T* own = x + sample * plan.pixels * plan.channels;
  for (int32_t tile = blockIdx.x % plan.parts; tile < plan.tiles; tile += plan.parts) {
    A sums[kColors];
    lanes.project(sums, own, channels, plan, tile);
    const int32_t at = lanes.pixel(tile, lanes.share);
    if (at >= plan.pixels) continue;
    const int32_t row = at / plan.width, column = at % plan.width;
#pragma unroll
    for (int o = 0; o < kColors; ++o) {
      const A value = sums[o] + (bias == nullptr ? A(0) : static_cast<A>(bias[o]));
      const A below =
          bound < value ? bound : value;  // each choice gives its second operand where it cannot compare: NaN
      A result = -bound > below ? -bound : below;
      if (image != nullptr) result += upsampled(image + (sample * kColors + o) * (plan.pixels / 4), row, column, plan);
      rgb[(sample * kColors + o) * plan.pixels + at] = result;
    }
  }
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads, 2) differentiate(T* __restrict__ grad_x,                     // [B,H,W,I]
                                                             Accumulator<T>* __restrict__ partial,       // [B,parts,I]
                                                             const Accumulator<T>* __restrict__ grad,    // [B,3,H,W]
                                                             const T* __restrict__ x,                    // [B,H,W,I]
                                                             const T* __restrict__ weight,               // [3,I]
                                                             const Accumulator<T>* __restrict__ styles,  // [B,I]
                                                             const T* __restrict__ bias,                 // [3] or null
                                                             Accumulator<T> bound, bool clamped, Plan plan) {
  using A = Accumulator<T>;
  using L = Lanes<T, kVector>;
  Channel<A>* channels = &shared_memory<Channel<A>>();
  A* sums = reinterpret_cast<A*>(channels + plan.padded);  // [kWarps][padded], each entry of one lane
  const int64_t sample = blockIdx.x / plan.parts;
  for (int i = static_cast<int>(threadIdx.x); i < kWarps * plan.padded; i += kThreads)
    sums[i] = A(0);
  fetch_channels<L>(channels, weight, styles + sample * plan.channels, plan);
  const L lanes;
  const int64_t first = sample * plan.pixels * plan.channels;
  for (int32_t tile = blockIdx.x % plan.parts; tile < plan.tiles; tile += plan.parts) {
    const int32_t at = lanes.pixel(tile, lanes.share);
    A own[kColors];
#pragma unroll
    for (int o = 0; o < kColors; ++o)
      own[o] = at < plan.pixels ? grad[(sample * kColors + o) * plan.pixels + at] : A(0);
    if (clamped) {
      A values[kColors];
      lanes.project(values, x + first, channels, plan, tile);
#pragma unroll
      for (int o = 0; o < kColors; ++o) {
        const A value = values[o] + (bias == nullptr ? A(0) : static_cast<A>(bias[o]));
        if (value >= bound || value <= -bound) own[o] = A(0);
      }
    }
    A shared[kColors][kShare];  // of the group's pixels
#pragma unroll
    for (int o = 0; o < kColors; ++o) {
#pragma unroll
      for (int p = 0; p < kShare; ++p)
        shared[o][p] = __shfl_sync(kAllLanes, own[o], lanes.group * kShare + p);
    }
    for (int chunk = 0; chunk * L::kChunk < plan.channels; ++chunk) {
      Vector<T, kVector> values[kShare];
      lanes.load(values, x + first, plan, tile, chunk);
      Channel<A> column[kVector];
      A products[kVector] = {};
#pragma unroll
      for (int v = 0; v < kVector; ++v)
        column[v] = channels[lanes.slot(chunk, v)];
#pragma unroll
      for (int p = 0; p < kShare; ++p) {
        Vector<T, kVector> out;
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          A pulled = 0;
#pragma unroll
          for (int o = 0; o < kColors; ++o)
            pulled += column[v].weight[o] * shared[o][p];
          products[v] += pulled * static_cast<A>(values[p].values[v]);
          out.values[v] = static_cast<T>(pulled * column[v].style);
        }
        const int32_t to = lanes.pixel(tile, p), channel = lanes.first_channel(chunk);
        if (to < plan.pixels && channel < plan.channels)
          *reinterpret_cast<Vector<T, kVector>*>(grad_x + first + int64_t{to} * plan.channels + channel) = out;
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
#pragma unroll
        for (int bit = kShare; bit < kWarp; bit *= 2)
          products[v] += __shfl_xor_sync(kAllLanes, products[v], bit);
        if (lanes.group == 0) sums[lanes.warp * plan.padded + lanes.slot(chunk, v)] += products[v];
      }
    }
  }
  __syncthreads();
  for (int slot = static_cast<int>(threadIdx.x); slot < plan.padded; slot += kThreads) {
    A total = 0;
    for (int warp = 0; warp < kWarps; ++warp)
      total += sums[warp * plan.padded + slot];
    const int channel = L::channel_of(slot);
    if (channel < plan.channels) partial[int64_t{blockIdx.x} * plan.channels + channel] = total;
  }
}

// Sums over the parts of each sample; a block for 32 channels of one
template <typename A>
__global__ void __launch_bounds__(kSumColumns* kSumRows) add_parts(A* __restrict__ grad_styles,    // [B,I]
                                                                   const A* __restrict__ partial,  // [B,parts,I]
                                                                   int32_t channels, int32_t parts, int32_t blocks) {
  using Sums = A[kSumRows][kSumColumns];
  Sums& sums = shared_memory<Sums>();
  const int column = static_cast<int>(threadIdx.x) % kSumColumns, row = static_cast<int>(threadIdx.x) / kSumColumns;
  const int64_t sample = blockIdx.x / blocks;
  const int32_t channel = static_cast<int32_t>(blockIdx.x % blocks) * kSumColumns + column;
  A sum = 0;
  if (channel < channels) {
    for (int32_t part = row; part < parts; part += kSumRows)
      sum += partial[(sample * parts + part) * channels + channel];
  }
  sums[row][column] = sum;
  __syncthreads();
  if (row > 0 || channel >= channels) return;
  for (int i = 1; i < kSumRows; ++i)
    sum += sums[i][column];
  grad_styles[sample * channels + channel] = sum;
}

// The adjoint of the upsampling, one thread a pixel of the image
template <typename A>
__global__ void __launch_bounds__(kThreads) downsample(A* __restrict__ grad_image,  // [B,3,H/2,W/2]
                                                       const A* __restrict__ grad,  // [B,3,H,W]
                                                       int64_t count, Plan plan) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int32_t height = plan.height / 2, width = plan.width / 2;
  const int32_t row = static_cast<int32_t>(i / width % height), column = static_cast<int32_t>(i % width);
  const A* plane = grad + i / (int64_t{height} * width) * plan.pixels;
  A rows[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int32_t y = 2 * row - 1 + r;
    const auto at = [&](int32_t x) {
      const bool inside = y >= 0 && y < plan.height && x >= 0 && x < plan.width;
      return inside ? plane[int64_t{y} * plan.width + x] : A(0);
    };
    const int32_t x = 2 * column;
    rows[r] = low_pass(at(x - 1), at(x), at(x + 1), at(x + 2));
  }
  grad_image[i] = low_pass(rows[0], rows[1], rows[2], rows[3]);
}

// Calls f(constant) with how many channels a lane loads at once: 16 bytes of them if x allows it.
template <typename T, typename F>
void with_vector(const Tensor& x, const F& f) {
  constexpr int kVector = 16 / sizeof(T);
  if (x.size(1) % kVector == 0 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0)
    f(std::integral_constant<int, kVector>{});
  else
    f(std::integral_constant<int, 1>{});
}

struct Launch {
  ToRgb a;
  Tensor x, weight, styles;
  const std::optional<Tensor> bias;

  explicit Launch(const ToRgb& arguments)
      : a(arguments),
        x(contiguous(a.x, MemoryFormat::ChannelsLast)),
        weight(contiguous(a.weight)),
        styles(contiguous(a.styles)),
        bias(a.bias ? std::optional(contiguous(*a.bias)) : std::nullopt) {
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 4;
    STD_TORCH_CHECK(a.height() * a.width() <= kMost, ToRgb::kOp, ": x has to have at most ", kMost, " pixels");
  }

  Plan plan(int vector) const {
    const int32_t chunk = kShare * vector;
    const auto pixels = static_cast<int32_t>(a.height() * a.width()), tiles = divide_up(pixels, kTile);
    const auto channels = static_cast<int32_t>(a.channels());
    return {static_cast<int32_t>(a.height()),
            static_cast<int32_t>(a.width()),
            channels,
            divide_up(channels, chunk) * chunk,
            pixels,
            tiles,
            tiles < kMostParts ? tiles : kMostParts};
  }

  unsigned blocks(const Plan& plan) const { return static_cast<unsigned>(a.batch() * plan.parts); }

  template <typename A>
  A bound() const {
    return static_cast<A>(a.clamp.value_or(std::numeric_limits<double>::infinity()));
  }

  template <typename T>
  const T* bias_data() const {
    return bias ? data<T>(*bias) : nullptr;
  }

  void check_shared(const Device& device, size_t bytes) const {
    STD_TORCH_CHECK(bytes <= static_cast<size_t>(device.shared_bytes_per_block()), ToRgb::kOp, ": x has too many ",
                    "channels for this device; got ", a.channels());
  }
};

Tensor forward(Tensor x, Tensor weight, Tensor styles, std::optional<Tensor> bias, std::optional<Tensor> image_in,
               std::optional<double> clamp) {
  const ToRgb a{x, weight, styles, bias, image_in, clamp};
  a.check();
  const Device device(ToRgb::kOp, x);
  const Launch launch(a);
  const std::optional<Tensor> image = image_in ? std::optional(contiguous(*image_in)) : std::nullopt;
  const Tensor rgb = torch::stable::empty(a.output_shape(), styles.scalar_type(), std::nullopt, x.device());
  dispatch(ToRgb::kOp, x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = Accumulator<T>;
    with_vector<T>(launch.x, [&](auto vector) {
      const Plan plan = launch.plan(vector());
      const size_t bytes = plan.padded * sizeof(Channel<A>);
      launch.check_shared(device, bytes);
      device.launch("project", project<T, vector()>, launch.blocks(plan), kThreads, bytes, mutable_data<A>(rgb),
                    data<T>(launch.x), data<T>(launch.weight), data<A>(launch.styles), launch.bias_data<T>(),
                    image ? data<A>(*image) : nullptr, launch.bound<A>(), plan);
    });
  });
  return rgb;
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_in, Tensor x, Tensor weight, Tensor styles,
                                            std::optional<Tensor> bias, std::optional<double> clamp, bool with_image) {
  const ToRgb a{x, weight, styles, bias, std::nullopt, clamp};
  a.check();
  a.check_gradient(grad_in, with_image);
  const Device device(ToRgb::kOp, x);
  const Launch launch(a);
  const Tensor grad = contiguous(grad_in);
  const ScalarType precise = styles.scalar_type();
  const auto empty = [&](auto shape, ScalarType dtype) {
    return torch::stable::empty(shape, dtype, std::nullopt, x.device());
  };
  const Tensor grad_x =
      torch::stable::empty(std::array<int64_t, 4>{a.batch(), a.channels(), a.height(), a.width()}, x.scalar_type(),
                           std::nullopt, x.device(), std::nullopt, MemoryFormat::ChannelsLast);
  const Tensor grad_styles = empty(std::array<int64_t, 2>{a.batch(), a.channels()}, precise);
  const Tensor grad_image =
      with_image ? empty(std::array<int64_t, 4>{a.batch(), kColors, a.height() / 2, a.width() / 2}, precise)
                 : empty(std::array<int64_t, 1>{0}, precise);
  dispatch(ToRgb::kOp, x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = Accumulator<T>;
    with_vector<T>(launch.x, [&](auto vector) {
      const Plan plan = launch.plan(vector());
      const Tensor partial = empty(std::array<int64_t, 3>{a.batch(), plan.parts, a.channels()}, precise);
      const size_t bytes = plan.padded * (sizeof(Channel<A>) + kWarps * sizeof(A));
      launch.check_shared(device, bytes);
      device.launch("differentiate", differentiate<T, vector()>, launch.blocks(plan), kThreads, bytes,
                    mutable_data<T>(grad_x), mutable_data<A>(partial), data<A>(grad), data<T>(launch.x),
                    data<T>(launch.weight), data<A>(launch.styles), launch.bias_data<T>(), launch.bound<A>(),
                    clamp.has_value(), plan);
      const int32_t blocks = divide_up(plan.channels, kSumColumns);
      device.launch("add_parts", add_parts<A>, static_cast<unsigned>(a.batch() * blocks), kSumColumns * kSumRows,
                    kSumColumns * kSumRows * sizeof(A), mutable_data<A>(grad_styles), data<A>(partial), plan.channels,
                    plan.parts, blocks);
      if (with_image) {
        const int64_t count = grad_image.numel();
        device.launch("downsample", downsample<A>, static_cast<unsigned>(divide_up<int64_t>(count, kThreads)), kThreads,
                      0, mutable_data<A>(grad_image), data<A>(grad), count, plan);
      }
    });
  });
  return {grad_x, grad_styles, grad_image};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CUDA, m) {
  m.impl("to_rgb", TORCH_BOX(&forward));
  m.impl("to_rgb_backward", TORCH_BOX(&backward));
}

}  // namespace legato
