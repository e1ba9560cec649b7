// Runs the native kernel without ONNX Runtime, whose interface is played here: for sanitizers, which
// ONNX Runtime's own libraries would drown, and for other CPUs under an emulator.
//
//     driver contract SEED COUNT THREADS   random nodes against loops from docs/operator.md
//     driver together SEED COUNT THREADS   the same, each node run by several threads at a time
//     driver activations STRIDE            sigmoid and tanh of every STRIDE-th float
//     driver old                           an ONNX Runtime that is too old
//
// It prints what is wrong, or a line of what was done, and needs no more than libc and libm.
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"

extern "C" ort::Status *RegisterCustomOps(ort::SessionOptions *options, const ort::ApiBase *base);

namespace ort {
struct Status {
  char text[512];
};
struct SessionOptions {
  char threads[16];
  bool dots;
  CustomOpDomain *domain;
};
struct CustomOpDomain {
  const CustomOp *ops[5];
  int count;
};
struct TensorTypeAndShapeInfo {
  const Value *value;
};
// An exact allocation, so that a sanitizer sees what is beyond.
struct Value {
  bool given = false, constant = false;
  size_t rank = 0, item = 0;
  int64_t sizes[4] = {};
  char *data = nullptr;

  int64_t count() const {
    int64_t n = 1;
    for (size_t i = 0; i < rank; i++) n *= sizes[i];
    return n;
  }
  void allocate() { data = static_cast<char *>(malloc(count() * item)); }
  template <class T>
  T *as() const {
    return reinterpret_cast<T *>(data);
  }
};
struct KernelInfo {
  Value *inputs;
  size_t count;
  int64_t h_levels;
};
struct KernelContext {
  Value *inputs;
  size_t input_count;
  Value outputs[3];
  bool wanted[3];
  int threads;
};
}  // namespace ort

