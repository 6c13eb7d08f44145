"""Published files: the same function, the same counts, and back again bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esp_medsam_monai.checkpoints import export_official, load_official
from esp_medsam_monai.networks import ESPMedSAM

NAMES = ("dermoscopy", "xray", "ultrasound", "fundus", "microscopy", "colonoscopy")  # by published index
PUBLISHED = {"coupled_queries": True, "shared_token": True, "shared_hyper_mlp": True}
CLASSIFIER_HEAD, PROMPT_EMBEDDINGS = 321_640, 6_220


def _is_unused(key: str) -> bool:
    """Whether the published forward pass never looks at an entry."""
    unused = ("SemiTViT.head.", "SemiTViT.norm_head.", "prompt_encoder.")
    return key.startswith(unused) and not key.startswith("prompt_encoder.pe_layer.")


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _images(count: int = 1, side: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((count, 3, side, side)).astype(np.float32))


@pytest.fixture(scope="module")
def six(official):
    """All six modalities with controllers of their own."""
    return load_official({name: official(i) for i, name in enumerate(NAMES)})


# --- the same function -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(official, golden_outputs):
    """What our network computes where the golden weights are given for all six modalities.

    The controllers are the same, so that one pass through the trunk serves all six decodings. One golden patch logit
    lies 8e-6 from the cut; the decoder is given the golden map, so that rounding cannot flip the cell.
    """
    net = load_official({name: official() for name in NAMES})
    x = _images(side=1024, seed=7)
    with torch.no_grad():
        found = net.forward_features(x, "dermoscopy")
        embedding, own_patch_logits = found["image_embedding"], found["patch_logits"]
        net.image_encoder.forward = lambda *_: embedding
        net.prompt_generator.patch_decoder.forward = lambda *_: golden_outputs["patch_logits"]
        each = [net(x, name, return_features=True) for name in NAMES]
    return {
        "image_embedding": embedding[:, ::8, ::4, ::4],
        "patch_logits": own_patch_logits,
        "low_res_logits": torch.cat([one["low_res_logits"] for one in each], 1)[..., ::4, ::4],
        "mask_logits": torch.cat([one["logits"] for one in each], 1)[..., ::16, ::16],
    }


@pytest.mark.parametrize("name", ["image_embedding", "patch_logits", "low_res_logits", "mask_logits"])
def test_golden(golden, golden_outputs, name):
    torch.testing.assert_close(golden[name], golden_outputs[name], rtol=0, atol=1e-4)


def test_golden_prompt(golden, golden_outputs):
    """No cell of the patch map changes sides but those that rounding may flip."""
    ours, theirs = golden["patch_logits"], golden_outputs["patch_logits"]
    flipped = (ours >= 0) != (theirs >= 0)
    assert (theirs[flipped].abs() < 1e-4).all()


@pytest.mark.parametrize("index", range(6))
def test_each_modality_gives_its_own_file(six, official, index):
    """Six files in one network do what each does alone."""
    x = _images(seed=3)
    with torch.no_grad():
        alone = load_official({NAMES[index]: official(index)})(x, return_features=True)
        merged = six(x, NAMES[index], return_features=True)
    assert alone["patch_logits"].abs().min() > 1e-3
    for key, value in alone.items():
        torch.testing.assert_close(merged[key], value, rtol=0, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_controllers_matter(six):
    """Otherwise the tests above could not tell the modalities apart."""
    with torch.no_grad():
        first, second = (six.forward_features(_images(), name)["image_embedding"] for name in NAMES[:2])
    assert (first - second).abs().max() > 0.1


def test_seventh_query_takes_part(official):
    state = official()
    state["mask_query.weight"] = state["mask_query.weight"].clone()
    state["mask_query.weight"][6] += 1
    with torch.no_grad():
        changed, kept = (load_official({"xray": file})(_images()) for file in (state, official()))
    assert (changed - kept).abs().max() > 1e-3


# --- counts ----------------------------------------------------------------------------------------------------------


def test_counts():
    one = ESPMedSAM({"dermoscopy": ["lesion"]}, extra_queries=6, **PUBLISHED)
    six = ESPMedSAM(extra_queries=1, **PUBLISHED)
    assert _parameters(one) == 12_461_727
    assert _parameters(six) == 28_182_737
    assert {_parameters(controller) for controller in six.controllers.values()} == {3_144_202}
    official_one = _parameters(one) + CLASSIFIER_HEAD + PROMPT_EMBEDDINGS
    official_six = _parameters(six) + CLASSIFIER_HEAD + PROMPT_EMBEDDINGS
    assert (official_one, official_six) == (12_789_587, 28_510_597)
    sam_h, sam_h_encoder, sam_b_encoder = 641_090_608, 637_026_048, 89_670_912
    assert f"{official_one / sam_h:.1%}" == "2.0%"  # arXiv v5: one active controller
    assert f"{official_six / sam_h_encoder:.1%}" == "4.5%"  # arXiv v4: six controllers
    assert f"{(official_six - CLASSIFIER_HEAD) / sam_b_encoder:.1%}" == "31.4%"  # arXiv v1


def test_published_parameters_are_all_accounted_for(golden_keys):
    """The layout file itself gives the counts."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "gaussian_matrix")
    sizes = {key: int(np.prod(shape)) for key, shape in golden_keys.items() if not key.endswith(buffers)}
    assert len(golden_keys) == 504
    assert sum(sizes.values()) == 12_789_587
    assert sum(size for key, size in sizes.items() if _is_unused(key)) == CLASSIFIER_HEAD + PROMPT_EMBEDDINGS


