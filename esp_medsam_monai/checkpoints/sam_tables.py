"""The position tables of a SAM checkpoint, made for 1024 pixels, fitted to a teacher of another side."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from esp_medsam_monai.networks import SAM_ENCODERS, SAMTeacher
from esp_medsam_monai.networks.sam_encoder import resize_grid, resize_offsets

__all__ = ["fit_tables"]

_GRID = "image_encoder.pos_embed"


def fit_tables(entries: Mapping[str, Tensor], teacher: SAMTeacher, name: str) -> dict[str, Tensor]:
    """Interpolate absolute positions, and the relative ones of blocks with global attention.

    The windows' tables do not depend on the side of the image and stay as they are.

    Args:
        entries: a checkpoint in SAM's layout.
        teacher: the network whose tables they should fit; not changed.
        name: what to call the checkpoint in messages.

    Returns:
        the entries with tables of the teacher's size. What is no table, or has a wrong shape, stays as it is.

    Raises:
        ValueError: when the encoder in the checkpoint is of another size than the teacher's, or is none of SAM's.
    """
    grid = entries.get(_GRID)
    if grid is None or grid.ndim != 4 or grid.shape[1] != grid.shape[2]:
        raise ValueError(f"{name} is not in the layout of SAM: it has no {_GRID} of shape (1, n, n, C).")
    encoder = teacher.image_encoder
    found = (grid.shape[3], len({key.split(".")[2] for key in entries if key.startswith("image_encoder.blocks.")}))
    wanted = (encoder.pos_embed.shape[3], len(encoder.blocks))
    if found != wanted:
        known = [size for size, sizes in SAM_ENCODERS.items() if (sizes["embed_dim"], sizes["depth"]) == found]
        raise ValueError(
            f"{name} holds an image encoder of {found[0]} channels and {found[1]} blocks, the teacher has {wanted[0]} "
            f"and {wanted[1]}; build the teacher with encoder {known[0] if known else 'of the sizes of the file'}."
        )
    fitted = dict(entries)
    before, after = grid.shape[1], encoder.pos_embed.shape[1]
    fitted[_GRID] = resize_grid(grid, after)
    for i, block in enumerate(encoder.blocks):
        for axis in ("h", "w"):
            table = fitted.get(key := f"image_encoder.blocks.{i}.attn.rel_pos_{axis}")
            if block.window_size == 0 and table is not None and table.shape[:1] == (2 * before - 1,):
                fitted[key] = resize_offsets(table, after)
    return fitted
