"""Weights that packages ship: found, put together from pieces, converted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from safesignal.modeling import zoo

WHOLE = bytes(range(256)) * 3


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Give an empty cache and packages of an alias in two pieces; collect what is converted."""
    seen: list[bytes] = []

    def convert(gguf: Path, folder: Path) -> None:
        seen.append(gguf.read_bytes())
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(zoo, "_convert", convert)
    monkeypatch.setattr(zoo, "ALIASES", {"tiny": zoo.Alias("tiny_gguf_pieces", "someone/tiny", parts=2)})
    monkeypatch.setenv("SAFESIGNAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return seen


def _ship(site: Path, number: int, content: bytes) -> None:
    folder = site / f"tiny_gguf_pieces_part{number}"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / f"tiny.gguf.part{number}").write_bytes(content)


def test_pieces_are_joined_in_order_and_converted_once(tmp_path: Path, converted: list[bytes]) -> None:
    _ship(tmp_path / "site", 2, WHOLE[500:])
    _ship(tmp_path / "site", 1, WHOLE[:500])
    first = zoo.resolve("tiny")
    assert zoo.resolve("tiny") == first
    assert Path(first).is_relative_to(tmp_path / "cache")
    assert converted == [WHOLE]


def test_a_missing_piece_leaves_the_hub_id(tmp_path: Path, converted: list[bytes]) -> None:
    _ship(tmp_path / "site", 1, WHOLE[:500])
    assert zoo.resolve("tiny") == "someone/tiny"
    assert converted == []
