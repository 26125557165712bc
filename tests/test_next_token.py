"""The next-token law: prediction residuals equal a plain computation, on a small model of transformers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

# Nothing is fetched.
os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import equisep
from equisep import measure_next_token
from equisep.measures import random_state_kept
from examples import language_model


def make_model(kind: str = "llama", blocks: int = 3) -> nn.Module:
    """Return an untrained model with 12 features and 50 ids."""
    with random_state_kept():
        torch.manual_seed(0)
        no_tokens = {"bos_token_id": None, "eos_token_id": None}
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(vocab_size=50, n_embd=12, n_layer=blocks, n_head=2, n_positions=64, **no_tokens)
            )
        size = {"num_attention_heads": 2, "num_hidden_layers": blocks, "intermediate_size": 20}
        return LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=12, **size, **no_tokens))


def make_texts(count: int = 30, seed: int = 0) -> list[list[int]]:
    """Return texts of several lengths in which the next id depends on the one before it."""
    draws = np.random.default_rng(seed)
    texts = []
    for number in range(count):
        text = [int(draws.integers(50))]
        for _ in range(14 + number % 3):
            text.append(int((3 * text[-1] + draws.integers(10)) % 50))
        texts.append(text)
    return texts


def plain_residuals(
    model: Any, texts: Sequence[Sequence[int]], norm: str, names: np.ndarray[Any, Any], held_out: Any = None
) -> list[float]:
    """Return 1 − R² of each block, text by text, with NumPy's least squares. names: the number of each id."""
    model.eval()

    def states(some: Sequence[Sequence[int]]) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
        parts: list[list[np.ndarray[Any, Any]]] = []
        for text in some:
            with torch.no_grad():
                hidden = model(torch.tensor([text]), output_hidden_states=True).hidden_states
            parts.append([state[0, :-1].numpy().astype(float) for state in hidden[1:]])
        blocks = [np.concatenate(block) for block in zip(*parts, strict=True)]
        for place, block in enumerate(blocks[:-1]):
            if norm == "layer":
                spread = np.sqrt(block.var(axis=1, keepdims=True) + 1e-5)
                blocks[place] = (block - block.mean(axis=1, keepdims=True)) / spread
            else:
                blocks[place] = block / np.sqrt((block**2).mean(axis=1, keepdims=True) + 1e-6)
        return blocks, np.concatenate([names[text[1:]] for text in some]).astype(float)

    fitted, ids = states(texts)
    tested, others = states(texts if held_out is None else held_out)
    residuals = []
    for block, other in zip(fitted, tested, strict=True):
        solution = np.linalg.lstsq(np.column_stack([np.ones(len(block)), block]), ids, rcond=None)[0]
        error = others - np.column_stack([np.ones(len(other)), other]) @ solution
        residuals.append(float((error**2).mean() / others.var()))
    return residuals


@pytest.mark.parametrize(("kind", "norm"), [("llama", "rms"), ("gpt2", "layer")])
def test_residuals_and_controls_equal_a_plain_computation(kind: str, norm: str) -> None:
    model, texts, others = make_model(kind), make_texts(), make_texts(12, seed=1)
    model.train()
    before = torch.get_rng_state()
    measured = measure_next_token(model, texts, held_out=others, permutations=2, seed=4, batch_size=4)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert measured.settings["norm"] == norm
    ids = np.arange(50)
    assert measured.residuals == pytest.approx(plain_residuals(model, texts, norm, ids), rel=1e-5)
    assert measured.held_out == pytest.approx(plain_residuals(model, texts, norm, ids, others), rel=1e-5)
    generator = torch.Generator().manual_seed(4)
    for permuted in measured.permuted:
        names = torch.randperm(50, generator=generator).numpy()
        assert permuted == pytest.approx(plain_residuals(model, texts, norm, names), rel=1e-5)
    assert (measured.tokens, measured.held_out_tokens, measured.features) == (450, 180, 12)
    assert measured.law.pearson_r == equisep.fit_law(measured.residuals).pearson_r


def test_texts_are_cut_and_may_be_a_tensor() -> None:
    model = make_model()
    whole = torch.stack([torch.tensor(text[:14]) for text in make_texts()])
    expected = measure_next_token(model, whole, permutations=0).residuals
    assert measure_next_token(model, make_texts(), length=14, permutations=0).residuals == pytest.approx(expected)


def test_a_model_that_knows_the_next_token_leaves_nothing_and_a_constant_everything() -> None:
    texts = make_texts()

    def states(model: nn.Module, ids: torch.Tensor) -> list[torch.Tensor]:
        following = torch.cat([ids[:, 1:], ids[:, :1]], dim=1).float()
        return [torch.zeros(*ids.shape, 2), torch.stack([following, following**2], dim=2)]

    measured = measure_next_token(nn.Identity(), texts, states=states, norm="none", permutations=3)
    assert measured.residuals[0] == pytest.approx(1)
    assert measured.residuals[1] < 1e-20
    # The ids themselves, but no permutation of them, are a line of what the second block holds.
    assert min(permuted[1] for permuted in measured.permuted) > 0.5


