// The forward pass that flow_warp and photometric_error share: warped rows and which of their pixels can be trusted.
//
// Half precision is a matter of storage: images are converted before and results after, the kernels know float and
// double.
#pragma once

#include "cpu/common.h"
#include "cpu/taps.h"
#include "flow_warp.h"
#include "math/occlusion.h"

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <vector>

namespace legato {

struct Sizes : WarpShape {
  using WarpShape::WarpShape;

  int64_t rows() const { return width > 0 ? batch * height : 0; }
  int64_t rows_per_task() const { return legato::rows_per_task(width * (channels + 4)); }

  template <typename A>
  Planes<A> planes_at(const A* data, int64_t sample, int64_t count) const {
    return {data + sample * count * pixels(), count, static_cast<int32_t>(height), static_cast<int32_t>(width)};
  }
};

inline Tensor in_dtype(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

inline Tensor widened(const Tensor& tensor) {
  return torch::stable::contiguous(in_dtype(tensor, accumulator_dtype(tensor.scalar_type())));
}

template <typename A>
LEGATO_CLONES void mark_inside(A* __restrict__ valid,  // [width]
                               const Row<A>& taps) {
  const A *inside_x = taps.inside_x.data(), *inside_y = taps.inside_y.data();
  for (int64_t i = 0; i < taps.width; ++i)
    valid[i] = inside_x[i] * inside_y[i];
}

template <typename A>
LEGATO_CLONES void hide_inconsistent(A* __restrict__ valid,    // [width], as x, y, back_x, back_y
                                     const A* __restrict__ x,  // the flow
                                     const A* __restrict__ y, const A* __restrict__ back_x,
                                     const A* __restrict__ back_y, int64_t width) {
  for (int64_t i = 0; i < width; ++i)
    valid[i] = consistent(x[i], y[i], back_x[i], back_y[i]) ? valid[i] : A(0);
}

template <typename A>
LEGATO_CLONES void hide_boundaries(A* __restrict__ valid,    // [width], as x, y, below_x, below_y
                                   const A* __restrict__ x,  // the flow
                                   const A* __restrict__ y, const A* __restrict__ below_x,
                                   const A* __restrict__ below_y, int64_t width) {
  const int64_t last = width - 1;
  for (int64_t i = 0; i < last; ++i)
    valid[i] = at_boundary(x[i], y[i], x[i + 1], y[i + 1], below_x[i], below_y[i]) ? A(0) : valid[i];
  if (at_boundary(x[last], y[last], x[last], y[last], below_x[last], below_y[last])) valid[last] = A(0);
}

// Warps in the precision of computation, row by row.
template <typename A>
struct Warp {
  Sizes size;
  Tensor image, flow;
  std::optional<Tensor> backward;
  bool boundaries;
  Tensor warped, valid;

  Warp(const Tensor& image_in, const Tensor& flow_in, const std::optional<Tensor>& backward_in, bool boundaries)
      : size(image_in),
        image(widened(image_in)),
        flow(torch::stable::contiguous(flow_in)),
        boundaries(boundaries),
        warped(torch::stable::new_empty(image, size.planes(size.channels))),
        valid(torch::stable::new_empty(image, size.planes(1))) {
    if (backward_in) backward = torch::stable::contiguous(*backward_in);
  }

  // Calls f(sample, row) after each row, from any thread.
  template <typename F>
  void run(const F& f) const {
    torch::stable::parallel_for(0, size.rows(), size.rows_per_task(), [&](int64_t begin, int64_t end) {
      Row<A> taps(size.width);
      std::vector<A> returned(backward ? 2 * size.width : 0);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t sample = i / size.height, row = i % size.height;
        warp_row(taps, returned.data(), sample, row);
        f(sample, row);
      }
    });
  }

  A* warped_row(int64_t sample, int64_t row) const {
    return mutable_data<A>(warped) + sample * size.channels * size.pixels() + row * size.width;
  }
  A* valid_row(int64_t sample, int64_t row) const {
    return mutable_data<A>(valid) + sample * size.pixels() + row * size.width;
  }

 private:
  void warp_row(Row<A>& taps, A* returned, int64_t sample, int64_t row) const {
    const A* x = data<A>(flow) + sample * 2 * size.pixels() + row * size.width;
    const A* y = x + size.pixels();
    find_taps(taps, x, y, static_cast<int32_t>(row), static_cast<int32_t>(size.height),
              static_cast<int32_t>(size.width));
    A* trusted = valid_row(sample, row);
    mark_inside(trusted, taps);
    const Source<A> pixels{size.planes_at(data<A>(image), sample, size.channels), warped_row(sample, row),
                           size.pixels()};
    if (backward) {
      const Source<A> vectors{size.planes_at(data<A>(*backward), sample, 2), returned, size.width};
      sample_row<A, 2>({pixels, vectors}, taps);
      hide_inconsistent(trusted, x, y, returned, returned + size.width, size.width);
    } else {
      sample_row<A, 1>({pixels}, taps);
    }
    if (boundaries) {
      const int64_t below = row + 1 < size.height ? size.width : 0;
      hide_boundaries(trusted, x, y, x + below, y + below, size.width);
    }
  }
};

}  // namespace legato
