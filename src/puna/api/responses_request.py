"""The body of a request to /v1/responses, field by field, and the chat that it asks for.

Every field of OpenAI's interface stands here, as in protocol.py; the answer repeats most of them.
Nothing is stored between two requests, so fields that refer to what was stored are rejected with
what to send instead. Not here: items of the input (responses_items.py).
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from puna.api.chat_messages import Function, NamedFunction, NamedTool, Tool, ToolChoice
from puna.api.cross_field_rules import RESPONSES_RULES, in_json_schema
from puna.api.fields import AtMost, Name, NoEffect, NotSupported
from puna.api.protocol import ChatRequest, SamplingRequest
from puna.api.response_format import (
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedSchema,
    ResponseFormat,
    TextFormat,
)
from puna.api.responses_items import ResponsesInput, as_messages
from puna.config import Config

LOGPROBS = "message.output_text.logprobs"
"""The entry of `include` that asks for log-probabilities."""

_NOTHING_STORED = "nothing is stored here, so send the whole conversation as input"
_NO_MARKS = "prefixes are cached without being marked"


class FunctionTool(Function):
    """A function that the model may call, described beside its type, where a chat nests it."""

    type: Annotated[
        Literal["function"],
        NotSupported(
            "no tool is built in and no address is ever fetched: describe a function, run it"
            " yourself, and send its output back"
        ),
    ]
    allowed_callers: Annotated[None, NotSupported("only the model calls functions")] = None
    async_: Annotated[
        Literal[False] | None,
        Field(alias="async"),
        NotSupported("the answer ends at a call"),
    ] = None
    defer_loading: Annotated[
        Literal[False] | None, NotSupported("all tools are described at once")
    ] = None
    output_schema: Annotated[None, NotSupported("outputs of functions are not checked")] = None

    def in_chat(self) -> Tool:
        """The same as a chat has it."""
        function = Function(**self.model_dump(include=set(Function.model_fields)))
        return Tool(type="function", function=function)

    def described(self) -> dict[str, Any]:
        """The same as the answer repeats it."""
        fields = {"type", *Function.model_fields}
        return {**self.model_dump(include=fields), "strict": bool(self.strict)}


class FunctionChoice(Config):
    """The function to call, and no other."""

    type: Annotated[
        Literal["function"], NotSupported("tools are functions, and all of them are allowed")
    ]
    name: Name


class FlatSchemaFormat(Config):
    """JSON that keeps to a schema. name and description are for people."""

    type: Literal["json_schema"]
    name: Name
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = Field(default=None, description="no properties but those of the schema")


class TextOptions(Config):
    """The form of the answer's text."""

    format: (
        Annotated[TextFormat | JsonObjectFormat | FlatSchemaFormat, Field(discriminator="type")]
        | None
    ) = None
    verbosity: Annotated[
        str | None, NoEffect("no model here was taught degrees of it; ask for brevity in a message")
    ] = None


class ReasoningOptions(Config):
    """Options of models that reason apart from their answer. Those of what other models reasoned,
    or of summaries of it, change nothing.
    """

    effort: Annotated[str | None, NoEffect("no model here reasons apart from its answer")] = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: Annotated[str | None, NoEffect("no model here reasons apart from its answer")] = None


class PaddingOptions(Config):
    """Options of a stream. The usage comes without being asked for."""

    include_obfuscation: Annotated[Literal[False] | None, NotSupported("events are not padded")] = (
        None
    )


Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


