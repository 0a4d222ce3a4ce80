// Where the pixels of a row read an image that is warped, and the reading: float32 by AVX-512 where the machine has it,
// sixteen pixels at a time, everything else by loops that the compiler vectorizes.
//
// Sixteen neighbors mostly read pixels that lie side by side in two rows or three: such a block loads those rows whole
// and picks its pixels inside registers. A block that reads farther apart gathers, two neighbors in one load.
#pragma once

#include "cpu/common.h"
#include "math/bilinear.h"

#include <cstdint>
#include <vector>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
  #define LEGATO_AVX512 __attribute__((target("arch=x86-64-v4")))
  #pragma GCC diagnostic push
  #pragma GCC diagnostic ignored "-Wuninitialized"  // the header's own: _mm512_undefined_epi32 of GCC 12
  #pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
  #include <immintrin.h>
  #pragma GCC diagnostic pop
#endif

namespace legato {

constexpr int64_t kBlock = 16;  // pixels

// In arrays, so that every loop over them can be vectorized; padded to whole blocks with copies of the last pixel.
template <typename A>
struct Row {
  int64_t width;
  std::vector<int32_t> x, y;          // the pixel to the north-west of the position
  std::vector<A> right, down;         // how far towards east and south
  std::vector<A> inside_x, inside_y;  // 1 or 0

  explicit Row(int64_t width)
      : width(width), x(padded()), y(padded()), right(padded()), down(padded()), inside_x(width), inside_y(width) {}

  int64_t padded() const { return (width + kBlock - 1) / kBlock * kBlock; }
};

// Planes of one size, one behind the other.
template <typename A>
struct Planes {
  const A* data;  // [count, height, width]
  int64_t count;
  int32_t height, width;

  int64_t pixels() const { return static_cast<int64_t>(height) * width; }
};

template <typename A>
LEGATO_CLONES void find_taps(Row<A>& taps,
                             const A* __restrict__ flow_x,  // [width]
                             const A* __restrict__ flow_y,  // [width]
                             int32_t row, int32_t height, int32_t width) {
  int32_t* __restrict__ left = taps.x.data();
  int32_t* __restrict__ top = taps.y.data();
  A* __restrict__ right = taps.right.data();
  A* __restrict__ down = taps.down.data();
  A* __restrict__ inside_x = taps.inside_x.data();
  A* __restrict__ inside_y = taps.inside_y.data();
  for (int32_t column = 0; column < width; ++column) {
    const Taps<A> x = split(static_cast<A>(column) + flow_x[column], width);
    const Taps<A> y = split(static_cast<A>(row) + flow_y[column], height);
    left[column] = x.lower;
    top[column] = y.lower;
    right[column] = x.fraction;
    down[column] = y.fraction;
    inside_x[column] = x.inside ? A(1) : A(0);
    inside_y[column] = y.inside ? A(1) : A(0);
  }
  for (int64_t column = width; column < taps.padded(); ++column) {
    left[column] = left[width - 1];
    top[column] = top[width - 1];
    right[column] = right[width - 1];
    down[column] = down[width - 1];
  }
}

// The four pixels around a position. The last row and column are their own neighbors.
template <typename A>
struct Corners {
  A nw, ne, sw, se;

  LEGATO_INLINE Corners(const A* plane, int32_t x, int32_t y, int32_t height, int32_t width) {
    const int32_t at = y * width + x, east = x + 1 < width ? 1 : 0, south = y + 1 < height ? width : 0;
    nw = plane[at];
    ne = plane[at + east];
    sw = plane[at + south];
    se = plane[at + south + east];
  }

  LEGATO_INLINE A sample(A right, A down) const { return mix(mix(nw, ne, right), mix(sw, se, right), down); }
  LEGATO_INLINE A slope_x(A down) const { return mix(ne - nw, se - sw, down); }
  LEGATO_INLINE A slope_y(A right) const { return mix(sw - nw, se - ne, right); }
};

template <typename A>
LEGATO_CLONES void sample_plane(A* __restrict__ out,          // [width]
                                const A* __restrict__ plane,  // [height, width]
                                const Row<A>& taps, int32_t height, int32_t width) {
  const int32_t *x = taps.x.data(), *y = taps.y.data();
  const A *right = taps.right.data(), *down = taps.down.data();
  for (int64_t i = 0; i < width; ++i) {
    out[i] = Corners<A>(plane, x[i], y[i], height, width).sample(right[i], down[i]);
  }
}

// grad_x, grad_y += grad * d(sample) / d(position)
template <typename A>
LEGATO_CLONES void slope_plane(A* __restrict__ grad_x,       // [width]
                               A* __restrict__ grad_y,       // [width]
                               const A* __restrict__ grad,   // [width]
                               const A* __restrict__ plane,  // [height, width]
                               const Row<A>& taps, int32_t height, int32_t width) {
  const int32_t *x = taps.x.data(), *y = taps.y.data();
  const A *right = taps.right.data(), *down = taps.down.data();
  for (int64_t i = 0; i < width; ++i) {
    const Corners<A> corners(plane, x[i], y[i], height, width);
    grad_x[i] += grad[i] * corners.slope_x(down[i]);
    grad_y[i] += grad[i] * corners.slope_y(right[i]);
  }
}

#ifdef LEGATO_AVX512

struct BlockCorners {
  __m512 nw, ne, sw, se;
};

// Sixteen pixels of a row: how to read their corners from any plane.
struct Block {
  __m512 right, down;
  bool near;                   // within three rows and 32 columns
  int64_t north, mid, south;   // near: where the rows begin
  __mmask16 first, second;     // near: columns within the image
  __mmask16 below;             // near: pixels whose corners lie in rows mid and south
  __m512i west, east;          // near: columns
  __m256i upper[2], lower[2];  // far: offsets of the western pixels
  __mmask16 last;              // far: pixels in the last column, whose western neighbor was loaded as well