namespace {

using ort::Value;

[[noreturn]] void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

struct Job {
  ort::Item item;
  void *data;
  size_t next, count;
};

void *work(void *argument) {
  Job *job = static_cast<Job *>(argument);
  for (;;) {
    size_t i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    if (i >= job->count) return nullptr;
    job->item(job->data, i);
  }
}

const void *table[300];

void unexpected() { fail("a function was called that has no place in abi.h"); }

template <class Result, class... Arguments>
void put(int place, Result (*function)(Arguments...)) {
  table[place] = reinterpret_cast<const void *>(function);
}

ort::Status *create_status(ort::ErrorCode, const char *text) {
  auto *status = static_cast<ort::Status *>(malloc(sizeof(ort::Status)));
  snprintf(status->text, sizeof status->text, "%s", text);
  return status;
}

void fill_table() {
  using namespace ort;
  for (auto &function : table) function = reinterpret_cast<const void *>(unexpected);
  put(0, create_status);
  put(26, +[](const char *name, CustomOpDomain **domain) -> Status * {
    if (strcmp(name, "bnlstm")) fail("the domain's name");
    *domain = static_cast<CustomOpDomain *>(calloc(1, sizeof(CustomOpDomain)));
    return nullptr;
  });
  put(27, +[](CustomOpDomain *domain, const CustomOp *op) -> Status * {
    domain->ops[domain->count++] = op;
    return nullptr;
  });
  put(28, +[](SessionOptions *options, CustomOpDomain *domain) -> Status * {
    options->domain = domain;
    return nullptr;
  });
  put(51, +[](const Value *value, void **data) -> Status * {
    *data = value->data;
    return nullptr;
  });
  put(61, +[](const TensorTypeAndShapeInfo *info, size_t *count) -> Status * {
    *count = info->value->rank;
    return nullptr;
  });
  put(62, +[](const TensorTypeAndShapeInfo *info, int64_t *sizes, size_t count) -> Status * {
    memcpy(sizes, info->value->sizes, count * sizeof(int64_t));
    return nullptr;
  });
  put(65, +[](const Value *value, TensorTypeAndShapeInfo **info) -> Status * {
    *info = static_cast<TensorTypeAndShapeInfo *>(malloc(sizeof(TensorTypeAndShapeInfo)));
    (*info)->value = value;
    return nullptr;
  });
  put(86, +[](const KernelInfo *info, const char *name, int64_t *value) -> Status * {
    if (strcmp(name, "h_levels")) fail("the attribute's name");
    if (!info->h_levels) return create_status(FAIL, "there is no such attribute");
    *value = info->h_levels;
    return nullptr;
  });
  put(93, +[](Status *status) { free(status); });
  put(88, +[](const KernelContext *context, size_t *count) -> Status * {
    *count = context->input_count;
    return nullptr;
  });
  put(89, +[](const KernelContext *, size_t *count) -> Status * {
    *count = 3;
    return nullptr;
  });
  put(90, +[](const KernelContext *context, size_t i, const Value **value) -> Status * {
    *value = context->inputs[i].given ? &context->inputs[i] : nullptr;
    return nullptr;
  });
  put(91, +[](KernelContext *context, size_t i, const int64_t *sizes, size_t rank,
              Value **value) -> Status * {
    *value = nullptr;
    if (!context->wanted[i]) return nullptr;
    Value &output = context->outputs[i];
    output.rank = rank;
    memcpy(output.sizes, sizes, rank * sizeof(int64_t));
    output.item = context->inputs[0].item;
    output.allocate();
    *value = &output;
    return nullptr;
  });
  put(99, +[](TensorTypeAndShapeInfo *info) { free(info); });
  put(230, +[](const KernelInfo *info, size_t *count) -> Status * {
    *count = info->count;
    return nullptr;
  });
  put(237, +[](const SessionOptions *options, const char *key, int *found) -> Status * {
    *found = !strcmp(key, "bnlstm.intra_op_num_threads") ? options->threads[0] != 0
             : !strcmp(key, "bnlstm.dot_products")       ? !options->dots
                                                         : false;
    return nullptr;
  });
  put(238, +[](const SessionOptions *options, const char *key, char *value,
               size_t *size) -> Status * {
    snprintf(value, *size, "%s", strcmp(key, "bnlstm.dot_products") ? options->threads : "0");
    return nullptr;
  });
  put(249, +[](const KernelInfo *info, size_t i, int *constant, const Value **value) -> Status * {
    *constant = info->inputs[i].given && info->inputs[i].constant;
    *value = *constant ? &info->inputs[i] : nullptr;
    return nullptr;
  });
  put(274, +[](const KernelContext *context, ort::Item item, size_t count, size_t,
               void *data) -> Status * {
    Job job = {item, data, 0, count};
    pthread_t threads[8];
    for (int i = 1; i < context->threads; i++) pthread_create(&threads[i], nullptr, work, &job);
    work(&job);
    for (int i = 1; i < context->threads; i++) pthread_join(threads[i], nullptr);
    return nullptr;
  });
}

const void *const *get_api(uint32_t) { return table; }
const void *const *get_old_api(uint32_t version) { return version <= 20 ? table : nullptr; }
const char *version_string() { return "1.20.1"; }
const ort::ApiBase API = {get_api, version_string}, OLD = {get_old_api, version_string};

uint64_t state;

uint64_t random_bits() {  // xorshift
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}
int64_t below(int64_t count) { return static_cast<int64_t>(random_bits() % count); }
double uniform() { return (random_bits() >> 11) * 0x1p-53 * 2 - 1; }

enum { X, IH, HH, BIAS, H0, C0, INPUT_SCALE, HIDDEN_SCALE, CELL_SCALE, CELL_SHIFT, LENGTHS, START, ROWS };

struct Node {
  Value in[13];
  int64_t T, N, D, H, K, S;
  bool doubles;
  bool bytes = false;    // weights in int8
  int64_t h_levels = 0;  // and h, too

  bool byte(int i) const { return bytes && (i == IH || i == HH); }

