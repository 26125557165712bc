"""The command line: help, runs and sweeps, status, and what it answers to mistakes."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from equisep.commands.main import COMMANDS
from equisep.config import to_plain
from equisep.config.vocabulary import group_options
from equisep.store import all_runs, planned_runs
from tests.conftest import ROOT, Config, Ended

Command = Callable[..., Ended]
SHORT = ("training=smoke", "tracking=off")


def test_help_lists_commands_with_an_example_and_the_groups_of_the_configuration(equisep: Command) -> None:
    shown = equisep("--help")
    assert shown.code == 0
    assert shown == equisep() == equisep("optimizer=sgd", "-h")
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}\n +{command.example}$", shown.out, re.MULTILINE)
    for group, options in group_options().items():
        assert re.search(rf"^  {group} +{options[0]}", shown.out, re.MULTILINE), group
    assert "schema_" not in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


def test_help_and_mistakes_load_nothing_heavy() -> None:
    code = """
import sys
from equisep.commands.main import main
assert main(["--help"]) == 0
assert main(["satus"]) == 2
print(*{name.partition(".")[0] for name in sys.modules} & {"torch", "hydra", "pandas", "matplotlib", "wandb", "numpy"})
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str, equisep: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        equisep(name, "--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert COMMANDS[name].example in shown
    assert COMMANDS[name].summary in " ".join(shown.split())


SCRIPTS = sorted(path for path in (ROOT / "reproduce").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_has_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert "usage: equisep" in capsys.readouterr().out


def test_the_installed_command_and_the_module_are_the_same() -> None:
    command = Path(sys.executable).with_name("equisep")
    both = [
        subprocess.run([*words, "--version"], capture_output=True, text=True)
        for words in ([command], [sys.executable, "-m", "equisep"])
    ]
    assert both[0].stdout == both[1].stdout
    assert re.fullmatch(r"equisep \d+\.\d+\.\d+\n", both[0].stdout)


def test_a_single_run_draws_the_law_and_prints_its_path(equisep: Command, tmp_path: Path) -> None:
    run = equisep(*SHORT, "architecture.depth=5", "optimizer.learning_rate=0.002")
    assert run.code == 0, run.err
    outcome, figure = run.out.splitlines()
    assert re.search(
        r"done, r = -0\.\d{4}, ρ = 0\.\d{4} \(paper\), training accuracy .* test accuracy .* in evaluation mode",
        outcome,
    )
    assert (tmp_path / figure.removeprefix("figure: ")).stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    again = equisep(*SHORT, "architecture.depth=5", "optimizer.learning_rate=0.002")
    assert again.out.splitlines() == [f"{outcome} (nothing to train)", figure]


def test_what_is_done_to_images_and_whose_accuracy_is_shown_is_said(equisep: Command) -> None:
    run = equisep(*SHORT)
    assert re.search(r"^images of fashion_mnist: .*resized to 10×10 pixels; normalised with mean 0\.5, ", run.err, re.M)
    assert re.search(r"^epoch 2/2  training set, training mode: loss \S+  accuracy ", run.err, re.M)


def test_a_run_whose_loss_is_above_chance_says_so(equisep: Command) -> None:
    run = equisep(*SHORT, "optimizer=sgd", "optimizer.learning_rate=30")
    assert re.search(r"training loss \S+ is above chance \(ln 10 = 2\.303\)", run.out)


def test_a_sweep_in_any_folder_ends_with_a_table_of_its_settings(equisep: Command, tmp_path: Path) -> None:
    # Hydra takes options before overrides only; here they may stand anywhere.
    words = (*SHORT, "optimizer=sgd,adam", "seed=1,2", "-m")
    sweep = equisep(*words)
    assert sweep.code == 0, sweep.err
    assert sum(": done, r = " in line for line in sweep.err.splitlines()) == 4
    assert len(list(all_runs(tmp_path / "results"))) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    title, header, *rows = sweep.out.splitlines()
    assert (
        title == "mean over n seeds [95 % interval, Student's t], after the last epoch; r and ρ are measured as paper"
    )
    assert header.split() == ["setting", "n", "r", "ρ", "training", "accuracy", "test", "accuracy"]
    number = r"−?\d\.\d{4} \[−?\d\.\d{4}, −?\d\.\d{4}\]"
    for row, setting in zip(rows, ("optimizer=sgd", "optimizer=adam"), strict=True):
        assert re.fullmatch(rf" *{setting} +2" + rf" +{number}" * 4, row), row
    again = equisep(*words)
    assert "4 of 4 runs are already done" in again.err
    assert again.out == sweep.out
    status = equisep("status")
    assert len(status.out.splitlines()) == 5
    assert "sgd 0.03" in status.out


def test_the_table_of_a_sweep_counts_networks_without_a_value(equisep: Command) -> None:
    sweep = equisep(
        "-m", *SHORT, "architecture.depth=4", "optimizer.learning_rate=1e-3,1e30", "optimizer=sgd", "seed=1,2"
    )
    _, _, first, second = sweep.out.splitlines()
    assert re.match(r" *optimizer.learning_rate=0.001 +2 −0\.", first)
    assert re.fullmatch(r" *optimizer.learning_rate=1e\+30 +2 +2 diverged", second)


def test_a_sweep_with_a_failing_job_runs_the_others_and_exits_non_zero(equisep: Command, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        equisep("-m", *SHORT, "architecture.depth=12,8")
    assert ended.value.code == 2
    assert [run.state()["state"] for run in all_runs(tmp_path / "results")] == ["done"]


def test_status_shows_r_and_filters(equisep: Command, trained: Path) -> None:
    shown = equisep("status", f"results={trained}", "optimizer.kind=sgd", "state=done", "seed=1")
    header, row = shown.out.splitlines()
    values = dict(zip(header.split(), row.split(), strict=False))
    (run,) = [run for run in all_runs(trained) if run.id == values["run"]]
    assert run.config()["optimizer"]["kind"] == "sgd"
    (last,) = [
        record
        for measurement in run.load_measures().values()
        for record in measurement.records
        if (record.epoch, record.split) == (2, "train")
    ]
    law = last.law()
    assert law is not None
    assert (values["r"], values["decay_ratio"]) == (f"{law.pearson_r:.4f}", f"{law.decay_ratio:.4f}")
    for words in (["architecture.depth=8"], [f"run={run.id[:6]}"], ["dataset.label_seed=null"]):
        assert run.id in equisep("status", f"results={trained}", *words).out
    for words in (["state=failed"], ["architecture.depth=20"], ["run=zz"]):
        assert equisep("status", f"results={trained}", *words).out == f"no runs under {trained}/runs match\n"


def test_status_shows_the_runs_that_a_living_sweep_will_train(
    equisep: Command, configure: Callable[..., Config], tmp_path: Path
) -> None:
    config = to_plain(configure("architecture.depth=8"))
    with planned_runs(tmp_path, {"0123456789abcdef": config}):
        _, row = equisep("status", f"results={tmp_path}").out.splitlines()
        assert row.split()[:4] == ["0123456789abcdef", "waiting", "0", "2"]
        assert equisep("status", f"results={tmp_path}", "state=done").out.startswith("no runs")
    assert equisep("status", f"results={tmp_path}").out == f"no runs under {tmp_path}/runs\n"
    assert not list((tmp_path / "sweeps").iterdir())


# What was typed, and what the one line of the answer must say: field, value and remedy; … stands for other words.
MISTAKES = {
    "satus": "satus: no such command; did you mean status?",
    "help": "help: no such command; see equisep --help",
    "--mutlirun": "--mutlirun: no such option; did you mean --multirun",
    "--multirun=5 seed=1": "--multirun=5: --multirun takes no value",
    "--config-dir=nowhere seed=1": "--config-dir nowhere: no such folder",
    "--config-dir nowhere seed=1": "--config-dir nowhere: no such folder",
    "seed=3 show last": "show: a command comes first: equisep show",
    "architecture.depth=4,8": "architecture.depth=4,8: is a sweep; add -m to the command",
    "-m seed=range(4,1)": "the sweep has no runs: one of its ranges or lists is empty",
    "measure.epochs=5": "measure.epochs=5: must be a list, such as [5]",
    "dataset.size=3000000": "dataset.size=3000000: must be at most 4096 pixels",
    "--cfg jbo": "--cfg jbo: choose one of job, hydra, all",
    "depth=8": "depth: no such field or group; did you mean architecture.depth?",
    "architecture.dpeth=8": "architecture.dpeth: no such field or group; did you mean architecture.depth",
    "architecture.depth": "architecture.depth: must be KEY=VALUE",
    "=3": "=3: must be KEY=VALUE",
    "~seed": "~seed: every field of the config is needed; set seed=",
    "+colour=red": "colour: no such key; choose one of architecture, dataset",
    "architecture=fnnn": "architecture=fnnn: no such option; did you mean fnn?",
    "optimizer=sdg": "optimizer=sdg: no such option; did you mean sgd?; choices: adam, momentum, sgd",
    "-m seed=1,2 optimizer=sgd,adm": "optimizer=adm: no such option; did you mean adam?",
    "experiment=optimizer": "experiment=optimizer: no such option; did you mean optimizers?",
    "experiment=optimizers": "experiment=optimizers: is a sweep; add -m",
    "architecture.depth=four": "architecture.depth=four: must be an integer",
    "architecture.depth=0": "architecture.depth=0: a feed-forward network needs at least 2 layers",
    "architecture.depth=12": "architecture.depth=12: no rate in … ; set one, for example optimizer.learning_rate=0.001",
    "-m seed=1,2 architecture.depth=4,6x": "architecture.depth=6x: must be an integer",
    "optimizer.learning_rate=-1": "optimizer.learning_rate=-1.0: must be positive",
    "optimizer.momentum=2": "optimizer.momentum=2.0: must be at least 0 and below 1",
    "training.batch_size=0": "training.batch_size=0: must be at least 2",
    "training.epochs=1.5": "training.epochs=1.5: must be an integer",
    "seed=-1": "seed=-1: must be 0 … 4294967295",
    "seed=": "seed=: must be an integer",
    "dataset.per_class=100000 training=smoke": "class 0 has 6000 training images; lower dataset.per_class",
    "measure.view=blok": "measure.view=blok: choose one of layer, block",
    "measure.epochs=[7] training=smoke": "measure.epochs=[7]: choose from the epochs [0, 2]",
    "compute.device=gpu": "compute.device=gpu: no such device; choose one of auto, cpu, cuda",
    "compute.engine=fast": "compute.engine=fast: choose one of auto, native, batched",
    "architecture.norm=layer": (
        "architecture.norm=layer: replaces batch normalisation; set architecture.batch_norm=false"
    ),
    "architecture.norm=group": "architecture.norm=group: set layer or null",
    "architecture.initialisation=xavier": "architecture.initialisation=xavier: set kaiming or null",
    "measure.order=sorted": "measure.order=sorted: choose one of stored, shuffled, stratified",
    "measure.order_seed=-1": "measure.order_seed=-1: must be 0 … 4294967295",
    "measure.batch_norm=expected measure.components=10": "measure.components=10: not with measure.batch_norm=expected",
    "measure=stratified measure.batch_size=9 training=smoke": (
        "measure.order='stratified': class 0 has 100 images for 112 batches; set a larger batch_size"
    ),
    "measure.permutation_seed=0 architecture=fnn_widths architecture.widths=[9,8,7] optimizer.learning_rate=1e-3": (
        "measure.permutation_seed=0: the hidden layers have different widths and cannot be permuted; set null"
    ),
    "measures=[papr]": "measures=papr: no such convention; did you mean paper?; choices: evaluation, paper, shuffled",
    "measures=[paper,paper]": "measures=[paper,paper]: must be distinct",
    "measures=[paper,evaluation] measure.batch_norm=running": (
        "measure.batch_norm=running: measures=[paper,evaluation] supplies it; set measures=null"
    ),
    "measures=paper": "measures=paper: must be a list, such as [paper]",
    "compute.checkpoint_seconds=-1": "compute.checkpoint_seconds=-1.0: must be at least 0",
    "compute.threads=0": "compute.threads=0: must be at least 1",
    "tracking=of": "tracking=of: no such option; did you mean off?",
    "results=/etc/hostname training=smoke": "results=/etc/hostname: … ; set a folder that can be written to",
    "-m hydra/launcher=slrum": "hydra/launcher=slrum: no such option; did you mean slurm?",
    "-m hydra.launcher.max_member=3": "hydra.launcher.max_member: no such field; did you mean hydra.launcher.max_memb",
    "-m hydra.launcher.max_members=0 training=smoke": "hydra.launcher.max_members=0: must be at least 1",
    "show": "show: the following arguments are required: run; see equisep show --help",
    "show zzz": "run zzz: no runs under results/runs; train one",
    "show results=other": "show: results=other: name a run first: its id, the beginning of it, or last",
    "show last --split tset": "--split: invalid choice: 'tset'",
    "figure": "figure: the following arguments are required: name",
    "figure optimisers": "figure optimisers: no such figure; did you mean optimizers?",
    "figure optimizers profil=cpu": "profil: no such field or group; did you mean profile?",
    "figure optimizers profile=cp": "profile=cp: no such profile; choose one of cpu, headline, paper, reference",
    "figure optimizers seed": "seed: unknown argument; use KEY=VALUE overrides, profile=NAME",
    "figure optimizers source=nowhere": "source=nowhere: neither a results folder",
    "figure all optimizers": "optimizers: unknown argument; use profile=NAME, source=SOURCE, tables=FOLDER",
    "figure all tables=nowhere": "tables=nowhere: no folder NAME with a table NAME.csv of an experiment",
    "figure all tables=nowhere seed=1": "tables=nowhere: can be combined with results=FOLDER only",
    "figure all profile=cp": "profile=cp: no such profile; choose one of",
    "figure optimizers tables=nowhere": "nowhere/optimizers.csv cannot be read (No such file or directory)",
    "reproduce gpu": "profile=gpu: no such profile; choose one of cpu, headline, paper, reference",
    "reproduce headline sead=1": "sead: no such field or group; did you mean seed",
    "report results=nowhere": "results=nowhere: contains no verdicts; run equisep reproduce",
    "report profile=cpu": "report: profile=cpu: unknown argument; use results=FOLDER",
    "status satte=done": "satte: no such filter; did you mean state?",
    "status state=dnoe": "state=dnoe: choose one of new, waiting, running",
    "status state=done state=failed": "state=: must be set once",
    "status done": "status: done: must be KEY=VALUE",
    "mirror trackin=online": "trackin: no such field or group; did you mean tracking",
    "mirror --run zzz": "run zzz: no runs under results/runs",
    "dashboard --entity me": "dashboard: the following arguments are required: --project",
    "page port=8808": "page: port=8808: unknown argument; use source=SOURCE or results=FOLDER",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_answered_in_one_line_with_the_remedy(typed: str, equisep: Command) -> None:
    ended = equisep(*typed.split())
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert re.match(r"\w+: ", line)
    assert all(part in line for part in MISTAKES[typed].split(" … ")), line


def test_a_store_without_runs_says_so(equisep: Command) -> None:
    assert equisep("status").out == "no runs under results/runs\n"


def test_output_may_be_cut_and_need_not_be_unicode(trained: Path) -> None:
    show = f"{sys.executable} -m equisep show last results={trained}"
    cut = subprocess.run(
        f"{sys.executable} -m equisep --help | head -1; {show} | head -1", shell=True, capture_output=True
    )
    assert (cut.returncode, cut.stderr) == (0, b"")
    latin = subprocess.run(show.split(), env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True)
    assert (latin.returncode, latin.stderr) == (0, b"")
    assert b"decay ratio ? = 0." in latin.stdout
