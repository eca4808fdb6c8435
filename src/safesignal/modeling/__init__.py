"""Everything that knows transformers: templates, injection, cache, the model, the decode loop."""
