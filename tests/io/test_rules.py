from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from esp_medsam_monai.io import ReadingRules


def test_nothing_is_let_pass_unless_said():
    rules = ReadingRules()
    assert not any(getattr(rules, field.name) for field in fields(rules) if field.name.startswith("allow_"))
    assert rules.non_finite_limit == 0.5
    with pytest.raises(FrozenInstanceError):
        rules.allow_identity = True


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan"), "0.5", True, None])
def test_limits_are_shares(limit):
    with pytest.raises(ValueError, match="non_finite_limit"):
        ReadingRules(non_finite_limit=limit)
    assert ReadingRules(non_finite_limit=0).non_finite_limit == 0
    assert ReadingRules(non_finite_limit=1).non_finite_limit == 1


@pytest.mark.parametrize(("text", "expected"), [("false", False), ("False", False), ("true", True)])
def test_switches_from_the_command_line_are_texts(text, expected):
    """MONAI hands over --allow_localizer false as a text, which Python counts as true."""
    assert ReadingRules(allow_localizer=text).allow_localizer is expected


@pytest.mark.parametrize("value", ["perhaps", 1, None])
def test_switches_are_true_or_false(value):
    with pytest.raises(ValueError, match="allow_localizer"):
        ReadingRules(allow_localizer=value)
