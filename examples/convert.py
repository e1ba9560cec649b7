"""From a checkpoint to a verified ONNX file: convert.py CHECKPOINT MODEL.onnx."""

import sys

import bnlstm_deploy

checkpoint, output = sys.argv[1:]
report = bnlstm_deploy.convert(checkpoint, output)
print(f"{output}: {report.ratio:.2f} times the training model's own float32 error")
