"""Classes that the user names: found in the working folder, refused in one line, identified by their file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from equisep.config import ConfigError, call_target, compose_config, config_hash, digest_of, find_target, to_plain
from equisep.config.identity import from_plain

NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, classes, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(input_shape[-1] ** 2, width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.body(images))


SIZE = 3
MADE = Net((1, 2, 2), 3)
"""


@pytest.fixture
def own_folder(own_modules: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules of the user's, which an installed command does not search."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return own_modules(own_nets=NETS, broken_nets="import not_installed_anywhere", wrong_nets="1 / 0")


def test_a_target_is_found_in_the_working_folder_and_called(own_folder: Path) -> None:
    target = find_target("architecture.target", "own_nets.Net")
    network = call_target("x", "own_nets.Net", {"width": 5}, input_shape=(1, 2, 2), classes=3, unknown=0)
    assert isinstance(network, target)
    assert (network.head.in_features, network.head.out_features) == (5, 3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_nets.Net", "there is no module no_nets in the working folder or installed"),
        ("own_nets.Nett", "own_nets has no Nett; did you mean Net?"),
        ("own_nets.MADE", "is a Net, not a class or function"),
        ("own_nets.SIZE", "is a int, not a class or function"),
        ("Net", "must be the dotted path of a class or function"),
        ("own-nets.Net", "must be the dotted path"),
        ("broken_nets.Net", "broken_nets needs the module not_installed_anywhere, which is not installed"),
        ("wrong_nets.Net", "wrong_nets cannot be imported: division by zero"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_in_one_line(own_folder: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_target("architecture.target", path)
    assert str(raised.value).startswith(f"architecture.target={path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_arguments_that_it_does_not_take_are_refused_in_one_line(own_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"own_nets.Net: Net\(input_shape=.*, widht=5\): .*unexpected keyword"):
        call_target("architecture.target", "own_nets.Net", {"widht": 5}, input_shape=(1, 2, 2), classes=3)


def test_the_file_is_part_of_the_identity(own_folder: Path) -> None:
    words = ["architecture=custom", "architecture.target=own_nets.Net", "optimizer.learning_rate=1e-3"]
    config = compose_config([*words, "architecture.arguments.width=5"])
    assert config.architecture.digest == digest_of(find_target("x", "own_nets.Net"))  # type: ignore[attr-defined]
    assert from_plain(to_plain(config)) == config
    added = compose_config([*words, "+architecture.arguments.width=5"])
    assert config_hash(added) == config_hash(config)
    assert config_hash(compose_config(words)) != config_hash(config)
    (own_folder / "own_nets.py").write_text(NETS + "\n# changed\n")
    assert config_hash(compose_config([*words, "architecture.arguments.width=5"])) != config_hash(config)


def test_a_target_without_a_source_file_has_a_digest() -> None:
    assert len(digest_of(len)) == 16
    assert digest_of(len) != digest_of(sum)
