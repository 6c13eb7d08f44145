"""The check of training data: made-up pairs, each wrong in one way, found all at once."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esp_medsam_monai.engines import DatalistCheck, PairCheck
from esp_medsam_monai.io import ReadingRules
from tests.engines.pairs import Entry, save_picture, save_volume

MODALITIES = {"xray": ["lung"], "mr": ["front", "back"]}
LABELS = {"mr": {"front": 1, "back": 2}}


def check(
    folder: Path,
    *,
    modality: str | None = None,
    labels: Any = LABELS,
    rules: ReadingRules | None = None,
    only: bool = False,
    **sections: Any,
) -> Any:
    pairs = PairCheck(MODALITIES, modality, labels, rules)
    return DatalistCheck(sections, pairs, folder / "run", only=only, num_threads=2)


def run(folder: Path, **options: Any) -> tuple[list[dict[str, str]], Any]:
    """Rows of the table, and the exit status (None when the run may go on)."""
    status = None
    try:
        check(folder, **options).run()
    except SystemExit as end:
        status = end.code
    with (folder / "run" / "data_check.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file)), status


def wrong_value(value: float, dtype: str) -> np.ndarray:
    label = np.zeros((4, 5, 3), dtype)
    label[0, 0, 0], label[1, 1, 1], label[2, 2, 2] = 1, 2, value
    return label


SHIFTED = np.eye(4)
SHIFTED[0, 3] = 0.01


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"label": np.ones((4, 5, 2), np.uint8)}, "LABEL_SHAPE", "(4, 5, 2)"),
        ({"affine": SHIFTED}, "LABEL_AFFINE", "0.01"),
        ({"label": wrong_value(7, "uint8")}, "UNKNOWN_LABELS", "the value 7"),
        ({"label": wrong_value(0.5, "float32")}, "LABEL_NON_INTEGER", "the value 0.5"),
        ({"label": wrong_value(-3, "int16")}, "LABEL_NEGATIVE", "the value -3"),
        ({"label": wrong_value(np.nan, "float32")}, "NON_FINITE", "NaN"),
        ({"modality": "pet"}, "UNKNOWN_MODALITY", "pet"),
        ({"modality": "ct"}, "NO_WEIGHTS", "ct"),
        ({"modality": ""}, "NO_MODALITY", "nothing says"),
        ({"image": "gone.nii.gz"}, "NOT_FOUND", "gone.nii.gz"),
    ],
)
def test_an_error_is_named_and_the_run_ends(
    pair: Callable[..., Entry], tmp_path: Path, change: dict[str, Any], code: str, words: str
) -> None:
    good, bad = pair(), pair(**change)
    rows, status = run(tmp_path, training=[good, bad], validation=[pair()])
    assert status == 8
    assert [(row["level"], row["code"], row["section"], row["label"]) for row in rows] == [
        ("error", code, "training", bad["label"])
    ]
    assert words in rows[0]["message"]


def test_a_label_in_colour_is_none(radiograph: Callable[..., Entry], tmp_path: Path) -> None:
    grey = np.repeat(np.eye(6, 8)[..., None] * 255, 3, axis=2)
    red = grey * (1, 0, 0)
    rows, status = run(tmp_path, training=[radiograph(label=grey), bad := radiograph(label=red)])
    assert status == 8
    (error,) = [row for row in rows if row["level"] == "error"]
    assert (error["code"], error["label"]) == ("UNKNOWN_LABELS", bad["label"]) and "colour picture" in error["message"]


def test_the_rules_of_reading_hold(pair: Callable[..., Entry], tmp_path: Path) -> None:
    entry = pair()
    array = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    array[0] = np.nan
    save_volume(Path(entry["image"]), array)
    codes = [
        [
            (row["level"], row["code"])
            for row in run(tmp_path, rules=ReadingRules(non_finite_limit=limit), training=[entry])[0]
        ]
        for limit in (0.2, 0.3)
    ]
    assert codes == [[("error", "NON_FINITE")], [("warning", "NON_FINITE")]]


def test_small_differences_of_affines_are_none(pair: Callable[..., Entry], tmp_path: Path) -> None:
    close = np.eye(4)
    close[:3, 3] = 0.0009
    assert run(tmp_path, training=[pair(affine=close)], validation=[pair()]) == ([], None)


def test_all_errors_are_told_at_once(
    pair: Callable[..., Entry], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty-five truncated files and a label of another size: both codes, with counts, in one run."""
    entries = [pair() for _ in range(25)]
    for entry in entries:
        content = Path(entry["image"]).read_bytes()
        Path(entry["image"]).write_bytes(content[: len(content) // 2])
    entries.append(pair(label=np.ones((4, 5, 2), np.uint8)))
    with caplog.at_level(logging.INFO):
        rows, status = run(tmp_path, training=entries, validation=[])
    assert status == 8
    unreadable = [row for row in rows if row["code"] in ("TRUNCATED", "NOT_AN_IMAGE")]
    assert [row["image"] for row in unreadable] == [entry["image"] for entry in entries[:25]]
    assert [row["code"] for row in rows if row["level"] == "error" and row not in unreadable] == ["LABEL_SHAPE"]
    assert "and 5 more" in caplog.text and "LABEL_SHAPE: 1" in caplog.text
    assert "26 errors in 26 of 26 images" in caplog.text


def test_warnings_do_not_stop(pair: Callable[..., Entry], radiograph: Callable[..., Entry], tmp_path: Path) -> None:
    empty = pair(label=np.zeros((4, 5, 3), np.uint8))
    grey_edges = radiograph(label=np.arange(48).reshape(6, 8))
    front = np.zeros((4, 5, 3), np.uint8)
    front[0] = 1
    rows, status = run(tmp_path, training=[empty, grey_edges, pair(label=front)], validation=[radiograph()])
    assert status is None
    assert {row["level"] for row in rows} == {"warning"}
    found = {row["code"]: row for row in rows}
    assert set(found) == {"EMPTY_LABEL", "MANY_LABEL_VALUES", "TARGET_NEVER_OCCURS", "NO_VALIDATION"}
    assert found["EMPTY_LABEL"]["label"] == empty["label"]
    assert "mr back" in found["TARGET_NEVER_OCCURS"]["message"]
    assert found["NO_VALIDATION"]["message"].startswith("mr ")


def test_a_target_that_only_validation_has_is_never_learned(pair: Callable[..., Entry], tmp_path: Path) -> None:
    front = np.zeros((4, 5, 3), np.uint8)
    front[0] = 1
    rows, _ = run(tmp_path, training=[pair(label=front)], validation=[pair()])
    assert [row["code"] for row in rows] == ["TARGET_NEVER_OCCURS"]


def test_shipped_weights_are_not_written_beside(pair: Callable[..., Entry], tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    found = DatalistCheck({"training": [pair()]}, PairCheck(MODALITIES, None, LABELS), tmp_path / "models")
    with pytest.raises(ValueError, match="holds the weights of a bundle"):
        found.run()
    assert not (tmp_path / "models").exists()


def test_an_image_in_two_sections_is_found_by_path_and_by_content(pair: Callable[..., Entry], tmp_path: Path) -> None:
    first, second, third = pair(), pair(), pair()
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(Path(second["image"]).read_bytes())
    rows, status = run(tmp_path, training=[first, second], validation=[first, {**second, "image": str(copy)}, third])
    assert status is None
    assert [(row["code"], row["section"], row["image"]) for row in rows] == [
        ("SAME_IMAGE", "validation", first["image"]),
        ("SAME_IMAGE", "validation", str(copy)),
    ]
    assert second["image"] in rows[1]["message"]


def test_label_values_that_nothing_explains_are_told_once(pair: Callable[..., Entry], tmp_path: Path) -> None:
    rows, status = run(tmp_path, training=[pair(), pair()], validation=[pair()], labels=None)
    assert status == 8
    (error,) = [row for row in rows if row["level"] == "error"]
    assert error["code"] == "UNKNOWN_LABELS" and "several targets" in error["message"]


def test_entries_take_the_default_modality(radiograph: Callable[..., Entry], tmp_path: Path) -> None:
    """As MONAI Label gives them: ``image`` and ``label`` alone."""
    entries = [{key: radiograph()[key] for key in ("image", "label")} for _ in range(2)]
    assert run(tmp_path, training=entries[:1], validation=entries[1:], modality="xray")[1] is None
    assert {row["code"] for row in run(tmp_path, training=entries)[0]} >= {"NO_MODALITY"}


@pytest.mark.parametrize("word", [False, "false"])
def test_images_alone_need_no_labels(radiograph: Callable[..., Entry], tmp_path: Path, word: bool | str) -> None:
    """As for a distillation: nothing is said about labels and targets, and images are looked at as always."""
    bare = [{key: radiograph()[key] for key in ("image", "modality")} for _ in range(3)]
    pairs = PairCheck(MODALITIES, None, None, labels=word)
    found = DatalistCheck(
        {"training": [*bare[:2], {**bare[0], "label": "gone"}], "validation": bare[2:]}, pairs, tmp_path
    )
    found.run()
    assert found.findings == []
    Path(bare[0]["image"]).unlink()
    with pytest.raises(SystemExit, match="8"):
        found.run()
    assert [(each.code, each.label) for each in found.errors] == [("NOT_FOUND", ""), ("NOT_FOUND", "gone")]


def test_pictures_have_no_place_in_the_world(tmp_path: Path) -> None:
    """A NIfTI label of a PNG image says nothing about where the image lies."""
    entry = {
        "image": save_picture(tmp_path / "a.png", np.arange(48).reshape(6, 8)),
        "label": save_volume(tmp_path / "a_seg.nii.gz", np.eye(8, 6, dtype=np.uint8)),
        "modality": "xray",
    }
    rows, status = run(tmp_path, training=[entry])
    assert (rows, status) == ([], None)


def test_clean_data_are_not_looked_at_again_until_they_change(
    pair: Callable[..., Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"training": [pair()], "validation": [pair()]}
    looked_at = []
    look = PairCheck.__call__

    def count(self: PairCheck, entry: Any) -> Any:
        looked_at.append(entry)
        return look(self, entry)

    monkeypatch.setattr(PairCheck, "__call__", count)
    for _ in range(2):
        check(tmp_path, **sections).run()
    assert len(looked_at) == 2
    label = Path(sections["training"][0]["label"])
    os.utime(label, ns=(0, label.stat().st_mtime_ns + 1_000_000))
    check(tmp_path, **sections).run()
    assert len(looked_at) == 4
    with pytest.raises(SystemExit):
        check(tmp_path, labels={"mr": {"front": 1, "back": 3}}, **sections).run()
    assert len(looked_at) == 6


def test_data_with_errors_are_looked_at_again(pair: Callable[..., Entry], tmp_path: Path) -> None:
    sections = {"training": [pair(affine=SHIFTED)], "validation": [pair()]}
    assert [run(tmp_path, **sections)[1] for _ in range(2)] == [8, 8]


def test_check_only_ends_with_0_when_clean_and_8_when_not(pair: Callable[..., Entry], tmp_path: Path) -> None:
    assert run(tmp_path, training=[pair()], validation=[pair()], only=True)[1] == 0
    assert run(tmp_path, training=[pair(affine=SHIFTED)], validation=[], only=True)[1] == 8
    rows, status = run(tmp_path, training=[], only=True)
    assert status == 8 and rows[0]["code"] == "NO_IMAGES"


@pytest.mark.parametrize("word", [False, "false"])
def test_a_check_that_is_off_does_nothing(tmp_path: Path, word: bool | str) -> None:
    """MONAI's command line hands ``--check_data false`` on as text."""
    entries = {"training": [{"image": "gone"}]}
    DatalistCheck(entries, PairCheck(MODALITIES), tmp_path / "run", enabled=word, only=word).run()
    assert not (tmp_path / "run").exists()


def test_counts_are_kept(pair: Callable[..., Entry], radiograph: Callable[..., Entry], tmp_path: Path) -> None:
    found = check(tmp_path, training=[pair(), radiograph(), radiograph()], validation=[pair()])
    found.run()
    assert found.counts == {
        "images": {"training": {"mr": 1, "xray": 2}, "validation": {"mr": 1}},
        "images_with_target": {
            "training": {"mr_front": 1, "mr_back": 1, "xray_lung": 2},
            "validation": {"mr_front": 1, "mr_back": 1},
        },
    }


def test_a_target_that_the_labels_do_not_speak_of_is_not_missed(pair: Callable[..., Entry], tmp_path: Path) -> None:
    """As of a structure of one's own, which is added to those that the weights know."""
    front = np.zeros((4, 5, 3), np.uint8)
    front[0] = 1
    rows, _ = run(tmp_path, training=[pair(label=front)], validation=[pair(label=front)], labels={"mr": {"front": 1}})
    assert "TARGET_NEVER_OCCURS" not in [row["code"] for row in rows]
