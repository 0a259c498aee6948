"""Fit any network into memory, by what its training step was found to take (autoseg.networks.memory).

Knobs in this order: a batch of two, a smaller patch, feature maps computed twice instead of kept, fewer feature maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoseg.errors import PlanError
from autoseg.labels import LabelScheme
from autoseg.networks.catalog import NETWORKS, planned_rules
from autoseg.networks.rules import NetworkRules
from autoseg.plan import Configuration, NetworkPlan, Plan
from autoseg.planners.budget import SMALLEST_BATCH, starting_patch_size
from autoseg.planners.network_planning import plan_network, require_thick_enough, topology_for
from autoseg.planners.preset import PlannerPreset
from autoseg.planners.stacks import plane_of
from autoseg.planners.topology import Topology
from autoseg.planners.wording import counted, voxels
from autoseg.planning import MemoryExcess, NetworkRequest, share_data

if TYPE_CHECKING:
    from autoseg.networks.memory import MemoryEstimate

_WIDTHS = (1.0, 0.75, 0.5, 0.25)
_ENOUGH_VOXELS = {2: 256**2, 3: 64**3}  # a patch is not made smaller before the other knobs are turned
_FIRST_GUESS = {2: 512**2, 3: 128**3 / 8}  # voxels per GB, where the search begins
_CLEARLY = 1.02  # a larger patch that would exceed the memory by more need not be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A patch with a network on it, and what a step with the smallest batch takes."""

    topology: Topology
    network: NetworkPlan
    memory: MemoryEstimate

    @property
    def voxels(self) -> int:
        """Of the patch."""
        return math.prod(self.topology.patch_size)

    def gigabytes_with(self, batch_size: int) -> float:
        """Memory of a step with a larger batch."""
        return self.memory.scaled(batch_size / SMALLEST_BATCH).gigabytes

    def gigabytes_on(self, num_voxels: int) -> float:
        """Memory of a step on a patch of another size, about."""
        return self.memory.scaled(num_voxels / self.voxels).gigabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedNetwork:
    """The configurations of a network, and why there is none in place of some of the planner's."""

    configurations: tuple[Configuration, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSizer:
    """Sizes one network for the configurations of a plan.

    Args:
        request: The network and its options.
        preset: Where patches start, and the largest batch.
        memory_gb: GPU memory to fit into.
        num_channels: Channels of the images.
        labels: What is segmented.
        case_voxels: Of the median case at full resolution.
        patch: Voxels per axis that were asked for, in the plan's order; None starts as the preset does.
    """

    request: NetworkRequest
    preset: PlannerPreset
    memory_gb: float
    num_channels: int
    labels: LabelScheme
    case_voxels: float
    patch: tuple[int, ...] | None = None

    @property
    def rules(self) -> NetworkRules:
        """What the network needs, with the limits that were chosen."""
        return planned_rules(self.request.name, self.request.options)

    def plan_all(self, planned: Sequence[Configuration], *, num_cases: int) -> SizedNetwork:
        """Plan the network for every configuration that it has a form for.

        Args:
            planned: The planner's own configurations; spacing and normalization are taken from them.
            num_cases: Training cases, whose voxels limit the batch.

        Raises:
            PlanError: When there is no configuration that the network has a form for, or that fits.
        """
        made, problems = list[Configuration](), list[str]()
        for configuration in planned:
            base = self._base_of(configuration).partition("@")[0]
            if configuration.ndim not in self.rules.dims or (self.request.bases and base not in self.request.bases):
                continue
            if configuration.previous_stage is not None:
                made += self._cascade(configuration, made)
                continue
            try:
                sizer = replace(self, num_channels=self.num_channels * configuration.context)
                made.append(sizer._plan(configuration, num_cases=num_cases))
            except PlanError as error:
                problems.append(f"{configuration.name}: {error}")
        if not made:
            wanted = " or ".join(self.request.bases or [f"{n}D" for n in self.rules.dims])
            reason = "; ".join(problems) or f"the dataset gives no {wanted} configuration"
            raise PlanError(f"the network {self.request.name} cannot be planned: {reason}")
        notes = tuple(f"{self.request.name} was not planned as {problem}" for problem in problems)
        return SizedNetwork(configurations=share_data(made), notes=notes)

    def _cascade(self, planned: Configuration, made: Sequence[Configuration]) -> list[Configuration]:
        """The full resolution once more, with a previous stage, where the network has both."""
        full = self._named("3d_fullres")
        previous = self._named((planned.previous_stage or "").partition("@")[0])
        found = {c.name: c for c in made}
        if full not in found or previous not in found:
            return []
        reasons = {**found[full].reasons, "previous_stage": planned.reasons["previous_stage"]}
        name = self._named(self._base_of(planned))
        return [replace(found[full], name=name, previous_stage=previous, reasons=reasons)]

    def _named(self, base: str) -> str:
        return f"{base}@{self.request.label}"

    def _base_of(self, planned: Configuration) -> str:
        """Name without the planner's."""
        return planned.name.removesuffix(f"@{self.preset.name}")

    def _plan(self, planned: Configuration, *, num_cases: int) -> Configuration:
        require_thick_enough(self.request.name, self.rules, plane_of(planned)[1])
        found, knobs = self._fit(planned)
        by_memory = self._batch_in_memory(found)
        case_voxels = self.case_voxels if planned.ndim == 2 else math.prod(planned.median_shape)
        share = self.preset.max_dataset_share * case_voxels * num_cases
        by_dataset = round(share / math.prod(found.topology.patch_size))
        batch = max(SMALLEST_BATCH, min(by_memory, by_dataset))
        name = self._named(self._base_of(planned))
        return replace(
            planned,
            name=name,
            data=name,
            patch_size=found.topology.patch_size,
            batch_size=batch,
            network=found.network,
            reasons={
                **planned.reasons,
                **self._reasons(found, knobs, by_memory=by_memory, by_dataset=by_dataset, asked=self._asked(planned)),
            },
        )

    def _fit(self, planned: Configuration) -> tuple[_Candidate, str]:
        """Turn the knobs until a step fits; the candidate and what was turned, in words."""
        topologies = list(self._patches(planned))
        if not topologies:
            raise PlanError(f"a patch of {voxels(self.patch or ())} voxels is too small for {self.request.name}")
        enough = min(_ENOUGH_VOXELS[planned.ndim], math.prod(topologies[0].patch_size))
        large = [t for t in topologies if math.prod(t.patch_size) >= enough] or topologies[:1]
        smallest: _Candidate | None = None
        checkpoints = (False, True) if "checkpointing" in self.rules.heeds else (False,)
        settings = [(1.0, c, large) for c in checkpoints] + [(w, checkpoints[-1], large) for w in _WIDTHS[1:]]
        settings.append((_WIDTHS[-1], checkpoints[-1], topologies))
        for width, checkpointing, patches in settings:
            found = self._largest(patches, width=width, checkpointing=checkpointing)
            if found.gigabytes_with(SMALLEST_BATCH) <= self.memory_gb:
                return found, _in_words(width, checkpointing=checkpointing)
            if smallest is None:  # before the other knobs: whether all of them together would do
                width, checkpointing, patches = settings[-1]
                smallest = self._look(patches[-1], width=width, checkpointing=checkpointing)
                if smallest.memory.gigabytes > self.memory_gb:
                    break
            smallest = found
        assert smallest is not None
        raise PlanError(
            f"{self.memory_gb:g} GB of GPU memory are too little: a batch of {SMALLEST_BATCH} patches of "
            f"{voxels(smallest.topology.patch_size)} voxels with {smallest.network.features[0]} feature maps would "
            f"take {smallest.memory.gigabytes:.1f} GB. Plan for more: --gpu-memory"
        )

    def _patches(self, planned: Configuration) -> Iterator[Topology]:
        """Patches that may be tried, the largest first; each is shortened where it covers most of the median case."""
        spacing, median = plane_of(planned)
        start = starting_patch_size(spacing, median, self.preset.size_rule(planned.ndim).start_voxels)
        keep: tuple[int, ...] = ()
        if (asked := self._asked(planned)) is not None:
            start = tuple(min(a, n) for a, n in zip(asked, median, strict=True))
            keep = tuple(axis for axis, n in enumerate(median) if asked[axis] <= n)
        now: Topology | None = topology_for(self.rules, spacing, start, keep=keep)
        while now is not None and now.patch_size != now.divisor:  # one voxel at the bottom cannot be normalized
            yield now
            now = self._shorter(now, spacing, median)

    def _asked(self, planned: Configuration) -> tuple[int, ...] | None:
        """The patch that was asked for; a 2D configuration takes the plane."""
        return None if self.patch is None else self.patch[-planned.ndim :]

    def _shorter(self, now: Topology, spacing: Sequence[float], median: Sequence[float]) -> Topology | None:
        coverage = [p / m for p, m in zip(now.patch_size, median, strict=True)]
        for axis in sorted(range(len(median)), key=lambda a: (coverage[a], a), reverse=True):
            # The divisor may be smaller for the smaller patch: try the smallest step that changes anything.
            for step in range(1, now.patch_size[axis]):
                size = list(now.patch_size)
                size[axis] -= step
                smaller = topology_for(self.rules, spacing, size)
                if math.prod(smaller.patch_size) < math.prod(now.patch_size):
                    return smaller
                if step > now.divisor[axis]:
                    break
        return None

    def _largest(self, patches: Sequence[Topology], *, width: float, checkpointing: bool) -> _Candidate:
        """The largest patch whose step fits, or the smallest of all.

        Memory grows about with the voxels of the patch, so that each estimate says where to look next.
        """
        sizes = [math.prod(t.patch_size) for t in patches]
        first, last = 0, len(patches) - 1  # the answer lies between these indices
        index = self._first_within(sizes, _FIRST_GUESS[len(patches[0].patch_size)] * self.memory_gb)
        while True:
            found = self._look(patches[index], width=width, checkpointing=checkpointing)
            fits = found.memory.gigabytes <= self.memory_gb
            if fits and (index == first or found.gigabytes_on(sizes[index - 1]) > _CLEARLY * self.memory_gb):
                return found
            first, last = (first, index) if fits else (index + 1, last)
            if first > last or (first == last == index):
                return found
            wanted = sizes[index] * self.memory_gb / found.memory.gigabytes
            index = min(max(self._first_within(sizes, wanted), first), last - 1 if fits else last)

    @staticmethod
    def _first_within(sizes: Sequence[int], most: float) -> int:
        return next((i for i, size in enumerate(sizes) if size <= most), len(sizes) - 1)

    def _look(self, topology: Topology, *, width: float, checkpointing: bool) -> _Candidate:
        from autoseg.networks.memory import estimate_memory  # torch: only where a network is asked for

        network = plan_network(self.request.name, self.rules, topology, width=width, choices=self.request.options)
        network = replace(network, checkpointing=network.checkpointing or checkpointing)
        memory = estimate_memory(
            network,
            patch_size=topology.patch_size,
            batch_size=SMALLEST_BATCH,
            num_channels=self.num_channels,
            labels=self.labels,
        )
        return _Candidate(topology=topology, network=network, memory=memory)

    def _batch_in_memory(self, found: _Candidate) -> int:
        """Patches that fit: memory grows by the same amount with every patch."""
        twice = found.gigabytes_with(2 * SMALLEST_BATCH)
        per_patch = max((twice - found.memory.gigabytes) / SMALLEST_BATCH, 1e-6)
        return SMALLEST_BATCH + int((self.memory_gb - found.memory.gigabytes) / per_patch)

    def _reasons(
        self, found: _Candidate, knobs: str, *, by_memory: int, by_dataset: int, asked: tuple[int, ...] | None
    ) -> dict[str, str]:
        network, rules = found.network, self.rules
        published = [f"schedule={rules.training.schedule}"] if rules.training.schedule else []
        published += [f"loss={rules.training.loss}"] if rules.training.loss else []
        recipe = f"; published with {' '.join(f'--set {p}' for p in published)}" if published else ""
        return {
            "patch_size": (
                f"{_as_asked(asked, found.topology.patch_size)}a step "
                f"with {SMALLEST_BATCH} patches was estimated to take {found.memory.gigabytes:.1f} of "
                f"{self.memory_gb:g} GB; the patch divides by {voxels(network.divisor)}{knobs}"
            ),
            "batch_size": (
                f"memory is estimated to hold {by_memory}; {self.preset.max_dataset_share:.0%} of all training voxels "
                f"are {by_dataset} patches; {SMALLEST_BATCH} are the fewest"
            ),
            "network": (
                f"{self.request.name}: {rules.summary or 'a network of your own'}; "
                f"{counted(network.num_stages, 'stage')}, {network.features[0]} to {network.features[-1]} feature maps"
                f"{recipe}"
            ),
        }


def network_excess(configuration: Configuration, plan: Plan) -> MemoryExcess | None:
    """What of a configuration, edited since it was planned, takes more than the plan's memory.

    The step is counted again as for planning, which takes a few seconds; a network of the user's own that this process
    does not know is left alone.
    """
    if configuration.network.name not in NETWORKS.names():
        return None
    needed = _gigabytes(configuration, plan, batch_size=configuration.batch_size)
    if needed <= _CLEARLY * plan.gpu_memory_gb:
        return None
    smallest = min(SMALLEST_BATCH, configuration.batch_size)
    fits_with_less = (
        smallest < configuration.batch_size
        and _gigabytes(configuration, plan, batch_size=smallest) <= _CLEARLY * plan.gpu_memory_gb
    )
    return MemoryExcess(field="batch_size" if fits_with_less else "patch_size", gigabytes=needed)


def _gigabytes(configuration: Configuration, plan: Plan, *, batch_size: int) -> float:
    from autoseg.networks.memory import estimate_memory

    return estimate_memory(
        configuration.network,
        patch_size=configuration.patch_size,
        batch_size=batch_size,
        num_channels=len(plan.channels),  # the previous stage's are few; planning leaves them out too
        labels=plan.labels,
    ).gigabytes


def _as_asked(asked: tuple[int, ...] | None, taken: tuple[int, ...]) -> str:
    if asked is None:
        return ""
    if asked == taken:
        return f"{voxels(asked)} as asked for; "
    return (
        f"{voxels(asked)} were asked for; cut to the median case and to what fits into memory, and rounded to what the "
        "network divides by; "
    )


def _in_words(width: float, *, checkpointing: bool) -> str:
    turned = ["feature maps are computed twice instead of kept"] if checkpointing else []
    turned += [f"{width:.0%} of the usual feature maps"] if width < 1 else []
    return f"; to fit, {' and '.join(turned)}" if turned else ""
