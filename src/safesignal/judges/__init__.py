"""Judges: ``(behavior, completion) -> yes | no | unknown``. Floor 4; never imports data or a model we defend."""

__all__: list[str] = []
