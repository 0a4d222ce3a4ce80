// a b^T for few rows of a, in float32 on AVX-512 and AVX2: both factors are read along their rows as they lie in
// memory, so that a weight that is used once is not rearranged for it.
#pragma once

#include "cpu/common.h"
#include "cpu/panels.h"
#include "cpu/vectors.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace legato {

constexpr int64_t kDotColumns = 8;

// A factor or the result: rows of values, `step` apart.
template <typename P>
struct Matrix {
  P* data;
  int64_t rows, columns, step;

  P* at(int64_t row, int64_t column) const { return data + row * step + column; }
};

#ifdef LEGATO_X86

LEGATO_INLINE void fold(Vector<float>& to, const Wide<16>::Vector& v) {
  to = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
       __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
LEGATO_INLINE void fold(Vector<float>& to, const Wide<8>::Vector& v) {
  to = v;
}

// out [rows, 8] = a [rows, depth] b [8, depth]^T, added to what is there unless it is the first sum
template <int lanes, int rows>
LEGATO_INLINE void dot_rows(const Matrix<float>& out, const Matrix<const float>& a, const Matrix<const float>& b,
                            int64_t depth, bool first) {
  typename Wide<lanes>::Vector sums[rows][kDotColumns];
  #pragma GCC unroll 8
  for (int c = 0; c < kDotColumns; ++c) {
  #pragma GCC unroll 3
    for (int r = 0; r < rows; ++r)
      sums[r][c] = typename Wide<lanes>::Vector{};
  }
  for (int64_t k = 0; k < depth; k += lanes) {
  #pragma GCC unroll 8
    for (int c = 0; c < kDotColumns; ++c) {
      typename Wide<lanes>::Vector right = wide<lanes>(b.at(c, k));
      asm("" : "+v"(right));  // loaded once, not for each row
  #pragma GCC unroll 3
      for (int r = 0; r < rows; ++r)
        sums[r][c] += wide<lanes>(a.at(r, k)) * right;
    }
  }
  #pragma GCC unroll 3
  for (int r = 0; r < rows; ++r) {
  #pragma GCC unroll 2
    for (int c = 0; c < kDotColumns; c += 4) {
      Vector<float> parts[4];
      Wide<4>::Vector totals;
  #pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        fold(parts[i], sums[r][c + i]);
      add_up<float>(reinterpret_cast<float*>(&totals), parts[0], parts[1], parts[2], parts[3]);
      float* to = out.at(r, c);
      if (!first) totals += wide<4>(to);
      wide<4>(to) = totals;
    }
  }
}

// out [M,8] = a [M,depth] b [8,depth]^T, `most` rows at a time, while the next eight rows of b are called for
template <int lanes, int most>
LEGATO_INLINE void dot_columns(const Matrix<float>& out, const Matrix<const float>& a, const Matrix<const float>& b,
                               bool first) {
  constexpr int64_t kLine = 16;  // values in a line of the cache
  const int64_t groups = (a.rows + most - 1) / most, lines = kDotColumns * (a.columns / kLine);
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t line = group * lines / groups; line < (group + 1) * lines / groups; ++line)
      __builtin_prefetch(b.at(kDotColumns + line % kDotColumns, line / kDotColumns * kLine));
    const int64_t row = group * a.rows / groups, rows = (group + 1) * a.rows / groups - row;
    const Matrix<float> to{out.at(row, 0), rows, out.columns, out.step};
    const Matrix<const float> from{a.at(row, 0), rows, a.columns, a.step};
    if (rows == 3)
      dot_rows<lanes, std::min(most, 3)>(to, from, b, a.columns, first);
    else if (rows == 2)
      dot_rows<lanes, std::min(most, 2)>(to, from, b, a.columns, first);
    else
      dot_rows<lanes, 1>(to, from, b, a.columns, first);
  }
}

LEGATO_X86(4)
inline void dot_avx512(const Matrix<float>& out, const Matrix<const float>& a, const Matrix<const float>& b,
                       bool first) {
  dot_columns<16, 3>(out, a, b, first);
}

LEGATO_X86(3)
inline void dot_avx2(const Matrix<float>& out, const Matrix<const float>& a, const Matrix<const float>& b, bool first) {
  dot_columns<8, 1>(out, a, b, first);
}

#endif

// Whether dot_products takes factors of these sizes here.
inline bool takes_dot_products(int64_t columns, int64_t depth) {
  return PanelKernels::here().most > 0 && columns % kDotColumns == 0 && depth % kBlock == 0;
}

// out [M,N] = a [M,K] b [N,K]^T
inline void dot_products(const Matrix<float>& out, const Matrix<const float>& a, const Matrix<const float>& b) {
#ifdef LEGATO_X86
  constexpr int64_t kDepths = 512;  // of eight rows of b stay in the innermost cache, of all rows of a in the next one
  const auto dot = PanelKernels::here().most == kMostRows ? dot_avx512 : dot_avx2;
  torch::stable::parallel_for(0, b.rows / kDotColumns, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = 0; k < a.columns; k += kDepths) {
      const int64_t depth = std::min(kDepths, a.columns - k);
      for (int64_t column = begin * kDotColumns; column < end * kDotColumns; column += kDotColumns) {
        dot({out.at(0, column), out.rows, kDotColumns, out.step}, {a.at(0, k), a.rows, depth, a.step},
            {b.at(column, k), kDotColumns, depth, b.step}, k == 0);
      }
    }
  });
#endif
}

}  // namespace legato
