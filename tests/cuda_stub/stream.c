/* Streams, events, and the capture and replay of graphs. */
#include "stub.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct CUgraphExec_st {
    struct CUgraph_st graph;
};

struct CUevent_st {
    struct CUgraph_st *capture;
};

static struct CUstream_st *capturing; /* the one stream that is, if any */

/* The default streams are small numbers, and ONNX Runtime captures none of them. */
struct CUgraph_st *stub_capture(cudaStream_t stream)
{
    return (uintptr_t)stream > (uintptr_t)cudaStreamPerThread ? stream->capture : NULL;
}

cudaError_t stub_work(const char *category, const char *name, cudaStream_t stream)
{
    STUB_LOCKED;
    struct CUgraph_st *graph = stub_capture(stream);
    if (graph) {
        static const char *const plain[] = {"kernel", "gemm", "rnn", "copy", "memset", "host"};
        static const char *const captured[] = {"captured kernel", "captured gemm",
                                               "captured rnn",    "captured copy",
                                               "captured memset", "captured host"};
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
            if (!strcmp(plain[i], category))
                category = captured[i];
    } else if (capturing && (uintptr_t)stream <= (uintptr_t)cudaStreamLegacy) {
        stub_error("work on the default stream while capturing");
        capturing->capture->spoiled = true;
        return stub_fail(cudaErrorStreamCaptureImplicit);
    }
    stub_count(category, name);
    return graph && graph->spoiled ? stub_fail(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
}

static void (*computer)(int number);

void stub_set_computer(void (*function)(int))
{
    computer = function;
}

bool stub_computes(void)
{
    return computer;
}

void stub_record(cudaStream_t stream, struct work work)
{
    struct CUgraph_st *graph = stub_capture(stream);
    struct work *made = malloc(sizeof *made);
    *made = work;
    made->next = NULL;
    *(graph->last ? &graph->last->next : &graph->first) = made;
    graph->last = made;
}

void stub_launch(int number, cudaStream_t stream)
{
    if (stub_capture(stream))
        stub_record(stream, (struct work){.launch = number});
    else if (computer)
        computer(number);
}

cudaError_t stub_unsafe(const char *name)
{
    STUB_LOCKED;
    if (!capturing)
        return cudaSuccess;
    stub_error(name);
    capturing->capture->spoiled = true;
    return stub_fail(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    STUB_LOCKED;
    if (stub_capture(stream) || (capturing && (uintptr_t)stream <= (uintptr_t)cudaStreamLegacy))
        return stub_unsafe("cudaStreamSynchronize while capturing");
    stub_count("sync", "cudaStreamSynchronize");
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t error = stub_unsafe("cudaDeviceSynchronize while capturing");
    if (!error)
        stub_count("sync", "cudaDeviceSynchronize");
    return error;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    *event = calloc(1, sizeof **event);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    event->capture = stub_capture(stream);
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
    (void)flags;
    return cudaEventRecord(event, stream);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (event->capture)
        return stub_unsafe("cudaEventSynchronize while capturing");
    stub_count("sync", "cudaEventSynchronize");
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    (void)start, (void)end;
    *milliseconds = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    if (event->capture != stub_capture(stream)) {
        stub_error("a capture of several streams is not modelled");
        return stub_fail(cudaErrorStreamCaptureIsolation);
    }
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    if (stub_capture(stream)) {
        stub_error("cudaLaunchHostFunc while capturing is not modelled");
        return stub_fail(cudaErrorNotSupported);
    }
    stub_count("host", "cudaLaunchHostFunc");
    function(data);
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    STUB_LOCKED;
    if (capturing || mode == cudaStreamCaptureModeRelaxed) {
        stub_error("two captures at a time, and relaxed ones, are not modelled");
        return stub_fail(cudaErrorNotSupported);
    }
    stream->capture = calloc(1, sizeof *stream->capture);
    capturing = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    STUB_LOCKED;
    if (stream != capturing)
        return stub_fail(cudaErrorIllegalState);
    *graph = stream->capture;
    stream->capture = NULL;
    capturing = NULL;
    (*graph)->captured = stub_time;
    if (!(*graph)->spoiled) {
        stub_count("graph", "capture");
        return cudaSuccess;
    }
    cudaGraphDestroy(*graph);
    *graph = NULL;
    return stub_fail(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    struct CUgraph_st *graph = stub_capture(stream);
    *status = !graph           ? cudaStreamCaptureStatusNone
              : graph->spoiled ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph,
                                 unsigned long long flags)
{
    (void)flags;
    *executable = malloc(sizeof **executable);
    (*executable)->graph = *graph;
    return cudaSuccess;
}

/* The copies go to the executable, or are left behind: graphs are few. */
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    free(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    free(executable);
    return cudaSuccess;
}

/* Memory may have been given back to the system, where looking at it ends the process. */
static bool readable(const void *start, size_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)start / page * page;
    return !msync((void *)first, (uintptr_t)start + size - first, MS_ASYNC);
}

/* A replay reads host memory again. Its owner may have freed it to a pool of its own, of which CUDA
 * knows nothing; what shows is that it holds something else by then. */
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    (void)stream;
    stub_count("graph", "launch");
    for (struct copy *c = executable->graph.copies; c; c = c->next)
        if (!readable(c->source, c->size) || memcmp(c->content, c->source, c->size))
            stub_error("replay of host memory that was overwritten or freed");
    if (stub_freed_since(executable->graph.captured))
        stub_error("replay after memory was freed");
    if (computer)
        for (struct work *w = executable->graph.first; w; w = w->next) {
            if (w->launch)
                computer(w->launch);
            else
                memmove(w->to, w->from, w->size);
        }
    return cudaSuccess;
}
