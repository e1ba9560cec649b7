/* The driver: libraries of kernels, whose launches a program may compute. */
#include "stub.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_VALUE = 1, INVALID_IMAGE = 200 };

/* What the next answers are; tests set them. */
static struct {
    int version, major, minor, shared, load_error, launch_error;
} answers = {13000, 9, 0, 227 << 10, 0, 0};

void stub_set_driver(int version, int capability, int shared, int load_error, int launch_error)
{
    answers.version = version;
    answers.major = capability / 10;
    answers.minor = capability % 10;
    answers.shared = shared;
    answers.load_error = load_error;
    answers.launch_error = launch_error;
}

/* A kernel: which of all it is, its code tells. */
struct function {
    const char *code, *name;
};

/* Remembers a launch, and returns its number; what the arguments are is the program's to know. */
static int (*recorder)(const char *code, const unsigned *grid, void **arguments);

void stub_set_recorder(int (*function)(const char *, const unsigned *, void **))
{
    recorder = function;
}

int cuInit(unsigned flags)
{
    return flags ? INVALID_VALUE : 0;
}

int cuDriverGetVersion(int *version)
{
    *version = answers.version;
    return 0;
}

int cuGetErrorString(int error, const char **text)
{
    *text = error == INVALID_IMAGE ? "device kernel image is invalid" : "an error of the stub";
    return 0;
}

int cuCtxGetDevice(int *device)
{
    *device = 0;
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    switch (attribute) {
    case 16: *value = 132; break; /* multiprocessors */
    case 75: *value = answers.major; break;
    case 76: *value = answers.minor; break;
    case 97: *value = answers.shared; break; /* that a block may opt in to */
    default: stub_error("cuDeviceGetAttribute: unknown"); return INVALID_VALUE;
    }
    return 0;
}

/* A library is the code that it was loaded from: a file in ELF, or PTX. */
int cuLibraryLoadData(const void **library, const char *code, void *options, void *values,
                      unsigned count, void *library_options, void *library_values,
                      unsigned library_count)
{
    (void)options, (void)values, (void)count;
    (void)library_options, (void)library_values, (void)library_count;
    if (answers.load_error)
        return answers.load_error;
    if (memcmp(code, "\177ELF", 4) && memcmp(code, "//\n", 3))
        return INVALID_IMAGE;
    stub_count("library", *code == '/' ? "PTX" : "cubin");
    *library = code;
    return 0;
}

int cuLibraryGetKernel(struct function **kernel, const char *library, const char *name)
{
    *kernel = malloc(sizeof **kernel);
    **kernel = (struct function){library, strdup(name)};
    return 0;
}

int cuKernelSetAttribute(int attribute, int value, const struct function *kernel, int device)
{
    (void)attribute, (void)kernel, (void)device;
    return value > answers.shared ? INVALID_VALUE : 0;
}

int cuLaunchKernel(const struct function *kernel, unsigned x, unsigned y, unsigned z, unsigned threads,
                   unsigned threads_y, unsigned threads_z, unsigned shared, cudaStream_t stream,
                   void **arguments, void **extra)
{
    if (answers.launch_error)
        return answers.launch_error;
    if (!x || !y || z != 1 || y > 65535 || threads % 32 || threads > 1024 || threads_y != 1 ||
        threads_z != 1 || shared > (unsigned)answers.shared || extra)
        return INVALID_VALUE;
    const int error = stub_work("kernel", kernel->name, stream);
    if (!error && recorder)
        stub_launch(recorder(kernel->code, (unsigned[]){x, y}, arguments), stream);
    return error;
}

REFUSED(cuTensorMapEncodeTiled)
