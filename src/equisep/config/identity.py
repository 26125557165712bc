"""What of a configuration makes the identity of a run or of an evaluation, and the ids made of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from equisep.config.architectures import FAMILIES, Architecture
from equisep.config.schema import Compute, Config, Dataset, Measure, Optimizer, Robustness, Tracking, Training

# Raised whenever a change makes equal configurations give other results.
PROTOCOL = 1
# Fields inside the science groups that do not change what a trained network is: where the data come
# from, the table a learning rate was looked up in, and which epochs' weights are kept.
NOT_SCIENCE = ("dataset.root", "dataset.source", "optimizer.learning_rates", "training.snapshots")
# Science fields that came after the first runs: at the value that those runs had they are left out of the identity.
ADDED_SCIENCE = {"dataset.label_seed": None}
# Fields of measure that choose what is measured or how fast, not how.
NOT_MEASURE = ("epochs", "test_epochs", "test_every_snapshot", "memory_limit")


def run_id(config: Config, data_digest: str) -> str:
    """Return the name of the run a config describes: 16 hex digits over science, training tensors and protocol."""
    return _hash({"science": config_hash(config), "data": data_digest, "protocol": PROTOCOL})


def config_hash(config: Config) -> str:
    """Return a name of the science of a config alone, which needs no data to be known."""
    return _hash(identity_of_science(config))


def measure_id(measure: Measure) -> str:
    """Return the name of a measure beneath a run: 8 hex digits over its config."""
    return _hash(identity_of_measure(measure))[:8]


def robustness_id(robustness: Robustness, measure: Measure) -> str:
    """Return the name of a run's perturbations beneath it: 8 hex digits over their config and how D is taken."""
    return _hash(identity_of_robustness(robustness, measure))[:8]


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def identity_of_science(config: Config) -> dict[str, Any]:
    """Return the part of the config that makes a run's identity, as plain containers."""
    plain = to_plain(config)
    science = {name: plain[name] for name in ("architecture", "dataset", "optimizer", "training", "seed")}
    for name in NOT_SCIENCE:
        group, key = name.split(".")
        del science[group][key]
    for name, before in ADDED_SCIENCE.items():
        group, key = name.split(".")
        if science[group][key] == before:
            del science[group][key]
    return science


def identity_of_measure(config: Measure) -> dict[str, Any]:
    """Return the part of a measure's config that makes its identity, as plain containers."""
    plain = to_plain(config)
    for name in NOT_MEASURE:
        del plain[name]
    return plain


def identity_of_robustness(config: Robustness, measure: Measure) -> dict[str, Any]:
    """Return the identity of a measure of robustness: its config, and how D is taken."""
    return to_plain(config) | {"measure": identity_of_measure(measure)}


def to_plain(config: Any) -> dict[str, Any]:
    """Return a validate_config config as plain dicts and lists."""
    return asdict(config)


def from_plain(plain: dict[str, Any]) -> Config:
    """Return the config that a run's config.yaml holds; keys that are no config are left out."""
    kinds: dict[str, type] = {
        "dataset": Dataset,
        "optimizer": Optimizer,
        "training": Training,
        "measure": Measure,
        "compute": Compute,
        "tracking": Tracking,
    }
    groups: dict[str, Any] = {name: _from_plain(kind, plain[name]) for name, kind in kinds.items()}
    groups["architecture"] = architecture_from_plain(plain["architecture"])
    perturbations = plain.get("robustness")
    groups["robustness"] = _from_plain(Robustness, perturbations) if perturbations else None
    return Config(**groups, **{name: plain[name] for name in ("seed", "experiment", "results")})


def architecture_from_plain(plain: dict[str, Any]) -> Architecture:
    """Return the architecture of its family that plain containers hold."""
    architecture: Architecture = _from_plain(FAMILIES[plain["family"]], plain)
    return architecture


def _from_plain(kind: type, plain: dict[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), plain))
