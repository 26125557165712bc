"""D against its definition: covariance and pinv in float64, or mpmath with 50 digits."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from hypothesis import assume, given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import equisep
from equisep.measures import as_class_labels, fuzziness_of_draws, scatter as module, separation_fuzziness
from equisep.measures.principal_components import PrincipalComponents
from equisep.measures.scatter import ClassSums
from equisep.measures.separation import separation_of

seeds = st.integers(0, 2**32 - 1)


def scatters(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    within = np.zeros((features.shape[1],) * 2)
    between = np.zeros_like(within)
    for label in np.unique(labels):
        rows = features[labels == label]
        deviations = rows - rows.mean(axis=0)
        offset = rows.mean(axis=0) - features.mean(axis=0)
        within += deviations.T @ deviations / len(features)
        between += len(rows) / len(features) * np.outer(offset, offset)
    return within, between


def by_definition(features: np.ndarray, labels: np.ndarray) -> float:
    within, between = scatters(features, labels)
    return float(np.trace(within @ scipy.linalg.pinv(between)))


def condition(features: np.ndarray, labels: np.ndarray) -> float:
    """Condition of the non-zero spectrum of SS_b."""
    values = np.linalg.eigvalsh(scatters(features, labels)[1])
    kept = values[values > len(values) * np.finfo(float).eps * values[-1]]
    return float(kept[-1] / kept[0])


@st.composite
def labelled_features(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Random features: imbalanced classes, dead and repeated columns, means of low rank, an offset."""
    rng = np.random.default_rng(draw(seeds))
    sizes = draw(st.lists(st.integers(1, 12), min_size=2, max_size=6))
    width = draw(st.integers(1, 20))
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rank = draw(st.integers(1, 5))
    means = rng.normal(size=(len(sizes), rank)) @ rng.normal(size=(rank, width))
    features = means[labels] + 10 ** draw(st.floats(-2, 1)) * rng.normal(size=(len(labels), width))
    features[:, rng.random(width) < draw(st.sampled_from([0.0, 0.3]))] = draw(st.sampled_from([0.0, 1.0]))
    if draw(st.booleans()):
        features = np.hstack([features, features[:, :3]])
    return features, labels


