// What a program in JavaScript asks with OpenAI's client. Each case is a function; run.mjs runs them.
import assert from "node:assert/strict";
import OpenAI from "openai";

const SAY = "The quick brown fox jumps over one lazy dog.";
const SCHEMA = {
  type: "object",
  properties: { name: { enum: ["Ada", "Bob"] }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
};
const REMEMBER = {
  type: "function",
  function: { name: "remember", description: "Keep a person.", parameters: SCHEMA },
};
const LOOK_UP = {
  type: "function",
  function: {
    name: "look_up",
    parameters: { type: "object", properties: { word: { type: "string" } }, required: ["word"] },
  },
};
const COUNT = { type: "function", function: { name: "count" } };

const say = (text = "hello") => [{ role: "user", content: text }];

export function connect(url, apiKey, more = {}) {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, ...more });
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const text = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");

export const cases = {
  async lists_models({ client }) {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.ok(["script", "tools", "embed"].every((id) => ids.includes(id)), ids.join());
  },

  async retrieves_a_model({ client }) {
    assert.equal((await client.models.retrieve("script.gguf")).id, "script");
    await assert.rejects(client.models.retrieve("none"), OpenAI.NotFoundError);
  },

  async chats({ client }) {
    const answer = await client.chat.completions.create({
      model: "script",
      messages: [
        { role: "developer", content: "be brief" },
        { role: "user", content: [{ type: "text", text: "hello" }] },
      ],
      max_completion_tokens: 100,
    });
    assert.equal(answer.choices[0].message.content, SAY);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.equal(answer.usage.completion_tokens, 10);
    assert.match(answer._request_id, /^req_/);
  },

  async streams({ client }) {
    const stream = await client.chat.completions.create({
      model: "script",
      messages: say("UTF8"),
      stream: true,
    });
    const chunks = await collect(stream);
    assert.equal(text(chunks), "Grüße 😀€ end");
    assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
    assert.ok(chunks.every((chunk) => !chunk.usage));
  },

  async streams_with_usage({ client }) {
    const chunks = await collect(
      await client.chat.completions.create({
        model: "script",
        messages: say(),
        stream: true,
        stream_options: { include_usage: true },
      }),
    );
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.completion_tokens, 10);
  },

  async helps_with_streams({ client }) {
    const stream = client.chat.completions.stream({ model: "script", messages: say() });
    let seen = "";
    stream.on("content", (delta) => (seen += delta));
    assert.equal(await stream.finalContent(), SAY);
    assert.equal(seen, SAY);
  },

  async gets_several_choices({ client }) {
    const request = { model: "script", messages: say(), n: 3 };
    const answer = await client.chat.completions.create(request);
    assert.deepEqual(answer.choices.map((choice) => choice.message.content), [SAY, SAY, SAY]);
    const final = await client.chat.completions.stream(request).finalChatCompletion();
    assert.deepEqual(final.choices.map((choice) => choice.message.content), [SAY, SAY, SAY]);
  },

  async completes({ client }) {
    const answer = await client.completions.create({
      model: "script",
      prompt: ["x<|say|>", "x<|json|>"],
      max_tokens: 30,
    });
    assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
    assert.equal(answer.choices[0].text, SAY);
  },

  async forces_a_tool({ client }) {
    const request = {
      model: "script",
      messages: say(),
      tools: [REMEMBER],
      tool_choice: { type: "function", function: { name: "remember" } },
      max_tokens: 200,
    };
    const whole = (await client.chat.completions.create(request)).choices[0];
    const streamed = (await client.chat.completions.stream(request).finalChatCompletion()).choices[0];
    for (const choice of [whole, streamed]) {
      assert.equal(choice.finish_reason, "tool_calls");
      const [call] = choice.message.tool_calls;
      assert.equal(call.function.name, "remember");
      assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)).sort(), ["age", "name"]);
    }
  },

  async lets_the_model_choose_a_tool({ client }) {
    const request = { model: "tools", messages: say("hermes-two"), tools: [LOOK_UP, COUNT] };
    const whole = (await client.chat.completions.create(request)).choices[0];
    const streamed = (await client.chat.completions.stream(request).finalChatCompletion()).choices[0];
    for (const choice of [whole, streamed]) {
      assert.equal(choice.finish_reason, "tool_calls");
      assert.equal(choice.message.content, "Let me see.");
      const names = choice.message.tool_calls.map((call) => call.function.name);
      assert.deepEqual(names, ["look_up", "count"]);
    }
  },

  async runs_tools({ client }) {
    const asked = [];
    const runner = client.chat.completions.runTools({
      model: "tools",
      messages: say("hermes"),
      tools: [
        {
          type: "function",
          function: {
            ...LOOK_UP.function,
            parse: JSON.parse,
            function: ({ word }) => {
              asked.push(word);
              return "a bird";
            },
          },
        },
      ],
    });
    assert.equal(await runner.finalContent(), "An owl is a bird.");
    assert.deepEqual(asked, ["owl"]);
  },

  async refuses_a_choice_that_a_model_can_not_make({ client }) {
    const request = { model: "script", messages: say(), tools: [REMEMBER] };
    await assert.rejects(client.chat.completions.create(request), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.code, "unsupported_tool_choice");
      return true;
    });
  },

  async gets_json({ client }) {
    const answer = await client.chat.completions.create({
      model: "script",
      messages: say("JSON"),
      response_format: { type: "json_object" },
    });
    assert.deepEqual(JSON.parse(answer.choices[0].message.content), { name: "Ada", age: 36 });
  },

  async parses_a_schema({ client }) {
    const answer = await client.chat.completions.parse({
      model: "script",
      messages: say("JSON"),
      response_format: {
        type: "json_schema",
        json_schema: { name: "person", strict: true, schema: SCHEMA },
      },
    });
    assert.deepEqual(answer.choices[0].message.parsed, { name: "Ada", age: 36 });
  },

  async embeds({ client }) {
    const input = ["one", "two"];
    const packed = await client.embeddings.create({ model: "embed", input });
    const plain = await client.embeddings.create({
      model: "embed",
      input,
      encoding_format: "float",
    });
    assert.deepEqual(packed.data.map((item) => item.index), [0, 1]);
    for (const [index, item] of packed.data.entries()) {
      assert.equal(item.embedding.length, 64);
      for (const [at, value] of item.embedding.entries()) {
        assert.ok(Math.abs(value - plain.data[index].embedding[at]) < 1e-4);
      }
    }
  },

  async aborts_a_stream({ client }) {
    const request = { model: "script", messages: say("LOOP"), max_tokens: 7000 };
    const stream = await client.chat.completions.create({ ...request, stream: true });
    for await (const _ of stream) break;
    const controller = new AbortController();
    const other = await client.chat.completions.create(
      { ...request, stream: true },
      { signal: controller.signal },
    );
    let seen = 0;
    for await (const _ of other) {
      seen += 1;
      controller.abort();
    }
    assert.ok(seen < 7000, `${seen} chunks`);
    // The model's one place is free again: thousands of tokens would take longer.
    await client.chat.completions.create({ model: "script", messages: say() }, { timeout: 20000 });
  },

  async gets_the_headers({ client }) {
    const { data, response, request_id } = await client.chat.completions
      .create({ model: "script", messages: say() })
      .withResponse();
    assert.equal(data.choices[0].message.content, SAY);
    assert.equal(response.headers.get("x-request-id"), request_id);
  },

  async tells_errors_apart({ url, client, keys }) {
    const ask = (from, more = {}) =>
      from.chat.completions.create({ model: "script", messages: say(), ...more });
    await assert.rejects(ask(client, { temperature: 3 }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.deepEqual([error.param, error.type], ["temperature", "invalid_request_error"]);
      assert.match(error.requestID, /^req_/);
      return true;
    });
    await assert.rejects(ask(client, { model: "gpt-4o" }), OpenAI.NotFoundError);
    await assert.rejects(ask(connect(url, "sk-lk-wrong")), OpenAI.AuthenticationError);
    await assert.rejects(ask(connect(url, keys.restricted)), OpenAI.PermissionDeniedError);
    const limited = connect(url, keys.limited);
    await limited.models.list();
    await assert.rejects(ask(limited), OpenAI.RateLimitError);
    await assert.rejects(ask(client, { model: "away" }), OpenAI.InternalServerError);
    await assert.rejects(ask(connect("http://127.0.0.1:9", keys.user)), OpenAI.APIConnectionError);
  },
};