# --- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(6))
def test_round_trip(six, official, golden_keys, index):
    exported = export_official(six, NAMES[index])
    assert {key: list(value.shape) for key, value in exported.items()} == golden_keys
    for key, value in official(index).items():
        expected = torch.zeros_like(value) if _is_unused(key) else value
        assert exported[key].dtype == value.dtype, key
        assert torch.equal(exported[key], expected), key


def test_round_trip_of_one_file(official, tmp_path):
    """Saved under ``module.``, one modality, another name: everything comes back, counters included."""
    state = official(2)
    for key in state:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(41)
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "file.pth")
    net = load_official({"histology": tmp_path / "file.pth"}, {"histology": 4})
    assert net.modalities == {"histology": ("foreground",)}
    assert torch.equal(net.mask_decoder.extra_queries, state["mask_query.weight"][[0, 1, 2, 3, 5, 6]])
    exported = export_official(net, "histology", {"histology": 4})
    kept = [key for key in state if not _is_unused(key)]
    assert [key for key in kept if not torch.equal(exported[key], state[key])] == []


def test_order_of_modalities_is_the_published_one(official):
    """Label values must not depend on the order on the command line."""
    net = load_official({"fundus": official(3), "dermoscopy": official(0)})
    assert list(net.modalities) == ["dermoscopy", "fundus"]
    assert net.modalities["fundus"] == ("vessel",)
    assert not net.training


# --- wrong use -------------------------------------------------------------------------------------------------------


def test_bad_entries_are_named(official):
    missing, unknown, misshapen = official(), official(), official()
    del missing["SemiTViT.neck.0.weight"]
    unknown["SemiTViT.neck.9.weight"] = torch.zeros(1)
    misshapen["mask_query.weight"] = torch.zeros(6, 256)
    for state, words in (
        (missing, r"dermoscopy.*1 missing \(SemiTViT\.neck\.0\.weight\)"),
        (unknown, r"1 unknown \(SemiTViT\.neck\.9\.weight\)"),
        (misshapen, r"1 misshapen \(mask_query\.weight \(6, 256\) instead of \(7, 256\)\)"),
    ):
        with pytest.raises(ValueError, match=words):
            load_official({"dermoscopy": state})


def test_files_that_do_not_share_a_trunk(official):
    other = official(1)
    other["mask_decoder.transformer.norm_final_attn.bias"] = other["mask_decoder.transformer.norm_final_attn.bias"] + 1
    with pytest.raises(ValueError, match=r"dermoscopy and xray.*norm_final_attn\.bias is the first.*--separate"):
        load_official({"dermoscopy": official(0), "xray": other})


def test_unused_parts_may_differ(official):
    """Head, prompt embeddings and BatchNorm's counters do not reach the result."""
    other = official(1)
    for key in other:
        if key.startswith("SemiTViT.head.") or key.endswith("num_batches_tracked"):
            other[key] = other[key] + 1
    assert len(load_official({"dermoscopy": official(0), "xray": other}).modalities) == 2


@pytest.mark.parametrize(
    ("names", "indices", "words"),
    [
        ([], None, "no published file"),
        (["mr"], None, "'mr' is none of the published dermoscopy.*indices"),
        (["mr"], {"mr": 6}, "should be 0 to 5, got 6"),
        (["mr", "xray"], {"mr": 1}, "mr and xray have the same published index 1"),
        (["xray"], {"ct": 1}, "indices names ct"),
    ],
)
def test_bad_indices(names, indices, words):
    with pytest.raises(ValueError, match=words):
        load_official({name: {} for name in names}, indices)


def test_files_are_not_code(tmp_path):
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code\.pth"):
        load_official({"xray": tmp_path / "code.pth"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coupled_queries": False}, "queries are not coupled"),
        ({"shared_hyper_mlp": False}, "hyper-network MLPs of their own"),
        ({"shared_token": False}, "tokens of their own"),
        ({"controller_tokens": 2}, "other than one token"),
        ({"use_controllers": False}, "no controllers"),
        ({"use_patch_prompt": False}, "no patch prompt"),
        ({"extra_queries": 1}, "2 modalities need 5 extra queries, it has 1"),
        ({"in_channels": 1}, "1 channels"),
        ({"modalities": {"xray": ["lung", "heart"], "fundus": ["vessel"]}}, "xray has more than one target"),
    ],
)
def test_export_refuses_what_the_layout_cannot_hold(options, words):
    fitting = {"modalities": {"xray": ["lung"], "fundus": ["vessel"]}, "extra_queries": 5, **PUBLISHED}
    with pytest.raises(ValueError, match=words):
        export_official(ESPMedSAM(**{**fitting, **options}), "xray")


def test_export_of_an_unknown_modality(six):
    with pytest.raises(ValueError, match="unknown modality 'mr'"):
        export_official(six, "mr")
