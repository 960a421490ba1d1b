"""The layout of a model repository for NVIDIA Triton."""
