"""Tensors only: masks, the gated LoRA, the head, attention for short query blocks, sampling. No transformers, no files."""
