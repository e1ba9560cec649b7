"""Two processes with different data: one set of population statistics."""

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel, recalibrate, synchronize_statistics


def data(rank, minibatch):
    generator = torch.Generator().manual_seed(10 * minibatch + rank)
    # sequences of unlike length: the processes reach different rows of statistics
    x = torch.randn(6 - 2 * rank, 5, 2, generator=generator)
    return x, torch.tensor([len(x)] * 4 + [1])


def model():
    torch.manual_seed(0)
    rnn = BNLSTM(2, 3, 2, max_length=6, bidirectional=True, momentum=0.5)
    return BNLSTMModel(rnn, 2)


def statistics(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def work(rank, folder):
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    module = model()
    synchronize_statistics(module)
    parallel = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    found = []
    for minibatch in range(3):
        x, lengths = data(rank, minibatch)
        optimizer.zero_grad()
        parallel.train()(x, lengths=lengths)[0].square().sum().backward()
        optimizer.step()
        found.append(statistics(module))
    recalibrate(module, [data(rank, minibatch) for minibatch in range(2)])
    torch.save([found, statistics(module), module.state_dict()], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    patch = pytest.MonkeyPatch()
    patch.setenv("GLOO_SOCKET_IFNAME", "lo")
    multiprocessing.spawn(work, (folder,), nprocs=2)
    patch.undo()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_weights_and_statistics_are_equal_after_every_minibatch(both):
    (first, _, weights), (second, _, other_weights) = both
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, other_weights[name], rtol=0, atol=0)


def test_running_statistics_are_the_mean_of_what_each_process_would_have(both):
    alone = []
    for rank in (0, 1):
        module = model().train()
        x, lengths = data(rank, 0)
        module(x, lengths=lengths)
        alone.append(statistics(module))
    for name, found in both[0][0][0].items():
        if name.endswith("num_batches_tracked"):
            expected = torch.maximum(alone[0][name], alone[1][name])
        else:
            expected = (alone[0][name] + alone[1][name]) / 2
        torch.testing.assert_close(found, expected)


def test_recalibration_is_that_of_all_data_in_one_process(both):
    module = model()
    module.load_state_dict(both[0][2])
    recalibrate(module, [data(rank, minibatch) for rank in (0, 1) for minibatch in range(2)])
    for _, found, _ in both:
        for name, buffer in module.named_buffers():
            torch.testing.assert_close(found[name], buffer)


def test_without_processes_the_error_says_what_to_do():
    module = BNLSTM(2, 3, max_length=4)
    synchronize_statistics(module)
    with pytest.raises(InputError, match="init_process_group"):
        module(torch.randn(4, 3, 2))
    module.eval()(torch.randn(4, 3, 2))


def test_a_model_without_layers_is_refused():
    with pytest.raises(InputError, match="no BNLSTM"):
        synchronize_statistics(nn.Linear(2, 2))