  LEGATO_AVX512 LEGATO_INLINE Block(const Row<float>& taps, int64_t at, int32_t height, int32_t width)
      : right(_mm512_loadu_ps(taps.right.data() + at)), down(_mm512_loadu_ps(taps.down.data() + at)) {
    const __m512i x = _mm512_loadu_si512(taps.x.data() + at), y = _mm512_loadu_si512(taps.y.data() + at);
    const __m512i one = _mm512_set1_epi32(1);
    last = _mm512_cmpeq_epi32_mask(x, _mm512_set1_epi32(width - 1));
    const int32_t left = std::max(0, taps.x[at] - 7), row = taps.y[at];
    west = _mm512_sub_epi32(x, _mm512_set1_epi32(left));
    const __mmask16 wide = _mm512_cmpge_epu32_mask(west, _mm512_set1_epi32(31));
    const __mmask16 above = _mm512_cmplt_epi32_mask(y, _mm512_set1_epi32(row));
    const int32_t top = above ? row - 1 : row;
    const __m512i depth = _mm512_sub_epi32(y, _mm512_set1_epi32(top));
    near = !(wide | _mm512_cmpgt_epu32_mask(depth, one));
    if (near) {
      const int32_t columns = width - left;
      first = columns >= 16 ? 0xFFFF : (1u << columns) - 1;
      second = columns >= 32 ? 0xFFFF : columns > 16 ? (1u << (columns - 16)) - 1 : 0;
      below = _mm512_test_epi32_mask(depth, depth);
      east = _mm512_mask_add_epi32(west, ~last, west, one);
      north = static_cast<int64_t>(top) * width + left;
      mid = static_cast<int64_t>(std::min(top + 1, height - 1)) * width + left;
      south = static_cast<int64_t>(std::min(top + 2, height - 1)) * width + left;
    } else {
      const __m512i step = _mm512_set1_epi32(width), pair = _mm512_min_epi32(x, _mm512_set1_epi32(width - 2));
      const __m512i next = _mm512_min_epi32(_mm512_add_epi32(y, one), _mm512_set1_epi32(height - 1));
      const __m512i a = _mm512_add_epi32(_mm512_mullo_epi32(y, step), pair);
      const __m512i b = _mm512_add_epi32(_mm512_mullo_epi32(next, step), pair);
      upper[0] = _mm512_castsi512_si256(a);
      upper[1] = _mm512_extracti64x4_epi64(a, 1);
      lower[0] = _mm512_castsi512_si256(b);
      lower[1] = _mm512_extracti64x4_epi64(b, 1);
    }
  }

  LEGATO_AVX512 LEGATO_INLINE BlockCorners read(const float* plane) const {
    if (near) {
      const BlockCorners a = pick(plane + north), b = pick(plane + mid), c = pick(plane + south);
      return {_mm512_mask_mov_ps(a.nw, below, b.nw), _mm512_mask_mov_ps(a.ne, below, b.ne),
              _mm512_mask_mov_ps(b.nw, below, c.nw), _mm512_mask_mov_ps(b.ne, below, c.ne)};
    }
    const BlockCorners a = gather(plane, upper), b = gather(plane, lower);
    return {a.nw, a.ne, b.nw, b.ne};
  }

 private:
  LEGATO_AVX512 LEGATO_INLINE BlockCorners pick(const float* row) const {
    const __m512 a = _mm512_maskz_loadu_ps(first, row), b = _mm512_maskz_loadu_ps(second, row + 16);
    return {_mm512_permutex2var_ps(a, west, b), _mm512_permutex2var_ps(a, east, b), a, b};
  }

