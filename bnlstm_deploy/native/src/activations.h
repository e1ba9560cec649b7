// Sigmoid and tanh of vectors.
#pragma once

#include "vectors.h"

namespace bnlstm {
namespace {

constexpr float LOG2_E = 1.44269504088896341f;
constexpr float LN2_HIGH = 0.693359375f;  // 9 bits: its product with n is exact
constexpr float LN2_LOW = -2.12194440054690583e-4f;
constexpr float EXP_2 = 0.5f;
constexpr float EXP_3 = 0x1.555554p-3f;
constexpr float EXP_4 = 0x1.5554f8p-5f;
constexpr float EXP_5 = 0x1.1112d4p-7f;
constexpr float EXP_6 = 0x1.6d3aacp-10f;
constexpr float EXP_7 = 0x1.9e7d78p-13f;

// e^y = 2^n (1 + p) for -105 <= y <= 0, or NaN. |r| is at most ln(2) / 2, and p = e^r - 1 a polynomial
// whose relative error is 2^-31, by Remez' algorithm: it keeps all digits of a small y. Several are
// made at once, so that each waits less and constants are read once.
template <int count>
struct Exponentials {
  Bits n[count];
  Floats p[count];

  inline explicit Exponentials(const Floats (&y)[count]) {
    Floats r[count], r_2[count], q[count];
    for (int i = 0; i < count; i++) {
      Floats shifted = multiply_add(y[i], all(LOG2_E), all(TO_INTEGER));
      n[i] = (Bits)shifted - (Bits)all(TO_INTEGER);
      r[i] = multiply_add(shifted - all(TO_INTEGER), all(-LN2_HIGH), y[i]);
      r[i] = multiply_add(shifted - all(TO_INTEGER), all(-LN2_LOW), r[i]);
    }
    for (int i = 0; i < count; i++) r_2[i] = r[i] * r[i];
    for (int i = 0; i < count; i++) q[i] = multiply_add(all(EXP_7), r[i], all(EXP_6));
    for (int i = 0; i < count; i++) p[i] = multiply_add(all(EXP_5), r[i], all(EXP_4));
    for (int i = 0; i < count; i++) q[i] = multiply_add(q[i], r_2[i], p[i]);
    for (int i = 0; i < count; i++) p[i] = multiply_add(all(EXP_3), r[i], all(EXP_2));
    for (int i = 0; i < count; i++) q[i] = multiply_add(q[i], r_2[i], p[i]);
    for (int i = 0; i < count; i++) p[i] = multiply_add(q[i], r_2[i], r[i]);
  }
};

// 2^n for n from -126 on.
inline Floats power_of_2(Bits n) { return (Floats)((n + 127) << 23); }

inline Bits sign_of(Floats x) { return (Bits)x & (Bits)all(-0.0f); }
inline Floats minus_magnitude(Floats x) { return (Floats)((Bits)x | (Bits)all(-0.0f)); }

// sigmoid(x) = 1 / (1 + e^-x), from e^y for y = -|x|, which does not overflow. That is 0 from 105 on;
// before, it becomes subnormal in one rounding. With s = sigmoid(y) = e^y / (1 + e^y) it is e^y - e^y s,
// which is more exact than s, or 1 - s.
inline Floats sigmoid_exponent(Floats x) { return at_least(-105.0f, minus_magnitude(x)); }
inline Floats sigmoid(Floats x, Bits n, Floats p) {
  Floats scale = power_of_2(n + 32);
  Floats power = multiply_add(scale, p, scale) * 0x1p-32f;
  Floats s = power / (1.0f + power);
  Floats limit = x < Floats{} ? power : all(1.0f);
  return multiply_add(-limit, s, limit);
}

// tanh(x) = d / (2 - d) with the sign of x, for d = 1 - e^y and y = -2|x|; as d / 2 + d / 2 * tanh(x), in
// one rounding, it is more exact. It is 1 from 10 on.
inline Floats tanh_exponent(Floats x) { return at_least(-20.0f, 2.0f * minus_magnitude(x)); }
inline Floats tanh(Floats x, Bits n, Floats p) {
  Floats scale = power_of_2(n);
  Floats d = multiply_add(-scale, p, 1.0f - scale);
  Floats magnitude = fused(0.5f * d, d / (2.0f - d), 0.5f * d);
  return (Floats)((Bits)magnitude | sign_of(x));
}

}  // namespace
}  // namespace bnlstm
