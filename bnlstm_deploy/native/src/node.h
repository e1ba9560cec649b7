// A node's inputs: what they must be by the operator's contract (docs/operator.md), and what they say
// of each timestep of each stream.
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

namespace bnlstm {

enum Input {
  X,
  WEIGHT_IH,
  WEIGHT_HH,
  BIAS,
  INITIAL_H,
  INITIAL_C,
  INPUT_SCALE,
  HIDDEN_SCALE,
  CELL_SCALE,
  CELL_SHIFT,
  LENGTHS,
  START_STEP,
  ROWS,
  INPUTS  // their number
};

constexpr int REQUIRED_INPUTS = INPUT_SCALE;

constexpr const char *INPUT_NAMES[INPUTS] = {
    "X",           "weight_ih",    "weight_hh",  "bias",       "initial_h", "initial_c",
    "input_scale", "hidden_scale", "cell_scale", "cell_shift", "lengths",   "start_step",
    "rows"};

struct Tensor {
  bool given = false;
  const void *data = nullptr;
  size_t rank = 0;
  int64_t sizes[3] = {};

  template <class T>
  const T *as() const {
    return static_cast<const T *>(data);
  }
};

// A sentence on what is wrong.
struct Message {
  char text[300] = "";

  // Always false, for a check to return.
  __attribute__((format(printf, 2, 3))) bool write(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return false;
  }
};

// Which inputs `check` reads the values of, of those that count or are places.
enum class Values { NONE, COUNTS, ALL };

class Node {
 public:
  Tensor in[INPUTS];
  // T timesteps, N streams, D features, H hidden units; S timesteps with statistics, in K rows.
  int64_t T = 0, N = 0, D = 0, H = 0, K = 0, S = 0;

  // Reads the sizes and checks them, and such values of LENGTHS and START_STEP, which are few, and of
  // ROWS as are asked for.
  bool check(Values values, Message &message) {
    if (in[X].rank != 3) return wrong(X, "(T, N, D)", message);
    T = in[X].sizes[0];
    N = in[X].sizes[1];
    D = in[X].sizes[2];
    // No sum or product of sizes may overflow, even where an array has no elements.
    if (in[WEIGHT_HH].rank != 2 || in[WEIGHT_HH].sizes[1] > INT32_MAX) {
      return wrong(WEIGHT_HH, "(4H, H)", message);
    }
    H = in[WEIGHT_HH].sizes[1];
    if (in[BIAS].rank != 2) return wrong(BIAS, "(K, 4H)", message);
    K = in[BIAS].sizes[0];
    if (K == 0) return wrong(BIAS, "one row or more", message);
    if (in[CELL_SCALE].given != in[CELL_SHIFT].given) {
      return message.write("BNLSTM: %s is given without %s; give both or neither",
                           INPUT_NAMES[in[CELL_SCALE].given ? CELL_SCALE : CELL_SHIFT],
                           INPUT_NAMES[in[CELL_SCALE].given ? CELL_SHIFT : CELL_SCALE]);
    }
    if (!(is(WEIGHT_IH, 4 * H, D, message) && is(WEIGHT_HH, 4 * H, H, message) &&
          is(BIAS, K, 4 * H, message) && is_of_streams(INITIAL_H, message) &&
          is_of_streams(INITIAL_C, message) && is(INPUT_SCALE, K, 4 * H, message) &&
          is(HIDDEN_SCALE, K, 4 * H, message) && is(CELL_SCALE, K, H, message) &&
          is(CELL_SHIFT, K, H, message) && counts(LENGTHS, values, message) &&
          counts(START_STEP, values, message))) {
      return false;
    }
    S = K;
    if (in[ROWS].given) {
      if (in[ROWS].rank != 1) return wrong(ROWS, "(S)", message);
      S = in[ROWS].sizes[0];
      if (S == 0) return wrong(ROWS, "one timestep or more", message);
      if (values == Values::ALL && !within(ROWS, S, K - 1, message)) return false;
    }
    return true;
  }

