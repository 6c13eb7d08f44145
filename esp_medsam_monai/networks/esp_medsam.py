"""ESP-MedSAM: one small network that segments many modalities and prompts itself.

Source: ESP-MedSAM (arXiv 2407.14153; v5 is De-LightSAM); checked against the public repository
``xq141839/De-LightSAM`` at d2260d7 (Apache-2.0), from which no code is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai.utils.misc import str2bool
from torch import Tensor, nn

from esp_medsam_monai.networks.modality_controller import ModalityController, RoutedBlockController
from esp_medsam_monai.networks.routing import Route
from esp_medsam_monai.networks.self_prompting import SelfPromptingNetwork
from esp_medsam_monai.networks.tiny_vit import TinyViT

__all__ = ["ESPMedSAM"]


class ESPMedSAM(SelfPromptingNetwork):
    """Promptless 2D segmentation of several modalities and targets.

    A shared trunk with one controller a modality embeds the image; the embedding predicts a coarse patch map, which
    is fed back as a prompt; a decoder with one query and one hyper-network MLP a target draws the masks. The network
    does not normalise: intensities and the divisor belong to preprocessing.

    Args:
        modalities: ``{modality: [targets]}``; default the published six with one target each.
        img_size: side of the images the network is meant for, in pixels. Any side that is a multiple of 32 and at
            least 64 can be given to ``forward``; callers such as the inferer take this one unless told otherwise.
        in_channels: channels of the images.
        default_modality: modality of images that come without one; not needed with a single modality.
        controller_tokens: extra key and value tokens a head in each block.
        shared_token: the same extra tokens for keys and values (published code).
        extra_queries: decoder queries without a mask.
        coupled_queries: all queries attend to each other (published code); the default keeps targets independent.
        shared_hyper_mlp: one hyper-network MLP for all targets (published code; ablation).
        shared_query: one query for all targets (ablation).
        use_controllers: give every modality its controller (False: ablation).
        use_patch_prompt: predict the patch map and prompt with it (False: ablation).
        use_checkpoint: in training compute the trunk's blocks again in the backward pass instead of keeping what they
            computed: less memory, more time, the same results. ``image_encoder.use_checkpoint`` switches it later.

    Raises:
        ValueError: when ``modalities``, ``img_size`` or ``default_modality`` make no sense.

    Example:
        >>> net = ESPMedSAM({"dermoscopy": ["lesion"], "mr": ["hippocampus_anterior", "hippocampus_posterior"]})
        >>> net.eval()(torch.zeros(2, 3, 64, 64), ["mr", "dermoscopy"]).shape
        torch.Size([2, 2, 64, 64])
    """

    def __init__(
        self,
        modalities: Mapping[str, Sequence[str]] | None = None,
        img_size: int = 1024,
        in_channels: int = 3,
        default_modality: str | None = None,
        controller_tokens: int = 1,
        shared_token: bool = False,
        extra_queries: int = 1,
        coupled_queries: bool = False,
        shared_hyper_mlp: bool = False,
        shared_query: bool = False,
        use_controllers: bool = True,
        use_patch_prompt: bool = True,
        use_checkpoint: bool | str = False,
    ) -> None:
        super().__init__(modalities, img_size, in_channels, default_modality)
        self.image_encoder = TinyViT(in_channels, use_checkpoint=str2bool(use_checkpoint))
        self.controllers = nn.ModuleDict()
        if use_controllers:
            dims, heads = self.image_encoder.block_dims, self.image_encoder.block_heads
            for name in self.modalities:
                self.controllers[name] = ModalityController(
                    dims, heads, num_tokens=controller_tokens, shared_token=shared_token
                )
        self.add_decoder(extra_queries, coupled_queries, shared_hyper_mlp, shared_query, use_patch_prompt)

    def embed(self, x: Tensor, route: Route) -> Tensor:
        """See :class:`SelfPromptingNetwork`; each image passes its own modality's controller."""
        if not self.controllers:
            return self.image_encoder(x)
        experts = [controller.blocks for controller in self.controllers.values()]
        controllers = [RoutedBlockController(block, route) for block in zip(*experts, strict=True)]
        return self.image_encoder(x, controllers)
