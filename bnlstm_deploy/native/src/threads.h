// The threads of ONNX Runtime that a call runs on.
#pragma once

#include "abi.h"

namespace bnlstm {

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
