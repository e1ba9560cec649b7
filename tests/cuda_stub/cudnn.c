/* cuDNN, as far as the operators LSTM and ReduceMin need it. ONNX Runtime opens it at run time. */
#include "stub.h"

#include <stdlib.h>

struct handle {
    cudaStream_t stream;
};

size_t cudnnGetVersion(void)
{
    return 91300;
}

const char *cudnnGetErrorString(int status)
{
    return status ? "an error of the stub" : "CUDNN_STATUS_SUCCESS";
}

int cudnnCreate(struct handle **handle)
{
    *handle = calloc(1, sizeof **handle);
    return 0;
}

int cudnnDestroy(struct handle *handle)
{
    free(handle);
    return 0;
}

int cudnnSetStream(struct handle *handle, cudaStream_t stream)
{
    handle->stream = stream;
    return 0;
}

/* Descriptors say nothing here. */
#define DESCRIPTOR(name)                                                                           \
    int cudnnCreate##name##Descriptor(void **descriptor)                                           \
    {                                                                                              \
        static int unused;                                                                         \
        *descriptor = &unused;                                                                     \
        return 0;                                                                                  \
    }                                                                                              \
    int cudnnDestroy##name##Descriptor(void *descriptor)                                           \
    {                                                                                              \
        (void)descriptor;                                                                          \
        return 0;                                                                                  \
    }

#define ACCEPTED(function)                                                                         \
    int function(void)                                                                             \
    {                                                                                              \
        return 0;                                                                                  \
    }

DESCRIPTOR(Dropout)
DESCRIPTOR(Filter)
DESCRIPTOR(RNN)
DESCRIPTOR(RNNData)
DESCRIPTOR(ReduceTensor)
DESCRIPTOR(Tensor)
ACCEPTED(cudnnSetDropoutDescriptor)
ACCEPTED(cudnnSetFilterNdDescriptor)
ACCEPTED(cudnnSetRNNDataDescriptor)
ACCEPTED(cudnnSetRNNDescriptor_v8)
ACCEPTED(cudnnSetReduceTensorDescriptor)
ACCEPTED(cudnnSetTensorNdDescriptor)

int cudnnDropoutGetStatesSize(struct handle *handle, size_t *size)
{
    (void)handle;
    *size = 1024;
    return 0;
}

int cudnnGetRNNTempSpaceSizes(struct handle *handle, void *rnn, int mode, void *x,
                              size_t *workspace, size_t *reserve)
{
    (void)handle, (void)rnn, (void)mode, (void)x;
    *workspace = 4096;
    if (reserve)
        *reserve = 0;
    return 0;
}

/* Every matrix and bias at the start of the weights, and one number long: what ORT copies there
 * then stays inside. */
int cudnnGetRNNWeightParams(struct handle *handle, void *rnn, int layer, size_t size, void *weights,
                            int gate, void *matrix, void **matrix_address, void *bias,
                            void **bias_address)
{
    (void)handle, (void)rnn, (void)layer, (void)size, (void)gate, (void)matrix, (void)bias;
    *matrix_address = *bias_address = weights;
    return 0;
}

int cudnnGetTensorNdDescriptor(void *descriptor, int requested, int *type, int *rank, int *sizes,
                               int *strides)
{
    (void)descriptor;
    *type = 0;
    *rank = 3;
    for (int axis = 0; axis < requested; axis++)
        sizes[axis] = strides[axis] = 1;
    return 0;
}

int cudnnRNNForward(struct handle *handle)
{
    return stub_work("rnn", "cudnnRNNForward", handle->stream);
}

int cudnnGetReductionIndicesSize(struct handle *handle, void *reduction, void *from, void *to,
                                 size_t *size)
{
    (void)handle, (void)reduction, (void)from, (void)to;
    *size = 0;
    return 0;
}

int cudnnGetReductionWorkspaceSize(struct handle *handle, void *reduction, void *from, void *to,
                                   size_t *size)
{
    return cudnnGetReductionIndicesSize(handle, reduction, from, to, size);
}

int cudnnReduceTensor(struct handle *handle)
{
    return stub_work("kernel", "cudnnReduceTensor", handle->stream);
}
