"""The unfolded export: the training model as one ONNX Scan, to measure what folding is worth.

It shares with the deployed graph all but the fold. The input product is computed for all timesteps
at once and the statistics rows are gathered before the Scan, but the normalizations are written as
in training, with their subtractions, square roots and divisions at every timestep.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan
from torch.nn import functional as F

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.exporting.export import quiet_exporter
from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm

OPSET = 20
SUFFIX = "_l0"


class UnfoldedBNLSTM(nn.Module):
    """A BNLSTM in evaluation whose loop over time is a `scan` instead of Python's.

        output = UnfoldedBNLSTM(model)(x)    # model(x)[0]

    Args:
        model: A BNLSTM with one layer and one direction. Its parameters and statistics are shared,
            not copied; `batch_first` is disregarded.

    Raises:
        InputError: The model has several layers or directions.
    """

    def __init__(self, model: BNLSTM) -> None:
        super().__init__()
        if model.num_layers != 1 or model.bidirectional:
            raise InputError(
                f"the model has {model.num_layers} layers and {model.num_directions} directions; "
                "pass one with one layer and one direction"
            )
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Run over whole sequences from a zero state.

        Args:
            x: (T, N, D).

        Returns:
            (T, N, H), the hidden state of every timestep.
        """
        model, weight_hh = self.model, self.model.get_parameter(f"weight_hh{SUFFIX}")
        norms = model.norms(SUFFIX)
        products = F.linear(x, model.weight_ih_l0)
        row = torch.arange(x.shape[0], device=x.device).clamp(max=model.max_length - 1)
        used = [norm for norm in norms if norm is not None]
        means = [norm.running_mean[row] for norm in used]
        variances = [norm.running_var[row] for norm in used]
        bias = x.new_zeros(())
        if model.bias:
            bias = model.get_parameter(f"bias_ih{SUFFIX}") + model.get_parameter(f"bias_hh{SUFFIX}")

        def timestep(state: list[Tensor], now: list[list[Tensor]]) -> tuple[list[Tensor], Tensor]:
            h, c = state
            [product], *moments = now
            statistics = zip(*moments, strict=True)
            gates = normalized(product, norms.input, statistics) + bias
            gates = gates + normalized(F.linear(h, weight_hh), norms.hidden, statistics)
            i, f, g, o = gates.chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * normalized(c, norms.cell, statistics).tanh()
            return [h, c], h.clone()  # scan wants outputs that share no memory

        zeros = x.new_zeros(x.shape[1], model.hidden_size)
        output: Tensor
        _, output = scan(timestep, [zeros, zeros.clone()], [[products], means, variances])
        return output


def normalized(
    value: Tensor, norm: StepwiseBatchNorm | None, statistics: Iterator[tuple[Tensor, Tensor]]
) -> Tensor:
    """Normalize one timestep, unless `norm` is None.

    Args:
        value: (N, F).
        norm: The normalization, for its gamma, beta and eps.
        statistics: Its next item is taken: the mean and the variance of the timestep, each (F,).

    Returns:
        (N, F).
    """
    if norm is None:
        return value
    mean, var = next(statistics)
    value = (value - mean) / torch.sqrt(var + norm.eps) * norm.weight
    return value if norm.bias is None else value + norm.bias


def export_unfolded(model: BNLSTM, path: Path) -> None:
    """Write the unfolded model as an ONNX file with one Scan.

    The graph has the input `input` (T, N, D) and the output `output` (T, N, H), in the dtype of the
    model, with T and N dynamic.

    Args:
        model: A BNLSTM with one layer and one direction.
        path: The file to write.

    Raises:
        InputError: The model has several layers or directions.
    """
    example = model.weight_ih_l0.new_zeros(3, 2, model.input_size)
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            UnfoldedBNLSTM(model),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: "time", 1: "batch"},),
            input_names=["input"],
            output_names=["output"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.save(path)
