// Where the pixels of a row read an image that is warped, and the reading: float32 by AVX-512 where the machine has it,
// sixteen pixels at a time, everything else by loops that the compiler vectorizes.
//
// Sixteen neighbors mostly read pixels that lie side by side in two rows or three: such a run loads those rows whole
// and picks its pixels inside registers. A run that reads farther apart gathers, two neighbors in one load.
#pragma once

#include "cpu/common.h"
#include "math/bilinear.h"

#include <array>
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

constexpr int64_t kRun = 16;  // pixels

// In arrays, so that every loop over them can be vectorized; padded to whole runs with copies of the last pixel.
template <typename A>
struct Row {
  int64_t width;
  std::vector<int32_t> x, y;          // the pixel to the north-west of the position
  std::vector<A> right, down;         // how far towards east and south
  std::vector<A> inside_x, inside_y;  // 1 or 0

  explicit Row(int64_t width)
      : width(width), x(padded()), y(padded()), right(padded()), down(padded()), inside_x(width), inside_y(width) {}

  int64_t padded() const { return (width + kRun - 1) / kRun * kRun; }
};

// Planes of one size, one behind the other.
template <typename A>
struct Planes {
  const A* data;  // [count, height, width]
  int64_t count;
  int32_t height, width;

  int64_t pixels() const { return static_cast<int64_t>(height) * width; }
};

// Planes and where a row of their samples goes; the rows of different planes lie `step` apart.
template <typename A>
struct Source {
  Planes<A> planes;
  A* out;
  int64_t step;
};

// The taps on one axis of positions start + step * column + flow. Everything is a parameter: the compiler believes
// __restrict__ there alone.
template <typename A>
LEGATO_CLONES void split_row(int32_t* __restrict__ lower,  // [width], as the rest
                             A* __restrict__ fraction,     //
                             A* __restrict__ inside,       //
                             const A* __restrict__ flow, A start, A step, int32_t size, int64_t width) {
  for (int64_t column = 0; column < width; ++column) {
    const A here = start + step * static_cast<A>(static_cast<int32_t>(column));
    const Taps<A> taps = split(here + flow[column], size);
    lower[column] = taps.lower;
    fraction[column] = taps.fraction;
    inside[column] = taps.inside ? A(1) : A(0);
  }
}

