"""Norms for other people's networks, called as torch's own are: see vidgn/models/norms/drop_in.py.

Example:
    >>> import vidgn
    >>> vidgn.nn.GroupNorm3d(4, 8)
    GroupNorm3d(8, groups=4, eps=1e-05)
"""

from vidgn.models.norms.drop_in import BatchNorm3d, FrozenBatchNorm3d, GroupNorm3d, replace_norms

__all__ = ["BatchNorm3d", "FrozenBatchNorm3d", "GroupNorm3d", "replace_norms"]
