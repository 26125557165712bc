from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from equisep.config import (
    NOT_MEASURE,
    ConfigError,
    compose_config,
    conf_folder,
    config_hash,
    format_config_error,
    from_plain,
    schema,
    to_plain,
)
from equisep.config.identity import NOT_IN_IDENTITY, identity_of_run

GROUPS = [
    f"{file.parent.name}={file.stem}"
    for group in ("architecture", "dataset", "optimizer", "training", "measure", "compute", "tracking", "experiment")
    for file in sorted((conf_folder() / group).glob("*.yaml"))
    if file.stem != "subset_666"
]


@pytest.mark.parametrize("choice", GROUPS)
def test_every_config_file_composes_and_starts_with_a_comment(choice: str) -> None:
    own = {"architecture=custom": "torch.nn.Linear", "dataset=custom": "CIFAR100"}
    named = [f"{choice.partition('=')[0]}.target={own[choice]}"] if choice in own else []
    config = compose_config([choice, *named, "optimizer.learning_rate=1e-3"])
    assert from_plain(to_plain(config)) == config
    group, name = choice.split("=")
    lines = (conf_folder() / group / f"{name}.yaml").read_text().splitlines()
    if group == "experiment":
        assert lines[1] == f"# python -m equisep -m experiment={name}"
    assert lines[0].startswith("# ")


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("architecture.dept=4", "dept"),
        ("+architecture.dept=4", "did you mean architecture.depth"),
        ("+learning_rate=1", "learning_rate: no such key"),
        ("architecture.depth=deep", "architecture.depth=deep: must be an integer"),
        ("seed=null", "seed=null: must have a value"),
        (
            "optimizer.arguments=[1]",
            r"optimizer.arguments=\[1\]: must be a mapping; set optimizer.arguments.NAME=VALUE",
        ),
        ("architecture.depth=1", "at least 2 layers"),
        ("architecture.depth=12", r"no rate in optimizer.learning_rates \(4: 0.003, 8: 0.001, 20: 0.0003\)"),
        ("architecture.family=resnet", "choose one of fnn"),
        ("optimizer.learning_rates={8: -1}", r"optimizer.learning_rates=.*8: -1.0.*: must be positive"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate=inf"),
        ("optimizer.weight_decay=inf", "optimizer.weight_decay=inf"),
        ("dataset.mean=[nan]", "finite"),
        ("results=", "results=.*folder"),
        ("optimizer=lion", "optimizer=lion: no such option; choices: adam, momentum, sgd"),
        ("optimizer.kind=lion", "choose one of sgd, adam"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate=0"),
        ("optimizer.momentum=0.9", "adam has no momentum"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1"),
        ("dataset.std=[0.5,0.5]", "dataset.std=.*as many values"),
        ("dataset.channel=1", "dataset.channel=1"),
        ("dataset.subset_seed=-1", "dataset.subset_seed=-1"),
        ("dataset.source=web", "choose one of auto, folder"),
        ("training.epochs=-1", "training.epochs=-1"),
        ("training.batch_size=1", "training.batch_size=1: must be at least 2"),
        ("training.milestones=[400,200]", "ascending"),
        ("measure.batch_norm=both", "choose one of batch, running"),
        ("architecture.depth=null", "at least 2 layers"),
        ("architecture.widths=[10,20]", "architecture.widths=.*architecture=fnn_widths"),
        ("architecture.activation=tanh", "choose one of relu, identity"),
        ("training.phases=[{start: 1, first: 1, last: 2}]", "training.phases=.*the first at epoch 0"),
        ("training.phases=[{start: 0, first: 3, last: 2}]", "1 ≤ first ≤ last"),
        ("training.phases=[{start: 0, first: 1}]", "last"),
        ("training.frozen_decay=true", "training.frozen_decay=True.*set training.phases"),
        ("measure.view=stage", "choose one of layer, block"),
        ("measure.components=0", "measure.components=0.*or null"),
        ("seed=-1", "seed=-1"),
        ("seed=???", "seed"),
        ("compute.threads=0", "compute.threads=0"),
        ("tracking.mode=loud", "choose one of offline, online, off"),
        ("tracking.project=a/b", "tracking.project=a/b: must not contain /"),
    ],
)
def test_a_wrong_key_type_or_value_raises_a_one_line_error(override: str, pattern: str) -> None:
    with pytest.raises((ConfigError, HydraException)) as raised:
        compose_config([override])
    message = format_config_error(raised.value)
    assert "\n" not in message
    assert re.search(pattern, message), message


@pytest.mark.parametrize(
    ("architecture", "override", "pattern"),
    [
        ("vgg13", "architecture.depth=12", "VGG has 11, 13, 16 or 19 layers"),
        ("vgg13", "architecture.width_multiplier=0.1", "architecture.width_multiplier=0.1.*0.125"),
        ("alexnet", "architecture.kernel=4", "architecture.kernel=4.*odd"),
        ("resnet_two_layer", "architecture.blocks=[]", "architecture.blocks=.*at least one block"),
        ("resnet_two_layer", "architecture.kernels=[3]", "architecture.kernels=.*architecture.blocks"),
        ("densenet", "architecture.growth=0", "architecture.growth=0"),
        ("fnn_widths", "architecture.widths=[10,0]", "at least 1 unit"),
        ("fnn_widths", "architecture.width=3", "architecture.widths=.*depth and width"),
        ("vgg13", "seed=1", "architecture.depth=13: .*for example optimizer.learning_rate=0.001"),
        ("alexnet", "seed=1", "optimizer.learning_rate=null.*architecture.family=alexnet"),
    ],
)
def test_an_invalid_architecture_raises_a_one_line_error(architecture: str, override: str, pattern: str) -> None:
    rate = [] if override == "seed=1" else ["optimizer.learning_rate=1e-3"]
    with pytest.raises(ConfigError, match=pattern) as raised:
        compose_config([f"architecture={architecture}", override, *rate])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [("sgd", (0.3, 0.03, 0.01)), ("momentum", (0.3, 0.01, 0.001)), ("adam", (3e-3, 1e-3, 3e-4))],
)
def test_learning_rates_by_depth_are_those_of_the_paper(optimizer: str, rates: tuple[float, ...]) -> None:
    for depth, rate in zip((4, 8, 20), rates, strict=True):
        config = compose_config([f"optimizer={optimizer}", f"architecture.depth={depth}"])
        assert config.optimizer.learning_rate == rate


