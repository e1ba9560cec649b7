// The custom operator `bnlstm::BNLSTM` of ONNX Runtime for CPUs, in float32 and float64, and the
// library's one symbol, which registers it or that for CUDA.
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "cpu.h"
#include "cuda_driver.h"
#include "cuda_op.h"
#include "forward.h"
#include "io.h"

namespace bnlstm {
namespace {

// The operator for one type, as it is registered with sessions of one kind.
struct CpuOp : Op {
  const Kernel *kernel;
  int threads;
  bool dots;
};

// A float16 as a float: exact.
float widen(uint16_t bits) {
  // In the fields of a float it is off by 2^112 alone, also if it is subnormal.
  const uint32_t magnitude = bits & 0x7fff;
  const float scaled = __builtin_bit_cast(float, magnitude << 13) * 0x1p112f;
  const uint32_t infinite = magnitude >= 0x7c00 ? 0x7f800000 : 0;
  const uint32_t sign = uint32_t(bits >> 15) << 31;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, scaled) | infinite | sign);
}

// A node of a session.
class Instance {
 public:
  Instance(const CpuOp &op, const ort::Api &api) : op_(op), api_(api), io_(api_) {}

  // Keeps the inputs that do not change from call to call; weights are packed.
  ort::Status *keep_constants(const ort::KernelInfo *info) {
    size_t count;
    if (ort::Status *status = api_.KernelInfo_GetInputCount(info, &count)) return status;
    for (size_t i = 0; i < count && i < INPUTS; i++) {
      int constant = 0;
      const ort::Value *value = nullptr;
      ort::Status *status = api_.KernelInfoGetConstantInput_tensor(info, i, &constant, &value);
      if (!status && constant && value) status = io_.read(value, constants_.in[i]);
      if (status) return status;
    }
    rows_are_right_ = constants_.has_right_rows();
    int64_t levels = 0;
    if (ort::Status *status = api_.KernelInfoGetAttribute_int64(info, "h_levels", &levels)) {
      api_.ReleaseStatus(status);  // there is none
      levels = 0;
    }
    if (levels != 0 && (levels != 127 || op_.weights != ort::INT8)) {
      Message message;
      message.write("BNLSTM: h_levels is %lld; it is 127 with weights in int8, else 0",
                    static_cast<long long>(levels));
      return api_.CreateStatus(ort::INVALID_ARGUMENT, message.text);
    }
    arithmetic_ = arithmetic(levels != 0);
    if (op_.operands != ort::FLOAT) return nullptr;
    bool enough_memory = keep(WEIGHT_IH, weight_ih_) && keep(WEIGHT_HH, weight_hh_);
    return enough_memory ? nullptr : no_memory();
  }

  ort::Status *compute(ort::KernelContext *context) const {
    Node node = constants_;
    if (ort::Status *status = io_.read_inputs(context, node)) return status;
    Message message;
    if (!node.check(rows_are_right_ ? Values::COUNTS : Values::ALL, message)) {
      return api_.CreateStatus(ort::INVALID_ARGUMENT, message.text);
    }
    void *out[OUTPUTS] = {};
    if (ort::Status *status = io_.make_outputs(context, node, out)) return status;
    if (node.N == 0 || node.H == 0 || !(out[0] || out[1] || out[2])) return nullptr;

    const Threads threads(api_, context, op_.threads);
    bool enough_memory;
    ort::Status *status =
        op_.operands == ort::FLOAT
            ? forward(node, outputs<float>(out), threads, enough_memory)
            : bnlstm::forward(node, outputs<double>(out), threads, enough_memory);
    return !status && !enough_memory ? no_memory() : status;
  }

 private:
  ort::Status *forward(const Node &node, const Outputs<float> &out, const Threads &threads,
                       bool &enough_memory) const {
    Array<char> ih, hh;  // weights that are not constant
    if (!weight_ih_) ih = pack(WEIGHT_IH, node.in[WEIGHT_IH]);
    if (!weight_hh_) hh = pack(WEIGHT_HH, node.in[WEIGHT_HH]);
    const Packed weights = {weight_ih_ ? weight_ih_.get() : ih.get(),
                            weight_hh_ ? weight_hh_.get() : hh.get()};
    enough_memory = weights.weight_ih && weights.weight_hh;
    if (!enough_memory) return nullptr;
    return bnlstm::forward(node, *op_.kernel, *arithmetic_, weights, out, threads, enough_memory);
  }

  bool keep(Input input, Array<char> &packed) const {
    const Tensor &weight = constants_.in[input];
    // `compute` tells what is wrong. An array without elements may have any number of rows.
    if (!weight.given || weight.rank != 2 || weight.sizes[0] % 4 || !weight.sizes[1]) return true;
    packed = pack(input, weight);
    return static_cast<bool>(packed);
  }

