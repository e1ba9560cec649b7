"""Random models and inputs for tests."""

from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from torch import nn

from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm
from bnlstm_deploy.normalizations import PATHS

Model = TypeVar("Model", bound=nn.Module)


def randomize(model: Model, seed: int = 0, *, degenerate: bool = False) -> Model:
    """Give every normalization random statistics, gamma and beta; return the model in eval.

    With `degenerate`, the first step's statistics are 0, as those of the hidden product are after
    training with zero initial states, and some other variances are 0 too.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform_(tensor: torch.Tensor, low: float, high: float) -> None:
        with torch.no_grad():
            tensor.uniform_(low, high, generator=generator)

    for norm in model.modules():
        if isinstance(norm, StepwiseBatchNorm):
            uniform_(norm.weight, 0.2, 1.5)
            uniform_(norm.running_mean, -0.5, 0.5)
            uniform_(norm.running_var, 0.1, 2.0)
            if norm.bias is not None:
                uniform_(norm.bias, -0.5, 0.5)
            if degenerate:
                norm.running_mean[0] = 0
                norm.running_var[0] = 0
                norm.running_var[-1, ::3] = 0
    for name, parameter in model.named_parameters():
        if "norm" not in name and not isinstance(model, StepwiseBatchNorm):
            uniform_(parameter, -0.6, 0.6)
    return model.eval()


@st.composite
def configurations(draw: st.DrawFn, /, **fixed: Any) -> dict[str, Any]:
    """Arguments of BNLSTM."""
    drawn = {
        "input_size": draw(st.integers(1, 4)),
        "hidden_size": draw(st.integers(1, 5)),
        "num_layers": draw(st.integers(1, 2)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "max_length": draw(st.integers(1, 5)),
        "normalize": draw(st.sets(st.sampled_from(PATHS))),
        "beta": draw(st.sets(st.sampled_from(PATHS))),
        "shared_statistics": draw(st.sets(st.sampled_from(PATHS))),
        "affine_per_step": draw(st.sets(st.sampled_from(PATHS))),
        "sequence_wise": draw(st.booleans()),
        "eps": draw(st.sampled_from([1e-6, 1e-5, 1e-3])),
    }
    return drawn | fixed


@st.composite
def models(draw: st.DrawFn, /, dtype: torch.dtype = torch.float64, **fixed: Any) -> BNLSTM:
    """A BNLSTM with random weights and statistics."""
    model = BNLSTM(**draw(configurations(**fixed)), dtype=dtype)
    return randomize(model, draw(st.integers(0, 2**16)), degenerate=draw(st.booleans()))


@st.composite
def calls(
    draw: st.DrawFn, model: BNLSTM
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Arguments of `BNLSTM.forward`: input, state, lengths (N,) and steps (N,)."""
    time, batch = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    dtype = model.weight_ih_l0.dtype
    leading = (batch, time) if model.batch_first else (time, batch)
    rows = (model.num_layers * model.num_directions, batch, model.hidden_size)
    x = torch.randn(*leading, model.input_size, generator=generator, dtype=dtype)
    h = torch.rand(rows, generator=generator, dtype=dtype) - 0.5
    c = torch.randn(rows, generator=generator, dtype=dtype)
    lengths = draw(st.lists(st.integers(0, time), min_size=batch, max_size=batch))
    highest = 0 if model.bidirectional else 6
    steps = draw(st.lists(st.integers(0, highest), min_size=batch, max_size=batch))
    return x, (h, c), torch.tensor(lengths), torch.tensor(steps)
