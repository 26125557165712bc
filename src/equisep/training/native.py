"""Engine for one feed-forward network on one core of a CPU: a whole epoch is one call of native.cpp.

The kernels are compiled once, by the machine's C++ compiler, and kept in the user's cache folder. Where this is
impossible, the programs for populations train such networks too. A network's result depends on nothing but its own
configuration, the machine and the compiler: not on threads, nor on what else is trained.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from equisep.files import write_atomically
from equisep.training.schedule import Trainer

SOURCE = Path(__file__).with_name("native.cpp")
# Sums may be reassociated, so that they are vectorised; NaN and infinity keep their meaning.
FLAGS = (
    *("-std=c++17", "-march=native", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
# g++ takes ten seconds for -O3, which is not faster; clang's -O2 leaves the sums of a product in memory.
OPTIMISATION = {"g++": ("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"), "clang": ("-O3",)}
COMPILE_TIMEOUT_S = 120.0


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
    command = compile_command()
    reason = ""
    for folder in _cache_folders():
        try:
            library = _find_library(folder) or _store_library(folder, _compile(command))
            return ctypes.CDLL(str(library))
        except OSError as error:
            reason = str(error)
    raise NoNativeKernels(f"the compiled kernels cannot be kept or loaded ({reason})")


@cache
def kernels_id() -> str:
    """Return 16 hex digits of what the kernels' results depend on: source, command, compiler and processor."""
    parts = [SOURCE.read_text(), *compile_command(), _output([*_compiler(), "--version"]), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@cache
def compile_command() -> tuple[str, ...]:
    """Return the command that compiles the kernels, without the name of the library; raises NoNativeKernels."""
    kind = "clang" if "clang" in _output([*_compiler(), "--version"]) else "g++"
    return (*_compiler(), *OPTIMISATION[kind], *FLAGS, str(SOURCE))


def _compiler() -> list[str]:
    """Return the compiler and its own options; raises NoNativeKernels."""
    name, *options = shlex.split(os.environ.get("CXX") or "c++")
    program = shutil.which(name)
    if program is None:
        raise NoNativeKernels(f"no C++ compiler ({name} is not a program)")
    return [program, *options]


def _compile(command: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "native.so")
        _output([*command, "-o", str(library)])
        return library.read_bytes()


def _output(command: Sequence[str]) -> str:
    """Return what a command of the compiler prints; raises NoNativeKernels."""
    try:
        ended = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=COMPILE_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoNativeKernels(f"the C++ compiler {command[0]} cannot be run ({error})") from None
    if ended.returncode:
        reason = next(iter(ended.stderr.strip().splitlines()), f"exit code {ended.returncode}")
        raise NoNativeKernels(f"{command[0]} cannot compile the kernels ({reason})")
    return ended.stdout


def _cache_folders() -> Iterator[Path]:
    """Yield the user's cache folder, and one that exists where there is no home or it is read-only."""
    with suppress(RuntimeError):
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equisep"
    with suppress(FileNotFoundError):
        yield Path(tempfile.gettempdir()) / f"equisep-{os.getuid()}"


def _find_library(folder: Path) -> Path | None:
    """Return the library of this compiler and processor in a folder, None if there is none that is whole."""
    for path in folder.glob(f"native-{kernels_id()}-*.so"):
        if path.name == _name_of(path.read_bytes()):
            return path
    return None


def _store_library(folder: Path, content: bytes) -> Path:
    """Write a library, as other processes may at the same time; raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH:
        raise OSError(f"{folder} is not a folder that only this user can write to")
    library = folder / _name_of(content)
    write_atomically(library, content)
    return library


def _name_of(content: bytes) -> str:
    """Return the name of a library, by which one that was cut or changed is recognised."""
    return f"native-{kernels_id()}-{hashlib.sha256(content).hexdigest()[:16]}.so"


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
            if rest and isinstance(norm := rest[0], nn.BatchNorm1d):
                layer.gain, layer.shift = parameter(norm.weight), parameter(norm.bias)
                layer.running_mean = cast(Tensor, norm.running_mean).data_ptr()
                layer.running_variance = cast(Tensor, norm.running_var).data_ptr()
        return layers
