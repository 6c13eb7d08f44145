"""What a training starts from: which entries come from which file, and what is refused."""

from __future__ import annotations

import logging

import pytest
import torch

from esp_medsam_monai.checkpoints import StartingWeights, save_sam_layout
from esp_medsam_monai.networks import ESPMedSAM, SAMTeacher

OLD = {"xray": ["lung"], "mr": ["front"]}
NEW = {"xray": ["lung", "heart"], "mr": ["front"], "ct": ["liver"]}
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}


@pytest.fixture
def save(tmp_path):
    """Write a fresh network's weights; the file and its state dict."""

    def make(modalities, seed=0, name="weights.pt", change=lambda state: state):
        torch.manual_seed(seed)
        state = change(ESPMedSAM(modalities, img_size=64).state_dict())
        torch.save(state, tmp_path / name)
        return str(tmp_path / name), state

    return make


@pytest.fixture
def net():
    torch.manual_seed(99)
    return ESPMedSAM(OLD, img_size=64)


def _equal(state, other, start=""):
    """Names of the entries that agree to the bit, of those that begin with a word."""
    keys = [key for key in state if key.startswith(start)]
    assert keys
    return all(torch.equal(state[key], other[key]) for key in keys)


def test_nothing_is_read_before_load_and_null_is_passed_over(net):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    start = StartingWeights(net, [{"file": "not/there.pt"}])
    with pytest.raises(FileNotFoundError, match=r"not/there\.pt"):
        start.load()
    assert StartingWeights(net, [{"file": None, "layout": "sam"}, {}]).load() == []
    assert _equal(net.state_dict(), before)


def test_a_whole_file(net, save):
    file, state = save(OLD)
    (result,) = StartingWeights(net, [{"file": file}]).load()
    assert _equal(net.state_dict(), state)
    assert set(result.taken) == set(state) and result.fresh == result.left == ()


def test_behind_data_parallel(net, save):
    file, state = save(OLD)
    wrapped = torch.nn.parallel.DistributedDataParallel.__new__(torch.nn.parallel.DistributedDataParallel)
    torch.nn.Module.__init__(wrapped)
    wrapped.module = net
    StartingWeights(wrapped, [{"file": file}]).load()
    assert _equal(net.state_dict(), state)


def test_later_files_overwrite_earlier_ones(net, save, mobile_sam, tmp_path):
    torch.save(mobile_sam, tmp_path / "mobile_sam.pt")
    file, state = save(OLD)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    sources = [
        {"file": str(tmp_path / "mobile_sam.pt"), "layout": "mobile_sam"},
        {"file": file, "parts": ["mask_decoder.queries.mr_front", "prompt_generator"]},
    ]
    StartingWeights(net, sources).load()
    found = net.state_dict()
    assert _equal({key: mobile_sam[key] for key in found if key.startswith("image_encoder.")}, found)
    assert torch.equal(found["mask_decoder.queries.mr_front"], state["mask_decoder.queries.mr_front"])
    assert torch.equal(found["mask_decoder.queries.xray_lung"], mobile_sam["mask_decoder.mask_tokens.weight"][0])
    assert _equal(found, state, "prompt_generator.") and _equal(found, before, "controllers.")
    StartingWeights(net, sources[::-1]).load()
    found = net.state_dict()
    assert torch.equal(found["mask_decoder.queries.mr_front"], mobile_sam["mask_decoder.mask_tokens.weight"][0])


@pytest.mark.parametrize("parts", [["controllers.mr", "prompt_generator"], "controllers.mr, prompt_generator"])
def test_parts_of_our_own(net, save, parts):
    file, state = save(OLD)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    (result,) = StartingWeights(net, [{"file": file, "parts": parts}]).load()
    found = net.state_dict()
    assert _equal(found, state, "controllers.mr.") and _equal(found, state, "prompt_generator.")
    for start in ("controllers.xray.", "image_encoder.", "mask_decoder."):
        assert _equal(found, before, start), start
    assert {key.split(".")[0] for key in result.left} == {"image_encoder", "controllers", "mask_decoder"}


