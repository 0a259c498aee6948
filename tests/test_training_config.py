from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from autoseg.codec import from_plain, to_plain
from autoseg.errors import SettingsError
from autoseg.training_config import TrainingConfig


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("epochs=250", TrainingConfig(epochs=250)),
        ("iterations=100", TrainingConfig(iterations=100)),
        ("time_budget=90", TrainingConfig(time_budget=90.0)),
        ("time_budget=1.5", TrainingConfig(time_budget=1.5)),
        ("learning_rate=3e-3", TrainingConfig(learning_rate=0.003)),
        ("learning_rate=none", TrainingConfig(learning_rate=None)),
        ("weight_decay=0", TrainingConfig(weight_decay=0.0)),
        ("optimizer=adamw", TrainingConfig(optimizer="adamw")),
        ("precision=bfloat16", TrainingConfig(precision="bfloat16")),
        ("loss=dice", TrainingConfig(loss="dice")),
        ("trainer=2", TrainingConfig(trainer="2")),
        ("seed=3", TrainingConfig(seed=3)),
        ("deterministic=true", TrainingConfig(deterministic=True)),
        ("deterministic=no", TrainingConfig(deterministic=False)),
        ("mirroring=0,1", TrainingConfig(mirroring="0,1")),
        ("mirroring=0", TrainingConfig(mirroring="0")),
        ("loss=dice+0.1*focal", TrainingConfig(loss="dice+0.1*focal")),
    ],
)
def test_an_assignment_sets_its_field_in_its_type(assignment: str, expected: TrainingConfig) -> None:
    changed = TrainingConfig().with_settings([assignment])
    assert changed == expected
    name = assignment.partition("=")[0]
    assert type(getattr(changed, name)) is type(getattr(expected, name))


def test_several_assignments_apply_together_and_leave_the_original_alone() -> None:
    config = TrainingConfig(seed=7)
    changed = config.with_settings(["epochs=5", "momentum=0.9", "epochs=6"])
    assert changed == TrainingConfig(seed=7, epochs=6, momentum=0.9)
    assert config == TrainingConfig(seed=7)


WRONG = [
    ("epoch=5", "'epoch' is not a setting; did you mean epochs?"),
    ("zzzzzz=5", "'zzzzzz' is not a setting; settings: trainer, epochs"),
    ("epochs", "--set epochs: write it as name=value"),
    ("epochs=many", "--set epochs=many: epochs must be an integer"),
    ("epochs=2.5", "--set epochs=2.5: epochs must be an integer"),
    ("epochs=0", "epochs must be positive, got 0"),
    ("iterations_per_epoch=0", "iterations_per_epoch must be positive, got 0"),
    ("iterations_per_epoch=none", "--set iterations_per_epoch=none: iterations_per_epoch must be an integer"),
    ("validation_iterations=0", "validation_iterations must be positive, got 0"),
    ("learning_rate=nan", "--set learning_rate=nan: learning_rate must be"),
    ("learning_rate=-1", "learning_rate must be positive, got -1.0"),
    ("gradient_clip=0", "gradient_clip must be positive, got 0.0"),
    ("time_budget=-5", "time_budget must be positive, got -5.0"),
    ("optimizer=adamm", "--set optimizer=adamm: optimizer must be one of 'auto', 'sgd', 'adam', 'adamw'"),
    ("schedule=linear", "--set schedule=linear: schedule must be one of 'poly', 'cosine'"),
    ("augmentation=heavy", "augmentation=heavy: 'heavy' is no strength; known are nnunet, light, strong, da5, none"),
    ("augmentation=none+rotate", "augmentation=none+rotate: 'rotate' is no step; did you mean rotation?"),
    ("mirroring=0,3", "mirroring must be all, none or axes such as 0,1, got '0,3'"),
    ("patience=0", "patience must be positive, got 0"),
    ("warmup=1", "warmup must lie between 0 and 1, got 1.0"),
    ("deterministic=maybe", "--set deterministic=maybe: deterministic must be"),
    ("precision=float8", "--set precision=float8: precision must be one of"),
    ("foreground_share=1.5", "foreground_share must lie between 0 and 1, got 1.5"),
    ("momentum=1", "momentum must lie between 0 and 1, got 1.0"),
    ("sampling=posneg", "--set sampling=posneg: sampling must be one of 'case', 'class', 'probabilistic', 'pos_neg'"),
    ("cases_per_epoch=0", "cases_per_epoch must be positive, got 0.0"),
    ("window_image_share=2", "window_image_share must lie between 0 and 1, got 2.0"),
    ("window_tri=3", "'window_tri' is not a setting; did you mean window_tries?"),
    ("case_weights=dense", "--set case_weights=dense: case_weights must be one of 'equal', 'annotated', 'table'"),
    ("volume_patience=2", "volume_patience counts validations over whole volumes: set volume_every too"),
    ("cooldown=-1", "cooldown must not be negative, got -1"),
    ("keep_best=0", "keep_best must be positive, got 0"),
]


@pytest.mark.parametrize(("assignment", "message"), WRONG)
def test_a_wrong_assignment_is_refused_in_one_sentence(assignment: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TrainingConfig().with_settings([assignment])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("pair", [{"epochs": 1, "iterations": 1}, {"epochs": 1, "time_budget": 1.0}])
def test_lengths_exclude_each_other(pair: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{' and '.join(pair)} exclude each other; give one"):
        TrainingConfig(**pair)
    with pytest.raises(SettingsError, match="exclude each other"):
        TrainingConfig().with_settings([f"{name}={value}" for name, value in pair.items()])


def test_one_length_can_replace_another() -> None:
    assert TrainingConfig(epochs=5).with_settings(["epochs=none", "iterations=9"]) == TrainingConfig(iterations=9)


def test_defaults_are_the_references_and_survive_json() -> None:
    config = TrainingConfig()
    assert (config.momentum, config.gradient_clip, config.foreground_share) == (0.99, 12.0, 0.33)
    assert (config.iterations_per_epoch, config.validation_iterations) == (250, 50)
    assert from_plain(TrainingConfig, to_plain(config)) == config


@pytest.mark.parametrize(
    ("changes", "ndim", "axes"),
    [
        ({}, 3, (0, 1, 2)),
        ({}, 2, (0, 1)),
        ({"mirroring": "none"}, 3, ()),
        ({"mirroring": "2,0"}, 3, (0, 2)),
        ({"augmentation": "none"}, 3, ()),
        ({"augmentation": "light"}, 2, (0, 1)),
        ({"augmentation": "light-mirror"}, 2, ()),
        ({"augmentation": "none+mirror"}, 2, (0, 1)),
    ],
)
def test_mirrored_axes(changes: dict[str, Any], ndim: int, axes: tuple[int, ...]) -> None:
    assert TrainingConfig(**changes).mirror_axes(ndim) == axes


def test_an_axis_that_a_patch_does_not_have_is_refused() -> None:
    with pytest.raises(SettingsError, match="a patch of 2 axes has no axis 2"):
        TrainingConfig(mirroring="0,2").mirror_axes(2)


def test_the_settings_page_lists_every_field_with_its_default() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    listed = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`|) *\|", page, flags=re.M)}
    expected = {f.name: "" if f.default is None else str(to_plain(f.default)).lower() for f in fields(TrainingConfig)}
    assert listed == expected


def test_every_field_is_documented() -> None:
    assert TrainingConfig.__doc__ is not None
    for field in fields(TrainingConfig):
        assert f"        {field.name}: " in TrainingConfig.__doc__
