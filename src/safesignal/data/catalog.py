"""The public sets the project knows, as data: where each lives, who may use it, how a row is read.

Licences are those generally known for the original sets, not legal advice; ``unstated`` and ``noncommercial`` never
enter what ships in the package. Gated sets are reachable by hub id only, for those who accepted their terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from safesignal.data import mappers
from safesignal.data.mappers import Mapper

__all__ = ["SOURCES", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """One public set.

    Attributes:
        name: The name it is asked for by.
        role: ``train``, or ``eval``: never trained on, never tuned on.
        licence: ``permissive``, ``sharealike``, ``noncommercial`` or ``unstated``; a row's own takes precedence.
        licence_name: The licence in words.
        hub_id: Data set id on the Hugging Face hub, None if it is not there.
        hub_config: Configuration on the hub.
        hub_split: Split on the hub; None reads all splits and puts the split's name into each row.
        published: Repository on GitHub, or package, that a local file with no hub id was read from, and the path in it.
        hub_args: More arguments for ``datasets.load_dataset``.
        gated: Whether the hub asks for accepted terms and a token.
        local_file: Name of the file that holds the set in a data folder, None if it is never stored.
        local_sources: Values of the row's `source` field that belong to the set; empty means the whole file.
        from_hub: Reads a row of the hub's format.
        from_local: Reads a row of the local file.
    """

    name: str
    role: Literal["train", "eval"]
    licence: str
    licence_name: str
    hub_id: str | None = None
    hub_config: str | None = None
    hub_split: str | None = "train"
    published: str = ""
    hub_args: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = False
    local_file: str | None = None
    local_sources: tuple[str, ...] = ()
    from_hub: Mapper = mappers.own_format
    from_local: Mapper = mappers.own_format


_BENIGN, _MALICIOUS, _BORDERLINE = "train_benign.jsonl", "train_malicious.jsonl", "train_borderline.jsonl"
_TSV = {"delimiter": "\t", "keep_default_na": False}
_benign_prompt = mappers.prompt_column("benign")
_malicious_prompt = mappers.prompt_column("malicious")


def _train(name: str, licence: str, licence_name: str, file: str | None, *local: str, **more: Any) -> Source:
    return Source(name, "train", licence, licence_name, local_file=file, local_sources=local, **more)


def _eval(name: str, licence: str, licence_name: str, file: str | None, from_local: Mapper, **more: Any) -> Source:
    return Source(name, "eval", licence, licence_name, local_file=file, from_local=from_local, **more)


_TRAIN = (
    _train("alpaca", "noncommercial", "CC BY-NC 4.0", _BENIGN, "alpaca", "alpaca-cherry5",
           hub_id="tatsu-lab/alpaca", from_hub=mappers.alpaca),
    _train("dolly-15k", "sharealike", "CC BY-SA 3.0", _BENIGN, "dolly-15k",
           hub_id="databricks/databricks-dolly-15k", from_hub=mappers.dolly),
    _train("lima", "noncommercial", "CC BY-NC-SA 4.0", _BENIGN, "lima",
           hub_id="GAIR/lima", gated=True, from_hub=mappers.conversations),
    _train("gsm8k-train", "permissive", "MIT", _BENIGN, "gsm8k-train",
           hub_id="openai/gsm8k", hub_config="main", from_hub=mappers.gsm8k_train),
    _train("beavertails", "noncommercial", "CC BY-NC 4.0", _MALICIOUS, "beavertails-unsafe",
           hub_id="PKU-Alignment/BeaverTails", hub_split="30k_train", from_hub=mappers.beavertails),
    _train("pku-saferlhf", "noncommercial", "CC BY-NC 4.0", _MALICIOUS, "pku-saferlhf-test",
           hub_id="PKU-Alignment/PKU-SafeRLHF", from_hub=mappers.pku_saferlhf),
    _train("safety-tuned-llamas", "noncommercial", "CC BY-NC 4.0", _MALICIOUS, "safety-tuned-llamas",
           published="vinid/safety-tuned-llamas: data/training"),
    _train("gptfuzz", "permissive", "MIT", _MALICIOUS, "gptfuzz-labelled", published="sherdencooper/GPTFuzz: datasets"),
    _train("aegis2", "permissive", "CC BY 4.0", _MALICIOUS, "aegis2-safe-response",
           hub_id="nvidia/Aegis-AI-Content-Safety-Dataset-2.0", from_hub=mappers.aegis),
    _train("pure-bad", "unstated", "none stated", _MALICIOUS, "pure-bad-100",
           published="Jayfeather1024/Backdoor-Enhanced-Alignment: opensource/ft_datasets"),
    _train("hh-rlhf", "permissive", "MIT", _MALICIOUS, "hh-rlhf-harmless-test",
           hub_id="Anthropic/hh-rlhf", hub_split="test", hub_args={"data_dir": "harmless-base"},
           from_hub=mappers.hh_rlhf),
    _train("circuit-breaker", "permissive", "MIT", _MALICIOUS, "circuit-breaker-goals",
           published="AI45Lab/ActorAttack: data/circuit_breaker_train.csv"),
    _train("catqa", "permissive", "Apache-2.0", _MALICIOUS, "catqa",
           hub_id="declare-lab/CategoricalHarmfulQA", hub_split="en",
           from_hub=mappers.prompt_column("malicious", "Question")),
    _train("dangerousqa", "permissive", "Apache-2.0", _MALICIOUS, "dangerousqa",
           published="declare-lab/red-instruct: harmful_questions"),
    _train("coconot", "permissive", "ODC-BY, MIT", _BORDERLINE, "coconot-contrast",
           hub_id="allenai/coconot", hub_config="pref", from_hub=mappers.coconot_pref),
    _train("coconot-contrast", "permissive", "ODC-BY, MIT", _BORDERLINE, "coconot-contrast-eval",
           hub_id="allenai/coconot", hub_config="contrast", hub_split="test", from_hub=_benign_prompt),
    _train("cdna-fp", "noncommercial", "CC BY-NC-SA 4.0", _BORDERLINE, "cdna-fp",
           published="LibrAIResearch/libra-eval: libra_eval/datasets"),
    _train("oktest", "unstated", "none stated by its repository", _BORDERLINE, "oktest",
           published="InvokerStark/OverKill: data"),
    _train("mitre-frr", "permissive", "MIT", _BORDERLINE, "cyberseceval-mitre-frr",
           published="meta-llama/PurpleLlama: CybersecurityBenchmarks/datasets/mitre_frr"),
    _train("dro-harmless", "unstated", "none stated by its repository", _BORDERLINE, "dro-harmless",
           published="chujiezheng/LLM-Safeguard: code/data_harmless"),
    _train("bio-overrefusal", "noncommercial", "CC BY-NC-SA 4.0", _BORDERLINE, "bio-overrefusal-t12",
           published="jang1563/bio-overrefusal-v0.1: data"),
    _train("jailbreak-templates", "unstated", "MIT, GPL-3.0, none", "train_jailbreak_templates.jsonl",
           from_local=mappers.template,
           published="packages pyrit 1.1.0, easyjailbreak 0.1.3; thu-coai/JailbreakDefense_GoalPriority: data/test"),
    _train("or-bench-80k", "permissive", "CC BY 4.0", None,
           hub_id="bench-llm/or-bench", hub_config="or-bench-80k", from_hub=_benign_prompt),
    _train("wildjailbreak", "permissive", "ODC-BY", None, gated=True, from_hub=mappers.wildjailbreak,
           hub_id="allenai/wildjailbreak", hub_config="train", hub_args=_TSV),
)  # fmt: skip

_EVAL = (
    _eval("advbench", "permissive", "MIT", "eval_advbench.jsonl", mappers.goal,
          hub_id="walledai/AdvBench", gated=True, from_hub=_malicious_prompt),
    _eval("maliciousinstruct", "unstated", "none stated", "eval_maliciousinstruct.jsonl", mappers.goal,
          hub_id="walledai/MaliciousInstruct", from_hub=_malicious_prompt),
    _eval("jailbreakbench", "permissive", "MIT", "eval_jbb_behaviors.jsonl", mappers.jailbreakbench,
          hub_id="JailbreakBench/JBB-Behaviors", hub_config="behaviors", hub_split=None,
          from_hub=mappers.jailbreakbench),
    _eval("xstest", "permissive", "CC BY 4.0", "eval_xstest.jsonl", mappers.xstest,
          hub_id="walledai/XSTest", hub_split="test", gated=True, from_hub=mappers.xstest),
    _eval("xstest-response", "permissive", "ODC-BY", "eval_xstest_responses.jsonl", mappers.xstest_response,
          hub_id="allenai/xstest-response", hub_split="response_refusal", gated=True,
          from_hub=mappers.xstest_response),
    _eval("gcg", "permissive", "MIT", "eval_gcg_suffix.jsonl", mappers.jailbreak,
          published="JailbreakBench/artifacts: attack-artifacts; arobey1/smooth-llm: data/GCG"),
    _eval("autodan", "permissive", "MIT", "eval_autodan.jsonl", mappers.jailbreak,
          published="RobustNLP/DeRTa: results/safety/autodan"),
    _eval("deepinception", "permissive", "MIT", "eval_deepinception.jsonl", mappers.jailbreak,
          published="tmlr-group/DeepInception: res/data_main.json"),
    _eval("jbb-artifacts", "permissive", "MIT", "eval_jbb_artifacts.jsonl", mappers.jailbreak,
          published="JailbreakBench/artifacts: attack-artifacts"),
    _eval("alpaca-benign", "noncommercial", "CC BY-NC 4.0", "eval_alpaca_benign.jsonl", mappers.labelled_prompt,
          published="gpt4life/alpagasus: data/random (rows that `alpaca` leaves)"),
    _eval("mt-bench", "permissive", "Apache-2.0", "eval_mtbench.jsonl", mappers.turns,
          hub_id="HuggingFaceH4/mt_bench_prompts", from_hub=mappers.mt_bench),
    _eval("gsm8k", "permissive", "MIT", "eval_gsm8k.jsonl", mappers.gsm8k,
          hub_id="openai/gsm8k", hub_config="main", hub_split="test", from_hub=mappers.gsm8k),
    _eval("mmlu", "permissive", "MIT", "eval_mmlu_sample.jsonl", mappers.mmlu,
          hub_id="cais/mmlu", hub_config="all", hub_split="test", from_hub=mappers.mmlu),
    _eval("human-refusal", "permissive", "MIT", "eval_human_refusals.jsonl", mappers.human_refusal,
          published="package pyrit 1.1.0: scorer_evals/refusal_scorer"),
    _eval("human-harm", "permissive", "MIT", "eval_human_harm.jsonl", mappers.human_harm,
          published="package pyrit 1.1.0: scorer_evals/harm"),
    _eval("or-bench-hard", "permissive", "CC BY 4.0", None, _benign_prompt,
          hub_id="bench-llm/or-bench", hub_config="or-bench-hard-1k", from_hub=_benign_prompt),
    _eval("or-bench-toxic", "permissive", "CC BY 4.0", None, _malicious_prompt,
          hub_id="bench-llm/or-bench", hub_config="or-bench-toxic", from_hub=_malicious_prompt),
    _eval("wildjailbreak-eval", "permissive", "ODC-BY", None, mappers.wildjailbreak, gated=True,
          hub_id="allenai/wildjailbreak", hub_config="eval", hub_args=_TSV, from_hub=mappers.wildjailbreak),
    _eval("hex-phi", "unstated", "HEx-PHI licence agreement", None, _malicious_prompt, gated=True,
          hub_id="LLM-Tuning-Safety/HEx-PHI", hub_split=None,
          from_hub=mappers.prompt_column("malicious", "content", "prompt", "instruction", "text")),
)  # fmt: skip

SOURCES: dict[str, Source] = {source.name: source for source in (*_TRAIN, *_EVAL)}
"""Every known set by name."""
