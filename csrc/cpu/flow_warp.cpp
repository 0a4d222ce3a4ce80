// flow_warp on the CPU. Each row's taps are found once and serve all channels; planes are contiguous (channels first).
// Whatever the number of threads, sums are taken in one order: every mode is deterministic.

#include "flow_warp.h"
#include "check.h"
#include "cpu/common.h"
#include "cpu/taps.h"
#include "cpu/warp.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cstring>
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

// The gradient to the image is summed in pixels of four channels, so that a tap is one vector read and written. The
// rows of a sample are shared among slabs, each with sums of its own for the rows of the image that it reaches; which
// they are depends on the shape alone, and they are added in order.
constexpr int64_t kQuad = 4;
template <typename A>
using Quad __attribute__((vector_size(kQuad * sizeof(A)))) = A;

template <typename A>
struct Slab {
  int64_t sample, channel, begin, end;  // of four channels, of the rows of the flow
  int64_t first = 0, last = -1;         // rows of the image
  std::vector<A> sums = {};             // [last - first + 1, width, 4]
};

template <typename A>
LEGATO_INLINE void add(A* pixel, const Quad<A>& value) {
  Quad<A> sum;
  std::memcpy(&sum, pixel, sizeof(sum));
  sum += value;
  std::memcpy(pixel, &sum, sizeof(sum));
}

template <typename A>
LEGATO_CLONES void scatter_row(A* sums,                              // [rows from first, width, 4]
                               const std::array<const A*, 4>& grad,  // four rows [width]
                               const Row<A>& taps, int64_t first, int64_t height, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const int64_t x = taps.x[i], y = taps.y[i];
    const int64_t east = x + 1 < width ? kQuad : 0, south = y + 1 < height ? kQuad * width : 0;
    const Quad<A> g = {grad[0][i], grad[1][i], grad[2][i], grad[3][i]};
    const Quad<A> below = g * taps.down[i], above = g - below;
    const Quad<A> ne = above * taps.right[i], se = below * taps.right[i];
    A* pixel = sums + kQuad * ((y - first) * width + x);
    add<A>(pixel, above - ne);
    add<A>(pixel + east, ne);
    add<A>(pixel + south, below - se);
    add<A>(pixel + south + east, se);
  }
}

template <typename A>
void scatter_slab(Slab<A>& slab, const Tensor& grad, const Tensor& flow, const Sizes& size) {
  const int64_t offset = slab.sample * size.height;
  slab.first = size.height;
  for_rows<A>(flow, size, offset + slab.begin, offset + slab.end, [&](const Row<A>& taps, int64_t, int64_t) {
    const auto [low, high] = std::minmax_element(taps.y.begin(), taps.y.end());
    slab.first = std::min<int64_t>(slab.first, *low);
    slab.last = std::max<int64_t>(slab.last, std::min<int64_t>(*high + 1, size.height - 1));
  });
  slab.sums.assign((slab.last - slab.first + 1) * size.width * kQuad, A(0));
  const std::vector<A> none(size.width, A(0));
  for_rows<A>(flow, size, offset + slab.begin, offset + slab.end, [&](const Row<A>& taps, int64_t, int64_t at) {
    std::array<const A*, kQuad> rows;
    for (int64_t c = 0; c < kQuad; ++c) {
      const int64_t plane = slab.sample * size.channels + slab.channel + c;
      rows[c] = slab.channel + c < size.channels ? data<A>(grad) + plane * size.pixels() + at : none.data();
    }
    scatter_row(slab.sums.data(), rows, taps, slab.first, size.height, size.width);
  });
}

// out = or += one channel of pixels of four
template <typename A>
LEGATO_CLONES void take_channel(A* __restrict__ out,         // [width]
                                const A* __restrict__ sums,  // [width, 4], from the channel on
                                bool first, int64_t width) {
  for (int64_t i = 0; i < width; ++i)
    out[i] = (first ? A(0) : out[i]) + sums[kQuad * i];
}

template <typename A>
Tensor scatter(const Tensor& grad_in, const Tensor& flow_in) {
  const Sizes size(grad_in);
  const Tensor grad = widened(grad_in), flow = contiguous(flow_in);
  const Tensor result = torch::stable::new_zeros(grad, size.planes(size.channels));
  const int64_t quads = (size.channels + kQuad - 1) / kQuad, groups = size.rows() > 0 ? size.batch * quads : 0;
  const int64_t share = std::clamp<int64_t>(std::min(8 / std::max<int64_t>(groups, 1), size.height / 16), 1, 4);
  std::vector<Slab<A>> slabs;
  for (int64_t i = 0; i < groups * share; ++i) {
    const int64_t group = i / share, part = i % share;
    slabs.push_back(
        {group / quads, group % quads * kQuad, size.height * part / share, size.height * (part + 1) / share});
  }
  parallel_for(0, groups * share, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      scatter_slab(slabs[i], grad, flow, size);
  });
  parallel_for(0, groups * size.height, size.rows_per_task(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / size.height, row = i % size.height;
      bool first = true;
      for (const Slab<A>* slab = &slabs[group * share]; slab < slabs.data() + (group + 1) * share; ++slab) {
        if (row < slab->first || row > slab->last) continue;
        for (int64_t c = 0; c < std::min(kQuad, size.channels - slab->channel); ++c) {
          const int64_t plane = slab->sample * size.channels + slab->channel + c;
          take_channel(mutable_data<A>(result) + plane * size.pixels() + row * size.width,
                       slab->sums.data() + (row - slab->first) * size.width * kQuad + c, first, size.width);
        }
        first = false;
      }
    }
  });
  return result;
}

template <typename A>
Tensor slope(const Tensor& grad_in, const Tensor& image_in, const Tensor& flow_in) {
  const Sizes size(image_in);
  const Tensor grad = widened(grad_in), image = widened(image_in), flow = contiguous(flow_in);
  const Tensor result = new_empty(flow, size.planes(2));
  parallel_for(0, size.rows(), size.rows_per_task(), [&](int64_t begin, int64_t end) {
    for_rows<A>(flow, size, begin, end, [&](const Row<A>& taps, int64_t sample, int64_t at) {
      A* grad_x = mutable_data<A>(result) + sample * 2 * size.pixels() + at;
      slope_row(grad_x, grad_x + size.pixels(), data<A>(grad) + sample * size.channels * size.pixels() + at,
                size.pixels(), size.planes_at(data<A>(image), sample, size.channels), taps);
    });
  });
  return result;
}

std::tuple<Tensor, Tensor> forward(Tensor image, Tensor flow, std::optional<Tensor> backward, bool boundaries) {
  check_warp({"flow_warp", image}, "image", image, flow, backward);
  return dispatch("flow_warp", image.scalar_type(), [&](auto type) {
    const Warp<Accumulator<decltype(type)>> warp(image, flow, backward, boundaries);
    warp.run([](int64_t, int64_t) {});
    return std::tuple(in_dtype(warp.warped, image.scalar_type()), in_dtype(warp.valid, image.scalar_type()));
  });
}

Tensor backward_image(Tensor grad_warped, Tensor flow, bool) {
  check_warp({"flow_warp", grad_warped}, "grad_warped", grad_warped, flow);
  return dispatch("flow_warp", grad_warped.scalar_type(), [&](auto type) {
    return in_dtype(scatter<Accumulator<decltype(type)>>(grad_warped, flow), grad_warped.scalar_type());
  });
}

Tensor backward_flow(Tensor grad_warped, Tensor image, Tensor flow) {
  const Checker checker{"flow_warp", image};
  check_warp(checker, "image", image, flow);
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
