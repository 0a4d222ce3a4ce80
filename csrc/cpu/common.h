// What the CPU kernels share: several instruction sets in one binary, dtypes of convolutions, sizes of tasks.
#pragma once

#include "dtypes.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

// A function marked so is compiled for AVX-512, AVX2 and the baseline; the loader takes the best that the machine has.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
  #define LEGATO_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
  #define LEGATO_X86(level) __attribute__((target("arch=x86-64-v" #level)))  // for one of them alone
#else
  #define LEGATO_CLONES
#endif
#define LEGATO_INLINE __attribute__((always_inline)) inline  // so that it becomes part of each clone

namespace legato {

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

// How many rows of `size` values one thread should take at least.
inline int64_t rows_per_task(int64_t size) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, size));
}

}  // namespace legato
