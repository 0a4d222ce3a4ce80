// Loops over one row of pixels, channels last: what modulated_conv2d does besides convolving.
#pragma once

#include "cpu/common.h"
#include "math/activation.h"
#include "math/fir.h"

#include <cstdint>
#include <cstring>

namespace legato {

// In all of them T is the dtype of the op's tensors, C that of the convolution and A that of sums.

// out = x * scale
template <typename C, typename T, typename A>
LEGATO_CLONES void scale_row(C* __restrict__ out,          // [pixels, channels]
                             const T* __restrict__ x,      // [pixels, channels]
                             const A* __restrict__ scale,  // [channels]
                             int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      out[p * channels + c] = static_cast<C>(static_cast<A>(x[p * channels + c]) * scale[c]);
    }
  }
}

// out = weight * styles (1 if null), the weight's values `step` apart
template <typename C, typename T, typename A>
LEGATO_CLONES void style_taps(C* __restrict__ out,           // [channels]
                              const T* __restrict__ weight,  // [channels]
                              const A* __restrict__ styles,  // [channels] or null
                              int64_t channels, int64_t step) {
  if (styles && step == 1) {
    for (int64_t c = 0; c < channels; ++c)
      out[c] = static_cast<C>(static_cast<A>(weight[c]) * styles[c]);
  } else if (step == 1) {
    for (int64_t c = 0; c < channels; ++c)
      out[c] = static_cast<C>(weight[c]);
  } else {
    for (int64_t c = 0; c < channels; ++c)
      out[c] = static_cast<C>(static_cast<A>(weight[c * step]) * (styles ? styles[c] : A(1)));
  }
}

// y = activation(t * scale + noise + bias); t and y may be the same
template <typename T, typename C, typename A>
LEGATO_CLONES void finish_row(T* y,                         // [pixels, channels]
                              const C* t,                   // [pixels, channels]
                              const A* __restrict__ scale,  // [channels]
                              const A* __restrict__ bias,   // [channels]
                              const T* __restrict__ noise,  // [pixels] or null
                              Activation<A> activation, int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    const A n = noise ? static_cast<A>(noise[p]) : A(0);
    const int64_t at = p * channels;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      y[at + c] = static_cast<T>(activation(static_cast<A>(t[at + c]) * scale[c] + (n + bias[c])));
    }
  }
}

// The same, of a row that is still to be filtered across columns; `filtered` begins one column before the first.
template <typename T, typename A>
LEGATO_CLONES void finish_filtered_row(T* __restrict__ y,               // [pixels, channels]
                                       const A* __restrict__ filtered,  // [pixels + 3, channels]
                                       const A* __restrict__ scale,     // [channels]
                                       const A* __restrict__ bias,      // [channels]
                                       const T* __restrict__ noise,     // [pixels] or null
                                       Activation<A> activation, int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    const A n = noise ? static_cast<A>(noise[p]) : A(0);
    const A* v = filtered + p * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const A t = low_pass(v[c], v[c + channels], v[c + 2 * channels], v[c + 3 * channels]);
      y[p * channels + c] = static_cast<T>(activation(t * scale[c] + (n + bias[c])));
    }
  }
}

// out = the filter across four rows; `from` and `to` values lie between their pixels and between those of `out`
template <typename C, typename A>
LEGATO_CLONES void filter_rows(A* __restrict__ out,      // [pixels, to]
                               const C* __restrict__ a,  // [pixels, from], as b, c, d
                               const C* __restrict__ b, const C* __restrict__ c, const C* __restrict__ d,
                               int64_t pixels, int64_t channels, int64_t from, int64_t to) {
  for (int64_t p = 0; p < pixels; ++p) {
    const int64_t at = p * from;
    for (int64_t i = 0; i < channels; ++i) {
      out[p * to + i] = low_pass(static_cast<A>(a[at + i]), static_cast<A>(b[at + i]), static_cast<A>(c[at + i]),
                                 static_cast<A>(d[at + i]));
    }
  }
}

