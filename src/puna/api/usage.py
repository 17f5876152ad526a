"""What an answer cost, in tokens."""

from collections.abc import Sequence

from puna.api.generation import Prompt
from puna.api.responses import CompletionUsage, PromptTokensDetails


def usage_of(prompts: Sequence[Prompt], *, completed: bool = True) -> CompletionUsage:
    """The tokens of prompts and of what continued them. A prompt counts once, as does what was
    known of it when its first choice began.

    completed: false where nothing of what was generated is given.
    """
    read = sum(len(prompt.request.prompt) for prompt in prompts)
    written = (
        sum(choice.tokens for prompt in prompts for choice in prompt.choices) if completed else 0
    )
    cached = sum(prompt.choices[0].cached for prompt in prompts)
    return CompletionUsage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )
