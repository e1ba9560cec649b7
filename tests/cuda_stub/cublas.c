/* cuBLAS: matrix products are counted, by the stream of their handle. */
#include "stub.h"

#include <stdlib.h>

struct handle {
    cudaStream_t stream;
    int math_mode;
};

int cublasCreate_v2(struct handle **handle)
{
    *handle = calloc(1, sizeof **handle);
    return 0;
}

int cublasDestroy_v2(struct handle *handle)
{
    free(handle);
    return 0;
}

int cublasSetStream_v2(struct handle *handle, cudaStream_t stream)
{
    handle->stream = stream;
    return 0;
}

int cublasGetMathMode(struct handle *handle, int *mode)
{
    *mode = handle->math_mode;
    return 0;
}

int cublasSetMathMode(struct handle *handle, int mode)
{
    handle->math_mode = mode;
    return 0;
}

const char *cublasGetStatusName(int status)
{
    return status ? "an error of the stub" : "CUBLAS_STATUS_SUCCESS";
}

const char *cublasGetStatusString(int status)
{
    return cublasGetStatusName(status);
}

/* The arguments after the handle are not looked at. */
#define COUNTED(category, function)                                                                \
    int function(const struct handle *handle)                                                      \
    {                                                                                              \
        return stub_work(category, #function, handle->stream);                                     \
    }

COUNTED("gemm", cublasGemmEx)
COUNTED("gemm", cublasGemmBatchedEx)
COUNTED("gemm", cublasGemmStridedBatchedEx)
COUNTED("gemm", cublasSgemm_v2)
COUNTED("gemm", cublasSgemmBatched)
COUNTED("gemm", cublasSgemmStridedBatched)
COUNTED("kernel", cublasScopy_v2)
COUNTED("kernel", cublasSgeam)
COUNTED("kernel", cublasSscal_v2)

REFUSED(cublasDcopy_v2) /* of 1.30 and before */
REFUSED(cublasDgeam)
REFUSED(cublasDgemm_v2)
REFUSED(cublasDgemmBatched)
REFUSED(cublasDgemmStridedBatched)
REFUSED(cublasDgetrfBatched)
REFUSED(cublasDgetriBatched)
REFUSED(cublasSgetrfBatched)
REFUSED(cublasSgetriBatched)
