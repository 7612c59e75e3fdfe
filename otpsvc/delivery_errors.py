"""Rows of the catalogue that are about delivery: what gateways, phones and accounts behind them can refuse.

Data for `errors.CATALOGUE`, kept apart for their number. A caller meets them as the reason of a message that failed;
the tables of the gateways (`senders/maps`) are translated into them. A row: code, status, category, retryable, pause in
s, then the message in en, fr, it, ru.
"""

ROWS: tuple[tuple[str, int, str, bool, int | None, tuple[str, str, str, str]], ...] = (
    # -- phones
    ("INVALID_DEVICE_ID", 404, "device", False, None, (
        "The device does not exist or belongs to another client.",
        "L'appareil n'existe pas ou appartient à un autre client.",
        "Il dispositivo non esiste o appartiene a un altro cliente.",
        "Устройство не существует или принадлежит другому клиенту.",
    )),
    ("DEVICE_OFFLINE", 503, "device", True, 60, (
        "The chosen phone is not connected now.",
        "Le téléphone choisi n'est pas connecté.",
        "Il telefono scelto non è connesso.",
        "Выбранный телефон сейчас не на связи.",
    )),
    ("NO_DEVICE_AVAILABLE", 503, "device", True, 60, (
        "No phone can send this message now.",
        "Aucun téléphone ne peut envoyer ce message maintenant.",
        "Nessun telefono può inviare ora questo messaggio.",
        "Сейчас ни один телефон не может отправить это сообщение.",
    )),
    ("DEVICE_UNAUTHORISED", 401, "auth", False, None, (
        "The token belongs to no device that may call.",
        "Le jeton n'appartient à aucun appareil autorisé.",
        "Il token non appartiene ad alcun dispositivo autorizzato.",
        "Токен не принадлежит устройству, которому разрешён вызов.",
    )),
    ("PAIRING_REFUSED", 401, "auth", False, None, (
        "The login, the password or the enrolment code is not good.",
        "L'identifiant, le mot de passe ou le code d'inscription n'est pas valable.",
        "Il login, la password o il codice di iscrizione non è valido.",
        "Логин, пароль или код регистрации недействителен.",
    )),
    # -- the network and the recipient
    ("NETWORK_ERROR", 500, "delivery", True, None, (
        "The mobile network did not take or deliver the message.",
        "Le réseau mobile n'a pas pris ou remis le message.",
        "La rete mobile non ha accettato o recapitato il messaggio.",
        "Мобильная сеть не приняла или не доставила сообщение.",
    )),
    ("SMS_SEND_TIMEOUT", 504, "delivery", True, None, (
        "The message was not sent in time.",
        "Le message n'a pas été envoyé à temps.",
        "Il messaggio non è stato inviato in tempo.",
        "Сообщение не отправлено вовремя.",
    )),
    ("BLOCKED_NUMBER", 403, "blocked", False, None, (
        "The number is on a block list or refuses messages.",
        "Le numéro est sur une liste de blocage ou refuse les messages.",
        "Il numero è in una lista di blocco o rifiuta i messaggi.",
        "Номер в списке блокировки или не принимает сообщения.",
    )),
    # -- money
    ("NO_CREDIT", 402, "credit", False, None, (
        "The SIM card or the gateway's account has no credit left.",
        "La carte SIM ou le compte de la passerelle n'a plus de crédit.",
        "La SIM o il conto del gateway non ha più credito.",
        "На SIM-карте или счёте шлюза закончились средства.",
    )),
    ("INSUFFICIENT_CREDITS", 402, "credit", False, None, (
        "The account has fewer credits than the call needs.",
        "Le compte a moins de crédits que l'appel n'en demande.",
        "Il conto ha meno crediti di quanti ne richiede la chiamata.",
        "На счёте меньше кредитов, чем нужно для вызова.",
    )),
    ("TARIFF_NOT_FOUND", 404, "not_found", False, None, (
        "The gateway has no such tariff, or it is switched off.",
        "La passerelle n'a pas ce tarif, ou il est désactivé.",
        "Il gateway non ha questa tariffa, o è disattivata.",
        "У шлюза нет такого тарифа, или он отключён.",
    )),
    # -- the gateway
    ("GATEWAY_ERROR", 502, "gateway", True, None, (
        "The gateway refused the message or failed.",
        "La passerelle a refusé le message ou a échoué.",
        "Il gateway ha rifiutato il messaggio o ha fallito.",
        "Шлюз отклонил сообщение или дал сбой.",
    )),
    ("GATEWAY_UNAVAILABLE", 503, "gateway", True, 30, (
        "The gateway cannot be reached or takes nothing now.",
        "La passerelle est injoignable ou n'accepte rien maintenant.",
        "Il gateway non è raggiungibile o ora non accetta nulla.",
        "Шлюз недоступен или сейчас ничего не принимает.",
    )),
    ("RECEIPT_REFUSED", 401, "auth", False, None, (
        "The receipt has no valid proof of where it comes from.",
        "L'accusé n'a pas de preuve valable de son origine.",
        "La ricevuta non ha una prova valida della sua origine.",
        "У квитанции нет действительного подтверждения источника.",
    )),
    # -- what an account may do
    ("INSUFFICIENT_SCOPE", 403, "permission", False, None, (
        "The key or token does not allow this call.",
        "La clé ou le jeton n'autorise pas cet appel.",
        "La chiave o il token non consente questa chiamata.",
        "Ключ или токен не разрешает этот вызов.",
    )),
    ("ACCOUNT_SUSPENDED", 403, "permission", False, None, (
        "The account is suspended or may not do this.",
        "Le compte est suspendu ou n'y est pas autorisé.",
        "L'account è sospeso o non è autorizzato.",
        "Учётная запись приостановлена или не имеет права.",
    )),
    ("IP_NOT_ALLOWED", 403, "permission", False, None, (
        "The caller's address is not on the list of allowed ones.",
        "L'adresse de l'appelant n'est pas dans la liste autorisée.",
        "L'indirizzo del chiamante non è nella lista consentita.",
        "Адрес вызывающего не входит в список разрешённых.",
    )),
    # -- what was asked for
    ("INVALID_SENDER", 400, "validation", False, None, (
        "The sender id is malformed or not permitted.",
        "L'expéditeur est mal formé ou non autorisé.",
        "Il mittente è malformato o non consentito.",
        "Имя отправителя неверно или не разрешено.",
    )),
    ("INVALID_EMAIL", 400, "validation", False, None, (
        "The e-mail address is not valid.",
        "L'adresse e-mail n'est pas valide.",
        "L'indirizzo e-mail non è valido.",
        "Адрес электронной почты неверен.",
    )),
    ("INVALID_PRIORITY", 400, "validation", False, None, (
        "The priority is not one of the allowed values.",
        "La priorité n'est pas une des valeurs permises.",
        "La priorità non è tra i valori consentiti.",
        "Недопустимое значение приоритета.",
    )),
    ("INVALID_SCHEDULED_DATE", 400, "validation", False, None, (
        "The time to send is past, malformed or too far ahead.",
        "La date d'envoi est passée, mal formée ou trop lointaine.",
        "La data di invio è passata, malformata o troppo lontana.",
        "Время отправки прошло, неверно или слишком далеко.",
    )),
    ("INVALID_WEBHOOK_URL", 400, "validation", False, None, (
        "The webhook's address is malformed or not allowed.",
        "L'adresse du webhook est mal formée ou interdite.",
        "L'indirizzo del webhook è malformato o non consentito.",
        "Адрес вебхука неверен или не разрешён.",
    )),
    ("TOO_MANY_RECIPIENTS", 400, "validation", False, None, (
        "The call has more recipients than one call may have.",
        "L'appel a plus de destinataires qu'un appel ne peut en avoir.",
        "La chiamata ha più destinatari di quanti ne può avere una.",
        "В вызове больше получателей, чем допускается.",
    )),
    ("CANNOT_CANCEL_MESSAGE", 400, "conflict", False, None, (
        "The message is no longer queued, so it cannot be cancelled.",
        "Le message n'est plus en file et ne peut pas être annulé.",
        "Il messaggio non è più in coda e non può essere annullato.",
        "Сообщение уже не в очереди, отменить его нельзя.",
    )),
    ("CONFLICT", 409, "conflict", False, None, (
        "It exists already, or its state does not allow this now.",
        "Cela existe déjà, ou son état ne le permet pas.",
        "Esiste già, o il suo stato non lo consente ora.",
        "Это уже существует, или его состояние не позволяет.",
    )),
    ("TEMPLATE_NOT_FOUND", 404, "not_found", False, None, (
        "There is no such template.",
        "Ce modèle n'existe pas.",
        "Il modello non esiste.",
        "Такого шаблона нет.",
    )),
    ("WEBHOOK_NOT_FOUND", 404, "not_found", False, None, (
        "There is no such webhook.",
        "Ce webhook n'existe pas.",
        "Il webhook non esiste.",
        "Такого вебхука нет.",
    )),
)  # fmt: skip
