// Continues streams of a batch-first model in chunks of a timestep each, without Python:
//
//     c++ -std=c++17 -I ORT/include stream.cpp -L ORT/lib -l onnxruntime -o stream
//     ./stream MODEL.onnx libbnlstm.so N T D
//
// where ORT is a release of ONNX Runtime for C++. It prints the first output for a sawtooth as input,
// timestep by timestep. With "-" instead of the library, the file's function body runs.
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static const OrtApi *const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

static void check(OrtStatus *status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "%s\n", api->GetErrorMessage(status));
  std::exit(1);
}

static void print(OrtValue *value) {
  float *numbers;
  check(api->GetTensorMutableData(value, reinterpret_cast<void **>(&numbers)));
  OrtTensorTypeAndShapeInfo *info;
  check(api->GetTensorTypeAndShape(value, &info));
  size_t size;
  check(api->GetTensorShapeElementCount(info, &size));
  for (size_t i = 0; i < size; i++) std::printf("%.9g\n", numbers[i]);
  api->ReleaseTensorTypeAndShapeInfo(info);
}

int main(int count, char **arguments) {
  if (count != 6) {
    std::fprintf(stderr, "usage: stream MODEL.onnx LIBRARY|- N T D\n");
    return 2;
  }
  const char *model = arguments[1], *library = arguments[2];
  const int64_t N = std::atol(arguments[3]), T = std::atol(arguments[4]),
                D = std::atol(arguments[5]);

  OrtEnv *environment;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "stream", &environment));
  OrtSessionOptions *options;
  check(api->CreateSessionOptions(&options));
  if (std::strcmp(library, "-") != 0) check(api->RegisterCustomOpsLibrary_V2(options, library));
  OrtSession *session;
  check(api->CreateSession(environment, model, options, &session));
  OrtMemoryInfo *memory;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

  // At first the states are left out, and streams start from what the model starts from. Then what a
  // run leaves goes into the next one as it is: nothing is copied.
  const char *const input_names[] = {"input", "initial_h", "initial_c", "start_step"};
  const char *const output_names[] = {"output", "h_n", "c_n", "next_step"};
  std::vector<float> chunk(N * D);
  const int64_t shape[3] = {N, 1, D};
  OrtValue *inputs[4] = {};
  for (int64_t t = 0; t < T; t++) {
    for (int64_t n = 0; n < N; n++)
      for (int64_t d = 0; d < D; d++) chunk[n * D + d] = ((n * T + t) * D + d) % 16 / 8.0f - 1;
    check(api->CreateTensorWithDataAsOrtValue(memory, chunk.data(), chunk.size() * sizeof(float),
                                              shape, 3, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                              &inputs[0]));
    OrtValue *outputs[4] = {};
    check(api->Run(session, nullptr, input_names, inputs, t == 0 ? 1 : 4, output_names, 4, outputs));
    print(outputs[0]);
    for (OrtValue *input : inputs)
      if (input != nullptr) api->ReleaseValue(input);
    api->ReleaseValue(outputs[0]);
    for (int i = 1; i < 4; i++) inputs[i] = outputs[i];
  }

  for (int i = 1; i < 4; i++) api->ReleaseValue(inputs[i]);
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(environment);
}
