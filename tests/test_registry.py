from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import pytest

from autoseg.errors import SettingsError
from autoseg.registry import Registry

BUILT_IN = {"ordered": "collections:OrderedDict", "counter": "collections:Counter", "broken": "collections:Absent"}


@pytest.fixture
def registry() -> Registry[type]:
    return Registry("container", group="autoseg_test_containers", built_in=BUILT_IN)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install a package that registers an entry point."""

    def write(package: str, entry_point: str) -> None:
        folder = tmp_path / package / f"{package}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        text = f"[autoseg_test_containers]\n{entry_point}\n"
        (folder / "entry_points.txt").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path / package)

    return write


def test_names_are_listed_in_order_without_importing_anything(registry: Registry[type]) -> None:
    unimportable = Registry[type]("thing", group="none", built_in={"x": "no.such.module:X"})
    assert unimportable.names() == ["x"]
    assert registry.names() == ["ordered", "counter", "broken"]


def test_a_name_gives_what_it_stands_for(registry: Registry[type]) -> None:
    assert registry.get("counter") is collections.Counter


def test_an_unknown_name_is_answered_with_close_ones(registry: Registry[type]) -> None:
    with pytest.raises(SettingsError, match=r"'count' is not a container; did you mean counter\?"):
        registry.get("count")
    with pytest.raises(SettingsError, match="'zzz' is not a container; known: ordered, counter, broken"):
        registry.get("zzz")


def test_references_are_accepted_only_where_a_person_wrote_them(registry: Registry[type]) -> None:
    assert registry.get("collections:deque", allow_reference=True) is collections.deque
    with pytest.raises(SettingsError, match="is not a container"):
        registry.get("collections:deque")


@pytest.mark.parametrize("name", ["broken", "no.such.module:X", "collections:"])
def test_what_cannot_be_loaded_is_named_with_its_place(registry: Registry[type], name: str) -> None:
    with pytest.raises(SettingsError, match=f"the container '{name}' cannot be loaded from .+:"):
        registry.get(name, allow_reference=True)


def test_installed_packages_add_names(registry: Registry[type], install: Callable[[str, str], None]) -> None:
    install("plugin_a", "chained = collections:ChainMap")
    assert registry.names() == ["ordered", "counter", "broken", "chained"]
    assert registry.get("chained") is collections.ChainMap


def test_a_clash_of_names_is_an_error(registry: Registry[type], install: Callable[[str, str], None]) -> None:
    install("plugin_b", "counter = plugin_b:Counter")
    expected = "two packages register the container 'counter': collections:Counter and plugin_b:Counter"
    with pytest.raises(SettingsError, match=expected):
        registry.names()


def test_the_same_registration_twice_is_none(registry: Registry[type], install: Callable[[str, str], None]) -> None:
    install("plugin_c", "counter = collections:Counter")
    assert registry.names() == ["ordered", "counter", "broken"]
