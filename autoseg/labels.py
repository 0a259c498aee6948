"""Labels: what the integers of a segmentation mean, and how a network's outputs become integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg.errors import DatasetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing to segment: a label, or a region that unites several labels."""

    name: str
    values: tuple[int, ...]

    def mask(self, segmentation: np.ndarray) -> np.ndarray:
        """Voxels of a segmentation that belong to this target, as a boolean array of the same shape."""
        if len(self.values) == 1:
            return np.asarray(segmentation == self.values[0])
        return np.isin(segmentation, self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScheme:
    """Declared labels of a dataset.

    Args:
        targets: Everything declared except background and ignore, in the order of the network's outputs.
        has_regions: Whether targets may overlap; the network then has one sigmoid output per target.
        region_order: Label value that each target writes when probabilities become a segmentation; later ones
            overwrite earlier ones. Empty without regions.
        ignore_value: Value of voxels without annotation; never predicted.
        declared_count: Entries in the dataset's label table, background and ignore included (nnU-Net plans with it).
        aliases: Further values in files, each with the value that it stands for.
    """

    targets: tuple[Target, ...]
    has_regions: bool = False
    region_order: tuple[int, ...] = ()
    ignore_value: int | None = None
    declared_count: int
    aliases: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, Any],
        region_order: tuple[int, ...] = (),
        *,
        where: str,
        label_map: Mapping[str, int] | None = None,
    ) -> LabelScheme:
        """Read nnU-Net's label table: name -> integer, or name -> list of integers for a region.

        Args:
            table: The ``labels`` entry of dataset.json; must declare ``background`` as 0.
            region_order: The ``regions_class_order`` entry; required with regions.
            where: File to name in errors.
            label_map: Value in the files -> value in the table, for files whose values are not those of the table.
                The scheme then speaks of the values in the files, so that nothing is ever converted. Of several values
                for one label the first is the one that is predicted, the others are aliases.

        Raises:
            DatasetError: When the table or the map is malformed.
        """
        entries = {name: _as_values(name, value, where) for name, value in table.items()}
        if entries.get("background") != (0,):
            raise DatasetError(f'{where}: labels must declare "background": 0, found {table.get("background")!r}')
        ignore = entries.pop("ignore", None)
        foreground = [Target(name=n, values=v) for n, v in entries.items() if any(v)]
        if not foreground:
            raise DatasetError(f"{where}: labels declare nothing but background; there is nothing to segment")
        has_regions = any(len(values) > 1 for values in entries.values())
        if has_regions and len(region_order) != len(foreground):
            raise DatasetError(
                f"{where}: regions_class_order must list one value for each of {len(foreground)} regions, "
                f"found {list(region_order)}"
            )
        known = sorted({v for t in foreground for v in t.values} | {0})
        if ignore is not None and ignore != (known[-1] + 1,):
            raise DatasetError(f"{where}: ignore must be {known[-1] + 1}, one above the largest label, found {ignore}")
        if not has_regions:
            foreground.sort(key=lambda t: t.values)
            if len({t.values for t in foreground}) != len(foreground):
                raise DatasetError(f"{where}: two labels share a value: {dict(table)}")
        aliases: tuple[tuple[int, int], ...] = ()
        if label_map:
            stored = _inverted(label_map, {*known, *(ignore or ())}, where)
            foreground = [Target(name=t.name, values=tuple(stored[v] for v in t.values)) for t in foreground]
            aliases = tuple((int(k), stored[v]) for k, v in label_map.items() if stored[v] != int(k))
            region_order = tuple(stored.get(int(v), int(v)) for v in region_order)
            ignore = ignore and (stored[ignore[0]],)
            if not has_regions:
                foreground.sort(key=lambda t: t.values)
        return cls(
            targets=tuple(foreground),
            has_regions=has_regions,
            region_order=tuple(int(v) for v in region_order) if has_regions else (),
            ignore_value=ignore[0] if ignore else None,
            declared_count=len(table),
            aliases=aliases,
        )

    @classmethod
    def from_declaration(
        cls, declaration: Mapping[str, Any], *, where: str, label_map: Mapping[str, int] | None = None
    ) -> LabelScheme:
        """Read the labels of a parsed dataset.json, nnU-Net's or the Decathlon's, with its label map.

        Args:
            declaration: Entries labels and, where there are any, regions_class_order and label_map.
            where: File to name in errors.
            label_map: Instead of the entry label_map.

        Raises:
            DatasetError: When an entry is malformed.
        """
        table = declaration.get("labels")
        if not isinstance(table, Mapping):
            raise DatasetError(f"{where}: labels must map names to integers, found {table!r}")
        if table and all(str(key).isdecimal() and isinstance(name, str) for key, name in table.items()):
            table = _turned_round(table, where)
        order = declaration.get("regions_class_order") or []
        if not isinstance(order, list) or not all(isinstance(v, int) for v in order):
            raise DatasetError(f"{where}: regions_class_order must be a list of integers, found {order!r}")
        mapped = label_map or declaration.get("label_map")
        return cls.from_table(table, tuple(order), where=where, label_map=mapped)

    @property
    def num_outputs(self) -> int:
        """Channels of the network's output: one per region, else one per label and one for background."""
        return len(self.targets) if self.has_regions else len(self.targets) + 1

    @property
    def values(self) -> tuple[int, ...]:
        """Every label value that can occur, 0 included, ignore excluded, ascending."""
        return tuple(sorted({v for target in self.targets for v in target.values} | {0}))

    @property
    def foreground_values(self) -> tuple[int, ...]:
        """Every label value above zero, ignore excluded, ascending."""
        return self.values[1:]

    def without_aliases(self, segmentation: np.ndarray) -> np.ndarray:
        """Replace aliases by what they stand for.

        Args:
            segmentation: Values as in a file; not modified.

        Returns:
            The array itself where there is nothing to replace.
        """
        replaced = segmentation
        for alias, value in self.aliases:
            found = replaced == alias
            if found.any():
                replaced = replaced.copy() if replaced is segmentation else replaced
                replaced[found] = value
        return replaced

    def segmentation(self, scores: np.ndarray) -> np.ndarray:
        """Decide the label of every voxel.

        Args:
            scores: Per output channel, (k, ...): probabilities, or (without regions only) logits.

        Returns:
            Label values, (...), in the smallest unsigned type that holds them.
        """
        dtype = np.min_scalar_type(max(*self.values, *self.region_order))
        if not self.has_regions:
            lookup = np.asarray((0, *(t.values[0] for t in self.targets)), dtype=dtype)
            return np.asarray(lookup[np.argmax(scores, axis=0)])
        segmentation = np.zeros(scores.shape[1:], dtype=dtype)
        for channel, value in zip(scores, self.region_order, strict=True):
            segmentation[channel > 0.5] = value
        return segmentation


