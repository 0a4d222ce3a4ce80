// Tensors in channels-last order, oneDNN's convolution on them, and weights rearranged for it.
#pragma once

#include "cpu/common.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace legato {

using torch::headeronly::MemoryFormat;
using torch::stable::Tensor;
using Shape = std::array<int64_t, 4>;

inline Tensor empty_channels_last(const Shape& shape, const Tensor& like) {
  return torch::stable::empty(shape, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

inline Tensor channels_last(const Tensor& tensor) {
  return torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast);
}

// Whether a tensor has exactly the strides of empty_channels_last: it may then be written over and returned.
inline bool is_channels_last(const Tensor& tensor) {
  const int64_t channels = tensor.size(1), row = tensor.size(3) * channels;
  return tensor.stride(0) == tensor.size(2) * row && tensor.stride(1) == 1 && tensor.stride(2) == row &&
         tensor.stride(3) == channels;
}

// aten::convolution without bias, channels last in and out, in the dtype of the input whatever autocast makes of it.
inline Tensor convolve(const Tensor& input, const Tensor& weight, int64_t stride, int64_t pad_y, int64_t pad_x,
                       bool transposed) {
  using torch::stable::detail::from;
  const std::array<int64_t, 2> strides{stride, stride}, padding{pad_y, pad_x}, dilation{1, 1}, output_padding{0, 0};
  using Ints = torch::headeronly::IntHeaderOnlyArrayRef;
  std::array<StableIValue, 9> stack{
      from(input),          from(weight),     from(std::optional<Tensor>()), from(Ints(strides)), from(Ints(padding)),
      from(Ints(dilation)), from(transposed), from(Ints(output_padding)),    from(int64_t{1})};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  Tensor result = torch::stable::detail::to<Tensor>(stack[0]);
  if (result.scalar_type() != input.scalar_type()) result = torch::stable::to(result, input.scalar_type());
  return channels_last(result);
}

// The taps of weight [O,I,3,3] in the given rows and columns: [O,I,rows,columns], channels last.
template <typename T>
Tensor select_taps(const Tensor& weight, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t by_o = weight.stride(0), by_i = weight.stride(1), by_y = weight.stride(2), by_x = weight.stride(3);
  const Tensor taps = empty_channels_last(
      {outputs, inputs, static_cast<int64_t>(rows.size()), static_cast<int64_t>(columns.size())}, weight);
  const T* from = data<T>(weight);
  T* to = mutable_data<T>(taps);
  for (int64_t o = 0; o < outputs; ++o) {
    for (const int64_t y : rows) {
      for (const int64_t x : columns) {
        const T* tap = from + o * by_o + y * by_y + x * by_x;
        for (int64_t i = 0; i < inputs; ++i)
          to[i] = tap[i * by_i];
        to += inputs;
      }
    }
  }
  return taps;
}

// weight [O,I,1,1] -> [O,I] in the precision of computation
template <typename T>
std::vector<Accumulator<T>> flat_weight(const Tensor& weight) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  std::vector<Accumulator<T>> flat(outputs * inputs);
  for (int64_t k = 0; k < outputs * inputs; ++k) {
    flat[k] = data<T>(weight)[k / inputs * weight.stride(0) + k % inputs * weight.stride(1)];
  }
  return flat;
}

// weight [O,I,3,3] -> [I,O,3,3], channels last, in blocks so that neither side is walked with long strides.
template <typename T>
Tensor transpose_weight(const Tensor& weight) {
  constexpr int64_t kBlock = 16;
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t by_o = weight.stride(0), by_i = weight.stride(1), by_y = weight.stride(2), by_x = weight.stride(3);
  const Tensor result = empty_channels_last({inputs, outputs, 3, 3}, weight);
  const T* from = data<T>(weight);
  T* to = mutable_data<T>(result);
  for (int64_t first = 0; first < inputs; first += kBlock) {
    const int64_t last = std::min(first + kBlock, inputs);
    for (int64_t tap = 0; tap < 9; ++tap) {
      for (int64_t o = 0; o < outputs; ++o) {
        const T* row = from + o * by_o + tap / 3 * by_y + tap % 3 * by_x;
        for (int64_t i = first; i < last; ++i)
          to[(i * 9 + tap) * outputs + o] = row[i * by_i];
      }
    }
  }
  return result;
}

}  // namespace legato
