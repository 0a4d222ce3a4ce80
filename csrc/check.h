// Checks of arguments that name the op, the argument, what was wanted and what was given. `_check.py` words its own
// alike.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace legato {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kAny = -1;

// What the first argument of an op fixes for all others: the op's name, dtype and device.
struct Checker {
  const char* op;
  const Tensor& first;

  // `axes` is how the wanted shape reads in the message, such as "[B,I,H,W]"; kAny in `wanted` lets any size pass.
  void shape(const char* argument, const Tensor& tensor, std::initializer_list<int64_t> wanted,
             const char* axes) const {
    bool fits = tensor.dim() == static_cast<int64_t>(wanted.size());
    int64_t axis = 0;
    for (const int64_t size : wanted) {
      fits = fits && (size == kAny || tensor.size(axis) == size);
      ++axis;
    }
    STD_TORCH_CHECK(fits, op, ": ", argument, " has to be ", axes, " = ", list(wanted), "; got ", list(sizes(tensor)));
    STD_TORCH_CHECK(tensor.device() == first.device(), op, ": ", argument,
                    " has to be on the device of the first argument");
  }

  void dtype(const char* argument, const Tensor& tensor, ScalarType wanted) const {
    STD_TORCH_CHECK(tensor.scalar_type() == wanted, op, ": ", argument, " has to be of dtype ",
                    torch::headeronly::toString(wanted), "; got ", torch::headeronly::toString(tensor.scalar_type()));
  }

  void tensor(const char* argument, const Tensor& tensor, std::initializer_list<int64_t> wanted, const char* axes,
              ScalarType wanted_dtype) const {
    shape(argument, tensor, wanted, axes);
    dtype(argument, tensor, wanted_dtype);
  }

  void tensor(const char* argument, const std::optional<Tensor>& optional, std::initializer_list<int64_t> wanted,
              const char* axes, ScalarType wanted_dtype) const {
    if (optional) tensor(argument, *optional, wanted, axes, wanted_dtype);
  }

 private:
  static std::vector<int64_t> sizes(const Tensor& tensor) {
    std::vector<int64_t> result;
    for (int64_t axis = 0; axis < tensor.dim(); ++axis)
      result.push_back(tensor.size(axis));
    return result;
  }

  static std::string list(const std::vector<int64_t>& sizes) {
    std::ostringstream text;
    const char* separator = "[";
    for (const int64_t size : sizes) {
      text << separator;
      if (size == kAny)
        text << "*";
      else
        text << size;
      separator = ",";
    }
    text << (sizes.empty() ? "[]" : "]");
    return text.str();
  }
};

}  // namespace legato
