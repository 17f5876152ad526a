"""What a JSON schema cannot say, for `schemathesis run`: references inside a request, and texts in
languages of their own.

A schema allows a tool's answer to name any call, and any text as a regular expression; the server
rejects those that lead nowhere, and says why. So requests that are meant to be right are made right
here before they are sent; wrong ones are sent as they are.

    SCHEMATHESIS_HOOKS=schemathesis_hooks schemathesis run http://127.0.0.1:8000/openapi.json
        --checks all
"""

from typing import Any

import schemathesis

EXPRESSION = "[a-z]{2}"
GRAMMAR = 'start: "yes" | "no"'
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Mend a request that is meant to be right."""
    if (
        case.meta is not None
        and case.meta.generation.mode.is_positive
        and isinstance(case.body, dict)
    ):
        mend(case.body)


def mend(body: dict[str, Any]) -> None:
    """Let the references of a request lead somewhere, and its texts be in their languages."""
    mend_messages(body)
    mend_items(body)
    if "best_of" in body:
        body["best_of"] = body.get("n")
    if "dimensions" in body:
        body["dimensions"] = None
    for place, tool in enumerate(body.get("tools") or []):
        tool.get("function", tool).update({"name": f"f{place}", "parameters": SCHEMA})
    if isinstance(body.get("tool_choice"), dict):
        choice = body["tool_choice"]
        choice.get("function", choice)["name"] = "f0"
    format_ = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    if format_.get("type") == "json_schema":
        format_.get("json_schema", format_)["schema"] = SCHEMA
    if "regex" in format_:
        format_["regex"] = EXPRESSION
    if "grammar" in format_:
        format_["grammar"] = GRAMMAR


def mend_messages(body: dict[str, Any]) -> None:
    """Let the answers of tools in a chat name calls before them."""
    called: list[str] = []
    for message in body.get("messages") or ():
        called += [call["id"] for call in message.get("tool_calls") or ()]
        if message["role"] == "tool":
            if called:
                message["tool_call_id"] = called[-1]
            else:
                message["role"] = "user"
                del message["tool_call_id"]


def mend_items(body: dict[str, Any]) -> None:
    """Let the outputs of functions in an input name calls before them."""
    items = body["input"] if isinstance(body.get("input"), list) else []
    called: list[str] = []
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "function_call":
            called.append(item["call_id"])
        elif kind == "function_call_output" and called:
            item["call_id"] = called[-1]
        elif kind == "function_call_output":
            item |= {"type": "message", "role": "assistant", "content": item["output"]}
