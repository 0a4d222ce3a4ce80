// A product of matrices by every primitive of the emulation, with its barriers to be left out one at a time.
// c [16,8] = a [16,16] b [8,16]^T on one warp for the product and a second one that only fetches.

#include "check.h"
#include "cuda/launch.cuh"
#include "cuda/mma.cuh"
#include "cuda/shared.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>

namespace legato {
namespace {

enum Fault { kNone, kNoBarrier, kNoWait, kOverflow, kPartWarp };

template <typename T>
struct Layout {
  alignas(16) T a[16][24];  // rows of 48 bytes
  alignas(16) T b[8][24];
};

template <typename T>
__global__ void __launch_bounds__(64)
    product(float* __restrict__ c, const T* __restrict__ a, const T* __restrict__ b, int fault, bool transposed) {
  Layout<T>& shared = shared_memory<Layout<T>>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  if (fault == kPartWarp && thread == 5) return;
  if (thread >= kWarp) {
    cp_async_16(&shared.a[lane / 2][lane % 2 * 8], a + lane / 2 * 16 + lane % 2 * 8);
    if (lane < 16) cp_async_16(&shared.b[lane / 2][lane % 2 * 8], b + lane / 2 * 16 + lane % 2 * 8);
    cp_async_commit();
    if (fault != kNoWait) cp_async_wait<0>();
  }
  if (fault != kNoBarrier) __syncthreads();
  if (fault == kOverflow && thread == 0) (&shared)[1].a[0][0] = T(1.0f);
  if (thread >= kWarp) return;
  uint32_t left[4], right[2];
  float sums[4] = {0, 0, 0, 0};
  ldmatrix(left, &shared.a[lane % 16][lane / 16 * 8]);
  if (transposed) {  // each tile of b twice transposed is itself
    uint32_t pair[2];
    ldmatrix_transposed(pair, &shared.b[lane % 8][lane / 8 % 2 * 8]);
    __syncwarp();
    T* row = &shared.b[lane / 4][lane % 4 * 2];
    for (int i = 0; i < 4; ++i)
      row[i / 2 * 8 + i % 2] = T(static_cast<unsigned short>(pair[i / 2] >> (16 * (i % 2))), T::from_bits());
    __syncwarp();
    ldmatrix_transposed(right, &shared.b[lane % 8][lane / 8 % 2 * 8]);
  } else {
    ldmatrix(right, &shared.b[lane % 8][lane / 8 % 2 * 8]);
  }
  mma<T>(sums, left, right);
  for (int i = 0; i < 4; ++i)
    c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

Tensor run(Tensor a, Tensor b, int64_t fault, bool transposed) {
  const Device device("emulation_selftest", a);
  const Tensor c = torch::stable::empty(std::array<int64_t, 2>{16, 8}, ScalarType::Float, std::nullopt, a.device());
  dispatch("emulation_selftest", a.scalar_type(), [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      device.launch("product", product<T>, 1, 64, sizeof(Layout<T>), mutable_data<float>(c), data<T>(a), data<T>(b),
                    static_cast<int>(fault), transposed);
    }
  });
  return c;
}

}  // namespace

STABLE_TORCH_LIBRARY(legato, m) {
  m.def("emulation_selftest(Tensor a, Tensor b, int fault, bool transposed) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(legato, CUDA, m) {
  m.impl("emulation_selftest", TORCH_BOX(&run));
}

}  // namespace legato
