"""Training a signal: on-policy rollouts, the examples drawn from them, the trainer, the thresholds."""
