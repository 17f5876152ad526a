"""needs: semantic-kernel."""

import asyncio

from openai import AsyncOpenAI
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
)
from semantic_kernel.functions import KernelArguments, kernel_function
from weather import Weather, weather


async def main() -> None:
    """Two turns of an agent in one thread, then a stream with a tool at hand."""
    service = OpenAIChatCompletion(ai_model_id="tiny", async_client=AsyncOpenAI(max_retries=0))
    settings = OpenAIChatPromptExecutionSettings(max_tokens=200, response_format=Weather)
    agent = ChatCompletionAgent(
        service=service,
        name="reporter",
        instructions="Be short.",
        arguments=KernelArguments(settings=settings),
    )
    thread = None
    for task in ("Weather?", "And tomorrow?"):
        answer = await agent.get_response(messages=task, thread=thread)
        thread = answer.thread
        assert Weather.model_validate_json(str(answer.content))
    caller = ChatCompletionAgent(
        service=service,
        name="caller",
        plugins=[kernel_function(weather)],
        arguments=KernelArguments(settings=OpenAIChatPromptExecutionSettings(max_tokens=40)),
    )
    assert [part async for part in caller.invoke_stream(messages="Weather?")]


asyncio.run(main())
