"""What ranks are to a single process, and how images are divided among several."""

from __future__ import annotations

import logging

import pytest
import torch

from esp_medsam_monai.engines import ProcessGroup, RankSampler, cached_loader, distributed
from esp_medsam_monai.engines.ranks import (
    barrier,
    from_main_rank,
    gather_objects,
    is_main_rank,
    on_main_rank,
    rank,
    share_running_statistics,
    world_size,
)


def test_a_single_process_needs_no_group(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("RANK", raising=False)
    group = ProcessGroup("cpu")
    assert group.device == torch.device("cpu")
    assert "torch.distributed.run" in caplog.text
    network = torch.nn.BatchNorm2d(3)
    assert distributed(network, group.device) is network
    share_running_statistics(network)
    barrier()
    assert (rank(), world_size(), is_main_rank()) == (0, 1, True)
    assert (gather_objects("x"), from_main_rank("x"), on_main_rank(lambda: "x")) == (["x"], "x", "x")
    group.end()
    assert logging.getLogger("esp_medsam_monai").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_image_is_on_one_rank(length: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader without images has a length all the same, unless nobody has any: MONAI would leave out its run."""
    monkeypatch.setattr("esp_medsam_monai.engines.rank_sampler.world_size", lambda: ranks)
    monkeypatch.setattr("esp_medsam_monai.engines.loader.world_size", lambda: ranks)
    seen: list[int] = []
    for number in range(ranks):
        monkeypatch.setattr("esp_medsam_monai.engines.rank_sampler.rank", lambda number=number: number)
        loader = cached_loader(torch.utils.data.TensorDataset(torch.arange(length)), 2)
        assert isinstance(loader.sampler, RankSampler)
        assert len(loader) >= min(length, 1)
        own = [int(value) for (values,) in loader for value in values]
        assert own == sorted(own)
        seen += own
    assert sorted(seen) == list(range(length))
