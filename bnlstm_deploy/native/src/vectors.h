// Vectors of the instruction set that is compiled for, as the compiler's portable ones.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(WIDTH)  // a test's own
#define PORTABLE
#elif defined(__AVX512F__)
#define WIDTH 16
#define STREAMS 6
#elif defined(__AVX2__)
#define WIDTH 8
#define STREAMS 3
#elif defined(__aarch64__)
#define WIDTH 4
#define STREAMS 6
#else
#define WIDTH 4
#define STREAMS 2
#endif

namespace bnlstm {
namespace {

constexpr int W = WIDTH;              // floats of a vector
constexpr int MAX_STREAMS = STREAMS;  // whose sums of four vectors each stay in registers

typedef float Floats __attribute__((vector_size(W * 4)));
typedef double Doubles __attribute__((vector_size(W * 8)));
typedef uint32_t Bits __attribute__((vector_size(W * 4)));
typedef uint16_t Halves __attribute__((vector_size(W * 2)));
typedef int8_t Bytes __attribute__((vector_size(W)));
typedef int16_t Shorts __attribute__((vector_size(W * 4)));
typedef int32_t Integers __attribute__((vector_size(W * 4)));

inline Floats all(float value) { return value - Floats{}; }

// Whether a product is rounded before the sum is up to the instruction set, and not to what the
// compiler makes of one place or another: it would not be the same for all streams.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if (defined(__FMA__) || defined(__aarch64__)) && defined(__clang__)
  return __builtin_elementwise_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// a * b + c in one rounding, on every instruction set.
inline Floats fused(Floats a, Floats b, Floats c) {
#if (defined(__FMA__) || defined(__aarch64__)) && defined(__clang__)
  return multiply_add(a, b, c);
#else
  auto wide = [](Floats v) { return __builtin_convertvector(v, Doubles); };
  return __builtin_convertvector(wide(a) * wide(b) + wide(c), Floats);
#endif
}

constexpr float TO_INTEGER = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to integers

inline Floats at_least(float least, Floats y) { return y < all(least) ? all(least) : y; }

// The first `width` floats at p, and zeros; only the first `units` if that is not the `whole`.
template <int width, bool whole>
inline Floats load(const float *p, int units) {
  Floats v{};
  memcpy(&v, p, (whole ? width : units) * sizeof(float));
  return v;
}

template <int width, bool whole>
inline void store(float *p, Floats v, int units) {
  memcpy(p, &v, (whole ? width : units) * sizeof(float));
}

}  // namespace
}  // namespace bnlstm
