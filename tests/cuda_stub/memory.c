/* Memory, all of it the host's, and copies. */
#include "stub.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256 }; /* cudaMalloc's */

static struct block {
    char *start;
    size_t size;
    enum cudaMemoryType type;
    unsigned long born, died; /* 0: alive */
    struct block *next;
} *blocks;

unsigned long stub_time;

static struct block *find(const void *address)
{
    for (struct block *b = blocks; b; b = b->next)
        if (!b->died && (const char *)address >= b->start &&
            (const char *)address < b->start + b->size)
            return b;
    return NULL;
}

bool stub_freed_since(unsigned long time)
{
    STUB_LOCKED;
    for (struct block *b = blocks; b; b = b->next)
        if (b->born <= time && b->died > time)
            return true;
    return false;
}

/* Small values on the device that came from the host and were not copied over: sizes, say. */
static struct known {
    const char *start;
    size_t size;
    struct known *next;
} *known;

enum { SMALL = 256 };

static void forget(const char *start, size_t size)
{
    for (struct known **k = &known; *k;) {
        struct known *entry = *k;
        if (entry->start < start + size && start < entry->start + entry->size) {
            *k = entry->next;
            free(entry);
        } else
            k = &entry->next;
    }
}

static size_t left = (size_t)-1;

/* How many bytes there are still to be allocated. */
void stub_set_memory(size_t bytes)
{
    left = bytes;
}

static cudaError_t allocate(void **address, size_t size, enum cudaMemoryType type)
{
    STUB_LOCKED;
    size = size ? (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT : ALIGNMENT;
    struct block *b = malloc(sizeof *b);
    if (size > left || !b || !(*address = aligned_alloc(ALIGNMENT, size)))
        return stub_fail(cudaErrorMemoryAllocation);
    memset(*address, 0, size); /* kernels write nothing, and results should not be chance */
    *b = (struct block){*address, size, type, ++stub_time, 0, blocks};
    blocks = b;
    left -= size;
    stub_count("allocation", type == cudaMemoryTypeDevice ? "device" : "host");
    return cudaSuccess;
}

static cudaError_t release(void *address)
{
    STUB_LOCKED;
    struct block *b = find(address);
    if (!address)
        return cudaSuccess;
    if (!b || b->start != address) {
        stub_error("memory freed that is not allocated");
        return stub_fail(cudaErrorInvalidValue);
    }
    b->died = ++stub_time;
    forget(b->start, b->size);
    free(address);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **address, size_t size)
{
    cudaError_t error = stub_unsafe("cudaMalloc while capturing");
    return error ? error : allocate(address, size, cudaMemoryTypeDevice);
}

cudaError_t cudaFree(void *address)
{
    cudaError_t error = stub_unsafe("cudaFree while capturing");
    return error ? error : release(address);
}

cudaError_t cudaHostAlloc(void **address, size_t size, unsigned flags)
{
    (void)flags;
    cudaError_t error = stub_unsafe("cudaHostAlloc while capturing");
    return error ? error : allocate(address, size, cudaMemoryTypeHost);
}

cudaError_t cudaMallocHost(void **address, size_t size)
{
    return cudaHostAlloc(address, size, 0);
}

cudaError_t cudaFreeHost(void *address)
{
    cudaError_t error = stub_unsafe("cudaFreeHost while capturing");
    return error ? error : release(address);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    *total = (size_t)80 << 30;
    *free = (size_t)70 << 30;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address)
{
    STUB_LOCKED;
    struct block *b = find(address);
    memset(attributes, 0, sizeof *attributes);
    attributes->type = b ? b->type : cudaMemoryTypeUnregistered;
    attributes->device = b ? 0 : -2; /* as CUDA has it for memory that it does not know */
    attributes->devicePointer = b ? (void *)address : NULL;
    attributes->hostPointer = b && b->type == cudaMemoryTypeDevice ? NULL : (void *)address;
    return cudaSuccess;
}

static bool on_device(const void *address)
{
    STUB_LOCKED;
    struct block *b = find(address);
    return b && b->type == cudaMemoryTypeDevice;
}

static int result = 1;

/* Sets the value of all bytes that are copied back from the device, unless they came from the host.
 * Kernels compute nothing: without this, a branch on a result would be taken by chance. */
void stub_set_result(int byte)
{
    result = byte;
}

static void move(void *to, const void *from, size_t size)
{
    STUB_LOCKED;
    if (on_device(to)) {
        forget(to, size);
        if (!on_device(from) && size <= SMALL) {
            struct known *entry = malloc(sizeof *entry);
            *entry = (struct known){to, size, known};
            known = entry;
        }
    } else if (on_device(from)) {
        struct known *k = known;
        while (k && !(k->start == from && k->size == size))
            k = k->next;
        if (!k && !stub_computes()) {
            memset(to, result, size);
            return;
        }
    }
    memmove(to, from, size);
}

/* The name of a copy by where its ends really are, which cudaMemcpyDefault leaves open. */
static const char *direction(const void *to, const void *from)
{
    if (on_device(from))
        return on_device(to) ? "D2D" : "D2H";
    return on_device(to) ? "H2D" : "H2H";
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
    (void)kind;
    cudaError_t error = stub_unsafe("cudaMemcpy while capturing");
    if (error)
        return error;
    stub_count("copy", direction(to, from));
    stub_count("sync", "cudaMemcpy");
    move(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind;
    cudaError_t error = stub_work("copy", direction(to, from), stream);
    struct CUgraph_st *graph = stub_capture(stream);
    if (!graph)
        move(to, from, size);
    else if (!on_device(from)) {
        struct copy *copy = malloc(sizeof *copy);
        *copy = (struct copy){from, malloc(size), size, graph->copies};
        memcpy(copy->content, from, size);
        graph->copies = copy;
    } else
        stub_record(stream, (struct work){.to = to, .from = from, .size = size});
    return error;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    (void)kind;
    if (stub_capture(stream) && !on_device(from)) {
        stub_error("cudaMemcpy2DAsync from the host while capturing is not modelled");
        return stub_fail(cudaErrorNotSupported);
    }
    cudaError_t error = stub_work("copy", direction(to, from), stream);
    for (size_t row = 0; row < height; row++) {
        char *end = (char *)to + row * to_pitch;
        const char *start = (const char *)from + row * from_pitch;
        if (stub_capture(stream))
            stub_record(stream, (struct work){.to = end, .from = start, .size = width});
        else
            move(end, start, width);
    }
    return error;
}

cudaError_t cudaMemset(void *address, int value, size_t size)
{
    cudaError_t error = stub_unsafe("cudaMemset while capturing");
    if (error)
        return error;
    stub_count("memset", "cudaMemset");
    memset(address, value, size);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *address, int value, size_t size, cudaStream_t stream)
{
    cudaError_t error = stub_work("memset", "cudaMemsetAsync", stream);
    if (!stub_capture(stream))
        memset(address, value, size);
    return error;
}

