"""Records, public sets and mixtures: everything the project reads as data. Floor 4; never imports a model."""

__all__: list[str] = []
