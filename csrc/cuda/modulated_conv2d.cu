// modulated_conv2d on CUDA: what is launched in which order. See modulated_conv2d.cuh for the pieces.
//
// In 16-bit types a layer is one kernel: it scales its input on the way in and finishes on the way out, so each
// activation is read once and written once. Small maps, where one kernel would leave most of the device idle, split the
// sum over the channels and finish in a second one; so does an upsampling layer whose tiles would be mostly border.
// Float32 and float64 always finish in a second kernel. How a sum is split depends on the shape of a layer and not on
// the batch, and nothing is added atomically: every run gives the same, and a sample's y and grad_x are the same bits
// in every batch. The gradient of its styles is too while the batch calls for the same tiles.

#include "modulated_conv2d.h"

#include "cuda/modulated_conv2d.cuh"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace legato {
namespace {

using namespace modulated;
using torch::headeronly::MemoryFormat;

template <typename T>
constexpr bool kTensorCores = sizeof(T) == 2;

Tensor channels_last(const Tensor& tensor) {
  return torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast);
}

Tensor empty_channels_last(const std::array<int64_t, 4>& shape, const Tensor& like) {
  return torch::stable::empty(shape, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

Tensor empty(std::vector<int64_t> shape, const Tensor& like, ScalarType dtype) {
  return torch::stable::empty(shape, dtype, std::nullopt, like.device());
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional(torch::stable::contiguous(*tensor)) : std::nullopt;
}

template <typename T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

bool aligned(std::initializer_list<Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  });
}

// The op's arguments in the layouts that the kernels take, and the factors that its styles give.
template <typename T>
struct Layer {
  using A = Accumulator<T>;
  const Device& device;
  const ModulatedConv2d& a;
  ScalarType precise;
  Tensor x, weight, styles;
  std::optional<Tensor> q, noise, bias, scale, normalized, sigma;

  Layer(const Device& device, const ModulatedConv2d& a)
      : device(device),
        a(a),
        precise(accumulator_dtype(a.x.scalar_type())),
        x(channels_last(a.x)),
        weight(channels_last(a.weight)),
        styles(torch::stable::contiguous(a.styles)),
        q(contiguous(a.q)),
        noise(contiguous(a.noise)),
        bias(contiguous(a.bias)) {
    STD_TORCH_CHECK(a.height() * a.width() < std::numeric_limits<int32_t>::max(),
                    "modulated_conv2d: an image has to have fewer than 2^31 pixels on CUDA; got ", a.height(), "x",
                    a.width());
    const bool half = a.x.scalar_type() == ScalarType::Half;
    if (!q && !half) return;
    scale = empty({a.batch(), a.outputs()}, x, precise);
    if (half) {
      normalized = empty({a.batch(), a.inputs()}, x, precise);
      sigma = empty({a.batch()}, x, precise);
    }
    compute_factors<A>(device, a.batch(), inputs(), outputs(), data<A>(styles), data_or_null<A>(q), half,
                       mutable_data<A>(*scale), half ? mutable_data<A>(*normalized) : nullptr,
                       half ? mutable_data<A>(*sigma) : nullptr);
  }

  int inputs() const { return static_cast<int>(a.inputs()); }
  int outputs() const { return static_cast<int>(a.outputs()); }
  int rows() const { return static_cast<int>(a.x.size(2)); }
  int columns() const { return static_cast<int>(a.x.size(3)); }

  Epilogue<T> epilogue() const {
    const A bound = static_cast<A>(a.clamp.value_or(std::numeric_limits<double>::infinity()));
    return {data_or_null<A>(scale), data_or_null<T>(bias), data_or_null<T>(noise),
            noise && noise->size(0) > 1 ? a.height() * a.width() : 0,
            Activation<A>{static_cast<A>(a.slope), static_cast<A>(a.gain), bound}};
  }

  Map output_map(std::initializer_list<Tensor> tensors) const {
    return {a.batch(), static_cast<int>(a.height()), static_cast<int>(a.width()), outputs(),
            outputs() % 8 == 0 && aligned(tensors)};
  }

  Map input_map(std::initializer_list<Tensor> tensors) const {
    return {a.batch(), rows(), columns(), inputs(), inputs() % 8 == 0 && aligned(tensors)};
  }

  bool vectors(std::initializer_list<Tensor> tensors) const {
    return inputs() % 8 == 0 && outputs() % 8 == 0 && aligned(tensors);
  }
};

