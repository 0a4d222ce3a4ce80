// Products of matrices in panels of 32 columns, for float32 on AVX-512 and AVX2: both factors lie in memory in the
// order in which they are read, so that almost every instruction multiplies.
//
// Sums are taken over 32 products, then over those sums: they round less than one long sum does.
#pragma once

#include "cpu/common.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace legato {

constexpr int64_t kPanel = 32;  // columns
constexpr int64_t kDepth = 32;  // products in a sum
constexpr int64_t kMostRows = 12;

template <int lanes>
struct Wide {
  typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
  typedef Vector Stored __attribute__((aligned(alignof(float)), may_alias));
};

// `lanes` values anywhere in memory
template <int lanes>
LEGATO_INLINE const typename Wide<lanes>::Stored& wide(const float* values) {
  return *reinterpret_cast<const typename Wide<lanes>::Stored*>(values);
}
template <int lanes>
LEGATO_INLINE typename Wide<lanes>::Stored& wide(float* values) {
  return *reinterpret_cast<typename Wide<lanes>::Stored*>(values);
}

#ifdef LEGATO_X86

// out = a b, added to what is there unless it is the first sum. The sums stay in registers: 2 * rows of them.
template <int lanes, int rows>
LEGATO_INLINE void multiply_rows(float* out,      // [rows, 32], of which 2 * lanes columns
                                 const float* a,  // [rows, 32]
                                 const float* b,  // [depth, 32]
                                 int64_t depth, bool first) {
  typename Wide<lanes>::Vector sums[rows][2];
  #pragma GCC unroll 12
  for (int r = 0; r < rows; ++r)
    sums[r][0] = sums[r][1] = typename Wide<lanes>::Vector{};
  for (int64_t k = 0; k < depth; ++k) {
    const typename Wide<lanes>::Vector left = wide<lanes>(b + k * kPanel), right = wide<lanes>(b + k * kPanel + lanes);
  #pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      sums[r][0] += a[r * kDepth + k] * left;
      sums[r][1] += a[r * kDepth + k] * right;
    }
  }
  #pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
    float* to = out + r * kPanel;
    if (!first) {
      sums[r][0] += wide<lanes>(to);
      sums[r][1] += wide<lanes>(to + lanes);
    }
    wide<lanes>(to) = sums[r][0];
    wide<lanes>(to + lanes) = sums[r][1];
  }
}

template <int rows>
LEGATO_X86(4)
void multiply_avx512(float* out, const float* a, const float* b, int64_t depth, bool first) {
  multiply_rows<16, rows>(out, a, b, depth, first);
}

template <int rows>
LEGATO_X86(3)
void multiply_avx2(float* out, const float* a, const float* b, int64_t depth, bool first) {
  multiply_rows<8, rows>(out, a, b, depth, first);
  multiply_rows<8, rows>(out + 16, a, b + 16, depth, first);
}

#endif

// What multiplies 1, 2, ... `most` rows; none where the machine has neither AVX-512 nor AVX2.
struct PanelKernels {
  using Kernel = void (*)(float*, const float*, const float*, int64_t, bool);
  int64_t most = 0;
  std::array<Kernel, kMostRows> of{};

  // ATEN_CPU_CAPABILITY limits torch's own kernels, too.
  static const PanelKernels& here() {
    static const PanelKernels kernels = choose(std::getenv("ATEN_CPU_CAPABILITY"));
    return kernels;
  }

 private:
#ifdef LEGATO_X86
  template <int... rows>
  static PanelKernels avx512(std::integer_sequence<int, rows...>) {
    return {sizeof...(rows), {multiply_avx512<rows + 1>...}};
  }
  template <int... rows>
  static PanelKernels avx2(std::integer_sequence<int, rows...>) {
    return {sizeof...(rows), {multiply_avx2<rows + 1>...}};
  }
  static PanelKernels choose(const char* limit) {
    const bool plain = limit && std::strcmp(limit, "default") == 0, narrow = limit && std::strcmp(limit, "avx2") == 0;
    if (!plain && !narrow && __builtin_cpu_supports("x86-64-v4")) return avx512(std::make_integer_sequence<int, 12>());
    if (!plain && __builtin_cpu_supports("x86-64-v3")) return avx2(std::make_integer_sequence<int, 6>());
    return {};
  }
#else
  static PanelKernels choose(const char*) { return {}; }
#endif
};

// out = a b for one panel, added to what is there unless it is the first part of the sum. Calls for the part of b that
// is needed after this one.
inline void multiply_part(float* out,      // [rows, 32]
                          const float* a,  // [rows, 32], of which `depth` columns
                          const float* b,  // [depth, 32]
                          int64_t rows, int64_t depth, bool first, const float* next) {
  constexpr int64_t kLine = 16, kLines = kDepth * kPanel / kLine;  // of the cache
  const PanelKernels& kernels = PanelKernels::here();
  const int64_t groups = (rows + kernels.most - 1) / kernels.most;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t begin = group * rows / groups, end = (group + 1) * rows / groups;
    for (int64_t line = group * kLines / groups; line < (group + 1) * kLines / groups; ++line)
      __builtin_prefetch(next + line * kLine);
    kernels.of[end - begin - 1](out + begin * kPanel, a + begin * kDepth, b, depth, first);
  }
}

}  // namespace legato
