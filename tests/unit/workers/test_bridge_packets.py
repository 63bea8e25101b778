"""What the broker sends becomes the same packets however the network cuts it, whatever is in it."""

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensorpipeline_workers.bridge import packets
from sensorpipeline_workers.bridge.packets import MalformedError, PacketBuffer

LARGEST, KEPT = 400, 150
NO_TEXT = b"\xff\xfe"


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are large from 400 bytes on, of which 150 are kept."""
    monkeypatch.setattr(packets, "LARGEST", LARGEST)
    monkeypatch.setattr(packets, "KEPT", KEPT)


def publish(packet_id: int, payload: bytes, *, readable: bool) -> bytes:
    """A PUBLISH at QoS 1; one that is not readable has a topic that is no text, which the codec refuses."""
    data = mqtt5.PublishPacket("tt", payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id).write()
    return data if readable else data.replace(b"\x00\x02tt", b"\x00\x02" + NO_TEXT, 1)


messages = st.lists(
    st.tuples(st.one_of(st.integers(0, 60), st.integers(LARGEST - 20, 3 * LARGEST)), st.booleans()), max_size=8
)


# The codec's panic leaves an error behind that nobody can raise.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(messages, st.lists(st.integers(1, 200), min_size=1))
def test_every_message_comes_once_in_order_and_of_a_large_one_the_beginning(
    sent: list[tuple[int, bool]], cuts: list[int]
) -> None:
    stream = b"".join(
        publish(number, bytes([number]) * size, readable=readable)
        for number, (size, readable) in enumerate(sent, start=1)
    )
    buffer, found, at, turn = PacketBuffer(), [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        found += buffer.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert [packet.packet_id for packet in found] == list(range(1, len(sent) + 1))
    for packet, (size, readable) in zip(found, sent, strict=True):
        assert packet.topic == ("tt" if readable else NO_TEXT.decode(errors="replace"))
        whole = bytes([packet.packet_id]) * size
        if len(publish(1, whole, readable=True)) <= LARGEST:
            assert packet.payload == whole
        else:
            assert whole.startswith(packet.payload)
            assert len(packet.payload) >= KEPT - 20


def test_what_is_no_mqtt_is_said_to_be_malformed() -> None:
    with pytest.raises(MalformedError):
        PacketBuffer().feed(b"\xf0\x02ab" + b"x" * 20)
