"""What is whole where the model that is trained is spread over the processes: one to evaluate, tensors to save.

Processes may evaluate different numbers of batches, or a single one of them alone; a spread model would wait for the
others in every layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy

from torch import Tensor, nn

from ...processes import Processes


def outline(model: nn.Module) -> nn.Module:
    """The modules without memory, of which none is taken on the way."""
    hollow: dict[int, Tensor] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        hollow[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    return deepcopy(model, hollow)


def filled(outline: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A model of such an outline that holds ``tensors``, in evaluation mode."""
    model = deepcopy(outline)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()


def on_first(processes: Processes, gathered: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Whole tensors, gathered one by one in every process, on the CPU of the first one; {} elsewhere."""
    whole = {}
    for name, tensor in gathered:
        if processes.is_first:
            whole[name] = tensor.detach().to("cpu", copy=True)
    return whole
