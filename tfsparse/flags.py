"""absl flags -> frozen configs. The only place that defines flags."""

from __future__ import annotations

import dataclasses
import os
import sys

from absl import flags

from tfsparse.deploy.export import FORMATS
from tfsparse.layers.filter import FORMS
from tfsparse.layers.variational_scale import SCALE_PRIORS
from tfsparse.methods import METHODS
from tfsparse.methods.base import numbers
from tfsparse.methods.bayesian_compression import SCALES
from tfsparse.methods.gsparsity import PARTITIONS
from tfsparse.optimizers.proxsgd import SCALINGS, TAUS
from tfsparse.records import CURVATURES

STRATEGIES = ("none", "mirrored")
OPTIMIZERS = ("adam", "sgd")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does. One field a flag, same names."""

    data: str = "mnist"
    data_dir: str | None = None
    validation: float = 0.1
    image_size: int = 0
    augment: str = ""
    model: str = "lenet5"
    width: float = 1.0
    hidden: tuple[int, ...] = ()
    method: str = "shrinknets"
    strength: float = 4e-3
    form: str = "relu"
    gamma: float = 0.99
    decay: float = 1e-4
    power: int = 2
    initial: str = "uniform"
    features: bool = False
    eps: float = 0.5
    rho: float = 0.1
    tau: str = "constant"
    scaling: str = "none"
    partition: str = "unit"
    carriers: bool = True
    threshold: float = 1e-6
    layer_thresholds: str = ""
    prior: str = "normal_jeffreys"
    scales: str = "groups"
    deviations: str = ""
    tail: float = 1e-5
    conv_shapes: str = "shape+filter"
    dense_shapes: str = "row+column"
    loop_epochs: int = 3
    curvature: str = "recursive"
    largest_factor: float = 10.0
    pretrain_epochs: int = 1
    warm_up_epochs: int = 4
    ignore: str = ""
    multipliers: str = ""
    dense_epochs: int = 0
    from_dense: bool = False
    epochs: int = 20
    shrink_epochs: int = 10
    target: str = ""
    trials: int = 0
    remove: bool = True
    hold_zeros: bool = False
    optimizer: str = "adam"
    weight_decay: float = 0.0
    drop_every: int = 0
    learning_rate: float = 3e-3
    settle_learning_rate: float = 2e-3
    fine_tune_epochs: int = 5
    fine_tune_optimizer: str = "same"
    fine_tune_learning_rate: float = 1e-3
    distill: float = 0.0
    distill_temperature: float = 3.0
    batch_size: int = 128
    calibration_samples: int = 512
    seed: int = 0
    strategy: str = "none"
    formats: tuple[str, ...] = FORMATS
    tensorboard: bool = True
    workdir: str = "runs/default"


LOCATIONS = ("workdir", "data_dir", "tensorboard")
"""Flags that do not change what is computed, so a resumed run may change them."""

_HELP = {
    "data": "TFDS name, 'digits', an .npz file, or a folder of class folders of images.",
    "data_dir": "Folder of TFDS; by default TFDS_DATA_DIR or TFDS's own.",
    "validation": "Fraction of the training split held out for decisions.",
    "image_size": "Side that images are cut to; those of a folder then stay on disk.",
    "augment": "List such as shift=2,rotate=10,flip,crop=2,cutout=6,resized_crop=0.08.",
    "model": "Zoo name, a .keras file, or package.module:function.",
    "width": "Multiplies the units of every hidden layer of a zoo model.",
    "hidden": "Hidden layers of the model 'mlp'.",
    "method": "Which method decides what goes; 'none' trains the model as it is.",
    "strength": "Penalty; larger is sparser (lambda, mu, gamma). By default the method's.",
    "form": "Switches: the draft's relu, or signed with the sign-variance rule.",
    "gamma": "Inertia of the sign-variance rule; 0 kills at the first change of sign.",
    "decay": "ShrinkNets' lambda_2, the decay of the kernels.",
    "power": "The decay's exponent, 1 or 2.",
    "initial": "Switches start 'uniform', or at 'ones' for a trained model.",
    "features": "Whether the inputs of a Dense behind input or Flatten get switches.",
    "eps": "GSparsity, BayesNAS: step size in (0, 1].",
    "rho": "GSparsity, BayesNAS: weight of the new gradient in the average, in (0, 1].",
    "tau": "GSparsity: curvature 1, or RMS of the gradients by group or element.",
    "scaling": "GSparsity: mu as it is, or times or divided by the root of a group's size.",
    "partition": "GSparsity: what dies together, units or shapes of single kernels.",
    "carriers": "GSparsity: whether biases and BatchNorm scales belong to a unit.",
    "threshold": "Beyond it a group or weight is dead: GSparsity, a norm; SparseVD, log "
    "alpha. By default the method's.",
    "layer_thresholds": "SparseVD: layers' own thresholds, such as dense*=2.5; Bayesian "
    "compression: factors' (by default in the widest gap of the scores), such as fc1*=-3.",
    "prior": "Bayesian compression: prior of the factors on units.",
    "scales": "Bayesian compression: factors on groups of units, or on layers (the paper).",
    "deviations": "Bayesian compression: bounds on sigma of layers' weights: fc1=0.2.",
    "tail": "Bayesian compression: tau_0, the scale of the horseshoe's shared factor.",
    "conv_shapes": "BayesNAS: shapes of the groups of convolutions, joined by '+'.",
    "dense_shapes": "BayesNAS: the same of Dense layers; row is an input, column an output.",
    "loop_epochs": "BayesNAS: epochs between two updates of the penalty.",
    "curvature": "BayesNAS: how the diagonal Hessian is estimated.",
    "largest_factor": "BayesNAS: bound on omega, the weight of a group's penalty.",
    "pretrain_epochs": "Bayesian methods: N1, epochs without the divergence.",
    "warm_up_epochs": "Bayesian methods: N2, epochs over which its weight rises.",
    "ignore": "Patterns of groups (Bayesian methods: of layers) without a penalty: stem*.",
    "multipliers": "Factors on the penalty of groups, such as stage2*=2; Bayesian methods: on "
    "that of layers and random factors.",
    "dense_epochs": "Also train the untouched model that long, to compare with.",
    "from_dense": "The sparse stage starts from the weights that dense training found.",
    "epochs": "Epochs of the sparse stage, those without penalty included.",
    "shrink_epochs": "The penalty lasts at most that many epochs.",
    "target": "Ends the penalty once met: params=8000, macs=0.1, ... (fractions remain).",
    "trials": "Bisect the strength to meet the target, in at most that many trials.",
    "remove": "Remove dead units from the running model, not only at its end.",
    "hold_zeros": "Weights that are zero before dense training or fine-tuning stay zero.",
    "optimizer": "Optimizer of every stage but a method's own.",
    "weight_decay": "Of that optimizer, decoupled from the gradient.",
    "drop_every": "Divide all rates by 10 every so many epochs, instead of the cosine.",
    "learning_rate": "While the penalty is on, constant.",
    "settle_learning_rate": "After it, falling to 0 along a cosine.",
    "fine_tune_epochs": "Epochs of the stripped model.",
    "fine_tune_optimizer": "For these; 'same' as --optimizer.",
    "fine_tune_learning_rate": "For these, falling to 0 along a cosine.",
    "distill": "Fine-tuning follows the dense stage's model, too: its share, in [0, 1].",
    "distill_temperature": "Larger tells more of the classes that it takes for unlikely.",
    "batch_size": "Samples a step, all replicas together.",
    "calibration_samples": "Training samples that set the int8 ranges.",
    "seed": "Of everything random.",
    "strategy": "'mirrored' trains on all GPUs with tf.distribute.",
    "formats": "What to export.",
    "tensorboard": "Write TensorBoard logs to <workdir>/logs.",
    "workdir": "Where every result goes.",
}
_CHOICES = {
    "method": (*sorted(METHODS), "none"),
    "form": FORMS,
    "initial": ("uniform", "ones"),
    "tau": TAUS,
    "scaling": tuple(SCALINGS),
    "partition": PARTITIONS,
    "curvature": CURVATURES,
    "prior": SCALE_PRIORS,
    "scales": SCALES,
    "optimizer": OPTIMIZERS,
    "fine_tune_optimizer": ("same", *OPTIMIZERS),
    "strategy": STRATEGIES,
}


_BY_METHOD = ("strength", "threshold")
"""Flags whose default is the method's own."""


