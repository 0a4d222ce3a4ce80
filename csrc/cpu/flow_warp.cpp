// flow_warp on the CPU. Each row's taps are found once and serve all channels; planes are contiguous (channels first).
// Whatever the number of threads, sums are taken in one order: every mode is deterministic.

#include "check.h"
#include "cpu/common.h"
#include "cpu/taps.h"
#include "cpu/warp.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

namespace legato {
namespace {

using torch::stable::contiguous;
using torch::stable::new_empty;
using torch::stable::parallel_for;

// Calls f(taps, sample, row, offset of the row in a plane) for rows begin..end of all rows of the batch.
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

template <typename A>
void scatter_row(A* plane,       // [height, width]
                 const A* grad,  // [width]
                 const Row<A>& taps, int32_t height, int32_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const int32_t x = taps.x[i], y = taps.y[i], at = y * width + x;
    const int32_t east = x + 1 < width ? 1 : 0, south = y + 1 < height ? width : 0;
    const A g = grad[i], below = g * taps.down[i], above = g - below;
    plane[at] += above - above * taps.right[i];
    plane[at + east] += above * taps.right[i];
    plane[at + south] += below - below * taps.right[i];
    plane[at + south + east] += below * taps.right[i];
  }
}

template <typename A>
Tensor scatter(const Tensor& grad_in, const Tensor& flow_in) {
  const Sizes size(grad_in);
  const Tensor grad = widened(grad_in), flow = contiguous(flow_in);
  const Tensor result = torch::stable::new_zeros(grad, size.shape(size.channels));
  parallel_for(0, size.rows() > 0 ? size.batch * size.channels : 0, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / size.channels, first = sample * size.height;
      for_rows<A>(flow, size, first, first + size.height, [&](const Row<A>& taps, int64_t, int64_t at) {
        scatter_row(mutable_data<A>(result) + i * size.pixels(), data<A>(grad) + i * size.pixels() + at, taps,
                    static_cast<int32_t>(size.height), static_cast<int32_t>(size.width));
      });
    }
  });
  return result;
}

template <typename A>
Tensor slope(const Tensor& grad_in, const Tensor& image_in, const Tensor& flow_in) {
  const Sizes size(image_in);
  const Tensor grad = widened(grad_in), image = widened(image_in), flow = contiguous(flow_in);
  const Tensor result = new_empty(flow, size.shape(2));
  parallel_for(0, size.rows(), size.rows_per_task(), [&](int64_t begin, int64_t end) {
    for_rows<A>(flow, size, begin, end, [&](const Row<A>& taps, int64_t sample, int64_t at) {
      A* grad_x = mutable_data<A>(result) + sample * 2 * size.pixels() + at;
      slope_row(grad_x, grad_x + size.pixels(), data<A>(grad) + sample * size.channels * size.pixels() + at,
                size.pixels(), size.planes(data<A>(image), sample, size.channels), taps);
    });
  });
  return result;
}

std::tuple<Tensor, Tensor> forward(Tensor image, Tensor flow, std::optional<Tensor> backward, bool boundaries) {
  check_flow({"flow_warp", image}, "image", image, flow, backward);
  return dispatch("flow_warp", image.scalar_type(), [&](auto type) {
    const Warp<Accumulator<decltype(type)>> warp(image, flow, backward, boundaries);
    warp.run([](int64_t, int64_t) {});
    return std::tuple(in_dtype(warp.warped, image.scalar_type()), in_dtype(warp.valid, image.scalar_type()));
  });
}

Tensor backward_image(Tensor grad_warped, Tensor flow, bool) {
  check_flow({"flow_warp", grad_warped}, "grad_warped", grad_warped, flow);
  return dispatch("flow_warp", grad_warped.scalar_type(), [&](auto type) {
    return in_dtype(scatter<Accumulator<decltype(type)>>(grad_warped, flow), grad_warped.scalar_type());
  });
}

Tensor backward_flow(Tensor grad_warped, Tensor image, Tensor flow) {
  const Checker checker{"flow_warp", image};
  check_flow(checker, "image", image, flow);
  checker.tensor("grad_warped", grad_warped, {image.size(0), image.size(1), image.size(2), image.size(3)}, "[B,C,H,W]",
                 image.scalar_type());
  return dispatch("flow_warp", image.scalar_type(),
                  [&](auto type) { return slope<Accumulator<decltype(type)>>(grad_warped, image, flow); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CPU, m) {
  m.impl("flow_warp", TORCH_BOX(&forward));
  m.impl("flow_warp_backward_image", TORCH_BOX(&backward_image));
  m.impl("flow_warp_backward_flow", TORCH_BOX(&backward_flow));
}

}  // namespace legato
