"""The medical teacher: SAM's image encoder with adapters, in front of the student's prompt generator and decoder.

Sources: ESP-MedSAM (arXiv 2407.14153), medical teacher; Segment Anything (arXiv 2304.02643).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.utils.misc import str2bool
from torch import Tensor, nn

from esp_medsam_monai.networks.checkpointing import run_block
from esp_medsam_monai.networks.routing import Route
from esp_medsam_monai.networks.sam_adapter import SAMBlockAdapter
from esp_medsam_monai.networks.sam_encoder import resize_grid, sam_encoder
from esp_medsam_monai.networks.self_prompting import SelfPromptingNetwork

__all__ = ["SAMTeacher"]


class SAMTeacher(SelfPromptingNetwork):
    """SAM as a promptless network of many modalities, from which :class:`ESPMedSAM` learns.

    It is called as :class:`ESPMedSAM` and has the same prompt generator and decoder, under the same names. What SAM
    does not have is in ``adapters``, one for each block and common to all modalities. ``image_encoder`` has the names
    and, for ``img_size`` 1024, the shapes of SAM's checkpoints. ``forward`` takes any side that is a multiple of 32
    and at least 64; position tables of another side are interpolated, as they are when a checkpoint is loaded.

    Args:
        modalities: ``{modality: [targets]}``; default the published six with one target each.
        img_size: side of the images that the position tables are made for, in pixels.
        encoder: ``vit_b``, ``vit_l``, ``vit_h`` or the sizes of another one, see :func:`sam_encoder`.
        default_modality: modality of images that come without one; not needed with a single modality.
        use_adapters: have adapters; without them the embedding is SAM's own, as the first stage distils it.
        num_tokens: key tokens and value tokens a head in each block; see :class:`SAMBlockAdapter`.
        adapter_dim: channels inside the adapters' branch; None takes a quarter of the block's.
        token_bias: start of what is added to the tokens' attention logits.
        freeze: switch the gradient of ``image_encoder`` off; ``TrainableParts`` of a training decides anew.
        extra_queries: see :class:`ESPMedSAM`, as the rest.
        coupled_queries: all queries attend to each other.
        shared_hyper_mlp: one hyper-network MLP for all targets.
        shared_query: one query for all targets.
        use_patch_prompt: predict the patch map and prompt with it.
        use_checkpoint: in training compute the encoder's blocks again in the backward pass instead of keeping what
            they computed: less memory, more time, the same results.

    Raises:
        ValueError: when ``modalities``, ``img_size``, ``default_modality``, ``encoder`` or sizes make no sense.

    Example:
        >>> net = SAMTeacher({"dermoscopy": ["lesion"]}, img_size=64, encoder="vit_b")
        >>> net(torch.zeros(2, 3, 64, 64), embed_only=True)["image_embedding"].shape
        torch.Size([2, 256, 4, 4])
    """

    def __init__(
        self,
        modalities: Mapping[str, Sequence[str]] | None = None,
        img_size: int = 1024,
        encoder: str | Mapping[str, Any] = "vit_b",
        default_modality: str | None = None,
        use_adapters: bool = True,
        num_tokens: int = 1,
        adapter_dim: int | None = None,
        token_bias: float = 0.0,
        freeze: bool = True,
        extra_queries: int = 1,
        coupled_queries: bool = False,
        shared_hyper_mlp: bool = False,
        shared_query: bool = False,
        use_patch_prompt: bool = True,
        use_checkpoint: bool | str = False,
    ) -> None:
        super().__init__(modalities, img_size, 3, default_modality)
        if num_tokens < 0:
            raise ValueError(f"num_tokens should not be negative, got {num_tokens}.")
        if adapter_dim is not None and adapter_dim < 1:
            raise ValueError(f"adapter_dim should be at least 1, got {adapter_dim}; use_adapters=False has none.")
        self.use_checkpoint = str2bool(use_checkpoint)
        self.image_encoder = sam_encoder(encoder, img_size)
        if freeze:
            self.image_encoder.requires_grad_(False)
        self.adapters = nn.ModuleList()
        if use_adapters:
            for block in self.image_encoder.blocks:
                dim = block.norm1.normalized_shape[0]
                width = max(1, dim // 4) if adapter_dim is None else adapter_dim
                self.adapters.append(SAMBlockAdapter(dim, block.attn.num_heads, num_tokens, width, token_bias))
        self.add_decoder(extra_queries, coupled_queries, shared_hyper_mlp, shared_query, use_patch_prompt)

    def embed(self, x: Tensor, route: Route) -> Tensor:
        """See :class:`SelfPromptingNetwork`; the teacher treats all modalities alike."""
        x = self.image_encoder.patch_embed(x)
        x = x + resize_grid(self.image_encoder.pos_embed, x.shape[1])
        if self.adapters:
            for block, adapter in zip(self.image_encoder.blocks, self.adapters, strict=True):
                x = run_block(adapter, block, x, use_checkpoint=self.use_checkpoint)
        else:
            for block in self.image_encoder.blocks:
                x = run_block(block, x, use_checkpoint=self.use_checkpoint)
        return run_block(self.image_encoder.neck, x.permute(0, 3, 1, 2), use_checkpoint=self.use_checkpoint)
