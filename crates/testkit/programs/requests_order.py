"""Calls a URL some times with requests, as any program would, and prints each answer."""
import sys

import requests

for number in range(int(sys.argv[2])):
    answer = requests.get(sys.argv[1], headers={"x-test-id": f"requests-{number}"}, timeout=10)
    print(answer.status_code, answer.json()["version"], answer.json()["peer"], flush=True)