  // What computes with the weights as they are stored. float16 is widened first: few CPUs multiply it,
  // or widen it as fast as they read.
  const Arithmetic *arithmetic(bool levels) const {
    const Kernel &kernel = *op_.kernel;
    if (levels) return op_.dots && kernel.dots ? kernel.dots : &kernel.levels;
    return op_.weights == ort::INT8       ? &kernel.int8
           : op_.weights == ort::BFLOAT16 ? &kernel.bfloat16
                                          : &kernel.floats;
  }

  Array<char> pack(Input input, const Tensor &weight) const {
    const int64_t H = weight.sizes[0] / 4, inputs = weight.sizes[1];
    const bool ih = input == WEIGHT_IH;
    Array<char> packed((ih ? arithmetic_->bytes_ih : arithmetic_->bytes_hh)(H, inputs));
    const void *values = weight.data;
    Array<float> floats;
    if (op_.weights == ort::FLOAT16) {
      floats = Array<float>(4 * H * inputs);
      if (!floats) return Array<char>();
      for (int64_t i = 0; i < 4 * H * inputs; i++) floats.get()[i] = widen(weight.as<uint16_t>()[i]);
      values = floats.get();
    }
    if (packed) (ih ? arithmetic_->pack_ih : arithmetic_->pack_hh)(values, H, inputs, packed.get());
    return packed;
  }

  template <class T>
  static Outputs<T> outputs(void *(&out)[OUTPUTS]) {
    return {static_cast<T *>(out[0]), static_cast<T *>(out[1]), static_cast<T *>(out[2])};
  }

  ort::Status *no_memory() const {
    return api_.CreateStatus(ort::FAIL, "BNLSTM: there is not enough memory for weights and states");
  }

  const CpuOp &op_;
  const ort::Api api_;
  const Io io_;
  Node constants_;
  const Arithmetic *arithmetic_ = nullptr;
  bool rows_are_right_ = false;
  Array<char> weight_ih_, weight_hh_;  // packed; null where they are not constant
};

ort::Status *create(const ort::CustomOp *op, const void *functions, const ort::KernelInfo *info,
                    void **kernel) {
  const ort::Api api(static_cast<const void *const *>(functions));
  void *memory = malloc(sizeof(Instance));
  if (!memory) return api.CreateStatus(ort::FAIL, "BNLSTM: there is not enough memory for a node");
  Instance *instance = new (memory) Instance(*static_cast<const CpuOp *>(op), api);
  *kernel = instance;
  return instance->keep_constants(info);
}

void destroy(void *kernel) {
  static_cast<Instance *>(kernel)->~Instance();
  free(kernel);
}