template <typename A>
void find_taps(Row<A>& taps,
               const A* flow_x,  // [width]
               const A* flow_y,  // [width]
               int32_t row, int32_t height, int32_t width) {
  split_row(taps.x.data(), taps.right.data(), taps.inside_x.data(), flow_x, A(0), A(1), width, width);
  split_row(taps.y.data(), taps.down.data(), taps.inside_y.data(), flow_y, static_cast<A>(row), A(0), height, width);
  for (int64_t column = width; column < taps.padded(); ++column) {
    taps.x[column] = taps.x[width - 1];
    taps.y[column] = taps.y[width - 1];
    taps.right[column] = taps.right[width - 1];
    taps.down[column] = taps.down[width - 1];
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

struct RunCorners {
  __m512 nw, ne, sw, se;
};

// Sixteen pixels of a row: how to read their corners from any plane. Near: all within 32 columns and a few rows.
struct Run {
  static constexpr int32_t kDepth = 5;  // rows of near pixels, the southern ones not counted

  __m512 right, down;
  __mmask16 last;               // pixels in the last column: eastern and western neighbor are the same
  int32_t rows;                 // near: how many; 0: far
  int64_t offsets[kDepth + 1];  // near: where the rows begin in a plane
  __mmask16 reach[kDepth + 1];  // near: pixels that lie in this row or below
  __mmask16 first, second;      // near: columns within the image
  __m512i west, east;           // near: columns of the neighbors
  __m256i north[2], south[2];   // far: offsets of the western neighbors

  LEGATO_AVX512 LEGATO_INLINE Run(const Row<float>& taps, int64_t at, int32_t height, int32_t width)
      : right(_mm512_loadu_ps(taps.right.data() + at)), down(_mm512_loadu_ps(taps.down.data() + at)) {
    const __m512i x = _mm512_loadu_si512(taps.x.data() + at), y = _mm512_loadu_si512(taps.y.data() + at);
    const __m512i one = _mm512_set1_epi32(1);
    last = _mm512_cmpeq_epi32_mask(x, _mm512_set1_epi32(width - 1));
    const int32_t left = std::max(0, taps.x[at] - 7), top = _mm512_reduce_min_epi32(y);
    const int32_t depth = _mm512_reduce_max_epi32(y) - top;
    west = _mm512_sub_epi32(x, _mm512_set1_epi32(left));
    const bool near = depth < kDepth && _mm512_cmpge_epu32_mask(west, _mm512_set1_epi32(31)) == 0;
    rows = near ? std::max(depth, 1) + 1 : 0;  // one takes the way of two: fewer branches to guess
    if (near) {
      const int32_t columns = width - left;
      first = columns >= 16 ? 0xFFFF : (1u << columns) - 1;
      second = columns >= 32 ? 0xFFFF : columns > 16 ? (1u << (columns - 16)) - 1 : 0;
      east = _mm512_mask_add_epi32(west, ~last, west, one);
      for (int32_t i = 0; i <= rows; ++i) {
        offsets[i] = static_cast<int64_t>(std::min(top + i, height - 1)) * width + left;
        reach[i] = _mm512_cmpge_epi32_mask(y, _mm512_set1_epi32(top + i));
      }
    } else {
      const __m512i step = _mm512_set1_epi32(width), pair = _mm512_min_epi32(x, _mm512_set1_epi32(width - 2));
      const __m512i below = _mm512_min_epi32(_mm512_add_epi32(y, one), _mm512_set1_epi32(height - 1));
      const __m512i a = _mm512_add_epi32(_mm512_mullo_epi32(y, step), pair);
      const __m512i b = _mm512_add_epi32(_mm512_mullo_epi32(below, step), pair);
      north[0] = _mm512_castsi512_si256(a);
      north[1] = _mm512_extracti64x4_epi64(a, 1);
      south[0] = _mm512_castsi512_si256(b);
      south[1] = _mm512_extracti64x4_epi64(b, 1);
    }
  }

  LEGATO_AVX512 LEGATO_INLINE RunCorners read(const float* plane) const {
    RunCorners c;
    if (rows == 0) {
      gather(c.nw, c.ne, plane, north);
      gather(c.sw, c.se, plane, south);
      return c;
    }
    pick(c.nw, c.ne, plane + offsets[0]);
    pick(c.sw, c.se, plane + offsets[1]);
    descend(c, plane, 1);
    for (int32_t i = 2; i < rows; ++i)
      descend(c, plane, i);
    return c;
  }

 private:
  LEGATO_AVX512 LEGATO_INLINE void pick(__m512& west_pixels, __m512& east_pixels, const float* row) const {
    const __m512 a = _mm512_maskz_loadu_ps(first, row), b = _mm512_maskz_loadu_ps(second, row + 16);
    west_pixels = _mm512_permutex2var_ps(a, west, b);
    east_pixels = _mm512_permutex2var_ps(a, east, b);
  }

  // What reaches row i has its northern neighbors there and its southern ones below.
  LEGATO_AVX512 LEGATO_INLINE void descend(RunCorners& c, const float* plane, int32_t i) const {
    __m512 west_pixels, east_pixels;
    pick(west_pixels, east_pixels, plane + offsets[i + 1]);
    c.nw = _mm512_mask_mov_ps(c.nw, reach[i], c.sw);
    c.ne = _mm512_mask_mov_ps(c.ne, reach[i], c.se);
    c.sw = _mm512_mask_mov_ps(c.sw, reach[i], west_pixels);
    c.se = _mm512_mask_mov_ps(c.se, reach[i], east_pixels);
  }

  LEGATO_AVX512 LEGATO_INLINE void gather(__m512& west_pixels, __m512& east_pixels, const float* plane,
                                          const __m256i* offsets) const {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    const __m512 a = _mm512_castpd_ps(_mm512_i32gather_pd(offsets[0], plane, 4));
    const __m512 b = _mm512_castpd_ps(_mm512_i32gather_pd(offsets[1], plane, 4));
    east_pixels = _mm512_permutex2var_ps(a, odd, b);
    west_pixels = _mm512_mask_mov_ps(_mm512_permutex2var_ps(a, even, b), last, east_pixels);
  }
};

LEGATO_AVX512 LEGATO_INLINE __m512 mix(__m512 a, __m512 b, __m512 fraction) {
  return _mm512_fmadd_ps(fraction, _mm512_sub_ps(b, a), a);
}

LEGATO_AVX512 inline __mmask16 pixels_of_run(int64_t at, int64_t width) {
  return width - at >= kRun ? 0xFFFF : (1u << (width - at)) - 1;
}

LEGATO_AVX512 inline void sample_runs(const Source<float>* sources, int64_t count, const Row<float>& taps,
                                      int32_t height, int32_t width) {
  for (int64_t at = 0; at < width; at += kRun) {
    const Run run(taps, at, height, width);
    const __mmask16 mask = pixels_of_run(at, width);
    for (const Source<float>* source = sources; source < sources + count; ++source) {
      const Planes<float>& planes = source->planes;
      for (int64_t i = 0; i < planes.count; ++i) {
        const RunCorners c = run.read(planes.data + i * planes.pixels());
        const __m512 above = mix(c.nw, c.ne, run.right), below = mix(c.sw, c.se, run.right);
        _mm512_mask_storeu_ps(source->out + i * source->step + at, mask, mix(above, below, run.down));
      }
    }
  }
}

LEGATO_AVX512 inline void slope_runs(float* grad_x, float* grad_y, const float* grad, int64_t step,
                                     const Planes<float>& planes, const Row<float>& taps) {
  for (int64_t at = 0; at < planes.width; at += kRun) {
    const Run run(taps, at, planes.height, planes.width);
    const __mmask16 mask = pixels_of_run(at, planes.width);
    __m512 sum_x = _mm512_setzero_ps(), sum_y = _mm512_setzero_ps();
    for (int64_t i = 0; i < planes.count; ++i) {
      const RunCorners c = run.read(planes.data + i * planes.pixels());
      const __m512 g = _mm512_maskz_loadu_ps(mask, grad + i * step + at);
      const __m512 north = _mm512_sub_ps(c.ne, c.nw), south = _mm512_sub_ps(c.se, c.sw);
      const __m512 west = _mm512_sub_ps(c.sw, c.nw), east = _mm512_sub_ps(c.se, c.ne);
      sum_x = _mm512_fmadd_ps(g, mix(north, south, run.down), sum_x);
      sum_y = _mm512_fmadd_ps(g, mix(west, east, run.right), sum_y);
    }
    _mm512_mask_storeu_ps(grad_x + at, mask, sum_x);
    _mm512_mask_storeu_ps(grad_y + at, mask, sum_y);
  }
}

inline bool has_avx512(int32_t width) {
  static const bool has = __builtin_cpu_supports("x86-64-v4");
  return has && width >= 2;  // far runs load two columns
}

#endif

// The samples along a row of every plane of the sources, which are of one size.
template <typename A, size_t count>
void sample_row(const std::array<Source<A>, count>& sources, const Row<A>& taps) {
  const int32_t height = sources[0].planes.height, width = sources[0].planes.width;
#ifdef LEGATO_AVX512
  if constexpr (std::is_same_v<A, float>) {
    if (has_avx512(width)) return sample_runs(sources.data(), count, taps, height, width);
  }
#endif
  for (const Source<A>& source : sources) {
    for (int64_t i = 0; i < source.planes.count; ++i) {
      sample_plane(source.out + i * source.step, source.planes.data + i * source.planes.pixels(), taps, height, width);
    }
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
    if (done) slope_runs(grad_x, grad_y, grad, step, planes, taps);
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
