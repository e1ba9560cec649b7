// What all operators share: how they are declared, and how a node's arrays are read and made.
#pragma once

#include "abi.h"
#include "node.h"

namespace bnlstm {

constexpr size_t OUTPUTS = 3;

// An operator for some types, on some provider, as far as its declaration goes.
struct Op : ort::CustomOp {
  ort::ElementType operands;  // of X and Y
  ort::ElementType weights;
  ort::ElementType others;  // of all else that is no integer
};

inline void declare(Op &op, ort::ElementType operands, ort::ElementType weights,
                    ort::ElementType others) {
  using ort::CustomOp;
  op.version = ort::API_VERSION;
  op.operands = operands;
  op.weights = weights;
  op.others = others;
  op.GetName = [](const CustomOp *) { return "BNLSTM"; };
  op.GetInputTypeCount = [](const CustomOp *) { return size_t(INPUTS); };
  op.GetInputType = [](const CustomOp *op, size_t i) {
    const Op *self = static_cast<const Op *>(op);
    return i == X        ? self->operands
           : i < BIAS    ? self->weights
           : i < LENGTHS ? self->others
                         : ort::INT64;
  };
  op.GetInputCharacteristic = [](const CustomOp *, size_t i) {
    return i < REQUIRED_INPUTS ? ort::REQUIRED : ort::OPTIONAL;
  };
  op.GetOutputTypeCount = [](const CustomOp *) { return OUTPUTS; };
  op.GetOutputType = [](const CustomOp *op, size_t i) {
    const Op *self = static_cast<const Op *>(op);
    return i == 0 ? self->operands : self->others;
  };
  op.GetOutputCharacteristic = [](const CustomOp *, size_t) { return ort::OPTIONAL; };
  op.GetInputMemoryType = [](const CustomOp *, size_t) { return 0; };
  op.GetStartVersion = op.GetEndVersion = [](const CustomOp *) { return 1; };
}

// The arrays of a node.
class Io {
 public:
  explicit Io(const ort::Api &api) : api_(api) {}

  // Where the values are, and of what sizes.
  ort::Status *read(const ort::Value *value, Tensor &tensor) const {
    ort::TensorTypeAndShapeInfo *info;
    if (ort::Status *status = api_.GetTensorTypeAndShape(value, &info)) return status;
    ort::Status *status = api_.GetDimensionsCount(info, &tensor.rank);
    size_t read = tensor.rank < 3 ? tensor.rank : 3;  // more are an error anyway
    if (!status) status = api_.GetDimensions(info, tensor.sizes, read);
    api_.ReleaseTensorTypeAndShapeInfo(info);
    void *data = nullptr;
    if (!status) status = api_.GetTensorMutableData(value, &data);
    tensor.data = data;
    tensor.given = true;
    return status;
  }

  // Reads what is not read yet.
  ort::Status *read_inputs(const ort::KernelContext *context, Node &node) const {
    size_t count;
    if (ort::Status *status = api_.KernelContext_GetInputCount(context, &count)) return status;
    for (size_t i = 0; i < count && i < INPUTS; i++) {
      if (node.in[i].given) continue;
      const ort::Value *value = nullptr;  // as it stays for one that is left empty
      ort::Status *status = api_.KernelContext_GetInput(context, i, &value);
      if (!status && value) status = read(value, node.in[i]);
      if (status) return status;
    }
    return nullptr;
  }

  ort::Status *make_outputs(ort::KernelContext *context, const Node &node,
                            void *(&out)[OUTPUTS]) const {
    const int64_t Y[] = {node.T, node.N, node.H};
    size_t count;
    if (ort::Status *status = api_.KernelContext_GetOutputCount(context, &count)) return status;
    for (size_t i = 0; i < count && i < OUTPUTS; i++) {
      ort::Value *value = nullptr;  // as it stays for one that is not used
      ort::Status *status = api_.KernelContext_GetOutput(context, i, i == 0 ? Y : Y + 1,
                                                         i == 0 ? 3 : 2, &value);
      if (!status && value) status = api_.GetTensorMutableData(value, &out[i]);
      if (status) return status;
    }
    return nullptr;
  }

 private:
  const ort::Api &api_;
};

}  // namespace bnlstm
