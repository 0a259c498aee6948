"""A new plan beside an older one: what was trained stays, what was edited stays, the rest is replaced."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from autoseg.codec import digest, to_plain
from autoseg.errors import PlanError, SettingsError
from autoseg.fingerprint import Fingerprint
from autoseg.networks.catalog import NETWORKS
from autoseg.plan import Configuration, Plan, SlicePlan
from autoseg.planning import STACKS, NetworkRequest, PlannerBudget, SliceRequest, share_data


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedPlan:
    """A plan, and what a user should know about how it came to be."""

    plan: Plan
    messages: tuple[str, ...]


def stamp(plan: Plan, fingerprint: Fingerprint, budget: PlannerBudget) -> Plan:
    """Note in every configuration what the planner was given, so that a second run knows its own work."""
    given = to_plain(budget)
    slices = given.pop("slices")
    if budget.network is None:
        del given["network"]  # as the requests of plans are that were made before networks could be chosen
    else:
        given["network"] = {key: value for key, value in given["network"].items() if key != "bases"}
        if budget.network.patch is None:  # likewise, before patches could be
            del given["network"]["patch"]
    # Stacks of slices are planned besides the others, which stay what they are.
    common = [plan.planner, plan.channels, plan.labels, fingerprint, given]
    requests = {False: digest(common), True: digest([*common, slices])}
    return replace(
        plan,
        configurations=tuple(replace(c, request=requests[c.slices is not None]) for c in plan.configurations),
    )


def request_slices(
    context: int | None, axes: Sequence[int] | None, wanted: Sequence[str], known: Collection[str]
) -> SliceRequest | None:
    """What a planner is asked for, where stacks of slices are wanted.

    Args:
        context: Slices of a stack; None takes the usual number.
        axes: Plan axes across which slices are cut; None leaves it to the planner.
        wanted: Configurations that are asked for by name.
        known: Configurations that are planned already.

    Raises:
        SettingsError: When these are no stacks.
    """
    asked = [name for name in wanted if name.partition("@")[0] == STACKS and name not in known]
    if context is None and axes is None and not asked:
        return None
    try:
        given = SlicePlan(context=SliceRequest().context if context is None else context, axes=tuple(axes or (0,)))
    except ValueError as error:
        raise SettingsError(f"--slices and --slice-axes: {error}") from None
    return SliceRequest(context=given.context, axes=None if axes is None else given.axes)


def request_network(
    name: str | None,
    options: Sequence[str],
    label: str | None,
    *,
    patch: tuple[int, int, int] | None = None,
    bases: Sequence[str] = (),
) -> NetworkRequest | None:
    """What a planner is asked for.

    Args:
        name: Name in the network registry, or ``package.module:Class``, which this process then knows.
        options: ``name=value`` each.
        label: Ending of the configurations' names; None takes the network's name.
        patch: Voxels (z, y, x) of its patch, axes as stored; None leaves it to the planner.
        bases: Configurations to plan it for; empty for all.

    Raises:
        SettingsError: When there is no such network, or options come without one.
    """
    if name is None:
        if options or label is not None or patch is not None:
            raise SettingsError("options, patch and name of a network need the network: --network unet, for instance")
        return None
    label = label or name.rpartition(":")[2]
    if not label.replace("_", "").replace("-", "").isalnum():
        raise SettingsError(f"--as {label}: a name of letters, digits, - and _ is needed")
    NETWORKS.accept(name)
    if patch is not None and min(patch) < 1:
        raise SettingsError(f"--patch must be positive numbers of voxels, got {' '.join(map(str, patch))}")
    return NetworkRequest(name=name, label=label, options=tuple(options), patch=patch, bases=tuple(bases))


def require_network(plan: Plan, request: NetworkRequest | None) -> None:
    """Refuse a plan whose planner did not heed the network that was asked for.

    Raises:
        PlanError: When it planned another one.
    """
    if request is not None and any(c.network.name != request.name for c in plan.configurations):
        raise PlanError(f"the planner {plan.planner} plans its own networks only; leave --network {request.name} out")


def merge_plans(known: Plan, fresh: Plan, *, trained: Collection[str]) -> MergedPlan:
    """Bring a new plan into an existing one.

    Args:
        known: The plan on disk, perhaps edited.
        fresh: What the planner says now.
        trained: Names of configurations that have results.

    Returns:
        The new plan's general values; its configurations, except that those made from the same request keep their
        edits and those with results stay as they are; and the known configurations that it does not name.

    Raises:
        PlanError: When a trained configuration would be left with other labels, channels or axes.
    """
    fits = _common(known) == _common(fresh)
    if not fits and (stranded := [c.name for c in known.configurations if c.name in trained]):
        raise PlanError(
            f"the dataset's labels, channels or axes differ from the plan on which {stranded[0]} was trained. "
            "Use another workspace (-w), or remove the results"
        )
    messages, configurations = [], []
    for planned in fresh.configurations:
        before = next((c for c in known.configurations if c.name == planned.name), None) if fits else None
        if before is None or before.request == planned.request:
            configurations.append(before or planned)
        elif planned.name in trained:
            messages.append(f"{planned.name} has results and stays as it was planned")
            configurations.append(before)
        else:
            messages.append(f"{planned.name} is planned anew: the dataset or the request changed")
            configurations.append(planned)
    names = {c.name for c in configurations}
    others = [c for c in known.configurations if c.name not in names]
    if fits:
        configurations = _in_order(known, [*configurations, *others])
    elif others:
        messages.append(f"{', '.join(c.name for c in others)} went: planned for other labels, channels or axes")
    return MergedPlan(plan=replace(fresh, configurations=share_data(configurations)), messages=tuple(messages))


def _common(plan: Plan) -> tuple[object, ...]:
    """What all configurations of a plan share."""
    return plan.channels, plan.labels, plan.file_ending, plan.orientation, plan.transpose


def _in_order(known: Plan, configurations: list[Configuration]) -> list[Configuration]:
    position = {name: i for i, name in enumerate(known.configuration_names)}
    return sorted(configurations, key=lambda c: position.get(c.name, len(position)))
