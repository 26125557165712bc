"""The command line: ``equisep KEY=VALUE …`` runs one config, with ``-m`` a sweep; subcommands do the rest.

Nothing heavy is imported before it is known what is asked for, so that help and mistakes are answered at once.
"""

import argparse
import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from equisep.commands.subcommands import COMMANDS, wrap
from equisep.config.validation import ConfigError, EquisepError
from equisep.config.vocabulary import field_names, group_options, nearest, use_own_conf


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors that the user can correct are printed as one line.

    words: the arguments; those of the process by default.
    """
    words = sys.argv[1:] if words is None else list(words)
    for stream in (sys.stdout, sys.stderr):
        # A terminal without ρ gets a question mark in its place.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except EquisepError as error:
        print(f"equisep: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the output has ended, such as head; nothing more can be written, not even when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        from equisep.store import HOW_TO_RESUME

        print(f"equisep: stopped; {HOW_TO_RESUME}", file=sys.stderr)
        return 130


def _run(words: Sequence[str]) -> int:
    """Run a subcommand, show help, or pass the words to Hydra."""
    words = _take_own_conf(words)
    if words and words[0] in COMMANDS:
        return _run_command(words[0], words[1:])
    if words == ["--version"]:
        print(f"equisep {version('equisep')}")
        return 0
    if not words or {"-h", "--help"} & set(words):
        print(overview())
        return 0
    if re.fullmatch(r"[a-z_]+", words[0]) and words[0] not in (*group_options(), *field_names()):
        raise ConfigError(f"{words[0]}: no such command{nearest(words[0], COMMANDS) or '; see equisep --help'}")
    misplaced = [word for word in words if word in COMMANDS]
    if misplaced:
        raise ConfigError(f"{misplaced[0]}: a command comes first: equisep {misplaced[0]} …")
    from equisep.commands.run import run_configs

    run_configs(words)
    return 0


def _take_own_conf(words: Sequence[str]) -> list[str]:
    """Use the folder of the option --config-dir, which every command knows; return the other words."""
    rest = []
    ahead = iter(words)
    for word in ahead:
        name, equals, folder = word.partition("=")
        if name not in ("--config-dir", "-cd"):
            rest.append(word)
            continue
        folder = folder if equals else next(ahead, "")
        if not folder:
            raise ConfigError(f"{name}: name a folder of your own, with experiment/NAME.yaml and the like")
        use_own_conf(folder)
    return rest


def run_script(name: str) -> NoReturn:
    """Run ``equisep figure NAME`` with the arguments of the process, and exit: a script of reproduce/."""
    sys.exit(main(["figure", name, *sys.argv[1:]]))


def overview() -> str:
    """Return the help of the command: commands with an example each, then the groups of the configuration."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: equisep KEY=VALUE …        train and measure one network",
        "       equisep -m KEY=A,B,… …     a sweep over all combinations",
        "       equisep COMMAND …          one of the commands below; equisep COMMAND --help describes it",
        "",
        "examples:",
        "  equisep architecture.depth=8 optimizer=sgd",
        "  equisep -m architecture.depth=4,8,20 seed=1,2,3 training=short",
        "  equisep -m experiment=optimizers",
        "",
        "commands:",
    ]
    for name, command in COMMANDS.items():
        lines += [f"  {name:{width}}  {command.summary}", f"  {'':{width}}    {command.example}"]
    lines += ["", "groups of the configuration, GROUP=OPTION (equisep --cfg job prints every field):"]
    for group, options in group_options().items():
        lines += wrap(f"  {group:16}", [option for option in options if not option.startswith("schema_")])
    return "\n".join(lines)


def _run_command(name: str, words: Sequence[str]) -> int:
    command = COMMANDS[name]
    parser = _Parser(
        f"equisep {name}",
        description=textwrap.fill(f"{command.summary}. {command.details}", 100),
        epilog="\n".join([*command.listed(), f"example: {command.example}"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.arguments(parser)
    return command.run(parser.parse_args(words))


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{self.prog.removeprefix('equisep ')}: {message}; see {self.prog} --help")
