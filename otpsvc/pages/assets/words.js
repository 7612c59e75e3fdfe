// What a user is told: errors of the service in plain words, and spans of time.

const NUMBER = {
  not_international: "Begin with + and the country’s code, as in +1 202 555 0123.",
  too_short: "This number is too short.",
  too_long: "This number is too long.",
  unknown_country: "No country has this code. Check the digits after the +.",
  letters: "Write the number in digits, as in +1 202 555 0123.",
  extension: "Leave out the extension: the SMS goes to the number itself.",
  not_allowed_type: "Premium-rate numbers cannot be verified.",
  not_valid: "There is no such number in that country. Check the digits.",
};

const FIXED = {
  OTP_EXPIRED: "This code has expired. Ask for a new one.",
  OTP_MAX_ATTEMPTS: "That was the last attempt. Ask for a new code.",
  OTP_RESEND_LIMIT: "This code was sent again as often as it can be. Start over with a new one.",
  OTP_NOT_FOUND: "This code can no longer be used. Ask for a new one.",
  NO_DEVICE_AVAILABLE: "No phone can send the SMS at the moment. Try again in a minute.",
  DEVICE_OFFLINE: "The phone that should send the SMS is not connected. Try again in a minute.",
  SERVICE_UNAVAILABLE: "The service cannot answer at the moment. Nothing was lost: try again shortly.",
};

const FAILED = {
  no_device: "The SMS did not go out: no phone could send it.",
  device_offline: "The SMS did not go out: the phone is not connected.",
  send_timeout: "The SMS did not go out in time.",
  no_credit: "The SMS did not go out: the SIM card has no credit left.",
  invalid_number: "The SMS could not be delivered: there is no such number.",
  undeliverable: "The mobile network could not deliver the SMS.",
  blocked: "The SMS was refused: this number takes no messages.",
  no_time_left: "The SMS did not go out in time.",
};

export const AWAY = "The service cannot be reached. Check the connection and try again.";

const plural = (count, unit) => `${count} ${unit}${count === 1 ? "" : "s"}`;

export const inWords = (seconds) =>
  seconds < 100 ? plural(Math.max(1, Math.ceil(seconds)), "second") : plural(Math.ceil(seconds / 60), "minute");

export const onAClock = (seconds) => {
  const left = Math.max(0, Math.ceil(seconds));
  return `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
};

export const ofCode = (length) => `The code has ${length} digits. No attempt was used.`;

export const wrong = (left) =>
  left === 0 ? "That code is wrong, and it was the last attempt." : `That code is wrong. ${plural(left, "attempt")} left.`;

export function ofError(error) {
  const wait = error.retry_after ? ` in ${inWords(error.retry_after)}` : " later";
  const limit = error.details?.limit;
  switch (error.code) {
    case "INVALID_PHONE_NUMBER":
      return NUMBER[error.details?.reason] ?? "This is not a phone number. One looks like +1 202 555 0123.";
    case "OTP_COOLDOWN":
      return `A code went to this number a moment ago. You can have another${wait}.`;
    case "OTP_RATE_LIMIT":
      return limit === "live_sessions"
        ? `Too many codes for this number are still open. Try again${wait}.`
        : `This number has had its codes for the hour. Try again${wait}.`;
    case "OTP_LOCKED_OUT":
      return `There were too many wrong codes for this number. Try again${wait}.`;
    case "RATE_LIMIT_EXCEEDED":
      return `That was too often. Try again${wait}.`;
    default:
      return FIXED[error.code] ?? `Something went wrong on our side. Try again. (${error.code})`;
  }
}

export function ofDelivery(look, hasPhone) {
  switch (look.message_status) {
    case "delivered":
      return "The SMS has arrived.";
    case "sent":
      return "The SMS is on its way.";
    case "failed":
      return FAILED[look.message_reason] ?? "The SMS could not be delivered.";
    case "expired":
    case "cancelled":
      return "The SMS did not go out in time.";
    default:
      return hasPhone ? "Sending the SMS…" : "Waiting for a phone: all are switched off.";
  }
}
