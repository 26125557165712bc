"""Every metric against its definition, written plainly in float64."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from equisep.measures.metrics import STREAMED, LayerPasses
from equisep.measures.principal_components import PASSES, PrincipalComponents, StreamedComponents
from equisep.measures.spectra import linear_probe, numerical_rank, rank_me, spectrum, two_nn
from tests.measures.test_separation import by_definition


def reference(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the metrics of STREAMED by their definitions. weights: (K, p) of a classifier; labels: 0 … K−1."""
    classes = len(np.unique(labels))
    means = np.array([features[labels == label].mean(axis=0) for label in range(classes)])
    centred = means - means.mean(axis=0)
    simplex = (np.eye(classes) - 1 / classes) / math.sqrt(classes - 1)

    def from_simplex(matrix: np.ndarray) -> float:
        return float(np.linalg.norm(matrix / np.linalg.norm(matrix) - simplex))

    shares = np.bincount(labels) / len(labels)
    # SS_b = A Aᵀ, so that SS_b⁺ = (A⁺)ᵀ A⁺, without a matrix of p×p.
    inverse = np.linalg.pinv(((means - shares @ means) * np.sqrt(shares)[:, None]).T, rcond=1e-9)
    deviations = features - means[labels]
    fuzziness = float(((deviations @ inverse.T) ** 2).sum() / len(labels))
    within, between = (deviations**2).sum() / len(labels), shares @ ((means - shares @ means) ** 2).sum(axis=1)
    variances = [((features[labels == label] - means[label]) ** 2).sum(axis=1).mean() for label in range(classes)]
    pairs = list(itertools.combinations(range(classes), 2))
    cosines = [means[i] @ means[j] / np.linalg.norm(means[i]) / np.linalg.norm(means[j]) for i, j in pairs]
    nearest = np.array([((means - row) ** 2).sum(axis=1).argmin() for row in features])
    return {
        "fuzziness": fuzziness,
        "rank": float(np.linalg.matrix_rank(means - shares @ means, rtol=1e-9)),
        "nc1": fuzziness / classes,
        "nc2": from_simplex(centred @ centred.T),
        "nc3": from_simplex(weights @ centred.T),
        "nc4": float((nearest == predicted).mean()),
        "cdnv": float(
            np.mean([(variances[i] + variances[j]) / 2 / ((means[i] - means[j]) ** 2).sum() for i, j in pairs])
        ),
        "compression": float(within / ((centred**2).sum() / classes)),
        "discrimination": 1 - max(cosines),
        "trace_ratio": float(within / between),
        "ncm_accuracy": float((nearest == labels).mean()),
        "ncm_mismatch": float((nearest != predicted).mean()),
    }


def measured(
    features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, predicted: torch.Tensor, batch: int
) -> dict[str, float]:
    passes = LayerPasses(int(labels.max()) + 1, "class_size")
    for rows, of_rows in zip(features.split(batch), labels.split(batch), strict=True):
        passes.add_first(rows, of_rows)
    passes.start_second()
    # The order of the rows does not matter.
    order = torch.randperm(len(features))
    for chosen in order.split(batch):
        passes.add_second(features[chosen], labels[chosen], predicted[chosen])
    assert passes.changed_between_passes() < 1e-9
    return passes.metrics(weights)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(2, 7),
    width=st.integers(8, 40),
    spread=st.floats(-4, 1),
    offset=st.sampled_from([0.0, 3.0, 1e3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_metrics_equal_their_definitions(
    seed: int, classes: int, width: int, spread: float, offset: float, dtype: torch.dtype
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), rng.integers(2, 15, classes)))
    values = offset + rng.normal(size=(classes, width))[labels] + 10**spread * rng.normal(size=(len(labels), width))
    features = torch.from_numpy(values).to(dtype)
    weights, predicted = rng.normal(size=(classes, width)), rng.integers(0, classes, len(labels))
    found = measured(features, torch.from_numpy(labels), torch.from_numpy(weights), torch.from_numpy(predicted), 7)
    expected = reference(features.double().numpy(), labels, weights, predicted)
    assert expected["fuzziness"] == pytest.approx(by_definition(features.double().numpy(), labels), rel=1e-6)
    assert list(found) == list(STREAMED)
    for name, value in expected.items():
        # The covariance and its pseudo-inverse lose digits to a common offset, the product does not.
        exact = name not in ("fuzziness", "nc1", "rank") or offset < 10
        assert found[name] == pytest.approx(value, rel=1e-9 if exact else 1e-6, abs=1e-11), name


