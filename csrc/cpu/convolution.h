// Convolutions of channels-last tensors by the libraries under torch, and weights rearranged for them.
//
// oneDNN's convolution rearranges the weight on each call, which for few pixels takes longer than all the rest; there a
// product of patches and weight is up to three times as fast.
#pragma once

#include "cpu/common.h"
#include "cpu/dot_products.h"
#include "cpu/rows.h"

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

inline Tensor empty_channels_last(const Shape& shape, const Tensor& like, std::optional<ScalarType> dtype = {}) {
  return torch::stable::empty(shape, dtype.value_or(like.scalar_type()), std::nullopt, like.device(), std::nullopt,
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

// Autocast may have run a float32 product in bfloat16.
inline Tensor as_dtype_of(const Tensor& like, Tensor result) {
  return result.scalar_type() == like.scalar_type() ? result : torch::stable::to(result, like.scalar_type());
}

// aten::convolution without bias, channels last in and out, in the dtype of the input.
inline Tensor convolution(const Tensor& input, const Tensor& weight, int64_t stride, int64_t pad_y, int64_t pad_x,
                          bool transposed) {
  using torch::stable::detail::from;
  const std::array<int64_t, 2> strides{stride, stride}, padding{pad_y, pad_x}, dilation{1, 1}, output_padding{0, 0};
  using Ints = torch::headeronly::IntHeaderOnlyArrayRef;
  std::array<StableIValue, 9> stack{
      from(input),          from(weight),     from(std::optional<Tensor>()), from(Ints(strides)), from(Ints(padding)),
      from(Ints(dilation)), from(transposed), from(Ints(output_padding)),    from(int64_t{1})};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return channels_last(as_dtype_of(input, torch::stable::detail::to<Tensor>(stack[0])));
}

// a [M,K] b [K,N], or b^T when `b` comes as [N,K]; rows contiguous
inline Tensor product(const Tensor& a, Tensor b, bool transposed) {
  if (transposed && a.scalar_type() == ScalarType::Float && takes_dot_products(b.size(0), b.size(1))) {
    const Tensor result = torch::stable::new_empty(a, std::array<int64_t, 2>{a.size(0), b.size(0)});
    dot_products({mutable_data<float>(result), a.size(0), b.size(0), b.size(0)},
                 {data<float>(a), a.size(0), a.size(1), a.size(1)}, {data<float>(b), b.size(0), b.size(1), b.size(1)});
    return result;
  }
  using torch::stable::detail::from;
  if (transposed) b = torch::stable::transpose(b, 0, 1);
  std::array<StableIValue, 2> stack{from(a), from(b)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "", stack.data(), TORCH_ABI_VERSION));
  return as_dtype_of(a, torch::stable::detail::to<Tensor>(stack[0]));
}

// Where a convolution reads: `rows` x `columns` taps, `stride` pixels from one output to the next, padded with zeros.
struct Window {
  int64_t rows, columns, stride, pad_y, pad_x;

  int64_t taps() const { return rows * columns; }
  int64_t height(const Tensor& input) const { return (input.size(2) + 2 * pad_y - rows) / stride + 1; }
  int64_t width(const Tensor& input) const { return (input.size(3) + 2 * pad_x - columns) / stride + 1; }
};

constexpr int64_t kFewPixels = 160;  // measured with 64 to 512 channels, one thread

// The memory of a tensor, which has to outlive the result, as [rows, columns].
inline Tensor as_matrix(const Tensor& tensor, int64_t columns) {
  const int64_t rows = tensor.numel() / columns;
  return torch::stable::from_blob(const_cast<void*>(tensor.const_data_ptr()), std::array<int64_t, 2>{rows, columns},
                                  std::array<int64_t, 2>{columns, 1}, tensor.device(), tensor.scalar_type());
}

// What the window sees at each output: input [B,I,H,W], channels last -> [B * height * width, taps * I]
template <typename C>
Tensor patches(const Tensor& input, const Window& window) {
  const int64_t batch = input.size(0), inputs = input.size(1), rows = input.size(2), columns = input.size(3);
  const int64_t height = window.height(input), width = window.width(input);
  const Tensor result =
      torch::stable::new_empty(input, std::array<int64_t, 2>{batch * height * width, window.taps() * inputs});
  const C* from = data<C>(input);
  C* to = mutable_data<C>(result);
  for (int64_t pixel = 0; pixel < batch * height * width; ++pixel) {
    const int64_t top = pixel / width % height * window.stride - window.pad_y;
    const int64_t left = pixel % width * window.stride - window.pad_x;
    for (int64_t tap = 0; tap < window.taps(); ++tap, to += inputs) {
      const int64_t y = top + tap / window.columns, x = left + tap % window.columns;
      if (y < 0 || y >= rows || x < 0 || x >= columns)
        std::fill_n(to, inputs, C(0.0f));
      else
        std::copy_n(from + ((pixel / (width * height) * rows + y) * columns + x) * inputs, inputs, to);
    }
  }
  return result;
}

// The convolution of input [B,I,H,W], channels last, with weight [O,I,rows,columns], channels last -> the memory of
// [B,O,height,width], channels last.
template <typename C>
Tensor convolve(const Tensor& input, const Tensor& weight, const Window& window) {
  const int64_t pixels = input.size(0) * window.height(input) * window.width(input);
  if (window.taps() == 1 || pixels > kFewPixels)
    return convolution(input, weight, window.stride, window.pad_y, window.pad_x, false);
  return product(patches<C>(input, window), as_matrix(weight, window.taps() * weight.size(1)), true);
}

// weight [O,I,3,3] -> [O,I,rows,columns] with the given taps alone, channels last, times the input's styles if given
template <typename T, typename C, typename A>
Tensor select_taps(const Tensor& weight, const std::vector<int64_t>& rows, const std::vector<int64_t>& columns,
                   const A* styles) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t by_o = weight.stride(0), by_i = weight.stride(1), by_y = weight.stride(2), by_x = weight.stride(3);
  const Tensor taps =
      empty_channels_last({outputs, inputs, static_cast<int64_t>(rows.size()), static_cast<int64_t>(columns.size())},
                          weight, dtype_of<C>());
  const T* from = data<T>(weight);
  C* to = mutable_data<C>(taps);
  for (int64_t o = 0; o < outputs; ++o) {
    for (const int64_t y : rows) {
      for (const int64_t x : columns) {
        style_taps(to, from + o * by_o + y * by_y + x * by_x, styles, inputs, by_i);
        to += inputs;
      }
    }
  }
  return taps;
}

