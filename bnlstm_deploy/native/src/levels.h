// The hidden product of integers: weights in int8, and h as levels of 1/127.
#pragma once

#include "dots.h"
#include "panels.h"

namespace bnlstm {
namespace {

constexpr float LEVELS = 127.0f;  // of h above 0, and as many below

int64_t words(int64_t H) { return (H + GROUP - 1) / GROUP + 1; }

// h as levels, and behind them 0, or NaN if one of h is. To the nearest, and of two the even one.
void round_to_levels(const float *h, int64_t H, int32_t *levels) {
  int8_t *out = reinterpret_cast<int8_t *>(levels);
  Integers wrong{};
  auto round = [&](Floats h) {
    Floats scaled = h * LEVELS;
    wrong |= scaled != scaled;
    scaled = at_least(-LEVELS, scaled > all(LEVELS) ? all(LEVELS) : scaled);
    const Bits level = (Bits)(scaled + TO_INTEGER) - (Bits)all(TO_INTEGER) + OFFSET;
    return __builtin_convertvector((Integers)level, Bytes);
  };
  int64_t k = 0;
  for (; k + W <= H; k += W) {
    const Bytes bytes = round(load<W, true>(h + k, W));
    memcpy(out + k, &bytes, W);
  }
  int32_t *const last = levels + words(H) - 1;
  if (k < H) {
    last[-1] = 0;
    const int left = static_cast<int>(H - k);
    const Bytes bytes = round(load<W, false>(h + k, left));
    memcpy(out + k, &bytes, left);
  }
  bool any = false;
  for (int i = 0; i < W; i++) any |= wrong[i] != 0;
  const float nothing = any ? __builtin_nanf("") : 0.0f;
  memcpy(last, &nothing, sizeof nothing);
}

int64_t bytes_of_levels(int64_t H, int64_t inputs) {
  return 4 * padded(H) * (words(inputs) * GROUP);
}

// Packs int8 as words of GROUP inputs, [words][i, f, g, o][units], and behind them what OFFSET adds.
void pack_levels(const void *weight, int64_t H, int64_t inputs, void *packed) {
  const int64_t of_words = words(inputs) - 1;
  memset(packed, 0, bytes_of_levels(H, inputs));
  for (int64_t i = 0; i < panels(H); i++) {
    const Panel p = panel(i, H);
    int8_t *out = static_cast<int8_t *>(packed) + 4 * p.unit * (of_words + 1) * GROUP;
    for (int gate = 0; gate < 4; gate++) {
      for (int u = 0; u < p.units; u++) {
        const int8_t *from = static_cast<const int8_t *>(weight) + (gate * H + p.unit + u) * inputs;
        const int lane = gate * p.width + u;
        int32_t sum = 0;
        for (int64_t k = 0; k < inputs; k++) {
          out[(k / GROUP * 4 * p.width + lane) * GROUP + k % GROUP] = from[k];
          sum += OFFSET * from[k];
        }
        memcpy(out + (of_words * 4 * p.width + lane) * GROUP, &sum, sizeof sum);
      }
    }
  }
}

inline Integers load_words(const int8_t *p) {
  Integers v;
  memcpy(&v, p, sizeof v);
  return v;
}

// The products of `count` panels' words of weights, one panel behind the other, with those of
// `streams` streams, V vectors to a word. Inlined, so that it is compiled for where `Add` may run.
template <class Add, int V, int streams, int count>
__attribute__((always_inline)) inline void sum_words(const int8_t *weights, int64_t inputs,
                                                     const int32_t *const *levels,
                                                     Floats (&result)[count][streams][V]) {
  constexpr int vector = W * GROUP;
  const int64_t of_words = words(inputs) - 1, of_panel = (of_words + 1) * V * vector;
  Integers sum[count][streams][V];
  for (int p = 0; p < count; p++) {
    for (int v = 0; v < V; v++) {
      const Integers more = load_words(weights + p * of_panel + (of_words * V + v) * vector);
      for (int s = 0; s < streams; s++) sum[p][s][v] = -more;
    }
  }
  for (int64_t k = 0; k < of_words; k++) {
    for (int p = 0; p < count; p++) {
      for (int v = 0; v < V; v++) {
        const Integers weight = load_words(weights + p * of_panel + (k * V + v) * vector);
        for (int s = 0; s < streams; s++) {
          sum[p][s][v] = Add::add(sum[p][s][v], weight, levels[s][k] - Integers{});
        }
      }
    }
  }
  for (int s = 0; s < streams; s++) {
    float nothing;
    memcpy(&nothing, levels[s] + of_words, sizeof nothing);
    for (int p = 0; p < count; p++) {
      for (int v = 0; v < V; v++) {
        result[p][s][v] = __builtin_convertvector(sum[p][s][v], Floats) + nothing;
      }
    }
  }
}

template <int V, int streams, int count>
__attribute__((noinline)) void multiply_levels(const int8_t *weights, int64_t inputs,
                                               const int32_t *const *levels,
                                               Floats (&result)[count][streams][V]) {
  sum_words<Plain, V, streams>(weights, inputs, levels, result);
}

#if defined(DOTS_TARGET)
template <int V, int streams, int count>
DOTS_TARGET __attribute__((noinline)) void multiply_dots(const int8_t *weights, int64_t inputs,
                                                         const int32_t *const *levels,
                                                         Floats (&result)[count][streams][V]) {
  sum_words<Dots, V, streams>(weights, inputs, levels, result);
}
#endif

}  // namespace
}  // namespace bnlstm
