// needs: ai @ai-sdk/openai-compatible
import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const puna = createOpenAICompatible({ name: "puna", baseURL: process.env.OPENAI_BASE_URL });
const asked = { model: puna("tiny"), prompt: "Hello", maxOutputTokens: 5, maxRetries: 0 };
assert((await generateText(asked)).usage.outputTokens <= 5);
let finish;
for await (const part of streamText(asked).fullStream) {
  assert.notEqual(part.type, "error");
  finish = part.finishReason ?? finish;
}
assert(["stop", "length"].includes(finish));