// The adjoint of a 3x3 convolution with padding 1 (up 1) or of the transposed one of stride 2 without (up 2), for few
// pixels: what each pixel's taps reach of g [B,O,h,w], in the order of the memory of weight [O,3,3,I], times that
// weight
//   -> the memory of [B,I,H,W], channels last
template <typename C>
Tensor adjoint_of_few(const Tensor& g, const Tensor& weight, int64_t up, int64_t height, int64_t width) {
  const int64_t batch = g.size(0), outputs = g.size(1), rows = g.size(2), columns = g.size(3);
  const Tensor reached = torch::stable::new_empty(g, std::array<int64_t, 2>{batch * height * width, 9 * outputs});
  const std::vector<C> zeros(outputs, C(0.0f));
  torch::stable::parallel_for(0, batch * height * width, rows_per_task(9 * outputs), [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      const int64_t sample = pixel / (height * width), top = pixel / width % height, left = pixel % width;
      const C* taps[9];
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t y = up == 1 ? top + 1 - tap / 3 : 2 * top + tap / 3;
        const int64_t x = up == 1 ? left + 1 - tap % 3 : 2 * left + tap % 3;
        const bool outside = y < 0 || y >= rows || x < 0 || x >= columns;
        taps[tap] = outside ? zeros.data() : data<C>(g) + ((sample * rows + y) * columns + x) * outputs;
      }
      C* to = mutable_data<C>(reached) + pixel * 9 * outputs;
      for (int64_t o = 0; o < outputs; ++o) {
        for (int64_t tap = 0; tap < 9; ++tap)
          *to++ = taps[tap][o];
      }
    }
  });
  return product(reached, as_matrix(weight, weight.size(1)), false);
}

// weight [O,I,3,3] -> [I,O,3,3], channels last, in blocks so that neither side is walked with long strides.
template <typename T, typename C>
Tensor transpose_weight(const Tensor& weight) {
  constexpr int64_t kBlock = 16;
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t by_o = weight.stride(0), by_i = weight.stride(1), by_y = weight.stride(2), by_x = weight.stride(3);
  const Tensor result = empty_channels_last({inputs, outputs, 3, 3}, weight, dtype_of<C>());
  const T* from = data<T>(weight);
  C* to = mutable_data<C>(result);
  for (int64_t first = 0; first < inputs; first += kBlock) {
    const int64_t last = std::min(first + kBlock, inputs);
    for (int64_t tap = 0; tap < 9; ++tap) {
      for (int64_t o = 0; o < outputs; ++o) {
        const T* row = from + o * by_o + tap / 3 * by_y + tap % 3 * by_x;
        for (int64_t i = first; i < last; ++i)
          to[(i * 9 + tap) * outputs + o] = static_cast<C>(row[i * by_i]);
      }
    }
  }
  return result;
}

}  // namespace legato
