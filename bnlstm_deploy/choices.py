"""What can be chosen of a model and of its graph, by name. Nothing is imported."""

from typing import Literal

Pooling = Literal["last", "every"]
"""What a head reads: each stream's final hidden state, or the output at every timestep."""

Form = Literal["auto", "scan", "unrolled", "lstm"]
"""How the recurrence is written (docs/forms.md)."""

Folding = Literal["auto", "factored", "materialized"]
"""Whether scales stay apart from the recurrent weights, or each timestep has weights of its own."""

Target = Literal["cpu", "cuda", "tensorrt"]
"""Where a graph is to be fast. It runs everywhere."""

Dtype = Literal["float32", "float64", "float16", "bfloat16"]
"""Of weights and matrix products."""

Weights = Literal["int8", "float16", "bfloat16"]
"""What weights are stored as in a graph of float32."""

Activations = Literal["int8"]
"""What h is rounded to before the hidden product."""

StateInputs = Literal["optional", "required"]
"""Whether initial states, lengths and start steps may be left out."""
