"""Any nn.Module and labelled data in, a separation fuzziness per layer out; the module is left as found.

All layers are recorded by hooks and share each forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from equisep.measures.separation import (
    ClassSums,
    PrincipalComponents,
    Separation,
    Weighting,
    as_class_labels,
    as_feature_matrix,
    separation_of,
)

INPUT = "input"
BATCH_NORMS = ("batch", "running")


@dataclass(frozen=True)
class Evaluation:
    """Loss (cross-entropy, nats, mean over images) and accuracy (0 … 1) in evaluation mode."""

    loss: float
    accuracy: float


def measure_separation(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    layers: Sequence[str],
    *,
    batch_norm: Literal["batch", "running"] = "batch",
    batch_size: int = 100,
    weighting: Weighting = "class_size",
    components: int | None = None,
    principal_inputs: Tensor | None = None,
    memory_limit: float = 4.0,
) -> dict[str, Separation]:
    """Return the separation of the input and of each named layer of a network.

    network: any module that takes a batch of inputs. inputs: (n, …), fed in stored order. labels: (n,)
    integers. layers: names of submodules, as ``network.named_modules()`` gives them, whose output
    (b, …) is a layer; each must run once in a forward pass.
    batch_norm: ``batch`` normalises with the statistics of each measured batch (the released code's
    way), ``running`` with the running ones; everything else (dropout, …) is in evaluation mode.
    batch_size: images a forward pass; the paper's is 100.
    components: project the features of a layer that has more on their first so many principal components
    (of ``principal_inputs``, or of the inputs themselves) before D is taken; None leaves them whole.
    memory_limit: GB; where the features of all layers need no more, one pass is made over the data, else two.
    The result maps ``input`` and then the layers, in order. Mode, buffers and random state of the
    network are as before. Raises ValueError for an unknown layer, one that runs more than once or not
    at all, a batch normalisation that cannot do as asked, and whatever
    :func:`equisep.separation_fuzziness` refuses.
    """
    named = dict(network.named_modules(remove_duplicate=False))
    _refuse(named, inputs, layers, batch_norm, batch_size)
    if components is not None and components < 1:
        raise ValueError(f"components={components}: give at least 1, or None for whole features")
    classes = as_class_labels(labels, len(inputs))

    def passes(over: Tensor, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        with _mode(network, batch_norm), _recording(named, [name for name in names if name != INPUT]) as recorded:
            for batch in torch.split(over, batch_size):
                recorded.clear()
                network(batch)
                recorded[INPUT] = batch
                missing = [name for name in names if name not in recorded]
                if missing:
                    raise ValueError(f"layer {missing[0]!r} does not run in a forward pass of the network")
                yield {name: as_feature_matrix(recorded[name]) for name in names}

    names = (INPUT, *layers)
    first = next(passes(inputs, names))
    projections: dict[str, PrincipalComponents] = {}
    if components is not None:
        source = inputs if principal_inputs is None else principal_inputs
        wide = [name for name in names if first[name].shape[1] > components]
        together = sum(first[name][0].nbytes for name in wide) * len(source) <= memory_limit * 1e9
        for group in [wide] if together else [[name] for name in wide]:
            batches = list(passes(source, group))
            for name in group:
                features = torch.cat([batch[name] for batch in batches])
                projections[name] = PrincipalComponents(features, components)

    def projected() -> Iterator[dict[str, Tensor]]:
        for batch in passes(inputs, names):
            yield {
                name: projections[name].project(features) if name in projections else features
                for name, features in batch.items()
            }

    width = sum(features[0].nbytes for features in next(projected()).values())
    results = {}
    if width * len(inputs) <= memory_limit * 1e9:
        batches = list(projected())
        for name in names:
            results[name] = separation_of(torch.cat([batch[name] for batch in batches]), classes, weighting=weighting)
        return results
    sums = {name: ClassSums(classes, weighting) for name in names}
    for batch in projected():
        for name, features in batch.items():
            sums[name].add(features)
    scatters = {name: total.scatter() for name, total in sums.items()}
    for batch in projected():
        for name, features in batch.items():
            scatters[name].add(features)
    return {name: scatter.separation() for name, scatter in scatters.items()}


def _refuse(
    named: dict[str, nn.Module], inputs: Tensor, layers: Sequence[str], batch_norm: str, batch_size: int
) -> None:
    """Raise ValueError for what cannot be measured, before any work."""
    if not isinstance(inputs, Tensor):
        raise ValueError(f"inputs must be a tensor, got {type(inputs).__name__}: torch.as_tensor makes one")
    if batch_norm not in BATCH_NORMS:
        raise ValueError(f"batch_norm={batch_norm!r}: choose one of {', '.join(BATCH_NORMS)}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: give at least 1")
    unknown = [name for name in layers if name not in named]
    if unknown:
        raise ValueError(f"no layer {unknown[0]!r} in the network; its modules are {', '.join(filter(None, named))}")
    if INPUT in layers:
        raise ValueError(f"layer {INPUT!r}: the name stands for the network's input, rename the module")
    repeated = [name for index, name in enumerate(layers) if name in layers[:index]]
    if repeated:
        raise ValueError(f"layer {repeated[0]!r} is asked for twice")
    for name, module in named.items():
        if isinstance(module, _BatchNorm) and batch_norm == "running" and module.running_mean is None:
            raise ValueError(f"batch_norm='running': module {name!r} keeps no running statistics, take 'batch'")
        if isinstance(module, nn.BatchNorm1d) and batch_norm == "batch" and len(inputs) % batch_size == 1:
            raise ValueError(f"batches of {batch_size} leave a last batch of one image: choose another batch size")


def evaluate(network: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 1000) -> Evaluation:
    """Return loss and accuracy of a classifier in evaluation mode; the module is left as found."""
    loss = torch.zeros((), dtype=torch.float64)
    correct = 0
    with _mode(network, "running"):
        for batch, targets in zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True):
            logits = network(batch)
            loss += cross_entropy(logits.double(), targets, reduction="sum").cpu()
            correct += int((logits.argmax(dim=1) == targets).sum())
    return Evaluation(loss.item() / len(labels), correct / len(labels))


@contextmanager
def _mode(network: nn.Module, batch_norm: Literal["batch", "running"]) -> Iterator[None]:
    """Put a network into a measuring mode and afterwards restore modes, buffers and random state."""
    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    devices = sorted({tensor.device.index for tensor in network.parameters() if tensor.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            for module in modes:
                module.training = batch_norm == "batch" and isinstance(module, _BatchNorm)
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                # A buffer that the forward pass registered is new: there is nothing to restore.
                if name in buffers:
                    buffer.copy_(buffers[name])


@contextmanager
def _recording(named: dict[str, nn.Module], layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the named modules in a dict while the context is open."""
    recorded: dict[str, Tensor] = {}

    def hook(name: str):  # type: ignore[no-untyped-def]
        def record(module: nn.Module, args: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise ValueError(f"layer {name!r} returns {type(output).__name__}, not one tensor")
            if output.ndim < 2:
                raise ValueError(f"layer {name!r} returns shape {tuple(output.shape)}, not one row per image")
            if name in recorded:
                raise ValueError(f"layer {name!r} runs more than once in a forward pass: give each use its own module")
            # A later in-place operation (nn.ReLU(inplace=True)) would overwrite the output.
            recorded[name] = output.detach().clone()

        return record

    handles = [named[name].register_forward_hook(hook(name)) for name in layers]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
