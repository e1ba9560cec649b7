// The kernels for GPUs that the library holds; `build.py` writes their table and their code.
#pragma once

#include <stddef.h>

namespace bnlstm::cuda {

enum Kernel { BEGIN, INPUT_PART, STEP, SEQUENCE };

// Of X, weights and Y, and of products of float32.
enum Kind { FLOAT32, TF32, FLOAT16, BFLOAT16 };

constexpr int PTX = 0;  // in place of a compute capability: code that the driver compiles

struct Binary {
  Kernel kernel;
  Kind kind;
  int capability;     // it is for, such as 75
  int unit, feature;  // what H and D are multiples of
  int rows, columns;  // the tile of a block
  int warps;
  int shared;  // bytes of a block
  int waves;   // of `sequence`, up to how many blocks a multiprocessor it is taken
  const char *name;
  size_t offset;  // into the code
};

extern const Binary BINARIES[];
extern const size_t BINARY_COUNT;
extern "C" const unsigned char bnlstm_cuda_code[];

}  // namespace bnlstm::cuda