def test_parts_of_mobile_sam(net, mobile_sam, tmp_path):
    torch.save(mobile_sam, tmp_path / "mobile_sam.pt")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    source = {"file": str(tmp_path / "mobile_sam.pt"), "layout": "mobile_sam", "parts": ["image_encoder"]}
    (result,) = StartingWeights(net, [source]).load()
    assert torch.equal(net.image_encoder.neck[0].weight, mobile_sam["image_encoder.neck.0.weight"])
    assert _equal(net.state_dict(), before, "mask_decoder.")
    assert {key.split(".")[0] for key in result.taken} == {"image_encoder"}


def test_new_modalities_and_targets(save, caplog):
    """Fresh where the file has nothing, and only there; refused unless asked for."""
    file, state = save(OLD)
    net = ESPMedSAM(NEW, img_size=64)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"weights\.pt .*missing.*new: keep"):
        StartingWeights(net, [{"file": file}]).load()
    assert _equal(net.state_dict(), before)
    with caplog.at_level(logging.INFO):
        (result,) = StartingWeights(net, [{"file": file, "new": "keep"}]).load()
    found = net.state_dict()
    assert _equal(state, found)
    names = {".".join(key.split(".")[:3]) for key in result.fresh if not key.startswith("controllers.")}
    assert names == {f"mask_decoder.{kind}.{name}" for kind in ("queries", "hyper_mlps") for name in _ADDED}
    assert {".".join(key.split(".")[:2]) for key in result.fresh if key.startswith("c")} == {"controllers.ct"}
    assert all(torch.equal(found[key], before[key]) for key in result.fresh)
    assert "left as it was: controllers.ct (" in caplog.text and "mask_decoder.queries.ct_liver (1)" in caplog.text


_ADDED = ("xray_heart", "ct_liver")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "controllers.mr.blocks.3.key_tokens"},
            r"1 missing \(.*blocks\.3",
        ),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("prompt_")}, r"\d missing \(prompt_generator\."),
        (lambda s: {**s, "mask_decoder.novel": torch.zeros(1)}, r"1 unknown \(mask_decoder\.novel\)"),
        (lambda s: {**s, "controllers.ct.x": torch.zeros(1)}, r"1 unknown \(controllers\.ct\.x\)"),
        (
            lambda s: {**s, "mask_decoder.extra_queries": torch.zeros(2, 256)},
            r"extra_queries \(2, 256\) instead of \(1,",
        ),
    ],
)
def test_keeping_what_is_new_hides_no_misfit(net, save, change, words):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    file, _ = save(OLD, change=change)
    with pytest.raises(ValueError, match=rf"weights\.pt .*{words}"):
        StartingWeights(net, [{"file": file, "new": "keep"}]).load()
    assert _equal(net.state_dict(), before)


def test_half_precision(net, save):
    """As weights are shipped: the values of the file, in the network's own precision."""
    file, state = save(OLD, change=lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()})
    StartingWeights(net, [{"file": file}]).load()
    found = net.state_dict()
    assert found["controllers.mr.blocks.0.key_tokens"].dtype == torch.float32
    assert all(torch.equal(value.to(found[key].dtype), found[key]) for key, value in state.items())


def test_decoder_side_of_a_teacher(net, tmp_path):
    """What distillation takes over; the teacher's encoder and adapters fit nothing of the student's."""
    teacher = SAMTeacher(OLD, 64, SMALL)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    source = {"file": str(tmp_path / "teacher.pt"), "parts": ["prompt_generator", "mask_decoder"]}
    StartingWeights(net, [source]).load()
    for part in source["parts"]:
        assert _equal(net.state_dict(), teacher.state_dict(), f"{part}.")
    with pytest.raises(ValueError, match=r"teacher\.pt .*missing \(image_encoder\."):
        StartingWeights(net, [{**source, "parts": None}]).load()


