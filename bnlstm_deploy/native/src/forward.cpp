#include "forward.h"

#include <math.h>
#include <string.h>

namespace bnlstm {
namespace {

// Streams' h and c while the timesteps pass. h of a timestep is its row of Y, where Y is wanted.
template <class T>
class States {
 public:
  States(const Node &node, const Outputs<T> &out)
      : node_(node),
        Y_(out.Y),
        c_(out.Y_c),
        h_own_(out.Y ? 0 : 2 * static_cast<size_t>(node.N) * node.H),
        c_own_(out.Y_c ? 0 : static_cast<size_t>(node.N) * node.H) {
    if (!c_) c_ = c_own_.get();
  }

  explicit operator bool() const { return h_own_ && c_own_; }

  void start(int64_t n) const { memcpy(c(n), node_.state<T>(INITIAL_C, n), bytes()); }

  T *c(int64_t n) const { return c_ + n * node_.H; }
  T *h(int64_t t, int64_t n) const {
    T *base = Y_ ? Y_ + t * node_.N * node_.H : h_own_.get() + t % 2 * node_.N * node_.H;
    return base + n * node_.H;
  }
  const T *h_before(int64_t t, int64_t n) const {
    return t ? h(t - 1, n) : node_.state<T>(INITIAL_H, n);
  }
  // What Y is past a stream's length.
  void pad(int64_t t, int64_t n) const {
    if (Y_) memset(h(t, n), 0, bytes());
  }
  void finish(int64_t n, T *Y_h) const {
    if (Y_h) memcpy(Y_h + n * node_.H, h_before(node_.length(n), n), bytes());
  }

 private:
  size_t bytes() const { return node_.H * sizeof(T); }

  const Node &node_;
  T *Y_, *c_;
  Array<T> h_own_, c_own_;
};

// How a call is shared among threads. Shares of streams run through all timesteps without waiting for
// each other. Shares of hidden units meet after each timestep, and wait for one that is held up; but
// each reads its own weights only.
struct Shares {
  int64_t streams = 1, units = 1;
};

// Multiplications whose time, some 3 us, pays for handing them to other threads.
constexpr int64_t WORTH_SHARING = 150'000;
// Weights, up to which each core keeps all of them in its own cache.
constexpr int64_t KEPT = 100'000;
// Of a share, so that its products are made together.
constexpr int64_t FEWEST_STREAMS = 6;

// With two shares a thread, one that is held up leaves its second to others.
int64_t shares_of_streams(int64_t N, int64_t threads) {
  int64_t shares = N / FEWEST_STREAMS > threads ? N / FEWEST_STREAMS : threads;
  if (shares > 2 * threads) shares = 2 * threads;
  return N < shares ? N : shares;
}

Shares share(const Node &node, int64_t panels, int threads) {
  const int64_t weights = 4 * node.H * (node.H + node.D);
  if (threads == 1) return {};
  if (node.N > 1 && weights <= KEPT) {
    if (node.T * node.N * weights < WORTH_SHARING) return {};
    return {shares_of_streams(node.N, threads), 1};
  }
  if (node.N * weights < WORTH_SHARING) return {};
  // One a thread: what it has read of the weights may still be in its cache the next time.
  return {1, panels < threads ? panels : threads};
}

// Streams at a timestep are multiplied together; where there are few, timesteps are, for the input.
constexpr int64_t PROJECTED_TOGETHER = 24;
// Up to so many features, reading the weights again costs less than keeping products.
constexpr int64_t FUSED_FEATURES = 4;

int64_t timesteps_projected_together(const Node &node, int64_t streams) {
  int64_t block = PROJECTED_TOGETHER / streams;
  if (node.D <= FUSED_FEATURES || block < 2) return 0;
  return block < node.T ? block : node.T;
}

// Some streams, all timesteps: in phases, each of which needs all of the one before. A phase is one
// timestep, or the input products of the next `block_` timesteps.
class Group {
 public:
  Group(const Node &node, const Kernel &kernel, const Arithmetic &arithmetic, const Layer &layer,
        const States<float> &states, int64_t begin, int64_t end)
      : phases(node.T), node_(node), arithmetic_(arithmetic), layer_(layer), states_(states),
        begin_(begin), end_(end), panels_(kernel.panels(node.H)), row_(4 * kernel.padded(node.H)),
        words_(arithmetic.words(node.H)) {
    block_ = timesteps_projected_together(node, end - begin);
    layer_.projected = block_ > 0;
    if (!layer_.projected) return;
    phases += (node.T + block_ - 1) / block_;
    products_ = Array<float>((end - begin) * block_ * row_);
  }

  explicit operator bool() const { return !layer_.projected || products_; }

