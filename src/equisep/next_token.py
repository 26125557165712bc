"""The next-token law of language models: how much of the next token each block leaves unexplained, with its controls.

At block l the vocabulary id of token t + 1 is regressed on the hidden state of token t, by least squares with an
intercept. The prediction residual PR_l = MSE / Var(id) = 1 − R² is said to fall by a constant ratio per block, so that
log PR_l is a line (He & Su, arXiv:2408.13442). Ids are names: the controls ask what the line owes to their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from equisep.measurement import progress_bar
from equisep.measures import Law, StreamedRegression, fit_law, measuring_mode, random_state_kept, unwrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Hidden states after each block, (sequences, length, p), of a model and token ids, (sequences, length).
States = Callable[[nn.Module, Tensor], Sequence[Tensor]]
Norm = Literal["auto", "layer", "rms", "none"]
# Of a freshly initialised LayerNorm and RMSNorm.
LAYER_EPSILON, RMS_EPSILON = 1e-5, 1e-6
# Tokens per feature from which least squares explains little by chance: 1 − R² of noise is 1 − p/n on average.
ENOUGH_TOKENS = 10


@dataclass(frozen=True)
class NextTokenMeasurement:
    """The prediction residual of each block, with its controls.

    residuals: PR_l of blocks 1 … L. permuted: of each permutation of the vocabulary, PR_l of the same tokens.
    held_out: PR_l on other tokens of the coefficients fitted here, relative to their variance; empty without such.
    tokens, held_out_tokens: n. features: p. settings: how it was measured. warnings: what may mislead.
    """

    residuals: tuple[float, ...]
    permuted: tuple[tuple[float, ...], ...]
    held_out: tuple[float, ...]
    tokens: int
    held_out_tokens: int
    features: int
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def law(self) -> Law:
        """The line through log PR_l; raises ValueError for fewer than two blocks."""
        return fit_law(self.residuals)

    @property
    def permuted_laws(self) -> tuple[Law, ...]:
        """The line of each permutation of the vocabulary."""
        return tuple(map(fit_law, self.permuted))

    @property
    def held_out_law(self) -> Law | None:
        """The line on held-out tokens; None without such."""
        return fit_law(self.held_out) if self.held_out else None

    def to_frame(self) -> pd.DataFrame:
        """Return a row per block: block, residual, held_out, permuted_1, permuted_2, …."""
        import pandas as pd

        columns: dict[str, Sequence[float]] = {"residual": self.residuals}
        columns |= {"held_out": self.held_out} if self.held_out else {}
        columns |= {f"permuted_{number + 1}": values for number, values in enumerate(self.permuted)}
        return pd.DataFrame({"block": range(1, len(self.residuals) + 1), **columns})

    def plot(self) -> Figure:
        """Return a figure of log PR against block: the vocabulary's ids, their permutations, and held-out tokens."""
        from equisep.plots import residual_plot

        return residual_plot(self.residuals, self.permuted, self.held_out, str(self.settings["network"]))

    def __str__(self) -> str:
        rows = [
            ["block", "residual", *(["held out"] if self.held_out else []), *(["permuted"] if self.permuted else [])]
        ]
        for place, residual in enumerate(self.residuals):
            cells = [str(place + 1), f"{residual:.4f}"]
            cells += [f"{self.held_out[place]:.4f}"] if self.held_out else []
            values = [permuted[place] for permuted in self.permuted]
            cells += [f"{min(values):.4f} to {max(values):.4f}"] if values else []
            rows.append(cells)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines.append("")
        if len(self.residuals) == 1:
            lines.append("no line: it needs two blocks")
        else:
            lines += self._lines()
        lines.append(f"{self.settings['network']}, {self.tokens:,} tokens, {self.features} features")
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def _lines(self) -> list[str]:
        lines = [f"residual: {_describe(self.law)}"]
        if self.held_out_law is not None:
            lines.append(f"held out: {_describe(self.held_out_law)}")
        if self.permuted:
            r = [law.pearson_r for law in self.permuted_laws]
            ratio = [law.decay_ratio for law in self.permuted_laws]
            lines.append(
                f"permuted: r = {min(r):.3f} to {max(r):.3f}, ratio = {min(ratio):.4f} to {max(ratio):.4f} "
                f"({len(r)} permutations)"
            )
        return lines


