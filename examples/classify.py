"""Whole sequences of different lengths, padded, in one run: classify.py MODEL.onnx."""

import sys

import numpy as np

from bnlstm_deploy import Session

session = Session(sys.argv[1])
features = session.inputs[0].shape[-1]
lengths = np.array([64, 40, 7])
x = np.zeros((len(lengths), lengths.max(), features), np.float32)
numbers = np.random.default_rng(0)
for stream, length in enumerate(lengths):
    x[stream, :length] = numbers.random((length, features))

logits, _ = session(x, lengths=lengths)
print(logits.argmax(-1))