  void start() const {
    for (int64_t n = begin_; n < end_; n++) states_.start(n);
  }
  void finish(float *Y_h) const {
    for (int64_t n = begin_; n < end_; n++) states_.finish(n, Y_h);
  }

  // What one thread collects for a phase.
  class Collected {
   public:
    explicit Collected(const Group &group)
        : streams_(group.end_ - group.begin_),
          x_(group.layer_.projected ? (group.end_ - group.begin_) * group.block_ : 0),
          products_(group.layer_.projected ? (group.end_ - group.begin_) * group.block_ : 0),
          levels_((group.end_ - group.begin_) * group.words_) {}

    explicit operator bool() const { return streams_ && x_ && products_ && levels_; }

   private:
    friend Group;
    int64_t phase_ = -1, count_ = 0;
    Array<Stream> streams_;
    Array<const float *> x_;
    Array<float *> products_;
    Array<int32_t> levels_;
  };

  // Runs share i of `shares` shares of a phase's panels.
  void run(int64_t phase, int64_t i, int64_t shares, Collected &c) const {
    const int64_t begin = i * panels_ / shares, end = (i + 1) * panels_ / shares;
    int64_t t = phase;
    if (layer_.projected) {
      t = phase / (block_ + 1) * block_ + phase % (block_ + 1) - 1;
      if (phase % (block_ + 1) == 0) {
        if (c.phase_ != phase) collect_inputs(t + 1, c);
        c.phase_ = phase;
        if (c.count_ > 0) {
          arithmetic_.project(layer_, c.x_.get(), c.products_.get(), c.count_, begin, end);
        }
        return;
      }
    }
    if (c.phase_ != phase) collect_streams(t, c);
    c.phase_ = phase;
    if (i == 0) pad(t);
    if (c.count_ == 0) return;
    // What the timestep before read last may still be in the cache.
    arithmetic_.step(layer_, c.streams_.get(), c.count_, begin, end, t % 2 == 1);
  }

  int64_t phases;

 private:
  const float *input(int64_t t, int64_t n) const {
    return node_.in[X].as<float>() + (t * node_.N + n) * node_.D;
  }

  float *product(int64_t t, int64_t n) const {
    return products_.get() + (t % block_ * (end_ - begin_) + n - begin_) * row_;
  }

  void collect_inputs(int64_t t, Collected &c) const {
    c.count_ = 0;
    for (int64_t end = t + block_; t < end && t < node_.T; t++) {
      for (int64_t n = begin_; n < end_; n++) {
        if (t >= node_.length(n)) continue;
        c.x_.get()[c.count_] = input(t, n);
        c.products_.get()[c.count_] = product(t, n);
        c.count_++;
      }
    }
  }

  void collect_streams(int64_t t, Collected &c) const {
    c.count_ = 0;
    for (int64_t n = begin_; n < end_; n++) {
      if (t >= node_.length(n)) continue;
      Stream &stream = c.streams_.get()[c.count_];
      stream.levels = c.levels_.get() + c.count_ * words_;
      c.count_++;
      stream.x = layer_.projected ? product(t, n) : input(t, n);
      stream.h = states_.h_before(t, n);
      stream.h_next = states_.h(t, n);
      stream.c = states_.c(n);
      stream.row = node_.row(n, t);
      stream.next_row = node_.row(n, t + 1);
    }
  }

  void pad(int64_t t) const {
    for (int64_t n = begin_; n < end_; n++) {
      if (t >= node_.length(n)) states_.pad(t, n);
    }
  }

  const Node &node_;
  const Arithmetic &arithmetic_;
  Layer layer_;
  const States<float> &states_;
  int64_t begin_, end_;  // streams
  int64_t panels_, row_, words_, block_;
  Array<float> products_;
};

// Hands out the shares of all phases in order. Threads that come late, or never, find less to do, or
// nothing: one only ever waits for shares that another one is running.
class Queue {
 public:
  Queue(int64_t phases, int64_t shares) : shares_(shares), all_(phases * shares) {}

  // Runs shares until there are none.
  void work(const Group &group, Group::Collected &collected) {
    for (;;) {
      const int64_t i = __atomic_fetch_add(&next_, 1, __ATOMIC_RELAXED);
      if (i >= all_) return;
      const int64_t phase = i / shares_;
      for (int spins = 0; __atomic_load_n(&done_, __ATOMIC_ACQUIRE) < phase * shares_; spins++) {
        wait(spins);
      }
      group.run(phase, i % shares_, shares_, collected);
      __atomic_fetch_add(&done_, 1, __ATOMIC_RELEASE);
    }
  }

