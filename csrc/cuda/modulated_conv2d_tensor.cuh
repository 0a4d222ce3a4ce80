// The implicit GEMM of modulated_conv2d on tensor cores, for 16-bit activations with float32 sums. The patch of a tile
// comes to shared memory once and serves all nine taps: ldmatrix takes an address for each row, so a tap is a shift.
#pragma once

#include "cuda/mma.cuh"
#include "cuda/modulated_conv2d_stage.cuh"
#include "cuda/modulated_conv2d_tile.cuh"
#include "cuda/modulated_conv2d_vector.cuh"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace legato::modulated {

// A block of 8 warps makes M positions of N channels; a warp 16 * kRows of 8 * kColumns.
template <int M_, int N_, int kWarpsDown_>
struct Shape {
  static constexpr int M = M_, N = N_, kWarpsDown = kWarpsDown_, kWarpsAcross = kThreads / kWarp / kWarpsDown_;
  static constexpr int kRows = M / kWarpsDown / 16, kColumns = N / kWarpsAcross / 8;
  static constexpr int kPitch = N + 8;  // of the finished tile in shared memory
  static_assert(kRows > 0 && kColumns % 2 == 0);
};
using Small = Shape<64, 64, 2>;
using Wide = Shape<256, 64, 4>;
using Narrow = Shape<512, 32, 8>;

template <typename S>
using Sums = float[S::kRows][S::kColumns][4];

// Where a thread reads its rows of the weights of tap 0; those of the next tap are N or sixteen rows on.
template <typename S, bool kTransposed>
__device__ __forceinline__ int weights_at(int pair) {
  const int lane = threadIdx.x % kWarp, across = threadIdx.x / kWarp % S::kWarpsAcross * S::kColumns * 8;
  if constexpr (kTransposed) return unit_at<S::N>(lane % 16, across / 8 + pair + lane / 16);
  return half_at(across + pair * 8 + lane / 16 * 8 + lane % 8, lane / 8 % 2);
}

// sums += a * weights of one tap, for the rows of `a` from `first` on
template <typename T, typename S, bool kTransposed, int kLoaded>
__device__ __forceinline__ void multiply_tap(Sums<S>& sums, const uint32_t (&a)[kLoaded][4], int first,
                                             const T* weights) {
#pragma unroll
  for (int pair = 0; pair < S::kColumns; pair += 2) {
    uint32_t b[4];
    const T* row = weights + weights_at<S, kTransposed>(pair);
    if constexpr (kTransposed)
      ldmatrix_transposed(b, row);
    else
      ldmatrix(b, row);
    const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
    for (int row = 0; row < S::kRows; ++row) {
      mma<T>(sums[row][pair], a[first + row], left);
      mma<T>(sums[row][pair + 1], a[first + row], right);
    }
  }
}

// sums += patch * weights, over the taps and sixteen channels, whatever the tiling
template <typename T, typename S, bool kTransposed>
__device__ __forceinline__ void multiply_any(Sums<S>& sums, const T* patch, const T* weights, const Tables& tables,
                                             int taps, int first_slot, int slot_step) {
  const int half = threadIdx.x % kWarp / 16;
#pragma unroll 1
  for (int tap = 0; tap < taps; ++tap) {
    const int offset = tables.taps[tap].offset;
    uint32_t a[S::kRows][4];
#pragma unroll
    for (int row = 0; row < S::kRows; ++row)
      ldmatrix(a[row], patch + half_at(first_slot + row * slot_step + offset, half));
    multiply_tap<T, S, kTransposed>(sums, a, 0, weights + tap * S::N * kDepth);
  }
}

// The same for 3x3 taps and tiles sixteen wide, where sixteen rows of `a` are a row of the image: what one tap reads
// for a row the tap below reads for the row above, so that the patch is read from shared memory half as often.
template <typename T, typename S, bool kTransposed>
__device__ __forceinline__ void multiply_dense(Sums<S>& sums, const T* patch, const T* weights, int first_slot) {
  constexpr int kPatchPitch = 16 + 2;
  const int half = threadIdx.x % kWarp / 16;
#pragma unroll 1
  for (int x = 0; x < 3; ++x) {
    uint32_t a[S::kRows + 2][4];
#pragma unroll
    for (int row = 0; row < S::kRows + 2; ++row)
      ldmatrix(a[row], patch + half_at(first_slot + row * kPatchPitch + x, half));
#pragma unroll
    for (int y = 0; y < 3; ++y)
      multiply_tap<T, S, kTransposed>(sums, a, y, weights + (3 * y + x) * S::N * kDepth);
  }
}

// Calls f(m, n, first value, second value) for the pairs of neighboring channels that this thread holds.
template <typename S, typename F>
__device__ __forceinline__ void for_each_pair(const Sums<S>& sums, const F& f) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int top = warp / S::kWarpsAcross * S::kRows * 16 + lane / 4;
  const int left = warp % S::kWarpsAcross * S::kColumns * 8 + lane % 4 * 2;
