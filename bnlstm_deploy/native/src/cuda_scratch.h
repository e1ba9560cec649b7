// Scratch memory on a device.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include "abi.h"

namespace bnlstm::cuda {

// The memory of a stream. What is launched on a stream runs in order, so that all nodes of a session,
// and all its runs on that stream, share it; runs that are side by side are on other streams. It only
// grows, and nothing of it is freed before its owner is gone: work that is under way and captured graphs
// use what they were given. (KernelContext_GetScratchBuffer would do it, but ends the process where there
// is not enough memory.)
struct Block {
  const void *owner, *stream;
  int64_t bytes;
  void *memory;
  Block *next;
};

class Blocks {
 public:
  // Finds memory of the stream, or allocates it.
  ort::Status *reserve(const ort::Api &api, ort::Allocator *allocator, const void *owner,
                       const void *stream, int64_t bytes, char **memory) {
    *memory = nullptr;
    if (bytes == 0) return nullptr;
    const Lock lock(locked_);
    int64_t largest = 0;
    for (Block *block = first_; block; block = block->next) {
      if (block->stream != stream) continue;
      *memory = static_cast<char *>(block->memory);
      if (block->bytes >= bytes) return nullptr;
      if (block->bytes > largest) largest = block->bytes;
    }
    auto *made = static_cast<Block *>(malloc(sizeof(Block)));
    if (!made) return api.CreateStatus(ort::FAIL, "BNLSTM: there is not enough memory");
    // Twice as much as before, for what is left behind to be little; or if not, as much as it takes.
    int64_t wanted = bytes > 2 * largest ? bytes : 2 * largest;
    void *found = nullptr;
    ort::Status *status = api.AllocatorAlloc(allocator, size_t(wanted), &found);
    if (status && wanted > bytes) {
      api.ReleaseStatus(status);
      wanted = bytes;
      status = api.AllocatorAlloc(allocator, size_t(wanted), &found);
    }
    if (status) {
      free(made);
      return status;
    }
    *made = {owner, stream, wanted, found, first_};
    first_ = made;
    *memory = static_cast<char *>(found);
    return nullptr;
  }

  void release(const ort::Api &api, ort::Allocator *allocator, const void *owner) {
    const Lock lock(locked_);
    for (Block **place = &first_; *place;) {
      Block *block = *place;
      if (block->owner != owner) {
        place = &block->next;
        continue;
      }
      *place = block->next;
      api.AllocatorFree(allocator, block->memory);
      free(block);
    }
  }

 private:
  class Lock {
   public:
    explicit Lock(bool &locked) : locked_(locked) {
      while (__atomic_test_and_set(&locked_, __ATOMIC_ACQUIRE)) {
      }
    }
    ~Lock() { __atomic_clear(&locked_, __ATOMIC_RELEASE); }

   private:
    bool &locked_;
  };

  Block *first_ = nullptr;
  bool locked_ = false;
};

}  // namespace bnlstm::cuda
