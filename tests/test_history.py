from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import ArtifactError
from autoseg.history import EpochRow, read_rows, write_rows

counts, numbers = st.integers(0, 10**9), st.floats(allow_nan=False)
rows = st.builds(
    EpochRow,
    **{f.name: counts if f.name in ("epoch", "iterations") else numbers for f in fields(EpochRow)}
    | {"volume_dice": st.none() | numbers},
)
ROW = EpochRow(
    epoch=0,
    iterations=250,
    seconds=1 / 3,
    learning_rate=0.01,
    train_loss=-0.1,
    val_loss=5e-324,
    val_dice=float("nan"),
    ema_dice=1e300,
    waiting=0.0,
)


@given(st.lists(rows, max_size=4))
def test_rows_come_back_exactly(history: list[EpochRow]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # tmp_path would be shared by all examples
        write_rows(history, Path(folder) / "log.csv")
        assert read_rows(Path(folder) / "log.csv") == tuple(history)


def test_the_table_has_a_header_and_keeps_undefined_scores(tmp_path: Path) -> None:
    write_rows([ROW], tmp_path / "log.csv")
    header, line = (tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()
    assert header == "epoch,iterations,seconds,learning_rate,train_loss,val_loss,val_dice,ema_dice,waiting,volume_dice"
    assert line == "0,250,0.3333333333333333,0.01,-0.1,5e-324,nan,1e+300,0.0,"
    (row,) = read_rows(tmp_path / "log.csv")
    assert row.val_dice != row.val_dice


def test_tables_of_earlier_versions_have_fewer_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_rows([ROW], path)
    path.write_text(path.read_text().replace(",volume_dice", "").replace("0.0,\n", "0.0\n"))
    assert read_rows(path)[0].waiting == 0.0
    assert read_rows(path)[0].volume_dice is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:0],
        lambda text: text[:-20],
        lambda text: text.replace("250", "2.5"),
        lambda text: text.replace("0.01", "fast"),
        lambda text: text.replace("waiting", "resting"),
        lambda text: text.replace("waiting", "waiting,mood").replace(",0.0,\n", ",0.0,good,\n"),
    ],
)
def test_other_tables_are_refused(damage, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    path = tmp_path / "log.csv"
    write_rows([ROW], path)
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"log\.csv is not a training log"):
        read_rows(path)


def test_an_absent_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"log\.csv is missing$"):
        read_rows(tmp_path / "log.csv")
