"""An authorizer by HTTP, of Flask: 200 lets a request pass, anything else refuses it.

It does what the header x-ext of the request says: "allow" lets it pass and changes it, "slow" answers too late, "break"
fails; anything else, and nothing, refuses it. What it was asked is written as a line of JSON.
Arguments: port, file for what it was asked.
"""

import json
import sys
import threading

from flask import Flask, Response, request

app = Flask(__name__)
PORT, LOG = int(sys.argv[1]), sys.argv[2]
LOCK = threading.Lock()
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@app.route("/", defaults={"path": ""}, methods=METHODS)
@app.route("/<path:path>", methods=METHODS)
def check(path):
    line = {
        "method": request.method,
        "path": request.full_path.rstrip("?"),
        "host": request.host,
        "headers": {name.lower(): value for name, value in request.headers},
        "body": request.get_data().decode(),
    }
    with LOCK, open(LOG, "a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    word = request.headers.get("x-ext")
    if word == "allow":
        return Response("", 200, {"x-user": "alice", "x-other": "kept back", "x-checked": "yes"})
    if word == "slow":
        threading.Event().wait(30)
    if word == "break":
        return Response("broken", 503)
    return Response("refused by the authorizer", 401, {"x-why": "no x-ext", "x-other": "kept back"})


if __name__ == "__main__":
    app.run(port=PORT, threaded=True)