  void shape(int i, int64_t a, int64_t b = -1, int64_t c = -1) {
    Value &v = in[i];
    const int64_t sizes[] = {a, b, c};
    v.given = true;
    v.rank = c >= 0 ? 3 : b >= 0 ? 2 : 1;
    memcpy(v.sizes, sizes, sizeof sizes);
    v.item = i >= LENGTHS || doubles ? 8 : byte(i) ? 1 : 4;
  }
  void set(int i, int64_t at, double value) {
    if (byte(i)) {
      in[i].as<int8_t>()[at] = static_cast<int8_t>(value);
    } else if (doubles) {
      in[i].as<double>()[at] = value;
    } else {
      in[i].as<float>()[at] = static_cast<float>(value);
    }
  }
  double get(int i, int64_t at) const {
    if (byte(i)) return in[i].as<int8_t>()[at];
    return doubles ? in[i].as<double>()[at] : in[i].as<float>()[at];
  }
  void randomize(int i, double middle, double spread) {
    in[i].allocate();
    for (int64_t k = 0; k < in[i].count(); k++) set(i, k, middle + spread * uniform());
  }
  void draw(int i, int64_t limit) {
    in[i].allocate();
    for (int64_t k = 0; k < in[i].count(); k++) in[i].as<int64_t>()[k] = below(limit);
  }
  void release() {
    for (Value &v : in) free(v.data);
  }
};

int64_t some_size() {
  const int64_t special[] = {15, 16, 17, 31, 33, 48, 67, 100};
  return below(3) ? 1 + below(9) : special[below(8)];
}

Node random_node() {
  Node n;
  n.doubles = below(4) == 0;
  n.bytes = !n.doubles && below(3);
  n.h_levels = n.bytes && below(3) ? 127 : 0;
  n.T = below(9);
  n.N = below(9);
  n.D = below(5) ? below(7) : some_size();
  n.H = below(40) ? some_size() : 190 + below(20);  // so large that threads share out hidden units
  n.K = 1 + below(4);
  n.S = n.K;
  n.shape(X, n.T, n.N, n.D);
  n.shape(IH, 4 * n.H, n.D);
  n.shape(HH, 4 * n.H, n.H);
  n.shape(BIAS, n.K, 4 * n.H);
  n.shape(H0, below(2) ? n.N : 1, n.H);
  n.shape(C0, below(2) ? n.N : 1, n.H);
  for (int i = INPUT_SCALE; i <= HIDDEN_SCALE; i++) {
    if (n.bytes || below(3)) n.shape(i, n.K, 4 * n.H);
  }
  if (below(3)) {
    n.shape(CELL_SCALE, n.K, n.H);
    n.shape(CELL_SHIFT, n.K, n.H);
  }
  for (int i = LENGTHS; i <= START; i++) {
    if (below(2)) n.shape(i, below(2) ? n.N : 1);
  }
  if (below(2)) n.shape(ROWS, n.S = 1 + below(8));
  for (int i = 0; i < 10; i++) {
    bool scale = i == INPUT_SCALE || i == HIDDEN_SCALE || i == CELL_SCALE;
    double spread = i == HH ? 1 / sqrt(double(n.H)) : 1, middle = scale;
    if (n.byte(i)) spread = 127.9;
    if (n.bytes && (i == INPUT_SCALE || i == HIDDEN_SCALE)) {
      middle = spread = 1 / 127.0 / sqrt(double(n.H));
      if (n.h_levels && i == HIDDEN_SCALE) middle = spread /= 127;
    }
    if (n.in[i].given) n.randomize(i, middle, spread);
    n.in[i].constant = (i == IH || i == HH || i >= INPUT_SCALE) && below(4);
  }
  if (n.in[LENGTHS].given) n.draw(LENGTHS, n.T + 3);
  if (n.in[START].given) n.draw(START, below(3) ? 9 : INT64_MAX);
  if (n.in[ROWS].given) n.draw(ROWS, n.K);
  n.in[ROWS].constant = below(2);
  return n;
}

// The loops of docs/operator.md, in T.
template <class T>
void reference(const Node &n, T *Y, T *Y_h, T *Y_c) {
  auto at = [&](int i, int64_t k, int64_t columns, int64_t j, T otherwise) {
    return n.in[i].given ? static_cast<T>(n.get(i, k * columns + j)) : otherwise;
  };
  auto sigmoid = [](T x) { return T(1) / (T(1) + static_cast<T>(exp(-double(x)))); };
  auto squash = [](T x) { return static_cast<T>(tanh(double(x))); };
  auto of_stream = [&](int i, int64_t s) { return n.in[i].sizes[0] == 1 ? 0 : s; };
  T *next = static_cast<T *>(malloc(n.H * sizeof(T)));
  for (int64_t s = 0; s < n.N; s++) {
    T *h = Y_h + s * n.H, *c = Y_c + s * n.H;
    for (int64_t j = 0; j < n.H; j++) {
      h[j] = static_cast<T>(n.get(H0, of_stream(H0, s) * n.H + j));
      c[j] = static_cast<T>(n.get(C0, of_stream(C0, s) * n.H + j));
    }
    int64_t length = n.in[LENGTHS].given ? n.in[LENGTHS].as<int64_t>()[of_stream(LENGTHS, s)] : n.T;
    int64_t start = n.in[START].given ? n.in[START].as<int64_t>()[of_stream(START, s)] : 0;
    for (int64_t t = 0; t < n.T; t++) {
      T *y = Y + (t * n.N + s) * n.H;
      if (t >= length) {
        memset(y, 0, n.H * sizeof(T));
        continue;
      }
      int64_t step = start >= n.S ? n.S - 1 : start + t >= n.S ? n.S - 1 : start + t;
      int64_t k = n.in[ROWS].given ? n.in[ROWS].as<int64_t>()[step] : step;
      for (int64_t j = 0; j < n.H; j++) {
        T gate[4];
        for (int g = 0; g < 4; g++) {
          int64_t r = g * n.H + j;
          T input = 0, hidden = 0;
          for (int64_t d = 0; d < n.D; d++) {
            input += static_cast<T>(n.get(IH, r * n.D + d)) *
                     static_cast<T>(n.get(X, (t * n.N + s) * n.D + d));
          }
          for (int64_t m = 0; m < n.H; m++) {
            T operand = h[m];
            if (n.h_levels) operand = static_cast<T>(fmax(-127, fmin(127, rint(127 * operand))));
            hidden += static_cast<T>(n.get(HH, r * n.H + m)) * operand;
          }
          gate[g] = at(INPUT_SCALE, k, 4 * n.H, r, 1) * input +
                    at(HIDDEN_SCALE, k, 4 * n.H, r, 1) * hidden + at(BIAS, k, 4 * n.H, r, 0);
        }
        c[j] = sigmoid(gate[1]) * c[j] + sigmoid(gate[0]) * squash(gate[2]);
        next[j] = sigmoid(gate[3]) *
                  squash(at(CELL_SCALE, k, n.H, j, 1) * c[j] + at(CELL_SHIFT, k, n.H, j, 0));
      }
      memcpy(h, next, n.H * sizeof(T));
      memcpy(y, next, n.H * sizeof(T));
    }
  }
  free(next);
}

// A node's kernel.
struct Kernel {
  const ort::CustomOp *op;
  void *kernel;

