"""`safesignal report` from run folders to files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.report import build


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return build.pair(tmp_path)


def test_both_files_are_written_and_named(run: Run, folders: list[Path], tmp_path: Path) -> None:
    done = run("report", *folders, "--output_dir", tmp_path / "out", "--names", "base, guarded")
    assert done.code == 0, done.err
    paths = [tmp_path / "out" / name for name in ("report.md", "report.html")]
    assert done.out.split() == [str(path) for path in paths]
    text = paths[0].read_text()
    assert "# SafeSignal report: base, guarded" in text
    assert (
        f"`safesignal report {folders[0]} {folders[1]} --output_dir {tmp_path / 'out'} --names 'base, guarded'`" in text
    )


def test_the_same_files_from_the_same_run(run: Run, folders: list[Path], tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        assert run("report", *folders, "--output_dir", tmp_path / "out").code == 0
        written.append([path.read_bytes() for path in sorted((tmp_path / "out").iterdir())])
    assert written[0] == written[1]


def test_errored_attempts_end_with_3_unless_allowed(run: Run, tmp_path: Path) -> None:
    found = build.results(attacks=[build.attack("direct", 2, 95, errored=3)])
    args = ["report", build.build(tmp_path / "run", found), "--output_dir", tmp_path / "out"]
    done = run(*args)
    assert done.code == 3
    assert "3 attempts errored in direct" in done.err
    assert run(*args, "--allow_errors").code == 0


def test_goals_are_per_cell(run: Run, folders: list[Path], tmp_path: Path) -> None:
    args = ["report", *folders, "--output_dir", tmp_path / "out"]
    assert run(*args, "--goal", "gcg<3", "--goal", "alpaca-benign<4").code == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert r"\< 3 % not met" in text
    assert r"\< 4 % met" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--names", "one"], "one distinct name per run"),
        (["--traces", "-1"], "traces is -1"),
        (["--goal", "gcg"], "goal is `gcg`"),
    ],
)
def test_wrong_use(run: Run, folders: list[Path], tmp_path: Path, more: list[str], said: str) -> None:
    done = run("report", *folders, "--output_dir", tmp_path / "out", *more)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run(run: Run, tmp_path: Path) -> None:
    done = run("report", tmp_path / "none", "--output_dir", tmp_path / "out")
    assert done.code == 2
    assert "cannot read" in done.err
    assert "safesignal evaluate" in done.err


def test_an_output_that_cannot_be_written(run: Run, folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = run("report", *folders, "--output_dir", tmp_path / "file")
    assert done.code == 2
    assert "cannot be written" in done.err
