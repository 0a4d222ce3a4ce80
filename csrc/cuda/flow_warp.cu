// flow_warp on CUDA: one pass, one thread a pixel for all channels and the mask.
//
// The gradient to the image scatters, by float atomics or, deterministically, by integer ones (math/fixed_point.h); the
// gradient to the flow gathers. Floor: flow, image and results each moved once.

#include "check.h"
#include "cuda/launch.cuh"
#include "cuda/warp.cuh"
#include "flow_warp.h"
#include "math/fixed_point.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>

namespace legato {
namespace {

using torch::stable::contiguous;
using namespace warping;

constexpr const char* kOp = "flow_warp";

Tensor empty_like(const Tensor& like, std::array<int64_t, 4> shape, ScalarType dtype) {
  return torch::stable::empty(shape, dtype, std::nullopt, like.device());
}

template <Layout kLayout, typename T>
__global__ void __launch_bounds__(kTileSize, kBlocks<T>)
    warp(T* __restrict__ warped,                       // [B,C,H,W]
         T* __restrict__ valid,                        // [B,1,H,W]
         const T* __restrict__ image,                  // [B,C,H,W]
         const Accumulator<T>* __restrict__ flow,      // [B,2,H,W]
         const Accumulator<T>* __restrict__ backward,  // [B,2,H,W] or null
         bool boundaries, int32_t channels, Tiling tiling) {
  using A = Accumulator<T>;
  const Pixel pixel(tiling);
  if (!pixel.inside) return;
  const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane;
  const A* vectors = flow + pixel.sample * 2 * plane;
  const A* back = backward == nullptr ? nullptr : backward + pixel.sample * 2 * plane;
  const Motion<A> motion(vectors, pixel, tiling);
  T* out = warped + first + pixel.at;
  for_channels<kLayout>(image + first, channels, plane, motion.to, [&](int c, A nw, A ne, A sw, A se) {
    out[c * plane] = static_cast<T>(motion.to.blend(nw, ne, sw, se));
  });
  const bool seen = motion.visible(vectors, back, boundaries, pixel, tiling);
  valid[pixel.sample * plane + pixel.at] = static_cast<T>(seen ? A(1) : A(0));
}

// d(sample)/d(position) of each channel times its gradient, 0 across an axis on which the position was clamped
template <Layout kLayout, typename T>
__global__ void __launch_bounds__(kTileSize, kBlocks<T>) slope(Accumulator<T>* __restrict__ grad_flow,  // [B,2,H,W]
                                                               const T* __restrict__ grad,   // [B,C,H,W], planes
                                                               const T* __restrict__ image,  // [B,C,H,W]
                                                               const Accumulator<T>* __restrict__ flow,  // [B,2,H,W]
                                                               int32_t channels, Tiling tiling) {
  using A = Accumulator<T>;
  const Pixel pixel(tiling);
  if (!pixel.inside) return;
  const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane;
  const Motion<A> motion(flow + pixel.sample * 2 * plane, pixel, tiling);
  A x = 0, y = 0;
  for_channels<kLayout>(image + first, channels, plane, motion.to, [&](int c, A nw, A ne, A sw, A se) {
    const A g = static_cast<A>(grad[first + c * plane + pixel.at]);
    x += g * mix(ne - nw, se - sw, motion.to.down);
    y += g * mix(sw - nw, se - ne, motion.to.right);
  });
  A* out = grad_flow + pixel.sample * 2 * plane + pixel.at;
  out[0] = motion.to.inside_x ? x : A(0);
  out[plane] = motion.to.inside_y ? y : A(0);
}

// Calls add(offset in a plane, share of g) for the four pixels that a gradient g goes to.
template <typename A, typename F>
__device__ __forceinline__ void share(const Corners<A>& to, A g, const F& add) {
  const A below = g * to.down, above = g - below;
  const A above_right = above * to.right, below_right = below * to.right;
  add(to.nw, above - above_right);
  add(to.ne, above_right);
  add(to.sw, below - below_right);
  add(to.se, below_right);
}

template <typename T>
__global__ void __launch_bounds__(kTileSize, kBlocks<T>) scatter(Accumulator<T>* __restrict__ sums,  // [B,C,H,W], zeros
                                                                 const T* __restrict__ grad,         // [B,C,H,W]
                                                                 const Accumulator<T>* __restrict__ flow,  // [B,2,H,W]
                                                                 int32_t channels, Tiling tiling) {
  using A = Accumulator<T>;
  const Pixel pixel(tiling);
  if (!pixel.inside) return;
  const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane;
  const Motion<A> motion(flow + pixel.sample * 2 * plane, pixel, tiling);
  for (int32_t c = 0; c < channels; ++c) {
    A* to = sums + first + c * plane;
    share(motion.to, static_cast<A>(grad[first + c * plane + pixel.at]),
          [&](int32_t at, A value) { atomicAdd(to + at, value); });
  }
}

// Magnitudes as integers: they order as the values do, NaN above infinity.
template <typename A>
using Bits = std::conditional_t<std::is_same_v<A, double>, unsigned long long, unsigned>;

__device__ __forceinline__ unsigned magnitude(float value) {
  return __float_as_uint(value) & 0x7fffffffu;
}
__device__ __forceinline__ unsigned long long magnitude(double value) {
  return static_cast<unsigned long long>(__double_as_longlong(value)) & 0x7fffffffffffffffull;
}
__device__ __forceinline__ float of_magnitude(unsigned bits) {
  return __uint_as_float(bits);
}
__device__ __forceinline__ double of_magnitude(unsigned long long bits) {
  return __longlong_as_double(static_cast<long long>(bits));
}

// The largest magnitude of each sample's gradient, one thread a pixel
template <typename T>
__global__ void __launch_bounds__(kTileSize, kBlocks<T>)
    find_largest(Bits<Accumulator<T>>* __restrict__ largest,  // [B], zeros
                 const T* __restrict__ grad,                  // [B,C,H,W]
                 int32_t channels, Tiling tiling) {
  using A = Accumulator<T>;
  const Pixel pixel(tiling);
  const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane;
  Bits<A> most = 0;
  for (int32_t c = 0; pixel.inside && c < channels; ++c)
    most = max(most, magnitude(static_cast<A>(grad[first + c * plane + pixel.at])));
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2)
    most = max(most, __shfl_xor_sync(kAllLanes, most, bit));
  if (threadIdx.x % kWarp == 0) atomicMax(largest + pixel.sample, most);
}

template <typename T>
__global__ void __launch_bounds__(kTileSize, kBlocks<T>)
    scatter_fixed(unsigned long long* __restrict__ sums,             // [B,C,H,W], zeros
                  const T* __restrict__ grad,                        // [B,C,H,W]
                  const Accumulator<T>* __restrict__ flow,           // [B,2,H,W]
                  const Bits<Accumulator<T>>* __restrict__ largest,  // [B]
                  int32_t channels, Tiling tiling) {
  using A = Accumulator<T>;
  const Pixel pixel(tiling);
  if (!pixel.inside) return;
  const A most = of_magnitude(largest[pixel.sample]);
  if (!(most < std::numeric_limits<A>::infinity())) return;
  const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane;
  const double scale = fixed_point_scale(static_cast<double>(most), plane);
  const Motion<A> motion(flow + pixel.sample * 2 * plane, pixel, tiling);
  for (int32_t c = 0; c < channels; ++c) {
    unsigned long long* to = sums + first + c * plane;
    share(motion.to, static_cast<A>(grad[first + c * plane + pixel.at]), [&](int32_t at, A value) {
      const long long units = __double2ll_rn(static_cast<double>(value) * scale);
      atomicAdd(to + at, static_cast<unsigned long long>(units));
    });
  }
}

// Sums to results; one thread a pixel. A sample whose gradient holds NaN or infinity becomes NaN as a whole.
template <typename T>
__global__ void __launch_bounds__(kTileSize, kBlocks<T>)
    settle_fixed(T* __restrict__ result,                            // [B,C,H,W]
                 const unsigned long long* __restrict__ sums,       // [B,C,H,W]
                 const Bits<Accumulator<T>>* __restrict__ largest,  // [B]
                 int32_t channels, Tiling tiling) {
  using A = Accumulator<T>;
  const Pixel pixel(tiling);
  if (!pixel.inside) return;
  const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane + pixel.at;
  const A most = of_magnitude(largest[pixel.sample]);
  const bool finite = most < std::numeric_limits<A>::infinity();
  const double unit = finite ? 1.0 / fixed_point_scale(static_cast<double>(most), plane) : 1.0;
  for (int32_t c = 0; c < channels; ++c) {
    const auto units = static_cast<double>(static_cast<long long>(sums[first + c * plane]));
    const A value = finite ? static_cast<A>(units * unit) : std::numeric_limits<A>::quiet_NaN();
    result[first + c * plane] = static_cast<T>(value);
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileSize, kBlocks<T>) settle(T* __restrict__ result,                   // [B,C,H,W]
                                                                const Accumulator<T>* __restrict__ sums,  // [B,C,H,W]
                                                                int32_t channels, Tiling tiling) {
  const Pixel pixel(tiling);
  if (!pixel.inside) return;
  const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane + pixel.at;
  for (int32_t c = 0; c < channels; ++c)
    result[first + c * plane] = static_cast<T>(sums[first + c * plane]);
}

std::tuple<Tensor, Tensor> forward(Tensor image, Tensor flow_in, std::optional<Tensor> backward_in, bool boundaries) {
  check_warp(Checker{kOp, image}, "image", image, flow_in, backward_in);
  const WarpShape shape(image);
  const Tiling tiling(shape);
  const Device device(kOp, image);
  const Source source(image);
  const Tensor flow = contiguous(flow_in);
  const std::optional<Tensor> backward = backward_in ? std::optional(contiguous(*backward_in)) : std::nullopt;
  const Tensor warped = empty_like(image, shape.planes(shape.channels), image.scalar_type());
  const Tensor valid = empty_like(image, shape.planes(1), image.scalar_type());
  dispatch(kOp, image.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = Accumulator<T>;
    source.with_layout([&](auto layout) {
      device.launch("warp", warp<layout(), T>, tiling.grid(kOp, shape), kTileSize, 0, mutable_data<T>(warped),
                    mutable_data<T>(valid), data<T>(source.tensor), data<A>(flow),
                    backward ? data<A>(*backward) : nullptr, boundaries, static_cast<int32_t>(shape.channels), tiling);
    });
  });
  return {warped, valid};
}

template <typename T>
Tensor scatter_deterministic(const Device& device, const WarpShape& shape, const Tensor& grad, const Tensor& flow) {
  using A = Accumulator<T>;
  const Tiling tiling(shape);
  const dim3 grid = tiling.grid(kOp, shape);
  const auto channels = static_cast<int32_t>(shape.channels);
  const Tensor result = empty_like(grad, shape.planes(shape.channels), grad.scalar_type());
  const Tensor sums = empty_like(grad, shape.planes(shape.channels), ScalarType::Long);
  const Tensor largest = empty_like(grad, {shape.batch, 1, 1, 1}, accumulator_dtype(grad.scalar_type()));
  device.zero(sums.mutable_data_ptr(), sums.numel() * sizeof(int64_t));
  device.zero(largest.mutable_data_ptr(), largest.numel() * sizeof(A));
  auto* bits = mutable_data<Bits<A>>(largest);
  auto* units = mutable_data<unsigned long long>(sums);
  device.launch("find_largest", find_largest<T>, grid, kTileSize, 0, bits, data<T>(grad), channels, tiling);
  device.launch("scatter_fixed", scatter_fixed<T>, grid, kTileSize, 0, units, data<T>(grad), data<A>(flow), bits,
                channels, tiling);
  device.launch("settle_fixed", settle_fixed<T>, grid, kTileSize, 0, mutable_data<T>(result), units, bits, channels,
                tiling);
  return result;
}

template <typename T>
Tensor scatter_atomic(const Device& device, const WarpShape& shape, const Tensor& grad, const Tensor& flow) {
  using A = Accumulator<T>;
  const Tiling tiling(shape);
  const dim3 grid = tiling.grid(kOp, shape);
  const auto channels = static_cast<int32_t>(shape.channels);
  const Tensor sums = empty_like(grad, shape.planes(shape.channels), accumulator_dtype(grad.scalar_type()));
  device.zero(sums.mutable_data_ptr(), sums.numel() * sizeof(A));
  device.launch("scatter", scatter<T>, grid, kTileSize, 0, mutable_data<A>(sums), data<T>(grad), data<A>(flow),
                channels, tiling);
  if constexpr (std::is_same_v<T, A>) return sums;
  const Tensor result = empty_like(grad, shape.planes(shape.channels), grad.scalar_type());
  device.launch("settle", settle<T>, grid, kTileSize, 0, mutable_data<T>(result), data<A>(sums), channels, tiling);
  return result;
}

Tensor backward_image(Tensor grad_warped, Tensor flow_in, bool deterministic) {
  check_warp(Checker{kOp, grad_warped}, "grad_warped", grad_warped, flow_in);
  const WarpShape shape(grad_warped);
  const Device device(kOp, grad_warped);
  const Tensor grad = contiguous(grad_warped), flow = contiguous(flow_in);
  return dispatch(kOp, grad.scalar_type(), [&](auto type) {
    using T = decltype(type);
    return deterministic ? scatter_deterministic<T>(device, shape, grad, flow)
                         : scatter_atomic<T>(device, shape, grad, flow);
  });
}

Tensor backward_flow(Tensor grad_warped, Tensor image, Tensor flow_in) {
  const Checker check{kOp, image};
  check_warp(check, "image", image, flow_in);
  const WarpShape shape(image);
  check.tensor("grad_warped", grad_warped, {shape.batch, shape.channels, shape.height, shape.width}, "[B,C,H,W]",
               image.scalar_type());
  const Tiling tiling(shape);
  const Device device(kOp, image);
  const Source source(image);
  const Tensor grad = contiguous(grad_warped), flow = contiguous(flow_in);
  const Tensor result = empty_like(flow, shape.planes(2), flow.scalar_type());
  dispatch(kOp, image.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = Accumulator<T>;
    source.with_layout([&](auto layout) {
      device.launch("slope", slope<layout(), T>, tiling.grid(kOp, shape), kTileSize, 0, mutable_data<A>(result),
                    data<T>(grad), data<T>(source.tensor), data<A>(flow), static_cast<int32_t>(shape.channels), tiling);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CUDA, m) {
  m.impl("flow_warp", TORCH_BOX(&forward));
  m.impl("flow_warp_backward_image", TORCH_BOX(&backward_image));
  m.impl("flow_warp_backward_flow", TORCH_BOX(&backward_flow));
}

}  // namespace legato
