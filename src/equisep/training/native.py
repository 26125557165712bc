"""Engine for one feed-forward network on one core of a CPU: a whole epoch is one call of native.cpp.

Where its kernels cannot be compiled, the programs for populations train such networks too. A network's result depends
on nothing but its own configuration, the machine and the compiler: not on threads, nor on what else is trained.
"""

import ctypes
from typing import Any, cast

import torch
from torch import Tensor, nn

from equisep.training.kernels import Kernels, load_kernels
from equisep.training.schedule import Trainer


class _Parameter(ctypes.Structure):
    """``Parameter`` of native.cpp."""

    _fields_ = (*((name, ctypes.c_void_p) for name in ("value", "first", "second")), ("size", ctypes.c_int64))


class _Layer(ctypes.Structure):
    """``Layer`` of native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("inputs", "outputs", "learning", "updates")),
        *((name, _Parameter) for name in ("weight", "bias", "gain", "shift")),
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_variance")),
    )


class _Network(ctypes.Structure):
    """``Network`` of native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "batch_size", "layers", "normalisation", "rectified", "rule")),
        *((name, ctypes.c_double) for name in ("rate", "momentum", "weight_decay", "epsilon", "running_momentum")),
        ("layer", ctypes.POINTER(_Layer)),
    )


# The values of the enumerations of native.cpp.
_NORMALISATIONS = {type(None): 0, nn.BatchNorm1d: 1, nn.LayerNorm: 2}
_FROZEN, _TRAINED, _DECAYED = range(3)
_RULES = {"sgd": 0, "adam": 1}


class NativeTraining(Trainer):
    """One network, Linear → (BatchNorm or LayerNorm) → (ReLU) and a linear classifier, trained on a CPU."""

    engine = "native"

    def __init__(self, *arguments: Any, kernels: ctypes.CDLL | None = None) -> None:
        """kernels: None for those that :func:`load_kernels` compiles, which raises NoNativeKernels."""
        self._kernels = kernels or load_kernels(Kernels.FEED_FORWARD)
        super().__init__(*arguments)

    def _set_up(self) -> None:
        (member,) = self.members
        # A FeedForwardNetwork.
        self.network: Any = member.network
        self.inputs = member.split.inputs.flatten(start_dim=1).contiguous()
        self.labels = member.split.labels.contiguous()
        optimizer = member.optimizer
        # Adam has two moments, SGD with momentum a velocity.
        count = 2 if optimizer.kind == "adam" else int(optimizer.momentum != 0)
        self.moments = [
            torch.zeros(count, *parameter.shape, dtype=parameter.dtype) for parameter in self.network.parameters()
        ]
        self._layers = self._build_layers()
        kinds = nn.BatchNorm1d | nn.LayerNorm
        norm = next((module for module in self.network.modules() if isinstance(module, kinds)), None)
        self._native = _Network(
            images=len(self.labels),
            batch_size=self.training.batch_size,
            layers=len(self._layers),
            normalisation=_NORMALISATIONS[type(norm)],
            rectified=any(isinstance(module, nn.ReLU) for module in self.network.modules()),
            rule=_RULES[optimizer.kind],
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            epsilon=norm.eps if norm else 0.0,
            running_momentum=getattr(norm, "momentum", 0.0) or 0.0,
            layer=self._layers,
        )
        kind = {torch.float32: "float", torch.float64: "double"}[self.inputs.dtype]
        self._run_epoch = self._kernels[f"run_epoch_{kind}"]
        workspace_size = self._kernels[f"workspace_size_{kind}"]
        workspace_size.restype = ctypes.c_int64
        self._workspace = torch.empty(workspace_size(ctypes.byref(self._native)), dtype=self.inputs.dtype)

    def _train(self, order: Tensor, factor: float, trained: range | None) -> tuple[list[float], list[int]]:
        self._native.rate = cast(float, self.members[0].optimizer.learning_rate) * factor
        frozen = _DECAYED if self.training.frozen_decay else _FROZEN
        for number, layer in enumerate(self._layers, start=1):
            layer.learning = _TRAINED if trained is None or number in trained else frozen
        loss, correct = ctypes.c_double(), ctypes.c_int64()
        pointers = (tensor.data_ptr() for tensor in (self.inputs, self.labels, order, self._workspace))
        # Weights that only decay become subnormal, with which a processor is many times slower.
        torch.set_flush_denormal(True)
        self._run_epoch(
            ctypes.byref(self._native), *map(ctypes.c_void_p, pointers), ctypes.byref(loss), ctypes.byref(correct)
        )
        torch.set_flush_denormal(False)
        return [loss.value], [correct.value]

    def weights(self, index: int) -> dict[str, Tensor]:
        """See :meth:`Trainer.weights`."""
        steps = self.epoch * -(-len(self.labels) // self.training.batch_size)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm1d):
                cast(Tensor, module.num_batches_tracked).fill_(steps)
        return dict(self.network.state_dict())

    def state(self) -> dict[str, Any]:
        """See :meth:`Trainer.state`."""
        updates = [layer.updates for layer in self._layers]
        return {"epoch": self.epoch, "weights": self.weights(0), "moments": self.moments, "updates": updates}

    def _load(self, state: dict[str, Any]) -> None:
        # The tensors are written into, since the kernels have their addresses.
        self.network.load_state_dict(state["weights"])
        for tensor, saved in zip(self.moments, state["moments"], strict=True):
            tensor.copy_(saved)
        for layer, updates in zip(self._layers, state["updates"], strict=True):
            layer.updates = updates

    def _build_layers(self) -> "ctypes.Array[_Layer]":
        """Return the addresses of the network's tensors and of their moments, layer by layer."""
        moments = iter(self.moments)

        def parameter(tensor: Tensor) -> _Parameter:
            assert tensor.is_contiguous()
            pointers = [moment.data_ptr() for moment in next(moments)]
            return _Parameter(tensor.data_ptr(), *pointers, *[None] * (2 - len(pointers)), tensor.numel())

        blocks: list[list[Any]] = [list(block) for block in self.network.hidden]
        blocks.append([self.network.classifier])
        layers = (_Layer * len(blocks))()
        for layer, (linear, *rest) in zip(layers, blocks, strict=True):
            layer.inputs, layer.outputs = linear.in_features, linear.out_features
            layer.weight, layer.bias = parameter(linear.weight), parameter(linear.bias)
            if rest and isinstance(norm := rest[0], nn.BatchNorm1d | nn.LayerNorm):
                layer.gain, layer.shift = parameter(norm.weight), parameter(norm.bias)
            if rest and isinstance(norm, nn.BatchNorm1d):
                layer.running_mean = cast(Tensor, norm.running_mean).data_ptr()
                layer.running_variance = cast(Tensor, norm.running_var).data_ptr()
        return layers
