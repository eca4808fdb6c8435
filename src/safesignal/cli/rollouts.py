"""`safesignal rollouts`: let the target model answer training prompts, for data in its own voice."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from safesignal.cli.arguments import option, require_at_least_one, together
from safesignal.cli.console import note, progress
from safesignal.cli.options import BaseOptions
from safesignal.data.jsonl import Writer
from safesignal.data.mixture import LICENCES
from safesignal.errors import UsageError

if TYPE_CHECKING:
    from safesignal.align.rollouts import RolloutTask

__all__ = ["rollouts"]

_IO = "Input and output"


def rollouts(
    model: BaseOptions,
    output: Annotated[str, option("output", "JSONL file for the answers; rows in it are not done again.", _IO)],
    plan: Annotated[str | None, option("plan", "TOML file: which prompts, how answered.", _IO)] = None,
    data_dir: Annotated[str | None, option("data_dir", "Folder of the training sets.", _IO, show_default="hub")] = None,
    licence: Annotated[
        list[str] | None,
        option("licence", f"Take rows of this licence only ({', '.join(LICENCES)}); repeat for more.", _IO),
    ] = None,
    input: Annotated[
        str | None, option("input", "Your own prompts instead: JSONL with prompt, prompt_label, prefill.", _IO)
    ] = None,
    batch_size: Annotated[int, option("batch_size", "Prompts answered side by side.", _IO)] = 32,
    max_new_tokens: Annotated[int, option("max_new_tokens", "Length of an answer, with --input.", "Answer")] = 64,
    temperature: Annotated[float, option("temperature", "0 is greedy, with --input.", "Answer")] = 0.7,
    seed: Annotated[int, option("seed", "Of the sampling, with --input.", "Answer")] = 0,
) -> None:
    """Let the base model answer training prompts; rows carry labels, source and licence."""
    licences = licence or ["permissive", "sharealike"]
    together(model.check, partial(require_at_least_one, batch_size), partial(_check, plan, input, licences))
    tasks = _tasks(plan, data_dir, licences, input, max_new_tokens, temperature, seed)
    with Writer(output) as writer:
        left = sum(task.id not in writer.done for task in tasks)
    if not left:
        note(f"all {len(tasks)} answers are in {output} already")
        return
    from safesignal.align.rollouts import run_rollouts

    loaded = model.load_base()
    with progress() as bar:
        line = bar.add_task(Path(output).name, total=len(tasks), completed=len(tasks) - left)
        written = run_rollouts(
            loaded, tasks, output, batch_size=batch_size, progress=lambda done, _: bar.update(line, completed=done)
        )
    note(f"{written} answers added to {output}")


def _check(plan: str | None, input_path: str | None, licences: list[str]) -> None:
    if (plan is None) == (input_path is None):
        raise UsageError(
            f"{'both `--plan` and' if plan is not None else 'neither `--plan` nor'} `--input` given. "
            "Expected one of the two.",
            hint="`--plan recipes/smollm2.toml --data_dir ../shared/data` is what the shipped adapter was made from",
        )
    unknown = [name for name in licences if name not in LICENCES]
    if unknown:
        raise UsageError(f"licence is {', '.join(f'`{u}`' for u in unknown)}. Expected some of {', '.join(LICENCES)}.")


def _tasks(
    plan: str | None,
    data_dir: str | None,
    licences: list[str],
    input_path: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[RolloutTask]:
    from safesignal.align.rollouts import plan_input, plan_tasks, read_plan

    if input_path is not None:
        return plan_input(input_path, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    return plan_tasks(read_plan(str(plan)), data_dir, licences)
