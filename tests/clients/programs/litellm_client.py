"""needs: litellm."""

import os

import litellm

asked = {
    "model": "openai/tiny",
    "api_base": os.environ["OPENAI_BASE_URL"],
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 5,
}
assert litellm.completion(**asked).usage.completion_tokens <= 5
chunks = list(litellm.completion(**asked, stream=True))
assert chunks[-1].choices[0].finish_reason in ("stop", "length")
