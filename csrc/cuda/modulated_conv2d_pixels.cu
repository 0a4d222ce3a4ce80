// Passes over activations around the products of modulated_conv2d: what finishes partial sums, and what turns grad_y
// into the gradient before the epilogue. Every thread has eight channels; those that filter walk down a column.

#include "cuda/modulated_conv2d_tile.cuh"
#include "cuda/modulated_conv2d_vector.cuh"
#include "cuda/shared.cuh"
#include "math/fir.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace legato::modulated {
namespace {

constexpr int kRows = 16;  // that a thread walks down
template <typename T>
constexpr int kBlocks = sizeof(T) == 8 ? 1 : 2;  // of a multiprocessor, at least

// Which eight channels, which of the block's columns of threads, which strip: blocks take `vectors` groups of channels,
// a power of two, and kThreads / vectors pixels at a time.
struct Lane {
  int vectors, lanes, lane;
  int channel;  // the first of eight
  int64_t strip, sample;

  __device__ Lane(const Map& map, int64_t strips, int vectors) : vectors(vectors), lanes(kThreads / vectors) {
    const int groups = divide_up(map.channels, vectors * kVector);
    lane = threadIdx.x / vectors;
    channel = (blockIdx.x % groups * vectors + threadIdx.x % vectors) * kVector;
    strip = blockIdx.x / groups % strips;
    sample = blockIdx.x / groups / strips;
  }

