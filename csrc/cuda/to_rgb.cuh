// How the lanes of a block share pixels and channels in to_rgb: a warp takes 32 pixels, kShare lanes load the channels
// of each in pieces of 16 bytes, and after a transposing sum each lane has the whole of one pixel.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "to_rgb.h"

#include <cstdint>

namespace legato::rgb {

constexpr int kColors = ToRgb::kColors;
constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kShare = 4;        // lanes for each pixel
constexpr int kTile = kThreads;  // pixels of a block at a time
constexpr int kMostParts = 512;  // blocks that share a sample

template <typename A>
struct alignas(4 * sizeof(A) < 16 ? 4 * sizeof(A) : 16) Channel {
  A weight[kColors];
  A style;
};

template <typename T, int kVector>
struct alignas(kVector * sizeof(T)) Vector {
  T values[kVector];
};

// What a launch knows of the image and of who does what.
struct Plan {
  int32_t height, width, channels, padded;  // padded: to whole chunks
  int32_t pixels, tiles, parts;
};

// How the lanes of a warp split 32 pixels and their channels. Channels come in chunks of kShare * kVector.
template <typename T, int kVector>
struct Lanes {
  using A = Accumulator<T>;
  static constexpr int kGroups = kWarp / kShare, kChunk = kShare * kVector;

  int warp = static_cast<int>(threadIdx.x) / kWarp;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int share = lane % kShare, group = lane / kShare;

  // The p-th pixel of this lane's group in a tile; its own one is that of p = share.
  __device__ int32_t pixel(int32_t tile, int p) const { return tile * kTile + warp * kWarp + p * kGroups + group; }
  __device__ int first_channel(int chunk) const { return chunk * kChunk + share * kVector; }
  // Where channel v of this lane's vector stands in shared memory: neighbors in a warp read neighbors.
  __device__ int slot(int chunk, int v) const { return chunk * kChunk + v * kShare + share; }
  __device__ static int channel_of(int slot) {
    const int chunk = slot / kChunk, within = slot % kChunk;
    return chunk * kChunk + within % kShare * kVector + within / kShare;
  }

  // x of a chunk for each pixel of the group; zeros outside
  __device__ void load(Vector<T, kVector> (&out)[kShare], const T* x, const Plan& plan, int32_t tile, int chunk) const {
    const int channel = first_channel(chunk);
#pragma unroll
    for (int p = 0; p < kShare; ++p) {
      const int32_t at = pixel(tile, p);
      out[p] = Vector<T, kVector>{};
      if (at < plan.pixels && channel < plan.channels)
        out[p] = *reinterpret_cast<const Vector<T, kVector>*>(x + int64_t{at} * plan.channels + channel);
    }
  }

  // The three products of the own pixel: x of the sample times weight, or times weight * style.
  __device__ void project(A (&result)[kColors], const T* x, const Channel<A>* channels, const Plan& plan,
                          int32_t tile) const {
    A sums[kColors][kShare] = {};
#pragma unroll 2
    for (int chunk = 0; chunk * kChunk < plan.channels; ++chunk) {
      Vector<T, kVector> values[kShare];
      load(values, x, plan, tile, chunk);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const Channel<A> at = channels[slot(chunk, v)];
#pragma unroll
        for (int o = 0; o < kColors; ++o) {
          const A weight = at.weight[o] * at.style;
#pragma unroll
          for (int p = 0; p < kShare; ++p)
            sums[o][p] += static_cast<A>(values[p].values[v]) * weight;
        }
      }
    }
#pragma unroll
    for (int o = 0; o < kColors; ++o) {
#pragma unroll
      for (int half = kShare / 2; half > 0; half /= 2) {
        const bool upper = (share & half) != 0;
#pragma unroll
        for (int p = 0; p < half; ++p) {
          const A send = upper ? sums[o][p] : sums[o][p + half];
          const A keep = upper ? sums[o][p + half] : sums[o][p];
          sums[o][p] = keep + __shfl_xor_sync(kAllLanes, send, half);
        }
      }
      result[o] = sums[o][0];
    }
  }
};

// Weights and styles of a sample into shared memory, in the order of Lanes::slot
template <typename L, typename T, typename A>
__device__ void fetch_channels(Channel<A>* to, const T* weight, const A* styles, const Plan& plan) {
  for (int slot = static_cast<int>(threadIdx.x); slot < plan.padded; slot += kThreads) {
    const int channel = L::channel_of(slot);
    const bool there = channel < plan.channels;
    Channel<A> entry;
#pragma unroll
    for (int o = 0; o < kColors; ++o)
      entry.weight[o] = there ? static_cast<A>(weight[o * plan.channels + channel]) : A(0);
    entry.style = there ? styles[channel] : A(0);
    to[slot] = entry;
  }
  __syncthreads();
}

}  // namespace legato::rgb
