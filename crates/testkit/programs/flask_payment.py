"""A Flask service that knows nothing of a mesh: says its version and who called, and logs each request."""
import json
import sys

from flask import Flask, request

port, version, log = int(sys.argv[1]), sys.argv[2], sys.argv[3]
app = Flask("payment")


@app.route("/", defaults={"path": ""}, methods=["GET", "POST"])
@app.route("/<path:path>", methods=["GET", "POST"])
def answer(path):
    xfcc = request.headers.get("x-forwarded-client-cert", "")
    peer = next((p[4:] for p in xfcc.split(";") if p.startswith("URI=")), "")
    with open(log, "a") as out:
        out.write(json.dumps({"version": version, "peer": peer, "id": request.headers.get("x-test-id", "")}) + "\n")
    return {"service": "payment", "version": version, "peer": peer}


app.run(host="127.0.0.1", port=port, threaded=True)
