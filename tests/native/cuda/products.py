"""What Triton's interpreter does not compute as a GPU does."""

import numpy as np
import pytest


@pytest.fixture
def bfloat16_products(monkeypatch):
    """Products of bfloat16 in the interpreter, which holds it as bits and multiplies these."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

    multiply = InterpreterBuilder.create_dot

    def wide(operand):
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.view(np.uint16).astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):
        return multiply(self, wide(a), wide(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
