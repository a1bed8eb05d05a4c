// What both consumers share: each event is handled once, however often it arrives, and a poisonous one is put aside.
import * as fs from "node:fs";
import * as path from "node:path";
import type { DsyncUserCreated } from "./event.js"; // generated from the JSON Schema that `relay types --schema dsync.user.created` prints

/** The event can never be handled, however often it is tried. Anything else that is thrown is tried again. */
export class Poison extends Error {}

/** Your work. What it returns is stored together with the id of the event. */
function apply(event: DsyncUserCreated): { event: string; about: string } {
  return { event: event.event, about: event.data.id };
}

/** Whether the body has what apply needs. A consumer that trusts nobody validates against the schema here. */
function isEvent(body: any): body is DsyncUserCreated {
  return typeof body?.data === "object" && body.data !== null;
}

/**
 * The results, and the ids of the events that they came from: one line each, written to the disk before the message is acknowledged.
 *
 * In a service this is a table whose primary key is the event id, and id and result are written in one transaction. One process has
 * the files at a time.
 */
export class Ledger {
  readonly #seen = new Set<string>();
  readonly #handled: number;
  readonly #parked: number;

  constructor(folder: string) {
    fs.mkdirSync(folder, { recursive: true });
    const file = path.join(folder, "handled.jsonl");
    this.#handled = fs.openSync(file, "a");
    this.#parked = fs.openSync(path.join(folder, "parked.jsonl"), "a");
    const bytes = fs.readFileSync(file);
    const whole = bytes.lastIndexOf("\n") + 1; // what follows was torn off by a crash, before it was acknowledged
    fs.ftruncateSync(this.#handled, whole);
    for (const line of bytes.subarray(0, whole).toString().split("\n").filter(Boolean)) {
      this.#seen.add(JSON.parse(line).event_id);
    }
  }

  /** Returns when the message may be acknowledged: the event has been handled, was before, or is parked. */
  handle(id: string | undefined, body: Uint8Array): void {
    if (id && this.#seen.has(id)) return;
    const text = Buffer.from(body).toString();
    try {
      if (!id) throw new Poison("the header event-id is missing");
      const result = apply(parse(text));
      append(this.#handled, { event_id: id, ...result });
      this.#seen.add(id);
      console.log(`handled event ${id}: ${result.event} ${result.about}`);
    } catch (err) {
      if (!(err instanceof Poison)) throw err;
      // Put aside for a person, so that it does not hold up what comes after it.
      append(this.#parked, { event_id: id, reason: err.message, at: new Date().toISOString(), body: text });
      console.log(`parked event ${id}: ${err.message}`);
    }
  }
}

function parse(text: string): DsyncUserCreated {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (err) {
    throw new Poison(`the body is not JSON: ${(err as Error).message}`);
  }
  if (!isEvent(body)) throw new Poison("the body is not an event: it has no data");
  return body;
}

function append(file: number, record: object): void {
  fs.writeSync(file, JSON.stringify(record) + "\n");
  fs.fsyncSync(file);
}
