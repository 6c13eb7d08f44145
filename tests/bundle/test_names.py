"""Option names: what a config knows, what is left to MONAI, and the nearest name for a slip of the finger."""

from __future__ import annotations

import pytest

from esp_medsam_monai.bundle import unknown_names, unknown_sentences

CONFIG = {
    "batch_size": 8,
    "preview": True,
    "inference": "%run",
    "network_def": {"_target_": "some.Network", "img_size": 256},
    "train": {"trainer": {"_target_": "some.Trainer", "max_epochs": 3}, "handlers": [{"_target_": "some.Handler"}]},
    "optimizer": {"_target_": "some.Optimizer", "lr": "@learning_rate", "decay": "$@factors#decay * 2"},
}


@pytest.mark.parametrize(
    "name",
    [
        "batch_size",
        "network_def",
        "network_def#anything#at_all",
        "network_def::anything",
        "train#trainer",
        "train::trainer#max_epochs",
        "train#handlers#0",
        "train#handlers#0#anything",
        "inference#0",  # a macro: who knows what it stands for
        "learning_rate",  # not there, and asked for
        "factors",
        "factors#decay",
    ],
)
def test_known(name: str) -> None:
    assert unknown_names([name], CONFIG) == {}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("bath_size", "batch_size"),
        ("preveiw", "preview"),
        ("network_deff#img_size", "network_def#img_size"),
        ("train#trainr#max_epochs", "train#trainer#max_epochs"),
        ("train::handlers::1", "train#handlers"),
        ("train#handlers#first", "train#handlers"),
        ("batch_size#more", "batch_size"),
        ("zzz", None),
    ],
)
def test_unknown(name: str, nearest: str | None) -> None:
    assert unknown_names([name], CONFIG) == {name: nearest}


def test_what_lies_below_an_entry_that_is_replaced_is_not_judged() -> None:
    assert unknown_names(["train", "train#whatever"], CONFIG) == {}


def test_sentences_name_the_file() -> None:
    assert unknown_sentences(["bath_size", "zzz"], CONFIG, "a.yaml") == [
        "--bath_size is no option of a.yaml; did you mean --batch_size?",
        "--zzz is no option of a.yaml; see its entries.",
    ]