class ResponsesRequest(SamplingRequest):
    """A conversation to be answered by items."""

    rules = RESPONSES_RULES
    model_config = ConfigDict(json_schema_extra=in_json_schema(RESPONSES_RULES))

    input: ResponsesInput
    instructions: str | None = Field(default=None, description="a system message ahead of input")
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = Field(
        default=None, description="tokens of an answer at most; the context may end it sooner"
    )
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True), AtMost("tools")] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="false: one call at most")
    include: Annotated[list[Includable], Field(max_length=16)] | None = Field(
        default=None,
        description=f"{LOGPROBS}: log-probabilities of words; the others are of what is never here",
    )
    top_logprobs: Annotated[int, Field(ge=0), AtMost("logprobs")] | None = Field(
        default=None, description="log-probabilities of words, with this many alternatives"
    )
    stream_options: PaddingOptions | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = Field(default=None, description="labels of the caller's own, which the answer repeats")
    store: bool | None = Field(
        default=None, description="nothing is stored, and the answer says so"
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None, description="nothing is cut: what does not fit the context is rejected"
    )
    reasoning: ReasoningOptions | None = None
    safety_identifier: str | None = Field(default=None, description="like user")
    prompt_cache_key: str | None = Field(
        default=None, description="like user: all equal prefixes are cached anyhow"
    )

    # OpenAI's, of which only what changes nothing is taken
    access_programs: Annotated[None, NotSupported("nothing here judges texts")] = None
    background: Annotated[
        Literal[False] | None,
        NotSupported("nothing is stored here to be fetched later, so wait or stream"),
    ] = None
    background_options: Annotated[None, NotSupported("nothing runs in the background")] = None
    context_management: Annotated[None, NotSupported("the input is never made shorter")] = None
    conversation: Annotated[None, NotSupported(_NOTHING_STORED)] = None
    image: Annotated[None, NotSupported("Puna reads text")] = None
    max_tool_calls: Annotated[None, NotSupported("no tool is built in whose calls it counts")] = (
        None
    )
    moderation: Annotated[None, NotSupported("nothing here judges texts")] = None
    previous_response_id: Annotated[None, NotSupported(_NOTHING_STORED)] = None
    prompt: Annotated[
        None, NotSupported("nothing is stored here, so send its text as instructions and input")
    ] = None
    prompt_cache_options: Annotated[None, NotSupported(_NO_MARKS)] = None
    prompt_cache_retention: Annotated[
        str | None, NoEffect("prefixes are kept in memory while there is space")
    ] = None
    service_tier: Annotated[str | None, NoEffect("there is one tier")] = None

    def chat(self) -> "ResponsesChat":
        """The chat that is asked for. Its values were checked as this request's."""
        shared = {name: getattr(self, name) for name in SamplingRequest.model_fields}
        return ResponsesChat.model_construct(
            messages=as_messages(self.instructions, self.input),
            max_completion_tokens=self.max_output_tokens,
            response_format=self._format(),
            tools=[tool.in_chat() for tool in self.tools or ()],
            tool_choice=self._tool_choice(),
            parallel_tool_calls=self.parallel_tool_calls,
            logprobs=bool(self.top_logprobs) or LOGPROBS in (self.include or ()),
            top_logprobs=self.top_logprobs,
            **shared,
        )

    def repeated(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that the answer repeats, with the defaults of those that were left out, which
        may be the model's.
        """
        choice = self.tool_choice or "auto"
        format_ = self.text.format if self.text is not None else None
        written = format_.model_dump(by_alias=True, exclude_unset=True) if format_ else None
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "prompt_cache_key": self.prompt_cache_key,
            "safety_identifier": self.safety_identifier,
            "temperature": (
                defaults.get("temperature", 1.0) if self.temperature is None else self.temperature
            ),
            "text": {"format": written or {"type": "text"}, "verbosity": "medium"},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [tool.described() for tool in self.tools or ()],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": defaults.get("top_p", 1.0) if self.top_p is None else self.top_p,
            "user": self.user,
        }

    def _format(self) -> ResponseFormat | None:
        format_ = self.text.format if self.text is not None else None
        if not isinstance(format_, FlatSchemaFormat):
            return format_
        schema = NamedSchema(name=format_.name, schema=format_.schema_, strict=format_.strict)
        return JsonSchemaFormat(type="json_schema", json_schema=schema)

    def _tool_choice(self) -> ToolChoice | None:
        choice = self.tool_choice
        if not isinstance(choice, FunctionChoice):
            return choice
        return NamedTool(type="function", function=NamedFunction(name=choice.name))


class ResponsesChat(ChatRequest):
    """A chat whose errors call its fields as /v1/responses does."""

    conversation_field: ClassVar[str] = "input"

    @property
    def constrained_by(self) -> str | None:
        """The field that decides the form of the answer, if one does."""
        field = super().constrained_by
        return "text.format" if field == "response_format" else field
