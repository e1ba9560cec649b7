/* Functions that the provider links with, and that its runs here do not reach.
 *
 * They have no arguments here: the calling convention lets callers pass what they like.
 */
#ifndef BNLSTM_CUDA_STUB_REFUSED_H
#define BNLSTM_CUDA_STUB_REFUSED_H

/* Counts a call that the stub does not model, or that CUDA forbids. */
void stub_error(const char *name);

#define REFUSED(function)                                                                          \
    int function(void)                                                                             \
    {                                                                                              \
        stub_error(#function " is not modelled");                                                  \
        return 1;                                                                                  \
    }

#endif