def measure_next_token(
    model: nn.Module,
    ids: Any,
    *,
    held_out: Any = None,
    permutations: int = 5,
    seed: int = 0,
    length: int = 512,
    norm: Norm = "auto",
    states: States | None = None,
    batch_size: int = 8,
    progress: bool | None = None,
) -> NextTokenMeasurement:
    """Measure the prediction residual of each block of a language model; the model is left as it was.

    model: a causal language model of transformers, or any module with ``states``. ids: token ids of texts: a (texts,
        length) integer tensor without padding, or a sequence of (length,) tensors or lists.
    held_out: ids of other texts, on which the fitted coefficients are tried.
    permutations: how many random permutations of the vocabulary's ids, by ``seed``, are regressed too.
    length: tokens of a text that are used; the rest is cut off (512 in the paper).
    norm: what all hidden states but the last pass, without weights: LayerNorm or RMSNorm; by default the model's own
        kind. The last has passed the model's (as in the paper).
    states: (model, ids) → hidden states after each block; by default those of transformers, without the embedding.
    batch_size: texts of equal length that are passed at once.
    progress: whether a bar is shown; by default in a terminal.

    Least squares is computed in float64, in one pass over the texts, with memory O(p²) per block. Raises ValueError for
    what cannot be measured.
    """
    network = unwrapped(model)
    if not isinstance(network, nn.Module):
        raise ValueError(f"model: {type(network).__name__} is no torch module")
    for name, number, least in (
        ("permutations", permutations, 0),
        ("length", length, 2),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name}={number!r}: must be an integer, at least {least}")
    if norm not in ("auto", "layer", "rms", "none"):
        raise ValueError(f"norm={norm!r}: choose auto, layer, rms or none")
    texts, others = _as_texts(ids, "ids", length), [] if held_out is None else _as_texts(held_out, "held_out", length)
    vocabulary = max(_vocabulary_of(network, some, name) for some, name in ((texts, "ids"), (others, "held_out")))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.arange(vocabulary), *(torch.randperm(vocabulary, generator=generator) for _ in range(permutations))]
    numbers = torch.stack(orders, dim=1).to(torch.float64)
    chosen = _norm_of(network) if norm == "auto" else norm
    batches = [_batches(some, batch_size) for some in (texts, others)]
    tokens, tried = (sum(len(text) - 1 for text in some) for some in (texts, others))
    with random_state_kept(), measuring_mode(network, "running"), torch.no_grad():
        work = f"{tokens + tried:,} tokens"
        with progress_bar(work, sum(map(len, batches)), progress) as tick:
            regressions: list[StreamedRegression] = []
            for features, targets in _passes(network, batches[0], states, chosen, numbers, tick):
                if not regressions:
                    regressions = [StreamedRegression(one.shape[1], numbers.shape[1]) for one in features]
                    _refuse_too_few(tokens, max(one.shape[1] for one in features))
                for regression, one in zip(regressions, features, strict=True):
                    regression.add(one, targets)
            sees_ahead = _sees_ahead(network, batches[0][0], states)
            tested = _held_out_residuals(regressions, _passes(network, batches[1], states, chosen, numbers, tick))
    shares = torch.stack([regression.unexplained() for regression in regressions])
    width = max(regression.features for regression in regressions)
    return NextTokenMeasurement(
        tuple(shares[:, 0].tolist()),
        tuple(tuple(column.tolist()) for column in shares[:, 1:].T),
        tested,
        tokens,
        tried,
        width,
        {"network": type(network).__name__, "norm": chosen, "length": length, "seed": seed, "vocabulary": vocabulary},
        tuple(_warnings(tokens, width, sees_ahead=sees_ahead)),
    )


def _as_texts(values: Any, name: str, length: int) -> list[Tensor]:
    """Return each text's ids, cut to a length; raises ValueError for others than integers."""
    texts = []
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name}: must be a list of texts, each the ids of its tokens, not {values!r:.40}")
    for number, value in enumerate(values):
        try:
            text = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{name}: text {number} must be a list of integers, not {value!r:.40}") from None
        if text.numel() == 0:
            continue
        if text.ndim != 1 or text.is_floating_point() or text.is_complex() or text.dtype == torch.bool:
            kind = f"{str(text.dtype).removeprefix('torch.')} of shape {tuple(text.shape)}"
            raise ValueError(f"{name}: text {number} must be a list of integers, not {kind}")
        if len(text) and int(text.min()) < 0:
            raise ValueError(f"{name}: text {number} has the id {int(text.min())}; ids are 0 or more, without padding")
        if len(text) > 1:
            texts.append(text[:length].long().cpu())
    if not texts:
        raise ValueError(f"{name}: no text of two tokens or more")
    if len(torch.unique(torch.cat([text[1:] for text in texts]))) < 2:
        raise ValueError(f"{name}: all next tokens are the same")
    return texts


def _batches(texts: Sequence[Tensor], size: int) -> list[Tensor]:
    """Return the texts in batches of one length, in need of no padding."""
    by_length: dict[int, list[Tensor]] = {}
    for text in texts:
        by_length.setdefault(len(text), []).append(text)
    return [batch for same in by_length.values() for batch in torch.split(torch.stack(same), size)]


