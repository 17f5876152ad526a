// needs: openai
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const asked = { model: "tiny", messages: [{ role: "user", content: "Hello" }], max_tokens: 5 };
assert((await client.chat.completions.create(asked)).usage.completion_tokens <= 5);
const said = await client.chat.completions.create(asked);
const again = [...asked.messages, said.choices[0].message, ...asked.messages];
await client.chat.completions.create({ ...asked, messages: again });
assert((await client.responses.create({ model: "tiny", input: "Hello", max_output_tokens: 16 })).output_text);
let chunks = 0;
for await (const _ of await client.chat.completions.create({ ...asked, stream: true })) chunks++;
assert(chunks > 0);
const large = { ...asked, messages: [{ role: "user", content: "x".repeat(20_000_000) }] };
await assert.rejects(client.chat.completions.create(large), { status: 413 });
