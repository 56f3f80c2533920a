"""Attacks on a name server: `dns_attack.py ATTACK ADDRESS PORT KNOWN COUNT`.

KNOWN is a name that the server has an address for whatever happens. The attack begins when standard input ends; one
line of JSON says what came of it. Whoever runs it decides what is good.
"""

import json
import random
import socket
import struct
import sys
import time

ATTACK, ADDRESS, PORT, KNOWN, COUNT = sys.argv[1:6]
SERVER = (ADDRESS, int(PORT))
COUNT = int(COUNT)
PATIENCE = 5


def labels(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\x00"


def question(name, number=0x1234, kind=1, flags=0x0100, counts=(1, 0, 0, 0)):
    head = struct.pack("!HHHHHH", number, flags, *counts)
    return head + (name if isinstance(name, bytes) else labels(name)) + struct.pack("!HH", kind, 1)


def udp(wait):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(wait)
    sock.connect(SERVER)
    return sock


def received(sock):
    try:
        return sock.recv(65535)
    except OSError:
        return None


def ask(name, kind=1):
    """The answer to a sound question: its code and the address in it."""
    sock = udp(PATIENCE)
    sock.send(question(name, 0x4321, kind))
    answer = received(sock)
    if answer is None:
        return None, None
    code, found = answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
    address = ".".join(str(byte) for byte in answer[-4:]) if found else ""
    return code, address


def tcp(name):
    message, data = question(name), b""
    try:
        # Longer than a server keeps connections that say nothing.
        with socket.create_connection(SERVER, 4 * PATIENCE) as sock:
            sock.sendall(struct.pack("!H", len(message)) + message)
            while len(data) < 2 or len(data) < 2 + struct.unpack("!H", data[:2])[0]:
                part = sock.recv(65535)
                if not part:
                    break
                data += part
    except OSError:
        return b""
    return data[2:]


def alive():
    return ask(KNOWN)[0] == 0


def odd_messages():
    sound = question(KNOWN)
    yield from (sound[:cut] for cut in range(len(sound)))
    pointer = lambda at: struct.pack("!H", 0xC000 | at)
    # To itself, to the head, past the end, in a circle, and a label before each.
    for name in (pointer(12), pointer(0), pointer(4000), pointer(14) + pointer(12), b"\x01a" + pointer(12)):
        yield question(name)
    for length in (64, 127, 128, 191):
        yield question(bytes([length]) + b"a" * length + b"\x00")
    yield question(labels(".".join(["a" * 63] * 5)))
    yield question(labels(".".join(["a"] * 200)))
    for counts in ((0, 0, 0, 0), (2, 0, 0, 0), (65535, 0, 0, 0), (1, 65535, 0, 0), (1, 0, 65535, 65535)):
        yield question(KNOWN, counts=counts)
    for flags in (0x7900, 0x0200, 0x010F, 0xFFFF & ~0x8000):
        yield question(KNOWN, flags=flags)
    for kind in (0, 251, 252, 255, 65535):
        yield question(KNOWN, kind=kind)
    yield sound + b"\x00" * 5000
    yield sound + b"\x00" * 60000
    noise = random.Random(44)
    for _ in range(COUNT):
        message = bytearray(sound)
        for _ in range(noise.randrange(1, 8)):
            message[noise.randrange(len(message))] = noise.randrange(256)
        yield bytes(message)


def malformed():
    sent, replied, longest, sock = 0, 0, 0, udp(0.002)
    for message in odd_messages():
        try:
            sock.send(message)
        except OSError:
            continue
        sent += 1
        answer = received(sock)
        if answer is not None:
            replied += 1
            longest = max(longest, len(answer) - len(message))
        if sent % 50 == 0 and not alive():
            return {"sent": sent, "alive": False}
    # What is an answer itself is never answered: two servers would talk to each other for ever.
    echo = udp(0.3)
    for number in range(20):
        echo.send(question(KNOWN, number, flags=0x8180))
    answers = received(echo)
    return {"sent": sent, "alive": alive(), "answered": answers is not None, "longer": longest, "replied": replied}


def connections():
    """Over TCP: what is cut, what never comes, and a length of nothing."""
    held = []
    for part in (b"", b"\x00", b"\xff\xff", b"\x00\x00", b"\x00\x0c" + b"\x00" * 5, b"\xff\xff" + b"a" * 30000):
        for _ in range(COUNT):
            try:
                sock = socket.create_connection(SERVER, 0.5)
                sock.sendall(part)
            except OSError:
                # No room for more.
                continue
            held.append(sock)
    code, _ = ask(KNOWN)
    begun = time.monotonic()
    for sock in held[: len(held) // 2]:
        sock.close()
    answer = tcp(KNOWN)
    waited = time.monotonic() - begun
    return {"held": len(held), "by_udp": code == 0, "by_tcp": len(answer) > 12, "waited_ms": int(waited * 1000)}


def flood():
    """Names that nobody ever answers for, from many sockets; a known name is asked for all along."""
    socks = [udp(0.001) for _ in range(50)]
    slowest, lost = 0, 0
    for number in range(COUNT):
        socks[number % 50].send(question(f"silent.n{number}.wild.example", number & 0xFFFF))
        if number % 200 == 0:
            begun = time.monotonic()
            lost += not alive()
            slowest = max(slowest, time.monotonic() - begun)
    failed = 0
    for sock in socks:
        while (answer := received(sock)) is not None:
            failed += answer[3] & 15 == 2
    return {"sent": COUNT, "lost": lost, "slowest_ms": int(slowest * 1000), "failed": failed, "alive": alive()}


def each(name):
    """One question after the other, each for a name of its own: the codes, and how many addresses there were."""
    codes, found = {}, set()
    for number in range(COUNT):
        code, address = ask(name(number))
        codes[str(code)] = codes.get(str(code), 0) + 1
        if address:
            found.add(address)
    return {"codes": codes, "addresses": len(found), "alive": alive()}


def one(kind):
    code, address = ask(f"{kind}.wild.example")
    return {"code": code, "address": address, "alive": alive()}


def many():
    code, _ = ask("many.wild.example")
    answers = [tcp("many.wild.example") for _ in range(COUNT)]
    found = [struct.unpack("!H", answer[6:8])[0] for answer in answers if len(answer) > 12]
    return {"code": code, "whole": len(found), "addresses": max(found, default=0), "alive": alive()}


ATTACKS = {
    "malformed": malformed,
    "connections": connections,
    "flood": flood,
    "storm": lambda: each(lambda number: f"storm-{number}.default.svc.cluster.local"),
    "wide": lambda: each(lambda number: f"n{number}.wide.example"),
    "many": many,
}

# A sidecar that has just begun waits for the names of its mesh before it answers.
ready = alive()
print("ready" if ready else "not ready", flush=True)
sys.stdin.read()
attack = ATTACKS.get(ATTACK, lambda: one(ATTACK))
print(json.dumps(attack()), flush=True)
