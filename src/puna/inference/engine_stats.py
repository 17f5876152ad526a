"""EngineStats of an engine: plain numbers, without torch."""

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStats:
    """Counts since the engine was made, and how things stand after the last step."""

    waiting: int = 0
    running: int = 0
    blocks: int = 0
    used_blocks: int = 0
    steps: int = 0
    batch_tokens: int = 0
    """Tokens computed in the last step."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of them, those that were in the prefix cache."""
    generated_tokens: int = 0
    preemptions: int = 0
    cancelled: int = 0
    proposed: int = 0
    accepted: int = 0
