"""needs: smolagents[openai]."""

from smolagents import ChatMessage, MessageRole, OpenAIModel, tool
from weather import Weather, weather

model = OpenAIModel(model_id="tiny", max_tokens=200, client_kwargs={"max_retries": 0})
asked = [ChatMessage(MessageRole.USER, [{"type": "text", "text": "Weather?"}])]
called = model.generate(asked, tools_to_call_from=[tool(weather)])
assert called.tool_calls[0].function.name == "weather"
schema = {"name": "weather", "schema": Weather.model_json_schema(), "strict": True}
said = model.generate(asked, response_format={"type": "json_schema", "json_schema": schema})
assert Weather.model_validate_json(said.content)
assert list(model.generate_stream([*asked, said, *asked], max_tokens=5))
