"""``auto``: the fastest of those that compute the same, tried once on a machine."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from esp_medsam_monai.networks import ESPMedSAM
from esp_medsam_monai.runtimes import Runtime, TorchRuntime, choose, fingerprint, make_runtime, self_check
from esp_medsam_monai.runtimes import checking as check
from tests.networks.conftest import MODALITIES, randomise


class Fake(Runtime):
    """PyTorch with an error added, which tells a time of its own."""

    name = "fake"
    error = 0.0
    calls = 0
    releases = 0

    @classmethod
    def missing(cls, device, precision):
        return None if precision == "fp32" else "it is a fake."

    def prepare(self, modality, side):
        pass

    def release(self):
        type(self).releases += 1

    def _segment(self, x, modality):
        type(self).calls += 1
        logits = self.network(x, modality)
        return logits + self.error * logits.square().mean().sqrt()


class Broken(Fake):
    """Installed, and not working."""

    name = "broken"

    def _segment(self, x, modality):
        raise OSError("libfake.so not found")


@pytest.fixture
def network():
    return randomise(ESPMedSAM(MODALITIES, img_size=64))


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No result of another test, or of this machine's user."""
    monkeypatch.setenv("ESP_MEDSAM_CACHE", str(tmp_path))
    monkeypatch.setattr(Fake, "calls", 0)
    monkeypatch.setattr(Fake, "releases", 0)
    monkeypatch.setattr(Fake, "error", 0.0)
    return tmp_path


def with_runtimes(monkeypatch, *runtimes):
    monkeypatch.setattr(choose, "RUNTIMES", {runtime.name: runtime for runtime in runtimes})


def with_seconds(monkeypatch, **seconds):
    """The time that a check tells is the one said here: tests do not depend on the machine."""
    plain = check._check

    def told(runtime):
        return check.SelfCheck(**{**vars(plain(runtime)), "seconds": seconds[runtime.name]})

    monkeypatch.setattr(check, "_check", told)


@pytest.mark.parametrize(("fake", "expected"), [(0.5, Fake), (2.0, TorchRuntime)])
def test_the_faster_one_is_taken(network, monkeypatch, fake, expected):
    with_runtimes(monkeypatch, TorchRuntime, Fake)
    with_seconds(monkeypatch, torch=1.0, fake=fake)
    assert type(make_runtime(network, "auto", "fp32")) is expected


def test_one_that_computes_something_else_is_left_out(network, monkeypatch, caplog):
    with_runtimes(monkeypatch, TorchRuntime, Fake)
    with_seconds(monkeypatch, torch=1.0, fake=0.1)
    monkeypatch.setattr(Fake, "error", 0.002)  # fp32 may differ by 0.001
    assert type(make_runtime(network, "auto", "fp32")) is TorchRuntime
    assert "Fake(fp32, cpu) is left out: its logits differ from PyTorch's by 2.0e-03" in caplog.text


def test_one_that_fails_is_left_out(network, monkeypatch, caplog):
    with_runtimes(monkeypatch, TorchRuntime, Broken)
    assert type(make_runtime(network, "auto", "fp32")) is TorchRuntime
    assert "broken in fp32 is left out: OSError: libfake.so not found" in caplog.text


def test_a_check_is_made_once(network, monkeypatch, fresh):
    first = self_check(Fake(network))
    calls = Fake.calls
    assert calls > 0 and self_check(Fake(network)) == first and Fake.calls == calls
    assert Fake.releases == 1, "what the check made is given up"
    with torch.no_grad():
        next(network.parameters()).add_(1)
    self_check(Fake(network))
    assert Fake.calls > calls, "other weights are checked again"
    assert len(list(fresh.glob("self_check_*.json"))) == 2


def test_a_damaged_note_is_made_again(network, fresh):
    first = self_check(Fake(network))
    (note,) = fresh.glob("*.json")
    note.write_text('{"error": ', encoding="utf-8")
    assert self_check(Fake(network)).passed == first.passed
    assert json.loads(note.read_text(encoding="utf-8"))["passed"] is True


def test_a_home_that_cannot_be_written_costs_nothing(network, monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("ESP_MEDSAM_CACHE", str(file / "below"))
    assert self_check(Fake(network)).passed


def test_a_single_candidate_is_not_checked(network, monkeypatch):
    with_runtimes(monkeypatch, Fake)
    make_runtime(network, "auto", "auto")
    assert Fake.calls == 0


def test_what_is_never_automatic():
    assert {precision for _, precision in choose._candidates("auto", "auto")} == {"fp32", "bf16", "fp16"}
    assert {name for name, _ in choose._candidates("auto", "auto")} == {"torch", "openvino"}
    assert ("tensorrt", "int8") in choose._candidates("tensorrt", "int8")


def test_the_network_stays_in_its_mode(network, caplog):
    caplog.set_level(logging.DEBUG)
    network.train()
    self_check(Fake(network))
    assert network.training


def test_fingerprint_tells_weights_apart(network):
    before = fingerprint(network)
    assert fingerprint(randomise(ESPMedSAM(MODALITIES, img_size=64))) == before
    with torch.no_grad():
        network.get_buffer("image_encoder.patch_embed.seq.0.bn.running_mean").add_(1e-3)
    assert fingerprint(network) != before
