"""A model as a graph of torch's own operators, for any batch and image size."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from demt.models import MultiTaskModel
from demt.ops.runtime import open_sizes, standard_operators

#: Smaller sides may be one pixel at stride 32, where shapes broadcast: a graph of open sizes does not reach there.
MIN_SIZE = 33

# In general position: no map at any stride is a whole number of patches or of Swin's windows, and none is as large as
# another, so that no shortcut for such maps gets into the graph.
EXAMPLE = (5, 259, 291)


class ExportError(ValueError):
    """A model cannot be written in the wanted form, or what was written does not compute what the model does."""


class Outputs(nn.Module):
    """What a file computes: the logits of every task, or with `predictions` what they stand for (`Task.predict`)."""

    def __init__(self, model: MultiTaskModel, predictions: bool) -> None:
        super().__init__()
        self.model, self.predictions = model, predictions

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.model(images)
        if not self.predictions:
            return logits
        return {name: self.model.tasks[name].predict(values) for name, values in logits.items()}


def capture(network: Outputs, size: tuple[int, int] | None = None) -> ExportedProgram:
    """Capture a network as a graph that any process with torch can run.

    Args:
        network: In eval mode, on the device and of the type that the graph is for.
        size: Fixes height and width; otherwise both are open, from `MIN_SIZE` on. The batch is always open.

    Raises:
        ImportError: if torch is too old to leave sizes open.
        ExportError: if the graph cannot be captured. Whether it holds for other sizes is for a comparison to find out.
    """
    if "prefer_deferred_runtime_asserts_over_guards" not in inspect.signature(torch.export.export).parameters:
        raise ImportError(f"Export needs a newer torch than {torch.__version__}: pip install -U torch")
    batch, *example = EXAMPLE
    like = next(network.model.head.parameters())
    shape = (batch, network.model.config.in_chans, *(size or example))
    images = torch.zeros(shape, dtype=like.dtype, device=like.device)
    with torch.no_grad(), standard_operators(), open_sizes():
        dims = {0: Dim.AUTO} if size else {0: Dim.AUTO, 2: Dim.AUTO(min=MIN_SIZE), 3: Dim.AUTO(min=MIN_SIZE)}
        try:
            program = torch.export.export(
                network, (images,), dynamic_shapes=(dims,), prefer_deferred_runtime_asserts_over_guards=True
            )
        except Exception as error:
            hint = "" if size else "; fixing height and width with `size` may help"
            raise ExportError(f"torch.export cannot capture this model{hint}: {first_line(error)}") from error
    _clean(program)
    _check(program)
    return program


def first_line(error: Exception) -> str:
    """Kind and first line of an error of torch's, whose messages can fill pages."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _clean(program: ExportedProgram) -> None:
    """Leave out assertions that a size is not a special one, and where in which file each node came from.

    The assertions stand for choices such as copying a map because its rows do not lie side by side. At the special
    sizes, where they happen to do so, the copy is as right.
    """
    assertions = (torch.ops.aten._assert_scalar.default, torch.ops.aten._assert_tensor_metadata.default)
    for module in _graphs(program):
        for node in list(module.graph.nodes):
            node.meta.pop("stack_trace", None)
            if node.op == "call_function" and node.target in assertions:
                module.graph.erase_node(node)
        module.graph.eliminate_dead_code()
        module.recompile()


def _graphs(program: ExportedProgram) -> list[GraphModule]:
    """The graph and those inside it, of parts with autocast off."""
    return [module for module in program.graph_module.modules() if isinstance(module, GraphModule)]


def _check(program: ExportedProgram) -> None:
    targets = {str(node.target) for module in _graphs(program) for node in module.graph.nodes}
    if own := sorted(target for target in targets if target.startswith("demt.")):
        raise ExportError(f"The graph needs operators that torch does not have: {own}")
