"""What planning must know of a network. Nothing here imports torch: a network is planned without being built.

A network's rules stand in :mod:`autoseg.networks.catalog`. Installed networks bring theirs as an entry point of the
group ``autoseg.network_rules`` under the network's name, or as the class attribute ``rules``; only the latter makes
planning import the class.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar, get_type_hints

from autoseg.assignments import parse_value
from autoseg.codec import from_plain, to_plain
from autoseg.errors import ArtifactError, SettingsError
from autoseg.plan import NetworkPlan, OptionValue

T = TypeVar("T")

_SIMILAR = 2.0  # spacings that differ less than this many times count as equal
SIZES = ("max_stages", "max_features")
"""Fields of NetworkRules that can be chosen for a network like its options, where the planner decides them."""
STYLE = ("norm", "activation", "dropout", "squeeze_excitation", "skip_gate", "checkpointing")
"""Fields of a NetworkPlan that say how blocks are made; a network lists those that it heeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Strides and kernels of an encoder, one entry per stage and axis; the first strides are all ones."""

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    @property
    def divisor(self) -> tuple[int, ...]:
        """Product of the strides per axis."""
        return tuple(math.prod(along_axis) for along_axis in zip(*self.strides, strict=True))


class StageRule(Protocol):
    """Says which stages a network has on a patch, where the planner's own rule does not suit it."""

    def __call__(self, spacing: Sequence[float], size: Sequence[float]) -> Stages:
        """Choose stages.

        Args:
            spacing: Millimeters per axis, 2 or 3.
            size: Voxels per axis of the patch; it will be rounded up to the divisor of the stages.
        """


def fixed_stages(*steps: int, along: Literal["all", "fine", "in_plane"] = "all") -> StageRule:
    """Make a rule for a network whose number of stages is fixed.

    Args:
        steps: Stride of every stage, the first being 1.
        along: Which axes a stage strides: "all"; "fine": those whose spacing is within 2 times the finest and that
            are long enough, so that voxels become isotropic; "in_plane": in 3D never the first.

    Example:
        >>> fixed_stages(1, 2, 2, along="fine")((5.0, 1.0, 1.0), (12, 64, 64)).strides
        ((1, 1, 1), (1, 2, 2), (1, 2, 2))
    """

    def rule(spacing: Sequence[float], size: Sequence[float]) -> Stages:
        ndim = len(spacing)
        now, left = list(spacing), [float(n) for n in size]
        strides, kernels, kernel = [], [], [1] * ndim
        for step in steps:
            shortest = min((now[a] for a in range(ndim) if left[a] >= 2 * step), default=min(now))
            fine = [now[a] / shortest < _SIMILAR and left[a] >= 2 * step for a in range(ndim)]
            chosen = {"all": [True] * ndim, "fine": fine, "in_plane": [ndim == 2 or a > 0 for a in range(ndim)]}[along]
            stride = tuple(step if is_chosen else 1 for is_chosen in chosen)
            now = [s * f for s, f in zip(now, stride, strict=True)]
            left = [math.ceil(n / f) for n, f in zip(left, stride, strict=True)]
            kernel = [3 if s / min(now) < _SIMILAR else k for s, k in zip(now, kernel, strict=True)]
            strides.append(stride)
            kernels.append((3,) * ndim if along == "all" else tuple(kernel))
        return Stages(strides=tuple(strides), kernel_sizes=tuple(kernels))

    return rule


def large_kernel_stages(*steps: int, kernel: int = 7) -> StageRule:
    """Make a rule for a network of fixed strides whose stages, the first excepted, have large depth-wise kernels.

    Axes are strided while they are fine and long enough; a stage that would stride none is left out. A kernel has
    ``kernel`` voxels along the finest axis and along the others as many as cover no more millimeters.

    Args:
        steps: Stride of every stage along the axes that it strides, the first being 1.
        kernel: Odd number of voxels.

    Example:
        >>> large_kernel_stages(1, 2, 2)((5.0, 1.0, 1.0), (12, 64, 64)).kernel_sizes
        ((1, 3, 3), (1, 7, 7), (5, 7, 7))
    """
    fixed = fixed_stages(*steps, along="fine")

    def rule(spacing: Sequence[float], size: Sequence[float]) -> Stages:
        stages = fixed(spacing, size)
        strides = [stages.strides[0], *(stride for stride in stages.strides[1:] if max(stride) > 1)]
        now, kernels = list(spacing), [stages.kernel_sizes[0]]
        for stride in strides[1:]:
            now = [s * f for s, f in zip(now, stride, strict=True)]
            kernels.append(tuple(_odd(kernel * min(now) / s) for s in now))
        return Stages(strides=tuple(strides), kernel_sizes=tuple(kernels))

    return rule