#pragma unroll
  for (int row = 0; row < S::kRows; ++row) {
#pragma unroll
    for (int column = 0; column < S::kColumns; ++column) {
      const float (&c)[4] = sums[row][column];
      f(top + row * 16, left + column * 8, c[0], c[1]);
      f(top + row * 16 + 8, left + column * 8, c[2], c[3]);
    }
  }
}

template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

// The activation on the way to shared memory.
template <typename T, typename S>
__device__ __forceinline__ void activate(Sums<S>& sums, const Epilogue<T>& epilogue, const int* positions,
                                         int64_t sample, int first, int channels) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int top = warp / S::kWarpsAcross * S::kRows * 16 + lane / 4;
  const int left = first + warp % S::kWarpsAcross * S::kColumns * 8 + lane % 4 * 2;
  float noise[S::kRows][2];
#pragma unroll
  for (int row = 0; row < S::kRows; ++row) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = positions[top + row * 16 + half * 8];
      noise[row][half] = epilogue.noise == nullptr || position < 0
                             ? 0.0f
                             : static_cast<float>(epilogue.noise[sample * epilogue.noise_step + position]);
    }
  }
#pragma unroll
  for (int column = 0; column < S::kColumns; ++column) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = left + column * 8 + i;
      const bool inside = n < channels;
      const float scale = epilogue.scale != nullptr && inside ? epilogue.scale[sample * channels + n] : 1.0f;
      const float bias = epilogue.bias != nullptr && inside ? static_cast<float>(epilogue.bias[n]) : 0.0f;
#pragma unroll
      for (int row = 0; row < S::kRows; ++row) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& value = sums[row][column][2 * half + i];
          value = epilogue.activation(value * scale + (noise[row][half] + bias));
        }
      }
    }
  }
}

template <typename T, typename S, bool kTransposed>
__global__ void __launch_bounds__(kThreads, 2)
    multiply_kernel(Tiling tiling, int64_t batch, int k, int n, int images, int splits, int stage_count,
                    Operands<T> operands, Result<T> result) {
  unsigned char* memory = &shared_memory<unsigned char>();
  const Work work(tiling, divide_up(n, S::N), images, splits);
  const int taps = tiling.phases ? count_phase_taps(work.phase) : tiling.taps;
  const Tables tables = make_tables(memory, tiling, work, S::M, taps);
  T* stages = reinterpret_cast<T*>(memory + table_bytes(tiling.slots, S::M));

  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  // Sixteen positions on is always as many slots on.
  const int top = warp / S::kWarpsAcross * S::kRows * 16;
  const int first_slot = slot_of(tiling, top + lane % 16), slot_step = slot_of(tiling, 16);
  const bool dense = tiling.tile_width == 16 && tiling.stride == 1 && tiling.taps == 9;
  const int first = work.n_tile * S::N;
  const Patch<T> patch{operands.source + work.sample * tiling.height * tiling.width * k,
                       operands.scale == nullptr ? nullptr : operands.scale + work.sample * k, k, tiling.slots,
                       operands.vectors};
  const Weights<T, S::N, kTransposed> weights{operands.weight, k, n, first, taps, tiling.taps, operands.vectors};
  const int chunks = divide_up(k, kDepth), share = divide_up(chunks, splits);
  const int patch_size = divide_up(tiling.slots, 8) * 8 * kDepth;
  Sums<S> sums = {};
  pipeline(stages, stage_count, patch_size, patch_size + tiling.taps * S::N * kDepth, patch, weights, tables,
           min(work.split * share, chunks), min((work.split + 1) * share, chunks), [&](const T* a, const T* b) {
             if (S::M > 64 && dense)
               multiply_dense<T, S, kTransposed>(sums, a, b, first_slot);
             else
               multiply_any<T, S, kTransposed>(sums, a, b, tables, taps, first_slot, slot_step);
           });

  const int64_t pixels = int64_t{tiling.rows} * tiling.columns, image = work.sample * images + work.phase;
  if (result.finish == Finish::kPartial) {
    float* to = result.partial + (work.split * batch * images + image) * pixels * n;
    for_each_pair<S>(sums, [&](int m, int column, float left, float right) {
      const int position = tables.positions[m], channel = first + column;
      if (position < 0 || channel >= n) return;
      float* at = to + position * int64_t{n} + channel;
      if (n % 2 == 0) {
        *reinterpret_cast<float2*>(at) = make_float2(left, right);
      } else {
        at[0] = left;
        if (channel + 1 < n) at[1] = right;
      }
    });
    return;
  }

  // The finished tile goes through shared memory, so that each thread then has eight neighboring channels.
  T* tile = stages;
  if (result.finish == Finish::kForward) activate<T, S>(sums, result.epilogue, tables.positions, work.sample, first, n);
  for_each_pair<S>(sums, [&](int m, int column, float left, float right) {
    *reinterpret_cast<Pair<T>*>(tile + m * S::kPitch + column) = {static_cast<T>(left), static_cast<T>(right)};
  });
  __syncthreads();
  constexpr int kVectors = S::N / kVector;
  const int column = threadIdx.x % kVectors * kVector, channel = first + column, count = n - channel;
  T* to = result.stored + image * pixels * n + channel;
  if (result.finish != Finish::kAdjoint) {
    for (int m = threadIdx.x / kVectors; m < S::M; m += kThreads / kVectors) {
      const int position = tables.positions[m];
      if (position < 0 || count <= 0) continue;
      float values[kVector];
      load(values, tile + m * S::kPitch + column, kVector, true);
      store(to + position * int64_t{n}, values, count, operands.vectors);
    }
    return;
  }
  const Adjoint<T>& adjoint = result.adjoint;
  const T* x = adjoint.x + image * pixels * n + channel;
  float scale[kVector], total[kVector] = {};
  load_or(0.0f, scale, adjoint.scale + work.sample * n + channel, count);
  for (int m = threadIdx.x / kVectors; m < S::M; m += kThreads / kVectors) {
    const int position = tables.positions[m];
    if (position < 0 || count <= 0) continue;
    float h[kVector], kept[kVector];
    load(h, tile + m * S::kPitch + column, kVector, true);
    load(kept, x + position * int64_t{n}, count, operands.vectors);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      total[i] += h[i] * kept[i];
      h[i] *= scale[i];
    }
    store(to + position * int64_t{n}, h, count, operands.vectors);
  }
  __syncthreads();
  store_sums(adjoint.sums + (work.sample * tiling.tiles + work.tile) * n + first, total, kVectors, n - first,
             reinterpret_cast<float*>(stages));
}

