"""docs/refusals.md names every code that the source can give, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import pytest

from esp_medsam_monai.io import ReadingRules
from tests.faults.broken_files import BROKEN, ODD


@pytest.fixture(scope="module")
def source(repository: Path) -> str:
    folders = (repository / "esp_medsam_monai", repository / "transforms")
    return "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.py")))


@pytest.fixture(scope="module")
def page(repository: Path) -> tuple[str, str, str]:
    """The tables of refusals, that of warnings, and those of the check before a training."""
    refusals, rest = (repository / "docs" / "refusals.md").read_text(encoding="utf-8").split("\n# Warnings")
    warnings, findings = rest.split("\n# Findings")
    return refusals, warnings, findings


def _first_column(text: str) -> set[str]:
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {code for row in rows for code in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}


def _given(source: str, patterns: Iterable[str]) -> set[str]:
    return {code for pattern in patterns for code in re.findall(pattern, source)}


def test_every_refusal_is_explained(source, page):
    answers = (r'Exception\(\s*\d+,\s*f"([A-Z_]+): ', r'sentence = f"([A-Z_]+): ', r'_answer\(\d+, f"([A-Z_]+): ')
    given = _given(source, (r'InputRefused\(\s*"([A-Z_]+)"', r'return one_line\(f"([A-Z_]+): ', *answers))
    assert _first_column(page[0]) == given


def test_every_warning_of_reading_is_explained(source, page):
    patterns = (
        r'add_warning\(\s*(?:mask\.)?meta,\s*f"([A-Z_]+): ',
        r'warnings\.append\(\s*f"([A-Z_]+): ',
        r'_note\(f"([A-Z_]+): ',
        r'^NO_SEG = "([A-Z_]+)"',
    )
    given = {code for pattern in patterns for code in re.findall(pattern, source, flags=re.M)}
    assert given <= _first_column(page[1])
    assert _first_column(page[1]) <= given


def test_every_switch_is_explained(page):
    for field in fields(ReadingRules):
        assert f"`{field.name}`" in page[0]


def test_the_zoo_shows_what_reading_refuses(page):
    """A code without an animal in the zoo is one that nobody has seen; some need a list or a lock."""
    reading = page[0].split("## Running")[0]
    elsewhere = {"NOT_READABLE", "SEVERAL_FILES", "SEVERAL_SERIES", "MIXED_SHAPES"}
    assert _first_column(reading) - elsewhere == {broken.code for broken in BROKEN.values()}
    assert {odd.warning for odd in ODD.values()} - {""} <= _first_column(page[1])


def test_every_finding_before_a_training_is_explained(source, page):
    given = _given(
        source, (r'(?:_add\(facts, "(?:error|warning)"|Finding\("error"|_warn\(), ?"([A-Z_]+)"', r'_warn\("([A-Z_]+)"')
    )
    assert _first_column(page[2]) == given
