from .architectures import (
    FAMILIES as FAMILIES, AlexNet as AlexNet, Architecture as Architecture, Convolutional as Convolutional, Custom as Custom, DenseNet as DenseNet,
    FeedForward as FeedForward, ResNet as ResNet, Vgg as Vgg,
)
from .compose import (
    compose_config as compose_config, compose_sweep as compose_sweep, format_config_error as format_config_error, register as register, sweep_grid as sweep_grid, validate_config as
    validate_config,
)
from .conventions import (
    ALL_CONVENTIONS as ALL_CONVENTIONS, PAPER as PAPER, by_convention as by_convention, convention_of as convention_of, conventions as conventions, has_batch_norm as has_batch_norm,
)
from .datasets import CustomDataset as CustomDataset, Dataset as Dataset
from .identity import (
    NOT_IN_IDENTITY as NOT_IN_IDENTITY, NOT_MEASURE as NOT_MEASURE, PROTOCOL as PROTOCOL, architecture_from_plain as architecture_from_plain, dataset_from_plain as dataset_from_plain,
    config_hash as config_hash, from_plain as from_plain, identity_of_measure as identity_of_measure,
    identity_of_robustness as identity_of_robustness, measure_id as measure_id, robustness_id as robustness_id,
    run_id as run_id, to_plain as to_plain,
)
from .schema import (
    Compute as Compute, Config as Config, Measure as Measure, Optimizer as Optimizer, Robustness
    as Robustness, Tracking as Tracking, Training as Training,
)
from .targets import (
    call_target as call_target, describe_error as describe_error, digest_of as digest_of, find_target as find_target,
    parameters_of as parameters_of, place_of as place_of,
)
from .validation import (
    ConfigError as ConfigError, EquisepError as EquisepError, not_writable as not_writable, require as require,
    require_extra as require_extra, require_integer as require_integer, require_one_of as require_one_of,
)
from .vocabulary import (
    conf_folder as conf_folder, conf_folders as conf_folders, own_conf_folder as own_conf_folder, profile_files as profile_files, use_own_conf as use_own_conf, field_names as field_names, group_options as group_options, nearest as nearest, refuse_unknown_words as refuse_unknown_words, in_hydra_grammar as in_hydra_grammar,
)
