// The custom operator `bnlstm::BNLSTM` of ONNX Runtime for its CUDA provider.
#pragma once

#include "abi.h"

namespace bnlstm::cuda {

// Which launches compute the timesteps.
enum class Launches { BEST, STEP, SEQUENCE };

struct Settings {
  bool tf32;  // whether products of float32 may be
  Launches launches;

  bool operator==(const Settings &other) const {
    return tf32 == other.tf32 && launches == other.launches;
  }
};

// Adds the operator in float32, and in float16 and bfloat16 where all but operands is float32, to a
// domain. It stays: sessions use it.
ort::Status *add_operators(const ort::Api &api, const Settings &settings,
                           ort::CustomOpDomain *domain);

}  // namespace bnlstm::cuda
