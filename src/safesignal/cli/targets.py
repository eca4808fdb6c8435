"""What `attack` and `evaluate` aim at: an endpoint by its options, and our model under the policy asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from safesignal.cli.arguments import option
from safesignal.cli.options import BaseOptions, PolicyOptions, SignalOptions
from safesignal.errors import UsageError

if TYPE_CHECKING:
    from safesignal.attacks.endpoint import EndpointTarget
    from safesignal.attacks.targets import GuardedTarget
    from safesignal.modeling.model import SafeSignalModel

__all__ = ["EndpointOptions", "guarded_target"]

_TARGET = "Target"


@dataclass(frozen=True)
class EndpointOptions:
    """An OpenAI-compatible server instead of a local model."""

    endpoint: Annotated[str | None, option("endpoint", "Address of an OpenAI-compatible server.", _TARGET)] = None
    endpoint_model: Annotated[str | None, option("endpoint_model", "Name it knows the model by.", _TARGET)] = None
    api_key_env: Annotated[str, option("api_key_env", "Environment variable that holds its key.", _TARGET)] = ""

    def check(self) -> None:
        """Raise unless an endpoint is named whole or not at all."""
        if (self.endpoint is None) != (self.endpoint_model is None):
            raise UsageError("one of `--endpoint` and `--endpoint_model` stands alone. Expected both or neither.")

    def require_alone(self, model: BaseOptions, signal: SignalOptions, policy: PolicyOptions) -> None:
        """Raise if an endpoint stands beside options of a model of our own, which nothing would go by."""
        if self.endpoint is not None and (model, signal, policy) != (type(model)(), SignalOptions(), PolicyOptions()):
            raise UsageError(
                "`--endpoint` stands beside options of a model, its signal or its policy. Expected none of them: what "
                "guards an endpoint is behind its address.",
            )

    def aim(self) -> EndpointTarget | None:
        """Return the endpoint as a target; None if none is named."""
        if self.endpoint is None or self.endpoint_model is None:
            return None
        from safesignal.attacks.endpoint import EndpointTarget
        from safesignal.openai_client import ChatClient

        return EndpointTarget(ChatClient(self.endpoint, self.endpoint_model, self.api_key_env))


def guarded_target(model: SafeSignalModel, signal: SignalOptions, policy: PolicyOptions) -> GuardedTarget:
    """Return a loaded model under the policy and the schedule that the options ask for."""
    from safesignal.attacks.targets import GuardedTarget

    wanted = model.policy(signal.preset, **signal.overrides(), **policy.overrides())
    return GuardedTarget(model, wanted, signal.reading(model.config), preset=signal.preset)
