/* What the provider links with of the CUDA runtime, and is not modelled. */
#include "refused.h"

REFUSED(cudaFreeAsync)
REFUSED(cudaKernelSetAttributeForDevice)
REFUSED(cudaLibraryGetKernel)
REFUSED(cudaLibraryLoadData)
REFUSED(cudaLibraryUnload)
REFUSED(cudaMallocFromPoolAsync)
REFUSED(cudaMemPoolCreate)
REFUSED(cudaMemPoolDestroy)
REFUSED(cudaMemPoolGetAttribute)
REFUSED(cudaMemPoolSetAttribute)
REFUSED(cudaMemPoolTrimTo)
REFUSED(cudaMemcpyFromSymbol)
