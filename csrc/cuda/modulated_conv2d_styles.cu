// Per-channel quantities of modulated_conv2d: demodulation, sums over tiles, the gradient of the styles.

#include "cuda/modulated_conv2d.cuh"
#include "cuda/shared.cuh"

#include <cuda_runtime.h>

#include <cmath>

namespace legato::modulated {
namespace {

constexpr double kEpsilon = 1e-8;  // as published
constexpr int kWarps = 8;

__device__ __forceinline__ float reciprocal_root(float value) {
  return rsqrtf(value);
}
__device__ __forceinline__ double reciprocal_root(double value) {
  return rsqrt(value);
}

// A warp for each (sample, output): the warp finds sigma for itself, from a few hundred styles in the cache.
template <typename A>
__global__ void __launch_bounds__(kWarps* kWarp)
    factors(int64_t batch, int inputs, int outputs, const A* styles, const A* q, bool normalize, A* scale,
            A* normalized, A* sigma) {
  const int lane = threadIdx.x % kWarp, groups = divide_up(outputs, kWarps);
  const int64_t sample = blockIdx.x / groups;
  const int output = blockIdx.x % groups * kWarps + threadIdx.x / kWarp;
  const A* s = styles + sample * inputs;
  A power = A(1);
  if (normalize) {
    A largest = A(0);
    for (int i = lane; i < inputs; i += kWarp)
      largest = max(largest, s[i] < A(0) ? -s[i] : s[i]);
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
      largest = max(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
    int exponent = 0;
    if (largest > A(0) && largest < A(1e30)) std::frexp(largest, &exponent);
    power = std::ldexp(A(1), exponent);
  }
  if (output == 0 && normalize) {
    for (int i = lane; i < inputs; i += kWarp)
      normalized[sample * inputs + i] = s[i] / power;
    if (lane == 0) sigma[sample] = power;
  }
  if (output >= outputs) return;
  A value = power;
  if (q != nullptr) {
    const A* energy = q + static_cast<int64_t>(output) * inputs;
    A sum = A(0);
    for (int i = lane; i < inputs; i += kWarp) {
      const A style = s[i] / power;
      sum += style * style * energy[i];
    }
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
      sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    value = reciprocal_root(sum + static_cast<A>(kEpsilon) / (power * power));
  }
  if (lane == 0) scale[sample * outputs + output] = value;
}

constexpr int kMany = 1024;   // threads of a block that sums: with a megapixel there are thousands of tiles
constexpr int kChannels = 8;  // that it finishes

// Sums values[row][lane] over the rows of threads, always in the same order: every thread brings one value and lane `l`
// of the result is in values[l]. `lanes` is a power of two.
template <typename V>
__device__ __forceinline__ void sum_rows(V* values, V mine, int lanes) {
  __syncthreads();
  values[threadIdx.x] = mine;
  __syncthreads();
  for (int half = kMany / 2; half >= lanes; half /= 2) {
    if (threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
    __syncthreads();
  }
}

// The sum over tiles of sums [tiles][channels], for each `lanes` threads their channel. In double, as there are many.
template <typename A>
__device__ __forceinline__ double add_tiles(const A* sums, int64_t tiles, int channels, int channel, int lanes) {
  double sum = 0;
  if (channel >= channels) return sum;
#pragma unroll 8
  for (int64_t tile = threadIdx.x / lanes; tile < tiles; tile += kMany / lanes)
    sum += static_cast<double>(sums[tile * channels + channel]);
  return sum;
}

template <typename A>
__global__ void __launch_bounds__(kMany)
    style_gradient(int inputs, int outputs, int64_t tiles, int64_t strips, const A* styles, const A* q, const A* scale,
                   const A* sigma, const A* tile_sums, const A* strip_sums, A* grad_styles) {
  double* values = &shared_memory<double>();          // [kMany]
  A* weights = reinterpret_cast<A*>(values + kMany);  // [outputs]: what q is weighed with
  const int groups = divide_up(inputs, kChannels), lane = threadIdx.x % kChannels, row = threadIdx.x / kChannels;
  const int64_t sample = blockIdx.x / groups;
  const int input = blockIdx.x % groups * kChannels + lane;

  A energy = A(0);
  if (q != nullptr) {
    int lanes = kWarp;
    while (lanes < outputs && lanes < kMany)
      lanes *= 2;
    for (int first = 0; first < outputs; first += lanes) {
      const int output = first + threadIdx.x % lanes;
      sum_rows(values, add_tiles(strip_sums + sample * strips * outputs, strips, outputs, output, lanes), lanes);
      if (threadIdx.x < lanes && output < outputs) {
        const A d = scale[sample * outputs + output];
        weights[output] = static_cast<A>(values[threadIdx.x]) * (d * d);
      }
    }
    __syncthreads();
    if (input < inputs) {
      for (int o = row; o < outputs; o += kMany / kChannels)
        energy += weights[o] * q[static_cast<int64_t>(o) * inputs + input];
    }
    sum_rows(values, static_cast<double>(energy), kChannels);
    energy = static_cast<A>(values[lane]);
  }
  sum_rows(values, add_tiles(tile_sums + sample * tiles * inputs, tiles, inputs, input, kChannels), kChannels);
  if (row > 0 || input >= inputs) return;
  const A direct = static_cast<A>(values[lane]), power = sigma == nullptr ? A(1) : sigma[sample];
  const int64_t at = sample * inputs + input;
  grad_styles[at] = q == nullptr ? direct : (direct - styles[at] / power * energy) / power;
}

}  // namespace

template <typename A>
void compute_factors(const Device& device, int64_t batch, int inputs, int outputs, const A* styles, const A* q,
                     bool normalize, A* scale, A* normalized, A* sigma) {
  device.launch("factors", factors<A>, dim3(batch * divide_up(outputs, kWarps)), dim3(kWarps * kWarp), 0, batch, inputs,
                outputs, styles, q, normalize, scale, normalized, sigma);
}

template <typename A>
void finish_styles(const Device& device, int64_t batch, int inputs, int outputs, int64_t tiles, int64_t strips,
                   const A* styles, const A* q, const A* scale, const A* sigma, const A* tile_sums, const A* strip_sums,
                   A* grad_styles) {
  device.launch("style_gradient", style_gradient<A>, dim3(batch * divide_up(inputs, kChannels)), dim3(kMany),
                sizeof(double) * kMany + sizeof(A) * outputs, inputs, outputs, tiles, strips, styles, q, scale, sigma,
                tile_sums, strip_sums, grad_styles);
}

#define LEGATO_INSTANCES(A)                                                                                        \
  template void compute_factors<A>(const Device&, int64_t, int, int, const A*, const A*, bool, A*, A*, A*);        \
  template void finish_styles<A>(const Device&, int64_t, int, int, int64_t, int64_t, const A*, const A*, const A*, \
                                 const A*, const A*, const A*, A*);
LEGATO_INSTANCES(float)
LEGATO_INSTANCES(double)

}  // namespace legato::modulated
