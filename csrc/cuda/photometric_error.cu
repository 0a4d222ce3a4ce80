// photometric_error on CUDA: warp, masks and error in one pass. Each tile leaves its sum and its count of visible
// pixels; a second, small launch adds them in one order, so that an error is the same in every run and every batch.

#include "check.h"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "cuda/warp.cuh"
#include "flow_warp.h"
#include "math/penalty.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>

namespace legato {
namespace {

using torch::stable::contiguous;
using namespace warping;

constexpr const char* kOp = "photometric_error";
constexpr int kReducers = 256;                  // threads that add the tiles of a sample
constexpr int kCountedPixels = 16 * kTileSize;  // of a block that counts visible pixels

Tensor empty_like(const Tensor& like, std::array<int64_t, 4> shape, ScalarType dtype) {
  return torch::stable::empty(shape, dtype, std::nullopt, like.device());
}

// Which penalty is the same for all threads: a branch costs less than three times the kernels.
template <typename A>
__device__ __forceinline__ A penalize(Penalty kind, A difference, A epsilon) {
  if (kind == Penalty::kL1) return rho<Penalty::kL1>(difference, epsilon);
  if (kind == Penalty::kL2) return rho<Penalty::kL2>(difference, epsilon);
  return rho<Penalty::kCharbonnier>(difference, epsilon);
}

template <typename A>
__device__ __forceinline__ A penalty_slope(Penalty kind, A difference, A epsilon) {
  if (kind == Penalty::kL1) return rho_derivative<Penalty::kL1>(difference, epsilon);
  if (kind == Penalty::kL2) return rho_derivative<Penalty::kL2>(difference, epsilon);
  return rho_derivative<Penalty::kCharbonnier>(difference, epsilon);
}

template <int kThreads>
struct Sums {
  double2 of_warp[kThreads / kWarp];
};

// The sums over all threads of a block, on its first thread, always in the same order.
template <int kThreads, typename V>
__device__ __forceinline__ double2 add_up(V penalty, V visible) {
  auto& shared = shared_memory<Sums<kThreads>>();
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    penalty += __shfl_down_sync(kAllLanes, penalty, distance);
    visible += __shfl_down_sync(kAllLanes, visible, distance);
  }
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % kWarp == 0)
    shared.of_warp[thread / kWarp] = make_double2(static_cast<double>(penalty), static_cast<double>(visible));
  __syncthreads();
  double2 sum = make_double2(0, 0);
  if (thread == 0) {
    for (const double2& part : shared.of_warp) {
      sum.x += part.x;
      sum.y += part.y;
    }
  }
  return sum;
}

template <Layout kLayout, typename T>
__global__ void __launch_bounds__(kTileSize, kBlocks<T>)
    measure(double2* __restrict__ partial,                // [B,tiles] (penalty, visible pixels)
            T* __restrict__ warped,                       // [B,C,H,W]
            T* __restrict__ valid,                        // [B,1,H,W]
            const T* __restrict__ image,                  // [B,C,H,W]
            const T* __restrict__ target,                 // [B,C,H,W], planes
            const Accumulator<T>* __restrict__ flow,      // [B,2,H,W]
            const Accumulator<T>* __restrict__ backward,  // [B,2,H,W] or null
            bool boundaries, Penalty kind, Accumulator<T> epsilon, int32_t channels, Tiling tiling) {
  using A = Accumulator<T>;
  const Pixel pixel(tiling);
  A penalty = 0;
  bool seen = false;
  if (pixel.inside) {
    const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane;
    const A* vectors = flow + pixel.sample * 2 * plane;
    const A* back = backward == nullptr ? nullptr : backward + pixel.sample * 2 * plane;
    const Motion<A> motion(vectors, pixel, tiling);
    T* out = warped + first + pixel.at;
    const T* wanted = target + first + pixel.at;
    for_channels<kLayout>(image + first, channels, plane, motion.to, [&](int c, A nw, A ne, A sw, A se) {
      const A value = motion.to.blend(nw, ne, sw, se);
      out[c * plane] = static_cast<T>(value);
      penalty += penalize(kind, value - static_cast<A>(wanted[c * plane]), epsilon);
    });
    seen = motion.visible(vectors, back, boundaries, pixel, tiling);
    valid[pixel.sample * plane + pixel.at] = static_cast<T>(seen ? A(1) : A(0));
  }
  const double2 sum = add_up<kTileSize>(seen ? penalty : A(0), seen ? A(1) : A(0));
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block a sample
template <typename A>
__global__ void __launch_bounds__(kReducers) conclude(A* __restrict__ error,                // [B]
                                                      const double2* __restrict__ partial,  // [B,tiles]
                                                      int32_t channels, int32_t tiles) {
  const double2* own = partial + int64_t{blockIdx.x} * tiles;
  double2 sum = make_double2(0, 0);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < tiles; i += kReducers) {
    sum.x += own[i].x;
    sum.y += own[i].y;
  }
  sum = add_up<kReducers>(sum.x, sum.y);
  if (threadIdx.x == 0) error[blockIdx.x] = static_cast<A>(sum.x / error_divisor(static_cast<double>(channels), sum.y));
}

