"""The benchmark of one slice runs from end to end and writes what the targets speak of; times are not looked at."""

from __future__ import annotations

import json

import pytest
import torch

RATIOS = {"best_vs_published", "fp32_vs_published", "torch_vs_published", "best_vs_sam_vit_b"}


@pytest.mark.parametrize("weights", ["shipped", "published"])
def test_end_to_end(script, tmp_path, capsys, weights):
    file = tmp_path / "speed.json"
    options = ["--side", "64", "--runs", "1", "--skip-sam", "--patience", "0", "--runtimes", "torch"]
    script("slice_speed").main([*options, "--weights", weights, "--json", str(file)])
    content = json.loads(file.read_text(encoding="utf-8"))
    assert {"machine", "options", "matmul_gflop_per_s", "settings", "seconds", "ratios", "wall_s"} <= set(content)
    assert set(content["ratios"]) >= RATIOS
    assert content["ratios"]["best_vs_sam_vit_b"] is None
    assert content["ratios"]["fp32_vs_published"] > 0
    assert {"published", "plain", "mobile_sam_encoder", "torch_fp32"} <= set(content["seconds"])
    setting = content["settings"][0]
    assert setting["rows"]["torch_fp32"]["max_difference"] < 1e-3
    assert setting["rows"]["torch_fp32"]["dice"] > 0.99
    if weights == "published":
        assert setting["rows"]["published"]["max_difference"] < 1e-3
    assert "published" in capsys.readouterr().out


def test_agreement(script):
    """By hand: 2 of 3 foreground pixels found and none besides, Dice 2 * 2 / (2 + 3); the largest step is 3."""
    found = torch.tensor([[1.0, 2.0, -1.0, -5.0]])
    expected = torch.tensor([[1.5, 2.0, 2.0, -5.0]])
    assert script("slice_speed").agreement(found, expected) == {"max_difference": 3.0, "dice": 0.8}
    assert script("slice_speed").agreement(-found.abs(), -expected.abs())["dice"] == 1.0


def test_ratios_leave_out_what_spoils_the_mask(script):
    times = {"published": 8.0, "torch_fp32": 4.0, "openvino_fp32": 2.0, "openvino_int8": 1.0, "sam_vit_b_encoder": 40.0}
    agreements = {
        "torch_fp32": {"max_difference": 1e-5, "dice": 1.0},
        "openvino_fp32": {"max_difference": 1e-2, "dice": 0.99},
        "openvino_int8": {"max_difference": 3.0, "dice": 0.5},
    }
    bench = script("bench")
    found = script("slice_speed").ratios({name: bench.Runs([value]) for name, value in times.items()}, agreements)
    assert found.pop("taken") == {"best": "openvino_fp32", "fp32": "torch_fp32", "torch": "torch_fp32"}
    assert found == {
        "best_vs_published": 4.0,
        "fp32_vs_published": 2.0,
        "torch_vs_published": 2.0,
        "best_vs_sam_vit_b": 20.0,
    }


def test_work_of_an_image(script):
    """Specification, section 6.3: 113.4 GFLOP for an image of 1024 x 1024 pixels."""
    assert script("slice_candidates").gflop_per_image(1024) == pytest.approx(113.4, abs=0.05)
