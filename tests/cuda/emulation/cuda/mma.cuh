// csrc/cuda/mma.cuh for the emulation.
#pragma once

#include "cuda/shared.cuh"
#include "dtypes.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace legato {
namespace emulated_tiles {

struct Row {
  uint16_t values[8];
};

// Only the lanes that give a row that is used have to give an address in shared memory.
template <int N>
void load(uint32_t (&out)[N], const void* address, bool transposed) {
  Row mine{};
  if (legato_emulation::lane() < 8 * N) {
    legato_emulation::require_shared("ldmatrix", address, sizeof(Row));
    std::memcpy(&mine, address, sizeof(Row));
  }
  const legato_emulation::Exchange<Row> rows(transposed ? "ldmatrix_transposed" : "ldmatrix", mine);
  const int major = legato_emulation::lane() / 4, minor = legato_emulation::lane() % 4 * 2;
  for (int tile = 0; tile < N; ++tile) {
    const auto value = [&](int i) {
      return uint32_t{transposed ? rows.of(8 * tile + minor + i).values[major]
                                 : rows.of(8 * tile + major).values[minor + i]};
    };
    out[tile] = value(0) | value(1) << 16;
  }
}

struct Operands {
  uint32_t a[4], b[2];
};

template <typename T>
float half_of(uint32_t pair, int which) {
  return static_cast<float>(T(static_cast<uint16_t>(pair >> (16 * which)), T::from_bits()));
}

}  // namespace emulated_tiles

template <int N>
void ldmatrix(uint32_t (&out)[N], const void* row) {
  static_assert(N == 2 || N == 4);
  emulated_tiles::load(out, row, false);
}

template <int N>
void ldmatrix_transposed(uint32_t (&out)[N], const void* row) {
  static_assert(N == 2 || N == 4);
  emulated_tiles::load(out, row, true);
}

template <typename T>
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>, "tensor cores take 16-bit floats here");
  using emulated_tiles::half_of;
  using emulated_tiles::Operands;
  const legato_emulation::Exchange<Operands> all("mma", Operands{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const int group = legato_emulation::lane() / 4, pair = legato_emulation::lane() % 4;
  for (int k = 0; k < 16; ++k) {
    const int owner = k % 8 / 2, upper = k / 8, which = k % 2;
    const Operands rows = all.of(4 * group + owner);
    for (int column = 0; column < 2; ++column) {
      const float right = half_of<T>(all.of(4 * (2 * pair + column) + owner).b[upper], which);
      c[column] += half_of<T>(rows.a[2 * upper], which) * right;
      c[2 + column] += half_of<T>(rows.a[2 * upper + 1], which) * right;
    }
  }
}

}  // namespace legato
