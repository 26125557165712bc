"""Measuring any network: what it finds, what it leaves as it was, what it refuses."""

from __future__ import annotations

import copy
import math
import warnings as python_warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import equisep
from equisep.data import Data
from equisep.measures import fit_law
from equisep.measures.principal_components import PrincipalComponents
from equisep.networks import FeedForwardNetwork
from tests.measures.test_metrics import reference

CLASSES, POINTS = 4, 48
NET = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
INPUTS, LABELS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4


def images(size: int, points: int = POINTS, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Return images of classes that differ in their mean."""
    generator = torch.Generator().manual_seed(size)
    labels = torch.arange(points) % CLASSES
    means = torch.randn(CLASSES, channels, size, size, generator=generator)
    return means[labels] + torch.randn(points, channels, size, size, generator=generator), labels


class Tokens(nn.Module):
    """Two encoder blocks over vectors of tokens, then a classifier of the first token."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=batch_first) for _ in range(2)
        )
        self.head = nn.Linear(8, CLASSES)
        self.batch_first = batch_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        values = self.embedding(input_ids)
        values = values if self.batch_first else values.transpose(0, 1)
        for block in self.blocks:
            values = block(values)
        first: Tensor = values[:, 0] if self.batch_first else values[0]
        logits: Tensor = self.head(first)
        return logits


class Outputs(nn.Module):
    """A network with a block that returns several tensors, one that runs twice, and a sparse layer."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(6, 5, batch_first=True)
        self.shared = nn.Linear(5, 5)
        self.pair = Pair()
        self.head = nn.Linear(5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.recurrent(inputs)
        twice = self.shared(torch.relu(self.shared(states[:, -1])))
        logits: Tensor = self.head(self.pair(twice)["kept"])
        return logits


class Pair(nn.Module):
    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"noise": torch.zeros(3), "kept": inputs, "complex": inputs * 1j, "sparse": inputs.to_sparse()}


torch.manual_seed(0)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "fnn": (lambda: nn.Sequential(nn.Flatten(), FeedForwardNetwork(48, CLASSES, [20] * 3)), 4),
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, CLASSES)), 4),
    "alexnet": (lambda: torchvision.models.alexnet(num_classes=CLASSES), 63),
    "vgg11": (lambda: torchvision.models.vgg11_bn(num_classes=CLASSES), 32),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=CLASSES), 32),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=CLASSES), 32),
    "densenet": (lambda: torchvision.models.densenet.DenseNet(4, (2, 2), 8, num_classes=CLASSES), 32),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES), 32),
    "vit": (lambda: torchvision.models.VisionTransformer(16, 4, 3, 2, 16, 32, num_classes=CLASSES), 16),
    "swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=CLASSES),
        32,
    ),
}


def features_of(network: nn.Module, name: str, inputs: Tensor) -> np.ndarray:
    """Return a module's output in one pass in evaluation mode, as float64."""
    found: list[Tensor] = []
    twin = copy.deepcopy(network).eval()
    handle = twin.get_submodule(name).register_forward_hook(lambda _, __, output: found.append(output.clone()))
    with torch.no_grad():
        # The same batches, since sums of a batch depend on its size in the last digits.
        for batch in inputs.split(16):
            twin(batch)
    handle.remove()
    return torch.cat(found).flatten(1).double().numpy()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("memory_limit", [None, 1e-2])
