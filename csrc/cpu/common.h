// What the CPU kernels share: precision of accumulation, dispatch on the dtype, several instruction sets in one binary.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

// A function marked so is compiled for AVX-512, AVX2 and the baseline; the loader takes the best that the machine has.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
  #define LEGATO_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
  #define LEGATO_CLONES
#endif
#define LEGATO_INLINE __attribute__((always_inline)) inline  // so that it becomes part of each clone

namespace legato {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;

// The type in which values of T are computed.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType accumulator_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The type in which a convolution of values of T runs: processors that multiply half precision fast are rare, and in
// float32 no product of it overflows.
template <typename T>
using Convolved = std::conditional_t<std::is_same_v<T, Half>, float, T>;

template <typename T>
constexpr ScalarType dtype_of() {
  if constexpr (std::is_same_v<T, double>)
    return ScalarType::Double;
  else if constexpr (std::is_same_v<T, BFloat16>)
    return ScalarType::BFloat16;
  else if constexpr (std::is_same_v<T, Half>)
    return ScalarType::Half;
  else
    return ScalarType::Float;
}

// Calls f(T{}) with the C++ type of `dtype`.
template <typename F>
auto dispatch(const char* op, ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    case ScalarType::Half:
      return f(Half{});
    case ScalarType::Double:
      return f(double{});
    default:
      STD_TORCH_CHECK(false, op, ": the first argument has to be of dtype Float, BFloat16, Half or Double; got ",
                      torch::headeronly::toString(dtype));
  }
}

template <typename T>
const T* data(const torch::stable::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const torch::stable::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// How many rows of `size` values one thread should take at least.
inline int64_t rows_per_task(int64_t size) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, size));
}

}  // namespace legato