def test_it_shows_a_table_a_picture_and_what_may_mislead() -> None:
    measured = measure_next_token(make_model("gpt2"), make_texts(6), held_out=make_texts(8, 2))
    lines = str(measured).splitlines()
    assert lines[0].split() == ["block", "residual", "held", "out", "permuted"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert lines[-1] == "warning: 90 tokens for 12 features: 13 % of the variance are explained by chance"
    assert list(measured.to_frame()) == ["block", "residual", "held_out", *(f"permuted_{n}" for n in range(1, 6))]
    (axes,) = measured.plot().axes
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "permuted ids",
        "held-out tokens",
        "ids as they are",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": [[1, 2], [1.5, 2]]}, "ids: text 1 must be a list of integers, not float32 of shape (2,)"),
        ({"ids": ["a text"]}, "ids: text 0 must be a list of integers, not 'a text'"),
        ({"ids": torch.zeros(2, 3, 4).long()}, "ids: text 0 must be a list of integers, not int64 of shape (3, 4)"),
        ({"ids": [[3, -1, 2]]}, "ids: text 0 has the id -1; ids are 0 or more, without padding"),
        ({"ids": None}, "ids: must be a list of texts, each the ids of its tokens, not None"),
        ({"held_out": [[3, 70, 1]]}, "held_out: 70 is none of the 50 ids of the model"),
        ({"seed": "x"}, "seed='x': must be an integer, at least 0"),
        ({"model": nn.Identity(), "states": lambda model, ids: []}, "states: must return a list of hidden states"),
        ({"ids": [[3], []]}, "ids: no text of two tokens or more"),
        ({"ids": [[3, 3, 3]]}, "ids: all next tokens are the same"),
        ({"ids": [[3, 70, 1]]}, "ids: 70 is none of the 50 ids of the model; use its own tokenizer"),
        ({"ids": [[3, 4, 5]]}, "ids: 2 next tokens for 12 features are fitted exactly; give more text"),
        ({"ids": [list(range(50)) * 2]}, "model: fails on ids of shape (1, 100): index out of range in self; length="),
        ({"permutations": -1}, "permutations=-1: must be an integer, at least 0"),
        ({"length": 1}, "length=1: must be an integer, at least 2"),
        ({"norm": "batch"}, "norm='batch': choose auto, layer, rms or none"),
        ({"model": "gpt2"}, "model: str is no torch module"),
        ({"model": nn.Linear(2, 2)}, "model: gives no hidden states as transformers' do"),
        ({"model": nn.Identity(), "states": lambda model, ids: [ids]}, "states: block 1 must be a tensor of shape"),
        (
            {"model": nn.Identity(), "states": lambda model, ids: [torch.full((*ids.shape, 2), torch.nan)]},
            "the hidden states of block 1 are not finite",
        ),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], message: str) -> None:
    given = {"model": make_model("gpt2", blocks=1), "ids": make_texts()} | arguments
    with pytest.raises(ValueError, match="^" + re.escape(message) + ".*$"):
        measure_next_token(**given)


def test_one_block_has_no_line_and_a_model_that_sees_ahead_is_told() -> None:
    measured = measure_next_token(make_model(blocks=1), make_texts(), permutations=1)
    assert "no line: it needs two blocks" in str(measured)
    assert measured.settings["vocabulary"] == 50
    assert not any("tokens after it" in warning for warning in measured.warnings)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    measured = measure_next_token(BertModel(BertConfig(vocab_size=50, **sizes)), make_texts(), permutations=0)
    assert any(warning.startswith("the state of a token depends on") for warning in measured.warnings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of transformers with a tokenizer of whole words, as files."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(topics.values(), trainers.WordLevelTrainer(vocab_size=50, special_tokens=["?"]))
    make_model("gpt2").save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_example_measures_a_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    language_model.main(folder, texts=8, each=3, length=40)
    out = capsys.readouterr().out
    assert out.count("residual: r =") == 2
    assert out.count("held out: r =") == 2
    assert "permutations)" in out
    assert out.count("GPT2LMHeadModel, 30 points, 10 classes") == 2
    assert (folder.parent / "next_token.png").exists()


def test_a_model_without_hidden_states_is_told_how_to_give_them() -> None:
    class Other(nn.Module):
        def forward(self, **arguments: Any) -> SimpleNamespace:
            """Return an output without hidden states."""
            return SimpleNamespace(logits=None)

    with pytest.raises(ValueError, match="its output has no hidden_states; give a function"):
        measure_next_token(Other(), make_texts())