// Into how many parts a sum is split, by the shape of the layer: enough blocks for the device where a map is small.
int choose_splits(const Product& p) {
  constexpr int64_t kBlocks = 128, kSmallMap = 17 * 17, kMostSplits = 8, kLeastChannels = 32;
  if (p.positions() > kSmallMap) return 1;
  const int64_t blocks = p.images() * divide_up<int64_t>(p.positions(), 64) * divide_up(p.n, 64);
  const int64_t most = std::min<int64_t>(kMostSplits, p.k / kLeastChannels);
  return static_cast<int>(std::clamp<int64_t>(kBlocks / blocks, 1, std::max<int64_t>(most, 1)));
}

// Whether the upsampling layer is one kernel. It multiplies 256 positions for every 14 x 14 pixels of the input. Two
// kernels multiply each position once, but load the patch for every phase, which costs about half as much again, and
// the map between them, 32 bytes a position and channel, is worth about 100 channels of multiplying.
bool upsamples_at_once(const Product& p) {
  const double tiles = static_cast<double>(divide_up(p.height, 14)) * divide_up(p.width, 14);
  return 256 * tiles <= static_cast<double>(p.height) * p.width * (1.5 + 100.0 / p.k);
}

template <typename T>
Tensor compute(const Device& device, const ModulatedConv2d& a) {
  using A = Accumulator<T>;
  const Layer<T> layer(device, a);
  const Tensor y = empty_channels_last(a.output_shape(), a.x);
  const Epilogue<T> epilogue = layer.epilogue();
  const bool up = a.up == 2;
  const int border = up ? 1 : 0;  // the phases of the transposed convolution
  Product p{a.batch(),
            layer.inputs(),
            layer.outputs(),
            layer.rows(),
            layer.columns(),
            layer.rows() + border,
            layer.columns() + border,
            static_cast<int>(a.taps() * a.taps()),
            1,
            false,
            up,
            1};
  const Operands<T> operands{data<T>(layer.x), data<T>(layer.weight), data<A>(layer.normalized.value_or(layer.styles)),
                             layer.vectors({layer.x, layer.weight})};
  Result<T> result{};
  if constexpr (kTensorCores<T>) {
    if (up && upsamples_at_once(p)) {
      upsample<T>(device, p, operands, epilogue, mutable_data<T>(y));
      return y;
    }
    p.splits = choose_splits(p);
    if (p.splits == 1 && !up) {
      result.finish = Finish::kForward;
      result.stored = mutable_data<T>(y);
      result.epilogue = epilogue;
      multiply<T>(device, p, operands, result);
      return y;
    }
    if (p.splits == 1) {
      const Tensor phases = empty({a.batch(), 4, p.positions(), a.outputs()}, y, y.scalar_type());
      result.finish = Finish::kRaw;
      result.stored = mutable_data<T>(phases);
      multiply<T>(device, p, operands, result);
      finish_upsampled<T, T>(device, layer.output_map({y, phases}), 1, data<T>(phases), epilogue, mutable_data<T>(y));
      return y;
    }
  }
  p.splits = choose_splits(p);
  const Tensor partial = empty({p.splits, a.batch(), p.images(), p.positions(), a.outputs()}, y, layer.precise);
  result.finish = Finish::kPartial;
  result.partial = mutable_data<A>(partial);
  multiply<T>(device, p, operands, result);
  const Map map = layer.output_map({y, partial});
  if (up)
    finish_upsampled<T, A>(device, map, p.splits, data<A>(partial), epilogue, mutable_data<T>(y));
  else
    finish_forward<T>(device, map, p.splits, data<A>(partial), epilogue, mutable_data<T>(y));
  return y;
}

