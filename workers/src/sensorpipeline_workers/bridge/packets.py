"""Bytes from the broker to packets, whatever the bytes: no single message may bring the bridge to a halt.

Complete packets are read by the `mqtt5` codec. A message that the codec will not read is read here, so that it can be
dead-lettered instead of coming back for ever. A message beyond `LARGEST` is not collected whole: its beginning is kept,
which is more than any fleet accepts, and the rest is passed over.
"""

import mqtt5

LARGEST = 4 * 1024 * 1024
KEPT = 1024 * 1024 + 512 * 1024
_PUBLISH = 3


class MalformedError(Exception):
    """What the broker sent is no MQTT."""


class PacketBuffer:
    """Collects what was received and hands out the packets that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0
        self._cut: mqtt5.PublishPacket | None = None

    def feed(self, data: bytes) -> list[object]:
        """Takes bytes in; returns the packets that they complete. Raises MalformedError."""
        out: list[object] = []
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
            if self._skip:
                return out
            out.append(self._cut)
        self._buffer += data
        position = self._read(out)
        del self._buffer[:position]
        self._cut_short()
        return out

    def _read(self, out: list[object]) -> int:
        """Appends the complete packets; returns how many bytes they had."""
        position = 0
        read = mqtt5.read
        with memoryview(self._buffer) as view:
            while True:
                with view[position:] as rest:
                    try:
                        packet, size = read(rest)
                    except IndexError:  # the packet is not complete yet
                        return position
                    except BaseException as error:
                        packet, size = _publish(rest, _unreadable(error))
                out.append(packet)
                position += size

    def _cut_short(self) -> None:
        """Keeps the beginning of a message that is too large to be collected."""
        buffer = self._buffer
        if len(buffer) < KEPT or buffer[0] >> 4 != _PUBLISH:
            return
        length, begin = _length(buffer)
        if length <= LARGEST:
            return
        head = bytes(buffer[:1]) + _varint(KEPT - begin) + bytes(buffer[begin:KEPT])
        try:
            self._cut, _ = mqtt5.read(memoryview(head))  # type: ignore[assignment]
        except BaseException as error:
            self._cut, _ = _publish(memoryview(head), _unreadable(error))
        self._skip = begin + length - len(buffer)
        buffer.clear()


def _unreadable(error: BaseException) -> Exception:
    """Returns the error with which the codec refused a packet; raises any other. A topic that is no text makes the
    codec panic, which is not even an Exception."""
    if type(error).__name__ == "PanicException":
        return ValueError(str(error))
    if isinstance(error, ValueError | IndexError):
        return error
    raise error


def _length(data: bytearray | memoryview) -> tuple[int, int]:
    """Returns the remaining length of the packet that `data` begins with, and where what it counts begins. Raises
    IndexError when that is not there yet."""
    value, shift, at = 0, 0, 1
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80 or shift > 21:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _publish(data: memoryview, cause: Exception) -> tuple[mqtt5.PublishPacket, int]:
    """Reads a PUBLISH of QoS 0 or 1 without judging it. Raises MalformedError when it is none."""
    try:
        length, begin = _length(data)
        end = begin + length
        if data[0] >> 4 != _PUBLISH or end > len(data):
            raise MalformedError(str(cause)) from cause
        qos = data[0] >> 1 & 3
        at = begin + 2 + int.from_bytes(data[begin : begin + 2], "big")
        topic = bytes(data[begin + 2 : at]).decode(errors="replace")
        packet_id = int.from_bytes(data[at : at + 2], "big") if qos else None
        at += 2 if qos else 0
        properties, body = _length(data[at - 1 :])
        payload = bytes(data[at - 1 + body + properties : end])
        return mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(qos), packet_id=packet_id), end
    except (IndexError, ValueError) as error:
        raise MalformedError(str(error)) from cause
