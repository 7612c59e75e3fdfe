"""The double that senders are tested against must itself do what it says."""

import asyncio

import pytest

from otpsvc.senders.http_client import GatewayAnswer, GatewayClient, NoAnswer, NotSent
from otpsvc.testing import Fault, GatewayDouble, GatewayRequest, Reply


class Counting(GatewayDouble):
    """Takes messages, and shows how many."""

    n_taken = 0

    async def respond(self, request: GatewayRequest) -> Reply:
        self.n_taken += 1
        return Reply(202, {"n": self.n_taken}, {"X-Gateway": "1"})


async def call(url: str, timeout_s: float = 0.4) -> GatewayAnswer | type[Exception]:
    calls = GatewayClient(timeout_s=timeout_s, allow_private=True)
    await calls.open()
    try:
        return await calls.request("POST", url, json={})
    except (NotSent, NoAnswer) as error:
        return type(error)
    finally:
        await calls.close()


async def test_it_answers_and_remembers() -> None:
    async with Counting() as gateway:
        answer = await call(f"{gateway.url}/x?a=1")
        assert isinstance(answer, GatewayAnswer)
        assert (answer.status, answer.json(), answer.headers["x-gateway"]) == (202, {"n": 1}, "1")
        assert [(request.path, request.query) for request in gateway.requests] == [("/x", {"a": "1"})]


@pytest.mark.parametrize("fault", list(Fault))
async def test_each_fault_takes_the_message_or_does_not_as_it_says_and_is_over_then(fault: Fault) -> None:
    async with Counting() as gateway:
        gateway.misbehave(fault)
        await call(gateway.url)
        assert gateway.n_taken == fault.is_processed
        assert gateway.n_strayed == 0
        await gateway.restore()
        answer = await call(gateway.url, timeout_s=5)
        assert isinstance(answer, GatewayAnswer)
        assert answer.json() == {"n": 1 + fault.is_processed}


async def test_faults_come_in_order_one_for_each_request() -> None:
    async with Counting() as gateway:
        gateway.misbehave(Fault.TOO_MANY, Fault.HTML_500, Fault.NOT_JSON)
        answers = [await call(gateway.url) for _ in range(4)]
        assert [answer.status for answer in answers if isinstance(answer, GatewayAnswer)] == [429, 500, 200, 202]
        assert isinstance(answers[0], GatewayAnswer)
        assert answers[0].retry_after_s == 7


async def test_refuse_shuts_the_door_for_kept_connections_too_until_it_is_restored() -> None:
    async with Counting() as gateway:
        address = gateway.url
        calls = GatewayClient(allow_private=True)
        await calls.open()
        await calls.request("POST", address, json={})
        gateway.misbehave(Fault.REFUSE)
        for _ in range(2):
            with pytest.raises(NotSent):
                await calls.request("POST", address, json={})
        await gateway.restore()
        assert gateway.url == address
        assert (await calls.request("POST", address, json={})).status == 202
        await calls.close()


async def test_a_broken_double_is_no_passed_test() -> None:
    class Broken(GatewayDouble):
        async def respond(self, request: GatewayRequest) -> Reply:
            raise LookupError("no such row")

    with pytest.raises(LookupError):
        async with Broken() as gateway:
            assert await call(gateway.url) is NoAnswer


async def test_it_ends_while_a_request_hangs() -> None:
    async with Counting() as gateway:
        gateway.misbehave(Fault.HANG)
        waiting = asyncio.create_task(call(gateway.url, timeout_s=60))
        await gateway.arrived()
    assert await waiting is NoAnswer


async def test_chunked_and_pipelined_requests_are_read() -> None:
    async with Counting() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
        chunked = b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
        writer.write(chunked + b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n")
        await gateway.arrived(2)
        writer.close()
        await writer.wait_closed()
        assert [(r.method, r.path, r.body) for r in gateway.requests] == [("POST", "/a", b"hello"), ("GET", "/b", b"")]
        reader.feed_eof()
