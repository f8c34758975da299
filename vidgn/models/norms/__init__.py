"""Normalization layers, their operators and the kernels of each kind of device."""