def test_a_collapsed_network_has_the_values_of_collapse() -> None:
    classes, labels = 5, torch.arange(50) % 5
    simplex = torch.eye(5, dtype=torch.float64) - 1 / 5
    features = torch.cat([simplex, torch.zeros(5, 3, dtype=torch.float64)], dim=1)[labels]
    found = measured(features, labels, features[:5], labels, 10)
    assert found["rank"] == classes - 1
    for name in ("fuzziness", "nc1", "nc2", "nc3", "cdnv", "compression", "trace_ratio", "ncm_mismatch"):
        assert found[name] == pytest.approx(0, abs=1e-12), name
    assert found["discrimination"] == pytest.approx(1 + 1 / (classes - 1))
    assert found["nc4"] == found["ncm_accuracy"] == 1


def test_held_out_points_have_the_nearest_of_the_first_means() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features, others = (torch.eye(3, 6)[labels] + 0.4 * torch.randn(60, 6, generator=generator) for _ in range(2))
    passes = LayerPasses(3, "class_size")
    passes.add_first(features, labels)
    passes.start_second()
    passes.add_second(features, labels, None)
    passes.add_held_out(others, labels, labels)
    found = passes.metrics(None)
    means = torch.stack([features[labels == label].mean(dim=0) for label in range(3)])
    nearest = torch.cdist(others, means).argmin(dim=1)
    assert found["ncm_accuracy_held_out"] == pytest.approx((nearest == labels).double().mean().item())
    assert found["ncm_mismatch_held_out"] == pytest.approx((nearest != labels).double().mean().item())
    assert math.isnan(found["ncm_mismatch"])
    assert math.isnan(found["nc3"])


def test_data_that_change_between_passes_are_seen() -> None:
    labels = torch.arange(60) % 3
    passes = LayerPasses(3, "class_size")
    passes.add_first(torch.eye(3, 6)[labels] + 0.1 * torch.randn(60, 6), labels)
    passes.start_second()
    passes.add_second(torch.eye(3, 6)[labels] + 0.1 * torch.randn(60, 6), labels, None)
    assert passes.changed_between_passes() > 0.01


def test_streamed_components_are_the_leading_singular_vectors_or_say_their_error() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = 0.8 ** torch.arange(80.0)
    decaying = torch.randn(300, 80, generator=generator) * scales @ torch.randn(80, 500, generator=generator) + 5
    flat = torch.randn(300, 500, generator=generator)
    for features, largest in ((decaying, 1e-4), (flat, 1.0)):
        components = StreamedComponents(12)
        for _ in range(PASSES):
            for rows in features.split(70):
                components.add(rows)
            components.end_pass()
        exact = PrincipalComponents(features, 12)
        assert components.error < largest
        overlaps = torch.linalg.svdvals(components.axes.mT @ exact.axes)
        assert (overlaps.min() > 1 - 1e-6) == (largest < 1)
        variances = torch.linalg.svdvals((features - features.mean(dim=0)).double()) ** 2
        best = float(variances[:12].sum() / variances.sum())
        assert best - 0.02 < components.share <= best + 1e-12
    low = StreamedComponents(12)
    for _ in range(PASSES):
        low.add(torch.ones(20, 5) * torch.arange(20)[:, None])
        low.end_pass()
    assert low.axes.shape == (5, 1)
    assert low.share == pytest.approx(1)


def test_the_probe_and_the_dimension_are_those_of_their_libraries() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    plane = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    embedded = plane @ torch.randn(2, 9, generator=generator, dtype=torch.float64)
    assert two_nn(embedded) == pytest.approx(2, abs=0.3)
    separable = torch.eye(3, 9, dtype=torch.float64)[labels] + 0.1 * embedded
    inside, outside = linear_probe(separable[:200], labels[:200], (separable[200:], labels[200:]))
    assert min(inside, outside) > 0.95
    shuffled = labels[torch.randperm(300, generator=generator)]
    assert linear_probe(separable[:200], shuffled[:200], (separable[200:], shuffled[200:]))[1] < 0.5
    assert math.isnan(linear_probe(separable, labels, None)[1])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skdim.id", None)
    with pytest.raises(ModuleNotFoundError, match=r"metric 'two_nn' needs skdim.*pip install 'equisep\[metrics\]'"):
        two_nn(torch.randn(20, 3))


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_spectra_equal_those_of_a_singular_value_decomposition(shape: tuple[int, int]) -> None:
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 2
    for centred in (False, True):
        matrix = features - features.mean(dim=0) if centred else features
        expected = torch.linalg.svdvals(matrix)
        found = spectrum(features, centred=centred)
        torch.testing.assert_close(found[: len(expected) - 1], expected[:-1], rtol=1e-9, atol=1e-9)
    shares = torch.linalg.svdvals(features)
    shares = shares / shares.sum()
    assert rank_me(features) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-9)
    values = torch.linalg.svdvals(features - features.mean(dim=0)) ** 2
    assert numerical_rank(features) == int((values > 1e-3 * values[0]).sum())
