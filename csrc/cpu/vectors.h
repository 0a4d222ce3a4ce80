// Sixteen values of an op's tensor as two vectors of the precision of computation, for loops that the compiler does not
// vectorize by itself. Where the machine's registers are shorter or longer, the compiler splits or fills them.
#pragma once

#include "cpu/common.h"

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace legato {

constexpr int64_t kLane = 8;
constexpr int64_t kBlock = 2 * kLane;

template <typename A>
struct VectorOf {
  typedef A Type __attribute__((vector_size(kLane * sizeof(A))));
};
template <typename A>
using Vector = typename VectorOf<A>::Type;
using Bits16 = Vector<uint16_t>;
using Bits32 = Vector<uint32_t>;

// The values of T in memory <-> vectors. bfloat16 is taken apart into the values in even and in odd places, which needs
// no shuffling: value k of the block lies at place(k) of memory.
template <typename T>
struct Block {
  using A = Accumulator<T>;
  Vector<A> lower, upper;

  static constexpr int64_t place(int64_t k) {
    if (!std::is_same_v<T, BFloat16>) return k;
    return k < kLane ? 2 * k : 2 * (k - kLane) + 1;
  }

  LEGATO_INLINE void load(const T* from) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      Bits32 pairs;
      std::memcpy(&pairs, from, sizeof(pairs));
      lower = reinterpret_cast<Vector<A>>(pairs << 16);
      upper = reinterpret_cast<Vector<A>>(pairs & 0xffff0000);
    } else if constexpr (std::is_same_v<T, Half>) {
      widen(lower, from);
      widen(upper, from + kLane);
    } else {
      std::memcpy(&lower, from, sizeof(lower));
      std::memcpy(&upper, from + kLane, sizeof(upper));
    }
  }

  LEGATO_INLINE void store(T* to) const {
    if constexpr (std::is_same_v<T, BFloat16>) {
      Bits32 even, odd;
      round(even, lower);
      round(odd, upper);
      const Bits32 pairs = (odd & 0xffff0000) | (even >> 16);
      std::memcpy(to, &pairs, sizeof(pairs));
    } else if constexpr (std::is_same_v<T, Half>) {
      narrow(to, lower);
      narrow(to + kLane, upper);
    } else {
      std::memcpy(to, &lower, sizeof(lower));
      std::memcpy(to + kLane, &upper, sizeof(upper));
    }
  }

 private:
  // To bfloat16 in the upper half of each word: the nearest, the even one of two
  LEGATO_INLINE static void round(Bits32& to, const Vector<float>& values) {
    const Bits32 bits = reinterpret_cast<Bits32>(values);
    to = values == values ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000;
  }

  // float16 has five bits of exponent: its bits, moved into a float's places, are the value times 2^-112.
  LEGATO_INLINE static void widen(Vector<float>& to, const Half* from) {
    Bits16 half;
    std::memcpy(&half, from, sizeof(half));
    const Bits32 bits = __builtin_convertvector(half, Bits32), size = (bits & 0x7fff) << 13;
    const Bits32 finite = reinterpret_cast<Bits32>(reinterpret_cast<Vector<float>>(size) * 0x1p112f);
    to = reinterpret_cast<Vector<float>>((size >= 0x0f800000 ? size | 0x7f800000 : finite) | (bits & 0x8000) << 16);
  }

  // Adding 1/2 rounds what is subnormal in float16 at the right bit.
  LEGATO_INLINE static void narrow(Half* to, const Vector<float>& values) {
    const Bits32 bits = reinterpret_cast<Bits32>(values), size = bits & 0x7fffffff;
    const Bits32 subnormal = reinterpret_cast<Bits32>(reinterpret_cast<Vector<float>>(size) + 0.5f) - 0x3f000000;
    const Bits32 normal = (size - 0x38000000 + 0xfff + ((size >> 13) & 1)) >> 13;
    const Bits32 infinite = (size > 0x7f800000) & 0x200;
    const Bits32 finite = size < 0x38800000 ? subnormal : normal;
    const Bits32 result = (size >= 0x47800000 ? infinite | 0x7c00 : finite) | (bits >> 16 & 0x8000);
    const Bits16 half = __builtin_convertvector(result, Bits16);
    std::memcpy(to, &half, sizeof(half));
  }
};

// The totals of four vectors, written to out[0..3]
template <typename A>
LEGATO_INLINE void add_up(A* out, const Vector<A>& a, const Vector<A>& b, const Vector<A>& c, const Vector<A>& d) {
  const auto ab = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
                  __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  const auto cd = __builtin_shufflevector(c, d, 0, 8, 2, 10, 4, 12, 6, 14) +
                  __builtin_shufflevector(c, d, 1, 9, 3, 11, 5, 13, 7, 15);
  const auto halves = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                      __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
  const auto totals =
      __builtin_shufflevector(halves, halves, 0, 1, 2, 3) + __builtin_shufflevector(halves, halves, 4, 5, 6, 7);
  std::memcpy(out, &totals, sizeof(totals));
}

}  // namespace legato
