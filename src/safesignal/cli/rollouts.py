"""`safesignal rollouts`: let the target model answer training prompts, for data in its own voice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from safesignal.cli.arguments import option, require_at_least_one, require_one_of, together
from safesignal.cli.console import note, progress
from safesignal.cli.options import BaseOptions
from safesignal.data.jsonl import Writer
from safesignal.data.mixture import LICENCES
from safesignal.errors import UsageError

if TYPE_CHECKING:
    from safesignal.align.rollouts import RolloutTask

__all__ = ["rollouts"]

_IO = "Input and output"


@dataclass(frozen=True)
class PromptOptions:
    """Whose prompts: those that a plan chooses, or a file's own."""

    plan: Annotated[str | None, option("plan", "TOML file: which prompts, how answered.", _IO)] = None
    data_dir: Annotated[str | None, option("data_dir", "Folder of the training sets.", _IO, show_default="hub")] = None
    licence: Annotated[
        list[str] | None,
        option("licence", f"Take rows of this licence only ({', '.join(LICENCES)}); repeat for more.", _IO),
    ] = None
    share: Annotated[
        float, option("share", "Take this share, in (0, 1], of what each job of the plan asks for.", _IO)
    ] = 1.0
    input: Annotated[
        str | None, option("input", "Your own prompts instead: JSONL with prompt, prompt_label, prefill.", _IO)
    ] = None
    max_new_tokens: Annotated[int, option("max_new_tokens", "Length of an answer, with --input.", "Answer")] = 64
    temperature: Annotated[float, option("temperature", "0 is greedy, with --input.", "Answer")] = 0.7
    seed: Annotated[int, option("seed", "Of the sampling, with --input.", "Answer")] = 0

    def check(self) -> None:
        """Raise what can be known to be wrong before anything is loaded."""
        hint = "`--plan recipes/smollm2.toml --data_dir ../shared/data` made the shipped adapter"
        require_one_of(hint, plan=self.plan, input=self.input)
        unknown = [name for name in self._licences() if name not in LICENCES]
        if unknown:
            found = ", ".join(f"`{name}`" for name in unknown)
            raise UsageError(f"licence is {found}. Expected some of {', '.join(LICENCES)}.")
        if not 0 < self.share <= 1:
            raise UsageError(f"share is {self.share}. Expected more than 0 and at most 1, as in `--share 0.5`.")

    def tasks(self) -> list[RolloutTask]:
        """Return what to answer."""
        from safesignal.align.rollouts import plan_input, plan_tasks, read_plan

        if self.input is not None:
            return plan_input(
                self.input, max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed
            )
        return plan_tasks(read_plan(str(self.plan)), self.data_dir, self._licences(), self.share)

    def _licences(self) -> list[str]:
        return self.licence or ["permissive", "sharealike"]


def rollouts(
    model: BaseOptions,
    prompts: PromptOptions,
    output: Annotated[str, option("output", "JSONL file for the answers; rows in it are not done again.", _IO)],
    batch_size: Annotated[int, option("batch_size", "Prompts answered side by side.", _IO)] = 32,
) -> None:
    """Let the base model answer training prompts; rows carry labels, source and licence."""
    together(model.check, partial(require_at_least_one, batch_size), prompts.check)
    tasks = prompts.tasks()
    from safesignal.align.rollouts import require_same_answers, run_rollouts

    with Writer(output) as writer:
        require_same_answers(tasks, output, model.model or "smollm2")
        left = sum(task.id not in writer.done for task in tasks)
    if not left:
        note(f"all {len(tasks)} answers are in {output} already")
        return
    loaded = model.load_base()
    with progress() as bar:
        line = bar.add_task(Path(output).name, total=len(tasks), completed=len(tasks) - left)
        written = run_rollouts(
            loaded, tasks, output, batch_size=batch_size, progress=lambda done, _: bar.update(line, completed=done)
        )
    note(f"{written} answers added to {output}")