// out = the filter across four columns
template <typename C, typename A>
LEGATO_CLONES void filter_columns(C* __restrict__ out,        // [pixels, channels]
                                  const A* __restrict__ row,  // [pixels + 3, channels]
                                  int64_t pixels, int64_t channels) {
  for (int64_t i = 0; i < pixels * channels; ++i) {
    out[i] = static_cast<C>(low_pass(row[i], row[i + channels], row[i + 2 * channels], row[i + 3 * channels]));
  }
}

// grad_t = grad_y * activation' * scale; sum += the gradient to the logarithm of scale
template <typename C, typename T, typename A>
LEGATO_CLONES void differentiate_row(C* __restrict__ grad_t,        // [pixels, channels]
                                     A* __restrict__ sum,           // [channels]
                                     const T* __restrict__ grad_y,  // [pixels, channels]
                                     const T* __restrict__ y,       // [pixels, channels]
                                     const A* __restrict__ scale,   // [channels]
                                     const A* __restrict__ bias,    // [channels]
                                     const T* __restrict__ noise,   // [pixels] or null
                                     Activation<A> activation, int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    const A n = noise ? static_cast<A>(noise[p]) : A(0);
    for (int64_t c = 0; c < channels; ++c) {
      const A value = static_cast<A>(y[p * channels + c]);
      const A grad = static_cast<A>(grad_y[p * channels + c]) * activation.derivative(value);
      grad_t[p * channels + c] = static_cast<C>(grad * scale[c]);
      sum[c] += grad * (activation.inverse(value) - (n + bias[c]));
    }
  }
}

// grad_x = h * styles; sum += h * x; h and grad_x may be the same
template <typename T, typename C, typename A>
LEGATO_CLONES void unscale_row(T* grad_x,                     // [pixels, channels]
                               A* __restrict__ sum,           // [channels]
                               const C* h,                    // [pixels, channels]
                               const T* __restrict__ x,       // [pixels, channels]
                               const A* __restrict__ styles,  // [channels]
                               int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      const A value = static_cast<A>(h[p * channels + c]);
      grad_x[p * channels + c] = static_cast<T>(value * styles[c]);
      sum[c] += value * static_cast<A>(x[p * channels + c]);
    }
  }
}

// Partial sums side by side in a vector register (or several, where the machine's are short).
constexpr int64_t kLanes = 8;
template <typename A>
struct Lanes {
  typedef A Vector __attribute__((vector_size(kLanes * sizeof(A))));
  Vector sums = {};

  // sums += x * weight
  template <typename T>
  LEGATO_INLINE void add(const T* x, const A* weight) {
    Vector value, factor;
    for (int64_t k = 0; k < kLanes; ++k)
      value[k] = static_cast<A>(x[k]);
    std::memcpy(&factor, weight, sizeof(factor));
    sums += value * factor;
  }

  LEGATO_INLINE A total() const {
    const A* s = reinterpret_cast<const A*>(&sums);
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
  }
};

// sum of squares * q
template <typename A>
LEGATO_CLONES A weigh(const A* __restrict__ squares, const A* __restrict__ q, int64_t channels) {
  Lanes<A> lanes;
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes)
    lanes.add(squares + c, q + c);
  A rest = 0;
  for (; c < channels; ++c)
    rest += squares[c] * q[c];
  return lanes.total() + rest;
}

// out += every `step`-th value of x
template <typename A, typename C>
LEGATO_CLONES void add_strided(A* __restrict__ out, const C* __restrict__ x, int64_t step, int64_t size) {
  for (int64_t i = 0; i < size; ++i)
    out[i] += static_cast<A>(x[i * step]);
}

// out += x * weight
template <typename A, typename C>
LEGATO_CLONES void add_scaled(A* __restrict__ out, const C* __restrict__ x, A weight, int64_t size) {
  for (int64_t i = 0; i < size; ++i)
    out[i] += static_cast<A>(x[i]) * weight;
}

}  // namespace legato
