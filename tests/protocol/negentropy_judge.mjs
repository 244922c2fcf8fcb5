// Another implementation of negentropy, driven by lines of JSON: used by test_reconcile_judge.py.
import { createInterface } from "node:readline";
import { Negentropy, NegentropyStorage } from "@nostr-dev-kit/sync";
import * as tools from "./node_modules/nostr-tools/lib/esm/nip77.js";

const hex = (bytes) => (bytes === undefined || bytes === null ? null : Buffer.from(bytes).toString("hex"));
const bytes = (text) => new Uint8Array(Buffer.from(text, "hex"));
const sides = [];

function ndk(items, frame) {
  const storage = new NegentropyStorage();
  for (const [timestamp, id] of items) storage.insert(timestamp, bytes(id));
  storage.seal();
  const side = new Negentropy(storage, frame);
  return {
    initiate: async () => hex(await side.initiate()),
    reconcile: async (message) => {
      const step = await side.reconcile(bytes(message));
      return { reply: hex(step.nextMessage), have: step.have.map(hex), need: step.need.map(hex) };
    },
  };
}

function nostrTools(items, frame) {
  const storage = new tools.NegentropyStorageVector();
  for (const [timestamp, id] of items) storage.insert(timestamp, id);
  storage.seal();
  const side = new tools.Negentropy(storage, frame);
  return {
    initiate: async () => side.initiate(),
    reconcile: async (message) => {
      const have = [], need = [];
      const reply = side.reconcile(message, (id) => have.push(id), (id) => need.push(id));
      return { reply, have, need };
    },
  };
}

const kinds = { ndk, "nostr-tools": nostrTools };

for await (const line of createInterface({ input: process.stdin })) {
  const ask = JSON.parse(line);
  let answer;
  try {
    if (ask.call === "new") answer = sides.push(kinds[ask.kind](ask.items, ask.frame)) - 1;
    if (ask.call === "initiate") answer = await sides[ask.side].initiate();
    if (ask.call === "reconcile") answer = await sides[ask.side].reconcile(ask.message);
    process.stdout.write(JSON.stringify({ answer }) + "\n");
  } catch (error) {
    process.stdout.write(JSON.stringify({ error: String(error) }) + "\n");
  }
}