  // Whether `rows` and `bias` are given already, and every row exists.
  bool has_right_rows() {
    if (!in[ROWS].given || in[ROWS].rank != 1 || !in[BIAS].given || in[BIAS].rank != 2) return false;
    Message message;
    return within(ROWS, in[ROWS].sizes[0], in[BIAS].sizes[0] - 1, message);
  }

  // The valid timesteps of a stream, at most T.
  int64_t length(int64_t n) const {
    if (!in[LENGTHS].given) return T;
    int64_t length = in[LENGTHS].as<int64_t>()[in[LENGTHS].sizes[0] == 1 ? 0 : n];
    return length < T ? length : T;
  }

  // The row of the statistics of a stream's timestep t.
  int64_t row(int64_t n, int64_t t) const {
    int64_t start = 0;
    if (in[START_STEP].given) {
      start = in[START_STEP].as<int64_t>()[in[START_STEP].sizes[0] == 1 ? 0 : n];
    }
    int64_t step = start < S - 1 - t ? start + t : S - 1;  // the sum might overflow
    return in[ROWS].given ? in[ROWS].as<int64_t>()[step] : step;
  }

  // A stream's row of INITIAL_H or INITIAL_C.
  template <class T>
  const T *state(Input input, int64_t n) const {
    return in[input].as<T>() + (in[input].sizes[0] == 1 ? 0 : n * H);
  }

 private:
  bool is(Input input, int64_t rows, int64_t columns, Message &message) const {
    const Tensor &t = in[input];
    if (!t.given || (t.rank == 2 && t.sizes[0] == rows && t.sizes[1] == columns)) return true;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "(%lld, %lld)", (long long)rows, (long long)columns);
    return wrong(input, wanted, message);
  }

  bool is_of_streams(Input input, Message &message) const {
    const Tensor &t = in[input];
    if (t.rank == 2 && (t.sizes[0] == N || t.sizes[0] == 1) && t.sizes[1] == H) return true;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "(%lld, %lld) or (1, %lld)", (long long)N, (long long)H,
             (long long)H);
    return wrong(input, wanted, message);
  }

  // LENGTHS or START_STEP.
  bool counts(Input input, Values values, Message &message) const {
    const Tensor &t = in[input];
    if (!t.given) return true;
    if (t.rank != 1 || (t.sizes[0] != N && t.sizes[0] != 1)) {
      char wanted[64];
      snprintf(wanted, sizeof wanted, "(%lld) or (1)", (long long)N);
      return wrong(input, wanted, message);
    }
    return values == Values::NONE || within(input, t.sizes[0], INT64_MAX, message);
  }

  bool within(Input input, int64_t count, int64_t greatest, Message &message) const {
    const int64_t *values = in[input].as<int64_t>();
    for (int64_t i = 0; i < count; i++) {
      if (values[i] >= 0 && values[i] <= greatest) continue;
      if (input == ROWS) {
        return message.write("BNLSTM: rows[%lld] is %lld; bias has %lld rows, so it must be 0 to %lld",
                             (long long)i, (long long)values[i], (long long)K, (long long)greatest);
      }
      return message.write("BNLSTM: %s[%lld] is %lld; it must be at least 0", INPUT_NAMES[input],
                           (long long)i, (long long)values[i]);
    }
    return true;
  }

  bool wrong(Input input, const char *wanted, Message &message) const {
    const Tensor &t = in[input];
    char shape[80] = "", *end = shape;
    for (size_t i = 0; i < t.rank && i < 3; i++) {
      end += snprintf(end, 24, i ? ", %lld" : "%lld", (long long)t.sizes[i]);
    }
    return message.write(
        "BNLSTM: %s has the shape (%s%s); it must be %s where X is of T = %lld timesteps, N = %lld "
        "streams and D = %lld features, weight_hh of H = %lld hidden units, and bias of K = %lld rows",
        INPUT_NAMES[input], shape, t.rank > 3 ? ", ..." : "", wanted, (long long)T, (long long)N,
        (long long)D, (long long)H, (long long)K);
  }
};

}  // namespace bnlstm