  LEGATO_AVX512 LEGATO_INLINE BlockCorners gather(const float* plane, const __m256i* offsets) const {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    const __m512 a = _mm512_castpd_ps(_mm512_i32gather_pd(offsets[0], plane, 4));
    const __m512 b = _mm512_castpd_ps(_mm512_i32gather_pd(offsets[1], plane, 4));
    const __m512 ne = _mm512_permutex2var_ps(a, odd, b);
    return {_mm512_mask_mov_ps(_mm512_permutex2var_ps(a, even, b), last, ne), ne, a, b};
  }
};

LEGATO_AVX512 LEGATO_INLINE __m512 mix(__m512 a, __m512 b, __m512 fraction) {
  return _mm512_fmadd_ps(fraction, _mm512_sub_ps(b, a), a);
}

LEGATO_AVX512 inline __mmask16 pixels_of_block(int64_t at, int64_t width) {
  return width - at >= kBlock ? 0xFFFF : (1u << (width - at)) - 1;
}

LEGATO_AVX512 inline void sample_blocks(float* out, int64_t step, const Planes<float>& planes, const Row<float>& taps) {
  for (int64_t at = 0; at < planes.width; at += kBlock) {
    const Block block(taps, at, planes.height, planes.width);
    const __mmask16 mask = pixels_of_block(at, planes.width);
    for (int64_t i = 0; i < planes.count; ++i) {
      const BlockCorners c = block.read(planes.data + i * planes.pixels());
      const __m512 above = mix(c.nw, c.ne, block.right), below = mix(c.sw, c.se, block.right);
      _mm512_mask_storeu_ps(out + i * step + at, mask, mix(above, below, block.down));
    }
  }
}

LEGATO_AVX512 inline void slope_blocks(float* grad_x, float* grad_y, const float* grad, int64_t step,
                                       const Planes<float>& planes, const Row<float>& taps) {
  for (int64_t at = 0; at < planes.width; at += kBlock) {
    const Block block(taps, at, planes.height, planes.width);
    const __mmask16 mask = pixels_of_block(at, planes.width);
    __m512 sum_x = _mm512_setzero_ps(), sum_y = _mm512_setzero_ps();
    for (int64_t i = 0; i < planes.count; ++i) {
      const BlockCorners c = block.read(planes.data + i * planes.pixels());
      const __m512 g = _mm512_maskz_loadu_ps(mask, grad + i * step + at);
      const __m512 north = _mm512_sub_ps(c.ne, c.nw), south = _mm512_sub_ps(c.se, c.sw);
      const __m512 west = _mm512_sub_ps(c.sw, c.nw), east = _mm512_sub_ps(c.se, c.ne);
      sum_x = _mm512_fmadd_ps(g, mix(north, south, block.down), sum_x);
      sum_y = _mm512_fmadd_ps(g, mix(west, east, block.right), sum_y);
    }
    _mm512_mask_storeu_ps(grad_x + at, mask, sum_x);
    _mm512_mask_storeu_ps(grad_y + at, mask, sum_y);
  }
}

inline bool has_avx512(int32_t width) {
  static const bool has = __builtin_cpu_supports("x86-64-v4");
  return has && width >= 2;  // far blocks load two columns
}

#endif

// out[i] = the samples of plane i along a row; rows of out lie `step` apart
template <typename A>
void sample_row(A* out, int64_t step, const Planes<A>& planes, const Row<A>& taps) {
#ifdef LEGATO_AVX512
  if constexpr (std::is_same_v<A, float>) {
    if (has_avx512(planes.width)) return sample_blocks(out, step, planes, taps);
  }
#endif
  for (int64_t i = 0; i < planes.count; ++i) {
    sample_plane(out + i * step, planes.data + i * planes.pixels(), taps, planes.height, planes.width);
  }
}

// grad_x, grad_y = sum over planes of grad[i] * d(sample of plane i) / d(position), 0 across an axis on which the
// position was clamped
template <typename A>
void slope_row(A* grad_x, A* grad_y, const A* grad, int64_t step, const Planes<A>& planes, const Row<A>& taps) {
#ifdef LEGATO_AVX512
  bool done = false;
  if constexpr (std::is_same_v<A, float>) {
    done = has_avx512(planes.width);
    if (done) slope_blocks(grad_x, grad_y, grad, step, planes, taps);
  }
  if (!done)
#endif
  {
    std::fill_n(grad_x, planes.width, A(0));
    std::fill_n(grad_y, planes.width, A(0));
    for (int64_t i = 0; i < planes.count; ++i) {
      slope_plane(grad_x, grad_y, grad + i * step, planes.data + i * planes.pixels(), taps, planes.height,
                  planes.width);
    }
  }
  for (int64_t x = 0; x < planes.width; ++x) {
    grad_x[x] = taps.inside_x[x] > A(0) ? grad_x[x] : A(0);
    grad_y[x] = taps.inside_y[x] > A(0) ? grad_y[x] : A(0);
  }
}

}  // namespace legato
