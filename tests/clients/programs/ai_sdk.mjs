// needs: ai @ai-sdk/openai-compatible @ai-sdk/openai zod
import assert from "node:assert";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText } from "ai";
import { z } from "zod";

const baseURL = process.env.OPENAI_BASE_URL;
const compatible = createOpenAICompatible({ name: "puna", baseURL, supportsStructuredOutputs: true });
const openai = createOpenAI({ baseURL }); // asks /v1/responses
const weather = z.object({ city: z.enum(["Rome", "Oslo"]), warm: z.boolean() });
for (const model of [compatible("tiny"), openai("tiny")]) {
  // else it sends references to items that it takes to be stored
  const asked = { model, maxRetries: 0, providerOptions: { openai: { store: false } } };
  const hello = { role: "user", content: "Hello" };
  const said = await generateText({ ...asked, messages: [hello], maxOutputTokens: 16 });
  assert(said.usage.outputTokens <= 16);
  let finish;
  const messages = [hello, ...said.response.messages, hello];
  for await (const part of streamText({ ...asked, messages, maxOutputTokens: 16 }).fullStream) {
    assert.notEqual(part.type, "error", String(part.error));
    finish = part.finishReason ?? finish;
  }
  assert(["stop", "length"].includes(finish));
  const output = Output.object({ schema: weather });
  const found = await generateText({ ...asked, prompt: "Weather?", output, maxOutputTokens: 200 });
  assert(["Rome", "Oslo"].includes(found.output.city));
}