def test_the_default_config_is_the_protocol_of_the_paper() -> None:
    config = compose_config([])
    assert (config.training.epochs, config.training.batch_size, config.training.milestones) == (600, 128, [200, 400])
    assert (config.dataset.per_class, config.dataset.subset_seed, config.seed) == (100, 666, 666)
    assert config.training.kept_epochs() == (0, 10, 20, 30, 50, 100, 200, 300, 600)
    assert (config.measure.batch_norm, config.measure.batch_size) == ("batch", 100)


def test_the_identity_of_a_run_excludes_only_execution_settings() -> None:
    whole = OmegaConf.create(to_plain(compose_config([])))
    # The hash of the first runs, before fields were added.
    assert config_hash(compose_config([])) == "7c6ee6efd72a10b1"
    identity = identity_of_run(compose_config([]))
    for name in NOT_IN_IDENTITY:
        assert OmegaConf.select(whole, name, throw_on_missing=True) is not None
        group, key = name.split(".")
        assert key not in identity[group]
    assert set(NOT_MEASURE) <= set(whole.measure)
    same = compose_config(["dataset.root=elsewhere", "optimizer.learning_rate=1e-3", "training.snapshots=[0]"])
    assert identity_of_run(same) == identity
    for override in (
        "seed=1",
        "optimizer.weight_decay=0",
        "architecture.width=99",
        "training.epochs=599",
        "dataset.label_seed=0",
    ):
        assert identity_of_run(compose_config([override])) != identity


def test_every_field_of_the_schema_has_a_docstring() -> None:
    """A docstring follows each field of the config classes."""
    source = Path(schema.__file__).read_text()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef) or not node.decorator_list:
            continue
        for field, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert described, f"{node.name}.{ast.unparse(field.target)}"
