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

// Blocks of 32 channels x 8 rows, each row a share of what is summed; rows then add up in order.
template <typename A>
struct Shares {
  A values[kWarps][kWarp];

  __device__ A sum(A mine) {
    const int lane = threadIdx.x % kWarp;
    values[threadIdx.x / kWarp][lane] = mine;
    __syncthreads();
    A total = A(0);
    for (int row = 0; row < kWarps; ++row)
      total += values[row][lane];
    return total;
  }
};

// In double: with a megapixel there are thousands of tiles.
template <typename A>
__global__ void __launch_bounds__(kWarps* kWarp) add_tiles(int64_t tiles, int channels, const A* sums, A* totals) {
  const int groups = divide_up(channels, kWarp), row = threadIdx.x / kWarp;
  const int64_t sample = blockIdx.x / groups;
  const int channel = blockIdx.x % groups * kWarp + threadIdx.x % kWarp;
  double sum = 0;
  if (channel < channels) {
    for (int64_t tile = row; tile < tiles; tile += kWarps)
      sum += static_cast<double>(sums[(sample * tiles + tile) * channels + channel]);
  }
  const double total = shared_memory<Shares<double>>().sum(sum);
  if (row == 0 && channel < channels) totals[sample * channels + channel] = static_cast<A>(total);
}

template <typename A>
__global__ void __launch_bounds__(kWarps* kWarp)
    add_demodulation(int inputs, int outputs, const A* styles, const A* q, const A* scale, const A* sigma,
                     const A* scale_sums, const A* direct, A* grad_styles) {
  const int groups = divide_up(inputs, kWarp), row = threadIdx.x / kWarp;
  const int64_t sample = blockIdx.x / groups;
  const int input = blockIdx.x % groups * kWarp + threadIdx.x % kWarp;
  const A power = sigma == nullptr ? A(1) : sigma[sample];
  A sum = A(0);
  if (input < inputs && q != nullptr) {
    for (int o = row; o < outputs; o += kWarps) {
      const A d = scale[sample * outputs + o];
      sum += scale_sums[sample * outputs + o] * (d * d) * q[static_cast<int64_t>(o) * inputs + input];
    }
  }
  const A energy = shared_memory<Shares<A>>().sum(sum);
  if (row > 0 || input >= inputs) return;
  const int64_t at = sample * inputs + input;
  grad_styles[at] = q == nullptr ? direct[at] : (direct[at] - styles[at] / power * energy) / power;
}

}  // namespace

template <typename A>
void compute_factors(const Device& device, int64_t batch, int inputs, int outputs, const A* styles, const A* q,
                     bool normalize, A* scale, A* normalized, A* sigma) {
  device.launch("factors", factors<A>, dim3(batch * divide_up(outputs, kWarps)), dim3(kWarps * kWarp), 0, batch, inputs,
                outputs, styles, q, normalize, scale, normalized, sigma);
}

template <typename A>
void sum_tiles(const Device& device, int64_t batch, int64_t tiles, int channels, const A* sums, A* totals) {
  device.launch("add_tiles", add_tiles<A>, dim3(batch * divide_up(channels, kWarp)), dim3(kWarps * kWarp),
                sizeof(Shares<double>), tiles, channels, sums, totals);
}

template <typename A>
void finish_styles(const Device& device, int64_t batch, int inputs, int outputs, const A* styles, const A* q,
                   const A* scale, const A* sigma, const A* scale_sums, const A* direct, A* grad_styles) {
  device.launch("add_demodulation", add_demodulation<A>, dim3(batch * divide_up(inputs, kWarp)), dim3(kWarps * kWarp),
                sizeof(Shares<A>), inputs, outputs, styles, q, scale, sigma, scale_sums, direct, grad_styles);
}

#define LEGATO_INSTANCES(A)                                                                                          \
  template void compute_factors<A>(const Device&, int64_t, int, int, const A*, const A*, bool, A*, A*, A*);          \
  template void sum_tiles<A>(const Device&, int64_t, int64_t, int, const A*, A*);                                    \
  template void finish_styles<A>(const Device&, int64_t, int, int, const A*, const A*, const A*, const A*, const A*, \
                                 const A*, A*);
LEGATO_INSTANCES(float)
LEGATO_INSTANCES(double)

}  // namespace legato::modulated
