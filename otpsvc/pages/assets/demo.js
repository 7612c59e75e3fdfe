// The sign-up form: number, code, verified. The service decides everything; this shows what it said, and counts down.

import { get, post } from "/dev/assets/calls.js";
import { inWords, ofCode, ofDelivery, onAClock, wrong } from "/dev/assets/words.js";

const LOOK_EVERY_MS = 1500;
const GONE = ["OTP_EXPIRED", "OTP_MAX_ATTEMPTS", "OTP_RESEND_LIMIT", "OTP_NOT_FOUND"];
const ENDED = {
  expired: "This code has expired. Ask for a new one.",
  locked: "All attempts are used. Ask for a new code.",
  superseded: "A newer code was sent to this number. Ask for a new one here.",
  cancelled: "This code was cancelled. Ask for a new one.",
};

const part = (id) => document.getElementById(id);
const masked = (number) => number.replaceAll("*", "•");
const now = () => performance.now() / 1000;

// What is being verified. Times are seconds on this page's own clock, which only grows.
const state = {
  number: "",
  otp: null, // the last answer about it: otp_id, message_id, code_length…
  messages: new Set(), // the ids of the SMS that were sent for it
  expiresAt: 0,
  resendAt: 0,
  sendAt: 0, // when the number's form may ask again
  isEnded: false,
  isBusy: false,
  hasPhone: true,
  turn: 0, // grows with every answer, so that an older look changes nothing
  isWarned: false,
  webOtp: null,
};

// ---- what is shown

