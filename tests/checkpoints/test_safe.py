"""Weights: tensors only, strictly, and errors that name file and entry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from ignite.engine import Engine

from esp_medsam_monai.bundle import write_sha256
from esp_medsam_monai.checkpoints.safe import load_state_dict, load_weights
from esp_medsam_monai.engines import WeightsLoader


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


def test_bad_input_code_is_not_run_with_a_hash_that_agrees(tmp_path: Path) -> None:
    """A hash says which file it is, and not that it is harmless."""
    torch.save({"0.weight": Payload(tmp_path / "ran")}, tmp_path / "a.pt")
    write_sha256(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="could run code"):
        load_weights(network(), tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_values_hash(tmp_path: Path) -> None:
    """Stated or not, the hash of what was loaded is known afterwards."""
    torch.save(network().state_dict(), tmp_path / "a.pt")
    digest = hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()
    assert load_weights(network(), tmp_path / "a.pt") == digest
    write_sha256(tmp_path / "a.pt")
    assert load_weights(network(), tmp_path / "a.pt") == digest


def test_bad_input_exchanged_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(network().state_dict(), tmp_path / "a.pt")
    write_sha256(tmp_path / "a.pt")
    torch.save(network().state_dict(), tmp_path / "a.pt")
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("opened"))
    for load in (load_state_dict, lambda path: load_weights(network(), path)):
        with pytest.raises(ValueError, match=r"a\.pt is not the file that a\.pt\.sha256 describes"):
            load(tmp_path / "a.pt")


def test_loader_notes_path_and_hash(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "a.pt")
    engine = Engine(lambda engine, batch: None)
    WeightsLoader(network(), "nowhere", tmp_path / "a.pt").attach(engine)
    engine.run([0])
    assert engine.state.weights == str(tmp_path / "a.pt")
    assert engine.state.weights_sha256 == hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()
    write_sha256(tmp_path / "a.pt").write_text("no hash", encoding="utf-8")
    with pytest.raises(ValueError, match="sha256sum"):
        engine.run([0])


def test_bad_input_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*a\.pt"):
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
