/* Kernels: known by the names they are registered under, launched as no-ops. */
#include "stub.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

struct kernel {
    const void *host; /* the address that stands for it in the program */
    const char *name;
};

static void *kernels; /* a tree, by address: the provider has ten thousands of them */

static int compare(const void *a, const void *b)
{
    const char *x = ((const struct kernel *)a)->host, *y = ((const struct kernel *)b)->host;
    return (x > y) - (x < y);
}

/* What nvcc's code calls when the library is loaded; declared in no public header. */
void **__cudaRegisterFatBinary(void *binary)
{
    (void)binary;
    static void *handle;
    return &handle;
}

void __cudaRegisterFatBinaryEnd(void **handle)
{
    (void)handle;
}

void __cudaUnregisterFatBinary(void **handle)
{
    (void)handle;
}

void __cudaRegisterVar(void)
{
}

void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name)
{
    (void)handle, (void)device;
    struct kernel *kernel = malloc(sizeof *kernel);
    *kernel = (struct kernel){host, name};
    tsearch(kernel, &kernels, compare);
}

static cudaError_t launch(const void *function, cudaStream_t stream)
{
    struct kernel **kernel = tfind(&(struct kernel){function, NULL}, &kernels, compare);
    if (!kernel) {
        stub_error("launch of a kernel that is not registered");
        return stub_fail(cudaErrorInvalidDeviceFunction);
    }
    return stub_work("kernel", (*kernel)->name, stream);
}

/* The arguments between <<< and >>>, on their way to the launch. */
static _Thread_local struct {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
} configuration;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream)
{
    configuration.grid = grid;
    configuration.block = block;
    configuration.shared = shared;
    configuration.stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream)
{
    *grid = configuration.grid;
    *block = configuration.block;
    *shared = configuration.shared;
    *(cudaStream_t *)stream = configuration.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function)
{
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t shared, cudaStream_t stream)
{
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments,
                             size_t shared, cudaStream_t stream)
{
    (void)grid, (void)block, (void)arguments, (void)shared;
    return launch(function, stream);
}

cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block,
                                        void **arguments, size_t shared, cudaStream_t stream)
{
    return cudaLaunchKernel(function, grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function,
                                void **arguments)
{
    (void)arguments;
    return launch(function, config->stream);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function)
{
    (void)function;
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->binaryVersion = attributes->ptxVersion = 90;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    (void)function, (void)attribute, (void)value;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks,
                                                                   const void *function, int size,
                                                                   size_t shared, unsigned flags)
{
    (void)function, (void)size, (void)shared, (void)flags;
    *blocks = 2;
    return cudaSuccess;
}