  __device__ int first_channel() const { return channel - threadIdx.x % vectors * kVector; }
};

int count_vectors(const Map& map) {
  int vectors = 1;
  while (vectors < 32 && vectors * kVector < map.channels)
    vectors *= 2;
  return vectors;
}

// Strips of an image: of kRows * lanes pixels, or with `columns` of kRows rows by `lanes` columns.
int64_t count_pixel_strips(const Map& map, int vectors) {
  return divide_up<int64_t>(map.pixels(), kRows * (kThreads / vectors));
}

int64_t count_column_strips(int height, int width, int vectors) {
  return int64_t{divide_up(height, kRows)} * divide_up(width, kThreads / vectors);
}

unsigned blocks_for(const Map& map, int64_t strips, int vectors) {
  return count_blocks(map.batch * strips * divide_up(map.channels, vectors * kVector));
}

template <typename A, typename P>
__device__ __forceinline__ void add_splits(A (&sum)[kVector], const P* from, int splits, int64_t step, int count,
                                           bool vectors) {
  load(sum, from, count, vectors);
#pragma unroll 1
  for (int split = 1; split < splits; ++split) {
    A more[kVector];
    load(more, from + split * step, count, vectors);
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      sum[i] += more[i];
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    finish_forward_kernel(Map map, int64_t strips, int vectors, int splits, const Accumulator<T>* partial,
                          Epilogue<T> epilogue, T* y) {
  using A = Accumulator<T>;
  const Lane my(map, strips, vectors);
  const int count = map.channels - my.channel;
  if (count <= 0) return;
  const ChannelEpilogue<T> finish(epilogue, my.sample, map.channels, my.channel);
  const int64_t pixels = map.pixels(), step = map.batch * pixels * map.channels;
  const int64_t first = my.strip * kRows * my.lanes;
  const int64_t last = min(first + kRows * my.lanes, pixels);
#pragma unroll 1
  for (int64_t pixel = first + my.lane; pixel < last; pixel += my.lanes) {
    const int64_t at = (my.sample * pixels + pixel) * map.channels + my.channel;
    A values[kVector];
    add_splits(values, partial + at, splits, step, count, map.vectors);
    finish(values, pixel);
    store(y + at, values, count, map.vectors);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    finish_adjoint_kernel(Map map, int64_t strips, int vectors, int splits, const Accumulator<T>* partial,
                          Adjoint<T> adjoint, T* grad_x) {
  using A = Accumulator<T>;
  const Lane my(map, strips, vectors);
  const int count = map.channels - my.channel;
  A scale[kVector], sums[kVector] = {};
  load_or(A(0), scale, adjoint.scale + my.sample * map.channels + my.channel, count);
  const int64_t pixels = map.pixels(), step = map.batch * pixels * map.channels;
  const int64_t first = my.strip * kRows * my.lanes;
  const int64_t last = count <= 0 ? 0 : min(first + kRows * my.lanes, pixels);
#pragma unroll 1
  for (int64_t pixel = first + my.lane; pixel < last; pixel += my.lanes) {
    const int64_t at = (my.sample * pixels + pixel) * map.channels + my.channel;
    A h[kVector], x[kVector];
    add_splits(h, partial + at, splits, step, count, map.vectors);
    load(x, adjoint.x + at, count, map.vectors);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sums[i] += h[i] * x[i];
      h[i] *= scale[i];
    }
    store(grad_x + at, h, count, map.vectors);
  }
  A* to = adjoint.sums + (my.sample * strips + my.strip) * map.channels + my.first_channel();
  store_sums(to, sums, my.vectors, map.channels - my.first_channel(), &shared_memory<A>());
}

// Row r, column c of the transposed convolution [2H+1, 2W+1], in the phase of their parities.
template <typename T, typename P>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    finish_upsampled_kernel(Map map, int64_t strips, int vectors, int splits, const P* phases, Epilogue<T> epilogue,
                            T* y) {
  using A = Accumulator<T>;
  const Lane my(map, strips, vectors);
  const int across = divide_up(map.width, my.lanes);
  const int column = static_cast<int>(my.strip % across) * my.lanes + my.lane;
  const int first = static_cast<int>(my.strip / across) * kRows, last = min(first + kRows, map.height);
  const int count = map.channels - my.channel;
  if (count <= 0 || column >= map.width) return;
  const ChannelEpilogue<T> finish(epilogue, my.sample, map.channels, my.channel);
  const int rows = map.height / 2 + 1, columns = map.width / 2 + 1;
  const int64_t image = int64_t{rows} * columns * map.channels, step = 4 * map.batch * image;
  const P* base = phases + 4 * my.sample * image + my.channel;
  A window[3][kVector] = {};  // the last three rows, filtered across
#pragma unroll 1
  for (int row = first - 1; row < last + 2; ++row) {
    A pairs[2][kVector];  // taps 0 + 3, taps 1 + 2
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        pairs[pair][i] = A(0);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int c = column - 1 + (side == 0 ? pair : 3 - pair);
        if (row < 0 || c < 0) continue;
        const int64_t at = (2 * (row & 1) + (c & 1)) * image + (int64_t{row / 2} * columns + c / 2) * map.channels;
        A values[kVector];
        add_splits(values, base + at, splits, step, count, map.vectors);
#pragma unroll
        for (int i = 0; i < kVector; ++i)
          pairs[pair][i] += values[i];
      }
    }
    A values[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const A filtered = low_pass(pairs[0][i], pairs[1][i], A(0), A(0));
      values[i] = low_pass(window[0][i], window[1][i], window[2][i], filtered);
      window[0][i] = window[1][i];
      window[1][i] = window[2][i];
      window[2][i] = filtered;
    }
    const int output = row - 2;
    if (output < first) continue;
    const int64_t pixel = int64_t{output} * map.width + column;
    finish(values, pixel);
    store(y + (my.sample * map.pixels() + pixel) * map.channels + my.channel, values, count, map.vectors);
  }
}

// g at a pixel for eight channels; what grad_y * activation'(y) * (activation^-1(y) - noise - bias) is goes to `terms`.
template <typename T>
__device__ __forceinline__ void gradient_at(const Map& map, const Lane& my, const T* grad_y, const T* y,
                                            const ChannelEpilogue<T>& e, int64_t pixel, Accumulator<T> (&g)[kVector],
                                            Accumulator<T> (&terms)[kVector]) {
  using A = Accumulator<T>;
  const int64_t at = (my.sample * map.pixels() + pixel) * map.channels + my.channel;
  const int count = map.channels - my.channel;
  A kept[kVector];
  load(g, grad_y + at, count, map.vectors);
  load(kept, y + at, count, map.vectors);
  const A offset = e.noise_at(pixel);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const A before = g[i] * e.activation.derivative(kept[i]);
    terms[i] = before * (e.activation.inverse(kept[i]) - offset - e.bias[i]);
    g[i] = before * e.scale[i];
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    differentiate_kernel(Map map, int64_t strips, int vectors, const T* grad_y, const T* y, Epilogue<T> epilogue, T* g,
                         Accumulator<T>* sums) {
  using A = Accumulator<T>;
  const Lane my(map, strips, vectors);
  const int count = map.channels - my.channel;
  const ChannelEpilogue<T> e(epilogue, my.sample, map.channels, my.channel);
  const int64_t pixels = map.pixels(), first = my.strip * kRows * my.lanes;
  const int64_t last = count <= 0 ? 0 : min(first + kRows * my.lanes, pixels);
  A total[kVector] = {};
#pragma unroll 1
  for (int64_t pixel = first + my.lane; pixel < last; pixel += my.lanes) {
    A values[kVector], terms[kVector];
    gradient_at(map, my, grad_y, y, e, pixel, values, terms);
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      total[i] += terms[i];
    store(g + (my.sample * pixels + pixel) * map.channels + my.channel, values, count, map.vectors);
  }
  A* to = sums + (my.sample * strips + my.strip) * map.channels + my.first_channel();
  store_sums(to, total, my.vectors, map.channels - my.first_channel(), &shared_memory<A>());
}

// As above, then the adjoint of the filter: row r of the result takes rows r - 2 .. r + 1 of g, columns alike.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    differentiate_filtered_kernel(Map map, int64_t strips, int vectors, const T* grad_y, const T* y,
                                  Epilogue<T> epilogue, T* g, Accumulator<T>* sums) {
  using A = Accumulator<T>;
  const Lane my(map, strips, vectors);
  const int rows = map.height + 1, columns = map.width + 1, across = divide_up(columns, my.lanes);
  const int column = static_cast<int>(my.strip % across) * my.lanes + my.lane;
  const int count = map.channels - my.channel;
  const int first = static_cast<int>(my.strip / across) * kRows;
  const int last = count <= 0 || column >= columns ? first - 3 : min(first + kRows, rows);
  const ChannelEpilogue<T> e(epilogue, my.sample, map.channels, my.channel);
  A total[kVector] = {}, window[3][kVector] = {};
#pragma unroll 1
  for (int row = first - 2; row < last + 1; ++row) {
    A pairs[2][kVector];  // taps 0 + 3, taps 1 + 2
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        pairs[pair][i] = A(0);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int tap = side == 0 ? pair : 3 - pair, c = column - 2 + tap;
        if (row < 0 || row >= map.height || c < 0 || c >= map.width) continue;
        A values[kVector], terms[kVector];
        gradient_at(map, my, grad_y, y, e, int64_t{row} * map.width + c, values, terms);
        const bool mine = tap == 2 && row >= first && row < last;  // this pixel is nobody else's
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          pairs[pair][i] += values[i];
          if (mine) total[i] += terms[i];
        }
      }
    }
    A values[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const A filtered = low_pass(pairs[0][i], pairs[1][i], A(0), A(0));
      values[i] = low_pass(window[0][i], window[1][i], window[2][i], filtered);
      window[0][i] = window[1][i];
      window[1][i] = window[2][i];
      window[2][i] = filtered;
    }
    const int output = row - 1;
    if (output < first) continue;
    const int64_t at = (my.sample * rows + output) * columns + column;
    store(g + at * map.channels + my.channel, values, count, map.vectors);
  }
  A* to = sums + (my.sample * strips + my.strip) * map.channels + my.first_channel();
  store_sums(to, total, my.vectors, map.channels - my.first_channel(), &shared_memory<A>());
}

