// photometric_error on the CPU: a row is warped, masked and compared with its target while it is in the first cache.
// Rows are summed into a buffer and the buffer in order, so the error does not depend on the number of threads.

#include "check.h"
#include "cpu/common.h"
#include "cpu/warp.h"
#include "flow_warp.h"
#include "math/penalty.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

namespace legato {
namespace {

using torch::stable::contiguous;
using torch::stable::new_empty;
using torch::stable::parallel_for;

constexpr const char* kOp = "photometric_error";

// Calls f(constant) with the penalty as a constant.
template <typename F>
auto with_penalty(int64_t penalty, const F& f) {
  switch (static_cast<Penalty>(penalty)) {
    case Penalty::kL1:
      return f(std::integral_constant<Penalty, Penalty::kL1>{});
    case Penalty::kL2:
      return f(std::integral_constant<Penalty, Penalty::kL2>{});
    case Penalty::kCharbonnier:
      return f(std::integral_constant<Penalty, Penalty::kCharbonnier>{});
  }
  STD_TORCH_CHECK(false, kOp, ": penalty has to be 0 (l1), 1 (l2) or 2 (charbonnier); got ", penalty);
}

void check_epsilon(double epsilon) {
  STD_TORCH_CHECK(epsilon > 0 && std::isfinite(epsilon), kOp, ": epsilon has to be positive and finite; got ", epsilon);
}

// sums = or += rho(warped - target)
template <Penalty kind, typename A>
LEGATO_CLONES void penalize_row(A* __restrict__ sums,          // [width]
                                const A* __restrict__ warped,  // [width]
                                const A* __restrict__ target,  // [width]
                                A epsilon, bool first, int64_t width) {
  if (first) {
    for (int64_t i = 0; i < width; ++i)
      sums[i] = rho<kind>(warped[i] - target[i], epsilon);
  } else {
    for (int64_t i = 0; i < width; ++i)
      sums[i] += rho<kind>(warped[i] - target[i], epsilon);
  }
}

// Sums side by side, in a vector register (or several, where the machine's are short).
template <typename A>
using Lanes __attribute__((vector_size(kRun * sizeof(A)))) = A;

// total, count = sum of values where valid, sum of valid
template <typename A>
LEGATO_CLONES void sum_valid(A* __restrict__ total, A* __restrict__ count,
                             const A* __restrict__ values,  // [width]
                             const A* __restrict__ valid,   // [width]
                             int64_t width) {
  Lanes<A> totals = {}, counts = {}, value, seen;
  int64_t i = 0;
  for (; i + kRun <= width; i += kRun) {
    std::memcpy(&value, values + i, sizeof(value));
    std::memcpy(&seen, valid + i, sizeof(seen));
    totals += seen > A(0) ? value : Lanes<A>{};
    counts += seen;
  }
  *total = *count = 0;
  for (int64_t k = 0; k < kRun; ++k) {
    *total += totals[k];
    *count += counts[k];
  }
  for (; i < width; ++i) {
    *total += valid[i] > A(0) ? values[i] : A(0);
    *count += valid[i];
  }
}

// grad = scale * rho'(warped - target) where valid
template <Penalty kind, typename A>
LEGATO_CLONES void differentiate_row(A* __restrict__ grad,          // [size]
                                     const A* __restrict__ warped,  // [size]
                                     const A* __restrict__ target,  // [size]
                                     const A* __restrict__ valid,   // [size]
                                     A scale, A epsilon, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    const A slope = scale * rho_derivative<kind>(warped[i] - target[i], epsilon);
    grad[i] = valid[i] > A(0) ? slope : A(0);
  }
}

template <Penalty kind, typename A>
Tensor measure(const Warp<A>& warp, const Tensor& target_in, A epsilon) {
  const Sizes& size = warp.size;
  const Tensor target = widened(target_in);
  const Tensor error = new_empty(warp.image, std::array<int64_t, 1>{size.batch});
  std::vector<A> totals(size.batch * size.height, A(0)), counts(size.batch * size.height, A(0));
  warp.run([&](int64_t sample, int64_t row) {
    thread_local std::vector<A> sums;
    sums.resize(size.width);
    if (size.channels == 0) std::fill(sums.begin(), sums.end(), A(0));
    const A *image = warp.warped_row(sample, row), *valid = warp.valid_row(sample, row);
    const A* wanted = data<A>(target) + sample * size.channels * size.pixels() + row * size.width;
    for (int64_t c = 0; c < size.channels; ++c) {
      penalize_row<kind>(sums.data(), image + c * size.pixels(), wanted + c * size.pixels(), epsilon, c == 0,
                         size.width);
    }
    const int64_t at = sample * size.height + row;
    sum_valid(&totals[at], &counts[at], sums.data(), valid, size.width);
  });
  for (int64_t sample = 0; sample < size.batch; ++sample) {
    double total = 0, count = 0;
    for (int64_t i = sample * size.height; i < (sample + 1) * size.height; ++i) {
      total += totals[i];
      count += counts[i];
    }
    mutable_data<A>(error)[sample] = static_cast<A>(total / error_divisor(static_cast<double>(size.channels), count));
  }
  return error;
}

template <Penalty kind, typename A>
Tensor differentiate(const Tensor& grad_error_in, const Tensor& warped_in, const Tensor& target_in,
                     const Tensor& valid_in, A epsilon) {
  const Sizes size(warped_in);
  const Tensor grad_error = contiguous(grad_error_in), warped = widened(warped_in), target = widened(target_in);
  const Tensor valid = widened(valid_in);
  const Tensor result = new_empty(warped, size.planes(size.channels));
  std::vector<A> scales(size.batch);
  parallel_for(0, size.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double count = 0;
      for (int64_t row = 0; row < size.height; ++row) {
        A total, part;
        const A* pixels = data<A>(valid) + i * size.pixels() + row * size.width;
        sum_valid(&total, &part, pixels, pixels, size.width);
        count += part;
      }
      scales[i] = static_cast<A>(data<A>(grad_error)[i] / error_divisor(static_cast<double>(size.channels), count));
    }
  });
  parallel_for(0, size.rows(), size.rows_per_task(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / size.height, row = i % size.height * size.width;
      for (int64_t c = 0; c < size.channels; ++c) {
        const int64_t at = (sample * size.channels + c) * size.pixels() + row;
        differentiate_row<kind>(mutable_data<A>(result) + at, data<A>(warped) + at, data<A>(target) + at,
                                data<A>(valid) + sample * size.pixels() + row, scales[sample], epsilon, size.width);
      }
    }
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor image, Tensor target, Tensor flow, std::optional<Tensor> backward,
                                           bool boundaries, int64_t penalty, double epsilon) {
  const Checker checker{kOp, image};
  const ScalarType dtype = image.scalar_type();
  check_warp(checker, "image", image, flow, backward);
  checker.tensor("target", target, {image.size(0), image.size(1), image.size(2), image.size(3)}, "[B,C,H,W]", dtype);
  check_epsilon(epsilon);
  return dispatch(kOp, dtype, [&](auto type) {
    using A = Accumulator<decltype(type)>;
    return with_penalty(penalty, [&](auto kind) {
      const Warp<A> warp(image, flow, backward, boundaries);
      const Tensor error = measure<decltype(kind)::value>(warp, target, static_cast<A>(epsilon));
      return std::tuple(error, in_dtype(warp.warped, dtype), in_dtype(warp.valid, dtype));
    });
  });
}

Tensor backward(Tensor grad_error, Tensor warped, Tensor target, Tensor valid, int64_t penalty, double epsilon) {
  const Checker checker{kOp, warped};
  const ScalarType dtype = warped.scalar_type();
  checker.shape("warped", warped, {kAny, kAny, kAny, kAny}, "[B,C,H,W]");
  const Sizes size(warped);
  checker.tensor("grad_error", grad_error, {size.batch}, "[B]", accumulator_dtype(dtype));
  checker.tensor("target", target, {size.batch, size.channels, size.height, size.width}, "[B,C,H,W]", dtype);
  checker.tensor("valid", valid, {size.batch, 1, size.height, size.width}, "[B,1,H,W]", dtype);
  check_epsilon(epsilon);
  return dispatch(kOp, dtype, [&](auto type) {
    using A = Accumulator<decltype(type)>;
    return with_penalty(penalty, [&](auto kind) {
      return in_dtype(differentiate<decltype(kind)::value>(grad_error, warped, target, valid, static_cast<A>(epsilon)),
                      dtype);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CPU, m) {
  m.impl("photometric_error", TORCH_BOX(&forward));
  m.impl("photometric_error_backward", TORCH_BOX(&backward));
}

}  // namespace legato