// The gradients, as csrc/cpu/modulated_conv2d.cpp derives them.
template <typename T>
std::tuple<Tensor, Tensor> differentiate_layer(const Device& device, const ModulatedConv2d& a, const Tensor& grad_y,
                                               const Tensor& y) {
  using A = Accumulator<T>;
  const Layer<T> layer(device, a);
  const bool up = a.up == 2;
  const int64_t border = up ? 1 : 0, batch = a.batch();
  const Tensor incoming = channels_last(grad_y), kept = channels_last(y);

  Epilogue<T> epilogue = layer.epilogue();
  if (!a.q) epilogue.scale = nullptr;  // sigma alone would only bring g closer to overflow
  const Tensor g = empty_channels_last({batch, a.outputs(), a.height() + border, a.width() + border}, a.x);
  const Map outer = layer.output_map({incoming, kept, g});
  const int64_t strips = count_strips(outer, up);
  const Tensor strip_sums = empty({batch, strips, a.outputs()}, g, layer.precise);
  differentiate<T>(device, outer, up, data<T>(incoming), data<T>(kept), epilogue, mutable_data<T>(g),
                   mutable_data<A>(strip_sums));

  const Tensor grad_x = empty_channels_last({batch, a.inputs(), a.x.size(2), a.x.size(3)}, a.x);
  Product p{batch,
            layer.outputs(),
            layer.inputs(),
            static_cast<int>(g.size(2)),
            static_cast<int>(g.size(3)),
            layer.rows(),
            layer.columns(),
            static_cast<int>(a.taps() * a.taps()),
            up ? 2 : 1,
            true,
            false,
            1};
  p.splits = choose_splits(p);
  const Operands<T> operands{data<T>(g), data<T>(layer.weight), nullptr, layer.vectors({g, layer.weight, layer.x})};
  Adjoint<T> adjoint{data<A>(a.q ? layer.normalized.value_or(layer.styles) : layer.styles), data<T>(layer.x), nullptr};
  Result<T> result{};
  Tensor sums;
  if (kTensorCores<T> && p.splits == 1) {
    sums = empty({batch, count_tiles<T>(device, p), a.inputs()}, g, layer.precise);
    adjoint.sums = mutable_data<A>(sums);
    result.finish = Finish::kAdjoint;
    result.stored = mutable_data<T>(grad_x);
    result.adjoint = adjoint;
    multiply<T>(device, p, operands, result);
  } else {
    const Tensor partial = empty({p.splits, batch, p.positions(), a.inputs()}, g, layer.precise);
    const Map inner = layer.input_map({layer.x, grad_x, partial});
    sums = empty({batch, count_strips(inner, false), a.inputs()}, g, layer.precise);
    adjoint.sums = mutable_data<A>(sums);
    result.finish = Finish::kPartial;
    result.partial = mutable_data<A>(partial);
    multiply<T>(device, p, operands, result);
    finish_adjoint<T>(device, inner, p.splits, data<A>(partial), adjoint, mutable_data<T>(grad_x));
  }

  const Tensor grad_styles = empty({batch, a.inputs()}, g, layer.precise);
  finish_styles<A>(device, batch, layer.inputs(), layer.outputs(), sums.size(1), strips, data<A>(layer.styles),
                   data_or_null<A>(layer.q), data_or_null<A>(layer.scale), data_or_null<A>(layer.sigma), data<A>(sums),
                   data<A>(strip_sums), mutable_data<A>(grad_styles));
  return {grad_x, grad_styles};
}

Tensor forward(Tensor x, Tensor weight, Tensor styles, std::optional<Tensor> q, std::optional<Tensor> noise,
               std::optional<Tensor> bias, int64_t up, double slope, double gain, std::optional<double> clamp) {
  const ModulatedConv2d a{x, weight, styles, q, noise, bias, up, slope, gain, clamp};
  a.check();
  if (a.batch() == 0) return empty_channels_last(a.output_shape(), x);
  const Device device("modulated_conv2d", x);
  return dispatch("modulated_conv2d", x.scalar_type(), [&](auto type) { return compute<decltype(type)>(device, a); });
}

std::tuple<Tensor, Tensor> backward(Tensor grad_y, Tensor y, Tensor x, Tensor weight, Tensor styles,
                                    std::optional<Tensor> q, std::optional<Tensor> noise, std::optional<Tensor> bias,
                                    int64_t up, double slope, double gain, std::optional<double> clamp) {
  const ModulatedConv2d a{x, weight, styles, q, noise, bias, up, slope, gain, clamp};
  a.check();
  a.check_output(grad_y, y);
  if (a.batch() == 0) {
    return {empty_channels_last({0, x.size(1), x.size(2), x.size(3)}, x), torch::stable::empty_like(styles)};
  }
  const Device device("modulated_conv2d", x);
  return dispatch("modulated_conv2d", x.scalar_type(),
                  [&](auto type) { return differentiate_layer<decltype(type)>(device, a, grad_y, y); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(legato, CUDA, m) {
  m.impl("modulated_conv2d", TORCH_BOX(&forward));
  m.impl("modulated_conv2d_backward", TORCH_BOX(&backward));
}

}  // namespace legato