def define(values: flags.FlagValues) -> None:
    """Defines one flag for each field of `RunConfig`, and --resume."""
    for field in dataclasses.fields(RunConfig):
        name, default, text = field.name, field.default, _HELP[field.name]
        if name in _CHOICES:
            flags.DEFINE_enum(name, default, _CHOICES[name], text, values)
        elif isinstance(default, bool):
            flags.DEFINE_bool(name, default, text, values)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, text, flag_values=values)
        elif isinstance(default, float):
            shown = None if name in _BY_METHOD else default
            flags.DEFINE_float(name, shown, text, flag_values=values)
        elif isinstance(default, tuple):
            flags.DEFINE_list(name, [str(v) for v in default], text, values)
        else:
            flags.DEFINE_string(name, default, text, values)
    flags.DEFINE_bool("resume", False, "Go on with the run in --workdir.", values)


def parse(arguments: list[str]) -> tuple[RunConfig, bool]:
    """Reads a command line.

    Args:
        arguments: The program's name, then `--flag=value`s and `--flagfile=...`s.

    Returns:
        The config, and whether to resume.

    Raises:
        ValueError: An unknown flag or a value that its flag does not take.
    """
    values = flags.FlagValues()
    flags.DEFINE_flag(
        flags.BooleanFlag("help", False, "Show all flags.", allow_hide_cpp=True), values
    )
    define(values)
    try:
        rest = values(arguments)
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if values.help:
        sys.stdout.write(
            f"{sys.modules[__name__].__doc__}\n{values.main_module_help()}"
        )
        sys.stdout.write(values.get_help())
        raise SystemExit(0)
    if len(rest) > 1:
        raise ValueError(f"Every argument must be a --flag. Received: {rest[1]!r}.")
    fields = {f.name: getattr(values, f.name) for f in dataclasses.fields(RunConfig)}
    try:
        fields["hidden"] = tuple(int(v) for v in fields["hidden"])
    except ValueError as error:
        raise ValueError(
            f"`--hidden` must be a list of whole numbers. Received: {values.hidden}."
        ) from error
    fields["formats"] = tuple(fields["formats"])
    own = (
        METHODS[fields["method"]]().get_config() if fields["method"] in METHODS else {}
    )
    for name in _BY_METHOD:
        if fields[name] is None:
            fields[name] = own.get(name, getattr(RunConfig, name))
    config = RunConfig(**fields)
    check(config)
    return config, values.resume


