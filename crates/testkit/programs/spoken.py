"""Protocols as their own libraries speak them: grpcio in every form, WebSockets.

python3 spoken.py grpc-serve PORT | grpc-call HOST:PORT | ws-serve PORT | ws-call URL COUNT
"""
import asyncio
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
    verbs = {"grpc-serve": grpc_serve, "grpc-call": grpc_call, "ws-serve": ws_serve, "ws-call": ws_call}
    verbs[sys.argv[1]](*sys.argv[2:])
