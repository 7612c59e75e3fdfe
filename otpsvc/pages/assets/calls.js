// Calls to our own service: bounded in time, and safe to make again when an answer was lost.

import { AWAY, ofError } from "/dev/assets/words.js";

const PATIENCE_MS = 15000;

export class Refused extends Error {
  constructor(error) {
    super(error.code ? ofError(error) : AWAY);
    this.code = error.code ?? "AWAY";
    this.details = error.details ?? {};
    this.retryAfter = error.retry_after ?? 0;
    // Whether the call may have done its work all the same.
    this.isUnsettled = !error.code || error.code === "SERVICE_UNAVAILABLE" || error.code === "INTERNAL_ERROR";
  }
}

const unsettled = new Map();

function newOperation() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function answerOf(path, options) {
  let response;
  let body;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE_MS) });
    body = await response.json();
  } catch {
    throw new Refused({});
  }
  if (!response.ok) throw new Refused(body.error ?? {});
  return body;
}

// The same thing asked for again after a lost answer goes under the same operation: it is not done twice.
export async function post(path, fields) {
  const asked = path + JSON.stringify(fields);
  const operation = unsettled.get(asked) ?? newOperation();
  unsettled.set(asked, operation);
  try {
    const answer = await answerOf(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...fields, operation }),
    });
    unsettled.delete(asked);
    return answer;
  } catch (error) {
    if (!error.isUnsettled) unsettled.delete(asked);
    throw error;
  }
}

export const get = (path) => answerOf(path, {});
