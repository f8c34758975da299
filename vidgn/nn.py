"""Norms for other people's networks, called as torch's own are: see vidgn/models/norms/drop_in.py."""

from vidgn.models.norms.drop_in import BatchNorm3d, FrozenBatchNorm3d, GroupNorm3d, replace_norms

__all__ = ["BatchNorm3d", "FrozenBatchNorm3d", "GroupNorm3d", "replace_norms"]
