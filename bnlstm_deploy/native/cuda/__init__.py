"""The operator on GPUs: kernels in Triton's language. No operator launches them yet."""
