"""needs: openai pydantic."""

import openai
from weather import Weather

client = openai.OpenAI(max_retries=0)
hello = [{"role": "user", "content": "Hello"}]
tool = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"warm": {"type": "boolean"}},
            "required": ["warm"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}

assert [model.id for model in client.models.list()] == ["tiny"]
answer = client.chat.completions.create(model="tiny", messages=hello, max_tokens=5)
assert answer.usage.completion_tokens <= 5
assert answer._request_id
stream = client.chat.completions.create(
    model="tiny",
    messages=hello,
    max_tokens=5,
    stream=True,
    stream_options={"include_usage": True},
)
*_, last = stream
assert last.usage is not None
called = client.chat.completions.create(
    model="tiny", messages=hello, tools=[tool], tool_choice="required", max_tokens=60
)
assert called.choices[0].message.tool_calls[0].function.name == "weather"
assert len(client.embeddings.create(model="tiny", input=["a", "b"]).data) == 2
code = None
try:
    client.completions.create(model="tiny", prompt="x" * 100_000, stream=True)
except openai.BadRequestError as error:
    code = error.code
assert code == "context_length_exceeded", "a prompt that is too long was taken"

# what was parsed goes back with `parsed`, and what was called with `parsed_arguments`
parsed = (
    client.chat.completions.parse(
        model="tiny", messages=hello, max_tokens=200, response_format=Weather
    )
    .choices[0]
    .message
)
assert parsed.parsed.city in ("Rome", "Oslo")
history = [*hello, parsed, *hello, called.choices[0].message]
history += [
    {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
    for call in called.choices[0].message.tool_calls
]
client.chat.completions.create(model="tiny", messages=history, max_tokens=5)
said = client.responses.parse(
    model="tiny", input="Weather?", max_output_tokens=200, text_format=Weather
)
assert said.output_parsed.city in ("Rome", "Oslo")
with client.responses.stream(
    model="tiny", input=[*hello, *said.output, *hello], max_output_tokens=16
) as events:
    *_, last = events
assert last.type in ("response.completed", "response.incomplete")