def test_metrics_of_real_networks_equal_independent_ones(name: str, memory_limit: float | None) -> None:
    build, size = NETWORKS[name]
    torch.manual_seed(1)
    network = build().eval()
    inputs, labels = images(size)
    limit = None if memory_limit is None else max(memory_limit, 8 * 8 * CLASSES * 4 * size**2 * 64 / 1e9)
    result = equisep.measure(network, (inputs, labels), batch_size=16, memory_limit=limit)
    assert result.layers[0].name == "input"
    assert len(result.layers) > (2 if name == "mlp" else 3) - (name == "mlp")
    for layer in result.layers:
        rows = inputs.flatten(1).double().numpy() if layer.name == "input" else features_of(network, layer.name, inputs)
        assert layer.features == rows.shape[1]
        unused = np.zeros(POINTS, dtype=int)
        expected = reference(rows, labels.numpy(), np.ones((CLASSES, rows.shape[1])), unused)
        for metric in ("fuzziness", "rank", "nc1", "nc2", "cdnv", "compression", "discrimination", "trace_ratio"):
            # Of a network that is not trained, nearly equal class means cost the pseudo-inverse digits.
            assert layer.metrics[metric] == pytest.approx(expected[metric], rel=1e-7), (layer.name, metric)
    assert result.law.pearson_r == fit_law(result.fuzziness).pearson_r


def test_the_classifier_gives_nc3_and_nc4_and_the_mismatch(fashion: Data) -> None:
    torch.manual_seed(0)
    network = FeedForwardNetwork(100, 10, [30, 12]).eval()
    inputs, labels = fashion.train.inputs, fashion.train.labels
    result = equisep.measure(network, (inputs, labels), held_out=(fashion.test.inputs, fashion.test.labels))
    last = network.hidden(inputs.flatten(1)).detach().double().numpy()
    predicted = network(inputs).argmax(dim=1).numpy()
    expected = reference(last, labels.numpy(), network.classifier.weight.detach().double().numpy(), predicted)
    for name in ("nc3", "nc4", "ncm_accuracy", "ncm_mismatch"):
        assert result.layers[-1].metrics[name] == pytest.approx(expected[name], rel=1e-5), name
    assert math.isnan(result.layers[0].metrics["nc3"])
    assert 0 < result.layers[-1].metrics["ncm_accuracy_held_out"] < 1
    assert result.effective_depth(1.0) == 0
    assert result.effective_depth(0.0) is None


def test_the_network_is_left_as_it_was_also_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(5, 4))
    network[1].eval()
    network(torch.randn(8, 6)).sum().backward()
    labels = torch.arange(POINTS) % CLASSES
    good, bad = torch.randn(POINTS, 6), torch.full((POINTS, 6), torch.nan)
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    random = torch.random.get_rng_state()
    for inputs, batch_norm in ((good, "running"), (good, "batch"), (bad, "running")):
        try:
            equisep.measure(network, (inputs, labels), batch_norm=batch_norm)  # type: ignore[arg-type]
        except ValueError:
            assert inputs is bad
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    now = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(gradients, now, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_data_come_in_many_forms() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, CLASSES)).eval()
    inputs, labels = images(4)
    expected = equisep.measure(network, (inputs, labels), batch_size=16).fuzziness
    pairs = list(zip(inputs.split(16), labels.split(16), strict=True))
    forms: dict[str, Any] = {
        "arrays": (inputs.numpy(), labels.numpy()),
        "pairs": pairs,
        "lists": [[x, y] for x, y in pairs],
        "loader": DataLoader(TensorDataset(inputs, labels), batch_size=16),
        "shuffled": DataLoader(TensorDataset(inputs, labels), batch_size=16, shuffle=True),
        "mappings": [{"input": x, "labels": y} for x, y in pairs],
        "numpy labels": [(x, y.numpy()) for x, y in pairs],
    }
    for name, data in forms.items():
        for limit in (None, 1e-4):
            found = equisep.measure(network, data, batch_size=16, memory_limit=limit)
            assert found.fuzziness == pytest.approx(expected, rel=1e-6), name
            assert not found.warnings, name
    forms = {"small integers": (inputs, labels.to(torch.uint8)), "a list": (inputs, labels.tolist())}
    for name, data in forms.items():
        assert equisep.measure(network, data, batch_size=16).fuzziness == pytest.approx(expected, rel=1e-9), name
    empty = [pairs[0], (inputs[:0], labels[:0]), *pairs[1:]]
    assert equisep.measure(network, empty).fuzziness == pytest.approx(expected, rel=1e-9)
    own = [{"picture": x, "what": y} for x, y in pairs]
    found = equisep.measure(network, own, forward=lambda model, batch: model(batch["picture"]), label_key="what")
    assert found.fuzziness == pytest.approx(expected, rel=1e-6)


