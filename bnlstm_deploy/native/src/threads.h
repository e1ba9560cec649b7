// The threads of ONNX Runtime that a call runs on.
#pragma once

#include "abi.h"

#if defined(_WIN32)
extern "C" __declspec(dllimport) int SwitchToThread();
#else
#include <sched.h>
#endif

namespace bnlstm {

// Passes the time until another thread is done: it may take less than a microsecond, or have lost its
// processor.
inline void wait(int times_waited) {
  constexpr int PATIENCE = 1000;
  if (times_waited < PATIENCE) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
    return;
  }
#if defined(_WIN32)
  SwitchToThread();
#else
  sched_yield();
#endif
}

class Threads {
 public:
  Threads(const ort::Api &api, const ort::KernelContext *context, int count)
      : count(count), api_(api), context_(context) {}

  // Calls run(i) for 0 <= i < items, and returns when all are done.
  template <class Run>
  ort::Status *parallel_for(int64_t items, const Run &run) const {
    if (items <= 1) {
      if (items == 1) run(0);
      return nullptr;
    }
    auto item = [](void *data, size_t i) {
      (*static_cast<const Run *>(data))(static_cast<int64_t>(i));
    };
    return api_.KernelContext_ParallelFor(context_, item, static_cast<size_t>(items), 0,
                                          const_cast<Run *>(&run));
  }

  const int count;  // how many there are, as far as is known

 private:
  const ort::Api &api_;
  const ort::KernelContext *context_;
};

}  // namespace bnlstm
