"""What the benchmarks share: order and number of runs, ratios, tables."""

from __future__ import annotations

import json

import pytest

from benchmarks.bench import Runs, describe_machine, format_table, interleave, median_ratio, write_json


def test_actions_run_in_turn():
    calls = []
    runs = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, runs=2, at_most={"c": 1})
    assert "".join(calls) == "abc" + "abc" + "ab"
    assert {name: len(one.seconds) for name, one in runs.items()} == {"a": 2, "b": 2, "c": 1}


def test_a_slow_benchmark_ends_after_three_rounds():
    assert len(interleave({"a": lambda: None}, runs=50, seconds=0.0)["a"].seconds) == 3


def test_ratio_of_medians():
    assert median_ratio(Runs([3.0, 9.0, 4.0]), Runs([2.0, 2.0, 8.0])) == 2.0
    assert median_ratio(None, Runs([1.0])) is None


def test_machine_is_described(tmp_path):
    write_json(tmp_path / "new" / "machine.json", describe_machine())
    machine = json.loads((tmp_path / "new" / "machine.json").read_text(encoding="utf-8"))
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert {"torch", "monai"} <= set(machine["versions"])


@pytest.mark.parametrize("row", [("a", 1, None), ("long name", "1.25", 3)])
def test_columns_of_a_table_line_up(row):
    head, _, line = format_table(("", "seconds", "x"), [row]).splitlines()
    assert len(head) == len(line)
    assert line.split() == [word for cell in row for word in ("-" if cell is None else str(cell)).split()]
