// What is compiled once for each instruction set: the arithmetic of one timestep in float32.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bnlstm {

// A row a timestep, in the operator's own layout. An input left empty is one row and a stride of 0.
struct Rows {
  const float *data;
  int64_t stride;

  const float *at(int64_t row) const { return data + row * stride; }
};

// What is the same for all timesteps. H hidden units, D features.
struct Layer {
  int64_t H;
  int64_t D;
  const void *weight_ih;  // packed
  const void *weight_hh;  // packed
  Rows input_scale, hidden_scale, bias;  // of 4H
  Rows cell_scale, cell_shift;           // of H
  bool projected;  // whether a Stream's x is its `project`ed product already
};

// One stream at one timestep.
struct Stream {
  const float *x;    // (D), or what `project` wrote
  const float *h;    // (H)
  float *h_next;     // (H)
  float *c;          // (H), read and written
  int64_t row;       // of the statistics
  int64_t next_row;  // at the timestep after this one
  int32_t *levels;   // scratch of `words`
};

// Hidden units come in panels: of W units, the vector's width, and at the end of W/2 or W/4, so that
// no vector of the product is more than W/4 units from full. A panel's packed weights are
// [inputs][i, f, g, o][units]: one pass over the inputs makes the four gates of all its units.
//
// Each gate is one sum, in the order of the inputs: so the numbers do not depend on which streams,
// timesteps or threads share a call.
//
// Weights are what they are stored as, floats, the upper halves of floats (bfloat16) or int8, and are
// floats only in registers: one stream is as fast as they are read. What is computed is the same as from
// floats of the same values, to the bit.
struct Arithmetic {
  // Packs weight_ih (4H, D) into `bytes_ih`.
  void (*pack_ih)(const void *weight, int64_t H, int64_t inputs, void *packed);
  // Packs weight_hh (4H, H) likewise.
  void (*pack_hh)(const void *weight, int64_t H, int64_t inputs, void *packed);
  int64_t (*bytes_ih)(int64_t H, int64_t inputs);
  int64_t (*bytes_hh)(int64_t H, int64_t inputs);

  // Of the scratch of a stream, for h as integers; 0 where it stays float.
  int64_t (*words)(int64_t H);

  // weight_ih x of `count` > 0 streams into `out`, for panels begin..end: 4 * padded(H) floats a stream.
  void (*project)(const Layer &layer, const float *const *x, float *const *out, int64_t count,
                  int64_t begin, int64_t end);

  // One timestep of `count` > 0 streams, for panels begin..end, the last first if `backwards`.
  void (*step)(const Layer &layer, const Stream *streams, int64_t count, int64_t begin, int64_t end,
               bool backwards);
};

struct Kernel {
  const char *name;  // of the instruction set
  int64_t (*panels)(int64_t H);
  int64_t (*padded)(int64_t H);  // H rounded up to whole panels
  Arithmetic floats, bfloat16, int8;  // by what weights are

  // From int8 with h rounded to levels of 1/127, times 127: the hidden product is of integers. The
  // second is with instructions for dot products, which not all CPUs of the instruction set have; null
  // where there are none. Their numbers are the same.
  Arithmetic levels;
  const Arithmetic *dots;
};

#if defined(__x86_64__) || defined(_M_X64)
extern const Kernel baseline, avx2, avx512;
#else
extern const Kernel neon;
#endif

}  // namespace bnlstm
