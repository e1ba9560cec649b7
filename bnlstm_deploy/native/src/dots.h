// Products of int8 with int8, summed as integers: exact, whichever instructions make them.
//
// Four inputs are a word of 32 bits, of h and in each lane of a vector of weights.
#pragma once

#include "vectors.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__AVX2__)
#include <immintrin.h>
#endif

namespace bnlstm {
namespace {

// Of a word.
constexpr int GROUP = 4;

// Instructions of x86 multiply bytes without a sign with bytes that have one: h is then 128 more, and
// the sum 128 times that of the weights.
#if defined(__AVX2__) && !defined(PORTABLE)
constexpr int OFFSET = 128;
#else
constexpr int OFFSET = 0;
#endif

#if defined(__AVX512F__) && !defined(PORTABLE)

#define DOTS_TARGET __attribute__((target("avx512vnni")))
struct Dots {
  DOTS_TARGET static inline Integers add(Integers sum, Integers weights, Integers levels) {
    return (Integers)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)levels, (__m512i)weights);
  }
};

inline Integers add_products(Integers sum, Shorts a, Shorts b) {
  return sum + (Integers)_mm512_madd_epi16((__m512i)a, (__m512i)b);
}

#elif defined(__AVX2__) && !defined(PORTABLE)

inline Integers add_products(Integers sum, Shorts a, Shorts b) {
  return sum + (Integers)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}

#elif defined(__aarch64__) && !defined(PORTABLE)

#define DOTS_TARGET __attribute__((target("dotprod")))
struct Dots {
  DOTS_TARGET static inline Integers add(Integers sum, Integers weights, Integers levels) {
    return (Integers)vdotq_s32((int32x4_t)sum, (int8x16_t)weights, (int8x16_t)levels);
  }
};

#endif

// Where the CPU has no instruction for it.
struct Plain {
#if defined(__AVX2__) && !defined(PORTABLE)
  // Of the bytes at even places, and of those at odd ones.
  static inline Integers add(Integers sum, Integers weights, Integers levels) {
    const Shorts even = (Shorts)((Shorts)weights << 8) >> 8, odd = (Shorts)weights >> 8;
    const Bits bytes = Bits{} + 0x00ff00ffu;
    sum = add_products(sum, even, (Shorts)((Bits)levels & bytes));
    return add_products(sum, odd, (Shorts)(((Bits)levels >> 8) & bytes));
  }
#elif defined(__aarch64__) && !defined(PORTABLE)
  static inline Integers add(Integers sum, Integers weights, Integers levels) {
    const int8x16_t w = (int8x16_t)weights, h = (int8x16_t)levels;
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(h)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(w, h));
    return sum + (Integers)vpaddq_s32(low, high);
  }
#else
  static inline Integers add(Integers sum, Integers weights, Integers levels) {
    for (int shift = 0; shift < 32; shift += 8) {
      const Integers w = (Integers)((Bits)weights << shift) >> 24;
      const Integers h = (Integers)((Bits)levels << shift) >> 24;
      sum += w * h;
    }
    return sum;
  }
#endif
};

}  // namespace
}  // namespace bnlstm
