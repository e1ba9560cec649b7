/* cuBLASLt: the provider creates a handle; the products of these tests go to cuBLAS. */
#include "refused.h"

int cublasLtCreate(void **handle)
{
    static int unused;
    *handle = &unused;
    return 0;
}

int cublasLtDestroy(void *handle)
{
    (void)handle;
    return 0;
}

REFUSED(cublasLtMatmul)
REFUSED(cublasLtMatmulAlgoConfigSetAttribute)
REFUSED(cublasLtMatmulAlgoGetHeuristic)
REFUSED(cublasLtMatmulAlgoInit)
REFUSED(cublasLtMatmulDescCreate)
REFUSED(cublasLtMatmulDescDestroy)
REFUSED(cublasLtMatmulDescSetAttribute)
REFUSED(cublasLtMatmulPreferenceCreate)
REFUSED(cublasLtMatmulPreferenceDestroy)
REFUSED(cublasLtMatmulPreferenceSetAttribute)
REFUSED(cublasLtMatrixLayoutCreate)
REFUSED(cublasLtMatrixLayoutDestroy)
REFUSED(cublasLtMatrixLayoutSetAttribute)
REFUSED(cublasLtMatrixTransform)
REFUSED(cublasLtMatrixTransformDescCreate)
REFUSED(cublasLtMatrixTransformDescDestroy)