// Visible pixels of each part of a sample
template <typename T>
__global__ void __launch_bounds__(kTileSize)
    count_visible(double2* __restrict__ partial,  // [B,parts] (0, visible pixels)
                  const T* __restrict__ valid,    // [B,1,H,W]
                  int64_t plane, int32_t parts) {
  const int64_t sample = blockIdx.x / parts, begin = int64_t{blockIdx.x % parts} * kCountedPixels;
  float count = 0;
#pragma unroll
  for (int i = 0; i < kCountedPixels / kTileSize; ++i) {
    const int64_t at = begin + i * kTileSize + threadIdx.x;
    if (at < plane && static_cast<Accumulator<T>>(valid[sample * plane + at]) > 0) count += 1;
  }
  const double2 sum = add_up<kTileSize>(0.0f, count);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block a sample
template <typename A>
__global__ void __launch_bounds__(kReducers)
    find_scale(A* __restrict__ scale,                // [B], grad_error / (C * visible pixels)
               const A* __restrict__ grad_error,     // [B]
               const double2* __restrict__ partial,  // [B,parts]
               int32_t channels, int32_t parts) {
  double2 sum = make_double2(0, 0);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < parts; i += kReducers)
    sum.y += partial[int64_t{blockIdx.x} * parts + i].y;
  sum = add_up<kReducers>(sum.x, sum.y);
  if (threadIdx.x == 0) {
    const double whole = static_cast<double>(grad_error[blockIdx.x]);
    scale[blockIdx.x] = static_cast<A>(whole / error_divisor(static_cast<double>(channels), sum.y));
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileSize)
    differentiate(T* __restrict__ grad,                      // [B,C,H,W]
                  const T* __restrict__ warped,              // [B,C,H,W]
                  const T* __restrict__ target,              // [B,C,H,W]
                  const T* __restrict__ valid,               // [B,1,H,W]
                  const Accumulator<T>* __restrict__ scale,  // [B]
                  Penalty kind, Accumulator<T> epsilon, int32_t channels, Tiling tiling) {
  using A = Accumulator<T>;
  const Pixel pixel(tiling);
  if (!pixel.inside) return;
  const int64_t plane = int64_t{tiling.height} * tiling.width, first = pixel.sample * channels * plane + pixel.at;
  const bool seen = static_cast<A>(valid[pixel.sample * plane + pixel.at]) > A(0);
  const A factor = scale[pixel.sample];
  for (int32_t c = 0; c < channels; ++c) {
    const A difference = static_cast<A>(warped[first + c * plane]) - static_cast<A>(target[first + c * plane]);
    const A value = factor * penalty_slope(kind, difference, epsilon);
    grad[first + c * plane] = static_cast<T>(seen ? value : A(0));
  }
}

void check_penalty(int64_t penalty, double epsilon) {
  STD_TORCH_CHECK(penalty >= 0 && penalty <= static_cast<int64_t>(Penalty::kCharbonnier), kOp,
                  ": penalty has to be 0 (l1), 1 (l2) or 2 (charbonnier); got ", penalty);
  STD_TORCH_CHECK(epsilon > 0 && std::isfinite(epsilon), kOp, ": epsilon has to be positive and finite; got ", epsilon);
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor image, Tensor target_in, Tensor flow_in,
                                           std::optional<Tensor> backward_in, bool boundaries, int64_t penalty,
                                           double epsilon) {
  const Checker check{kOp, image};
  check_warp(check, "image", image, flow_in, backward_in);
  const WarpShape shape(image);
  const ScalarType dtype = image.scalar_type(), precise = accumulator_dtype(dtype);
  check.tensor("target", target_in, {shape.batch, shape.channels, shape.height, shape.width}, "[B,C,H,W]", dtype);
  check_penalty(penalty, epsilon);
  const Tiling tiling(shape);
  const dim3 grid = tiling.grid(kOp, shape);
  const Device device(kOp, image);
  const Source source(image);
  const Tensor target = contiguous(target_in), flow = contiguous(flow_in);
  const std::optional<Tensor> backward = backward_in ? std::optional(contiguous(*backward_in)) : std::nullopt;
  const Tensor warped = empty_like(image, shape.planes(shape.channels), dtype);
  const Tensor valid = empty_like(image, shape.planes(1), dtype);
  const Tensor partial = empty_like(image, {shape.batch, tiling.tiles(), 1, 2}, ScalarType::Double);
  const Tensor error = torch::stable::empty(std::array<int64_t, 1>{shape.batch}, precise, std::nullopt, image.device());
  const auto channels = static_cast<int32_t>(shape.channels);
  const auto kind = static_cast<Penalty>(penalty);
  auto* parts = static_cast<double2*>(partial.mutable_data_ptr());
  dispatch(kOp, dtype, [&](auto type) {
    using T = decltype(type);
    using A = Accumulator<T>;
    source.with_layout([&](auto layout) {
      device.launch("measure", measure<layout(), T>, grid, kTileSize, sizeof(Sums<kTileSize>), parts,
                    mutable_data<T>(warped), mutable_data<T>(valid), data<T>(source.tensor), data<T>(target),
                    data<A>(flow), backward ? data<A>(*backward) : nullptr, boundaries, kind, static_cast<A>(epsilon),
                    channels, tiling);
    });
    device.launch("conclude", conclude<A>, static_cast<unsigned>(shape.batch), kReducers, sizeof(Sums<kReducers>),
                  mutable_data<A>(error), parts, channels, static_cast<int32_t>(tiling.tiles()));
  });
  return {error, warped, valid};
}

Tensor backward(Tensor grad_error_in, Tensor warped_in, Tensor target_in, Tensor valid_in, int64_t penalty,
                double epsilon) {
  const Checker check{kOp, warped_in};
  const ScalarType dtype = warped_in.scalar_type(), precise = accumulator_dtype(dtype);
  check.shape("warped", warped_in, {kAny, kAny, kAny, kAny}, "[B,C,H,W]");
  const WarpShape shape(warped_in);
  check.tensor("grad_error", grad_error_in, {shape.batch}, "[B]", precise);
  check.tensor("target", target_in, {shape.batch, shape.channels, shape.height, shape.width}, "[B,C,H,W]", dtype);
  check.tensor("valid", valid_in, {shape.batch, 1, shape.height, shape.width}, "[B,1,H,W]", dtype);
  check_penalty(penalty, epsilon);
  const Tiling tiling(shape);
  const dim3 grid = tiling.grid(kOp, shape);
  const Device device(kOp, warped_in);
  const Tensor grad_error = contiguous(grad_error_in), warped = contiguous(warped_in);
  const Tensor target = contiguous(target_in), valid = contiguous(valid_in);
  const auto parts = static_cast<int32_t>(divide_up<int64_t>(shape.pixels(), kCountedPixels));
  const auto channels = static_cast<int32_t>(shape.channels);
  const auto kind = static_cast<Penalty>(penalty);
  const Tensor partial = empty_like(warped, {shape.batch, parts, 1, 2}, ScalarType::Double);
  const Tensor scale =
      torch::stable::empty(std::array<int64_t, 1>{shape.batch}, precise, std::nullopt, warped.device());
  const Tensor result = empty_like(warped, shape.planes(shape.channels), dtype);
  auto* counts = static_cast<double2*>(partial.mutable_data_ptr());
  const auto samples = static_cast<unsigned>(shape.batch);
  dispatch(kOp, dtype, [&](auto type) {
    using T = decltype(type);
    using A = Accumulator<T>;
    device.launch("count_visible", count_visible<T>, samples * parts, kTileSize, sizeof(Sums<kTileSize>), counts,
                  data<T>(valid), shape.pixels(), parts);
    device.launch("find_scale", find_scale<A>, samples, kReducers, sizeof(Sums<kReducers>), mutable_data<A>(scale),
                  data<A>(grad_error), counts, channels, parts);
    device.launch("differentiate", differentiate<T>, grid, kTileSize, 0, mutable_data<T>(result), data<T>(warped),
                  data<T>(target), data<T>(valid), data<A>(scale), kind, static_cast<A>(epsilon), channels, tiling);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CUDA, m) {
  m.impl("photometric_error", TORCH_BOX(&forward));
  m.impl("photometric_error_backward", TORCH_BOX(&backward));
}

}  // namespace legato
