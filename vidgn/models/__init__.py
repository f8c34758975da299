"""Networks and their norms, built from pytorchvideo's blocks."""