// Launching ------------------------------------------------------------------------------------------------------

// The shape of a block depends on how many blocks there are; a position's sum is the same in all of them.
enum class Choice { kSmall, kWide, kNarrow };

template <typename S>
size_t stage_bytes(const Tiling& t) {
  return 2 * size_t{kDepth} * (divide_up(t.slots, 8) * 8 + t.taps * S::N);
}

template <typename S>
size_t shared_bytes(const Tiling& t, int stages) {
  const size_t tile = 2 * size_t{S::M} * S::kPitch, sums = sizeof(float) * kThreads * kVector;
  return table_bytes(t.slots, S::M) + std::max({stages * stage_bytes<S>(t), tile, sums});
}

inline Choice choose(const Device& device, const Product& p) {
  const auto fits = [&](auto shape, int64_t least_blocks) {
    using S = decltype(shape);
    const Tiling t = make_tiling(p, S::M);
    return p.batch * p.images() * p.splits * t.tiles * divide_up(p.n, S::N) >= least_blocks &&
           shared_bytes<S>(t, 2) <= static_cast<size_t>(device.shared_bytes_per_block());
  };
  const int enough = device.multiprocessors() * 3 / 4;
  if (p.n <= Narrow::N && fits(Narrow(), enough)) return Choice::kNarrow;
  return fits(Wide(), enough) ? Choice::kWide : Choice::kSmall;
}

template <typename T, typename S, bool kTransposed>
void launch_shape(const Device& device, const Product& p, const Operands<T>& operands, const Result<T>& result) {
  constexpr size_t kForTwo = 113 * 1024;  // two blocks on a multiprocessor of an H100
  const Tiling tiling = make_tiling(p, S::M);
  const size_t limit = std::min<size_t>(device.shared_bytes_per_block(), kForTwo);
  const int stages = shared_bytes<S>(tiling, 3) <= limit ? 3 : 2;
  const int64_t blocks = p.batch * p.images() * p.splits * tiling.tiles * divide_up(p.n, S::N);
  device.launch("multiply", multiply_kernel<T, S, kTransposed>, dim3(count_blocks(blocks)), dim3(kThreads),
                shared_bytes<S>(tiling, stages), tiling, p.batch, p.k, p.n, p.images(), p.splits, stages, operands,
                result);
}

template <typename T, typename S>
void launch_product(const Device& device, const Product& p, const Operands<T>& operands, const Result<T>& result) {
  if (p.adjoint)
    launch_shape<T, S, true>(device, p, operands, result);
  else
    launch_shape<T, S, false>(device, p, operands, result);
}

template <typename T>
void multiply(const Device& device, const Product& product, const Operands<T>& operands, const Result<T>& result) {
  switch (choose(device, product)) {
    case Choice::kSmall:
      return launch_product<T, Small>(device, product, operands, result);
    case Choice::kWide:
      return launch_product<T, Wide>(device, product, operands, result);
    case Choice::kNarrow:
      return launch_product<T, Narrow>(device, product, operands, result);
  }
}

template <typename T>
int count_tiles(const Device& device, const Product& product) {
  const Choice choice = choose(device, product);
  const int positions = choice == Choice::kSmall ? Small::M : choice == Choice::kWide ? Wide::M : Narrow::M;
  return make_tiling(product, positions).tiles;
}

}  // namespace legato::modulated
