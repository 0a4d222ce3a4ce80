// How an implicit GEMM lays an image out. A block makes a tile of positions; the pixels that all taps of these
// positions touch are its patch, in shared memory once, a slot for each pixel. So a tap is one offset that all
// positions share:
//
//   slot(position, tap) = slot(position) + offset(tap)
//
// A tile is a rectangle, or with `phases` a run of positions: phases have one row and one column more than the source
// has, and that column, all zeros, stands for the left border of the next row as well. With stride 2 a patch row holds
// its even columns first, so that neighboring positions are in neighboring slots there too.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/modulated_conv2d_vector.cuh"

#include <cuda_runtime.h>

#include <cstdint>

namespace legato::modulated {

constexpr int kMaxTaps = 9;

struct Tiling {
  int height, width;            // of the source
  int rows, columns;            // positions
  int tile_height, tile_width;  // of a rectangle; tile_width 0: a run of positions
  int tiles_x, tiles;           // of an image
  int pitch, slots;             // of the patch
  int stride, taps;
  bool adjoint, phases;
};

struct Tap {
  int offset;  // in slots
  int weight;  // which of the weight's taps
};

// `positions` of a tile are a power of two >= 64.
inline Tiling make_tiling(const Product& p, int positions) {
  Tiling t{p.height, p.width, p.rows, p.columns, 0, 0, 0, 0, 0, 0, p.stride, p.taps, p.adjoint, p.phases};
  if (p.phases) {
    t.pitch = p.width + 1;
    t.slots = positions + t.pitch + 1;
    t.tiles = static_cast<int>(divide_up<int64_t>(p.positions(), positions));
    return t;
  }
  t.tile_width = positions >= 256 && p.columns > 8 ? 16 : 8;
  t.tile_height = positions / t.tile_width;
  t.tiles_x = divide_up(p.columns, t.tile_width);
  t.tiles = t.tiles_x * divide_up(p.rows, t.tile_height);
  t.pitch = p.stride == 1 ? t.tile_width + 2 : 2 * t.tile_width + 1;
  t.slots = t.pitch * (p.stride == 1 ? t.tile_height + 2 : 2 * t.tile_height + 1);
  return t;
}

// The pixel of the source in a slot of the patch, -1 outside of the image.
__device__ __forceinline__ int pixel_of_slot(const Tiling& t, int tile, int positions, int slot) {
  int y, x;
  if (t.tile_width == 0) {
    const int64_t run = int64_t{tile} * positions - t.pitch - 1 + slot;
    if (run < 0) return -1;
    y = static_cast<int>(run / t.pitch);
    x = static_cast<int>(run % t.pitch);
  } else {
    const int row = slot / t.pitch, column = slot % t.pitch;
    const int top = tile / t.tiles_x * t.tile_height, left = tile % t.tiles_x * t.tile_width;
    if (t.stride == 1) {
      y = top - 1 + row;
      x = left - 1 + column;
    } else {
      const int odd = column > t.tile_width;
      y = 2 * top + row;
      x = 2 * left + (odd ? 2 * (column - t.tile_width) - 1 : 2 * column);
    }
  }
  return y >= 0 && y < t.height && x >= 0 && x < t.width ? y * t.width + x : -1;
}

// The position of the image that is number m of a tile, -1 outside.
__device__ __forceinline__ int position_of(const Tiling& t, int tile, int positions, int m) {
  if (t.tile_width == 0) {
    const int64_t run = int64_t{tile} * positions + m;
    return run < int64_t{t.rows} * t.columns ? static_cast<int>(run) : -1;
  }
  const int row = tile / t.tiles_x * t.tile_height + m / t.tile_width;
  const int column = tile % t.tiles_x * t.tile_width + m % t.tile_width;
  return row < t.rows && column < t.columns ? row * t.columns + column : -1;
}

// The slot of number m of a tile, to which a tap adds its offset.
__device__ __forceinline__ int slot_of(const Tiling& t, int m) {
  return t.tile_width == 0 ? m : m / t.tile_width * t.stride * t.pitch + m % t.tile_width;
}

// Along one axis: an even row 2j of the transposed convolution is x[j] w[0] + x[j-1] w[2], an odd one x[j] w[1].
__device__ __forceinline__ int count_phase_taps(int phase) {
  return (phase & 2 ? 1 : 2) * (phase & 1 ? 1 : 2);
}

__device__ __forceinline__ Tap tap_of(const Tiling& t, int phase, int index) {
  if (t.phases) {
    const int columns = phase & 1 ? 1 : 2, down = index / columns, across = index % columns;
    const int y = phase & 2 ? 1 : 2 * down, x = phase & 1 ? 1 : 2 * across;
    return {(1 - down) * t.pitch + 1 - across, 3 * y + x};
  }
  if (t.taps == 1) return {t.pitch + 1, 0};
  const int y = index / 3, x = index % 3;
  if (t.stride == 2) return {y * t.pitch + (x & 1) * (t.pitch / 2 + 1) + x / 2, index};
  return {y * t.pitch + x, t.adjoint ? 8 - index : index};
}

// What a block works on, from its number; all n-tiles of a patch are neighbors, so that they find it in the L2 cache.
struct Work {
  int n_tile, tile, phase, split;
  int64_t sample;

  __device__ Work(const Tiling& t, int n_tiles, int images, int splits) {
    int64_t index = blockIdx.x;
    n_tile = static_cast<int>(index % n_tiles);
    index /= n_tiles;
    tile = static_cast<int>(index % t.tiles);
    index /= t.tiles;
    phase = static_cast<int>(index % images);
    index /= images;
    split = static_cast<int>(index % splits);
    sample = index / splits;
  }
};

// What a block knows before it starts to multiply.
struct Tables {
  int* pixels;     // [slots] of the source, -1 outside
  int* positions;  // [tile] of the result, -1 outside
  Tap* taps;       // [kMaxTaps]
};

__host__ __device__ inline size_t table_bytes(int slots, int positions) {
  return divide_up<size_t>(sizeof(int) * (slots + positions) + sizeof(Tap) * kMaxTaps, 128) * 128;
}

__device__ __forceinline__ Tables make_tables(unsigned char* memory, const Tiling& tiling, const Work& work,
                                              int positions, int taps) {
  Tables t;
  t.taps = reinterpret_cast<Tap*>(memory);
  t.pixels = reinterpret_cast<int*>(t.taps + kMaxTaps);
  t.positions = t.pixels + tiling.slots;
  for (int slot = threadIdx.x; slot < tiling.slots; slot += kThreads)
    t.pixels[slot] = pixel_of_slot(tiling, work.tile, positions, slot);
  for (int m = threadIdx.x; m < positions; m += kThreads)
    t.positions[m] = position_of(tiling, work.tile, positions, m);
  if (threadIdx.x < taps) t.taps[threadIdx.x] = tap_of(tiling, work.phase, threadIdx.x);
  __syncthreads();
  return t;
}

// Blocks of a grid, checked against what one launch can have.
inline unsigned count_blocks(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= 0x7fffffff, "modulated_conv2d: too many tiles for one launch: ", blocks);
  return static_cast<unsigned>(blocks);
}

}  // namespace legato::modulated