def _odd(value: float) -> int:
    """Largest odd number that is not above ``value``, at least 1."""
    return max(1, 2 * ((math.floor(value + 1e-6) - 1) // 2) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDefaults:
    """How the network was published to be trained; None keeps what the trainer does anyway.

    Args:
        optimizer: Taken where the run says "auto" and has no time budget.
        learning_rate: Taken with that optimizer where the run gives none.
        weight_decay: Likewise.
        schedule: Recommended in the plan's reasons.
        loss: Likewise.
    """

    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    loss: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRules:
    """What a network needs of its plan.

    Args:
        builder: ``package.module:Class``; empty where the rules come with the class.
        summary: What it is, in one line.
        source: Paper or program.
        dims: Numbers of axes that it can have.
        is_anisotropic: Whether strides and kernels may differ between axes; otherwise thin patches are padded.
        stages: Its stages on a patch; None takes the planner's.
        max_stages: The planner's stages are cut to these.
        smallest_edge: No axis of the patch is shorter.
        smallest_longest_edge: At least one axis of the patch is this long.
        smallest_median_edge: Refused where the median case is thinner than this along any axis.
        first_features: Feature maps of the highest resolution; they double with every stage.
        max_features: Largest number of feature maps in 2D and in 3D.
        feature_ratios: Feature maps per stage in those of the first, where they do not simply double up to a limit.
        feature_multiple: What numbers of feature maps must divide by.
        encoder_blocks: Blocks per encoder stage; deeper stages repeat the last entry.
        decoder_blocks: Blocks per decoder stage, lowest resolution first; further stages repeat the last entry.
        supervision: What its deep supervision gives.
        supervised_stages: Decoder stages with an output; None stands for all.
        auxiliary_weight: Weight of the loss of what it refines; 0 for networks that refine none.
        taps: Features that it can show: names of :meth:`SegmentationNetwork.tap_modules`.
        heeds: Which of :data:`STYLE` it heeds; others cannot be set.
        style: Values of those that differ from the defaults of a NetworkPlan.
        options: Dataclass of the options that only it has, all with defaults; None where there are none.
        host_option: Option that names another network inside of it, whose sizes and style count; "" for none.
        host_options: Options of that network, once it is known; see :meth:`within`.
        training: How it was published to be trained.
    """

    builder: str = ""
    summary: str = ""
    source: str = ""
    dims: tuple[int, ...] = (2, 3)
    is_anisotropic: bool = True
    stages: StageRule | None = None
    max_stages: int | None = None
    smallest_edge: int = 1
    smallest_longest_edge: int = 1
    smallest_median_edge: int = 1
    first_features: int = 32
    max_features: tuple[int, int] = (512, 320)
    feature_ratios: tuple[int, ...] | None = None
    feature_multiple: int = 4
    encoder_blocks: tuple[int, ...] = (2,)
    decoder_blocks: tuple[int, ...] = (2,)
    supervision: Literal["none", "pyramid", "nested"] = "pyramid"
    supervised_stages: int | None = None
    auxiliary_weight: float = 0.0
    taps: tuple[str, ...] = ()
    heeds: tuple[str, ...] = ()
    style: Mapping[str, OptionValue] = field(default_factory=dict)
    options: type[Any] | None = None
    host_option: str = ""
    host_options: type[Any] | None = None
    training: TrainingDefaults = TrainingDefaults()

    @property
    def sizes(self) -> tuple[str, ...]:
        """Which of :data:`SIZES` can be chosen: those that are not the network's own."""
        own = {"max_stages": self.stages is not None, "max_features": self.feature_ratios is not None}
        return tuple(name for name in SIZES if not own[name])

    def sized(self, choices: Sequence[str]) -> NetworkRules:
        """The rules with the limits that were chosen, e.g. "max_features=480"; other choices are left aside.

        Raises:
            SettingsError: When a limit is no positive whole number.
        """
        found: dict[str, Any] = {}
        for name, _, text in (choice.partition("=") for choice in choices):
            if name in self.sizes:
                limit = parse_value(name, text, int, option="--network-option")
                if limit < (self.feature_multiple if name == "max_features" else 1):
                    raise SettingsError(f"--network-option {name}={text}: too few for a network")
                found[name] = (limit, limit) if name == "max_features" else limit
        return replace(self, **found)

    def within(self, host: NetworkRules) -> NetworkRules:
        """The rules of a network that holds ``host`` and adds to it: sizes, style and other options are the host's."""
        return replace(self, host_options=host.options, **{name: getattr(host, name) for name in _HOSTED})

    @property
    def option_kinds(self) -> tuple[type[Any], ...]:
        """Dataclasses of the options that can be chosen: its own, and those of the network that it holds."""
        return tuple(kind for kind in (self.options, self.host_options) if kind is not None)

    def features(self, num_stages: int, ndim: int, *, width: float = 1.0) -> tuple[int, ...]:
        """Feature maps per stage.

        Args:
            num_stages: How many stages there are.
            ndim: Axes, 2 or 3.
            width: Share of the usual number; what comes out is a multiple of ``feature_multiple``.

        Example:
            >>> NetworkRules().features(5, 3), NetworkRules(feature_multiple=12).features(2, 3, width=0.5)
            ((32, 64, 128, 256, 320), (12, 36))
        """
        most, unit = self.max_features[0 if ndim == 2 else 1], self.feature_multiple
        if self.feature_ratios is not None:
            first = max(unit, round(self.first_features * width / unit) * unit)
            return tuple(first * ratio for ratio in self.feature_ratios[:num_stages])
        usual = [min(most, self.first_features * 2**stage) for stage in range(num_stages)]
        return tuple(usual if width == 1 else (max(unit, round(f * width / unit) * unit) for f in usual))


_HOSTED = (
    *("dims", "is_anisotropic", "stages", "max_stages", "smallest_edge", "smallest_longest_edge"),
    *("smallest_median_edge", "first_features", "max_features", "feature_ratios", "feature_multiple"),
    *("encoder_blocks", "decoder_blocks", "supervision", "supervised_stages", "taps", "heeds", "style"),
)


def read_options(network: NetworkPlan, kind: type[T]) -> T:
    """What a plan says about the options that only its network has.

    Args:
        network: The plan.
        kind: Dataclass whose fields are the options, all with defaults.

    Raises:
        SettingsError: When the plan has an option that there is not, or one of another type.
    """
    try:
        return from_plain(kind, dict(network.options), where=f"{network.name} options")
    except ArtifactError as error:
        raise SettingsError(str(error)) from None


def with_choices(network: NetworkPlan, rules: NetworkRules, choices: Sequence[str]) -> NetworkPlan:
    """Apply what the user chose for a network.

    Args:
        network: As the rules make it.
        rules: Say which options there are.
        choices: ``name=value`` each.

    Raises:
        SettingsError: When there is no such option, or its value is of the wrong type.
    """
    own = {name: hint for kind in reversed(rules.option_kinds) for name, hint in get_type_hints(kind).items()}
    style: dict[str, Any] = {}
    options: dict[str, OptionValue] = dict(network.options)
    for choice in choices:
        name, separator, text = choice.partition("=")
        if not separator:
            raise SettingsError(f"--network-option {choice}: write it as name=value")
        if name not in option_names(rules):
            known = ", ".join(option_names(rules)) or "none"
            raise SettingsError(f"the network {network.name} has no option {name!r}; it has {known}")
        if name in rules.sizes:
            continue  # decided before: see NetworkRules.sized
        if name in own:
            options[name] = to_plain(parse_value(name, text, own[name], option="--network-option"))
        else:
            style[name] = parse_value(name, text, get_type_hints(NetworkPlan)[name], option="--network-option")
    try:
        chosen = replace(network, options=options, **style)
    except ValueError as error:
        raise SettingsError(f"--network-option: {error}") from None
    for kind in rules.option_kinds:
        read_options(with_options_of(kind, chosen), kind)
    return chosen


def with_options_of(kind: type[Any], network: NetworkPlan) -> NetworkPlan:
    """The plan with those options alone that a dataclass has; the others are those of a network around or inside it."""
    names = {field.name for field in dataclasses.fields(kind)}
    return replace(network, options={name: value for name, value in network.options.items() if name in names})


def option_names(rules: NetworkRules) -> tuple[str, ...]:
    """Every option that can be chosen for a network."""
    supervision: tuple[str, ...] = () if rules.supervision == "none" else ("deep_supervision",)
    if rules.auxiliary_weight:
        supervision = ("deep_supervision", "auxiliary_weight")
    own = dict.fromkeys(f.name for kind in rules.option_kinds for f in dataclasses.fields(kind))
    return (*rules.heeds, *supervision, *own, *rules.sizes)
