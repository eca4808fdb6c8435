"""From run folders to `report.md` and `report.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safesignal.errors import UsageError
from safesignal.files import write_text
from safesignal.report.concerns import concerns
from safesignal.report.costs import overhead_section, probe_section, utility_section
from safesignal.report.detection import signal_section
from safesignal.report.document import Section
from safesignal.report.glance import glance_section
from safesignal.report.markdown import markdown
from safesignal.report.overview import overview_section
from safesignal.report.page import page
from safesignal.report.provenance import provenance_section
from safesignal.report.refusals import leak_section, over_refusal_section
from safesignal.report.robustness import attack_section, depth_section, judge_section
from safesignal.report.runs import Run, load_runs
from safesignal.report.traces import sample_traces

__all__ = ["Report", "write_report"]


@dataclass(frozen=True, slots=True)
class Report:
    """What was written.

    Attributes:
        markdown: Path of `report.md`.
        html: Path of `report.html`.
        warnings: What a reader should know first.
        errored: Attempts that errored, over all runs.
    """

    markdown: Path
    html: Path
    warnings: Sequence[str]
    errored: int


def write_report(
    folders: Sequence[str | Path],
    output_dir: str | Path,
    *,
    names: Sequence[str] | None = None,
    traces: int = 2,
    allow_errors: bool = False,
    goals: Mapping[str, str] | None = None,
    command: str = "",
) -> Report:
    """Write the report of one or more runs, side by side.

    Args:
        folders: Run folders, in the order they are shown.
        output_dir: Where `report.md` and `report.html` go; made if it is not there.
        names: What to call the runs; None takes the names of their targets.
        traces: Attempts shown per run, cell and status; 0 shows none, and no text of any attempt.
        allow_errors: Show rates of cells in which attempts errored.
        goals: What is wanted of a cell's rate, such as `{"prefill-text": "< 5 %"}`; met only if the point meets it.
        command: What made the report, for its footer.

    Raises:
        UsageError: If there are no runs, names do not fit, or the folder cannot be written.
        DataError: If a folder holds no results.
    """
    runs = load_runs(folders, names, allow_errors=allow_errors, goals=goals)
    title = f"SafeSignal report: {', '.join(run.name for run in runs)}"
    warnings, sections = concerns(runs), _sections(runs, command)
    folder = Path(output_dir)
    written = {
        "report.md": markdown(title, warnings, sections),
        "report.html": page(title, runs, warnings, sections, sample_traces(runs, traces)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"`{folder}` cannot be written: {error.strerror or error}. Expected a folder for the report.",
            hint="choose another `--output_dir`",
        ) from error
    for name, text in written.items():
        write_text(folder / name, text, errors="replace", hint="choose another `--output_dir`")
    return Report(folder / "report.md", folder / "report.html", warnings, _errored(runs))


def _sections(runs: Sequence[Run], command: str) -> list[Section]:
    found = [
        glance_section(runs),
        overview_section(runs),
        attack_section(runs),
        depth_section(runs),
        over_refusal_section(runs),
        leak_section(runs),
        signal_section(runs),
        overhead_section(runs),
        utility_section(runs),
        probe_section(runs),
        judge_section(runs),
        provenance_section(runs, command),
    ]
    return [section for section in found if section is not None]


def _errored(runs: Sequence[Run]) -> int:
    """Count errored attempts once: a cell over its variants, a set over its categories."""
    attacks = [entry for run in runs for entry in run.entries("attacks") if not entry.get("variant")]
    ordinary = [
        entry
        for run in runs
        for entry in run.entries("over_refusal")
        if not entry.get("category") and entry.get("label") == "benign"
    ]
    return sum(int(entry.get("errored") or 0) for entry in [*attacks, *ordinary])
