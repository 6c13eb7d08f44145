"""The benchmark of training runs from end to end and writes what it promises; times are not looked at."""

from __future__ import annotations

import json

import pytest

SMALL = ["--side", "64", "--batch", "2", "--batches", "1", "--runs", "1", "--patience", "0"]


def test_end_to_end(script, tmp_path, capsys):
    file = tmp_path / "speed.json"
    small = [*SMALL, "--workers", "0", "--pictures", "6", "--only", "training", "distillation"]
    script("training_speed").main([*small, "--json", str(file)])
    content = json.loads(file.read_text(encoding="utf-8"))
    assert {"machine", "options", "load", "training", "distillation", "wall_s"} <= set(content)
    assert "memory" not in content
    training = content["training"]
    assert training["images"] == 2
    assert training["engine"]["images_per_s"] > 0 and training["plain"]["images_per_s"] > 0
    assert 0 <= training["data_share"] <= 1 and training["engine_over_plain"] > 0
    assert len(training["engine"]["runs_s"]) == len(training["plain"]["runs_s"]) == 1
    (teacher,) = content["distillation"].values()
    assert {"encoder", "teacher", "cache", "cache_gain"} == set(teacher)
    shown = capsys.readouterr().out
    assert "engine" in shown and "distillation, small, cache" in shown


def test_memory_of_an_image_is_the_slope(script, monkeypatch):
    """Activations of 10 bytes an image above 100 that are always there; half of it with checkpointing."""
    module = script("training_speed")

    class Done:
        def __init__(self, command: list[str], **_: object) -> None:
            batch = int(command[command.index("--batch") + 1])
            each = 5 if "--use-checkpoint" in command else 10
            self.stdout = "a warning\n" + json.dumps({"peak_bytes": 100 + each * batch}) + "\n"

    monkeypatch.setattr(module.subprocess, "run", Done)
    found = module.memory(module.parse([*SMALL, "--memory-batch", "4"]))
    assert found["kept"] == {"peak_bytes": {1: 110, 4: 140}, "bytes_per_image": 10}
    assert found["checkpointed"]["bytes_per_image"] == 5 and found["kept_over_checkpointed"] == 2.0


def test_memory_of_a_step(script, capsys):
    found = script("training_memory").main(["--side", "64", "--use-checkpoint"])
    assert json.loads(capsys.readouterr().out) == found
    assert found["use_checkpoint"] is True
    assert found["peak_bytes"] is None or found["peak_bytes"] > 4 * 20_000_000  # its weights and gradients alone


def test_a_batch_of_one_has_no_slope(script):
    with pytest.raises(SystemExit):
        script("training_speed").parse(["--memory-batch", "1"])
