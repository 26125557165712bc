"""Engine for one feed-forward network on one core of a CPU: a whole epoch is one call of native.cpp.

The kernels are compiled once, by the machine's C++ compiler, and kept in the user's cache folder. Where this is
impossible, the programs for populations train such networks too. A network's result depends on nothing but its own
configuration, the machine and the compiler: not on threads, nor on what else is trained.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from equisep.training.schedule import Trainer

SOURCE = Path(__file__).with_name("native.cpp")
# Sums may be reassociated, so that they are vectorised; NaN and infinity keep their meaning.
FLAGS = (
    *("-std=c++17", "-march=native", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
# g++ takes ten seconds for -O3, which is not faster; clang's -O2 leaves the sums of a product in memory.
OPTIMISATION = {"g++": ("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"), "clang": ("-O3",)}
COMPILE_TIMEOUT_S = 300


class NoNativeKernels(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message is the reason."""


@cache
def why_not_native() -> str:
    """Return why the kernels cannot be compiled or loaded on this machine, '' if they can."""
    try:
        native_kernels()
    except NoNativeKernels as error:
        return str(error)
    return ""


@cache
def native_kernels() -> ctypes.CDLL:
    """Return the compiled kernels, compiling them if this machine has not done so before; raises NoNativeKernels."""
    name = os.environ.get("CXX", "c++")
    compiler = shutil.which(name)
    if compiler is None:
        raise NoNativeKernels(f"no C++ compiler ({name})")
    try:
        command = compile_command(compiler)
        parts = [SOURCE.read_text(), *command, _version(compiler), _processor()]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        for folder in _cache_folders():
            library = folder / f"native-{key}.so"
            try:
                if not library.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    _compile(command, library)
                return ctypes.CDLL(str(library))
            except OSError as error:
                reason = str(error)
    except subprocess.SubprocessError as error:
        output = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise NoNativeKernels(f"{name} cannot compile the kernels ({output[0] if output else error})") from None
    raise NoNativeKernels(f"the compiled kernels cannot be kept or loaded ({reason})")


def _cache_folders() -> Iterator[Path]:
    """Yield the user's cache folder, and one that exists where there is no home or it is read-only."""
    with suppress(RuntimeError):
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equisep"
    yield Path(tempfile.gettempdir()) / f"equisep-{os.getuid()}"


def compile_command(compiler: str) -> list[str]:
    """Return the command that compiles the kernels, without the name of the library; raises CalledProcessError."""
    kind = "clang" if "clang" in _version(compiler) else "g++"
    return [compiler, *FLAGS, *OPTIMISATION[kind], str(SOURCE)]


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def _compile(command: list[str], library: Path) -> None:
    # Several processes may compile at once: each replaces the file as a whole, by the same.
    part = library.with_name(f".{library.name}.{uuid.uuid4().hex}.part")
    try:
        subprocess.run(
            [*command, "-o", str(part)], capture_output=True, text=True, check=True, timeout=COMPILE_TIMEOUT_S
        )
        part.replace(library)
    finally:
        part.unlink(missing_ok=True)


def _processor() -> str:
    """Return what -march=native depends on: machines with one home folder may differ in it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))


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
_NO_NORMALISATION, _BATCH_NORMALISATION = range(2)
_FROZEN, _TRAINED, _DECAYED = range(3)
_RULES = {"sgd": 0, "adam": 1}


class NativeTraining(Trainer):
    """One network, Linear → (BatchNorm) → (ReLU) and a linear classifier, trained by the kernels on a CPU."""

    engine = "native"

    def __init__(self, *arguments: Any, kernels: ctypes.CDLL | None = None) -> None:
        """kernels: None for :func:`native_kernels`, which raises NoNativeKernels."""
        self._kernels = kernels or native_kernels()
        super().__init__(*arguments)

    def _set_up(self) -> None:
        (member,) = self.members
        # A FeedForwardNetwork.
        self.network: Any = member.network
        self.inputs = member.split.inputs.flatten(start_dim=1).contiguous()
        self.labels = member.split.labels.contiguous()
        self.steps = torch.zeros((), dtype=torch.int64)
        optimizer = member.optimizer
        # Adam has two moments, SGD with momentum a velocity.
        count = 2 if optimizer.kind == "adam" else int(optimizer.momentum != 0)
        self.moments = [
            torch.zeros(count, *parameter.shape, dtype=parameter.dtype) for parameter in self.network.parameters()
        ]
        self._layers = self._build_layers()
        norm = next((module for module in self.network.modules() if isinstance(module, nn.BatchNorm1d)), None)
        self._native = _Network(
            images=len(self.labels),
            batch_size=self.training.batch_size,
            layers=len(self._layers),
            normalisation=_NO_NORMALISATION if norm is None else _BATCH_NORMALISATION,
            rectified=any(isinstance(module, nn.ReLU) for module in self.network.modules()),
            rule=_RULES[optimizer.kind],
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            epsilon=norm.eps if norm else 0.0,
            running_momentum=norm.momentum or 0.0 if norm else 0.0,
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
        # Weights that only decay become subnormal, with which a processor is a hundred times slower.
        torch.set_flush_denormal(True)
        self._run_epoch(
            ctypes.byref(self._native), *map(ctypes.c_void_p, pointers), ctypes.byref(loss), ctypes.byref(correct)
        )
        torch.set_flush_denormal(False)
        self.steps += -(-len(self.labels) // self.training.batch_size)
        return [loss.value], [correct.value]

    def weights(self, index: int) -> dict[str, Tensor]:
        """See :meth:`Trainer.weights`."""
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm1d):
                cast(Tensor, module.num_batches_tracked).copy_(self.steps)
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
        self.steps.fill_(state["epoch"] * -(-len(self.labels) // self.training.batch_size))

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
            if rest and isinstance(norm := rest[0], nn.BatchNorm1d):
                layer.gain, layer.shift = parameter(norm.weight), parameter(norm.bias)
                layer.running_mean = cast(Tensor, norm.running_mean).data_ptr()
                layer.running_variance = cast(Tensor, norm.running_var).data_ptr()
        return layers
