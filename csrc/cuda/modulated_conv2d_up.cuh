// The upsampling layer in one kernel: transposed convolution of stride 2, low-pass filter, epilogue. A block makes 28 x
// 28 pixels of 32 channels. It multiplies for 16 x 16 positions with four sets of sums, one for each parity of row and
// column, leaves these 32 x 32 values in shared memory and filters them there: the map between convolution and filter,
// four times as large as the input, is never written. The price is a border multiplied twice, 16^2 / 14^2 = 1.31.
#pragma once

#include "cuda/mma.cuh"
#include "cuda/modulated_conv2d_stage.cuh"
#include "cuda/modulated_conv2d_tile.cuh"
#include "cuda/modulated_conv2d_vector.cuh"
#include "math/fir.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace legato::modulated {

struct UpShape {
  static constexpr int kSide = 16;          // positions
  static constexpr int kInner = kSide - 2;  // whose pixels are made
  static constexpr int kPitch = kSide + 1;  // of the patch: the positions and one row and column before
  static constexpr int kSlots = kPitch * kPitch;
  static constexpr int M = kSide * kSide, N = 32;
  static constexpr int kMap = 2 * kSide;         // rows and columns between convolution and filter
  static constexpr int kPixels = 2 * kInner;     // rows and columns of the result
  static constexpr int kMapPitch = N + 8;        // channels of one pixel in shared memory
  static constexpr int kRows = 4, kColumns = 2;  // of 16 and 8: what a warp multiplies
  static constexpr int kStrip = 7;               // rows that a thread filters
  static constexpr int kStages = 3;
  static constexpr int kPatchSize = divide_up(kSlots, 8) * 8 * kDepth;
  static constexpr int kStageSize = kPatchSize + kMaxTaps * N * kDepth;
  static constexpr size_t kBytes = 2 * std::max(size_t{kStages} * kStageSize, size_t{kMap} * kMap * kMapPitch);
};

using UpSums = float[4][UpShape::kRows][UpShape::kColumns][4];

// A row of the patch and its shift to the left serve all taps that use them, below and above.
template <typename T>
__device__ __forceinline__ void multiply_phases(UpSums& sums, const T* patch, const T* weights) {
  using S = UpShape;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int first = warp / 2 * S::kRows, across = warp % 2 * S::kColumns * 8;
#pragma unroll
  for (int left = 0; left < 2; ++left) {  // the pixel itself, the pixel to the left
    uint32_t a[S::kRows + 1][4];
#pragma unroll
    for (int row = 0; row <= S::kRows; ++row)
      ldmatrix(a[row], patch + half_at((first + row) * S::kPitch + lane % 16 + 1 - left, lane / 16));
#pragma unroll
    for (int tap = 0; tap < kMaxTaps; ++tap) {
      const int y = tap / 3, x = tap % 3;
      if ((x == 2) != (left == 1)) continue;
      const int phase = 2 * (y == 1) + (x == 1), below = y == 2 ? 0 : 1;
      uint32_t b[4];
      ldmatrix(b, weights + half_at(across + lane / 16 * 8 + lane % 8, lane / 8 % 2) + tap * S::N * kDepth);
      const uint32_t lower[2] = {b[0], b[1]}, upper[2] = {b[2], b[3]};
#pragma unroll
      for (int row = 0; row < S::kRows; ++row) {
        mma<T>(sums[phase][row][0], a[row + below], lower);
        mma<T>(sums[phase][row][1], a[row + below], upper);
      }
    }
  }
}