def check(config: RunConfig) -> None:
    """Checks what can be checked before any work is done.

    Raises:
        ValueError: A value outside its range.
    """
    positive = ("batch_size", "epochs", "calibration_samples", "learning_rate", "width")
    for name in positive:
        if not getattr(config, name) > 0:
            raise _wrong(config, name, "positive")
    for name in ("trials", "drop_every", "weight_decay", "dense_epochs",
                 "fine_tune_epochs", "shrink_epochs", "strength", "seed", "decay",
                 "settle_learning_rate", "fine_tune_learning_rate"):  # fmt: skip
        if not 0 <= getattr(config, name) < float("inf"):
            raise _wrong(config, name, "0 or more")
    for name in ("gamma", "validation", "distill"):
        if not 0 <= getattr(config, name) <= 1:
            raise _wrong(config, name, "in [0, 1]")
    if not 0.1 <= config.distill_temperature <= 100:  # float32 sees no answers beyond
        raise _wrong(config, "distill_temperature", "in [0.1, 100]")
    if config.seed >= 2**32:
        raise _wrong(config, "seed", "below 2**32")
    if config.power not in (1, 2):
        raise _wrong(config, "power", "1 or 2")
    if any(units < 1 for units in config.hidden):
        raise _wrong(config, "hidden", "a list of positive numbers")
    if not config.workdir or (
        os.path.exists(config.workdir) and not os.path.isdir(config.workdir)
    ):
        raise _wrong(config, "workdir", "a folder")
    unknown = set(config.formats) - set(FORMATS)
    if unknown or not config.formats:
        raise _wrong(config, "formats", f"among {', '.join(FORMATS)}")
    target = parse_target(config.target)
    for name, off in (("from_dense", "false"), ("distill", "0")):
        if getattr(config, name) and not config.dense_epochs:
            raise _wrong(config, name, f"{off} without --dense_epochs")
    if config.trials and not target:
        raise _wrong(config, "trials", "0 without a --target")
    if config.trials and not 1 <= config.shrink_epochs < config.epochs:
        raise _wrong(
            config, "shrink_epochs", "below --epochs and positive with --trials"
        )
    if config.trials and not config.strength:
        raise _wrong(config, "strength", "positive with --trials")
    if config.method != "none":
        method = method_of(config)
        last = config.epochs if method.stays else config.shrink_epochs
        method.check_epochs(min(config.epochs, last))
        method.check_target(target, config.trials)


def method_of(config: RunConfig):
    """The method that a config names, with the flags that its constructor knows.

    Raises:
        ValueError: One of them is outside its range.
    """
    chosen = METHODS[config.method]
    wanted = chosen().get_config()
    return chosen(**{key: getattr(config, key) for key in wanted})


def _wrong(config: RunConfig, name: str, wanted: str) -> ValueError:
    value = getattr(config, name)
    return ValueError(f"`--{name}` must be {wanted}. Received: --{name}={value}.")


def parse_target(text: str) -> dict[str, float] | None:
    """Reads `params=8000,macs=0.1`; None for an empty text.

    Raises:
        ValueError: A part that is not `measure=number`.
    """
    return numbers(text, "--target", "params=8000,macs=0.1") or None


def as_json(config: RunConfig) -> dict:
    """The config as JSON values."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
    }
