// What csrc/cuda uses of CUDA, for g++: kernels run on the CPU, a thread at a time (fibers.h), so that the tests reach
// their indexing, their barriers and their arithmetic without a GPU. This folder takes the place of the toolkit's
// <cuda_runtime.h> and of csrc/cuda/{shared,mma}.cuh; all else is compiled as it stands.
//
// Emulated: grids, blocks, warps; __syncthreads, __syncwarp, shuffles; dynamic shared memory, poisoned before each
// block and watched at both ends; cp.async, whose data arrives at the wait and not before; ldmatrix and mma; atomics;
// limits of a launch. In an order that a seed decides, one warp runs up to a barrier while the others stand still, so a
// missing barrier or wait is seen as a wrong result.
// Not emulated: time, occupancy, streams, bank conflicts, the order in which memory becomes visible, warps of which
// some lanes skip a collective (an error here), blocks that wait for each other.
#pragma once

#include "fibers.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

using std::max;
using std::min;

// Vectors
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline double2 make_double2(double x, double y) {
  return {x, y};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

// A block's threads together
inline void __syncthreads() {
  legato_emulation::wait_for_block();
}
inline void __threadfence() {}

inline void __syncwarp(unsigned mask = ~0u) {
  legato_emulation::Exchange<char>("__syncwarp", 0, mask);
}

template <typename V>
V __shfl_sync(unsigned mask, V value, int lane) {
  return legato_emulation::Exchange<V>("__shfl_sync", value, mask).of(lane % 32);
}

template <typename V>
V __shfl_xor_sync(unsigned mask, V value, int bits) {
  return legato_emulation::Exchange<V>("__shfl_xor_sync", value, mask).of(legato_emulation::lane() ^ bits);
}

template <typename V>
V __shfl_down_sync(unsigned mask, V value, int distance) {
  const int from = legato_emulation::lane() + distance;
  return legato_emulation::Exchange<V>("__shfl_down_sync", value, mask).of(from < 32 ? from : from - distance);
}

template <typename V>
V __shfl_up_sync(unsigned mask, V value, int distance) {
  const int from = legato_emulation::lane() - distance;
  return legato_emulation::Exchange<V>("__shfl_up_sync", value, mask).of(from >= 0 ? from : from + distance);
}

// Atomics: one thread runs at a time
template <typename V>
V atomicAdd(V* at, std::common_type_t<V> value) {
  const V before = *at;
  *at = before + value;
  return before;
}

template <typename V>
V atomicMax(V* at, std::common_type_t<V> value) {
  const V before = *at;
  *at = max(before, value);
  return before;
}

// Arithmetic
template <typename V>
V __ldg(const V* at) {
  return *at;
}

template <typename To, typename From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

inline unsigned __float_as_uint(float value) {
  return bits_as<unsigned>(value);
}
inline float __uint_as_float(unsigned value) {
  return bits_as<float>(value);
}
inline long long __double_as_longlong(double value) {
  return bits_as<long long>(value);
}
inline double __longlong_as_double(long long value) {
  return bits_as<double>(value);
}
inline long long __float2ll_rn(float value) {
  return std::llrint(value);
}
inline long long __double2ll_rn(double value) {
  return std::llrint(value);
}
inline float rsqrtf(float value) {
  return 1.0f / std::sqrt(value);
}
inline double rsqrt(double value) {
  return 1.0 / std::sqrt(value);
}

// The host's half: one device, number -1 as CPU tensors have it, with few multiprocessors so that grids get shared out
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline cudaError_t cudaGetDevice(int* device) {
  *device = -1;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int) {
  return cudaErrorInvalidConfiguration;
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid configuration argument";
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  constexpr int values[] = {4, legato_emulation::kSharedBytes, 9, 0};
  *value = values[which];
  return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (value > legato_emulation::kSharedBytes) return cudaErrorInvalidConfiguration;
  legato_emulation::shared_limit(kernel) = value;
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... args) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  const size_t threads = size_t{block.x} * block.y * block.z;
  const size_t limit = legato_emulation::shared_limit(reinterpret_cast<const void*>(kernel));
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      size_t{grid.x} * grid.y * grid.z == 0 || config->dynamicSmemBytes > limit)
    return cudaErrorInvalidConfiguration;
  const auto call = [&](Parameters... parameters) {
    legato_emulation::run(grid, block, config->dynamicSmemBytes, [&] { kernel(parameters...); });
  };
  call(std::forward<Arguments>(args)...);
  return cudaSuccess;
}
