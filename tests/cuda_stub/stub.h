/* What the stub libraries share.
 *
 * They let the unmodified CUDA provider of ONNX Runtime load and run where there is no GPU: device
 * memory is host memory, kernels compute nothing, and everything is counted. Only what is needed of
 * CUDA is here. What is not refuses, and the refusal is counted, so that no test rests on a guess.
 */
#ifndef BNLSTM_CUDA_STUB_H
#define BNLSTM_CUDA_STUB_H

#include "refused.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdbool.h>

/* What all threads share is used under one lock, which is held to the end of the block. */
#define STUB_LOCKED                                                                                \
    __attribute__((cleanup(stub_unlock), unused)) char locked = stub_lock()
char stub_lock(void);
void stub_unlock(char *locked);

/* Counts one event; both texts must outlive the process. Categories are those of counts.py. */
void stub_count(const char *category, const char *name);

/* Counts work on a stream, or records it where the stream is being captured. */
cudaError_t stub_work(const char *category, const char *name, cudaStream_t stream);

/* Returns an error, and spoils the capture, where one is under way: in the mode that ONNX Runtime
 * captures in, no thread may call what could wait for the device. */
cudaError_t stub_unsafe(const char *name);

/* Sets the calling thread's last error. */
cudaError_t stub_fail(cudaError_t error);

/* What a captured graph copies from host memory, which is looked at again before each replay. */
struct copy {
    const void *source;
    void *content; /* as it was when captured */
    size_t size;
    struct copy *next;
};

/* What a captured graph does, as far as something is computed: launches, and copies on the device. */
struct work {
    int launch; /* the number of one, or 0 */
    void *to;
    const void *from;
    size_t size;
    struct work *next;
};

struct CUgraph_st {
    bool spoiled;
    unsigned long captured; /* the time of it, as stub_time counts */
    struct copy *copies;
    struct work *first, *last;
};

struct CUstream_st {
    struct CUgraph_st *capture; /* NULL where none is under way */
};

struct CUgraph_st *stub_capture(cudaStream_t stream);

/* Computes a launch by its number, now, or in every replay of the graph that is captured. Until a
 * program says how, nothing is computed. */
void stub_launch(int number, cudaStream_t stream);
bool stub_computes(void);
void stub_record(cudaStream_t stream, struct work work);

/* Counts allocations and releases, so that it orders them and captures. */
extern unsigned long stub_time;

/* Whether memory that was there when a graph was captured has been freed since. Kernels' arguments
 * are not known to be addresses, so all memory counts as what the graph uses. */
bool stub_freed_since(unsigned long time);

#endif
