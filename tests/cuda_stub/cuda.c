/* The driver: one function is linked with, and not reached. */
#include "refused.h"

REFUSED(cuTensorMapEncodeTiled)