@given(labelled_features())
def test_d_equals_its_definition(case: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = case
    between = scatters(features, labels)[1]
    assume(np.linalg.norm(between) > 1e-12)
    assume(condition(features, labels) <= 1e5)
    assert separation_fuzziness(features, labels) == pytest.approx(by_definition(features, labels), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    exponent=st.floats(2.5, 5.5),
    spread=st.floats(-8, 3),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    isotropic=st.booleans(),
)
def test_d_is_accurate_for_an_ill_conditioned_spectrum(
    seed: int, exponent: float, spread: float, offset: float, isotropic: bool
) -> None:
    """Condition of SS_b up to 1e11, spread within classes from 1e-8 to a thousand times the largest distance."""
    spread = spread if isotropic else max(spread, -3.0)
    features, labels = ill_conditioned(seed, exponent, spread, offset, isotropic=isotropic)
    assert separation_fuzziness(features, labels) == pytest.approx(exact_fuzziness(features, labels), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    exponent=st.floats(0, 4),
    relative_spread=st.floats(-3, 3),
    offset=st.sampled_from([0.0, 1e4]),
    isotropic=st.booleans(),
)
def test_d_of_float32_features_is_as_accurate(
    seed: int, exponent: float, relative_spread: float, offset: float, isotropic: bool
) -> None:
    """Condition up to 1e8, spread within classes from a thousandth of the distances, or what float32 resolves there."""
    spread = max(relative_spread, -1.0) if offset else relative_spread
    features, labels = ill_conditioned(seed, exponent, spread, offset, isotropic=isotropic)
    single = features.astype(np.float32)
    assume(condition(single.astype(float), labels) <= 2e8)
    assert separation_fuzziness(single, labels) == pytest.approx(
        exact_fuzziness(single.astype(float), labels), rel=1e-9
    )


def ill_conditioned(
    seed: int, exponent: float, spread: float, offset: float, *, isotropic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Four classes whose means have singular values 1, 0.3 and 10**-exponent, and a spread within of 10**spread.

    isotropic: whether points spread alike in all directions, or as the means do, as in a trained layer.
    """
    rng = np.random.default_rng(seed)
    means = np.diag([1.0, 0.3, 10.0**-exponent]) @ np.linalg.qr(rng.normal(size=(6, 3)))[0].T
    labels = np.repeat(np.arange(4), 6)
    noise = rng.normal(size=(24, 6)) if isotropic else rng.normal(size=(24, 3)) @ means
    for label in range(4):
        noise[labels == label] -= noise[labels == label].mean(axis=0)
    return np.vstack([means, np.zeros(6)])[labels] + 10.0**spread * noise + offset, labels


def exact_fuzziness(features: np.ndarray, labels: np.ndarray) -> float:
    with mpmath.workdps(50):
        return float(mpmath_fuzziness(features, labels))


@pytest.mark.parametrize("scale", [1e-250, 1e-170, 1e-20, 1e160, 1e290])
def test_d_does_not_depend_on_extreme_scales(scale: float) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(50, 4)), np.arange(50) % 5
    assert separation_fuzziness(features * scale, labels) == pytest.approx(separation_fuzziness(features, labels))


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.tolist(),
        lambda x: x[::-1][::-1],
        lambda x: x.astype(">f8"),
        lambda x: torch.as_tensor(x).requires_grad_(),
        pd.DataFrame,
    ],
)
def test_any_kind_of_array_is_accepted(convert: Callable[[np.ndarray], object]) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(50, 4)), np.arange(50) % 5
    assert separation_fuzziness(convert(features), labels) == separation_fuzziness(features, pd.Series(labels))


def mpmath_fuzziness(features: np.ndarray, labels: np.ndarray) -> mpmath.mpf:
    exact = mpmath.matrix(features.tolist())
    points, width = features.shape
    rows = [exact[i, :] for i in range(points)]
    centre = sum(rows[1:], rows[0]) / points
    within, between = mpmath.zeros(width), mpmath.zeros(width)
    for label in np.unique(labels):
        members = [rows[i] for i in np.flatnonzero(labels == label)]
        mean = sum(members[1:], members[0]) / len(members)
        between += (mean - centre).T * (mean - centre) * len(members) / points
        for row in members:
            within += (row - mean).T * (row - mean) / points
    values, vectors = mpmath.eigsy(between)
    floor = width * mpmath.mpf(2) ** -52 * max(values)
    total = mpmath.mpf(0)
    for i in range(width):
        if values[i] > floor:
            direction = vectors[:, i]
            total += (direction.T * within * direction)[0] / values[i]
    return total


@given(seed=seeds)
def test_d_is_invariant_to_shifts_rotations_and_scaling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(30, 5)), np.arange(30) % 3
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    moved = 7.0 * features @ rotation + 100.0
    assert separation_fuzziness(moved, labels) == pytest.approx(separation_fuzziness(features, labels), rel=1e-9)


@given(seed=seeds, chunk=st.integers(1, 40))
def test_d_does_not_depend_on_the_batches_of_rows(seed: int, chunk: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    features, labels = torch.randn(40, 7, generator=rng), torch.arange(40) % 4
    sums = ClassSums(as_class_labels(labels, 40))
    for batch in features.split(chunk):
        sums.add(batch)
    within = sums.scatter()
    for batch in features.split(chunk):
        within.add(batch)
    assert within.fuzziness().item() == pytest.approx(separation_fuzziness(features, labels), rel=1e-12)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = torch.randn(50, 9), torch.arange(50) % 5
    whole = separation_fuzziness(features, labels)
    monkeypatch.setattr(module, "CACHED_VALUES", 20)
    monkeypatch.setattr(module, "CACHED_COLUMNS", 4)
    assert separation_fuzziness(features, labels) == pytest.approx(whole, rel=1e-12)


def test_the_input_layer_of_fashion_mnist_has_the_fuzziness_of_the_released_code(fashion: object) -> None:
    result = separation_of(fashion.train.inputs, fashion.train.labels)  # type: ignore[attr-defined]
    assert result.fuzziness == pytest.approx(36.8143, rel=1e-5)
    assert (result.rank, result.classes) == (9, 10)
    assert result.nc1 == result.fuzziness / 10


def test_the_rank_is_that_of_the_class_means() -> None:
    line = np.array([0.0, 0.1, 1.0, 1.1, 2.0, 2.1])[:, None]
    assert separation_of(np.hstack([line, line, 0 * line]), [0, 0, 1, 1, 2, 2]).rank == 1


def test_there_may_be_more_classes_than_features() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 2)), np.arange(60) % 6
    result = separation_of(features, labels)
    assert result.rank == 2
    assert result.fuzziness == pytest.approx(by_definition(features, labels), rel=1e-9)


def test_a_class_of_one_point_adds_nothing_to_ss_w() -> None:
    assert separation_fuzziness([[0.0], [5.0]], [0, 1]) == 0.0
    features = np.array([[0.0, 1.0], [1.0, 0.0], [9.0, 9.0]])
    assert separation_fuzziness(features, [3, 3, 7]) == pytest.approx(by_definition(features, np.array([3, 3, 7])))


def test_constant_features_have_d_and_rank_zero() -> None:
    result = separation_of(torch.zeros(6, 3), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert (result.fuzziness, result.rank) == (0.0, 0)


def test_equal_weighting_differs_only_for_imbalanced_classes() -> None:
    rng = np.random.default_rng(1)
    features, balanced, skewed = rng.normal(size=(40, 3)), np.arange(40) % 4, np.minimum(np.arange(40) % 8, 3)
    for labels, same in ((balanced, True), (skewed, False)):
        pair = [separation_of(features, labels, weighting=kind).fuzziness for kind in ("class_size", "equal")]
        assert (pair[0] == pytest.approx(pair[1], rel=1e-9)) is same


def test_an_unknown_weighting_raises_an_error() -> None:
    with pytest.raises(ValueError, match="weighting='clas_size': choose one of class_size, equal"):
        separation_of([[0.0], [1.0]], [0, 1], weighting="clas_size")  # type: ignore[arg-type]


def test_images_are_flattened_and_labels_may_be_any_integers() -> None:
    images = torch.randn(20, 3, 4, 4)
    labels = torch.arange(20) % 2
    assert separation_fuzziness(images, labels * 50 - 3) == separation_fuzziness(images.flatten(1), labels)


@pytest.mark.parametrize(
    ("features", "labels", "pattern"),
    [
        ([[1.0, float("nan")], [2.0, 3.0]], [0, 1], "NaN or infinite"),
        ([[1.0, float("inf")], [2.0, 3.0]], [0, 1], "NaN or infinite"),
        ([[1.0], [2.0]], [4, 4], "at least two classes"),
        ([[1.0], [2.0]], [0, 1, 1], "labels must have shape"),
        ([[1.0], [2.0]], [0.0, 1.0], "labels must be integers"),
        ([1.0, 2.0], [0, 1], "shape"),
        ([[], []], [0, 1], "no values"),
        ([[1j], [2j]], [0, 1], "real numbers"),
        ([[1.0], ["a"]], [0, 1], "not an array of numbers"),
        ([[1e308], [-1e308]], [0, 1], "overflow"),
    ],
)
def test_invalid_input_raises_an_error(features: list, labels: list, pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        separation_fuzziness(features, labels)


def test_the_public_name_returns_a_float() -> None:
    assert type(equisep.separation_fuzziness([[0.0], [0.5], [3.0], [3.2]], [0, 0, 1, 1])) is float


def test_principal_components_are_those_of_the_covariance() -> None:
    """Against the eigenvectors of the p×p covariance, which p = 60 allows; the offset checks the centring."""
    generator = torch.Generator().manual_seed(0)
    raw, mix = (torch.randn(rows, 60, generator=generator, dtype=torch.float64) for rows in (200, 60))
    features = raw @ mix + 100
    labels = torch.arange(200) % 5
    projected = PrincipalComponents(features, 7).project(features)
    _, vectors = torch.linalg.eigh(torch.cov(features.T))
    expected = (features - features.mean(dim=0)) @ vectors[:, -7:].flip(1)
    torch.testing.assert_close(projected.abs(), expected.abs(), rtol=1e-8, atol=1e-8)
    assert separation_fuzziness(projected, labels) == pytest.approx(separation_fuzziness(expected, labels), rel=1e-9)


def test_features_of_low_rank_keep_all_their_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(50, 3, generator=generator) @ torch.randn(3, 500, generator=generator)
    labels = torch.arange(50) % 2
    projection = PrincipalComponents(flat, 100)
    assert projection.axes.shape == (500, 3)
    whole = separation_fuzziness(flat, labels)
    assert separation_fuzziness(projection.project(flat), labels) == pytest.approx(whole, rel=1e-5)


def test_8192_features_need_no_square_matrix() -> None:
    """No intermediate tensor is larger than the features."""
    features = torch.randn(1000, 8192, generator=torch.Generator().manual_seed(0))
    shapes: list[tuple[int, ...]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            shapes.extend(tuple(leaf.shape) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
            return result

    with Watch():
        projected = PrincipalComponents(features, 100).project(features)
    assert projected.shape == (1000, 100)
    assert max(torch.Size(shape).numel() for shape in shapes) == 1000 * 8192


def test_constant_features_keep_one_component_and_have_d_zero() -> None:
    labels = torch.arange(50) % 2
    constant = torch.full((50, 300), 3.5)
    projected = PrincipalComponents(constant, 100).project(constant)
    assert projected.shape == (50, 1)
    assert separation_fuzziness(projected, labels) == separation_fuzziness(constant, labels) == 0.0


@settings(deadline=None)
@given(labelled_features(), st.sampled_from(["class_size", "equal"]), st.sampled_from([np.float64, np.float32]))
def test_draws_are_measured_as_single_features(
    sample: tuple[np.ndarray, np.ndarray], weighting: module.Weighting, dtype: type
) -> None:
    features, labels = sample
    assume(np.trace(scatters(features, labels)[1]) > 1e-9 and condition(features, labels) < 1e6)
    draws = torch.as_tensor(np.stack([features, 3 * features + 1, features[:, ::-1]]).astype(dtype))
    batched = fuzziness_of_draws(draws, as_class_labels(labels, len(labels)), weighting=weighting)
    single = [separation_of(draw, labels, weighting=weighting).fuzziness for draw in draws]
    assert batched.tolist() == pytest.approx(single, rel=1e-11, abs=1e-12)


def test_float32_products_have_a_relative_error_of_1e_5() -> None:
    random = np.random.default_rng(0)
    labels = torch.arange(1000) % 10
    features = random.normal(size=(4, 1000, 100)) + 0.3 * random.normal(size=(10, 100))[labels] + 5
    draws = torch.as_tensor(features).float()
    expected = [separation_fuzziness(draw, labels) for draw in features]
    for values in (
        fuzziness_of_draws(draws, labels, precision=torch.float32).tolist(),
        [separation_fuzziness(draw, labels, precision=torch.float32) for draw in draws],
    ):
        assert values == pytest.approx(expected, rel=1e-5)
        assert values != pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_draw_that_is_not_finite_leaves_the_others(precision: torch.dtype) -> None:
    draws = torch.randn(3, 60, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    expected = fuzziness_of_draws(draws, labels, precision=precision)
    draws[1, 3, 4] = torch.nan
    found = fuzziness_of_draws(draws, labels, precision=precision)
    assert found.isnan().tolist() == [False, True, False]
    assert found[[0, 2]].tolist() == pytest.approx(expected[[0, 2]].tolist(), rel=1e-6)
    assert fuzziness_of_draws(torch.ones(1, 1000, 5), torch.arange(1000) % 10, precision=precision).tolist() == [0.0]


@given(seed=seeds)
def test_class_means_that_differ_by_rounding_coincide(seed: int) -> None:
    """The same points in each class, in another order."""
    points = torch.randn(30, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    shuffled = points[torch.randperm(30, generator=torch.Generator().manual_seed(seed))]
    result = separation_of(torch.cat([points, shuffled]), torch.arange(60) // 30)
    assert (result.fuzziness, result.rank) == (0.0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.bool, torch.int64])
def test_features_may_have_any_real_type(dtype: torch.dtype) -> None:
    features = (3 * torch.rand(40, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    labels = torch.arange(40) % 4
    assert separation_fuzziness(features, labels) == pytest.approx(separation_fuzziness(features.double(), labels))


def test_an_unknown_precision_raises_an_error() -> None:
    with pytest.raises(ValueError, match=r"precision=torch.float16: choose one of torch.float64, torch.float32"):
        separation_fuzziness([[0.0], [1.0]], [0, 1], precision=torch.float16)


def test_narrow_classes_beside_a_column_with_an_offset_are_measured_accurately() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    features = rng.normal(size=(4, 6))[labels] + 1e-4 * rng.normal(size=(24, 6))
    features[:, 0] = 1e4 + np.array([0, 1, 3, 2])[labels]
    single = features.astype(np.float32)
    assert separation_fuzziness(single, labels) == pytest.approx(
        exact_fuzziness(single.astype(float), labels), rel=1e-9
    )


def test_memory_does_not_grow_with_points_times_classes() -> None:
    """No intermediate tensor of 20,000 points of 1,000 classes is larger than an indicator of a part of them."""
    features = torch.randn(20_000, 20, generator=torch.Generator().manual_seed(0))
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            tensors = (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
            largest = max([largest, *(tensor.numel() for tensor in tensors)])
            return result

    with Watch():
        separation_fuzziness(features, torch.arange(20_000) % 1000)
    assert largest <= module.INDICATOR_VALUES


def test_many_draws_are_measured_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.randn(7, 60, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    expected = fuzziness_of_draws(draws, labels).tolist()
    # Two draws at once.
    monkeypatch.setattr(module, "CACHED_VALUES", 2 * 5 * module.LEAST_ROWS)
    assert fuzziness_of_draws(draws, labels).tolist() == pytest.approx(expected, rel=1e-12)


def test_constant_features_have_d_zero_in_float32_too() -> None:
    labels = (torch.arange(60_000) >= 50_000).long()
    assert separation_fuzziness(torch.full((60_000, 3), 0.1), labels, precision=torch.float32) == 0.0


def test_batches_of_another_width_are_refused() -> None:
    sums = ClassSums(torch.arange(20) % 2)
    sums.add(torch.randn(10, 3))
    with pytest.raises(ValueError, match="rows of 4 features after rows of 3"):
        sums.add(torch.randn(10, 4))


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_values_are_refused(kind: str) -> None:
    features = torch.eye(4).to_sparse() if kind == "sparse" else torch.eye(4, device="meta")
    with pytest.raises(ValueError, match="features must be a dense tensor with values"):
        separation_fuzziness(features, torch.arange(4) % 2)
