// The implicit GEMM of modulated_conv2d in float32 and float64, as exact as the type: no tensor cores, no TF32. The
// same patch in shared memory for all taps; a thread makes 4 positions of 4 channels.

#include "cuda/modulated_conv2d_tile.cuh"
#include "cuda/modulated_conv2d_vector.cuh"
#include "cuda/shared.cuh"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace legato::modulated {
namespace {

constexpr int M = 64, N = 64, kDepth = 8;  // positions and channels of a block, channels summed over at a time
constexpr int kSide = 4, kAcross = N / kSide;

// 16 bytes: what a thread reads at a time, and how far rows are padded apart so that they start in different banks.
template <typename T>
constexpr int kWord = 16 / sizeof(T);
template <typename T>
constexpr int kPitch = kDepth + kWord<T>;

template <typename T>
struct alignas(16) Word {
  T values[kWord<T>];
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) multiply_kernel(Tiling tiling, int64_t batch, int k, int n, int images,
                                                               int splits, Operands<T> operands, T* partial) {
  const Work work(tiling, divide_up(n, N), images, splits);
  const int taps = tiling.phases ? count_phase_taps(work.phase) : tiling.taps, first = work.n_tile * N;
  unsigned char* memory = &shared_memory<unsigned char>();
  const Tables tables = make_tables(memory, tiling, work, M, taps);
  T* patch = reinterpret_cast<T*>(memory + table_bytes(tiling.slots, M));  // [slots][kPitch]
  T* weights = patch + tiling.slots * kPitch<T>;                           // [taps][N][kPitch]

  const int across = threadIdx.x % kAcross, down = threadIdx.x / kAcross;
  int slots[kSide];
  for (int i = 0; i < kSide; ++i)
    slots[i] = slot_of(tiling, down * kSide + i);
  const T* source = operands.source + work.sample * tiling.height * tiling.width * k;
  const int chunks = divide_up(k, kDepth), share = divide_up(chunks, splits);
  const int begin = min(work.split * share, chunks), end = min(begin + share, chunks);

  T sums[kSide][kSide] = {};  // [position][channel]
  for (int chunk = begin; chunk < end; ++chunk) {
    __syncthreads();
    for (int i = threadIdx.x; i < tiling.slots * kDepth; i += kThreads) {
      const int slot = i / kDepth, channel = chunk * kDepth + i % kDepth;
      const int pixel = tables.pixels[slot];
      T value = T(0);
      if (pixel >= 0 && channel < k) {
        value = source[int64_t{pixel} * k + channel];
        if (operands.scale != nullptr) value *= operands.scale[work.sample * k + channel];
      }
      patch[slot * kPitch<T> + i % kDepth] = value;
    }
    for (int i = threadIdx.x; i < taps * N * kDepth; i += kThreads) {
      const int inner = tiling.adjoint ? i / N % kDepth : i % kDepth, outer = tiling.adjoint ? i % N : i / kDepth % N;
      const int tap = i / (N * kDepth), from = chunk * kDepth + inner, to = first + outer;
      const int64_t row = tiling.adjoint ? from : to, column = tiling.adjoint ? to : from;
      T value = T(0);
      if (from < k && to < n) {
        const int64_t width = tiling.adjoint ? n : k;
        value = operands.weight[(row * tiling.taps + tables.taps[tap].weight) * width + column];
      }
      weights[(tap * N + outer) * kPitch<T> + inner] = value;
    }
    __syncthreads();
    T stage[kSide][kSide] = {};  // summed apart: thousands of terms in one sum would round more than a library's blocks
    for (int tap = 0; tap < taps; ++tap) {
      const int offset = tables.taps[tap].offset;
#pragma unroll
      for (int depth = 0; depth < kDepth; depth += kWord<T>) {
        Word<T> a[kSide], b[kSide];
#pragma unroll
        for (int i = 0; i < kSide; ++i) {
          a[i] = *reinterpret_cast<const Word<T>*>(patch + (slots[i] + offset) * kPitch<T> + depth);
          b[i] = *reinterpret_cast<const Word<T>*>(weights + (tap * N + across + i * kAcross) * kPitch<T> + depth);
        }
#pragma unroll
        for (int d = 0; d < kWord<T>; ++d) {
#pragma unroll
          for (int i = 0; i < kSide; ++i) {
#pragma unroll
            for (int j = 0; j < kSide; ++j)
              stage[i][j] += a[i].values[d] * b[j].values[d];
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
#pragma unroll
      for (int j = 0; j < kSide; ++j)
        sums[i][j] += stage[i][j];
    }
  }

  const int64_t pixels = int64_t{tiling.rows} * tiling.columns, image = work.sample * images + work.phase;
  T* to = partial + (work.split * batch * images + image) * pixels * n;
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
    const int position = tables.positions[down * kSide + i];
#pragma unroll
    for (int j = 0; j < kSide; ++j) {
      const int channel = first + across + j * kAcross;
      if (position >= 0 && channel < n) to[position * int64_t{n} + channel] = sums[i][j];
    }
  }
}

}  // namespace

template <typename T>
void multiply(const Device& device, const Product& p, const Operands<T>& operands, const Result<T>& result) {
  const Tiling tiling = make_tiling(p, M);
  const int64_t blocks = p.batch * p.images() * p.splits * tiling.tiles * divide_up(p.n, N);
  const size_t bytes = table_bytes(tiling.slots, M) + sizeof(T) * kPitch<T> * (tiling.slots + p.taps * N);
  device.launch("multiply", multiply_kernel<T>, dim3(count_blocks(blocks)), dim3(kThreads), bytes, tiling, p.batch, p.k,
                p.n, p.images(), p.splits, operands, result.partial);
}

template <typename T>
int count_tiles(const Device&, const Product& product) {
  return make_tiling(product, M).tiles;
}

template int count_tiles<float>(const Device&, const Product&);
template int count_tiles<double>(const Device&, const Product&);
template void multiply<float>(const Device&, const Product&, const Operands<float>&, const Result<float>&);
template void multiply<double>(const Device&, const Product&, const Operands<double>&, const Result<double>&);

}  // namespace legato::modulated