  Kernel(Node &node, int threads) {
    ort::SessionOptions options = {};
    snprintf(options.threads, sizeof options.threads, "%d", threads);
    options.dots = below(2);
    if (ort::Status *status = RegisterCustomOps(&options, &API)) fail(status->text);
    for (const ort::CustomOp *candidate : options.domain->ops) {
      const ort::ElementType type = node.doubles ? ort::DOUBLE : ort::FLOAT;
      if (candidate->GetInputType(candidate, 0) == type &&
          candidate->GetInputType(candidate, 1) == (node.bytes ? ort::INT8 : type)) {
        op = candidate;
      }
    }
    ort::KernelInfo info = {node.in, 13, node.h_levels};
    if (ort::Status *status = op->CreateKernelV2(op, table, &info, &kernel)) fail(status->text);
  }
  ~Kernel() { op->KernelDestroy(kernel); }
};

void run(const Node &node, const Kernel &kernel, ort::KernelContext &context) {
  ort::Status *status = kernel.op->KernelComputeV2(kernel.kernel, &context);
  if (status) fail(status->text);
  (void)node;
}

// The largest error, and NaN if one value is.
double distance(const Node &node, const Value &output, const double *truth) {
  double largest = 0;
  for (int64_t i = 0; i < output.count(); i++) {
    double value = node.doubles ? output.as<double>()[i] : output.as<float>()[i];
    double error = fabs(value - truth[i]);
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

struct Truth {
  double *outputs[3], allowed;

  explicit Truth(const Node &n) {
    const int64_t sizes[] = {n.T * n.N * n.H, n.N * n.H, n.N * n.H};
    float *single[3];
    for (int i = 0; i < 3; i++) {
      outputs[i] = static_cast<double *>(malloc(sizes[i] * sizeof(double)));
      single[i] = static_cast<float *>(malloc(sizes[i] * sizeof(float)));
    }
    reference<double>(n, outputs[0], outputs[1], outputs[2]);
    reference<float>(n, single[0], single[1], single[2]);
    double error = 0, largest = 1;  // of all outputs: one alone may be right by luck
    for (int i = 0; i < 3; i++) {
      for (int64_t k = 0; k < sizes[i]; k++) {
        error = fmax(error, fabs(single[i][k] - outputs[i][k]));
        largest = fmax(largest, fabs(outputs[i][k]));
      }
      free(single[i]);
    }
    allowed = n.doubles ? 1e-12 * largest : 4 * (error + 0x1p-23 * largest);
    // In float32 h may be next to another level: what a timestep makes of it is up to it.
    if (n.h_levels && n.T > 1) allowed += 0.1 * largest;
  }
  ~Truth() {
    for (double *output : outputs) free(output);
  }
};

void compare(const Node &n, ort::KernelContext &context, const Truth &truth) {
  for (int i = 0; i < 3; i++) {
    if (!context.wanted[i]) continue;
    double error = distance(n, context.outputs[i], truth.outputs[i]);
    free(context.outputs[i].data);
    if (error <= truth.allowed) continue;
    fprintf(stderr, "T %d N %d D %d H %d K %d %s: output %d is off by %g, allowed %g\n", int(n.T),
            int(n.N), int(n.D), int(n.H), int(n.K), n.doubles ? "double" : "float", i, error,
            truth.allowed);
    exit(1);
  }
}

ort::KernelContext context_of(Node &node, int threads) {
  ort::KernelContext context = {node.in, 13, {}, {true, true, true}, threads};
  return context;
}

void contract(int count, int threads) {
  for (int i = 0; i < count; i++) {
    Node node = random_node();
    {
      Truth truth(node);
      Kernel kernel(node, threads);
      for (int run_number = 0; run_number < 2; run_number++) {
        ort::KernelContext context = context_of(node, threads);
        if (run_number) {
          for (bool &wanted : context.wanted) wanted = below(2);
        }
        run(node, kernel, context);
        compare(node, context, truth);
      }
      // Where a shape is wrong, that is said, and nothing is read beyond; it may also fit again.
      int input = static_cast<int>(below(13));
      Value &value = node.in[input];
      if (value.given && !value.constant && !(input == X)) {
        Value before = value;
        value.sizes[below(value.rank)] += 1 + below(3);
        value.allocate();
        memset(value.data, 0, value.count() * value.item);
        ort::KernelContext context = context_of(node, threads);
        ort::Status *status = kernel.op->KernelComputeV2(kernel.kernel, &context);
        if (!status && (input == IH || input == HH)) fail("a wrong shape is no error");
        if (status && strncmp(status->text, "BNLSTM: ", 8)) fail(status->text);
        free(status);
        for (Value &output : context.outputs) free(output.data);
        free(value.data);
        value = before;
      }
    }
    node.release();
  }
}

struct Shared {
  Node *node;
  const Kernel *kernel;
  const Truth *truth;
  int threads;
};

void *run_shared(void *argument) {
  auto *shared = static_cast<Shared *>(argument);
  for (int i = 0; i < 3; i++) {
    ort::KernelContext context = context_of(*shared->node, shared->threads);
    run(*shared->node, *shared->kernel, context);
    compare(*shared->node, context, *shared->truth);
  }
  return nullptr;
}

void together(int count, int threads) {
  for (int i = 0; i < count; i++) {
    Node node = random_node();
    {
      Truth truth(node);
      Kernel kernel(node, threads);
      Shared shared = {&node, &kernel, &truth, threads};
      pthread_t runs[3];
      for (pthread_t &r : runs) pthread_create(&r, nullptr, run_shared, &shared);
      for (pthread_t &r : runs) pthread_join(r, nullptr);
    }
    node.release();
  }
}

double ulp(double truth) {
  float value = fabsf(static_cast<float>(truth));
  return double(nextafterf(value, INFINITY)) - value;
}

// One timestep of many streams, each with rows of its own: the gates are the rows of `bias`.
void activations(uint64_t stride) {
  constexpr int64_t N = 256, H = 67;
  Node n;
  n.doubles = false;
  n.T = 1, n.N = N, n.D = 1, n.H = H, n.K = n.S = N;
  n.shape(X, 1, N, 1);
  n.shape(IH, 4 * H, 1);
  n.shape(HH, 4 * H, H);
  n.shape(BIAS, N, 4 * H);
  n.shape(H0, 1, H);
  n.shape(C0, N, H);
  n.shape(START, N);
  for (Value &v : n.in) {
    if (!v.given) continue;
    v.allocate();
    memset(v.data, 0, v.count() * v.item);
  }
  for (int64_t s = 0; s < N; s++) n.in[START].as<int64_t>()[s] = s;
  Kernel kernel(n, 1);
  double worst[2] = {0, 0};  // of sigmoid and of tanh
  uint64_t floats = 0;
  for (uint64_t bits = 0; bits < 1ull << 32; floats += N * H) {
    float x[N * H];
    for (float &value : x) {
      uint32_t pattern = static_cast<uint32_t>(bits < 1ull << 32 ? bits : 0);
      memcpy(&value, &pattern, 4);
      bits += stride;
    }
    for (int function = 0; function < 2; function++) {
      for (int64_t s = 0; s < N; s++) {
        for (int64_t j = 0; j < H; j++) {
          float *gates = n.in[BIAS].as<float>() + s * 4 * H + j;
          gates[0] = function ? 200 : -200;              // i
          gates[H] = function ? -200 : x[s * H + j];     // f
          gates[2 * H] = function ? x[s * H + j] : 0;    // g
          gates[3 * H] = function ? 200 : x[s * H + j];  // o
          n.in[C0].as<float>()[s * H + j] = function ? 0 : 1;
        }
      }
      ort::KernelContext context = context_of(n, 1);
      run(n, kernel, context);
      for (int64_t i = 0; i < N * H; i++) {
        double e = exp(-fabs(double(x[i])));
        double truth = function ? tanh(double(x[i])) : (x[i] < 0 ? e : 1) / (1 + e);
        double value = context.outputs[2].as<float>()[i];
        if (isnan(x[i])) {
          if (!isnan(value)) fail("NaN got lost");
          continue;
        }
        double error = fabs(value - truth) / ulp(truth);
        if (!(error <= worst[function])) worst[function] = error;
      }
      for (Value &output : context.outputs) free(output.data);
    }
  }
  printf("%llu floats: sigmoid within %.4f ULP, tanh within %.4f ULP\n",
         static_cast<unsigned long long>(floats), worst[0], worst[1]);
  if (!(worst[0] <= 2 && worst[1] <= 2)) exit(1);
  n.release();
}

}  // namespace

int main(int argument_count, char **arguments) {
  fill_table();
  const char *mode = argument_count > 1 ? arguments[1] : "";
  auto number = [&](int i) { return argument_count > i ? atoi(arguments[i]) : 1; };
  if (!strcmp(mode, "old")) {
    ort::SessionOptions options = {};
    ort::Status *status = RegisterCustomOps(&options, &OLD);
    if (!status) fail("an old ONNX Runtime is no error");
    printf("%s\n", status->text);
    free(status);
    return 0;
  }
  if (!strcmp(mode, "activations")) {
    activations(number(2));
    return 0;
  }
  state = 0x9E3779B97F4A7C15ull * (number(2) + 1);
  int count = number(3), threads = number(4);
  if (!strcmp(mode, "contract")) {
    contract(count, threads);
  } else if (!strcmp(mode, "together")) {
    together(count, threads);
  } else {
    fail("contract, together, activations or old");
  }
  printf("%d nodes\n", count);
}
