// Tiles of an image, channels last, and weights, transformed for convolutions by toom_cook.h along both axes: R along
// columns of pixels, C along rows.
#pragma once

#include "cpu/common.h"
#include "cpu/panels.h"
#include "cpu/toom_cook.h"

#include <algorithm>
#include <cstdint>

namespace legato {

// All transforms read and write `points` = R::kSpan * C::kSpan values for each channel.

LEGATO_INLINE void load_values(Values& to, const float* from, int64_t count) {
  if (count >= 16) {
    to = wide<16>(from);
  } else {
    float some[16] = {};
    std::copy_n(from, count, some);
    to = wide<16>(some);
  }
}

LEGATO_INLINE void store_values(float* to, const Values& values, int64_t count) {
  if (count >= 16) {
    wide<16>(to) = values;
  } else {
    float some[16];
    wide<16>(some) = values;
    std::copy_n(some, count, to);
  }
}

template <typename R, typename C>
LEGATO_CLONES void transform_inputs(float* out,                  // [points, point_step], [channels / 32, depth_step]
                                    const float* const* pixels,  // [points], [channels] each
                                    const float* scale,          // [channels]
                                    int64_t point_step, int64_t depth_step, int64_t channels) {
  for (int64_t c = 0; c < channels; c += 16) {
    Values s, half[R::kSpan * C::kSpan];
    load_values(s, scale + c, channels - c);
#pragma GCC unroll 6
    for (int x = 0; x < C::kSpan; ++x) {
      Values column[R::kSpan];
#pragma GCC unroll 6
      for (int y = 0; y < R::kSpan; ++y) {
        load_values(column[y], pixels[y * C::kSpan + x] + c, channels - c);
        column[y] *= s;
      }
      R::inputs(half + x, C::kSpan, column, 1);
    }
    float* to = out + c / kDepth * depth_step + c % kDepth;
#pragma GCC unroll 6
    for (int y = 0; y < R::kSpan; ++y) {
      Values row[C::kSpan];
      C::inputs(row, 1, half + y * C::kSpan, 1);
#pragma GCC unroll 6
      for (int x = 0; x < C::kSpan; ++x)
        wide<16>(to + (y * C::kSpan + x) * point_step) = row[x];
    }
  }
}

template <typename R, typename C, bool add>
LEGATO_CLONES void transform_outputs(float* const* pixels,   // [R::kOutputs * C::kOutputs], [channels] each, or null
                                     const float* products,  // [points, point_step], [channels / 32, panel_step]
                                     int64_t point_step, int64_t panel_step, int64_t channels) {
  for (int64_t c = 0; c < channels; c += 16) {
    const float* from = products + c / kPanel * panel_step + c % kPanel;
    Values half[R::kOutputs * C::kSpan];
#pragma GCC unroll 6
    for (int x = 0; x < C::kSpan; ++x) {
      Values column[R::kSpan];
#pragma GCC unroll 6
      for (int y = 0; y < R::kSpan; ++y)
        column[y] = wide<16>(from + (y * C::kSpan + x) * point_step);
      R::outputs(half + x, C::kSpan, column, 1);
    }
#pragma GCC unroll 4
    for (int y = 0; y < R::kOutputs; ++y) {
      Values row[C::kOutputs];
      C::outputs(row, 1, half + y * C::kSpan, 1);
#pragma GCC unroll 4
      for (int x = 0; x < C::kOutputs; ++x) {
        float* to = pixels[y * C::kOutputs + x];
        if (!to) continue;
        if (add) {
          Values before;
          load_values(before, to + c, channels - c);
          row[x] += before;
        }
        store_values(to + c, row[x], channels - c);
      }
    }
  }
}

// to [8, to_step] = the transpose of from [8, from_step]
LEGATO_INLINE void transpose_block(float* to, const float* from, int64_t to_step, int64_t from_step) {
  Wide<8>::Vector a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    a[i] = wide<8>(from + i * from_step);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += i % 4 ? 3 : 1) {  // 0, 1, 4, 5: rows i/4*4 .. i/4*4+3
    a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    a[i + 2] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  constexpr int kColumn[4] = {0, 2, 1, 3};  // which of them holds columns j and j + 4
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const auto &upper = a[kColumn[j]], &lower = a[4 + kColumn[j]];
    wide<8>(to + j * to_step) = __builtin_shufflevector(upper, lower, 0, 1, 2, 3, 8, 9, 10, 11);
    wide<8>(to + (j + 4) * to_step) = __builtin_shufflevector(upper, lower, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// to [kDepth, 32] = from [columns, depth] or its rows, whichever lies closer in memory
LEGATO_INLINE void gather_taps(float* to, const float* from, int64_t depth, int64_t columns, int64_t by_depth,
                               int64_t by_column) {
  if (by_depth == 1 && depth == kDepth && columns == kPanel) {
    for (int64_t n = 0; n < kPanel; n += 8) {
      for (int64_t k = 0; k < kDepth; k += 8)
        transpose_block(to + k * kPanel + n, from + n * by_column + k, kPanel, by_column);
    }
    return;
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t n = 0; n < columns; ++n)
      to[k * kPanel + n] = from[n * by_column + k * by_depth];
  }
}

// A part of one panel of the weight: depth <= 32 inputs of columns <= 32 outputs
template <typename R, typename C>
LEGATO_CLONES void transform_taps(float* out,                // [points, point_step], [depth, 32]
                                  const float* const* taps,  // [R::kTaps * C::kTaps]
                                  int64_t point_step, int64_t depth, int64_t columns, int64_t by_depth,
                                  int64_t by_column) {
  alignas(64) float gathered[R::kTaps * C::kTaps][kDepth * kPanel] = {};
  for (int tap = 0; tap < R::kTaps * C::kTaps; ++tap)
    gather_taps(gathered[tap], taps[tap], depth, columns, by_depth, by_column);
  for (int64_t at = 0; at < depth * kPanel; at += 16) {
    Values half[R::kSpan * C::kTaps];
#pragma GCC unroll 3
    for (int x = 0; x < C::kTaps; ++x) {
      Values column[R::kTaps];
#pragma GCC unroll 3
      for (int y = 0; y < R::kTaps; ++y)
        column[y] = wide<16>(gathered[y * C::kTaps + x] + at);
      R::taps(half + x, C::kTaps, column, 1);
    }
#pragma GCC unroll 6
    for (int y = 0; y < R::kSpan; ++y) {
      Values row[C::kSpan];
      C::taps(row, 1, half + y * C::kTaps, 1);
#pragma GCC unroll 6
      for (int x = 0; x < C::kSpan; ++x)
        wide<16>(out + (y * C::kSpan + x) * point_step + at) = row[x];
    }
  }
}

}  // namespace legato
