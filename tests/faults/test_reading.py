"""Every input of the zoo goes through ``find_cases`` and ``preprocessing``, as in a run, each as a case of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from esp_medsam_monai.transforms import preprocessing

from esp_medsam_monai.errors import InputRefused, find_refusal, warnings_of
from esp_medsam_monai.io import Case, find_cases
from esp_medsam_monai.modalities import shipped_modalities
from tests.faults.broken_files import BROKEN, ODD, write_broken_files, write_odd_but_good_files

CHAIN = preprocessing(modalities=shipped_modalities())


def _cases(folder: Path, write: Callable[[Path], dict[str, str]]) -> dict[str, Case]:
    expected = write(folder)
    cases, ignored = find_cases(folder)
    assert {case.name for case in cases} == set(expected)
    assert ignored == []
    return {case.name: case for case in cases}


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> dict[str, Case]:
    return _cases(tmp_path_factory.mktemp("broken"), write_broken_files)


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> dict[str, Case]:
    return _cases(tmp_path_factory.mktemp("odd"), write_odd_but_good_files)


def test_the_zoo_is_large():
    assert len(BROKEN) >= 30


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name(broken, name):
    case = broken[name]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what counts is the refusal inside
        CHAIN({"image": case.image})
    refusal = find_refusal(caught.value)
    assert isinstance(refusal, InputRefused), caught.value
    assert refusal.code == BROKEN[name].code, refusal
    assert Path(case.input).name.split(".")[0] in refusal.message
    assert re.search(BROKEN[name].says, refusal.message), refusal


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_read(odd, name):
    image = CHAIN({"image": odd[name].image})["image"]
    assert bool(torch.isfinite(image.as_tensor()).all())
    assert 0.0 <= float(image.min()) <= float(image.max()) <= 255.0
    warnings = warnings_of(image.meta)
    if ODD[name].warning:
        assert any(warning.startswith(f"{ODD[name].warning}: ") for warning in warnings)
        assert any(Path(odd[name].input).name in warning for warning in warnings)
    else:
        assert warnings == []