function step(name, focus) {
  const steps = ["number", "code", "done"];
  part("number-form").hidden = name !== "number";
  part("code-form").hidden = name !== "code";
  part("done").hidden = name !== "done";
  for (const [place, one] of steps.entries()) {
    const item = part(`at-${one}`);
    item.classList.toggle("is-past", place < steps.indexOf(name));
    if (one === name) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
  part(focus).focus();
}

function fault(field, words) {
  part(`${field}-error`).textContent = words;
  part(field).setAttribute("aria-invalid", String(words !== ""));
}

function say(words) {
  part("said").textContent = words;
}

function enable(button, isOn) {
  part(button).setAttribute("aria-disabled", String(!isOn));
}

const isOn = (button) => part(button).getAttribute("aria-disabled") !== "true" && !part(button).hidden;

function show() {
  const isEnded = state.isEnded;
  part("verify").hidden = isEnded;
  part("renew").hidden = !isEnded;
  part("resend").hidden = isEnded;
  part("code").disabled = isEnded;
  part("facts").hidden = isEnded;
  if (state.otp) part("attempts").textContent = String(state.otp.attempts_remaining);
  tick();
}

function tick() {
  const left = state.expiresAt - now();
  const wait = state.resendAt - now();
  const pause = state.sendAt - now();
  enable("send", !state.isBusy && pause <= 0);
  part("send").textContent = pause > 0 ? `Send code in ${onAClock(pause)}` : "Send code";
  enable("renew", !state.isBusy && pause <= 0);
  part("renew").textContent = pause > 0 ? `Send a new code in ${onAClock(pause)}` : "Send a new code";
  enable("verify", !state.isBusy);
  enable("resend", !state.isBusy && wait <= 0);
  part("resend").textContent = wait > 0 ? `Send again in ${onAClock(wait)}` : "Send again";
  if (!state.otp || state.isEnded) return;
  part("life").textContent = onAClock(left);
  if (left <= 0) end(ENDED.expired);
  else if (left <= 60 && !state.isWarned) {
    state.isWarned = true;
    say(`The code expires in ${inWords(left)}.`);
  }
}

function end(words) {
  state.isEnded = true;
  stopListening();
  part("delivery").textContent = "";
  const hadFocus = part("code-form").contains(document.activeElement);
  fault("code", words);
  show();
  if (hadFocus) part("renew").focus();
}

// ---- what is asked

// One call at a time, however often somebody clicks.
async function asking(field, call) {
  if (state.isBusy) return;
  state.isBusy = true;
  fault(field, "");
  tick();
  try {
    await call();
  } catch (error) {
    refused(field, error);
  } finally {
    state.isBusy = false;
    state.turn += 1;
    tick();
  }
}

function refused(field, error) {
  if (error.code === undefined) throw error;
  const otpId = error.details.otp_id;
  if (field === "code" && !state.isEnded && GONE.includes(error.code)) {
    end(error.message);
    return;
  }
  if (error.code === "INVALID_OTP_FORMAT") fault("code", ofCode(state.otp.code_length));
  else fault(field, error.message);
  if (error.retryAfter && error.details.limit) {
    if (field === "number" || state.isEnded) state.sendAt = now() + error.retryAfter;
    else state.resendAt = now() + error.retryAfter;
  }
  // A code that is still good is better than a wait.
  if (field === "number" && error.code === "OTP_COOLDOWN" && otpId) {
    part("known").dataset.otp = otpId;
    part("known").hidden = false;
  }
  part(field).focus();
}

function accepted(answer) {
  state.turn += 1;
  if (state.otp?.otp_id !== answer.otp_id) state.messages.clear();
  state.otp = answer;
  state.messages.add(answer.message_id);
  state.expiresAt = now() + answer.expires_in_s;
  state.resendAt = now() + answer.resend_in_s;
  state.sendAt = 0;
  state.isEnded = false;
  state.isWarned = false;
  part("known").hidden = true;
  part("to").textContent = masked(answer.to);
  part("code").style.setProperty("--digits", answer.code_length);
  part("code").value = "";
  part("delivery").textContent = ofDelivery(answer, state.hasPhone);
  fault("number", "");
  fault("code", "");
  show();
  step("code", "code");
  listen();
}

function send(field) {
  return asking(field, async () => accepted(await post("/demo/send", { to: state.number })));
}

function guess() {
  const code = part("code").value.replace(/[\s-]/g, "");
  const { otp_id: otpId, code_length: length } = state.otp;
  if (code.length !== length || !/^\p{Nd}+$/u.test(code)) {
    fault("code", ofCode(length));
    part("code").focus();
    return undefined;
  }
  return asking("code", async () => {
    const answer = await post("/demo/verify", { otp_id: otpId, code });
    if (answer.valid) verified(answer);
    else guessedWrong(answer.attempts_remaining);
  });
}

function guessedWrong(left) {
  state.otp = { ...state.otp, attempts_remaining: left };
  if (left === 0) {
    end(wrong(0));
    return;
  }
  show();
  fault("code", wrong(left));
  part("code").focus();
  part("code").select();
}

function verified(answer) {
  stopListening();
  state.otp = null;
  part("done-to").textContent = masked(answer.to);
  step("done", "done-title");
}

function startOver() {
  stopListening();
  state.turn += 1;
  state.otp = null;
  state.sendAt = 0;
  state.isEnded = false;
  fault("number", "");
  part("known").hidden = true;
  tick();
  step("number", "number");
}

// ---- how far the SMS is, and whether the code was ended elsewhere

async function look() {
  const { otp, turn } = state;
  if (!otp || state.isEnded || state.isBusy || document.hidden) return;
  let seen;
  try {
    seen = await get(`/demo/otp/${otp.otp_id}`);
  } catch {
    return; // the next look, or the user's own call, says what is wrong
  }
  if (turn !== state.turn || state.isBusy || state.isEnded) return;
  if (seen.status !== "pending") {
    if (seen.status === "verified") verified(seen);
    else end(ENDED[seen.status]);
    return;
  }
  state.otp = { ...otp, ...seen };
  const words = ofDelivery(seen, state.hasPhone);
  if (part("delivery").textContent !== words) part("delivery").textContent = words;
  part("attempts").textContent = String(seen.attempts_remaining);
}

// ---- a code that arrives by itself

function fill(code) {
  if (part("code-form").hidden || state.isEnded) return;
  part("code").value = code;
  fault("code", "");
  say(`The code ${code} is filled in.`);
  part("verify").focus();
}

// Browsers that read SMS (WebOTP) offer the code of the last line; everyone else has the keyboard's suggestion.
async function listen() {
  stopListening();
  if (!("OTPCredential" in window)) return;
  state.webOtp = new AbortController();
  try {
    const credential = await navigator.credentials.get({ otp: { transport: ["sms"] }, signal: state.webOtp.signal });
    if (credential) fill(credential.code);
  } catch {
    // Not here, or the user said no: they type.
  }
}

function stopListening() {
  state.webOtp?.abort();
  state.webOtp = null;
}

// ---- who does what

part("number-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!isOn("send")) return;
  state.number = part("number").value.trim();
  send("number");
});
part("number").addEventListener("input", () => {
  // Another number has its own pauses.
  state.sendAt = 0;
  part("known").hidden = true;
  fault("number", "");
  tick();
});
for (const chip of document.querySelectorAll("[data-number]")) {
  chip.addEventListener("click", () => {
    part("number").value = chip.dataset.number;
    part("number").dispatchEvent(new Event("input"));
    part("number").focus();
  });
}
part("known").addEventListener("click", () =>
  asking("number", async () => accepted(await get(`/demo/otp/${part("known").dataset.otp}`))),
);
part("code-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (isOn("verify")) guess();
});
part("renew").addEventListener("click", () => {
  if (isOn("renew")) send("code");
});
part("resend").addEventListener("click", () => {
  if (isOn("resend")) asking("code", async () => accepted(await post("/demo/resend", { otp_id: state.otp.otp_id })));
});
part("change").addEventListener("click", startOver);
part("over").addEventListener("click", () => {
  part("number").value = "";
  startOver();
});
document.addEventListener("phone:code", ({ detail }) => {
  if (state.messages.has(detail.message_id)) fill(detail.code);
});
document.addEventListener("phone:power", ({ detail }) => {
  state.hasPhone = detail.hasPhone;
});
setInterval(tick, 250);
setInterval(look, LOOK_EVERY_MS);
tick();
