// One timestep of many streams in float32, written with the compiler's portable vectors.
//
// ISA names the instruction set that this file is compiled for, once for each.
#include "activations.h"
#include "kernel.h"
#include "levels.h"

namespace bnlstm {
namespace {

// A vector of weights.
inline Floats load_weights(const float *p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline Floats load_weights(const uint16_t *p) {
  Halves v;
  memcpy(&v, p, sizeof v);
  return (Floats)(__builtin_convertvector(v, Bits) << 16);
}
inline Floats load_weights(const int8_t *p) {
  Bytes v;
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(__builtin_convertvector(v, Integers), Floats);
}

// Two vectors of weights. Those of bfloat16 are in turns, one the lower halves of words.
template <class T>
inline void load_pair(const T *p, Floats (&pair)[2]) {
  pair[0] = load_weights(p);
  pair[1] = load_weights(p + W);
}
inline void load_pair(const uint16_t *p, Floats (&pair)[2]) {
  Bits v;
  memcpy(&v, p, sizeof v);
  pair[0] = (Floats)(v << 16);
  pair[1] = (Floats)(v & 0xffff0000u);
}

// Where the weight goes that is number i of a panel, if those before `paired` come in pairs.
template <class T>
inline int64_t place(int64_t i, int64_t) {
  return i;
}
template <>
inline int64_t place<uint16_t>(int64_t i, int64_t paired) {
  const int64_t vector = i / W, lane = i % W;
  return i < paired ? (vector / 2 * W + lane) * 2 + vector % 2 : i;
}

template <class T>
void pack(const void *weight, int64_t H, int64_t inputs, void *packed) {
  int64_t count = panels(H);
  for (int64_t i = 0; i < count; i++) {
    Panel p = panel(i, H);
    T *out = static_cast<T *>(packed) + 4 * p.unit * inputs;
    if (p.units < p.width) memset(out, 0, 4 * p.width * inputs * sizeof(T));
    const int64_t paired = 4 * p.width * inputs / (4 * W) * (4 * W);
    for (int gate = 0; gate < 4; gate++) {
      for (int u = 0; u < p.units; u++) {
        const T *from = static_cast<const T *>(weight) + (gate * H + p.unit + u) * inputs;
        for (int64_t k = 0; k < inputs; k++) {
          out[place<T>((4 * k + gate) * p.width + u, paired)] = from[k];
        }
      }
    }
  }
}

// The products of `count` panels' weights, one panel behind the other, with the inputs of `streams`
// streams. To one input belong V vectors of a panel's weights, in order of the gates: one each, or two
// or four gates in one. There are four sums all the same, for each waits for its last addition: with
// V < 4 they are of every second or fourth input, and added up at the end.
template <int V, int streams, class T, int count>
__attribute__((noinline)) void multiply(const T *weights, int64_t inputs,
                                        const float *const *input,
                                        Floats (&result)[count][streams][V]) {
  constexpr int parts = 4 / V;
  Floats sum[count][streams][4];
  for (int p = 0; p < count; p++) {
    for (int s = 0; s < streams; s++) {
      for (int v = 0; v < 4; v++) sum[p][s][v] = Floats{};
    }
  }
  Floats weight[2];
  int64_t k = 0;
  for (; k + parts <= inputs; k += parts) {
    for (int p = 0; p < count; p++) {
      for (int v = 0; v < 4; v++) {
        if (v % 2 == 0) load_pair(weights + ((p * inputs + k) * V + v) * W, weight);
        for (int s = 0; s < streams; s++) {
          sum[p][s][v] = multiply_add(all(input[s][k + v / V]), weight[v % 2], sum[p][s][v]);
        }
      }
    }
  }
  for (int part = 0; part < parts - 1; part++) {  // the inputs left; where there are any, count is 1
    if (k + part == inputs) break;
    for (int v = 0; v < V; v++) {
      const Floats weight = load_weights(weights + ((k + part) * V + v) * W);
      for (int s = 0; s < streams; s++) {
        Floats &to = sum[0][s][part * V + v];
        to = multiply_add(all(input[s][k + part]), weight, to);
      }
    }
  }
  for (int p = 0; p < count; p++) {
    for (int s = 0; s < streams; s++) {
      for (int v = 0; v < V; v++) {
        Floats total = sum[p][s][v];
        for (int part = 1; part < parts; part++) total += sum[p][s][v + part * V];
        result[p][s][v] = total;
      }
    }
  }
}

// From the sums of a panel's four gates to c. Returns the gate o.
template <int width, bool whole>
inline Floats update_cell(const Layer &layer, const Stream &at, const Panel &p, const float *input,
                          const float *hidden) {
  const int units = p.units;
  const float *input_scale = layer.input_scale.at(at.row) + p.unit;
  const float *hidden_scale = layer.hidden_scale.at(at.row) + p.unit;
  const float *bias = layer.bias.at(at.row) + p.unit;
  Floats gate[4];
  for (int g = 0; g < 4; g++) {
    const int64_t offset = g * layer.H;
    gate[g] = load<width, whole>(bias + offset, units);
    gate[g] = multiply_add(load<width, true>(input + g * width, width),
                           load<width, whole>(input_scale + offset, units), gate[g]);
    gate[g] = multiply_add(load<width, true>(hidden + g * width, width),
                           load<width, whole>(hidden_scale + offset, units), gate[g]);
  }
  Exponentials<4> e({sigmoid_exponent(gate[0]), sigmoid_exponent(gate[1]), tanh_exponent(gate[2]),
                     sigmoid_exponent(gate[3])});
  Floats c = load<width, whole>(at.c + p.unit, units);
  Floats new_c = sigmoid(gate[0], e.n[0], e.p[0]) * tanh(gate[2], e.n[2], e.p[2]);
  c = multiply_add(sigmoid(gate[1], e.n[1], e.p[1]), c, new_c);
  store<width, whole>(at.c + p.unit, c, units);
  return sigmoid(gate[3], e.n[3], e.p[3]);
}

// From c and o to h.
template <int width, bool whole>
inline void output(const Layer &layer, const Stream &at, const Panel &p, Floats o) {
  const int units = p.units;
  Floats c = multiply_add(load<width, whole>(at.c + p.unit, units),
                          load<width, whole>(layer.cell_scale.at(at.row) + p.unit, units),
                          load<width, whole>(layer.cell_shift.at(at.row) + p.unit, units));
  Exponentials<1> e({tanh_exponent(c)});
  store<width, whole>(at.h_next + p.unit, o * tanh(c, e.n[0], e.p[0]), units);
}

// Statistics of many timesteps are read once each and are in no near cache.
inline void fetch_row(const Layer &layer, int64_t row, int64_t unit) {
  for (int g = 0; g < 4; g++) {
    __builtin_prefetch(layer.input_scale.at(row) + g * layer.H + unit);
    __builtin_prefetch(layer.hidden_scale.at(row) + g * layer.H + unit);
    __builtin_prefetch(layer.bias.at(row) + g * layer.H + unit);
  }
  __builtin_prefetch(layer.cell_scale.at(row) + unit);
  __builtin_prefetch(layer.cell_shift.at(row) + unit);
}

// What follows the products of a panel, for some streams. One tanh waits for another: in two loops the
// streams' waits overlap.
template <int V, bool whole>
__attribute__((noinline)) void finish(const Layer &layer, const Stream *stream, int streams,
                                      const Panel &p, const Floats (*input)[V],
                                      const Floats (*hidden)[V]) {
  constexpr int width = V * W / 4;
  fetch_row(layer, stream[0].next_row, p.unit);
  Floats o[MAX_STREAMS];
  for (int s = 0; s < streams; s++) {
    const float *product = reinterpret_cast<const float *>(input[s]);
    if (layer.projected) product = stream[s].x + 4 * p.unit;
    o[s] = update_cell<width, whole>(layer, stream[s], p, product,
                                     reinterpret_cast<const float *>(hidden[s]));
  }
  for (int s = 0; s < streams; s++) output<width, whole>(layer, stream[s], p, o[s]);
}

template <class T>
const T *weights_of(const void *packed, int64_t unit, int64_t inputs) {
  return static_cast<const T *>(packed) + 4 * unit * inputs;
}

// How weights are stored, and the hidden product: of h as it is, from weights that are made floats ...
template <class T>
struct Widened {
  typedef T Stored;

  template <int V, int streams, int count>
  static void hidden(const Layer &layer, const Stream *stream, int64_t unit,
                     Floats (&result)[count][streams][V]) {
    const float *h[streams];
    for (int s = 0; s < streams; s++) h[s] = stream[s].h;
    multiply<V, streams>(weights_of<T>(layer.weight_hh, unit, layer.H), layer.H, h, result);
  }

  static void prepare(const Layer &, const Stream *, int64_t) {}
};

// ... or of levels of h.
template <bool with_dots>
struct Levels {
  typedef int8_t Stored;

  template <int V, int streams, int count>
  static void hidden(const Layer &layer, const Stream *stream, int64_t unit,
                     Floats (&result)[count][streams][V]) {
    const int32_t *levels[streams];
    for (int s = 0; s < streams; s++) levels[s] = stream[s].levels;
    const int64_t of_panel = words(layer.H) * GROUP;
    const int8_t *weights = weights_of<int8_t>(layer.weight_hh, unit, of_panel);
#if defined(DOTS_TARGET)
    if constexpr (with_dots) return multiply_dots<V, streams>(weights, layer.H, levels, result);
#endif
    multiply_levels<V, streams>(weights, layer.H, levels, result);
  }

  static void prepare(const Layer &layer, const Stream *streams, int64_t count) {
    for (int64_t s = 0; s < count; s++) round_to_levels(streams[s].h, layer.H, streams[s].levels);
  }
};

// One timestep of some streams' panel.
template <class Weights, int V, int streams>
void step_panel(const Layer &layer, const Stream *stream, const Panel &p) {
  typedef typename Weights::Stored T;
  const float *x[streams];
  for (int s = 0; s < streams; s++) x[s] = stream[s].x;
  Floats input[1][streams][V], hidden[1][streams][V];
  if (!layer.projected) {
    multiply<V, streams>(weights_of<T>(layer.weight_ih, p.unit, layer.D), layer.D, x, input);
  }
  Weights::hidden(layer, stream, p.unit, hidden);
  auto finish_panel = p.units == p.width ? finish<V, true> : finish<V, false>;
  finish_panel(layer, stream, streams, p, input[0], hidden[0]);
}

// The same for one stream and two whole panels: with one it has too few sums to keep the multipliers
// busy. Here, too, the waits for tanh overlap.
template <class Weights>
void step_pair(const Layer &layer, const Stream &stream, const Panel (&panels)[2]) {
  typedef typename Weights::Stored T;
  Floats input[2][1][4], hidden[2][1][4];
  const int64_t unit = panels[0].unit;
  if (!layer.projected) {
    multiply<4, 1>(weights_of<T>(layer.weight_ih, unit, layer.D), layer.D, &stream.x, input);
  }
  Weights::hidden(layer, &stream, unit, hidden);
  Floats o[2];
  for (int i = 0; i < 2; i++) {
    const Panel &p = panels[i];
    fetch_row(layer, stream.next_row, p.unit);
    const float *product = reinterpret_cast<const float *>(input[i]);
    if (layer.projected) product = stream.x + 4 * p.unit;
    o[i] = update_cell<W, true>(layer, stream, p, product, reinterpret_cast<const float *>(hidden[i]));
  }
  for (int i = 0; i < 2; i++) output<W, true>(layer, stream, panels[i], o[i]);
}

template <class T, int V, int streams>
void project_panel(const Layer &layer, const float *const *x, float *const *out, int64_t unit) {
  Floats product[1][streams][V];
  multiply<V, streams>(weights_of<T>(layer.weight_ih, unit, layer.D), layer.D, x, product);
  for (int s = 0; s < streams; s++) memcpy(out[s] + 4 * unit, product[0][s], sizeof product[0][s]);
}

template <int value_>
struct Constant {
  static constexpr int value = value_;
};

// Calls run(Constant<V>, Constant<streams>, first) for each of `shares` shares of streams.
template <int V, int streams = MAX_STREAMS, class Run>
inline void run_shares(int64_t share, int64_t shares, int64_t first, Run &run) {
  if constexpr (streams > 0) {
    if (share < streams) return run_shares<V, streams - 1>(share, shares, first, run);
    for (int64_t i = 0; i < shares; i++) run(Constant<V>(), Constant<streams>(), first + i * streams);
  }
}

// Shares out `count` streams as equally as can be, with V of the panel's width.
template <class Run>
inline void dispatch(int width, int64_t count, Run run) {
  const int64_t shares = (count + MAX_STREAMS - 1) / MAX_STREAMS;
  const int64_t share = count / shares, larger = count % shares;
  auto run_all = [&](auto V) {
    run_shares<decltype(V)::value>(share + 1, larger, 0, run);
    run_shares<decltype(V)::value>(share, shares - larger, larger * (share + 1), run);
  };
  if (width == W) {
    run_all(Constant<4>());
  } else if (width == W / 2) {
    run_all(Constant<2>());
  } else {
    run_all(Constant<1>());
  }
}

template <class Weights>
void step(const Layer &layer, const Stream *streams, int64_t count, int64_t begin, int64_t end,
          bool backwards) {
  Weights::prepare(layer, streams, count);
  auto at = [&](int64_t i) { return panel(backwards ? begin + end - 1 - i : i, layer.H); };
  auto run = [&](const Panel &p, const Stream *first, int64_t number) {
    if (number == 0) return;
    dispatch(p.width, number, [&](auto V, auto share, int64_t offset) {
      step_panel<Weights, decltype(V)::value, decltype(share)::value>(layer, first + offset, p);
    });
  };
  const bool left = count % MAX_STREAMS == 1;
  const Stream *last = streams + count - 1;
  for (int64_t i = begin; i < end; i++) {
    const Panel p = at(i);
    run(p, streams, count - left);
    if (!left) continue;
    const Panel next = i + 1 < end ? at(i + 1) : Panel{};
    if (p.units == W && next.units == W) {
      run(next, streams, count - left);
      step_pair<Weights>(layer, *last, {backwards ? next : p, backwards ? p : next});
      i++;
    } else {
      run(p, last, 1);
    }
  }
}

template <class T>
void project(const Layer &layer, const float *const *x, float *const *out, int64_t count,
             int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const Panel p = panel(i, layer.H);
    dispatch(p.width, count, [&](auto V, auto share, int64_t first) {
      project_panel<T, decltype(V)::value, decltype(share)::value>(layer, x + first, out + first,
                                                                   p.unit);
    });
  }
}

int64_t no_words(int64_t) { return 0; }

template <class T>
int64_t bytes(int64_t H, int64_t inputs) {
  return 4 * padded(H) * inputs * sizeof(T);
}

template <class T>
constexpr Arithmetic WIDENED = {pack<T>, pack<T>, bytes<T>, bytes<T>, no_words, project<T>,
                                step<Widened<T>>};

template <bool with_dots>
constexpr Arithmetic OF_LEVELS = {pack<int8_t>,   pack_levels,     bytes<int8_t>,
                                  bytes_of_levels, words,           project<int8_t>,
                                  step<Levels<with_dots>>};

}  // namespace

#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

const Kernel ISA = {NAME(ISA),        panels,          padded, WIDENED<float>, WIDENED<uint16_t>,
                    WIDENED<int8_t>, OF_LEVELS<false>,
#if defined(DOTS_TARGET)
                    &OF_LEVELS<true>};
#else
                    nullptr};
#endif

}  // namespace bnlstm