template <typename T>
constexpr size_t kSumBytes = sizeof(Accumulator<T>) * kThreads * kVector;

}  // namespace

int64_t count_strips(const Map& map, bool filter) {
  const int vectors = count_vectors(map);
  return filter ? count_column_strips(map.height + 1, map.width + 1, vectors) : count_pixel_strips(map, vectors);
}

template <typename T>
void finish_forward(const Device& device, const Map& map, int splits, const Accumulator<T>* partial,
                    const Epilogue<T>& epilogue, T* y) {
  const int vectors = count_vectors(map);
  const int64_t strips = count_strips(map, false);
  device.launch("finish_forward", finish_forward_kernel<T>, dim3(blocks_for(map, strips, vectors)), dim3(kThreads), 0,
                map, strips, vectors, splits, partial, epilogue, y);
}

template <typename T>
void finish_adjoint(const Device& device, const Map& map, int splits, const Accumulator<T>* partial,
                    const Adjoint<T>& adjoint, T* grad_x) {
  const int vectors = count_vectors(map);
  const int64_t strips = count_strips(map, false);
  device.launch("finish_adjoint", finish_adjoint_kernel<T>, dim3(blocks_for(map, strips, vectors)), dim3(kThreads),
                kSumBytes<T>, map, strips, vectors, splits, partial, adjoint, grad_x);
}

