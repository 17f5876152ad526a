"""needs: openai-agents."""

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from weather import Weather, weather

for model in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
    agent = Agent(
        name="reporter",
        instructions="Be short.",
        model=model(model="tiny", openai_client=AsyncOpenAI(max_retries=0)),
        model_settings=ModelSettings(max_tokens=200),
        output_type=Weather,
    )
    said = Runner.run_sync(agent, "Weather?")
    assert said.final_output.city in ("Rome", "Oslo")
    again = [*said.to_input_list(), {"role": "user", "content": "And tomorrow?"}]
    assert Runner.run_sync(agent, again).final_output.city in ("Rome", "Oslo")
    # the call is forced, its answer goes back, and the output follows
    calling = agent.clone(
        tools=[function_tool(weather)],
        model_settings=ModelSettings(max_tokens=200, tool_choice="weather"),
    )
    assert Runner.run_sync(calling, "Weather?").final_output.city in ("Rome", "Oslo")
