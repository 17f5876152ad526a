"""needs: litellm."""

import os

import litellm
from weather import Weather

asked = {"model": "openai/tiny", "api_base": os.environ["OPENAI_BASE_URL"], "max_tokens": 5}
messages = [{"role": "user", "content": "Hello"}]
answer = litellm.completion(**asked, messages=messages)
assert answer.usage.completion_tokens <= 5
# the answer goes back as LiteLLM keeps it, with keys of its own
messages += [answer.choices[0].message.model_dump(), {"role": "user", "content": "Again"}]
chunks = list(litellm.completion(**asked, messages=messages, stream=True))
assert chunks[-1].choices[0].finish_reason in ("stop", "length")
asked["max_tokens"] = 200
found = litellm.completion(**asked, messages=messages[:1], response_format=Weather)
assert Weather.model_validate_json(found.choices[0].message.content)
del asked["max_tokens"]
answer = litellm.responses(**asked, input="Hello", max_output_tokens=16)
assert answer.usage.output_tokens <= 16