template <typename T, typename P>
void finish_upsampled(const Device& device, const Map& map, int splits, const P* phases, const Epilogue<T>& epilogue,
                      T* y) {
  const int vectors = count_vectors(map);
  const int64_t strips = count_column_strips(map.height, map.width, vectors);
  device.launch("finish_upsampled", finish_upsampled_kernel<T, P>, dim3(blocks_for(map, strips, vectors)),
                dim3(kThreads), 0, map, strips, vectors, splits, phases, epilogue, y);
}

template <typename T>
void differentiate(const Device& device, const Map& map, bool filter, const T* grad_y, const T* y,
                   const Epilogue<T>& epilogue, T* g, Accumulator<T>* sums) {
  const int vectors = count_vectors(map);
  const int64_t strips = count_strips(map, filter);
  device.launch("differentiate", filter ? differentiate_filtered_kernel<T> : differentiate_kernel<T>,
                dim3(blocks_for(map, strips, vectors)), dim3(kThreads), kSumBytes<T>, map, strips, vectors, grad_y, y,
                epilogue, g, sums);
}

#define LEGATO_INSTANCES(T)                                                                                       \
  template void finish_forward<T>(const Device&, const Map&, int, const Accumulator<T>*, const Epilogue<T>&, T*); \
  template void finish_adjoint<T>(const Device&, const Map&, int, const Accumulator<T>*, const Adjoint<T>&, T*);  \
  template void finish_upsampled<T, Accumulator<T>>(const Device&, const Map&, int, const Accumulator<T>*,        \
                                                    const Epilogue<T>&, T*);                                      \
  template void differentiate<T>(const Device&, const Map&, bool, const T*, const T*, const Epilogue<T>&, T*,     \
                                 Accumulator<T>*);
LEGATO_INSTANCES(float)
LEGATO_INSTANCES(double)
LEGATO_INSTANCES(BFloat16)
LEGATO_INSTANCES(Half)
template void finish_upsampled<BFloat16, BFloat16>(const Device&, const Map&, int, const BFloat16*,
                                                   const Epilogue<BFloat16>&, BFloat16*);
template void finish_upsampled<Half, Half>(const Device&, const Map&, int, const Half*, const Epilogue<Half>&, Half*);

}  // namespace legato::modulated
