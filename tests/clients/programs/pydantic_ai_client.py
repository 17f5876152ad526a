"""needs: pydantic-ai-slim[openai]."""

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from weather import Weather

for model in (OpenAIChatModel, OpenAIResponsesModel):
    for output in (Weather, NativeOutput(Weather)):
        agent = Agent(model("tiny"), output_type=output, model_settings={"max_tokens": 200})
        said = agent.run_sync("Weather?")
        assert said.output.city in ("Rome", "Oslo")
        again = agent.run_sync("And tomorrow?", message_history=said.all_messages())
        assert again.output.city in ("Rome", "Oslo")