def test_layers_are_chosen_by_name_pattern_or_function() -> None:
    network = torchvision.models.resnet18(num_classes=CLASSES).eval()
    data = images(32, 8)

    def names(layers: Any) -> list[str]:
        return [layer.name for layer in equisep.measure(network, data, layers).layers[1:]]

    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert names("auto") == names("layer?.?") == names(["layer[12].?", "layer[34].?"]) == blocks
    assert names("layer1") == ["layer1"]
    assert names(["layer4.1", "layer1.0"]) == ["layer1.0", "layer4.1"]
    assert names(lambda name, module: name.endswith("conv2") and "layer1" in name) == [
        "layer1.0.conv2",
        "layer1.1.conv2",
    ]
    assert names(["fc:input"]) == ["fc:input"]


def test_modules_that_run_several_times_and_parts_of_outputs_have_names() -> None:
    torch.manual_seed(0)
    network = Outputs().eval()
    data = torch.randn(POINTS, 7, 6), torch.arange(POINTS) % CLASSES
    found = equisep.measure(network, data)
    assert [layer.name for layer in found.layers] == ["input", "recurrent", "shared#1", "shared#2"]
    with pytest.raises(ValueError, match="layer 'shared' runs more than once.*shared#1, shared#2"):
        equisep.measure(network, data, "shared")
    for element in (1, "kept", lambda output: output["kept"]):
        part = equisep.measure(network, data, "pair", outputs={"pair": element})
        assert part.layers[1].metrics["fuzziness"] == pytest.approx(found.layers[3].metrics["fuzziness"], rel=1e-9)
    with pytest.raises(ValueError, match=r"layer 'pair' is complex \(torch.complex64\)"):
        equisep.measure(network, data, "pair", outputs={"pair": "complex"})
    with pytest.raises(ValueError, match="layer 'pair' is sparse"):
        equisep.measure(network, data, "pair", outputs={"pair": "sparse"})
    with pytest.raises(ValueError, match=r"layer 'pair' has features of shape \(3,\)|layer 'pair' returns shape"):
        equisep.measure(network, data, "pair")


def test_tokens_are_pooled_and_masked() -> None:
    torch.manual_seed(0)
    network = Tokens().eval()
    ids, labels = torch.randint(20, (POINTS, 5)), torch.arange(POINTS) % CLASSES
    mask = (torch.arange(5) < torch.arange(POINTS)[:, None] % 4 + 2).long()
    batches = [
        {"input_ids": part, "attention_mask": of_part, "labels": of_labels}
        for part, of_part, of_labels in zip(ids.split(16), mask.split(16), labels.split(16), strict=True)
    ]
    values = network.blocks[0](network.embedding(ids)).detach().double()
    counted = mask.bool()
    rows = torch.arange(POINTS)
    expected = {
        "flatten": values.flatten(1),
        "first": values[:, 0],
        "last": values[rows, mask.sum(1) - 1],
        "mean": (values * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True),
        "each": values[counted],
    }
    for pooling, features in expected.items():
        result = equisep.measure(network, batches, pooling=pooling)
        # Token ids are no layer.
        assert [layer.name for layer in result.layers] == ["blocks.0", "blocks.1"]
        of_rows = labels.repeat_interleave(mask.sum(1)) if pooling == "each" else labels
        assert result.layers[0].points == len(features)
        exact = equisep.separation_fuzziness(features, of_rows)
        assert result.layers[0].metrics["fuzziness"] == pytest.approx(exact, rel=1e-4), pooling


def test_options_of_layers_are_given_by_name_or_pattern() -> None:
    torch.manual_seed(0)
    network = Tokens().eval()
    data = torch.randint(20, (POINTS, 5)), torch.arange(POINTS) % CLASSES

    def fuzziness(pooling: Any) -> list[float]:
        return list(equisep.measure(network, data, pooling=pooling).fuzziness)

    mean, first, last = fuzziness("mean"), fuzziness("first"), fuzziness("last")
    assert fuzziness({"blocks.*": "mean"}) == mean
    assert fuzziness({"blocks.[01]": "mean", "blocks.1": "first", "*": "last"}) == [mean[0], first[1]]
    assert fuzziness({"blocks.0": "mean", "*": "last"}) == [mean[0], last[1]]