void fill(CpuOp &op, ort::ElementType type, ort::ElementType weights, const Kernel &kernel,
          int threads, bool dots) {
  declare(op, type, weights, type);
  op.kernel = &kernel;
  op.threads = threads;
  op.dots = dots;
  op.GetExecutionProviderType = [](const ort::CustomOp *) { return "CPUExecutionProvider"; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = [](void *kernel, ort::KernelContext *context) {
    return static_cast<const Instance *>(kernel)->compute(context);
  };
  op.KernelDestroy = destroy;
}

// What a session is to have.
struct Wanted {
  const Kernel *kernel;  // of CPUs; null for none
  int threads;
  bool dots;  // whether instructions for dot products may be used
  bool cuda;
  cuda::Settings settings;

  bool operator==(const Wanted &other) const {
    return kernel == other.kernel && threads == other.threads && dots == other.dots &&
           cuda == other.cuda && settings == other.settings;
  }
};

// What was registered stays: sessions use it, and later ones of the same kind share it.
struct Registration {
  Wanted wanted;
  CpuOp ops[5];
  ort::CustomOpDomain *domain;
  Registration *next;
};

Registration *registrations = nullptr;

#if defined(__APPLE__)
bool has_cuda(Message &message) { return message.write("BNLSTM: there is no CUDA on macOS"); }
ort::Status *add_cuda(const ort::Api &, const Registration &) { return nullptr; }
#else
bool has_cuda(Message &message) { return cuda::driver(message); }
ort::Status *add_cuda(const ort::Api &api, const Registration &made) {
  return cuda::add_operators(api, made.wanted.settings, made.domain);
}
#endif

ort::Status *registered(const ort::Api &api, const Wanted &wanted, ort::CustomOpDomain **domain) {
  Registration *first = __atomic_load_n(&registrations, __ATOMIC_ACQUIRE);
  for (Registration *r = first; r; r = r->next) {
    if (r->wanted == wanted) {
      *domain = r->domain;
      return nullptr;
    }
  }
  auto *made = static_cast<Registration *>(calloc(1, sizeof(Registration)));
  if (!made) return api.CreateStatus(ort::FAIL, "BNLSTM: there is not enough memory");
  made->wanted = wanted;
  ort::Status *status = api.CreateCustomOpDomain("bnlstm", &made->domain);
  if (wanted.kernel) {
    CpuOp *op = made->ops;
    const ort::ElementType stored[] = {ort::FLOAT, ort::INT8, ort::FLOAT16, ort::BFLOAT16};
    for (ort::ElementType weights : stored) {
      fill(*op++, ort::FLOAT, weights, *wanted.kernel, wanted.threads, wanted.dots);
    }
    fill(*op, ort::DOUBLE, ort::DOUBLE, *wanted.kernel, wanted.threads, wanted.dots);
    for (CpuOp &op : made->ops) {
      if (!status) status = api.CustomOpDomain_Add(made->domain, &op);
    }
  }
  if (!status && wanted.cuda) status = add_cuda(api, *made);
  if (status) return status;
  made->next = first;
  while (!__atomic_compare_exchange_n(&registrations, &made->next, made, false, __ATOMIC_RELEASE,
                                      __ATOMIC_RELAXED)) {
  }
  *domain = made->domain;
  return nullptr;
}

// The best kernel of this CPU, or the one that the environment names.
ort::Status *choose(const ort::Api &api, const Kernel **kernel) {
  const char *name = getenv("BNLSTM_DEPLOY_NATIVE");
  // `cuda` is said to sessions on GPUs.
  const bool best = !name || !*name || !strcmp(name, "0") || !strcmp(name, "1") ||
                    !strcmp(name, "cuda");
  char known[64] = "";
  *kernel = nullptr;
  for (const InstructionSet &set : INSTRUCTION_SETS) {
    bool named = !best && !strcmp(name, set.kernel.name);
    if ((best || named) && set.available()) *kernel = &set.kernel;
    snprintf(known + strlen(known), sizeof known - strlen(known), " %s%s", set.kernel.name,
             set.available() ? "" : " (not on this CPU)");
  }
  if (*kernel) return nullptr;
  Message message;
  message.write("BNLSTM_DEPLOY_NATIVE is '%s'; set it to one of:%s. Or unset it: the best is taken",
                name, known);
  return api.CreateStatus(ort::INVALID_ARGUMENT, message.text);
}

// An entry of the session's options; empty where there is none.
struct Entry {
  char text[16] = "";

  ort::Status *read(const ort::Api &api, const ort::SessionOptions *options, const char *key) {
    int found = 0;
    size_t size = sizeof text;
    ort::Status *status = api.HasSessionConfigEntry(options, key, &found);
    return status || !found ? status : api.GetSessionConfigEntry(options, key, text, &size);
  }

  bool is(const char *other) const { return !strcmp(text, other); }
};

// What the options of a session ask for. By default it is the operator for CPUs, on as many threads as
// there are processors, and that for CUDA, where there is a driver.
ort::Status *read_options(const ort::Api &api, const ort::SessionOptions *options, Wanted *wanted) {
  constexpr int MOST = 256;
  Entry provider, threads, dots, tf32, launches;
  ort::Status *status = provider.read(api, options, "bnlstm.provider");
  if (!status) status = threads.read(api, options, "bnlstm.intra_op_num_threads");
  if (!status) status = dots.read(api, options, "bnlstm.dot_products");
  if (!status) status = tf32.read(api, options, "bnlstm.use_tf32");
  if (!status) status = launches.read(api, options, "bnlstm.launches");
  if (!status && !provider.is("cuda")) status = choose(api, &wanted->kernel);
  if (status) return status;
  wanted->dots = !dots.is("0") && has_dots();
  wanted->threads = atoi(threads.text);
  if (wanted->threads < 1) wanted->threads = processors();
  if (wanted->threads > MOST) wanted->threads = MOST;
  Message message;
  wanted->cuda = !provider.is("cpu") && has_cuda(message);
  if (provider.is("cuda") && !wanted->cuda) return api.CreateStatus(ort::FAIL, message.text);
  wanted->settings = {tf32.is("1"), launches.is("step")       ? cuda::Launches::STEP
                                    : launches.is("sequence") ? cuda::Launches::SEQUENCE
                                                              : cuda::Launches::BEST};
  return nullptr;
}

}  // namespace
}  // namespace bnlstm

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

extern "C" EXPORTED ort::Status *RegisterCustomOps(ort::SessionOptions *options,
                                                   const ort::ApiBase *base) {
  const ort::Api api(base->GetApi(ort::API_VERSION));
  if (!api) {
    bnlstm::Message message;
    message.write("BNLSTM: the kernel needs API version %u of ONNX Runtime, and this one, %s, is older; "
                  "install ONNX Runtime 1.21 or newer",
                  ort::API_VERSION, base->GetVersionString());
    return ort::Api(base->GetApi(1)).CreateStatus(ort::NOT_IMPLEMENTED, message.text);
  }
  bnlstm::Wanted wanted = {};
  ort::CustomOpDomain *domain;
  ort::Status *status = bnlstm::read_options(api, options, &wanted);
  if (!status) status = bnlstm::registered(api, wanted, &domain);
  return status ? status : api.AddCustomOpDomain(options, domain);
}