def _passes(
    network: nn.Module,
    batches: Sequence[Tensor],
    states: States | None,
    norm: str,
    numbers: Tensor,
    tick: Callable[[], Any],
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield, for each batch, the states of a text's tokens but the last by block, and the numbers of the next ones."""
    device = next(network.parameters(), torch.empty(0)).device
    precise = device if device.type == "cuda" else torch.device("cpu")
    for batch in batches:
        hidden = _call(network, batch.to(device), states)
        features = []
        for place, state in enumerate(hidden):
            if not isinstance(state, Tensor) or state.shape[:2] != batch.shape or state.ndim != 3:
                shape = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
                expected = f"({batch.shape[0]}, {batch.shape[1]}, p)"
                raise ValueError(f"states: block {place + 1} must be a tensor of shape {expected}, not {shape}")
            # Normalised in float64, so that the sum of a LayerNorm's values is no feature of rounding errors.
            rows = state[:, :-1].flatten(0, 1).to(precise, torch.float64)
            rows = rows if place == len(hidden) - 1 else _normalised(rows, norm)
            if not torch.isfinite(rows).all():
                raise ValueError(f"the hidden states of block {place + 1} are not finite")
            features.append(rows)
        yield features, numbers[batch[:, 1:].flatten()]
        tick()


def _call(network: nn.Module, ids: Tensor, states: States | None) -> Sequence[Tensor]:
    """Return the hidden states of a batch; raises ValueError for what the model cannot take, and for no states."""
    try:
        hidden = (states or _hidden_states)(network, ids)
    except torch.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError) as error:
        problem = f"fails on ids of shape {tuple(ids.shape)}: {str(error).splitlines()[0]}"
        raise ValueError(f"model: {problem}; length= cuts longer texts") from None
    if not isinstance(hidden, list | tuple) or not hidden:
        raise ValueError(f"states: must return a list of hidden states, one for each block, not {hidden!r:.40}")
    return hidden


def _sees_ahead(network: nn.Module, batch: Tensor, states: States | None) -> bool:
    """Whether a token's state depends on the tokens after it."""
    ids = batch[:1].to(next(network.parameters(), torch.empty(0)).device)
    if ids.shape[1] < 3:
        return False
    whole, part = (_call(network, some, states)[-1] for some in (ids, ids[:, :-1]))
    # Other shapes of a batch change the rounding.
    rounding = 100 * torch.finfo(part.dtype).eps if part.is_floating_point() else 0.0
    return float((whole[:, :-1] - part).abs().max()) > rounding * float(part.abs().max())


def _hidden_states(model: nn.Module, ids: Tensor) -> Sequence[Tensor]:
    """Return the states after each block of a network of transformers; the last has passed its last norm."""
    try:
        output = model(input_ids=ids, output_hidden_states=True)
    except TypeError as error:
        problem = str(error).splitlines()[0]
        raise ValueError(
            f"model: gives no hidden states as transformers' do ({problem}); name them in states"
        ) from None
    hidden = getattr(output, "hidden_states", None)
    if hidden is None or len(hidden) < 2:
        raise ValueError("model: its output has no hidden_states; give a function states(model, ids) that returns them")
    return list(hidden)[1:]


def _norm_of(network: nn.Module) -> str:
    """Return the kind of a network's norms: rms where a module's class is named so, else layer."""
    return "rms" if any("rmsnorm" in type(module).__name__.lower() for module in network.modules()) else "layer"


def _normalised(rows: Tensor, norm: str) -> Tensor:
    width = (rows.shape[1],)
    if norm == "layer":
        return nn.functional.layer_norm(rows, width, eps=LAYER_EPSILON)
    return nn.functional.rms_norm(rows, width, eps=RMS_EPSILON) if norm == "rms" else rows


def _held_out_residuals(
    regressions: Sequence[StreamedRegression], passes: Iterator[tuple[list[Tensor], Tensor]]
) -> tuple[float, ...]:
    """Return each block's MSE on other tokens over the variance of their ids; none without tokens."""
    coefficients = [regression.coefficients()[:, 0] for regression in regressions]
    errors, ids = [0.0] * len(regressions), []
    for features, targets in passes:
        ids.append(targets[:, 0])
        for place, (rows, solution) in enumerate(zip(features, coefficients, strict=True)):
            predicted = solution[0] + rows.cpu() @ solution[1:]
            errors[place] += float((ids[-1] - predicted).square().sum())
    if not ids:
        return ()
    variance = float(torch.cat(ids).var(correction=0)) * len(torch.cat(ids))
    return tuple(error / variance for error in errors)


def _vocabulary_of(network: nn.Module, texts: Sequence[Tensor], name: str) -> int:
    """Return the number of ids that the model knows, or that the texts have; raises ValueError for unknown ids."""
    highest = max((int(text.max()) for text in texts), default=0)
    embedding = getattr(network, "get_input_embeddings", lambda: None)()
    known = int(getattr(embedding, "num_embeddings", highest + 1))
    if highest >= known:
        raise ValueError(f"{name}: {highest} is none of the {known:,} ids of the model; use its own tokenizer")
    return known


def _refuse_too_few(tokens: int, features: int) -> None:
    if tokens <= features + 1:
        raise ValueError(f"ids: {tokens:,} next tokens for {features:,} features are fitted exactly; give more text")


def _warnings(tokens: int, features: int, *, sees_ahead: bool) -> Iterator[str]:
    if sees_ahead:
        yield "the state of a token depends on the tokens after it: it has seen the token that it is to predict"
    if tokens < ENOUGH_TOKENS * features:
        chance = math.floor(100 * features / tokens)
        yield f"{tokens:,} tokens for {features:,} features: {chance} % of the variance are explained by chance"


def _describe(law: Law) -> str:
    return f"r = {law.pearson_r:.4f}, ratio per block = {law.decay_ratio:.4f}"
