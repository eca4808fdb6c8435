"""`safesignal probe`: train the field's simple rival, a linear probe on a hidden state of the untouched model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from safesignal.cli.align import check_data, check_output
from safesignal.cli.arguments import flag, option, require_at_least_one, together
from safesignal.cli.console import bars, note
from safesignal.cli.options import BaseOptions
from safesignal.data.records import read_records

__all__ = ["probe"]

_IO, _PROBE = "Input and output", "Probe"


@dataclass(frozen=True)
class ProbeOptions:
    """How it is read and fitted."""

    every: Annotated[int, option("every", "Generated tokens between reads.", _PROBE)] = 10
    inject: Annotated[
        bool, flag("inject", "Read at an assistant header put behind the answer (Any-Depth), not at its end.", _PROBE)
    ] = False
    layer: Annotated[
        list[int] | None, option("layer", "Hidden state; repeat to choose among several by validation.", _PROBE)
    ] = None
    seed: Annotated[int | None, option("seed", "Of the mixture and the places drawn.", _PROBE)] = None

    def check(self) -> None:
        """Raise what is out of range."""
        require_at_least_one(self.every, "every")


def probe(
    model: BaseOptions,
    how: ProbeOptions,
    output: Annotated[str, option("output", "Folder of the probe; `evaluate --probe` takes it.", _IO)],
    data: Annotated[list[str] | None, option("data", "JSONL of labelled rows; repeat for more.", _IO)] = None,
    config: Annotated[str | None, option("config", "Recipe file of `align`: mixture, lengths, shares.", _IO)] = None,
    data_dir: Annotated[str | None, option("data_dir", "Folder of the training sets.", _IO, show_default="hub")] = None,
    dry_run: Annotated[bool, flag("dry_run", "Check settings and rows, train nothing.", _IO)] = False,
) -> None:
    """Train a linear probe on the rows of the gated recipe, and calibrate it as our signal is."""
    from safesignal.align.config import AlignConfig, read_align_config

    settings = read_align_config(config)[0] if config is not None else AlignConfig()
    settings = settings if how.seed is None else replace(settings, seed=how.seed)
    together(model.check, how.check, partial(check_data, data or [], settings), partial(check_output, output))
    if dry_run:
        note("settings and rows are in order; nothing was trained")
        return
    from safesignal.baselines.fit import ProbeConfig, fit_probe

    loaded = model.load_base()
    records = [record for path in data or [] for record in read_records(path, require=())]
    own = ProbeConfig(every=how.every, inject=how.inject, layers=tuple(how.layer or ()))
    with bars() as show:
        fitted = fit_probe(loaded, records, settings, own, data_dir=data_dir, progress=show)
    fitted.save(output)
    aucs = {kind: by_layer[str(fitted.layer)] for kind, by_layer in fitted.record["val_auc"].items()}
    note(f"layer {fitted.layer}; validation AUC of requests {aucs['requests']:.3f}, of answers {aucs['answers']:.3f}")
    note(f"saved in {output}; `safesignal evaluate --targets probe --probe {output}` measures it")
