// Shared memory of the tensor-core kernels: sixteen channels of a block's patch and of its weights make a stage, and
// the stages take turns. A row of sixteen 16-bit values is 32 bytes, two halves of 16; halves (and in transposed
// weights the 16-byte units of longer rows) are swapped in a pattern so that the eight rows that ldmatrix reads at
// once, neighbors in memory, lie in different banks.
#pragma once

#include "cuda/modulated_conv2d_tile.cuh"
#include "cuda/modulated_conv2d_vector.cuh"
#include "cuda/shared.cuh"

#include <cuda_runtime.h>

#include <cstdint>

namespace legato::modulated {

constexpr int kDepth = 16;  // channels of a stage
constexpr int kHalf = 8;

// Index of a 16-byte half of row `row`, in 16-bit values.
__device__ __forceinline__ int half_at(int row, int half) {
  return row * kDepth + ((half ^ (row >> 2 & 1)) * kHalf);
}

// The same for transposed weights, rows of N values.
template <int N>
__device__ __forceinline__ int unit_at(int row, int unit) {
  constexpr int kUnits = N / kHalf;
  return row * N + (unit ^ (row / (kHalf / kUnits) % kUnits)) * kHalf;
}

// Copies eight values to shared memory, zeros where not `inside`; `count` of them exist. Without `vectors` at once, one
// by one.
template <typename T>
__device__ __forceinline__ void copy(T* to, const T* from, const T* anywhere, bool inside, int count, bool vectors) {
  if (vectors) {
    cp_async_16(to, inside ? from : anywhere, inside);
    return;
  }
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < kHalf; ++i)
    pack.values[i] = inside && i < count ? from[i] : static_cast<T>(0.0f);
  *reinterpret_cast<Pack<T>*>(to) = pack;
}

// The side of the activations: [slots] rows of sixteen channels. Each thread scales what it copied itself, so that no
// barrier comes between.
template <typename T>
struct Patch {
  const T* source;     // of the sample
  const float* scale;  // of the sample, or null
  int channels, slots;
  bool vectors;

  __device__ __forceinline__ void fetch(T* stage, const Tables& tables, int chunk) const {
    const int half = threadIdx.x % 2, channel = chunk * kDepth + half * kHalf;
#pragma unroll 2
    for (int slot = threadIdx.x / 2; slot < slots; slot += kThreads / 2) {
      const int pixel = tables.pixels[slot];
      copy(stage + half_at(slot, half), source + int64_t{pixel} * channels + channel, source,
           pixel >= 0 && channel < channels, channels - channel, vectors);
    }
  }

  __device__ __forceinline__ void modulate(T* stage, int chunk) const {
    if (scale == nullptr) return;
    const int half = threadIdx.x % 2, channel = chunk * kDepth + half * kHalf;
    float factor[kHalf];
    load_or(0.0f, factor, scale + channel, channels - channel);
#pragma unroll 2
    for (int slot = threadIdx.x / 2; slot < slots; slot += kThreads / 2) {
      Pack<T>& pack = *reinterpret_cast<Pack<T>*>(stage + half_at(slot, half));
      Pack<T> scaled = pack;
#pragma unroll
      for (int i = 0; i < kHalf; ++i)
        scaled.values[i] = static_cast<T>(static_cast<float>(scaled.values[i]) * factor[i]);
      pack = scaled;
    }
  }
};

// The side of the weights. Not transposed: [taps * N] rows of sixteen k. Transposed: [taps * 16] rows of N.
template <typename T, int N, bool kTransposed>
struct Weights {
  const T* weight;
  int k, n, first, taps, all_taps;
  bool vectors;

  __device__ __forceinline__ void fetch(T* stage, const Tables& tables, int chunk) const {
    if constexpr (kTransposed) {
      constexpr int kUnits = N / kHalf;
      const int unit = threadIdx.x % kUnits, channel = first + unit * kHalf;
#pragma unroll 2
      for (int row = threadIdx.x / kUnits; row < taps * kDepth; row += kThreads / kUnits) {
        const int from = chunk * kDepth + row % kDepth;
        const T* at = weight + (int64_t{from} * all_taps + tables.taps[row / kDepth].weight) * n + channel;
        copy(stage + unit_at<N>(row, unit), at, weight, from < k && channel < n, n - channel, vectors);
      }
    } else {
      const int half = threadIdx.x % 2, from = chunk * kDepth + half * kHalf;
#pragma unroll 1
      for (int row = threadIdx.x / 2; row < taps * N; row += kThreads / 2) {
        const int channel = first + row % N;
        const T* at = weight + (int64_t{channel} * all_taps + tables.taps[row / N].weight) * k + from;
        copy(stage + half_at(row, half), at, weight, channel < n && from < k, k - from, vectors);
      }
    }
  }
};

// Runs `multiply(patch, weights)` for every chunk in [begin, end) while the next ones, two or three stages in all, are
// on their way. A stage holds `patch_size` values of the patch and then the weights'.
template <typename T, typename W, typename F>
__device__ __forceinline__ void pipeline(T* stages, int count, int patch_size, int stage_size, const Patch<T>& patch,
                                         const W& weights, const Tables& tables, int begin, int end,
                                         const F& multiply) {
  int next = 0, current = 0;  // stages
  const auto fetch = [&](int chunk) {
    T* stage = stages + next * stage_size;
    next = next + 1 == count ? 0 : next + 1;
    if (chunk < end) {
      patch.fetch(stage, tables, chunk);
      weights.fetch(stage + patch_size, tables, chunk);
    }
    cp_async_commit();
  };
  for (int ahead = 0; ahead < count - 1; ++ahead)
    fetch(begin + ahead);
  for (int chunk = begin; chunk < end; ++chunk) {
    T* stage = stages + current * stage_size;
    current = current + 1 == count ? 0 : current + 1;
    if (count == 3)
      cp_async_wait<1>();
    else
      cp_async_wait<0>();
    patch.modulate(stage, chunk);
    __syncthreads();  // this stage is there, and all have done with the one before
    fetch(chunk + count - 1);
    multiply(stage, stage + patch_size);
  }
  __syncthreads();
}

}  // namespace legato::modulated