// Row r, column c of the map in shared memory filtered across: for columns c and c + 1 of the result, columns c - 1 ..
// c + 3 of the map.
template <typename T>
__device__ __forceinline__ void filter_across(float (&out)[2][kVector], const T* map, int row, int column) {
  float taps[5][kVector];
#pragma unroll
  for (int tap = 0; tap < 5; ++tap)
    load(taps[tap], map + (row * UpShape::kMap + column + tap) * UpShape::kMapPitch, kVector, true);
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      out[side][i] = low_pass(taps[side][i], taps[side + 1][i], taps[side + 2][i], taps[side + 3][i]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    upsample_kernel(int height, int width, int k, int n, int tiles_x, int tiles, Operands<T> operands,
                    Epilogue<T> epilogue, T* y) {
  using S = UpShape;
  unsigned char* memory = &shared_memory<unsigned char>();
  const int n_tiles = divide_up(n, S::N), first = static_cast<int>(blockIdx.x) % n_tiles * S::N;
  const int tile = static_cast<int>(blockIdx.x / n_tiles % tiles);
  const int64_t sample = blockIdx.x / n_tiles / tiles;
  const int top = tile / tiles_x * S::kInner, left = tile % tiles_x * S::kInner;  // of the input's pixels made here

  Tables tables;
  tables.taps = reinterpret_cast<Tap*>(memory);
  tables.pixels = reinterpret_cast<int*>(tables.taps + kMaxTaps);
  tables.positions = nullptr;
  T* stages = reinterpret_cast<T*>(memory + table_bytes(S::kSlots, 0));
  if (threadIdx.x < kMaxTaps) tables.taps[threadIdx.x] = {0, static_cast<int>(threadIdx.x)};
  for (int slot = threadIdx.x; slot < S::kSlots; slot += kThreads) {
    const int row = top - 2 + slot / S::kPitch, column = left - 2 + slot % S::kPitch;
    const bool inside = row >= 0 && row < height && column >= 0 && column < width;
    tables.pixels[slot] = inside ? row * width + column : -1;
  }
  __syncthreads();

  const Patch<T> patch{operands.source + sample * height * width * k,
                       operands.scale == nullptr ? nullptr : operands.scale + sample * k, k, S::kSlots,
                       operands.vectors};
  const Weights<T, S::N, false> weights{operands.weight, k, n, first, kMaxTaps, kMaxTaps, operands.vectors};
  T* map = stages;
  {
    UpSums sums = {};
    pipeline(stages, S::kStages, S::kPatchSize, S::kStageSize, patch, weights, tables, 0, divide_up(k, kDepth),
             [&](const T* a, const T* b) { multiply_phases(sums, a, b); });
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
    for (int phase = 0; phase < 4; ++phase) {
#pragma unroll
      for (int row = 0; row < S::kRows; ++row) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int map_row = 2 * (warp / 2 * S::kRows + row) + phase / 2;
          const int map_column = 2 * (lane / 4 + 8 * half) + phase % 2;
          T* at = map + (map_row * S::kMap + map_column) * S::kMapPitch + warp % 2 * S::kColumns * 8 + lane % 4 * 2;
#pragma unroll
          for (int column = 0; column < S::kColumns; ++column) {
            const float (&c)[4] = sums[phase][row][column];
            at[column * 8] = static_cast<T>(c[2 * half]);
            at[column * 8 + 1] = static_cast<T>(c[2 * half + 1]);
          }
        }
      }
    }
  }
  __syncthreads();

  // Row and column 0 of the map are 2 * top - 2 and 2 * left - 2 of the convolution, pixel (2 * top, 2 * left) takes
  // its rows and columns 1 .. 4.
  constexpr int kVectors = S::N / kVector, kPairs = S::kPixels / 2, kStrips = S::kPixels / S::kStrip;
  static_assert(kVectors * kPairs * kStrips <= kThreads);
  const int column = static_cast<int>(threadIdx.x) % kVectors * kVector, channel = first + column;
  const int pair = static_cast<int>(threadIdx.x) / kVectors % kPairs, strip = threadIdx.x / (kVectors * kPairs);
  const int count = n - channel, x = 2 * (left + pair);
  if (strip >= kStrips || count <= 0 || x >= 2 * width) return;
  const ChannelEpilogue<T> finish(epilogue, sample, n, channel);
  float window[4][2][kVector];  // rows of the map around the pixel, row r in r % 4
#pragma unroll
  for (int row = 0; row < S::kStrip + 3; ++row) {
    filter_across(window[row % 4], map + column, strip * S::kStrip + row + 1, 2 * pair + 1);
    const int line = 2 * top + strip * S::kStrip + row - 3;
    if (row < 3 || line >= 2 * height) continue;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      float values[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        values[i] = low_pass(window[(row + 1) % 4][side][i], window[(row + 2) % 4][side][i],
                             window[(row + 3) % 4][side][i], window[row % 4][side][i]);
      }
      const int64_t pixel = int64_t{line} * (2 * width) + x + side;
      finish(values, pixel);
      store(y + (sample * 4 * height * width + pixel) * n + channel, values, count, operands.vectors);
    }
  }
}

template <typename T>
void upsample(const Device& device, const Product& p, const Operands<T>& operands, const Epilogue<T>& epilogue, T* y) {
  using S = UpShape;
  const int tiles_x = divide_up(p.width, S::kInner), tiles = tiles_x * divide_up(p.height, S::kInner);
  const int64_t blocks = p.batch * tiles * divide_up(p.n, S::N);
  device.launch("upsample", upsample_kernel<T>, dim3(count_blocks(blocks)), dim3(kThreads),
                table_bytes(S::kSlots, 0) + S::kBytes, p.height, p.width, p.k, p.n, tiles_x, tiles, operands, epilogue,
                y);
}

}  // namespace legato::modulated
