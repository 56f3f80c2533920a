"""A program that knows nothing of a mesh: Flask as a server, requests as a client, grpcio as both.

python3 any.py serve PORT VERSION | call TIMES URL... | grpc-serve PORT VERSION | grpc-call TIMES HOST:PORT...
"""
import sys
from concurrent import futures


def peer(header):
    return next((part[4:] for part in (header or "").split(";") if part.startswith("URI=")), "")


def serve(port, version):
    from flask import Flask, request

    app = Flask("any")

    @app.route("/")
    def answer():
        return {"version": version, "peer": peer(request.headers.get("x-forwarded-client-cert"))}

    app.run(host="0.0.0.0", port=int(port), threaded=True)


def call(times, *urls):
    import requests

    for url in urls:
        for _ in range(int(times)):
            answer = requests.get(url, timeout=20)
            body = answer.json()
            print(url, answer.status_code, body["version"], body["peer"], flush=True)


def grpc_serve(port, version):
    import grpc

    def who(request, context):
        caller = peer(dict(context.invocation_metadata()).get("x-forwarded-client-cert"))
        return f"{version} {caller}".encode()

    server = grpc.server(futures.ThreadPoolExecutor(4))
    method = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Any", method),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


def grpc_call(times, *targets):
    import grpc

    for target in targets:
        with grpc.insecure_channel(target) as channel:
            who = channel.unary_unary("/test.Any/Who")
            for _ in range(int(times)):
                print(target, 200, who(b"", timeout=20, wait_for_ready=True).decode(), flush=True)


if __name__ == "__main__":
    {"serve": serve, "call": call, "grpc-serve": grpc_serve, "grpc-call": grpc_call}[sys.argv[1]](*sys.argv[2:])
