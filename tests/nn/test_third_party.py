"""BNLSTM against a checkpoint that public third-party code trained, with its recorded outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bnlstm_deploy.fold import fold
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.nn.cell import PATHS

RECORDED = Path(__file__).parents[3] / "shared" / "checkpoints" / "stacked_per_step"

SOURCE_NAMES = {"input": "bn_ih", "hidden": "bn_hh", "cell": "bn_c"}


@pytest.fixture
def model():
    """The checkpoint as a BNLSTM: its gates are f, i, o, g and its weights [in, 4H]."""
    if not RECORDED.with_suffix(".pt").exists():
        pytest.skip("the recorded checkpoints are not beside this repository")
    state = torch.load(RECORDED.with_suffix(".pt"), weights_only=True)
    hidden = state["rnn.cell_0.weight_hh"].shape[0]
    features = state["rnn.cell_0.weight_ih"].shape[0]
    model = BNLSTM(features, hidden, 2, max_length=8, beta=PATHS, dtype=torch.float64)

    def gates(tensor):
        f, i, o, g = tensor.chunk(4, dim=-1)
        return torch.cat((i, f, g, o), dim=-1)

    tensors = {}
    for layer in range(2):
        cell = {
            name.removeprefix(f"rnn.cell_{layer}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"rnn.cell_{layer}.")
        }
        tensors[f"weight_ih_l{layer}"] = gates(cell["weight_ih"]).T
        tensors[f"weight_hh_l{layer}"] = gates(cell["weight_hh"]).T
        tensors[f"bias_ih_l{layer}"] = gates(cell["bias"])
        tensors[f"bias_hh_l{layer}"] = torch.zeros(4 * hidden)
        for path, source in SOURCE_NAMES.items():
            order = gates if path != "cell" else torch.clone
            ours = f"{path}_norm_l{layer}."
            for kind in ("weight", "bias"):
                tensors[ours + kind] = order(cell[f"{source}.{kind}"])
            for kind in ("mean", "var"):
                rows = [order(cell[f"{source}.running_{kind}_{t}"]) for t in range(8)]
                tensors[f"{ours}running_{kind}"] = torch.stack(rows)
            tensors[ours + "num_batches_tracked"] = torch.ones(8, dtype=torch.int64)
    model.load_state_dict(tensors)
    return model.eval()


@pytest.mark.parametrize("run", ["training model", "fold"])
def test_recorded_float64_outputs_are_met(model, run):
    recorded = np.load(RECORDED.with_suffix(".npz"))
    x = recorded["x"].astype(np.float64).transpose(1, 0, 2)
    if run == "fold":
        output, (h, c) = fold(model).run(x)
    else:
        with torch.no_grad():
            tensors, (h_n, c_n) = model(torch.from_numpy(x))
        output, h, c = tensors.numpy(), h_n.numpy(), c_n.numpy()
    np.testing.assert_allclose(output.transpose(1, 0, 2), recorded["output_fp64"], atol=1e-10)
    np.testing.assert_allclose(h, recorded["h_n_fp64"], atol=1e-10)
    np.testing.assert_allclose(c, recorded["c_n_fp64"], atol=1e-10)
