// Keeps the phone's screen as the service says it is, and tells the rest of the page what happens on it:
//   phone:sms   {message_id, code}   an SMS is on the screen
//   phone:code  {message_id, code}   its code was copied
//   phone:power {hasPhone}           whether any phone is on

const AGAIN_MS = 3000;
const MOST_SHOWN = 50;

const part = (id) => document.getElementById(id);
const phone = part("phone");
const list = part("phone-list");
const log = part("phone-log");
const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

// The last line of a text for browsers, else the first number that looks like a code.
function codeIn(text) {
  return text.match(/^@\S+ #([0-9]{4,10})\s*$/m)?.[1] ?? text.match(/(?<!\d)\d{4,10}(?!\d)/)?.[0] ?? null;
}

function timeOf(sentAt) {
  return new Date(sentAt).toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
}

// The same message can arrive twice, and is there twice then; the same arrival can be told twice.
const keyOf = (sms) => `${sms.message_id} ${sms.sent_at}`;

function written(sms) {
  const item = part("sms").content.firstElementChild.cloneNode(true);
  item.dataset.key = keyOf(sms);
  item.querySelector("bdi").textContent = sms.to;
  const time = item.querySelector("time");
  time.dateTime = sms.sent_at;
  time.textContent = timeOf(sms.sent_at);
  const text = item.querySelector(".sms-text");
  const button = item.querySelector(".sms-copy");
  const code = codeIn(sms.text);
  if (code === null) {
    text.textContent = sms.text;
    button.remove();
    return item;
  }
  const [before, after] = [sms.text.slice(0, sms.text.lastIndexOf(code)), sms.text.slice(sms.text.lastIndexOf(code) + code.length)];
  const strong = document.createElement("b");
  strong.textContent = code;
  text.append(before, strong, after);
  button.textContent = `Copy ${code}`;
  button.addEventListener("click", () => copy(sms.message_id, code, button));
  return item;
}

async function copy(messageId, code, button) {
  tell("phone:code", { message_id: messageId, code });
  try {
    await navigator.clipboard.writeText(code);
    button.textContent = "Copied";
    part("phone-word").textContent = `Copied ${code}.`;
  } catch {
    // No clipboard on this page (it needs a secure address): the code stands in the text.
    part("phone-word").textContent = `The code is ${code}.`;
  }
  setTimeout(() => {
    button.textContent = `Copy ${code}`;
    part("phone-word").textContent = "";
  }, 2500);
}

function show(sms, isNew) {
  if ([...list.children].some((item) => item.dataset.key === keyOf(sms))) return;
  const item = written(sms);
  item.classList.toggle("is-new", isNew);
  list.append(item);
  while (list.children.length > MOST_SHOWN) list.firstElementChild.remove();
  log.scrollTop = log.scrollHeight;
  tell("phone:sms", { message_id: sms.message_id, code: codeIn(sms.text) });
}

let isFirst = true;

function showAll(messages) {
  const known = new Set(messages.map(keyOf));
  // What was served with the page has no buttons yet; what the service no longer has was forgotten with it.
  for (const item of [...list.children]) if (isFirst || !known.has(item.dataset.key)) item.remove();
  for (const sms of messages) show(sms, !isFirst);
  isFirst = false;
}

function showPhones(phones) {
  const group = part("switches");
  const focused = group.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  group.replaceChildren(
    ...phones.map(({ name, is_online: isOnline }) => {
      const button = part("switch").content.firstElementChild.cloneNode(true);
      button.dataset.name = name;
      button.setAttribute("aria-checked", String(isOnline));
      button.querySelector(".switch-name").textContent = name;
      button.addEventListener("click", () => turn(name, !isOnline));
      return button;
    }),
  );
  if (focused !== null) [...group.children].find((button) => button.dataset.name === focused)?.focus();
  const hasPhone = phones.some((one) => one.is_online);
  phone.classList.toggle("is-off", !hasPhone);
  part("phone-off").hidden = hasPhone;
  log.inert = !hasPhone;
  tell("phone:power", { hasPhone });
}

async function turn(name, on) {
  part("phone-word").textContent = "";
  try {
    const response = await fetch(phone.dataset.switch, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name, on }),
      signal: AbortSignal.timeout(15000),
    });
    if (!response.ok) throw new Error(String(response.status));
    showPhones(await response.json());
  } catch {
    part("phone-word").textContent = "The switch did not answer. Try again.";
  }
}

function listen() {
  const events = new EventSource(phone.dataset.events);
  events.addEventListener("screen", (event) => showAll(JSON.parse(event.data)));
  events.addEventListener("sms", (event) => show(JSON.parse(event.data), true));
  events.addEventListener("phones", (event) => showPhones(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    // The browser comes back by itself from a lost connection, but not from a refusal.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS);
  });
}

function tick() {
  part("phone-clock").textContent = timeOf(Date.now());
}

tick();
setInterval(tick, 5000);
for (const time of list.querySelectorAll("time")) time.textContent = timeOf(time.dateTime);
log.scrollTop = log.scrollHeight;
listen();
