// All timesteps of a checked node.
#pragma once

#include "kernel.h"
#include "memory.h"
#include "node.h"
#include "threads.h"

namespace bnlstm {

// Where to write; null where the output is not used.
template <class T>
struct Outputs {
  T *Y, *Y_h, *Y_c;
};

struct Packed {
  const void *weight_ih, *weight_hh;
};

// Sets `enough_memory`; the status is of ONNX Runtime's threads.
ort::Status *forward(const Node &node, const Kernel &kernel, const Arithmetic &arithmetic,
                     const Packed &packed, const Outputs<float> &out, const Threads &threads,
                     bool &enough_memory);
ort::Status *forward(const Node &node, const Outputs<double> &out, const Threads &threads,
                     bool &enough_memory);

}  // namespace bnlstm
