"""On an NVIDIA GPU: every engine and D against the CPU's float64, resume, memory limits, arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from equisep import measure_separation, separation_fuzziness
from equisep.config import Architecture, Compute, Config, FeedForward, Optimizer, Training, compose_config
from equisep.data import Data, Split
from equisep.execution import prepare
from equisep.execution.device import choose_device, set_arithmetic
from equisep.execution.planning import MEMORY_SHARE, members_that_fit, plan
from equisep.execution.train import execute
from equisep.measures import as_class_labels, fuzziness_of_draws
from equisep.networks import build_network
from equisep.store import all_runs
from equisep.training import Member, Population

pytestmark = pytest.mark.gpu

ADAM = Optimizer(kind="adam", learning_rate=1e-3, momentum=0.0, weight_decay=5e-4)
MOMENTUM = Optimizer(kind="sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4)
# 100 images are four batches of 23 and one of 8 per epoch.
TEN_STEPS = Training(epochs=2, batch_size=23, milestones=[1], decay=0.1, snapshots=[])
ARCHITECTURES = ("fnn", "fnn_no_batch_norm", "any module", "vgg13", "alexnet", "resnet_two_layer", "densenet")


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """The GPU, with the arithmetic of the default config; the process's own settings are restored."""
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here that torch finds")
    device = choose_device("cuda")
    threads = torch.get_num_threads()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_arithmetic(compose_config([]).compute, device)
    yield device
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    torch.set_num_threads(threads)


def labelled(points: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(points) % 10
    means = torch.randn(10, width, generator=generator, dtype=torch.float64)
    return torch.randn(points, width, generator=generator, dtype=torch.float64) + means[labels] + 3, labels


@pytest.mark.parametrize("width", [5, 100, 8192])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_d_is_that_of_the_cpu(gpu: torch.device, dtype: torch.dtype, width: int) -> None:
    features, labels = labelled(1000, width)
    features = features.to(dtype)
    expected = separation_fuzziness(features, labels)
    for where in (labels, labels.to(gpu)):
        assert separation_fuzziness(features.to(gpu), where) == pytest.approx(expected, rel=1e-9)
    single = separation_fuzziness(features.to(gpu), labels, precision=torch.float32)
    assert single == pytest.approx(expected, rel=1e-4)


def test_d_of_an_ill_conditioned_spectrum_is_that_of_the_cpu(gpu: torch.device) -> None:
    """Condition of SS_b 1e8, an offset of 1e4, points that spread as the class means do."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(50, 3, generator=generator, dtype=torch.float64))[0].T
    means = torch.diag(torch.tensor([1.0, 0.3, 1e-4], dtype=torch.float64)) @ directions
    labels = torch.arange(400) % 4
    spread = torch.randn(400, 3, generator=generator, dtype=torch.float64) @ means
    features = torch.cat([means, means.new_zeros(1, 50)])[labels] + spread + 1e4
    expected = separation_fuzziness(features, labels)
    assert separation_fuzziness(features.to(gpu), labels) == pytest.approx(expected, rel=1e-9)


def test_draws_are_measured_where_they_are(gpu: torch.device) -> None:
    features, labels = labelled(600, 50)
    draws = torch.stack([features, features.square(), features.exp()])
    draws[2, 1, 1] = torch.nan
    found = fuzziness_of_draws(draws.to(gpu), as_class_labels(labels, 600).to(gpu))
    assert found.device.type == gpu.type
    expected = fuzziness_of_draws(draws, labels)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=0, equal_nan=True)


@pytest.mark.parametrize("memory_limit", [4.0, 1e-9])
def test_a_network_is_measured_as_on_the_cpu(gpu: torch.device, fashion: Data, memory_limit: float) -> None:
    network = build_network(FeedForward(family="fnn", depth=8, width=100), (1, 10, 10), 10, seed=1).double()
    inputs, labels = fashion.train.inputs.double(), fashion.train.labels
    expected = measure_separation(network, inputs, labels, network.layers)
    found = measure_separation(
        network.to(gpu), inputs.to(gpu), labels.to(gpu), network.layers, memory_limit=memory_limit
    )
    for layer, separation in expected.items():
        assert found[layer].fuzziness == pytest.approx(separation.fuzziness, rel=1e-8)
        assert found[layer].rank == separation.rank


class AnyModule(nn.Module):
    """A network in another class, so that ModuleProgram trains it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.inner(inputs)
        return outputs


def small(name: str) -> tuple[Architecture, tuple[int, int, int]]:
    """Return an architecture that trains ten steps in seconds on a CPU, with the shape of its images."""
    feed_forward = name.startswith("fnn") or name == "any module"
    size = [] if feed_forward else ["dataset=fashion_mnist_32x32"]
    overrides = [
        *size,
        f"architecture={'fnn' if name == 'any module' else name}",
        "optimizer=adam",
        "optimizer.learning_rate=1e-3",
    ]
    if name in ("vgg13", "alexnet"):
        overrides.append("architecture.width_multiplier=0.125")
    return compose_config(overrides).architecture, (1, 10, 10) if feed_forward else (1, 32, 32)


def population_on(device: torch.device, name: str, optimizers: list[Optimizer], *, compiled: bool) -> Population:
    architecture, shape = small(name)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, *shape, generator=generator, dtype=torch.float64)
    split = Split(inputs.to(device), (torch.arange(100) % 10).to(device))
    members = []
    for seed, optimizer in enumerate(optimizers):
        network: nn.Module = build_network(architecture, shape, 10, seed).double()
        network = (AnyModule(network) if name == "any module" else network).to(device)
        members.append(Member(network, split, optimizer, seed))
    return Population(members, TEN_STEPS, compiled=compiled)


