#include "cuda_driver.h"

#if defined(_WIN32)
extern "C" __declspec(dllimport) void *LoadLibraryA(const char *name);
extern "C" __declspec(dllimport) void *GetProcAddress(void *library, const char *name);
#else
#include <dlfcn.h>
#endif

namespace bnlstm::cuda {
namespace {

#if defined(_WIN32)
constexpr const char *NAME = "nvcuda.dll";
void *open() { return LoadLibraryA(NAME); }
void *find(void *library, const char *name) { return GetProcAddress(library, name); }
#else
constexpr const char *NAME = "libcuda.so.1";
void *open() { return dlopen(NAME, RTLD_NOW | RTLD_LOCAL); }
void *find(void *library, const char *name) { return dlsym(library, name); }
#endif

constexpr const char *REMEDY =
    "install NVIDIA's driver, or run the function body: BNLSTM_DEPLOY_NATIVE=0";

bool fill(Driver &driver, Message &message) {
  void *library = open();
  if (!library) {
    return message.write("BNLSTM: the CUDA driver %s cannot be opened; %s", NAME, REMEDY);
  }
  struct {
    const char *name;
    void *place;
  } const functions[] = {
      {"cuDriverGetVersion", &driver.cuDriverGetVersion},
      {"cuInit", &driver.cuInit},
      {"cuGetErrorString", &driver.cuGetErrorString},
      {"cuCtxGetDevice", &driver.cuCtxGetDevice},
      {"cuDeviceGetAttribute", &driver.cuDeviceGetAttribute},
      {"cuLibraryLoadData", &driver.cuLibraryLoadData},
      {"cuLibraryGetKernel", &driver.cuLibraryGetKernel},
      {"cuKernelSetAttribute", &driver.cuKernelSetAttribute},
      {"cuLaunchKernel", &driver.cuLaunchKernel},
  };
  bool complete = true;
  for (const auto &function : functions) {
    void *address = find(library, function.name);
    complete = complete && address;
    __builtin_memcpy(function.place, &address, sizeof address);
  }
  int version = 0;
  if (driver.cuDriverGetVersion) driver.cuDriverGetVersion(&version);
  if (!complete || version < OLDEST_DRIVER) {
    return message.write(
        "BNLSTM: the CUDA driver %s is of CUDA %d.%d, and the kernels need 12.0 or newer; update it, "
        "or run the function body: BNLSTM_DEPLOY_NATIVE=0",
        NAME, version / 1000, version % 1000 / 10);
  }
  if (int error = driver.cuInit(0)) return driver.failed("cuInit", error, message);
  return true;
}

}  // namespace

bool Driver::failed(const char *function, int error, Message &message) const {
  const char *text = nullptr;
  cuGetErrorString(error, &text);
  return message.write("BNLSTM: %s: %s (error %d of CUDA)", function, text ? text : "unknown", error);
}

const Driver *driver(Message &message) {
  static Driver found;
  static int state = 0;  // 1 while a thread fills it, 2 when it is filled
  Driver made;
  if (__atomic_load_n(&state, __ATOMIC_ACQUIRE) == 2) return &found;
  if (!fill(made, message)) return nullptr;
  int expected = 0;
  if (__atomic_compare_exchange_n(&state, &expected, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
    found = made;
    __atomic_store_n(&state, 2, __ATOMIC_RELEASE);
  }
  while (__atomic_load_n(&state, __ATOMIC_ACQUIRE) != 2) {
  }
  return &found;
}

}  // namespace bnlstm::cuda
