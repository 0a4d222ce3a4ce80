// Eight neighboring channels of a pixel at a time, 16 bytes of a 16-bit type; and how a block shares pixels out.
#pragma once

#include "cuda/modulated_conv2d.cuh"

#include <cuda_runtime.h>

namespace legato::modulated {

constexpr int kVector = 8;
constexpr int kThreads = 256;

template <typename T>
struct alignas(16) Pack {
  T values[kVector];
};

// Values past `count` read as 0. With `vectors` count is at least 8 and the address a multiple of 16.
template <typename A, typename T>
__device__ __forceinline__ void load(A (&out)[kVector], const T* from, int count, bool vectors) {
  if (vectors) {
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from);
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      out[i] = static_cast<A>(pack.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      out[i] = i < count ? static_cast<A>(from[i]) : A(0);
  }
}

template <typename A, typename T>
__device__ __forceinline__ void store(T* to, const A (&values)[kVector], int count, bool vectors) {
  if (vectors) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      pack.values[i] = static_cast<T>(values[i]);
    *reinterpret_cast<Pack<T>*>(to) = pack;
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if (i < count) to[i] = static_cast<T>(values[i]);
    }
  }
}

// Per-channel values, which need not be there.
template <typename A, typename T>
__device__ __forceinline__ void load_or(A otherwise, A (&out)[kVector], const T* from, int count) {
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    out[i] = from != nullptr && i < count ? static_cast<A>(from[i]) : otherwise;
}

// The epilogue for eight channels of the pixels of one sample.
template <typename T>
struct ChannelEpilogue {
  using A = Accumulator<T>;
  A scale[kVector], bias[kVector];
  const T* noise;
  Activation<A> activation;

  __device__ ChannelEpilogue(const Epilogue<T>& e, int64_t sample, int channels, int channel)
      : noise(e.noise == nullptr ? nullptr : e.noise + sample * e.noise_step), activation(e.activation) {
    load_or(A(1), scale, e.scale == nullptr ? nullptr : e.scale + sample * channels + channel, channels - channel);
    load_or(A(0), bias, e.bias == nullptr ? nullptr : e.bias + channel, channels - channel);
  }

  __device__ __forceinline__ A noise_at(int64_t pixel) const {
    return noise == nullptr ? A(0) : static_cast<A>(noise[pixel]);
  }

  __device__ __forceinline__ void operator()(A (&values)[kVector], int64_t pixel) const {
    const A offset = noise_at(pixel);
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      values[i] = activation(values[i] * scale[i] + (offset + bias[i]));
  }
};

// Adds up what the threads of a block found for their channels: threads i, i + vectors, i + 2 vectors ... hold the same
// eight. Always in the same order. `shared` has room for kThreads * kVector values.
template <typename A>
__device__ void store_sums(A* to, const A (&mine)[kVector], int vectors, int channels, A* shared) {
  const int thread = threadIdx.x;
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    shared[thread * kVector + i] = mine[i];
  __syncthreads();
  for (int c = thread; c < vectors * kVector; c += kThreads) {
    if (c >= channels) continue;
    A sum = A(0);
    for (int at = c; at < kThreads * kVector; at += vectors * kVector)
      sum += shared[at];
    to[c] = sum;
  }
}

}  // namespace legato::modulated
