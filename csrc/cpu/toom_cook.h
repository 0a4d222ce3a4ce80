// Short convolutions along one axis with fewer products: four outputs of three taps by six products instead of twelve,
// of two taps by five instead of eight (Toom and Cook; on both axes of an image, Winograd). Inputs, taps and products
// are values of polynomials, at 0, at some points that keep rounding small, and at infinity.
//
//   outputs = A^T ((G taps) * (B^T inputs))
#pragma once

#include "cpu/common.h"
#include "cpu/panels.h"

namespace legato {

using Values = Wide<16>::Vector;  // of sixteen channels

// In all schemes `step` lies between values of the result and `from` between those of what is transformed.

// y[j] = x[j] w[0] + x[j+1] w[1] + x[j+2] w[2], at 0, -a, a, -b, b. With a = 1, b = 2 errors are three times as large.
struct ThreeTaps {
  static constexpr int kTaps = 3, kOutputs = 4, kSpan = 6;
  static constexpr float a = 0.625f, b = 1.5f, aa = a * a, bb = b * b;
  static constexpr float z = 1 / (aa * bb), wa = 1 / (2 * aa * (aa - bb)), wb = 1 / (2 * bb * (bb - aa));

  LEGATO_INLINE static void inputs(Values* out, int step, const Values* d, int from) {
    const Values d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from];
    out[0] = (d[0] * (aa * bb) + d4) - d2 * (aa + bb);
    const Values even_a = d4 - d2 * bb, odd_a = (d3 - d1 * bb) * a;
    out[step] = even_a + odd_a;
    out[2 * step] = even_a - odd_a;
    const Values even_b = d4 - d2 * aa, odd_b = (d3 - d1 * aa) * b;
    out[3 * step] = even_b + odd_b;
    out[4 * step] = even_b - odd_b;
    out[5 * step] = (d1 * (aa * bb) + d[5 * from]) - d3 * (aa + bb);
  }

  LEGATO_INLINE static void taps(Values* out, int step, const Values* g, int from) {
    const Values g0 = g[0], g1 = g[from], g2 = g[2 * from];
    out[0] = g0 * z;
    const Values even_a = g0 * wa + g2 * (wa * aa), odd_a = g1 * (wa * a);
    out[step] = even_a + odd_a;
    out[2 * step] = even_a - odd_a;
    const Values even_b = g0 * wb + g2 * (wb * bb), odd_b = g1 * (wb * b);
    out[3 * step] = even_b + odd_b;
    out[4 * step] = even_b - odd_b;
    out[5 * step] = g2;
  }

  LEGATO_INLINE static void outputs(Values* out, int step, const Values* m, int from) {
    const Values even_a = m[from] + m[2 * from], odd_a = m[from] - m[2 * from];
    const Values even_b = m[3 * from] + m[4 * from], odd_b = m[3 * from] - m[4 * from];
    out[0] = m[0] + (even_a + even_b);
    out[step] = odd_a * a + odd_b * b;
    out[2 * step] = even_a * aa + even_b * bb;
    out[3 * step] = odd_a * (aa * a) + (odd_b * (bb * b) + m[5 * from]);
  }
};

// y[j] = x[j] w[0] + x[j+1] w[1], at 0, -1, 1/2, 2
struct TwoTaps {
  static constexpr int kTaps = 2, kOutputs = 4, kSpan = 5;

  LEGATO_INLINE static void inputs(Values* out, int step, const Values* d, int from) {
    const Values d1 = d[from], d2 = d[2 * from], d3 = d[3 * from];
    out[0] = (d[0] + d3) - (d1 + d2) * 1.5f;
    out[step] = (d1 + d3) - d2 * 2.5f;
    out[2 * step] = d3 - (d1 * 2 + d2);
    out[3 * step] = d3 + (d2 - d1) * 0.5f;
    out[4 * step] = (d1 + d[4 * from]) - (d2 + d3) * 1.5f;
  }

  LEGATO_INLINE static void taps(Values* out, int step, const Values* g, int from) {
    const Values g0 = g[0], g1 = g[from];
    out[0] = g0;
    out[step] = (g1 - g0) * (1 / 4.5f);
    out[2 * step] = (g0 + g1 * 0.5f) * (-1 / 1.125f);
    out[3 * step] = (g0 + g1 * 2) * (1 / 9.0f);
    out[4 * step] = g1;
  }

  LEGATO_INLINE static void outputs(Values* out, int step, const Values* m, int from) {
    const Values m1 = m[from], m2 = m[2 * from], m3 = m[3 * from];
    out[0] = (m[0] + m1) + (m2 + m3);
    out[step] = (m2 * 0.5f + m3 * 2) - m1;
    out[2 * step] = (m2 * 0.25f + m3 * 4) + m1;
    out[3 * step] = (m2 * 0.125f + m3 * 8) + (m[4 * from] - m1);
  }
};

// y[j] = x[j] w[0]
struct OneTap {
  static constexpr int kTaps = 1, kOutputs = 1, kSpan = 1;

  LEGATO_INLINE static void inputs(Values* out, int, const Values* d, int) { out[0] = d[0]; }
  LEGATO_INLINE static void taps(Values* out, int, const Values* g, int) { out[0] = g[0]; }
  LEGATO_INLINE static void outputs(Values* out, int, const Values* m, int) { out[0] = m[0]; }
};

}  // namespace legato
