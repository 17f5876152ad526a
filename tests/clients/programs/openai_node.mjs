// needs: openai
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const asked = { model: "tiny", messages: [{ role: "user", content: "Hello" }], max_tokens: 5 };
assert((await client.chat.completions.create(asked)).usage.completion_tokens <= 5);
let chunks = 0;
for await (const _ of await client.chat.completions.create({ ...asked, stream: true })) chunks++;
assert(chunks > 0);
const large = { ...asked, messages: [{ role: "user", content: "x".repeat(20_000_000) }] };
await assert.rejects(client.chat.completions.create(large), { status: 413 });
