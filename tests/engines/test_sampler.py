"""Balanced sampling: equal shares, whole sets before repeats, orders that depend on seed and epoch alone."""

from __future__ import annotations

import pickle
from collections import Counter
from types import SimpleNamespace

import pytest

from esp_medsam_monai.engines import BalancedModalitySampler, SeededIndex

SIZES = {"small": 3, "middle": 20, "large": 200}


def dataset() -> SimpleNamespace:
    return SimpleNamespace(modalities=[name for name, size in SIZES.items() for _ in range(size)])


def names(indices: list[int]) -> Counter[str]:
    return Counter(dataset().modalities[i] for i in indices)


def test_every_modality_gets_the_same_share_whatever_its_size() -> None:
    assert names(list(BalancedModalitySampler(dataset(), 60))) == {"small": 20, "middle": 20, "large": 20}


def test_a_remainder_goes_round_over_the_epochs() -> None:
    sampler = BalancedModalitySampler(dataset(), 10)
    epochs = [list(sampler) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [10, 10, 10] and len(sampler) == 10
    assert names([i for epoch in epochs for i in epoch]) == {"small": 10, "middle": 10, "large": 10}


def test_a_set_is_seen_whole_before_any_of_it_is_seen_again() -> None:
    sampler = BalancedModalitySampler(dataset(), 60)
    seen = Counter(i for _ in range(10) for i in sampler)
    # Ten epochs of 20 images: each of the 200 once, each of the 20 ten times, each of the 3 66 or 67 times.
    assert {seen[i] for i in range(23, 223)} == {1}
    assert {seen[i] for i in range(3, 23)} == {10}
    assert {seen[i] for i in range(3)} == {66, 67}


def test_modalities_are_spread_over_the_epoch() -> None:
    order = list(BalancedModalitySampler(dataset(), 300))
    for start in range(0, 300, 30):
        counts = names(order[start : start + 30])
        assert all(8 <= counts[name] <= 12 for name in SIZES), counts


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first, second = BalancedModalitySampler(dataset(), 30, seed=5), BalancedModalitySampler(dataset(), 30, seed=5)
    epochs = [list(first) for _ in range(3)]
    assert epochs[0] != epochs[1]
    second.set_epoch(2)
    assert list(second) == epochs[2]
    assert list(BalancedModalitySampler(dataset(), 30, seed=6)) != epochs[0]


def test_every_walk_through_a_set_and_every_epoch_has_an_order_of_its_own() -> None:
    sampler = BalancedModalitySampler(dataset(), 30)
    epochs = [list(sampler) for _ in range(4)]
    small = [i for epoch in epochs for i in epoch if i < 3]
    walks = [tuple(small[k : k + 3]) for k in range(0, 39, 3)]
    assert all(set(walk) == {0, 1, 2} for walk in walks)
    assert len(set(walks)) > 1
    modalities = dataset().modalities
    assert len({tuple(modalities[i] for i in epoch) for epoch in epochs}) == 4


def test_seeds_travel_with_the_indices_to_the_workers() -> None:
    sampler = BalancedModalitySampler(dataset(), 60, seed=5)
    first, second = list(sampler), list(sampler)
    seeds = [index.seed for index in (*first, *second) if isinstance(index, SeededIndex)]
    assert len(set(seeds)) == 120, "the same image should not change in the same way twice"
    copies = pickle.loads(pickle.dumps(second))
    assert [(int(index), index.seed) for index in copies] == [(int(index), index.seed) for index in second]
    resumed = BalancedModalitySampler(dataset(), 60, seed=5)
    resumed.set_epoch(1)
    assert [index.seed for index in resumed] == seeds[60:]
    other = [index.seed for index in BalancedModalitySampler(dataset(), 60, seed=6) if isinstance(index, SeededIndex)]
    assert not set(other) & set(seeds)


def test_weights_change_shares_and_zero_leaves_out() -> None:
    sampler = BalancedModalitySampler(dataset(), 40, weights={"large": 3.0, "middle": 0.0})
    assert names(list(sampler)) == {"small": 10, "large": 30}


def test_wrong_weights_and_empty_data_are_told() -> None:
    with pytest.raises(ValueError, match="huge"):
        BalancedModalitySampler(dataset(), 10, weights={"huge": 1.0})
    with pytest.raises(ValueError, match="not all 0"):
        BalancedModalitySampler(dataset(), 10, weights=dict.fromkeys(SIZES, 0.0))
    with pytest.raises(ValueError, match="no images to train on"):
        iter(BalancedModalitySampler(SimpleNamespace(modalities=[]), 10))
    with pytest.raises(ValueError, match="num_samples"):
        BalancedModalitySampler(dataset(), 0)


@pytest.mark.parametrize(("ranks", "batch_size", "number"), [(2, 4, 60), (3, 2, 62), (2, 4, 13), (4, 8, 9)])
def test_ranks_share_the_batches_of_one_process(
    ranks: int, batch_size: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = BalancedModalitySampler(dataset(), number)
    expected = [[(int(index), index.seed) for index in alone] for _ in range(2)]
    monkeypatch.setattr("esp_medsam_monai.engines.sampler.world_size", lambda: ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr("esp_medsam_monai.engines.sampler.rank", lambda rank=rank: rank)
        sampler = BalancedModalitySampler(dataset(), number, batch_size=batch_size)
        parts.append([[(int(index), index.seed) for index in sampler] for _ in range(2)])
        assert len(sampler) == len(parts[-1][0]) == number // ranks
    for epoch in range(2):
        batches = [[part[epoch][i : i + batch_size] for part in parts] for i in range(0, number // ranks, batch_size)]
        together = [image for batch in batches for own in batch for image in own]
        assert together == expected[epoch][: len(together)]
        assert len(together) > number - ranks


def test_fewer_images_than_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esp_medsam_monai.engines.sampler.world_size", lambda: 3)
    with pytest.raises(ValueError, match="each of the 3 ranks"):
        len(BalancedModalitySampler(dataset(), 2))
