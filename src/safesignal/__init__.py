"""SafeSignal: an explicit safety signal inside any Hugging Face causal LM, read again while the model writes."""

__version__ = "0.1.0"
__all__ = ["__version__"]
