"""The whole network: who influences whom, how it is called, and what it says when it is called wrongly."""

from __future__ import annotations

import io

import pytest
import torch

from esp_medsam_monai.networks import ABSENT_LOGIT, ESPMedSAM

MODALITIES = {"xray": ["lung"], "mr": ["hippocampus_anterior", "hippocampus_posterior"], "fundus": ["vessel"]}
NAMES = ["mr", "xray", "fundus", "mr", "xray"]
INDICES = [1, 0, 2, 1, 0]


@pytest.fixture
def on_the_device(monkeypatch):
    """Take the way of an index tensor on an accelerator, whose values the host does not know."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def _is_clear(features: dict[str, torch.Tensor]) -> bool:
    """No cell of the patch map so near the cut that rounding could flip it."""
    return bool(features["patch_logits"].abs().min() > 1e-3)


# --- shapes and channels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 96, 160, 224])
@torch.no_grad()
def test_shape(net, images, side):
    found = net(images(1, side), "mr", return_features=True)
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "logits": (1, 2, side, side),
        "low_res_logits": (1, 2, side // 4, side // 4),
        "patch_logits": (1, 1, side // 32, side // 32),
        "image_embedding": (1, 256, side // 16, side // 16),
    }


@torch.no_grad()
def test_channels_follow_the_batch(net, images):
    """As many as its images have targets; with an index tensor always the network's most."""
    assert net(images(2), ["xray", "fundus"]).shape == (2, 1, 64, 64)
    assert net(images(2), ["xray", "mr"]).shape == (2, 2, 64, 64)
    assert net(images(2), torch.tensor([0, 2])).shape == (2, 2, 64, 64)


@torch.no_grad()
@pytest.mark.parametrize("low_res", [False, True])
def test_absent_channels(net, images, monkeypatch, low_res):
    """Exactly -1e4, after upsampling too, and never where there is a target."""
    for modality, device_way in ((NAMES, False), (torch.tensor(INDICES), False), (torch.tensor(INDICES), True)):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda on=device_way: on)
        found = net(images(5), modality, return_features=True)["low_res_logits" if low_res else "logits"]
        absent = (found == ABSENT_LOGIT).flatten(2).all(2)
        assert absent.tolist() == [[False, name != "mr"] for name in NAMES]
        assert found[~absent].abs().max() < 1000


@torch.no_grad()
def test_forward_is_the_features_upsampled(net, images):
    features = net.forward_features(images(), "mr")
    expected = torch.nn.functional.interpolate(features["low_res_logits"], size=(64, 64), mode="bilinear")
    torch.testing.assert_close(net(images(), "mr"), expected)


# --- independence ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("coupled", [False, True])
def test_mixed_batch_is_one_by_one(randomised, images, coupled):
    net = randomised(ESPMedSAM(MODALITIES, img_size=64, coupled_queries=coupled))
    x = images(5)
    mixed = net(x, NAMES, return_features=True)
    assert _is_clear(mixed)
    for i, name in enumerate(NAMES):
        for key, value in net(x[i : i + 1], name, return_features=True).items():
            torch.testing.assert_close(mixed[key][i : i + 1, : value.shape[1]], value, rtol=0, atol=1e-5)


@torch.no_grad()
def test_permutation(net, images):
    x, order = images(5), [3, 0, 4, 1, 2]
    found = net(x, NAMES)
    turned = net(x[order], [NAMES[i] for i in order])
    torch.testing.assert_close(turned, found[order], rtol=0, atol=1e-5)


@pytest.fixture
def changed_channels(net, images):
    """Change a parameter; tell for every image which channels that changes; put it back."""

    def change(parameter):
        kept = parameter.detach().clone()
        with torch.no_grad():
            before = net(images(5), NAMES)
            parameter += 0.5
            after = net(images(5), NAMES)
            parameter.copy_(kept)
        return (before != after).flatten(2).any(2).tolist()

    return change


@pytest.mark.parametrize("entry", ["key_tokens", "value_tokens", "mlp.fc2.bias"])
def test_controller_touches_its_modality_alone(net, changed_channels, entry):
    changed = changed_channels(net.get_parameter(f"controllers.mr.blocks.4.{entry}"))
    assert [any(channels) for channels in changed] == [name == "mr" for name in NAMES]


@pytest.mark.parametrize(
    "entry", ["queries.mr_hippocampus_posterior", "hyper_mlps.mr_hippocampus_posterior.layers.2.weight"]
)
def test_query_and_mlp_touch_their_target_alone(net, changed_channels, entry):
    changed = changed_channels(net.get_parameter(f"mask_decoder.{entry}"))
    assert changed == [[False, name == "mr"] for name in NAMES]


def test_mask_loss_trains_no_patch_decoder(randomised, images):
    net = randomised(ESPMedSAM(MODALITIES, img_size=64))
    net(images(), "xray").square().mean().backward()
    assert all(parameter.grad is None for parameter in net.prompt_generator.patch_decoder.parameters())
    assert all(parameter.grad is None for parameter in net.controllers["mr"].parameters())
    for part in (net.image_encoder, net.controllers["xray"], net.prompt_generator.dense_prompter):
        assert all(parameter.grad is not None for parameter in part.parameters())


