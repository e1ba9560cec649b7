// The CUDA driver, as far as launches need it.
//
// It is opened at run time, so that one library serves machines with and without a GPU. Signatures are
// those of cuda.h from CUDA 12.0 on; every function returns 0 or an error's number.
#pragma once

#include <stddef.h>

#include "node.h"

namespace bnlstm::cuda {

constexpr int OLDEST_DRIVER = 12000;  // of CUDA 12.0, the first with libraries of kernels

enum DeviceAttribute : int {
  MULTIPROCESSOR_COUNT = 16,
  CAPABILITY_MAJOR = 75,
  CAPABILITY_MINOR = 76,
  SHARED_MEMORY_PER_BLOCK = 97,  // that a kernel may opt in to
};

constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;  // an attribute of kernels

struct Library;
struct Function;  // a CUkernel, which a launch takes for a CUfunction

struct Driver {
  int (*cuInit)(unsigned flags);
  int (*cuDriverGetVersion)(int *version);
  int (*cuGetErrorString)(int error, const char **text);
  int (*cuCtxGetDevice)(int *device);
  int (*cuDeviceGetAttribute)(int *value, int attribute, int device);
  int (*cuLibraryLoadData)(Library **library, const void *code, void *options, void **values,
                           unsigned count, void *library_options, void **library_values,
                           unsigned library_count);
  int (*cuLibraryGetKernel)(Function **function, Library *library, const char *name);
  int (*cuKernelSetAttribute)(int attribute, int value, Function *function, int device);
  int (*cuLaunchKernel)(Function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        void *stream, void **arguments, void **extra);

  // Writes what a function said; always false.
  bool failed(const char *function, int error, Message &message) const;
};

// The driver of this machine; null, and why, where there is none that can be used.
const Driver *driver(Message &message);

}  // namespace bnlstm::cuda
