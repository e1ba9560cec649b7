"""A sequence that arrives in chunks: its state carried, and on the device: stream.py MODEL.onnx."""

import sys

import numpy as np

from bnlstm_deploy import Session

session = Session(sys.argv[1])
x = np.random.default_rng(0).random((1, 64, session.inputs[0].shape[-1]), np.float32)
whole, _ = session(x)

state = None
for chunk in np.split(x, 8, axis=1):
    output, state = session(chunk, state=state)

binding = session.bind(batch=1, time=8)  # the same, without a copy of the state in between
for chunk in np.split(x, 8, axis=1):
    bound = binding(chunk)

print(np.abs(output - whole).max(), np.abs(bound - whole).max())
