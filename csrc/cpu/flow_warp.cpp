// flow_warp on the CPU. Each row's taps are found once and serve all channels; planes are contiguous (channels first).
// The gradient to the image is scattered one plane at a time, each by one thread: the result is deterministic.

#include "check.h"
#include "cpu/common.h"
#include "math/bilinear.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <limits>
#include <tuple>
#include <vector>

namespace legato {
namespace {

using torch::stable::contiguous;
using torch::stable::new_empty;
using torch::stable::parallel_for;
using Shape = std::array<int64_t, 4>;

struct Sizes {
  int64_t batch, channels, height, width;

  explicit Sizes(const Tensor& image)
      : batch(image.size(0)), channels(image.size(1)), height(image.size(2)), width(image.size(3)) {}

  int64_t pixels() const { return height * width; }
  int64_t rows_per_task() const { return legato::rows_per_task(width * (channels + 4)); }
};

void check(const char* argument, const Tensor& image, const Tensor& flow) {
  const Checker check{"flow_warp", image};
  check.shape(argument, image, {kAny, kAny, kAny, kAny}, "[B,C,H,W]");
  STD_TORCH_CHECK(image.size(2) * image.size(3) <= std::numeric_limits<int32_t>::max(), "flow_warp: ", argument,
                  " has to have at most 2^31 - 1 pixels a plane");
  check.tensor("flow", flow, {image.size(0), 2, image.size(2), image.size(3)}, "[B,2,H,W]",
               accumulator_dtype(image.scalar_type()));
}

// Where the pixels of one row read their image, in arrays, so that every loop over them can be vectorized.
template <typename A>
struct Row {
  std::vector<int32_t> nw, ne, sw, se;  // offsets of the four neighbors in a plane
  std::vector<A> right, down;           // how far towards east and south
  std::vector<A> inside_x, inside_y;    // 1 or 0

  explicit Row(int64_t width)
      : nw(width), ne(width), sw(width), se(width), right(width), down(width), inside_x(width), inside_y(width) {}
};

template <typename A>
LEGATO_CLONES void find_taps(Row<A>& taps,
                             const A* __restrict__ flow_x,  // [width]
                             const A* __restrict__ flow_y,  // [width]
                             int32_t row, int32_t height, int32_t width) {
  int32_t* __restrict__ nw = taps.nw.data(), * __restrict__ ne = taps.ne.data();
  int32_t* __restrict__ sw = taps.sw.data(), * __restrict__ se = taps.se.data();
  A* __restrict__ right = taps.right.data(), * __restrict__ down = taps.down.data();
  A* __restrict__ inside_x = taps.inside_x.data(), * __restrict__ inside_y = taps.inside_y.data();
  for (int32_t column = 0; column < width; ++column) {
    const Taps<A> x = split(static_cast<A>(column) + flow_x[column], width);
    const Taps<A> y = split(static_cast<A>(row) + flow_y[column], height);
    nw[column] = y.lower * width + x.lower;
    ne[column] = y.lower * width + x.upper;
    sw[column] = y.upper * width + x.lower;
    se[column] = y.upper * width + x.upper;
    right[column] = x.fraction;
    down[column] = y.fraction;
    inside_x[column] = x.inside ? A(1) : A(0);
    inside_y[column] = y.inside ? A(1) : A(0);
  }
}

template <typename T, typename A>
LEGATO_CLONES void sample_row(T* __restrict__ out,          // [width]
                              const T* __restrict__ plane,  // [height, width]
                              const Row<A>& taps, int64_t width) {
  const int32_t *nw = taps.nw.data(), *ne = taps.ne.data(), *sw = taps.sw.data(), *se = taps.se.data();
  const A *right = taps.right.data(), *down = taps.down.data();
  for (int64_t i = 0; i < width; ++i) {
    const A above = mix(static_cast<A>(plane[nw[i]]), static_cast<A>(plane[ne[i]]), right[i]);
    const A below = mix(static_cast<A>(plane[sw[i]]), static_cast<A>(plane[se[i]]), right[i]);
    out[i] = static_cast<T>(mix(above, below, down[i]));
  }
}

// grad_x, grad_y += grad * d(sample) / d(position), 0 across an axis on which the position was clamped
template <typename T, typename A>
LEGATO_CLONES void slope_row(A* __restrict__ grad_x,       // [width]
                             A* __restrict__ grad_y,       // [width]
                             const T* __restrict__ grad,   // [width]
                             const T* __restrict__ plane,  // [height, width]
                             const Row<A>& taps, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const A nw = static_cast<A>(plane[taps.nw[i]]), ne = static_cast<A>(plane[taps.ne[i]]);
    const A sw = static_cast<A>(plane[taps.sw[i]]), se = static_cast<A>(plane[taps.se[i]]);
    const A g = static_cast<A>(grad[i]);
    grad_x[i] += g * taps.inside_x[i] * mix(ne - nw, se - sw, taps.down[i]);
    grad_y[i] += g * taps.inside_y[i] * mix(sw - nw, se - ne, taps.right[i]);
  }
}

template <typename T, typename A>
void scatter_row(A* plane,       // [height, width]
                 const T* grad,  // [width]
                 const Row<A>& taps, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const A g = static_cast<A>(grad[i]), below = g * taps.down[i], above = g - below;
    plane[taps.nw[i]] += above - above * taps.right[i];
    plane[taps.ne[i]] += above * taps.right[i];
    plane[taps.sw[i]] += below - below * taps.right[i];
    plane[taps.se[i]] += below * taps.right[i];
  }
}

