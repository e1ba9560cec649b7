// Memory of a call, of a session, or of the process.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// The standard library's, which is not there.
inline void *operator new(size_t, void *memory) noexcept { return memory; }

namespace bnlstm {

// Uninitialized memory that begins at a cache line. Null if there is not enough.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t count) {
    size_t bytes;
    if (__builtin_mul_overflow(count, sizeof(T), &bytes) ||
        __builtin_add_overflow(bytes, size_t(LINE), &bytes)) {
      return;
    }
    block_ = malloc(bytes);
  }
  Array(const Array &) = delete;
  Array &operator=(const Array &) = delete;
  Array(Array &&other) : block_(other.block_) { other.block_ = nullptr; }
  Array &operator=(Array &&other) {
    void *block = block_;
    block_ = other.block_;
    other.block_ = block;
    return *this;
  }
  ~Array() { free(block_); }

  explicit operator bool() const { return block_ != nullptr; }
  T *get() const {
    uintptr_t address = reinterpret_cast<uintptr_t>(block_);
    return reinterpret_cast<T *>((address + LINE - 1) / LINE * LINE);
  }

 private:
  static constexpr uintptr_t LINE = 64;
  void *block_ = nullptr;
};

}  // namespace bnlstm
