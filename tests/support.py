"""Tiny models and tokenizers, built from config on the spot: no download, CPU, fp32, same weights for the same seed.

    model = tiny_model("llama")                      # 259 tokens, 2-3 layers, varied greedy text, never ends by itself
    model = tiny_model("mistral", sliding_window=8)  # any config field
    model = tiny_model("gpt2", eos=True)             # ends at the tokenizer's eos
    tokenizer = tiny_tokenizer()                     # byte level, ChatML as SmolLM2 has it
    tokenizer = tiny_tokenizer("llama2")             # strips contents, roles must alternate
    batch = left_padded(tokenizer, ["hello", "a longer one"])

Every call builds anew, so a test may change what it gets.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

__all__ = [
    "FAMILIES",
    "LAYERS",
    "REPO",
    "SLIDING_FAMILIES",
    "VOCAB_SIZE",
    "Family",
    "NetworkBlockedError",
    "Template",
    "block_network",
    "left_padded",
    "randomise_",
    "tiny_config",
    "tiny_model",
    "tiny_tokenizer",
]

REPO = Path(__file__).resolve().parents[1]

Family = Literal["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt_neox", "gpt2"]
Template = Literal["chatml", "llama2", "gemma", "rewriting", "none"]

FAMILIES: tuple[Family, ...] = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt_neox", "gpt2")
SLIDING_FAMILIES: tuple[Family, ...] = ("mistral", "gemma2", "gemma3")
"""Families of which at least one layer has a sliding window (16 tokens, so that short tests cross it)."""

SPECIAL_TOKENS: dict[str, tuple[str, str, str]] = {
    "chatml": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),  # unk, bos, eos = pad: SmolLM2's own order and ids
    "llama2": ("<unk>", "<s>", "</s>"),
}
VOCAB_SIZE = 3 + 256
LAYERS = 3
MAX_POSITIONS = 512
PAD = EOS = 2
BOS = 1
UNK = 0


# Templates. ChatML is copied from SmolLM2-135M-Instruct: a default system message appears when none is given.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}"
)
# Llama-2: contents are stripped, the system text moves into the first user turn, roles must alternate.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
# Gemma: no system role, the assistant is called model, contents are trimmed.
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Nothing of the content survives as it was, so no role can be given to its tokens.
REWRITING = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] | upper | reverse }}\n{% endfor %}"
)

TEMPLATES: dict[str, str | None] = {
    "chatml": CHATML,
    "llama2": LLAMA2,
    "gemma": GEMMA,
    "rewriting": REWRITING,
    "none": None,
}


def tiny_tokenizer(
    template: Template = "chatml", *, merges: Sequence[tuple[str, str]] = (), padding_side: str = "left"
) -> transformers.PreTrainedTokenizerFast:
    """Build a fast byte-level tokenizer: ids 0-2 special, 3-258 the bytes, then one id per merge.

    With no merges, every text decodes to itself and a character beyond ASCII takes several tokens.

    Args:
        template: The chat template; `none` leaves the tokenizer without one.
        merges: Pairs of byte-level pieces (`Ġ` is a space, `Ċ` a newline) to join, in order of priority, for tests in
            which a token straddles the border between template and content. The model then needs
            `vocab_size=len(tokenizer)`.
        padding_side: Side that padding goes to.

    Returns:
        The tokenizer, with `pad_token == eos_token` as in SmolLM2.
    """
    unk, bos, eos = SPECIAL_TOKENS["llama2" if template == "llama2" else "chatml"]
    pieces = [unk, bos, eos, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (unk, bos, eos)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        padding_side=padding_side,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


def _common(**more: Any) -> dict[str, Any]:
    """Fields that every family but GPT-2 names alike; `more` wins."""
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_POSITIONS,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "initializer_range": 0.3,
    } | more


def _gqa(**more: Any) -> dict[str, Any]:
    return _common(num_key_value_heads=2, tie_word_embeddings=False) | more


MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

CONFIGS: dict[str, Callable[..., transformers.PreTrainedConfig]] = {
    "llama": lambda **kw: transformers.LlamaConfig(**_gqa(**kw)),
    "mistral": lambda **kw: transformers.MistralConfig(**_gqa(**{"sliding_window": 16, "head_dim": 12} | kw)),
    "qwen2": lambda **kw: transformers.Qwen2Config(**_gqa(**kw)),
    "qwen3": lambda **kw: transformers.Qwen3Config(**_gqa(**{"head_dim": 16} | kw)),
    "gemma2": lambda **kw: transformers.Gemma2Config(
        **_gqa(
            **{
                "head_dim": 16,
                "query_pre_attn_scalar": 16,
                "sliding_window": 16,
                "layer_types": MIXED,
                "tie_word_embeddings": True,
            }
            | kw
        )
    ),
    "gemma3": lambda **kw: transformers.Gemma3TextConfig(
        **_gqa(
            **{
                "head_dim": 16,
                "query_pre_attn_scalar": 16,
                "sliding_window": 16,
                "layer_types": MIXED,
                "tie_word_embeddings": True,
            }
            | kw
        )
    ),
    "phi3": lambda **kw: transformers.Phi3Config(**_gqa(**{"original_max_position_embeddings": MAX_POSITIONS} | kw)),
    "gpt_neox": lambda **kw: transformers.GPTNeoXConfig(
        **_common(**{"tie_word_embeddings": False, "initializer_range": 0.5} | kw)
    ),
    "gpt2": lambda **kw: transformers.GPT2Config(
        **{
            "vocab_size": VOCAB_SIZE,
            "n_embd": 48,
            "n_layer": LAYERS,
            "n_head": 4,
            "n_positions": MAX_POSITIONS,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "initializer_range": 0.5,
        }
        | kw
    ),
}


def tiny_config(family: Family, **overrides: Any) -> transformers.PreTrainedConfig:
    """Return the config of one family, small, with `overrides` on its fields."""
    return CONFIGS[family](**overrides)


def tiny_model(
    family: Family,
    *,
    seed: int = 0,
    eos: bool | int | Sequence[int] = False,
    attn_implementation: str | None = None,
    **overrides: Any,
) -> Any:
    """Build a random causal LM in eval mode whose greedy text is varied.

    Args:
        family: Which architecture.
        seed: Same seed, same weights, whatever the global generator is at; which stays untouched.
        eos: False: `generate` never ends before its length. True: it ends at the tokenizer's eos. Ids: at those.
        attn_implementation: As in transformers; None takes the family's default.
        **overrides: Fields of the config.

    Returns:
        A `PreTrainedModel`, typed Any so that tests can reach into it.
    """
    config = tiny_config(family, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attn_implementation
        )
        _vary_(model)
    ids = None if eos is False else EOS if eos is True else eos
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=BOS, pad_token_id=PAD, eos_token_id=ids, do_sample=False
    )
    return model.eval()


# What keeps the greedy text of a random model from settling on one token (measured, tests/test_support.py): weak tied
# embeddings, which otherwise answer with their own input; sharp attention behind query and key norms; and in the GPTs
# an attention output that outweighs the token itself.
GAINS: dict[str, dict[str, float]] = {
    "gemma2": {"embed_tokens.weight": 0.15},
    "gemma3_text": {"embed_tokens.weight": 0.15},
    "gpt_neox": {"attention.dense.weight": 4.0},
    "gpt2": {"wte.weight": 0.3, "wpe.weight": 0.3, "attn.c_proj.weight": 4.0},
}
SHIFTS = {"q_norm.weight": 1.0, "k_norm.weight": 1.0, "ln_f.weight": 1.0}
GEMMA_SHIFTS = {"model.norm.weight": 3.0}


@torch.no_grad()
def _vary_(model: Any) -> None:
    """Scale the weights so that greedy text is varied, and give norms and biases values of their own."""
    kind = model.config.model_type
    gains = GAINS.get(kind, {})
    shifts = SHIFTS | (GEMMA_SHIFTS if kind.startswith("gemma") else {})
    for name, parameter in model.named_parameters():
        parameter.mul_(next((gain for end, gain in gains.items() if name.endswith(end)), 1.0))
        parameter.add_(next((shift for end, shift in shifts.items() if name.endswith(end)), 0.0))
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)


@torch.no_grad()
def randomise_(module: torch.nn.Module, *, std: float = 0.1, seed: int = 0) -> None:
    """Overwrite every parameter that takes a gradient with noise: a zero head or a zero LoRA passes any test."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def left_padded(tokenizer: transformers.PreTrainedTokenizerFast, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of raw texts (no template), padded on the left, (B, T) int64."""
    batch = tokenizer(list(texts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


class NetworkBlockedError(RuntimeError):
    """A test tried to reach beyond this machine. Not an OSError, so that no client takes it for a bad connection."""


LOOPBACK = ("127.", "::1", "localhost", "::ffff:127.")


def _refuse_far(address: object) -> None:
    host = address[0] if isinstance(address, tuple) and address else address
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if isinstance(address, tuple) and not str(host).startswith(LOOPBACK):
        raise NetworkBlockedError(f"the tests run without a network; something asked for {host!r}")


@functools.cache
def block_network() -> None:
    """Make Python sockets refuse every address but loopback and Unix paths, for the rest of the process."""

    def guard(name: str) -> None:
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, *args: Any) -> Any:
            _refuse_far(args[-1])
            return original(self, *args)

        setattr(socket.socket, name, guarded)

    for name in ("connect", "connect_ex", "sendto"):
        guard(name)

    resolve = socket.getaddrinfo

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in {None, "", socket.gethostname()}:
            _refuse_far((host,))
        return resolve(host, *args, **kwargs)

    socket.getaddrinfo = guarded_resolve