def _turned_round(table: Mapping[str, Any], where: str) -> dict[str, int]:
    """The Decathlon maps values to names, 0 being the background by any name."""
    by_name = {"background": 0}
    for value, name in table.items():
        if int(value) and name in by_name:
            raise DatasetError(f"{where}: two labels are called {name!r}")
        if int(value):
            by_name[name] = int(value)
    return by_name


def _inverted(label_map: Mapping[str, int], known: set[int], where: str) -> dict[int, int]:
    """Value in the table -> value in the files.

    Raises:
        DatasetError: When the map is no table of integers, or leaves a label out.
    """
    if not isinstance(label_map, Mapping) or not all(
        str(k).lstrip("-").isdecimal() and isinstance(v, int) and not isinstance(v, bool) for k, v in label_map.items()
    ):
        raise DatasetError(f'{where}: label_map must be {{"value in the files": label, ...}}, found {label_map!r}')
    stored = {0: 0}
    for key, value in label_map.items():
        stored.setdefault(value, int(key))
    if left_out := sorted(known - set(stored)):
        raise DatasetError(f"{where}: label_map says nothing about the label(s) {', '.join(map(str, left_out))}")
    if foreign := sorted(set(stored) - known):
        raise DatasetError(f"{where}: label_map names the label {foreign[0]}, which labels does not declare")
    if any(int(key) <= 0 and value for key, value in label_map.items()):
        raise DatasetError(f"{where}: label_map must map positive values, found {dict(label_map)}")
    return stored


def _as_values(name: str, value: Any, where: str) -> tuple[int, ...]:  # noqa: ANN401 - parsed JSON
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
        raise DatasetError(f"{where}: label {name!r} must be an integer or a list of integers, found {value!r}")
    return tuple(int(v) for v in values)