class Branches(nn.Module):
    """Two branches of one input, added, and a layer after them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)), nn.Linear(6, 6)
        self.after, self.classifier = nn.Linear(6, 5), nn.Linear(5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.after(self.left(inputs) + self.right(inputs)).relu())  # type: ignore[no-any-return]


def test_branches_of_one_tensor_are_no_successive_layers() -> None:
    torch.manual_seed(0)
    network, data = Branches().eval(), (torch.randn(POINTS, 6), torch.arange(POINTS) % CLASSES)
    result = equisep.measure(network, data)
    assert [layer.name for layer in result.layers] == ["input", "left.1", "right", "after"]
    assert [text for text in result.warnings if text.startswith("layers 'left.1' and 'right' take the same tensor")]
    assert not equisep.measure(network, data, ["left", "after"]).warnings
    # Blocks that add their input to their output follow each other.
    assert not equisep.measure(torchvision.models.resnet18(num_classes=CLASSES).eval(), images(32, 8)).warnings[1:]


@pytest.mark.parametrize("tokens", [5, 16])
def test_a_batch_axis_that_is_not_first_is_asked_for_and_never_guessed(tokens: int) -> None:
    """Also where the number of tokens is that of the batch."""
    torch.manual_seed(0)
    network = Tokens(batch_first=False).eval()
    ids, labels = torch.randint(20, (POINTS, tokens)), torch.arange(POINTS) % CLASSES
    with pytest.raises(ValueError, match=r"layer 'blocks.0' has .*set shapes=\{'blocks.0': 't n d'\}"):
        equisep.measure(network, (ids, labels), batch_size=16)
    result = equisep.measure(network, (ids, labels), batch_size=16, shapes="t n d", pooling="mean")
    values = network.blocks[0](network.embedding(ids).transpose(0, 1)).detach().mean(dim=0)
    assert result.fuzziness[0] == pytest.approx(equisep.separation_fuzziness(values, labels), rel=1e-4)


def test_data_and_random_state_are_left_and_networks_may_work_in_place() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.first(inputs.sub_(0.5).div_(0.25))
            return torch.log_softmax(self.last(torch.relu(hidden)), dim=1)

    torch.manual_seed(0)
    network, inputs, labels = InPlace().eval(), torch.rand(POINTS, 6), torch.arange(POINTS) % CLASSES
    kept = inputs.clone()
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=16, shuffle=True)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    expected = equisep.separation_fuzziness(network.first((kept - 0.5) / 0.25), labels)
    for data in ((inputs, labels), loader):
        result = equisep.measure(network, data, batch_size=16)
        # The logarithms of the classes' shares are no layer, and neither is the classifier.
        assert [layer.name for layer in result.layers] == ["input", "first"]
        assert result.fuzziness[0] == pytest.approx(equisep.separation_fuzziness(kept, labels), rel=1e-6)
        assert result.fuzziness[1] == pytest.approx(expected, rel=1e-5)
    assert torch.equal(inputs, kept)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_several_inputs_are_given_in_order() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(6, 5)
            self.last = nn.Linear(5, 4)

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            logits: Tensor = self.last(torch.relu(self.hidden(first - second)))
            return logits

    torch.manual_seed(0)
    network, labels = Two().eval(), torch.arange(POINTS) % CLASSES
    first, second = torch.randn(2, POINTS, 6)
    result = equisep.measure(network, [(first, second, labels)], "hidden")
    expected = equisep.separation_fuzziness(network.hidden(first - second), labels)
    assert result.fuzziness[1] == pytest.approx(expected, rel=1e-6)


def test_places_of_an_image_can_be_points_of_their_own() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 6, 1)).eval()
    inputs, labels = images(4)
    result = equisep.measure(network, (inputs, labels), "1", pooling="each")
    of_places = labels.repeat_interleave(16)
    for layer, values in zip(result.layers, (inputs, network[:2](inputs)), strict=True):
        rows = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
        assert layer.points == POINTS * 16
        assert layer.metrics["fuzziness"] == pytest.approx(equisep.separation_fuzziness(rows, of_places), rel=1e-5)


def test_metrics_that_are_asked_for_and_not_defined_are_named() -> None:
    result = equisep.measure(NET, (INPUTS, LABELS + 1), metrics=["fuzziness", "nc3", "ncm_mismatch"])
    assert "nc3, ncm_mismatch: not defined, for want of an output for each of the 4 classes" in result.warnings[0]
    assert not equisep.measure(NET, (INPUTS, LABELS)).warnings


def test_what_misleads_is_said_with_its_number() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(60, 80), nn.BatchNorm1d(80), nn.ReLU(), nn.Linear(80, 3))
    labels = torch.tensor([*[0] * 20, *[1] * 21, 2])
    result = equisep.measure(network, (torch.randn(42, 60), labels), batch_norm="batch", batch_size=20)
    text = "\n".join(result.warnings)
    assert "was in training mode" in text
    assert "2 of 3 batches lack classes (one has 1 of 3)" in text
    assert "1 of 3 classes have one point" in text
    assert "2 of 2 layers have more features than points; at layer '2' (80 for 42)" in text
    assert text in str(result).replace("warning: ", "")
    with pytest.raises(ValueError, match="batch 1 has one input, which has no statistics"):
        equisep.measure(network, (torch.randn(42, 60), labels), batch_norm="batch", batch_size=41)
    noisy = [(torch.randn(21, 60), torch.arange(21) % 2), (torch.randn(21, 60), torch.arange(21) % 2)]

    rng = np.random.default_rng(0)

    class Augmented:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            # Not by torch's random state, which is the same in each pass.
            for inputs, of_inputs in noisy:
                yield inputs + torch.from_numpy(rng.normal(size=inputs.shape)).float(), of_inputs

    changed = equisep.measure(network.eval(), Augmented(), memory_limit=2e-5)
    assert any("the data differ from pass to pass" in warning for warning in changed.warnings)


def test_noise_has_the_d_that_the_warning_says() -> None:
    labels = torch.arange(400) % 5
    features = torch.randn(400, 4000, generator=torch.Generator().manual_seed(0))
    assert equisep.separation_fuzziness(features, labels) == pytest.approx(4 * 400 / 4000, rel=0.05)


def test_a_result_is_printed_saved_tabulated_and_drawn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    result = equisep.measure(network.eval(), images(4))
    result.save(tmp_path / "measured.json")
    again = equisep.NetworkMeasurement.load(tmp_path / "measured.json")
    assert str(again) == str(result)
    assert again.fuzziness == result.fuzziness
    table = result.to_frame()
    assert list(table.columns[:5]) == ["layer", "shape", "features", "points", "fuzziness"]
    assert list(table["layer"]) == ["input", "2", "4"]
    lines = str(result).splitlines()
    assert lines[0].split()[:4] == ["layer", "values", "D", "ratio"]
    assert lines[1].split()[:3] == ["0", "input", "3×4×4"]
    assert f"r = {result.law.pearson_r:.4f}" in str(result)
    result.plot().savefig(tmp_path / "law.png")
    named = equisep.NetworkMeasurement(
        (equisep.LayerMetrics("NaN", (2,), 2, 9, {"fuzziness": math.nan, "cdnv": math.inf}),),
        3,
        result.settings,
        ("NaN and Infinity are words",),
    )
    named.save(tmp_path / "named.json")
    assert repr(equisep.NetworkMeasurement.load(tmp_path / "named.json")) == repr(named)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="other.json is no saved measurement"):
        equisep.NetworkMeasurement.load(tmp_path / "other.json")


def test_groups_of_layers_fit_the_memory_and_give_the_same() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=CLASSES).eval()
    data = images(32)
    whole = equisep.measure(network, data)
    grouped = equisep.measure(network, data, memory_limit=2.2e-3)
    assert whole.settings["passes"] == 1
    assert grouped.settings["passes"] > 4
    for one, other in zip(whole.layers, grouped.layers, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-9, nan_ok=True)
    with pytest.raises(ValueError, match=r"layer 'layer1.0' needs 0.001 GB for 4,096 features and 4 classes"):
        equisep.measure(network, data, memory_limit=1e-3)


@pytest.mark.parametrize("memory_limit", [None, 8e-3])
def test_features_are_projected_on_streamed_components(memory_limit: float | None) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=CLASSES).eval()
    data = images(32, 200)
    result = equisep.measure(
        network, data, ["layer3.0", "layer4.1"], components=60, memory_limit=memory_limit, metrics=["fuzziness", "nc1"]
    )
    assert result.settings["passes"] == (1 if memory_limit is None else 10)
    for name, layer in zip(["layer3.0", "layer4.1"], result.layers[1:], strict=True):
        rows = torch.from_numpy(features_of(network, name, data[0]))
        exact = PrincipalComponents(rows, 60)
        assert layer.metrics["fuzziness"] == pytest.approx(
            equisep.separation_fuzziness(exact.project(rows), data[1]),
            rel=max(10 * layer.metrics["components_error"], 1e-5),
        )
        assert layer.metrics["components_error"] < 0.02
        assert 0.5 < layer.metrics["components_share"] <= 1
    with pytest.raises(ValueError, match="components=0: must be an integer, at least 1"):
        equisep.measure(network, data, components=0)


def test_metrics_of_all_features_keep_them(fashion: Data) -> None:
    torch.manual_seed(0)
    network = FeedForwardNetwork(100, 10, [30, 12]).eval()
    data, others = (fashion.train.inputs, fashion.train.labels), (fashion.test.inputs[:500], fashion.test.labels[:500])
    names = ["rank_me", "numerical_rank", "linear_probe", "two_nn"]
    whole = equisep.measure(network, data, metrics=names, held_out=others)
    grouped = equisep.measure(network, data, metrics=names, held_out=others, memory_limit=1.4e-3)
    assert (whole.settings["passes"], grouped.settings["passes"]) == (1, 2)
    for layer, again in zip(whole.layers, grouped.layers, strict=True):
        assert set(layer.metrics) == {*names, "linear_probe_held_out"}
        assert layer.metrics == pytest.approx(dict(again.metrics), rel=1e-6)
        assert layer.metrics["rank_me"] <= layer.features
        assert 0.5 < layer.metrics["linear_probe_held_out"] <= layer.metrics["linear_probe"] <= 1
        assert 1 < layer.metrics["two_nn"] < 100
    assert "no law" not in str(whole)
    with pytest.raises(ValueError, match="D was not measured: name fuzziness"):
        _ = whole.law


def test_compiled_and_replicated_networks_are_measured_within() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, CLASSES)).eval()
    data = images(4)
    expected = equisep.measure(network, data).fuzziness
    for wrapped in (torch.compile(network), nn.DataParallel(network)):
        assert equisep.measure(wrapped, data).fuzziness == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: equisep.measure(NET, (INPUTS, LABELS), "layer1"),
            "layer 'layer1': no such module; choose from 0, 1, 2",
        ),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), ["1", "1"]), "layer '1': listed more than once"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), []), "layers: none are named"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), ["input"]), "layer 'input': reserved"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), lambda name, _: False), "the function chooses none"),
        (lambda: equisep.measure(nn.Identity(), (INPUTS, LABELS)), "no blocks, and no modules with weights but"),
        (lambda: equisep.measure(NET, INPUTS), "data: Tensor; give \\(inputs, labels\\)"),
        (lambda: equisep.measure(NET, 3), "data: int cannot be gone through"),
        (lambda: equisep.measure(NET, iter([(INPUTS, LABELS)])), "can be gone through only once"),
        (
            lambda: equisep.measure(NET, ((INPUTS, LABELS) for _ in range(2))),
            "a generator can be gone through only once",
        ),
        (lambda: equisep.measure(NET, []), "data: no batches"),
        (lambda: equisep.measure(NET, [INPUTS]), "batch 0 is a Tensor"),
        (lambda: equisep.measure(NET, [{"x": INPUTS}]), "batch 0 has no labels under labels or label"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS[:-1])), "labels must have shape \\(n,\\), one per input"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS / 1)), "labels must be integers, not torch.float32"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS * 0)), "at least two classes, not one: \\[0\\]"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), metrics="nc5"), "metrics: 'nc5'; choose from fuzziness"),
        (
            lambda: equisep.measure(NET, (INPUTS, LABELS), batch_norm="expected"),
            "batch_norm='expected': choose running",
        ),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), batch_size=0), "batch_size=0"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), batch_size="8"), "batch_size='8': must be an integer"),  # type: ignore[arg-type]
        (lambda: equisep.measure(NET, (INPUTS, LABELS), 3), "layers=3: use 'auto', names"),  # type: ignore[arg-type]
        (lambda: equisep.measure(NET, (INPUTS, LABELS), metrics=None), "metrics: 'none'; choose from"),  # type: ignore[arg-type]
        (lambda: equisep.measure(NET, (INPUTS, LABELS), shapes={"9*": "n d"}), "shapes: no measured layer '9\\*'"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), memory_limit=0), "memory_limit=0: GB"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), pooling="max"), "pooling='max': choose one of flatten"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), shapes={"9": "n d"}), "shapes: no measured layer '9'"),
        (lambda: equisep.measure(NET, (INPUTS, LABELS), shapes="n q"), "shapes: 'n q' for layer 'input'; use axes of"),
        (lambda: equisep.measure("net", (INPUTS, LABELS)), "model: str is no torch module"),
        (
            lambda: equisep.measure(NET, [(INPUTS, LABELS), (INPUTS * torch.nan, LABELS)]),
            "layer 'input', batch 1 \\(from 0\\): 20 of 20 rows are NaN or infinite",
        ),
        (
            lambda: equisep.measure(NET, (INPUTS, LABELS), held_out=(INPUTS * torch.nan, LABELS)),
            "layer 'input': features of held-out points are NaN",
        ),
        (
            lambda: equisep.measure(NET, (INPUTS, [str(label) for label in LABELS.tolist()])),
            "labels must be integers, not <U1: number the classes",
        ),
        (lambda: equisep.measure(NET, TensorDataset(INPUTS, LABELS)), "give a data set in a DataLoader"),
        (
            lambda: equisep.measure(NET, (INPUTS, LABELS), outputs=0),
            "layer '1' returns one tensor: outputs=0 is no part",
        ),
        (
            lambda: equisep.measure(NET, (INPUTS, LABELS), held_out=(INPUTS, LABELS + 3)),
            "label 4 is not among those of the data",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(call: Callable[[], Any], message: str) -> None:
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message) as raised:
            call()
    assert "\n" not in str(raised.value)


def test_widths_that_differ_between_batches_are_refused() -> None:
    network = nn.Sequential(nn.Conv1d(2, 3, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 4)).eval()
    data = [(torch.randn(8, 2, size), torch.arange(8) % 4) for size in (5, 4)]
    for limit in (None, 4.5e-6):
        with pytest.raises(ValueError, match="layer '(input|0)': rows of (8|12) features after rows of (10|15)"):
            equisep.measure(network, data, memory_limit=limit)


def test_one_class_per_point_is_measured() -> None:
    """K = n: there is no scatter within classes, and no law."""
    result = equisep.measure(NET, (INPUTS[:4], torch.arange(4)))
    assert result.fuzziness == (0.0, 0.0)
    assert "4 of 4 classes have one point" in result.warnings[0]
    assert "no law" in str(result)
    with pytest.raises(ValueError, match="D of layer 0 is 0"):
        _ = result.law