def test_sam_for_a_teacher(tmp_path):
    options = {"use_adapters": False, "shared_query": True, "shared_hyper_mlp": True}
    written = save_sam_layout(SAMTeacher(OLD, 64, SMALL, **options), tmp_path / "small_sam.pt")
    teacher = SAMTeacher(OLD, 64, SMALL)
    (result,) = StartingWeights(teacher, [{"file": str(tmp_path / "small_sam.pt"), "layout": "sam"}]).load()
    found = teacher.state_dict()
    assert all(torch.equal(found[key], value) for key, value in written.items() if key.startswith("image_encoder."))
    assert {key.split(".")[0] for key in result.fresh} == {"adapters", "prompt_generator", "mask_decoder"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"path": "x"}, "source 0 .* unknown entry 'path'; file, layout, parts, new"),
        ({"layout": "sam2"}, "layout 'sam2' is none of ours, mobile_sam, sam"),
        ({"new": True}, "new True is none of refuse, keep"),
    ],
)
def test_bad_sources(net, source, words):
    with pytest.raises(ValueError, match=words):
        StartingWeights(net, [source])


def test_bad_parts_and_files(net, save, mobile_sam, tmp_path):
    file, _ = save(OLD)
    with pytest.raises(ValueError, match=r"weights\.pt: the network has no part 'adapters'.*controllers, "):
        StartingWeights(net, [{"file": file, "parts": ["controllers", "adapters"]}]).load()
    with pytest.raises(ValueError, match=r"weights\.pt is not in the layout of MobileSAM"):
        StartingWeights(net, [{"file": file, "layout": "mobile_sam"}]).load()
    torch.save(mobile_sam, tmp_path / "mobile_sam.pt")
    source = {"file": str(tmp_path / "mobile_sam.pt"), "layout": "mobile_sam"}
    with pytest.raises(ValueError, match="MobileSAM's trunk fits ESPMedSAM, not SAMTeacher"):
        StartingWeights(SAMTeacher(OLD, 64, SMALL), [source]).load()
    file, _ = save({"mr": ["front"]}, name="other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: has nothing for controllers\.xray"):
        StartingWeights(net, [{"file": file, "parts": ["controllers.xray"], "new": "keep"}]).load()


def test_a_required_part_has_to_come_from_a_file(net, save):
    file, state = save(OLD)
    required = {"image_encoder": "--trunk_ckpt", "mask_decoder": "--teacher_ckpt"}
    trunk = {"file": file, "parts": ["image_encoder"]}
    with pytest.raises(ValueError, match=r"mask_decoder does not learn .* --teacher_ckpt"):
        StartingWeights(net, [trunk, {"file": None}], required).load()
    with pytest.raises(ValueError, match=r"image_encoder .* --trunk_ckpt"):
        StartingWeights(net, [{"file": None}], required).load()
    StartingWeights(net, [trunk, {"file": file, "parts": ["mask_decoder"]}], required).load()
    assert _equal(net.state_dict(), state, "mask_decoder.")


def test_the_log_names_a_few_new_targets_and_counts_many(save, caplog):
    file, _ = save(OLD)
    few = {**OLD, "mr": ["front", "back"]}
    many = {**OLD, "mr": ["front", *(f"part_{i}" for i in range(9))]}
    with caplog.at_level(logging.INFO):
        StartingWeights(ESPMedSAM(few, img_size=64), [{"file": file, "new": "keep"}]).load()
        assert "mask_decoder.queries.mr_back (1)" in caplog.text
        caplog.clear()
        StartingWeights(ESPMedSAM(many, img_size=64), [{"file": file, "new": "keep"}]).load()
    assert "mask_decoder.queries (9)" in caplog.text and "mr_part_0" not in caplog.text
