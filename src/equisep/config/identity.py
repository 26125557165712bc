"""The parts of a configuration that identify a run or an evaluation, and the ids computed from them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf

from equisep.config.architectures import FAMILIES, Architecture
from equisep.config.datasets import Dataset, dataset_kind
from equisep.config.schema import Config, Measure, Robustness

# To be raised with every change that makes equal configurations give other results.
PROTOCOL = 1
# Fields of the identity's groups that do not change the trained network: where the data come from, the table a
# learning rate was looked up in, and the epochs whose weights are kept.
NOT_IN_IDENTITY = ("dataset.root", "dataset.source", "optimizer.learning_rates", "training.snapshots")
# Fields added after the first runs: left out of the identity at the value that those runs had.
ADDED_LATER: dict[str, Any] = {
    "dataset.label_seed": None,
    "architecture.norm": None,
    "architecture.initialisation": None,
    "optimizer.arguments": {},
    "training.schedule": "step",
    "training.warmup": 0,
    "training.loss": "cross_entropy",
}
# Fields of measure that select snapshots or set a memory limit, and do not change D.
NOT_MEASURE = ("epochs", "test_epochs", "test_every_snapshot", "memory_limit")


def run_id(config: Config, data_digest: str) -> str:
    """Return the id of a run: 16 hex digits of the hash of config identity, training tensors and protocol."""
    return _hash({"science": config_hash(config), "data": data_digest, "protocol": PROTOCOL})


def config_hash(config: Config) -> str:
    """Return the hash of a config's identity alone, 16 hex digits; it needs no data."""
    return _hash(identity_of_run(config))


def measure_id(measure: Measure) -> str:
    """Return the id of a measurement within its run: 8 hex digits of the hash of its identity."""
    return _hash(identity_of_measure(measure))[:8]


def robustness_id(robustness: Robustness, measure: Measure) -> str:
    """Return the id of a robustness evaluation within its run: 8 hex digits of the hash of its identity."""
    return _hash(identity_of_robustness(robustness, measure))[:8]


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def identity_of_run(config: Config) -> dict[str, Any]:
    """Return the part of the config that identifies a run, as plain containers."""
    plain = to_plain(config)
    identity = {name: plain[name] for name in ("architecture", "dataset", "optimizer", "training", "seed")}
    for name in NOT_IN_IDENTITY:
        group, key = name.split(".")
        del identity[group][key]
    for name, original in ADDED_LATER.items():
        group, key = name.split(".")
        # Only feed-forward networks have some of the fields.
        if identity[group].get(key, original) == original:
            identity[group].pop(key, None)
    return identity


def identity_of_measure(config: Measure) -> dict[str, Any]:
    """Return the part of a measure's config that identifies a measurement, as plain containers."""
    identity = {name: value for name, value in to_plain(config).items() if name not in NOT_MEASURE}
    # Measures in stored order, of layers as trained, were taken before there were others.
    if config.order == "stored":
        del identity["order"], identity["order_seed"]
    if config.permutation_seed is None:
        del identity["permutation_seed"]
    return identity


def identity_of_robustness(config: Robustness, measure: Measure) -> dict[str, Any]:
    """Return the identity of a robustness evaluation: its config and that of the measure of D."""
    return to_plain(config) | {"measure": identity_of_measure(measure)}


def to_plain(config: Any) -> dict[str, Any]:
    """Return a typed config as plain dicts and lists."""
    return asdict(config)


def from_plain(plain: dict[str, Any]) -> Config:
    """Return the config stored in a run's config.yaml; keys that Config does not have are ignored."""
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Config) if is_dataclass(field.type)}
    kinds["architecture"] = FAMILIES[plain["architecture"]["family"]]
    kinds["dataset"] = dataset_kind(plain["dataset"])
    groups = {name: _from_plain(kind, plain[name]) for name, kind in kinds.items()}
    groups["robustness"] = _from_plain(Robustness, plain["robustness"]) if plain.get("robustness") else None
    return Config(
        **groups, measures=plain.get("measures"), **{name: plain[name] for name in ("seed", "experiment", "results")}
    )


def architecture_from_plain(plain: dict[str, Any]) -> Architecture:
    """Return the architecture, of its family's class, that plain containers describe."""
    architecture: Architecture = _from_plain(FAMILIES[plain["family"]], plain)
    return architecture


def dataset_from_plain(plain: dict[str, Any]) -> Dataset:
    """Return the data set, of ours or custom, that plain containers describe."""
    dataset: Dataset = _from_plain(dataset_kind(plain), plain)
    return dataset


def _from_plain(kind: Any, plain: dict[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), plain))
