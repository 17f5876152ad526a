"""needs: autogen-agentchat autogen-ext[openai]."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily
from autogen_ext.models.openai import OpenAIChatCompletionClient
from weather import Weather, weather


async def main() -> None:
    """Two turns with one agent: AutoGen puts a `name` on each message."""
    client = OpenAIChatCompletionClient(
        model="tiny",
        max_tokens=200,
        max_retries=0,
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": True,
            "structured_output": True,
            "multiple_system_messages": True,
            "family": ModelFamily.UNKNOWN,
        },
    )
    agent = AssistantAgent("reporter", model_client=client, output_content_type=Weather)
    for task in ("Weather?", "And tomorrow?"):
        result = await agent.run(task=task)
        assert result.messages[-1].content.city in ("Rome", "Oslo")
    free = AssistantAgent("caller", model_client=client, tools=[weather])
    assert [message async for message in free.run_stream(task="Weather?")]


asyncio.run(main())
