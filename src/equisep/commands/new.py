"""``equisep new experiment NAME``: a commented experiment, claim and figure in a folder of the user's own."""

import re
from pathlib import Path

from equisep.config.validation import ConfigError
from equisep.config.vocabulary import conf_folder, group_options, own_conf_folder

DEFAULT_FOLDER = "own"
# Words that YAML does not read as text, and figures that are no experiment's.
NOT_NAMES = ("true", "false", "yes", "no", "on", "off", "y", "n", "null", "all", "law", "decay_ratio", "test_accuracy")

EXPERIMENT = """\
# @package _global_
# equisep -m --config-dir {folder} experiment={name}
# What is asked: does the law hold at other batch sizes? Depth 4 and 8, two batch sizes, five seeds each: 20 networks,
# about half a minute on two cores.
defaults:
  # A choice of each group, as equisep --help lists them; custom is a network, or a data set, of your own.
  - override /architecture: fnn
  - override /dataset: fashion_mnist_10x10
  - override /optimizer: adam
  - override /training: short

experiment: {name}
measures: [paper, evaluation]    # conventions of measuring D: as published, and of the network in evaluation mode

# Fields of every run, by group; equisep --cfg job prints them all.
architecture:
  width: 100                     # units of each hidden layer

hydra:
  sweeper:
    params:                      # what varies: every combination is a run
      architecture.depth: 4,8
      training.batch_size: 64,256
      seed: range(1,6)           # repetitions; intervals are over these
"""

CLAIM = """\
# The claim of the experiment, written before it is run. equisep figure judges it under each convention.
{name}:
  claim: Each layer cuts D by a constant ratio at each depth and batch size.
  seeds: 5                           # minimum per condition; with fewer it is undecided
  all:                               # all must hold in a condition; "any": one; "none": no network meets all
    r: {{below_null: 0.05}}            # straighter than chance in 95 of 100 cases: Pearson's r of log D and layer
    decay_ratio: {{at_most: 0.95}}     # the ratio itself
    relative_residual: {{at_most: 0.15}}   # largest distance from the line, of the fall of log D
"""

FIGURE = """\
# The figure of the experiment; without this file it has a panel for each combination of what is swept.
conditions: [architecture.depth, training.batch_size]    # what is judged by itself, each at its best learning rate
across: architecture.depth                               # columns of panels
down: training.batch_size                                # rows of panels
shows: Networks at two depths and batch sizes.           # the caption's first sentence
"""


def new_experiment(name: str) -> str:
    """Write the files of a new experiment to the user's own folder; return what to do with them.

    The folder is that of ``--config-dir``, else ``own`` in the working folder. Raises ConfigError for a name that is
    taken or none, and for a folder that cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
        raise ConfigError(f"new experiment {name}: use up to 100 letters a to z, digits and _, beginning with a letter")
    if name in NOT_NAMES:
        raise ConfigError(f"new experiment {name}: is a word of YAML or a figure of ours; choose another name")
    if name in group_options()["experiment"]:
        raise ConfigError(f"new experiment {name}: there is an experiment of this name; choose another one")
    folder = own_conf_folder() or Path(DEFAULT_FOLDER).absolute()
    if folder == conf_folder():
        raise ConfigError(
            f"new experiment {name}: {folder} is the package's own; set --config-dir to a folder of yours"
        )
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    if Path(shown) == Path():
        shown = folder
    files = {
        folder / "experiment" / f"{name}.yaml": EXPERIMENT,
        folder / "figure" / f"{name}.yaml": FIGURE,
    }
    claims = folder / "claims.yaml"
    for path in files:
        if path.exists():
            raise ConfigError(f"new experiment {name}: {path} exists; remove it or choose another name")
    text = claims.read_text(encoding="utf-8").rstrip() + "\n\n" if claims.is_file() else ""
    if re.search(rf"^{name}:", text, re.MULTILINE):
        raise ConfigError(f"new experiment {name}: {claims} has a claim of this name; remove it or choose another one")
    try:
        for path, template in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(template.format(name=name, folder=shown), encoding="utf-8")
        claims.write_text(text + CLAIM.format(name=name), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"new experiment {name}: {folder} cannot be written ({error.strerror})") from None
    return "\n".join(
        [
            f"written: {', '.join(str(path) for path in (*files, claims))}; they run as they are:",
            f"  equisep -m --config-dir {shown} experiment={name}",
            f"  equisep figure {name} --config-dir {shown}",
        ]
    )
