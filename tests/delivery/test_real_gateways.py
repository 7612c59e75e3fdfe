"""The senders in their place, between the real stores and their gateways' doubles: one code each, and its receipt."""

from otpsvc.clock import SystemClock
from otpsvc.senders.contract import ReceiptRequest
from tests.delivery.conftest import Open
from tests.delivery.stand import Stand, until
from tests.gateways import smsc, smsgate, vonage

CLOCK = SystemClock()


async def brought(service: Stand, sender: str, request: ReceiptRequest) -> int:
    """Bring a receipt over real HTTP; return the status of the answer."""
    headers = {name: value for name, value in request.headers.items() if name != "host"}
    answer = await service.http.post(f"/receipts/{sender}", content=request.body, headers=headers)
    return answer.status_code


async def delivered(service: Stand, sent: dict[str, str], sender: str) -> None:
    found = await service.comes_to(sent, "delivered")
    assert (found["sender"], bool(found["delivered_at"])) == (sender, True)
    events = [entry["event"] for entry in await service.history(sent, "message.delivered")]
    assert events == ["otp.sent", "message.sent", "message.delivered"]


async def test_an_sms_centre_brings_receipts_over_its_own_connection(opened: Open) -> None:
    async with smsc.Smsc() as centre:
        tables = (
            '[delivery]\nsenders = ["carrier"]\n[senders.carrier]\ntype = "smpp"\nhost = "127.0.0.1"\n'
            f'port = {centre.port}\nsystem_id = "{smsc.SYSTEM_ID}"\npassword = "{smsc.PASSWORD}"\nsource = "OTP"\n'
            "tls = false\nallow_private = true\n"
        )
        async with opened(tables) as service:
            sent = await service.send()
            await service.comes_to(sent, "sent")
            code = centre.texts()[0].split()[0]
            assert await centre.report(centre.taken[-1].message_id, "DELIVRD") == 0
            await delivered(service, sent, "carrier")
            assert (await service.verify(sent["otp_id"], code)).json()["valid"] is True


async def test_vonage_signs_its_receipts(opened: Open) -> None:
    async with vonage.VonageSmsGateway(CLOCK) as gateway:
        tables = (
            '[delivery]\nsenders = ["vonage-eu"]\n[senders.vonage-eu]\ntype = "vonage-sms"\n'
            f'base_url = "{gateway.url}"\nallow_private = true\napi_key = "{vonage.API_KEY}"\n'
            f'api_secret = "{vonage.API_SECRET}"\nsignature_secret = "{vonage.SIGNATURE_SECRET}"\norigin = "Acme"\n'
        )
        async with opened(tables) as service:
            sent = await service.send()
            await service.comes_to(sent, "sent")
            (provider_id,) = gateway.taken[0].ids
            forged = gateway.receipt(provider_id, secret="another secret of theirs")
            assert await brought(service, "vonage-eu", forged) == 401
            assert await brought(service, "vonage-eu", gateway.receipt(provider_id, "buffered")) == 200
            assert (await service.message(sent))["status"] == "sent"
            assert await brought(service, "vonage-eu", gateway.receipt(provider_id)) == 200
            await delivered(service, sent, "vonage-eu")


async def test_a_phone_that_fails_hands_over_to_the_gateway(opened: Open) -> None:
    async with smsgate.SmsGateDouble(CLOCK) as phones, vonage.VonageSmsGateway(CLOCK) as gateway:
        tables = (
            '[routes.sms]\n"*" = ["phones", "vonage-eu"]\n[senders.phones]\ntype = "smsgate"\n'
            f'url = "{phones.base}"\nallow_private = true\nusername = "{smsgate.USER}"\n'
            f'password = "{smsgate.PASSWORD}"\ndevice_id = "{smsgate.PHONE}"\nsigning_key = "{smsgate.KEY}"\n'
            '[senders.vonage-eu]\ntype = "vonage-sms"\n'
            f'base_url = "{gateway.url}"\nallow_private = true\napi_key = "{vonage.API_KEY}"\n'
            f'api_secret = "{vonage.API_SECRET}"\norigin = "Acme"\n'
        )
        async with opened(tables) as service:
            sent = await service.send()
            await service.comes_to(sent, "sent")
            (held,) = phones.held
            phones.fail(held, "Send result: RESULT_ERROR_NO_SERVICE")
            body = phones.event(held, "sms:failed", reason="Send result: RESULT_ERROR_NO_SERVICE")
            assert await brought(service, "phones", phones.posted(body, key="the wrong key")) == 401
            assert await brought(service, "phones", phones.posted(body)) == 200
            await until(lambda: gateway.taken, "the gateway's copy")
            assert gateway.texts == [held.text]
            history = await service.history(sent, "message.sent")
            steps = [(entry["event"], entry.get("sender")) for entry in history if entry["event"] != "otp.sent"]
            assert steps == [
                ("message.sent", "phones"),
                ("message.tried", "phones"),
                ("message.sent", "vonage-eu"),
            ]
            assert await service.count("otpsvc_possible_duplicates_total") == 0