# --- ways of calling -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("indices", [INDICES, [1] * 5, [0, 2, 0, 0, 2]])
def test_device_way_is_the_host_way(net, images, on_the_device, monkeypatch, indices):
    found = net(images(5), torch.tensor(indices), return_features=True)
    monkeypatch.undo()
    expected = net(images(5), torch.tensor(indices), return_features=True)
    assert _is_clear(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("coupled", [False, True])
def test_device_way_has_the_host_ways_gradients(randomised, images, on_the_device, monkeypatch, coupled):
    net = randomised(ESPMedSAM(MODALITIES, img_size=64, coupled_queries=coupled))
    gradients = []
    for _ in range(2):
        net.zero_grad(set_to_none=False)
        net(images(2), torch.tensor([1, 0]))[:, 0].square().mean().backward()
        gradients.append({key: p.grad for key, p in net.named_parameters() if p.grad is not None and p.grad.any()})
        monkeypatch.undo()
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][key], rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@torch.no_grad()
def test_one_name_is_the_name_of_all(net, images):
    assert torch.equal(net(images(2), "mr"), net(images(2), ["mr", "mr"]))


@torch.no_grad()
def test_default_modality(images):
    single = ESPMedSAM({"mr": ["hippocampus_anterior"]}).eval()
    assert torch.equal(single(images()), single(images(), "mr"))
    chosen = ESPMedSAM(MODALITIES, default_modality="fundus").eval()
    assert torch.equal(chosen(images()), chosen(images(), "fundus"))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:FutureWarning")
@torch.no_grad()
def test_trace(images):
    """MONAI's ``ckpt_export --use_trace`` gives an image and nothing else."""
    net = ESPMedSAM(MODALITIES, img_size=64, default_modality="mr").eval()
    traced = torch.jit.trace(net, images(1, seed=1))
    torch.testing.assert_close(traced(images(1)), net(images(1)), rtol=0, atol=1e-5)


def test_export(images):
    """A graph without data-dependent shapes, modality as an index tensor."""
    net = ESPMedSAM(MODALITIES, img_size=64).eval()
    program = torch.export.export(net, (images(2), torch.tensor([1, 0])))
    with torch.no_grad():
        for indices in ([1, 0], [0, 2]):
            expected = net(images(2), torch.tensor(indices))
            torch.testing.assert_close(program.module()(images(2), torch.tensor(indices)), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_weights_survive_half_precision(net, images):
    """As the weights are shipped: tensors only, halved, and still the same to the eye."""
    state = net.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    file = io.BytesIO()
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, file)
    file.seek(0)
    other = ESPMedSAM(MODALITIES, img_size=64).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    found, expected = other.forward_features(images(), "mr"), net.forward_features(images(), "mr")
    assert _is_clear(expected)
    for key, value in expected.items():
        assert (found[key] - value).abs().max() < 0.01 * value.abs().max(), key


# --- switches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"use_controllers": False},
        {"use_patch_prompt": False},
        {"coupled_queries": True},
        {"shared_query": True},
        {"shared_hyper_mlp": True},
        {"shared_token": True, "controller_tokens": 3, "extra_queries": 0},
        {"in_channels": 1},
    ],
)
def test_switches_build_and_train(images, options):
    net = ESPMedSAM(MODALITIES, img_size=64, **options)
    x = images(3)[:, : options.get("in_channels", 3)]
    found = net(x, ["mr", "xray", "fundus"], return_features=True)
    assert found["logits"].shape == (3, 2, 64, 64)
    assert ("patch_logits" in found) is options.get("use_patch_prompt", True)
    assert bool(net.controllers) is options.get("use_controllers", True)
    found["logits"][:, 0].mean().backward()
    assert net.image_encoder.patch_embed.seq[0].c.weight.grad.abs().sum() > 0


def test_default_is_the_published_six():
    net = ESPMedSAM()
    assert list(net.modalities) == ["dermoscopy", "xray", "ultrasound", "fundus", "microscopy", "colonoscopy"]
    assert net.modalities["fundus"] == ("vessel",)
    assert net.img_size == 1024
    assert [net.modality_index(name) for name in net.modalities] == list(range(6))


# --- wrong use -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "modality", "words"),
    [
        ((1, 3, 64, 64), "ct", "unknown modality 'ct'; this network knows: xray, mr, fundus"),
        ((1, 3, 64, 64), None, "needs a modality for every image; it knows: xray, mr, fundus"),
        ((2, 3, 64, 64), ["mr"], "1 modalities for 2 images"),
        ((2, 3, 64, 64), torch.tensor([0, 3]), "unknown modality index 3; this network has 3"),
        ((2, 3, 64, 64), torch.tensor([0, -1]), "unknown modality index -1"),
        ((2, 3, 64, 64), torch.tensor([0]), r"of shape \(2,\)"),
        ((1, 1, 64, 64), "mr", r"\(B, 3, S, S\), got \(1, 1, 64, 64\)"),
        ((3, 64, 64), "mr", r"got \(3, 64, 64\)"),
        ((1, 3, 64, 96), "mr", "square, got 64 x 96"),
        ((1, 3, 100, 100), "mr", "multiple of 32 and at least 64 pixels, got 100"),
        ((1, 3, 32, 32), "mr", "at least 64 pixels, got 32"),
    ],
)
def test_bad_input(net, shape, modality, words):
    with pytest.raises(ValueError, match=words):
        net(torch.zeros(shape), modality)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"img_size": 100}, "img_size should be a multiple of 32"),
        ({"default_modality": "ct"}, "default_modality 'ct' is unknown; known: xray, mr, fundus"),
        ({"modalities": {}}, "modalities is empty"),
        ({"modalities": {"xray": []}}, "'xray' has no target"),
        ({"modalities": {"xray": "lung"}}, "should be a list of names"),
        ({"modalities": {"type": ["lung"]}}, "'type' cannot name a modality"),
        ({"modalities": {"a_b": ["c"], "a": ["b_c"]}}, "'a_b_c'"),
        ({"coupled_queries": True, "shared_query": True}, "leave out shared_query"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        ESPMedSAM(**{"modalities": MODALITIES, **options})
