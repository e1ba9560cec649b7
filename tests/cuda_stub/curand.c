/* cuRAND: linked with, and nothing of it used. */
int stub_curand;
