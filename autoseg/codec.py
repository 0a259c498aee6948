"""Dataclasses to JSON and back, strictly: an unknown key is more likely a typo than a feature."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from autoseg.atomic import atomic_path
from autoseg.errors import ArtifactError, MissingArtifactError

T = TypeVar("T")

_SEAL = "sha256"
"""Key of the digest in an artifact."""


def to_plain(value: object) -> Any:  # noqa: ANN401 - JSON is dynamically typed
    """Turn dataclasses, tuples and paths into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def digest(value: object) -> str:
    """Hexadecimal SHA-256 of a value's JSON form: equal for equal values, in any process."""
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def from_plain(kind: type[T], data: object, *, where: str = "") -> T:
    """Build a dataclass from parsed JSON, checking every key and type.

    Args:
        kind: The dataclass to build.
        data: Parsed JSON.
        where: JSON path so far, for errors.

    Raises:
        ArtifactError: With the JSON path of the first thing that is wrong.
    """
    return cast("T", _decode(kind, data, where))


def write_json(value: object, path: Path, *, durable: bool = True) -> None:
    """Write a dataclass, or lists and dicts of plain values, as indented JSON; atomically.

    An artifact, a dataclass with a ``schema_version``, also gets the digest of everything else in it.

    Args:
        value: What to write.
        path: File to write.
        durable: See :func:`autoseg.atomic.atomic_path`.
    """
    plain = to_plain(value)
    if isinstance(plain, dict) and "schema_version" in plain and dataclasses.is_dataclass(value):
        plain[_SEAL] = digest(plain)
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_plain(path: Path) -> Any:  # noqa: ANN401 - JSON is dynamically typed
    """Parse a JSON file.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingArtifactError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}") from None


def read_json(kind: type[T], path: Path, *, may_be_edited: bool = False) -> T:
    """Read a dataclass that :func:`write_json` wrote.

    Args:
        kind: The dataclass.
        path: The file.
        may_be_edited: Accept content that differs from what was written, for files that people are invited to edit.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it does not describe a ``kind``, or was altered; names the file and the JSON path.
    """
    data = read_plain(path)
    intact = _unseal(data)
    artifact = decode_artifact(kind, data, source=str(path))  # first: it says more about what is wrong
    if not (intact or may_be_edited):
        raise _altered(path)
    return artifact


def write_sealed(plain: dict[str, Any], path: Path) -> None:
    """Write the plain form of an artifact that is not its dataclass, with its digest; atomically."""
    write_json({**plain, _SEAL: digest(plain)}, path)


def read_sealed(path: Path) -> Any:  # noqa: ANN401 - JSON is dynamically typed
    """Parse what :func:`write_sealed` wrote, for :func:`decode_artifact`.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is not JSON, or was altered.
    """
    data = read_plain(path)
    if not _unseal(data):
        raise _altered(path)
    return data


def _altered(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is not as autoseg wrote it: its content does not fit its {_SEAL} (if you edited it, remove that "
        "line to vouch for the edit)"
    )


def is_as_written(path: Path) -> bool:
    """Whether a JSON artifact holds what :func:`write_json` wrote, unaltered; so is one without a digest.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is not JSON.
    """
    return _unseal(read_plain(path))


def _unseal(data: object) -> bool:
    """Take the digest out of an artifact and compare."""
    if not isinstance(data, dict) or _SEAL not in data or "schema_version" not in data:
        return True
    seal = data.pop(_SEAL)
    return bool(seal == digest(data))


def decode_artifact(kind: type[T], data: object, *, source: str) -> T:
    """Build a dataclass from the parsed JSON of an artifact, its schema version checked first.

    Args:
        kind: The dataclass to build.
        data: Parsed JSON.
        source: What holds it, for errors: usually a path.

    Raises:
        ArtifactError: When it does not describe a ``kind``; names the source and the JSON path.
    """
    _check_schema(kind, data, source)
    try:
        return from_plain(kind, data)
    except ArtifactError as error:
        raise ArtifactError(f"{source}: {error}") from None


def _check_schema(kind: type, data: object, source: str) -> None:
    """Refuse files of another schema version before their keys are judged."""
    expected = next((f.default for f in dataclasses.fields(kind) if f.name == "schema_version"), None)
    if not isinstance(expected, int) or not isinstance(data, dict):
        return
    found = data.get("schema_version")
    if not isinstance(found, int) or isinstance(found, bool):
        raise ArtifactError(f"{source} has no schema_version; autoseg did not write it")
    if found > expected:
        raise ArtifactError(f"{source} has schema version {found}, this autoseg knows {expected}: update autoseg")
    if found < expected:
        raise ArtifactError(f"{source} has schema version {found}, too old to be migrated to {expected}")


def _decode(kind: Any, data: object, where: str) -> object:  # noqa: ANN401 - a type or a typing construct
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, data, where)
    if origin is Literal:
        if data not in arguments:
            raise ArtifactError(f"{where or 'value'} must be one of {', '.join(map(repr, arguments))}, found {data!r}")
        return data
    if origin is tuple:
        return _decode_tuple(arguments, data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise _wrong_type("an object", data, where)
        return {str(key): _decode(arguments[1], item, _join(where, str(key))) for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(cast("type", kind), data, where)
    return _decode_scalar(kind, data, where)


def _decode_union(arguments: tuple[Any, ...], data: object, where: str) -> object:
    if data is None and type(None) in arguments:
        return None
    problems = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return _decode(argument, data, where)
        except ArtifactError as error:
            problems.append(error)
    raise problems[0]


def _decode_tuple(arguments: tuple[Any, ...], data: object, where: str) -> tuple[object, ...]:
    if not isinstance(data, list):
        raise _wrong_type("a list", data, where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(arguments[0], item, _item(where, i, item)) for i, item in enumerate(data))
    if len(data) != len(arguments):
        raise ArtifactError(f"{where} must have {len(arguments)} entries, found {len(data)}")
    return tuple(_decode(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, data, strict=True)))


def _decode_dataclass(kind: type, data: object, where: str) -> object:
    if not isinstance(data, dict):
        raise _wrong_type("an object", data, where)
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; fields: {', '.join(fields)}"
            raise ArtifactError(f"{_join(where, key)} is not a field{hint}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise ArtifactError(f"{_join(where, missing[0])} is missing")
    values = {key: _decode(hints[key], item, _join(where, key)) for key, item in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        if not where:
            raise ArtifactError(str(error)) from None
        names_field = str(error).partition(" ")[0] in fields
        raise ArtifactError(f"{where}.{error}" if names_field else f"{where}: {error}") from None


def _decode_scalar(kind: type, data: object, where: str) -> object:
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        if not math.isfinite(data):
            raise _wrong_type("a finite number", data, where)
        return float(data)
    if kind is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    if kind in (str, bool) and isinstance(data, kind):
        return data
    if kind is Path and isinstance(data, str):
        return Path(data)
    raise _wrong_type({float: "a number", int: "an integer", bool: "true or false"}.get(kind, "text"), data, where)


def _wrong_type(expected: str, data: object, where: str) -> ArtifactError:
    return ArtifactError(f"{where or 'value'} must be {expected}, found {data!r}")


def _item(where: str, index: int, item: object) -> str:
    """An entry by its name where it has one, as people look for it: "configurations.3d_fullres"."""
    name = item.get("name") if isinstance(item, dict) else None
    return _join(where, name) if where and isinstance(name, str) and name else f"{where}[{index}]"


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
