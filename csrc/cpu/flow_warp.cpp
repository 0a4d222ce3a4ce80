// flow_warp on the CPU. Each row's taps are found once and serve all channels; planes are contiguous (channels first).
// The gradient to the image is scattered one plane at a time, each by one thread: the result is deterministic.

#include "check.h"
#include "cpu/common.h"
#include "math/bilinear.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
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
};

void check(const char* argument, const Tensor& image, const Tensor& flow) {
  const Checker check{"flow_warp", image};
  check.shape(argument, image, {kAny, kAny, kAny, kAny}, "[B,C,H,W]");
  check.tensor("flow", flow, {image.size(0), 2, image.size(2), image.size(3)}, "[B,2,H,W]",
               accumulator_dtype(image.scalar_type()));
}

// Where pixel (x, y) of a sample reads its image. flow: [2, H, W] of the sample.
template <typename A>
struct Sample {
  Taps<A> x, y;

  Sample(const A* flow, int64_t column, int64_t row, const Sizes& size)
      : x(split(static_cast<A>(column) + flow[row * size.width + column], size.width)),
        y(split(static_cast<A>(row) + flow[size.pixels() + row * size.width + column], size.height)) {}
};

template <typename T>
std::tuple<Tensor, Tensor> warp(const Tensor& image_in, const Tensor& flow_in) {
  using A = Accumulator<T>;
  const Sizes size(image_in);
  const Tensor image = contiguous(image_in), flow = contiguous(flow_in);
  const Tensor warped = new_empty(image, Shape{size.batch, size.channels, size.height, size.width});
  const Tensor valid = new_empty(image, Shape{size.batch, 1, size.height, size.width});
  const int64_t work = size.width * (size.channels + 4);
  parallel_for(0, size.batch * size.height, rows_per_task(work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / size.height, row = i % size.height;
      const T* source = data<T>(image) + b * size.channels * size.pixels();
      T* target = mutable_data<T>(warped) + b * size.channels * size.pixels() + row * size.width;
      for (int64_t column = 0; column < size.width; ++column) {
        const Sample<A> at(data<A>(flow) + b * 2 * size.pixels(), column, row, size);
        const int64_t top = at.y.lower * size.width, bottom = at.y.upper * size.width;
        for (int64_t c = 0; c < size.channels; ++c) {
          const T* plane = source + c * size.pixels();
          const auto read = [&](int64_t line, int64_t x) { return static_cast<A>(plane[line + x]); };
          target[c * size.pixels() + column] = static_cast<T>(
              mix(mix(read(top, at.x.lower), read(top, at.x.upper), at.x.fraction),
                  mix(read(bottom, at.x.lower), read(bottom, at.x.upper), at.x.fraction), at.y.fraction));
        }
        mutable_data<T>(valid)[i * size.width + column] = static_cast<T>(at.x.inside && at.y.inside ? 1.0f : 0.0f);
      }
    }
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
    std::vector<A> plane(size.pixels());
    for (int64_t i = begin; i < end; ++i) {
      std::fill(plane.begin(), plane.end(), A(0));
      const A* vectors = data<A>(flow) + i / size.channels * 2 * size.pixels();
      const T* incoming = data<T>(grad) + i * size.pixels();
      for (int64_t p = 0; p < size.pixels(); ++p) {
        const Sample<A> at(vectors, p % size.width, p / size.width, size);
        A* top = plane.data() + at.y.lower * size.width;
        A* bottom = plane.data() + at.y.upper * size.width;
        const A g = static_cast<A>(incoming[p]), below = g * at.y.fraction, above = g - below;
        top[at.x.lower] += above * (A(1) - at.x.fraction);
        top[at.x.upper] += above * at.x.fraction;
        bottom[at.x.lower] += below * (A(1) - at.x.fraction);
        bottom[at.x.upper] += below * at.x.fraction;
      }
      T* target = mutable_data<T>(result) + i * size.pixels();
      for (int64_t p = 0; p < size.pixels(); ++p)
        target[p] = static_cast<T>(plane[p]);
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
  const int64_t work = size.width * (size.channels + 4);
  parallel_for(0, size.batch * size.height, rows_per_task(work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / size.height, row = i % size.height;
      for (int64_t column = 0; column < size.width; ++column) {
        const Sample<A> at(data<A>(flow) + b * 2 * size.pixels(), column, row, size);
        const int64_t pixel = row * size.width + column;
        A by_x = 0, by_y = 0;
        for (int64_t c = 0; c < size.channels; ++c) {
          const int64_t plane = (b * size.channels + c) * size.pixels();
          const T* top = data<T>(image) + plane + at.y.lower * size.width;
          const T* bottom = data<T>(image) + plane + at.y.upper * size.width;
          const A nw = static_cast<A>(top[at.x.lower]), ne = static_cast<A>(top[at.x.upper]);
          const A sw = static_cast<A>(bottom[at.x.lower]), se = static_cast<A>(bottom[at.x.upper]);
          const A g = static_cast<A>(data<T>(grad)[plane + pixel]);
          by_x += g * mix(ne - nw, se - sw, at.y.fraction);
          by_y += g * mix(sw - nw, se - ne, at.x.fraction);
        }
        A* out = mutable_data<A>(result) + b * 2 * size.pixels() + pixel;
        out[0] = at.x.inside ? by_x : A(0);
        out[size.pixels()] = at.y.inside ? by_y : A(0);
      }
    }
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