@pytest.mark.parametrize(("name", "compiled"), [("fnn", True), *((name, False) for name in ARCHITECTURES)])
def test_every_engine_trains_as_on_the_cpu(gpu: torch.device, name: str, compiled: bool) -> None:
    """Ten steps in float64, every tensor to 1e-8."""
    optimizers = [ADAM, ADAM, MOMENTUM]
    expected, found = (
        population_on(device, name, optimizers, compiled=compiled and device == gpu)
        for device in (torch.device("cpu"), gpu)
    )
    for _ in range(2):
        for here, there in zip(expected.run_epoch(), found.run_epoch(), strict=True):
            assert there.loss == pytest.approx(here.loss, rel=1e-8)
    for index in range(len(optimizers)):
        weights = found.weights(index)
        for key, value in expected.weights(index).items():
            torch.testing.assert_close(weights[key].cpu(), value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_saved_state_resumes_bit_for_bit(gpu: torch.device, name: str) -> None:
    whole = population_on(gpu, name, [ADAM, MOMENTUM], compiled=False)
    whole.run_epoch()
    saved = copy.deepcopy(whole.state())
    expected = whole.run_epoch()
    resumed = population_on(gpu, name, [ADAM, MOMENTUM], compiled=False)
    resumed.load_state(saved)
    assert resumed.run_epoch() == expected
    for key, value in whole.weights(0).items():
        assert torch.equal(value, resumed.weights(0)[key])


def test_a_run_records_the_gpu_and_repeats_its_bits(
    gpu: torch.device, configure: Callable[..., Config], tmp_path: Path
) -> None:
    records = []
    for folder in ("one", "other"):
        (outcome,) = execute([configure("compute.device=cuda", f"results={tmp_path / folder}")])
        assert outcome.state == "done"
        (run,) = all_runs(tmp_path / folder)
        records.append((run.path / "metrics.jsonl").read_bytes())
        machine = run.state()["machine"]
        assert machine["processor"] == torch.cuda.get_device_name(gpu)
        assert (machine["engine"], machine["tf32"], machine["deterministic"]) == ("batched", False, True)
    assert records[0] == records[1]


def test_tf32_is_used_only_where_it_is_asked_for(gpu: torch.device) -> None:
    compute: Compute = compose_config([]).compute
    one, other = torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for tf32 in (False, True):
        set_arithmetic(replace(compute, tf32=tf32), gpu)
        product = one.float().to(gpu) @ other.float().to(gpu)
        errors.append(float((product.cpu() - one @ other).norm() / (one @ other).norm()))
    assert errors[0] < 1e-6
    # Older GPUs have no TF32 and compute both alike.
    assert errors[1] > 1e-5 or torch.cuda.get_device_capability(gpu) < (8, 0)


def test_non_deterministic_algorithms_are_refused_by_default(gpu: torch.device) -> None:
    assert torch.are_deterministic_algorithms_enabled()
    set_arithmetic(replace(compose_config([]).compute, deterministic=False), gpu)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", ["fnn", "resnet_two_layer"])
def test_the_estimate_of_memory_holds(gpu: torch.device, configure: Callable[..., Config], name: str) -> None:
    """The peak of building and training is below the estimate over the share of memory that a population may use."""
    size = [] if name == "fnn" else ["dataset=fashion_mnist_32x32", "optimizer.learning_rate=1e-3"]
    config = configure("compute.device=cuda", f"architecture={name}", *size)
    job = prepare(config)
    split = job.split("train")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(gpu)
    before = torch.cuda.memory_allocated(gpu)
    member = Member(job.network(), split, config.optimizer, seed=0)
    Population([member], config.training).run_epoch()
    assert torch.cuda.max_memory_allocated(gpu) - before < job.memory / MEMORY_SHARE + 64e6


def test_populations_are_cut_to_the_memory(gpu: torch.device, configure: Callable[..., Config]) -> None:
    jobs = [prepare(configure("compute.device=cuda", f"seed={seed}")) for seed in range(6)]
    free = torch.cuda.mem_get_info(gpu)[0]
    assert members_that_fit(jobs[0]) == pytest.approx(MEMORY_SHARE * free / jobs[0].memory, rel=0.05)
    memory = 2.5 * jobs[0].memory / MEMORY_SHARE
    pieces = plan(jobs, max_members=6, processes=1, gpu_memory=memory)
    assert [len(piece) for piece in pieces] == [2, 2, 2]
