"""Protocols as their own libraries speak them: grpcio in every form, WebSockets; gRPC-Web by hand, byte by byte.

python3 spoken.py grpc-serve PORT | grpc-call HOST:PORT | web-call URL FORM [HOST] | ws-serve PORT | ws-call URL COUNT
"""
import asyncio
import base64
import queue
import sys
from concurrent import futures


def grpc_serve(port):
    import time

    import grpc

    def one(request, context):
        context.send_initial_metadata((("x-begun", "yes"),))
        context.set_trailing_metadata((("x-ended", "yes"),))
        return request[::-1]

    def many(request, context):
        for n in range(int(request)):
            yield b"%d" % n

    def gather(requests, context):
        return b"%d" % sum(int(r) for r in requests)

    def echo(requests, context):
        for request in requests:
            yield request

    def slow(request, context):
        # How long the caller says it waits, then longer than that.
        left = context.time_remaining()
        print("deadline", "none" if left is None or left > 1e6 else "set", flush=True)
        while context.is_active():
            time.sleep(0.01)
        print("cancelled", flush=True)
        return b""

    def refuse(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")

    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Gather": grpc.stream_unary_rpc_method_handler(gather),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Forms", handlers),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


def grpc_call(target):
    import grpc

    with grpc.insecure_channel(target) as channel:
        one = channel.unary_unary("/test.Forms/One")
        answer, call = one.with_call(b"abc", timeout=20, wait_for_ready=True)
        begun, ended = dict(call.initial_metadata()), dict(call.trailing_metadata())
        print("unary", answer.decode(), begun.get("x-begun"), ended.get("x-ended"), flush=True)
        large = one(b"ab" * 500_000, timeout=20)
        print("large", len(large), large[:2].decode(), flush=True)
        many = channel.unary_stream("/test.Forms/Many")(b"100", timeout=20)
        print("server stream", len(list(many)), flush=True)
        gather = channel.stream_unary("/test.Forms/Gather")
        print("client stream", gather((b"%d" % n for n in range(101)), timeout=20).decode(), flush=True)

        # Each message waits for the answer to the one before.
        sent = queue.Queue()
        echo = channel.stream_stream("/test.Forms/Echo")(iter(sent.get, None), timeout=20)
        back = []
        for n in range(5):
            sent.put(b"%d" % n)
            back.append(next(echo).decode())
        sent.put(None)
        print("both streams", " ".join(back), len(list(echo)), flush=True)
        for name, method, timeout in [("deadline", "Slow", 0.5), ("trailers only", "Refuse", 20), ("unknown", "None", 20)]:
            try:
                channel.unary_unary(f"/test.Forms/{method}")(b"", timeout=timeout)
                print(name, "OK", flush=True)
            except grpc.RpcError as error:
                print(name, error.code().name, flush=True)


def web_call(url, form, host=None):
    """One line for each call: what came, in what, with which status and where that stood."""
    import urllib.error
    import urllib.request

    text = form == "text"
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"

    def frames(body):
        if text:
            # Four characters at a time, because each message may end with padding.
            body = b"".join(base64.b64decode(body[at : at + 4]) for at in range(0, len(body), 4))
        while body:
            length = int.from_bytes(body[1:5], "big")
            yield body[0], body[5 : 5 + length]
            body = body[5 + length :]

    def call(name, method, message, raw=None):
        body = b"\0" + len(message).to_bytes(4, "big") + message
        body = raw or (base64.b64encode(body) if text else body)
        headers = {"content-type": kind, "accept": kind, "x-grpc-web": "1", "origin": "https://shop.example"}
        if host:
            headers["host"] = host
        request = urllib.request.Request(f"{url}/test.Forms/{method}", body, headers, method="POST")
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        came, got = answer.headers.get("content-type", "none"), answer.read()
        if not came.startswith("application/grpc-web"):
            print(name, "untranslated", answer.status, flush=True)
            return
        messages, status = [], None
        for flag, data in frames(got):
            if flag & 0x80:
                trailers = dict(line.split(":", 1) for line in data.decode().splitlines())
                status = f"trailer {trailers['grpc-status']} {trailers.get('x-ended', 'none')}"
            else:
                messages.append(data)
        head = answer.headers.get("grpc-status")
        status = status or f"header {head}"
        first = messages[0][:3].decode() if messages else "none"
        exposed = answer.headers.get("access-control-expose-headers", "none")
        print(name, came, len(messages), sum(map(len, messages)), first, status, exposed, flush=True)

    call("unary", "One", b"abc")
    call("large", "One", b"ab" * 300_000)
    call("stream", "Many", b"100")
    call("refused", "Refuse", b"")
    if text:
        call("broken", "One", b"", raw=b"no base64!")


def ws_serve(port):
    from websockets.asyncio.server import serve

    async def echo(socket):
        async for message in socket:
            await socket.send(message)

    async def run():
        async with serve(echo, "0.0.0.0", int(port), max_size=None) as server:
            await server.serve_forever()

    asyncio.run(run())


def ws_call(url, count):
    from websockets.asyncio.client import connect

    async def run():
        async with connect(url, max_size=None) as socket:
            for n in range(int(count)):
                await socket.send(f"message {n}")
                assert await socket.recv() == f"message {n}"
            large = b"x" * 1_000_000
            await socket.send(large)
            assert await socket.recv() == large
            pong = await socket.ping()
            await pong
        print("websocket", count, socket.close_code, flush=True)

    asyncio.run(run())


if __name__ == "__main__":
    verbs = {"grpc-serve": grpc_serve, "grpc-call": grpc_call, "web-call": web_call}
    verbs |= {"ws-serve": ws_serve, "ws-call": ws_call}
    verbs[sys.argv[1]](*sys.argv[2:])
