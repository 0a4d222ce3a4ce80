// A warp's matrix product on tensor cores: c[16x8] += a[16x16] b[16x8] in half precision with float32 sums, and the
// loads from shared memory that lay its operands out. All 32 lanes have to call these together.
//
// Fragments, with group = lane / 4 and pair = lane % 4 (PTX ISA, mma.m16n8k16):
//   a  row-major [m][k]: a[0] rows group, a[1] rows group + 8, both columns 2 pair, 2 pair + 1; a[2], a[3] columns + 8
//   b  [n][k] (k contiguous): b[0] n = group, k = 2 pair, 2 pair + 1; b[1] k + 8
//   c  c[0], c[1] row group, columns 2 pair, 2 pair + 1; c[2], c[3] row group + 8
//
// ldmatrix(out, row) loads 8x8 tiles of 16-bit values, one register each: lane i gives the address (a multiple of 16)
// of row i % 8 of tile i / 8; with two tiles lanes 16-31 give any valid address. Lane l gets columns 2 (l % 4) and
// 2 (l % 4) + 1 of row l / 4. Operand a of a row-major tile in shared memory: lane i points to row i % 16, column
// 8 (i / 16). Operands b of two n-tiles stored [n][k]: row i % 8 + 8 (i / 16), column 8 (i / 8 % 2), giving {b0[0],
// b0[1], b1[0], b1[1]}. ldmatrix_transposed gives the transpose of each tile: for b stored [k][n], or a stored [k][m].
#pragma once

#include "cuda/shared.cuh"
#include "dtypes.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace legato {

__device__ __forceinline__ void ldmatrix(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix(uint32_t (&out)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&out)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(shared_address(row))
               : "memory");
}

// c += a b; T is Half or BFloat16
template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>, "tensor cores take 16-bit floats here");
  if constexpr (std::is_same_v<T, Half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

}  // namespace legato
