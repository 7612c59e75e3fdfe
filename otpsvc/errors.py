"""The catalogue of errors: every refusal a caller can meet, with its status and its words in four languages.

A part that refuses raises `problem("CODE", …)`; only the HTTP layer turns it into an answer. Codes of the system that
we replace keep their names and statuses (ARCHITECTURE, Errors). Details hold numbers, times and field names: never a
code, an unmasked number, a key or anything else that the caller did not send in this very field.
"""

from dataclasses import dataclass
from typing import Any

from otpsvc import delivery_errors

LANGUAGES = ("en", "fr", "it", "ru")


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the catalogue.

    `retry_after_s` is the pause advised where the refusal itself knows no better; None where waiting is no cure.
    """

    code: str
    status: int
    category: str
    retryable: bool
    message: dict[str, str]
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """The limit that a refusal met: its name, how many it allows, and over how many seconds."""

    name: str
    amount: int
    window_s: int


class OtpsvcError(Exception):
    """The root of what this package raises on purpose."""


class ConfigurationError(OtpsvcError):
    """The service cannot start as it is set up; the message is for a person and names what to change."""


class ApiError(OtpsvcError):
    """A refusal from the catalogue, raised by `problem`.

    `details` goes to the caller as it is. `retry_after_s` is whole seconds to wait, where waiting helps. `quota` is the
    limit that was met, if it was one. `reason` is the word by which our own metrics tell this refusal from others with
    the same code, for example the store's `fenced`: it is never part of an answer, because what looks the same to
    callers must stay the same.
    """

    def __init__(
        self,
        kind: ErrorKind,
        details: dict[str, Any],
        retry_after_s: int | None,
        quota: Quota | None,
        reason: str | None = None,
    ) -> None:
        super().__init__(kind.code)
        self.kind = kind
        self.details = details
        self.retry_after_s = retry_after_s
        self.quota = quota
        self.reason = reason

    @property
    def code(self) -> str:
        """The catalogue's name of this error."""
        return self.kind.code


def problem(
    code: str,
    *,
    details: dict[str, Any] | None = None,
    retry_after_s: int | None = None,
    quota: Quota | None = None,
    reason: str | None = None,
) -> ApiError:
    """Make the exception for a catalogue code; KeyError if the catalogue does not have it."""
    kind = CATALOGUE[code]
    pause_s = retry_after_s if retry_after_s is not None else kind.retry_after_s
    return ApiError(kind, details or {}, pause_s, quota, reason)


