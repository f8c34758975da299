"""vidgn: video action recognition whose result depends on the experiment and never on the hardware it ran on."""

__version__ = "0.1.0"