// Calls f(taps, sample, row, offset of the row in the flow's plane) for rows begin..end of all rows of the batch.
template <typename A, typename F>
void for_rows(const Tensor& flow, const Sizes& size, int64_t begin, int64_t end, const F& f) {
  Row<A> taps(size.width);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t sample = i / size.height, row = i % size.height;
    const A* vectors = data<A>(flow) + sample * 2 * size.pixels() + row * size.width;
    find_taps(taps, vectors, vectors + size.pixels(), static_cast<int32_t>(row), static_cast<int32_t>(size.height),
              static_cast<int32_t>(size.width));
    f(taps, sample, row * size.width);
  }
}

template <typename T>
std::tuple<Tensor, Tensor> warp(const Tensor& image_in, const Tensor& flow_in) {
  using A = Accumulator<T>;
  const Sizes size(image_in);
  const Tensor image = contiguous(image_in), flow = contiguous(flow_in);
  const Tensor warped = new_empty(image, Shape{size.batch, size.channels, size.height, size.width});
  const Tensor valid = new_empty(image, Shape{size.batch, 1, size.height, size.width});
  parallel_for(0, size.batch * size.height, size.rows_per_task(), [&](int64_t begin, int64_t end) {
    for_rows<A>(flow, size, begin, end, [&](const Row<A>& taps, int64_t sample, int64_t at) {
      for (int64_t c = 0; c < size.channels; ++c) {
        const int64_t plane = (sample * size.channels + c) * size.pixels();
        sample_row(mutable_data<T>(warped) + plane + at, data<T>(image) + plane, taps, size.width);
      }
      T* inside = mutable_data<T>(valid) + sample * size.pixels() + at;
      for (int64_t x = 0; x < size.width; ++x) {
        inside[x] = static_cast<T>(taps.inside_x[x] * taps.inside_y[x]);
      }
    });
  });
  return {warped, valid};
}

template <typename T>
Tensor scatter(const Tensor& grad_in, const Tensor& flow_in) {
  using A = Accumulator<T>;
  const Sizes size(grad_in);
  const Tensor grad = contiguous(grad_in), flow = contiguous(flow_in);
  const Tensor result = new_empty(grad, Shape{size.batch, size.channels, size.height, size.width});
  parallel_for(0, size.batch * size.channels, 1, [&](int64_t begin, int64_t end) {
    std::vector<A> sums(size.pixels());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / size.channels, first = sample * size.height;
      std::fill(sums.begin(), sums.end(), A(0));
      for_rows<A>(flow, size, first, first + size.height, [&](const Row<A>& taps, int64_t, int64_t at) {
        scatter_row(sums.data(), data<T>(grad) + i * size.pixels() + at, taps, size.width);
      });
      std::copy(sums.begin(), sums.end(), mutable_data<T>(result) + i * size.pixels());
    }
  });
  return result;
}

template <typename T>
Tensor slope(const Tensor& grad_in, const Tensor& image_in, const Tensor& flow_in) {
  using A = Accumulator<T>;
  const Sizes size(image_in);
  const Tensor grad = contiguous(grad_in), image = contiguous(image_in), flow = contiguous(flow_in);
  const Tensor result = new_empty(flow, Shape{size.batch, 2, size.height, size.width});
  parallel_for(0, size.batch * size.height, size.rows_per_task(), [&](int64_t begin, int64_t end) {
    for_rows<A>(flow, size, begin, end, [&](const Row<A>& taps, int64_t sample, int64_t at) {
      A* grad_x = mutable_data<A>(result) + sample * 2 * size.pixels() + at;
      A* grad_y = grad_x + size.pixels();
      std::fill_n(grad_x, size.width, A(0));
      std::fill_n(grad_y, size.width, A(0));
      for (int64_t c = 0; c < size.channels; ++c) {
        const int64_t plane = (sample * size.channels + c) * size.pixels();
        slope_row(grad_x, grad_y, data<T>(grad) + plane + at, data<T>(image) + plane, taps, size.width);
      }
    });
  });
  return result;
}

std::tuple<Tensor, Tensor> forward(Tensor image, Tensor flow) {
  check("image", image, flow);
  return dispatch("flow_warp", image.scalar_type(), [&](auto type) { return warp<decltype(type)>(image, flow); });
}

Tensor backward_image(Tensor grad_warped, Tensor flow) {
  check("grad_warped", grad_warped, flow);
  return dispatch("flow_warp", grad_warped.scalar_type(),
                  [&](auto type) { return scatter<decltype(type)>(grad_warped, flow); });
}

Tensor backward_flow(Tensor grad_warped, Tensor image, Tensor flow) {
  check("image", image, flow);
  const Checker checker{"flow_warp", image};
  checker.tensor("grad_warped", grad_warped, {image.size(0), image.size(1), image.size(2), image.size(3)}, "[B,C,H,W]",
                 image.scalar_type());
  return dispatch("flow_warp", image.scalar_type(),
                  [&](auto type) { return slope<decltype(type)>(grad_warped, image, flow); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CPU, m) {
  m.impl("flow_warp", TORCH_BOX(&forward));
  m.impl("flow_warp_backward_image", TORCH_BOX(&backward_image));
  m.impl("flow_warp_backward_flow", TORCH_BOX(&backward_flow));
}

}  // namespace legato
