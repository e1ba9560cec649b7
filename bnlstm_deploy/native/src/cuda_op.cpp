#include "cuda_op.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_driver.h"
#include "cuda_kernels.h"
#include "cuda_scratch.h"
#include "io.h"
#include "memory.h"

namespace bnlstm::cuda {
namespace {

struct CudaOp : Op {
  Kind kind;
  Launches launches;
};

struct Device {
  int number, capability, multiprocessors, shared;
};

// A kernel that is ready to be launched.
struct Loaded {
  const Binary *binary;
  Function *function;
};

int64_t quotient(int64_t one, int64_t other) { return (one + other - 1) / other; }

bool aligned(const void *address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

// The arrays that a call needs besides inputs and outputs, as parts of one block of memory.
class Scratch {
 public:
  // Adds an array of this many bytes, or says that there cannot be so many.
  bool add(void **place, int64_t rows, int64_t columns, int64_t bytes) {
    int64_t size;
    if (__builtin_mul_overflow(rows, columns, &size) || __builtin_mul_overflow(size, bytes, &size) ||
        __builtin_add_overflow(size, ALIGNMENT - 1, &size)) {
      return false;
    }
    parts_[count_++] = {place, size_};
    return !__builtin_add_overflow(size_, size / ALIGNMENT * ALIGNMENT, &size_);
  }

  int64_t bytes() const { return size_; }

  void place(char *memory) const {
    for (int i = 0; i < count_; i++) *parts_[i].place = memory + parts_[i].offset;
  }

 private:
  static constexpr int64_t ALIGNMENT = 256;
  struct {
    void **place;
    int64_t offset;
  } parts_[5];
  int count_ = 0;
  int64_t size_ = 0;
};

Blocks blocks;

// A node of a session.
class Instance {
 public:
  Instance(const CudaOp &op, const ort::Api &api) : op_(op), api_(api), io_(api_) {}
  ~Instance() {
    if (!allocator_) return;
    blocks.release(api_, allocator_, this);
    api_.ReleaseAllocator(allocator_);
  }

  ort::Status *prepare(const ort::KernelInfo *info) {
    Message message;
    driver_ = driver(message);
    if (!driver_ || !find_device(message) || !load(message)) {
      return api_.CreateStatus(ort::FAIL, message.text);
    }
    ort::Status *status = find_frozen_inputs(info);
    return status ? status : api_.KernelInfoGetAllocator(info, 0, &allocator_);
  }

  ort::Status *compute(ort::KernelContext *context) const {
    Node node;
    if (ort::Status *status = io_.read_inputs(context, node)) return status;
    Message message;
    if (!node.check(Values::NONE, message) || !counts(node, message)) {
      return api_.CreateStatus(ort::INVALID_ARGUMENT, message.text);
    }
    void *out[OUTPUTS] = {};
    if (ort::Status *status = io_.make_outputs(context, node, out)) return status;
    if (node.N == 0 || node.H == 0 || !(out[0] || out[1] || out[2])) return nullptr;
    void *stream = nullptr;
    if (ort::Status *status = api_.KernelContext_GetGPUComputeStream(context, &stream)) return status;

    const Loaded *sequence = find_sequence(node, out);
    Scratch scratch;
    void *part = nullptr, *h = nullptr;
    const int64_t operand = op_.operands == ort::FLOAT ? 4 : 2;
    bool possible = scratch.add(&part, node.T * node.N, 4 * node.H, 4);
    if (!sequence) possible = possible && scratch.add(&h, node.N, node.H, operand);
    for (size_t i = 0; i < OUTPUTS; i++) {
      if (out[i]) continue;
      possible = possible && (i == 0 ? scratch.add(&out[i], node.T * node.N, node.H, operand)
                                     : scratch.add(&out[i], node.N, node.H, 4));
    }
    if (!possible) return api_.CreateStatus(ort::FAIL, "BNLSTM: the arrays are larger than memory");
    char *memory = nullptr;
    if (ort::Status *status =
            blocks.reserve(api_, allocator_, this, stream, scratch.bytes(), &memory)) {
      return status;
    }
    scratch.place(memory);

    bool launched = (node.T == 0 || launch_input_part(node, part, stream, message)) &&
                    (sequence ? launch_sequence(*sequence, node, part, out, stream, message)
                              : launch_steps(node, h, part, out, stream, message));
    return launched ? nullptr : api_.CreateStatus(ort::FAIL, message.text);
  }

 private:
  // An input of the graph that has a default and is read on the CPU as well is, to the nodes of other
  // providers, a constant: ONNX Runtime copies the default for them, and what is passed is lost. The
  // copy's name tells (TransformerMemcpyImpl::ProcessInitializers).
  ort::Status *find_frozen_inputs(const ort::KernelInfo *info) const {
    size_t count;
    if (ort::Status *status = api_.KernelInfo_GetInputCount(info, &count)) return status;
    for (size_t i = INITIAL_H; i < count && i < INPUTS; i++) {
      int constant = 0;
      const ort::Value *value = nullptr;
      char name[1000] = "";
      size_t size = sizeof name;
      ort::Status *status = api_.KernelInfoGetConstantInput_tensor(info, i, &constant, &value);
      if (status) return status;
      if (!constant) continue;
      status = api_.KernelInfo_GetInputName(info, i, name, &size);
      if (status) return status;
      if (!strstr(name, "_token_")) continue;
      Message message;
      message.write("BNLSTM: ONNX Runtime has made %s a constant, since nodes on the CPU read it, too; "
                    "export the file with target='cuda'",
                    INPUT_NAMES[i]);
      return api_.CreateStatus(ort::INVALID_ARGUMENT, message.text);
    }
    return nullptr;
  }

  bool find_device(Message &message) {
    if (int error = driver_->cuCtxGetDevice(&device_.number)) {
      return driver_->failed("cuCtxGetDevice", error, message);
    }
    int major = 0, minor = 0;
    const struct {
      int *value;
      DeviceAttribute attribute;
    } attributes[] = {{&major, CAPABILITY_MAJOR},
                      {&minor, CAPABILITY_MINOR},
                      {&device_.multiprocessors, MULTIPROCESSOR_COUNT},
                      {&device_.shared, SHARED_MEMORY_PER_BLOCK}};
    for (const auto &a : attributes) {
      if (int error = driver_->cuDeviceGetAttribute(a.value, a.attribute, device_.number)) {
        return driver_->failed("cuDeviceGetAttribute", error, message);
      }
    }
    device_.capability = 10 * major + minor;
    return true;
  }

  // Machine code runs on its own capability, and on later minor ones of those before 9.0.
  static int capability_of_code(int capability) {
    int best = PTX;
    for (size_t i = 0; i < BINARY_COUNT; i++) {
      const int code = BINARIES[i].capability;
      const bool runs = code == capability ||
                        (capability < 90 && code / 10 == capability / 10 && code < capability);
      if (code != PTX && runs && code > best) best = code;
    }
    return best;
  }

  bool load(Message &message) {
    constexpr int OLDEST = 75;
    const int capability = capability_of_code(device_.capability);
    const bool ampere = device_.capability >= 80;
    if (device_.capability < OLDEST || (capability == PTX && !ampere) ||
        (op_.kind == BFLOAT16 && !ampere)) {
      return message.write(
          "BNLSTM: the GPU is of compute capability %d.%d, and the kernels need %s; use another GPU%s, "
          "or run the function body: BNLSTM_DEPLOY_NATIVE=0",
          device_.capability / 10, device_.capability % 10,
          op_.kind == BFLOAT16 ? "8.0 for bfloat16" : "7.5",
          op_.kind == BFLOAT16 ? " or float16" : "");
    }
    const Kind wanted = op_.kind == TF32 && !ampere ? FLOAT32 : op_.kind;  // TF32 is a permission
    for (size_t i = 0; i < BINARY_COUNT; i++) {
      const Binary &binary = BINARIES[i];
      const bool kind = binary.kind == wanted ||
                        (binary.kernel == BEGIN && binary.kind == FLOAT32 && wanted == TF32);
      if (binary.capability != capability || !kind || binary.shared > device_.shared) continue;
      if (!load(binary, loaded_[count_++], message)) return false;
    }
    return true;
  }

  bool load(const Binary &binary, Loaded &loaded, Message &message) const {
    // Loaded once for a process, and never unloaded. A library belongs to no device.
    static Function *functions[MAX_BINARIES];
    Function *&known = functions[&binary - BINARIES];
    Function *function = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
    if (!function) {
      Library *library = nullptr;
      int error = driver_->cuLibraryLoadData(&library, bnlstm_cuda_code + binary.offset, nullptr,
                                             nullptr, 0, nullptr, nullptr, 0);
      if (error) {
        int version = 0;
        driver_->cuDriverGetVersion(&version);
        driver_->failed("cuLibraryLoadData", error, message);
        const Message said = message;
        return message.write(
            "%s: the kernels for compute capability %d.%d cannot be loaded. The driver, of CUDA %d.%d, "
            "may be too old for them: update it, or run the function body: BNLSTM_DEPLOY_NATIVE=0",
            said.text, device_.capability / 10, device_.capability % 10, version / 1000,
            version % 1000 / 10);
      }
      error = driver_->cuLibraryGetKernel(&function, library, binary.name);
      if (error) return driver_->failed("cuLibraryGetKernel", error, message);
      __atomic_store_n(&known, function, __ATOMIC_RELEASE);
    }
    loaded = {&binary, function};
    int error = driver_->cuKernelSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES, binary.shared, function,
                                              device_.number);
    return error ? driver_->failed("cuKernelSetAttribute", error, message) : true;
  }

  // Kernels count in 32 bits what they do not count in 64.
  bool counts(const Node &node, Message &message) const {
    const int64_t sizes[] = {node.T, node.N, node.D, 4 * node.H, node.K, node.S};
    for (int64_t size : sizes) {
      if (size <= INT32_MAX) continue;
      return message.write("BNLSTM: an axis has %lld elements; the kernel for CUDA takes 2^31 - 1",
                           (long long)size);
    }
    if (node.N && quotient(node.T * node.N, 16) > INT32_MAX) {
      return message.write("BNLSTM: T * N is %lld; the kernel for CUDA takes 2^35",
                           (long long)(node.T * node.N));
    }
    return true;
  }

  const Loaded *find(Kernel kernel, int unit, int feature) const {
    for (int i = 0; i < count_; i++) {
      const Binary &b = *loaded_[i].binary;
      if (b.kernel == kernel && b.unit == unit && b.feature == feature) return &loaded_[i];
    }
    return nullptr;
  }

  // What the rows of arrays may be taken to be multiples of.
  int unit(const Node &node, void *const (&out)[OUTPUTS]) const {
    if (node.H % VECTOR) return 1;
    for (const Tensor &tensor : node.in) {
      if (!aligned(tensor.data)) return 1;
    }
    for (const void *address : out) {
      if (!aligned(address)) return 1;
    }
    return VECTOR;
  }

  // The kernel for all timesteps in one launch; null where a launch a timestep is better.
  const Loaded *find_sequence(const Node &node, void *const (&out)[OUTPUTS]) const {
    if (op_.launches == Launches::STEP || unit(node, out) != VECTOR) return nullptr;
    if (4 * node.H * node.K > INT32_MAX || 4 * node.H * node.N > INT32_MAX) return nullptr;
    const Loaded *best = nullptr;
    for (int i = 0; i < count_; i++) {
      const Binary &b = *loaded_[i].binary;
      if (b.kernel != SEQUENCE || b.columns < node.H) continue;
      if (!best || b.columns < best->binary->columns) best = &loaded_[i];
    }
    if (!best || op_.launches == Launches::SEQUENCE) return best;
    const int64_t blocks = quotient(node.N, best->binary->rows);
    return blocks <= int64_t(best->binary->waves) * device_.multiprocessors ? best : nullptr;
  }

  static int stride(const Tensor &tensor) {
    return !tensor.given ? -1 : tensor.sizes[0] == 1 ? 0 : 1;
  }

  // The arguments that end every kernel's, after those of its own.
  template <class... Arguments>
  bool launch(const Loaded &loaded, const char *name, int64_t x, int64_t y, void *stream,
              Message &message, Arguments... arguments) const {
    void *unused = nullptr;  // Triton's own two arguments: scratch memory, which no kernel here has
    void *addresses[] = {&arguments..., &unused, &unused};
    int error = driver_->cuLaunchKernel(loaded.function, unsigned(x), unsigned(y), 1,
                                        32 * loaded.binary->warps, 1, 1, loaded.binary->shared,
                                        stream, addresses, nullptr);
    return error ? driver_->failed(name, error, message) : true;
  }

  bool launch_input_part(const Node &node, void *part, void *stream, Message &message) const {
    const Tensor *in = node.in;
    const bool vectors = node.H % VECTOR == 0 && aligned(in[X].data) && aligned(in[BIAS].data) &&
                         aligned(in[WEIGHT_IH].data) && aligned(in[INPUT_SCALE].data);
    const int unit = vectors ? VECTOR : 1;
    const int feature = vectors && node.D % VECTOR == 0 ? VECTOR : 1;
    const Loaded &loaded = *find(INPUT_PART, unit, feature);
    return launch(loaded, "input_part", quotient(node.T * node.N, loaded.binary->rows),
                  quotient(4 * node.H, loaded.binary->columns), stream, message, in[X].data,
                  in[WEIGHT_IH].data, in[BIAS].data, in[INPUT_SCALE].data, in[LENGTHS].data,
                  in[START_STEP].data, in[ROWS].data, part, int(node.T), int(node.N),
                  int(node.D / feature), int(node.H / unit), int(node.S), int(node.K),
                  int(in[INPUT_SCALE].given), stride(in[LENGTHS]), stride(in[START_STEP]),
                  int(in[ROWS].given));
  }

  bool launch_sequence(const Loaded &loaded, const Node &node, void *part,
                       void *const (&out)[OUTPUTS], void *stream, Message &message) const {
    const Tensor *in = node.in;
    return launch(loaded, "sequence", quotient(node.N, loaded.binary->rows), 1, stream, message,
                  in[INITIAL_H].data, in[INITIAL_C].data, in[WEIGHT_HH].data, part,
                  in[HIDDEN_SCALE].data, in[CELL_SCALE].data, in[CELL_SHIFT].data, in[LENGTHS].data,
                  in[START_STEP].data, in[ROWS].data, out[0], out[1], out[2], int(node.T),
                  int(node.N), int(node.H / VECTOR), int(node.S), int(node.K),
                  stride(in[INITIAL_H]), stride(in[INITIAL_C]), int(in[HIDDEN_SCALE].given),
                  int(in[CELL_SCALE].given), stride(in[LENGTHS]), stride(in[START_STEP]),
                  int(in[ROWS].given));
  }

  bool launch_steps(const Node &node, void *h, void *part, void *const (&out)[OUTPUTS], void *stream,
                    Message &message) const {
    const Tensor *in = node.in;
    const Loaded &begin = *find(BEGIN, 1, 1);
    const int H = int(node.H), N = int(node.N), unit = this->unit(node, out);
    if (!launch(begin, "begin", quotient(N, begin.binary->rows), quotient(H, begin.binary->columns),
                stream, message, in[INITIAL_H].data, in[INITIAL_C].data, h, out[1], out[2], N, H,
                H * stride(in[INITIAL_H]), H * stride(in[INITIAL_C]))) {
      return false;
    }
    const Loaded &step = *find(STEP, unit, 1);
    const int64_t x = quotient(N, step.binary->rows), y = quotient(H, step.binary->columns);
    for (int t = 0; t < node.T; t++) {
      if (!launch(step, "step", x, y, stream, message, t ? out[0] : h, in[WEIGHT_HH].data, part,
                  in[HIDDEN_SCALE].data, in[CELL_SCALE].data, in[CELL_SHIFT].data, in[LENGTHS].data,
                  in[START_STEP].data, in[ROWS].data, out[0], out[1], out[2], t ? t - 1 : 0, t,
                  int(node.T), N, H / unit, int(node.S), int(node.K), int(in[HIDDEN_SCALE].given),
                  int(in[CELL_SCALE].given), stride(in[LENGTHS]), stride(in[START_STEP]),
                  int(in[ROWS].given))) {
        return false;
      }
    }
    return true;
  }

  static constexpr int VECTOR = 4;
  static constexpr size_t MAX_BINARIES = 1024, MAX_LOADED = 32;

  const CudaOp &op_;
  const ort::Api api_;
  const Io io_;
  const Driver *driver_ = nullptr;
  Device device_ = {};
  ort::Allocator *allocator_ = nullptr;
  Loaded loaded_[MAX_LOADED];
  int count_ = 0;
};

ort::Status *create(const ort::CustomOp *op, const void *functions, const ort::KernelInfo *info,
                    void **kernel) {
  const ort::Api api(static_cast<const void *const *>(functions));
  void *memory = malloc(sizeof(Instance));
  if (!memory) return api.CreateStatus(ort::FAIL, "BNLSTM: there is not enough memory for a node");
  Instance *instance = new (memory) Instance(*static_cast<const CudaOp *>(op), api);
  *kernel = instance;
  return instance->prepare(info);
}

void destroy(void *kernel) {
  static_cast<Instance *>(kernel)->~Instance();
  free(kernel);
}

void fill(CudaOp &op, ort::ElementType operands, Kind kind, Launches launches) {
  declare(op, operands, operands, ort::FLOAT);
  op.kind = kind;
  op.launches = launches;
  op.GetExecutionProviderType = [](const ort::CustomOp *) { return "CUDAExecutionProvider"; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = [](void *kernel, ort::KernelContext *context) {
    return static_cast<const Instance *>(kernel)->compute(context);
  };
  op.KernelDestroy = destroy;
}

}  // namespace

ort::Status *add_operators(const ort::Api &api, const Settings &settings,
                           ort::CustomOpDomain *domain) {
  constexpr size_t COUNT = 3;
  auto *ops = static_cast<CudaOp *>(calloc(COUNT, sizeof(CudaOp)));
  if (!ops) return api.CreateStatus(ort::FAIL, "BNLSTM: there is not enough memory");
  fill(ops[0], ort::FLOAT, settings.tf32 ? TF32 : FLOAT32, settings.launches);
  fill(ops[1], ort::FLOAT16, FLOAT16, settings.launches);
  fill(ops[2], ort::BFLOAT16, BFLOAT16, settings.launches);
  ort::Status *status = nullptr;
  for (size_t i = 0; i < COUNT && !status; i++) status = api.CustomOpDomain_Add(domain, &ops[i]);
  return status;
}

}  // namespace bnlstm::cuda