 private:
  const int64_t shares_, all_;
  alignas(64) int64_t next_ = 0;
  alignas(64) int64_t done_ = 0;
};

Rows rows(const Node &node, Input input, const float *otherwise) {
  if (!node.in[input].given) return {otherwise, 0};
  return {node.in[input].as<float>(), node.in[input].sizes[1]};
}

double sigmoid(double x) { return 1 / (1 + exp(-x)); }

double dot(const double *a, const double *b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

// One timestep of one stream.
void step(const Node &node, int64_t row, const double *x, const double *h, double *h_next,
          double *c) {
  auto at = [&](Input input, int64_t index, double otherwise) {
    const Tensor &t = node.in[input];
    return t.given ? t.as<double>()[row * t.sizes[1] + index] : otherwise;
  };
  for (int64_t j = 0; j < node.H; j++) {
    double gate[4];
    for (int g = 0; g < 4; g++) {
      int64_t i = g * node.H + j;
      double input = dot(node.in[WEIGHT_IH].as<double>() + i * node.D, x, node.D);
      double hidden = dot(node.in[WEIGHT_HH].as<double>() + i * node.H, h, node.H);
      gate[g] = at(INPUT_SCALE, i, 1) * input + at(HIDDEN_SCALE, i, 1) * hidden + at(BIAS, i, 0);
    }
    c[j] = sigmoid(gate[1]) * c[j] + sigmoid(gate[0]) * ::tanh(gate[2]);
    h_next[j] = sigmoid(gate[3]) * ::tanh(at(CELL_SCALE, j, 1) * c[j] + at(CELL_SHIFT, j, 0));
  }
}

}  // namespace

ort::Status *forward(const Node &node, const Kernel &kernel, const Arithmetic &arithmetic,
                     const Packed &packed, const Outputs<float> &out, const Threads &threads,
                     bool &enough_memory) {
  enough_memory = false;
  States<float> states(node, out);
  // -0 is what changes no number that it is added to.
  Array<float> ones(4 * node.H), zeros(node.H);
  if (!states || !ones || !zeros) return nullptr;
  for (int64_t i = 0; i < 4 * node.H; i++) ones.get()[i] = 1;
  for (int64_t i = 0; i < node.H; i++) zeros.get()[i] = -0.0f;
  Layer layer = {};
  layer.H = node.H;
  layer.D = node.D;
  layer.weight_ih = packed.weight_ih;
  layer.weight_hh = packed.weight_hh;
  layer.input_scale = rows(node, INPUT_SCALE, ones.get());
  layer.hidden_scale = rows(node, HIDDEN_SCALE, ones.get());
  layer.bias = rows(node, BIAS, nullptr);
  layer.cell_scale = rows(node, CELL_SCALE, ones.get());
  layer.cell_shift = rows(node, CELL_SHIFT, zeros.get());

  Shares shares = share(node, kernel.panels(node.H), threads.count);
  bool enough = true;
  auto work = [&](const Group &group, Queue &queue) {
    Group::Collected collected(group);
    if (collected) return queue.work(group, collected);
    __atomic_store_n(&enough, false, __ATOMIC_RELAXED);
  };
  ort::Status *status;
  if (shares.units > 1) {
    const Group group(node, kernel, arithmetic, layer, states, 0, node.N);
    if (!group) return nullptr;
    Queue queue(group.phases, shares.units);
    group.start();
    status = threads.parallel_for(threads.count, [&](int64_t) { work(group, queue); });
    group.finish(out.Y_h);
  } else {
    status = threads.parallel_for(shares.streams, [&](int64_t i) {
      const int64_t begin = i * node.N / shares.streams, end = (i + 1) * node.N / shares.streams;
      const Group group(node, kernel, arithmetic, layer, states, begin, end);
      if (!group) return __atomic_store_n(&enough, false, __ATOMIC_RELAXED);
      Queue queue(group.phases, 1);
      group.start();
      work(group, queue);
      group.finish(out.Y_h);
    });
  }
  enough_memory = __atomic_load_n(&enough, __ATOMIC_RELAXED);
  return status;
}

ort::Status *forward(const Node &node, const Outputs<double> &out, const Threads &threads,
                     bool &enough_memory) {
  States<double> states(node, out);
  enough_memory = static_cast<bool>(states);
  if (!enough_memory) return nullptr;
  return threads.parallel_for(node.N, [&](int64_t n) {
    states.start(n);
    for (int64_t t = 0; t < node.T; t++) {
      if (t >= node.length(n)) {
        states.pad(t, n);
        continue;
      }
      const double *x = node.in[X].as<double>() + (t * node.N + n) * node.D;
      step(node, node.row(n, t), x, states.h_before(t, n), states.h(t, n), states.c(n));
    }
    states.finish(n, out.Y_h);
  });
}

}  // namespace bnlstm