_ROWS = (
    # -- who calls
    ErrorKind("MISSING_AUTH_HEADERS", 400, "auth", False, {
        "en": "The X-API-Key or X-Client-ID header is missing.",
        "fr": "L'en-tête X-API-Key ou X-Client-ID est absent.",
        "it": "Manca l'intestazione X-API-Key o X-Client-ID.",
        "ru": "Нет заголовка X-API-Key или X-Client-ID.",
    }),
    ErrorKind("INVALID_API_KEY", 401, "auth", False, {
        "en": "The API key is wrong, revoked or expired.",
        "fr": "La clé API est fausse, révoquée ou expirée.",
        "it": "La chiave API è errata, revocata o scaduta.",
        "ru": "Ключ API неверен, отозван или истёк.",
    }),
    ErrorKind("INVALID_CLIENT_ID", 401, "auth", False, {
        "en": "The client id does not belong to this key, or the client is suspended.",
        "fr": "L'identifiant client n'appartient pas à cette clé, ou le client est suspendu.",
        "it": "L'identificativo cliente non appartiene a questa chiave o il cliente è sospeso.",
        "ru": "Идентификатор клиента не относится к этому ключу, или клиент приостановлен.",
    }),
    # -- what was sent
    ErrorKind("VALIDATION_ERROR", 400, "validation", False, {
        "en": "A field is missing, unknown or out of range; details say which.",
        "fr": "Un champ manque, est inconnu ou hors limites ; voir les détails.",
        "it": "Un campo manca, è sconosciuto o fuori dai limiti; vedi i dettagli.",
        "ru": "Поле отсутствует, неизвестно или вне допустимых пределов; см. details.",
    }),
    ErrorKind("INVALID_JSON", 400, "validation", False, {
        "en": "The body is not valid JSON.",
        "fr": "Le corps n'est pas du JSON valide.",
        "it": "Il corpo non è JSON valido.",
        "ru": "Тело запроса не является правильным JSON.",
    }),
    ErrorKind("INVALID_PHONE_NUMBER", 400, "validation", False, {
        "en": "The number is not a valid international number such as +33612345678.",
        "fr": "Le numéro n'est pas un numéro international valide comme +33612345678.",
        "it": "Il numero non è un numero internazionale valido come +33612345678.",
        "ru": "Это не действительный международный номер вида +33612345678.",
    }),
    ErrorKind("INVALID_TEMPLATE", 400, "validation", False, {
        "en": "The template needs the placeholder {{code}} exactly once and printable text around it.",
        "fr": "Le modèle doit contenir {{code}} une seule fois, entouré de texte imprimable.",
        "it": "Il modello deve contenere {{code}} una sola volta, con testo stampabile intorno.",
        "ru": "Шаблон должен содержать {{code}} ровно один раз и печатный текст вокруг.",
    }),
    ErrorKind("MESSAGE_TOO_LONG", 400, "validation", False, {
        "en": "The text is longer than allowed.",
        "fr": "Le texte dépasse la longueur autorisée.",
        "it": "Il testo supera la lunghezza consentita.",
        "ru": "Текст длиннее допустимого.",
    }),
    ErrorKind("INVALID_OTP_FORMAT", 400, "otp", False, {
        "en": "The code has the wrong length or is not made of digits. No attempt was used.",
        "fr": "Le code n'a pas la bonne longueur ou n'est pas fait de chiffres. Aucun essai compté.",
        "it": "Il codice ha una lunghezza errata o non è fatto di cifre. Nessun tentativo usato.",
        "ru": "У кода неверная длина, или он не из цифр. Попытка не засчитана.",
    }),
    # -- one OTP
    ErrorKind("OTP_NOT_FOUND", 404, "otp", False, {
        "en": "No usable code under this id: unknown, already used, replaced, cancelled or purged.",
        "fr": "Aucun code utilisable sous cet identifiant : inconnu, utilisé, remplacé, annulé ou purgé.",
        "it": "Nessun codice utilizzabile con questo id: ignoto, usato, sostituito, annullato o rimosso.",
        "ru": "Нет действующего кода с этим id: неизвестен, использован, заменён, отменён или удалён.",
    }),
    ErrorKind("OTP_EXPIRED", 400, "otp", False, {
        "en": "The code has expired. Send a new one.",
        "fr": "Le code a expiré. Demandez-en un nouveau.",
        "it": "Il codice è scaduto. Richiedine uno nuovo.",
        "ru": "Срок действия кода истёк. Запросите новый.",
    }),
    ErrorKind("OTP_MAX_ATTEMPTS", 429, "otp", False, {
        "en": "All attempts are used. Send a new code.",
        "fr": "Tous les essais sont épuisés. Demandez un nouveau code.",
        "it": "I tentativi sono esauriti. Richiedi un nuovo codice.",
        "ru": "Все попытки использованы. Запросите новый код.",
    }),
    ErrorKind("OTP_RESEND_LIMIT", 429, "otp", False, {
        "en": "This verification was resent as often as allowed. Send a new one.",
        "fr": "Ce code a été renvoyé autant de fois que permis. Demandez-en un nouveau.",
        "it": "Il codice è stato rinviato il massimo di volte. Richiedine uno nuovo.",
        "ru": "Код уже отправлялся повторно предельное число раз. Запросите новый.",
    }),
    ErrorKind("OTP_NOT_PENDING", 409, "conflict", False, {
        "en": "The verification has already ended; its status is in the details.",
        "fr": "La vérification est déjà terminée ; son état est dans les détails.",
        "it": "La verifica è già terminata; lo stato è nei dettagli.",
        "ru": "Проверка уже завершена; её состояние указано в details.",
    }),
    # -- one message
    ErrorKind("MESSAGE_NOT_FOUND", 404, "not_found", False, {
        "en": "There is no message with this id.",
        "fr": "Il n'y a pas de message avec cet identifiant.",
        "it": "Non c'è nessun messaggio con questo id.",
        "ru": "Сообщения с этим id нет.",
    }),
    # -- how often
    ErrorKind("OTP_RATE_LIMIT", 429, "rate_limit", True, {
        "en": "Too many codes for this number. Wait before sending again.",
        "fr": "Trop de codes pour ce numéro. Patientez avant un nouvel envoi.",
        "it": "Troppi codici per questo numero. Attendi prima di un nuovo invio.",
        "ru": "Слишком много кодов на этот номер. Подождите перед новой отправкой.",
    }, 3600),
    ErrorKind("OTP_COOLDOWN", 429, "rate_limit", True, {
        "en": "A code was sent a moment ago. Wait before asking for another.",
        "fr": "Un code vient d'être envoyé. Patientez avant d'en demander un autre.",
        "it": "Un codice è appena stato inviato. Attendi prima di chiederne un altro.",
        "ru": "Код только что отправлен. Подождите, прежде чем запрашивать другой.",
    }, 30),
    ErrorKind("OTP_LOCKED_OUT", 429, "rate_limit", True, {
        "en": "Too many wrong codes for this number. New codes are paused; a living one still verifies.",
        "fr": "Trop de codes faux pour ce numéro. Les nouveaux envois sont suspendus ; un code vivant reste valable.",
        "it": "Troppi codici errati per questo numero. I nuovi invii sono sospesi; un codice attivo resta valido.",
        "ru": "Слишком много неверных кодов для номера. Новые коды приостановлены; действующий ещё принимается.",
    }, 3600),
    ErrorKind("RATE_LIMIT_EXCEEDED", 429, "rate_limit", True, {
        "en": "Too many requests; details say which limit.",
        "fr": "Trop de requêtes ; voir les détails pour la limite.",
        "it": "Troppe richieste; i dettagli indicano il limite.",
        "ru": "Слишком много запросов; ограничение указано в details.",
    }, 60),
    # -- the request as such
    ErrorKind("IDEMPOTENCY_CONFLICT", 422, "conflict", False, {
        "en": "This Idempotency-Key was used for a different request.",
        "fr": "Cette Idempotency-Key a servi pour une autre requête.",
        "it": "Questa Idempotency-Key è stata usata per un'altra richiesta.",
        "ru": "Этот Idempotency-Key уже использован для другого запроса.",
    }),
    ErrorKind("NOT_FOUND", 404, "not_found", False, {
        "en": "There is nothing at this address.",
        "fr": "Il n'y a rien à cette adresse.",
        "it": "Non c'è nulla a questo indirizzo.",
        "ru": "По этому адресу ничего нет.",
    }),
    ErrorKind("RESOURCE_NOT_FOUND", 404, "not_found", False, {
        "en": "There is nothing under this id.",
        "fr": "Il n'y a rien sous cet identifiant.",
        "it": "Non c'è nulla con questo id.",
        "ru": "Под этим id ничего нет.",
    }),
    ErrorKind("METHOD_NOT_ALLOWED", 405, "validation", False, {
        "en": "This address does not take this method; see the Allow header.",
        "fr": "Cette adresse n'accepte pas cette méthode ; voir l'en-tête Allow.",
        "it": "Questo indirizzo non accetta questo metodo; vedi l'intestazione Allow.",
        "ru": "Этот адрес не принимает такой метод; см. заголовок Allow.",
    }),
    ErrorKind("REQUEST_TIMEOUT", 408, "validation", True, {
        "en": "The body did not arrive in time.",
        "fr": "Le corps n'est pas arrivé à temps.",
        "it": "Il corpo non è arrivato in tempo.",
        "ru": "Тело запроса не пришло вовремя.",
    }),
    ErrorKind("PAYLOAD_TOO_LARGE", 413, "validation", False, {
        "en": "The body is larger than allowed.",
        "fr": "Le corps dépasse la taille autorisée.",
        "it": "Il corpo supera la dimensione consentita.",
        "ru": "Тело запроса больше допустимого.",
    }),
    ErrorKind("UNSUPPORTED_MEDIA_TYPE", 415, "validation", False, {
        "en": "Send the body as application/json.",
        "fr": "Envoyez le corps en application/json.",
        "it": "Invia il corpo come application/json.",
        "ru": "Отправьте тело как application/json.",
    }),
    # -- ours
    ErrorKind("INTERNAL_ERROR", 500, "server", True, {
        "en": "Something failed on our side. Give the request id when you report it.",
        "fr": "Une erreur est survenue de notre côté. Indiquez l'identifiant de requête.",
        "it": "Si è verificato un errore da parte nostra. Indica l'id della richiesta.",
        "ru": "Ошибка на нашей стороне. Сообщая о ней, укажите id запроса.",
    }),
    ErrorKind("SERVICE_UNAVAILABLE", 503, "server", True, {
        "en": "No answer can be given now. Try again shortly; with the same Idempotency-Key nothing is done twice.",
        "fr": "Pas de réponse maintenant. Réessayez ; avec la même Idempotency-Key rien n'est fait deux fois.",
        "it": "Nessuna risposta per ora. Riprova tra poco; con la stessa Idempotency-Key nulla avviene due volte.",
        "ru": "Сейчас ответа нет. Повторите позже: с тем же Idempotency-Key ничего не выполнится дважды.",
    }, 1),
)  # fmt: skip

_DELIVERY_ROWS = tuple(
    ErrorKind(code, status, category, retryable, dict(zip(LANGUAGES, words, strict=True)), retry_after_s)
    for code, status, category, retryable, retry_after_s, words in delivery_errors.ROWS
)

CATALOGUE: dict[str, ErrorKind] = {row.code: row for row in (*_ROWS, *_DELIVERY_ROWS)}
