"""Weights: tensors only, strictly, and errors that name file and entry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn

from esp_medsam_monai.checkpoints.safe import load_state_dict, load_weights


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s}, lambda s: {"network": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_values_layouts(wrap: Callable[[dict], dict], prefix: str, tmp_path: Path) -> None:
    source, target = network(), network()
    torch.save(wrap({f"{prefix}{key}": value for key, value in source.state_dict().items()}), tmp_path / "a.pt")
    load_weights(target, tmp_path / "a.pt")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_values_half_precision_becomes_float(tmp_path: Path) -> None:
    source = network()
    torch.save(network().half().state_dict(), tmp_path / "a.pt")
    state = load_state_dict(tmp_path / "a.pt")
    assert {key: value.dtype for key, value in state.items()} == {
        key: value.dtype for key, value in source.state_dict().items()
    }
    assert state["1.num_batches_tracked"].dtype == torch.int64


def test_bad_input_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"0.weight": Payload(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt cannot be read"):
        load_state_dict(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_bad_input_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--ckpt"):
        load_state_dict(tmp_path / "a.pt")
    torch.save(network().state_dict(), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pt"):
            load_state_dict(tmp_path / "a.pt")
    for wrong in ([1, 2], {}, {"a": 1}):
        torch.save(wrong, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=r"a\.pt"):
            load_state_dict(tmp_path / "a.pt")


def test_bad_input_entries_are_named(tmp_path: Path) -> None:
    state = network().state_dict()
    del state["0.bias"]
    state["extra"] = torch.zeros(1)
    state["1.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="does not fit") as error:
        load_weights(network(), tmp_path / "a.pt")
    for text in ("0.bias", "extra", "1.bias (9,) instead of (4,)"):
        assert text in str(error.value)


def test_values_not_strict_leaves_out_what_is_missing(tmp_path: Path) -> None:
    state = network().state_dict()
    del state["0.bias"]
    torch.save(state, tmp_path / "a.pt")
    load_weights(network(), tmp_path / "a.pt", strict=False)
