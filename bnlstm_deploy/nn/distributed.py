"""Population statistics that are the same in all processes of distributed training."""

from torch import nn

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn.bnlstm import BNLSTM


def synchronize_statistics(model: nn.Module) -> None:
    """Let the running statistics of every BNLSTM in `model` follow all processes' minibatches.

    In distributed training (`torch.nn.parallel.DistributedDataParallel`) each process normalizes
    with its own minibatch, as torch's batch normalization does. After each forward pass in training
    the running statistics become their mean over the processes, in one exchange for each BNLSTM,
    and `recalibrate` adds up what all processes saw of their parts of the data set. Without this
    DistributedDataParallel copies those of process 0, which saw a part of the data.

    Args:
        model: Holds BNLSTM layers, on every process of the default group alike.

    Raises:
        InputError: No BNLSTM in `model`.
    """
    layers = [module for module in model.modules() if isinstance(module, BNLSTM)]
    if not layers:
        raise InputError("the model holds no BNLSTM whose statistics could be kept equal")
    for layer in layers:
        layer.synchronized = True
