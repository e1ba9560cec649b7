// ONNX Runtime's C interface, as far as a custom operator needs it.
//
// No wheel of ONNX Runtime has headers, and its interface is append-only: a function keeps its place
// in the table `OrtApi`, and `OrtCustomOp` its fields. So the places are what is declared here; they
// are those of onnxruntime_c_api.h from API version 21 (ONNX Runtime 1.21) on.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace ort {

constexpr uint32_t API_VERSION = 21;

struct Status;  // null: no error
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorTypeAndShapeInfo;
struct Allocator;

enum ErrorCode : int { FAIL = 1, INVALID_ARGUMENT = 2, NOT_IMPLEMENTED = 9 };

enum ElementType : int { FLOAT = 1, INT8 = 3, INT64 = 7, FLOAT16 = 10, DOUBLE = 11, BFLOAT16 = 16 };

enum Characteristic : int { REQUIRED = 0, OPTIONAL = 1 };

struct ApiBase {
  const void *const *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)();
};

// What runs one item of a ParallelFor.
using Item = void (*)(void *data, size_t index);

// The table of functions. Each method is named like the function that it calls.
class Api {
 public:
  Api() = default;
  explicit Api(const void *const *functions) : functions_(functions) {}
  explicit operator bool() const { return functions_ != nullptr; }

  Status *CreateStatus(ErrorCode code, const char *message) const {
    return call<0, Status *>(code, message);
  }
  Status *CreateCustomOpDomain(const char *name, CustomOpDomain **domain) const {
    return call<26, Status *>(name, domain);
  }
  Status *CustomOpDomain_Add(CustomOpDomain *domain, const void *op) const {
    return call<27, Status *>(domain, op);
  }
  Status *AddCustomOpDomain(SessionOptions *options, CustomOpDomain *domain) const {
    return call<28, Status *>(options, domain);
  }
  Status *GetTensorMutableData(const Value *value, void **data) const {
    return call<51, Status *>(value, data);
  }
  Status *GetDimensionsCount(const TensorTypeAndShapeInfo *info, size_t *count) const {
    return call<61, Status *>(info, count);
  }
  Status *GetDimensions(const TensorTypeAndShapeInfo *info, int64_t *sizes, size_t count) const {
    return call<62, Status *>(info, sizes, count);
  }
  Status *GetTensorTypeAndShape(const Value *value, TensorTypeAndShapeInfo **info) const {
    return call<65, Status *>(value, info);
  }
  Status *AllocatorAlloc(Allocator *allocator, size_t bytes, void **memory) const {
    return call<75, Status *>(allocator, bytes, memory);
  }
  Status *AllocatorFree(Allocator *allocator, void *memory) const {
    return call<76, Status *>(allocator, memory);
  }
  void ReleaseStatus(Status *status) const { call<93, void>(status); }
  Status *KernelInfoGetAttribute_int64(const KernelInfo *info, const char *name, int64_t *out) const {
    return call<86, Status *>(info, name, out);
  }
  Status *KernelContext_GetInputCount(const KernelContext *context, size_t *count) const {
    return call<88, Status *>(context, count);
  }
  Status *KernelContext_GetOutputCount(const KernelContext *context, size_t *count) const {
    return call<89, Status *>(context, count);
  }
  Status *KernelContext_GetInput(const KernelContext *context, size_t index,
                                 const Value **value) const {
    return call<90, Status *>(context, index, value);
  }
  Status *KernelContext_GetOutput(KernelContext *context, size_t index, const int64_t *sizes,
                                  size_t rank, Value **value) const {
    return call<91, Status *>(context, index, sizes, rank, value);
  }
  void ReleaseTensorTypeAndShapeInfo(TensorTypeAndShapeInfo *info) const { call<99, void>(info); }
  void ReleaseAllocator(Allocator *allocator) const { call<132, void>(allocator); }
  Status *KernelContext_GetGPUComputeStream(const KernelContext *context, void **stream) const {
    return call<193, Status *>(context, stream);
  }
  Status *KernelInfo_GetInputCount(const KernelInfo *info, size_t *count) const {
    return call<230, Status *>(info, count);
  }
  Status *KernelInfo_GetInputName(const KernelInfo *info, size_t index, char *name,
                                  size_t *size) const {
    return call<232, Status *>(info, index, name, size);
  }
  Status *HasSessionConfigEntry(const SessionOptions *options, const char *key, int *found) const {
    return call<237, Status *>(options, key, found);
  }
  Status *GetSessionConfigEntry(const SessionOptions *options, const char *key, char *value,
                                size_t *size) const {
    return call<238, Status *>(options, key, value, size);
  }
  Status *KernelInfoGetConstantInput_tensor(const KernelInfo *info, size_t index, int *constant,
                                            const Value **value) const {
    return call<249, Status *>(info, index, constant, value);
  }
  Status *KernelContext_ParallelFor(const KernelContext *context, Item item, size_t count,
                                    size_t batches, void *data) const {
    return call<274, Status *>(context, item, count, batches, data);
  }
  Status *KernelInfoGetAllocator(const KernelInfo *info, int memory_type,
                                 Allocator **allocator) const {
    return call<278, Status *>(info, memory_type, allocator);
  }

 private:
  template <int place, class Result, class... Arguments>
  Result call(Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void *>(functions_[place]))(
        arguments...);
  }

  const void *const *functions_ = nullptr;
};

struct CustomOp {
  uint32_t version;
  void *(*CreateKernel)(const CustomOp *, const void *api, const KernelInfo *);
  const char *(*GetName)(const CustomOp *);
  const char *(*GetExecutionProviderType)(const CustomOp *);
  ElementType (*GetInputType)(const CustomOp *, size_t);
  size_t (*GetInputTypeCount)(const CustomOp *);
  ElementType (*GetOutputType)(const CustomOp *, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp *);
  void (*KernelCompute)(void *, KernelContext *);
  void (*KernelDestroy)(void *);
  Characteristic (*GetInputCharacteristic)(const CustomOp *, size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp *, size_t);
  int (*GetInputMemoryType)(const CustomOp *, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp *);
  int (*GetVariadicInputHomogeneity)(const CustomOp *);
  int (*GetVariadicOutputMinArity)(const CustomOp *);
  int (*GetVariadicOutputHomogeneity)(const CustomOp *);
  Status *(*CreateKernelV2)(const CustomOp *, const void *api, const KernelInfo *, void **kernel);
  Status *(*KernelComputeV2)(void *kernel, KernelContext *);
  Status *(*InferOutputShapeFn)(const CustomOp *, void *context);
  int (*GetStartVersion)(const CustomOp *);
  int (*GetEndVersion)(const CustomOp *);
  size_t (*GetMayInplace)(int **, int **);
  void (*ReleaseMayInplace)(int *, int *);
  size_t (*GetAliasMap)(int **, int **);
  void (*ReleaseAliasMap)(int *, int *);
};
static_assert(sizeof(void *) != 8 || sizeof(CustomOp) == 208, "the size of OrtCustomOp");

}  // namespace ort
