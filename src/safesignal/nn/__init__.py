"""Tensors only: masks, the gated LoRA, the head, attention for few rows, sampling. No transformers, no files."""
