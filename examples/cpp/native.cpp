// Runs an exported file of a batch-first model on the native kernel, without Python:
//
//     c++ -std=c++17 -I ORT/include native.cpp -L ORT/lib -l onnxruntime -o native
//     ./native MODEL.onnx libbnlstm.so N T D
//
// where ORT is a release of ONNX Runtime for C++. It prints the first output for a sawtooth as input.
// With "-" instead of the library, the file's function body runs. On Windows paths are of wchar_t.
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

int main(int count, char **arguments) {
  if (count != 6) {
    std::fprintf(stderr, "usage: native MODEL.onnx LIBRARY|- N T D\n");
    return 2;
  }
  const char *model = arguments[1], *library = arguments[2];
  const int64_t shape[3] = {std::atol(arguments[3]), std::atol(arguments[4]),
                            std::atol(arguments[5])};

  OrtEnv *environment;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "native", &environment));
  OrtSessionOptions *options;
  check(api->CreateSessionOptions(&options));
  if (std::strcmp(library, "-") != 0) check(api->RegisterCustomOpsLibrary_V2(options, library));
  OrtSession *session;
  check(api->CreateSession(environment, model, options, &session));

  std::vector<float> sawtooth(shape[0] * shape[1] * shape[2]);
  for (size_t i = 0; i < sawtooth.size(); i++) sawtooth[i] = (i % 16) / 8.0f - 1;
  OrtMemoryInfo *memory;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  OrtValue *input, *output = nullptr;
  check(api->CreateTensorWithDataAsOrtValue(memory, sawtooth.data(),
                                            sawtooth.size() * sizeof(float), shape, 3,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
  const char *input_name = "input", *output_name = "output";
  check(api->Run(session, nullptr, &input_name, &input, 1, &output_name, 1, &output));

  float *numbers;
  check(api->GetTensorMutableData(output, reinterpret_cast<void **>(&numbers)));
  OrtTensorTypeAndShapeInfo *info;
  check(api->GetTensorTypeAndShape(output, &info));
  size_t size;
  check(api->GetTensorShapeElementCount(info, &size));
  for (size_t i = 0; i < size; i++) std::printf("%.9g\n", numbers[i]);

  api->ReleaseTensorTypeAndShapeInfo(info);
  api->ReleaseValue(output);
  api->ReleaseValue(input);
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(environment);
}
