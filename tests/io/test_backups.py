"""A file that would be replaced is kept under a name that nothing takes for a mask."""

from __future__ import annotations

from pathlib import Path

import pytest

from esp_medsam_monai.io.backups import drop_equal_backups, keep_backup


def test_values_every_backup_has_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a[1]_seg.nii.gz"
    for content in ("first", "second"):
        path.write_text(content, encoding="utf-8")
        backup = keep_backup(path)
        assert backup is not None
        assert backup.read_text(encoding="utf-8") == content
        assert not path.exists()
    assert [each.name for each in sorted(tmp_path.iterdir())] == [f"{path.name}.~1~", f"{path.name}.~2~"]
    assert keep_backup(path) is None
    path.symlink_to("nowhere")
    backup = keep_backup(path)
    assert backup is not None and backup.is_symlink()


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_values_names_as_long_as_can_be(letter: str, tmp_path: Path) -> None:
    path = tmp_path / f"{letter * (246 // len(letter.encode()))}_seg.png"
    path.write_text("x", encoding="utf-8")
    backup = keep_backup(path)
    assert backup is not None and backup.name.endswith(f"{letter}_seg.png.~1~")
    path.write_text("x", encoding="utf-8")
    drop_equal_backups(path)
    assert list(tmp_path.iterdir()) == [path]


def test_values_equal_backups_go(tmp_path: Path) -> None:
    path = tmp_path / "a_seg.nii.gz"
    for content in ("same", "other", "same"):
        path.write_text(content, encoding="utf-8")
        keep_backup(path)
    path.write_text("same", encoding="utf-8")
    drop_equal_backups(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a_seg.nii.gz", "a_seg.nii.gz.~2~"]
