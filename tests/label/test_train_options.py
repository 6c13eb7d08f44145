"""What a client may ask of a training. Without MONAI Label."""

from __future__ import annotations

from typing import Any

import pytest

from esp_medsam_monai.errors import InputRefused
from esp_medsam_monai.label.train_options import VAL_SPLIT, TrainOptions
from esp_medsam_monai.modalities import modality_choices, shipped_modalities

MODALITIES = shipped_modalities()


def options(**request: Any) -> TrainOptions:
    return TrainOptions.of(request, MODALITIES)


def test_what_is_not_said_is_left_to_the_config() -> None:
    choices = modality_choices(MODALITIES)
    silent: list[dict[str, Any]] = [
        {},
        {"modality": choices, "device": ["cpu"]},
        {"modality": "auto"},
        {"lr": None, "max_epochs": ""},
    ]
    for request in silent:
        assert options(**request) == TrainOptions(val_split=VAL_SPLIT)
        assert options(**request).overrides() == {}


def test_what_is_said_goes_to_the_config() -> None:
    found = options(max_epochs="3", val_split=0, lr=1e-3, device="cpu", modality="MR", model="esp_medsam", local_rank=0)
    assert found == TrainOptions(0, 3, 1e-3, "cpu", "mr")
    assert found.overrides() == {"max_epochs": 3, "lr": 1e-3, "device#name": "cpu"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_epochs", value) for value in (0, -1, 1.5, "many", True, float("inf"))),
        *(("val_split", value) for value in (-1, 1, 2, "half", float("nan"))),
        *(("lr", value) for value in (0, -1e-3, "fast")),
        *(("device", value) for value in ("toaster", "cuda:99")),
    ],
)
def test_odd_values_get_a_sentence(name: str, value: Any) -> None:
    with pytest.raises(InputRefused, match="BAD_OPTION") as caught:
        options(**{name: value})
    assert name in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize(("word", "code"), [("mri", "UNKNOWN_MODALITY"), ("ct", "NO_WEIGHTS"), (5, "UNKNOWN_MODALITY")])
def test_a_wrong_modality_is_refused(word: Any, code: str) -> None:
    with pytest.raises(InputRefused, match=code):
        options(modality=word)
