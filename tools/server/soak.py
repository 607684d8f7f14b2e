#!/usr/bin/env python3
# soak.py: many clients ask a running server at once, and some go away in the middle.
# SPDX-License-Identifier: Apache-2.0
"""Asks questions about pictures and videos from several clients for some time, with random cancels.

Every answer must be that of the same question asked alone before; every status must be 200 or 429;
at the end nothing may be left in the cache but media that nobody uses. Prints requests by what
became of them, and the resident memory of the server over time.

  vkv serve --model tools/tinyvlm/model --port 8080 --running 6 --queue 1 --dram-budget 64M &
  tools/server/soak.py --port 8080 --pid $! --seconds 300 --clients 8 tools/tinyvlm/samples/*.png
"""

import argparse
import base64
import collections
import http.client
import json
import pathlib
import random
import sys
import threading
import time

QUESTIONS = [
    "what shape is in the image?",
    "what color is the shape?",
    "is there a circle?",
    "how many shapes are in the image?",
    "does the image show a square?",
]


def request_body(model, medium, question, stream):
    kind = "video_url" if medium.suffix in (".mp4", ".webm", ".npy") else "image_url"
    data = base64.b64encode(medium.read_bytes()).decode()
    content = [
        {"type": kind, kind: {"url": f"data:application/octet-stream;base64,{data}"}},
        {"type": "text", "text": question},
    ]
    messages = [{"role": "user", "content": content}]
    body = {"model": model, "messages": messages, "max_tokens": 24, "stream": stream}
    return json.dumps(body).encode()


def post(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    return connection


def text_of(response, stream):
    if not stream:
        return json.loads(response.read())["choices"][0]["message"]["content"]
    text, is_done = "", False
    for line in response:
        if line == b"data: [DONE]\n":
            is_done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            for choice in event["choices"]:
                text += choice["delta"].get("content", "")
    return text if is_done else "the stream is torn: " + text


def metrics(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    values = {}
    for line in connection.getresponse().read().decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values


def resident_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Soak:
    def __init__(self, arguments):
        self.port, self.model = arguments.port, arguments.model
        self.media = [pathlib.Path(path) for path in arguments.media]
        self.counts = collections.Counter()
        self.lock = threading.Lock()
        self.end = 0.0
        self.expected = {}

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def ask_alone(self):
        for medium in self.media:
            for question in QUESTIONS:
                connection = post(self.port, request_body(self.model, medium, question, False))
                response = connection.getresponse()
                assert response.status == 200, response.read()
                self.expected[medium, question] = text_of(response, False)

    def client(self, seed):
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            medium, question = rng.choice(self.media), rng.choice(QUESTIONS)
            stream = rng.random() < 0.5
            connection = post(self.port, request_body(self.model, medium, question, stream))
            if rng.random() < 0.25:  # goes away: at once, a little later, or in the stream
                time.sleep(rng.choice([0, 0.005, 0.02, 0.1]))
                if stream and rng.random() < 0.5:
                    connection.getresponse().read(1)
                connection.close()
                self.count("cancelled")
                continue
            response = connection.getresponse()
            if response.status == 429:
                assert int(response.headers["Retry-After"]) >= 1
                response.read()
                self.count("429")
                time.sleep(rng.random() * 0.05)  # sooner than asked, to keep it full
            elif response.status != 200:
                self.count(f"status {response.status}: {response.read()[:200]}")
            elif text_of(response, stream) == self.expected[medium, question]:
                self.count("right")
            else:
                self.count("another answer")
            connection.close()

    def run(self, clients, seconds, pid):
        self.end = time.monotonic() + seconds
        threads = [threading.Thread(target=self.client, args=(seed,)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        begin, memory = time.monotonic(), []
        while time.monotonic() < self.end:
            time.sleep(min(10.0, max(0.1, self.end - time.monotonic())))
            memory.append(resident_mib(pid))
            print(f"{time.monotonic() - begin:6.0f} s  {memory[-1]:8.1f} MiB  {self.counts}")
        for thread in threads:
            thread.join()
        return memory


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="of the server, for its memory")
    parser.add_argument("--model", default="model")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("media", nargs="+", help="pictures and videos")
    arguments = parser.parse_args()

    soak = Soak(arguments)
    soak.ask_alone()
    memory = soak.run(arguments.clients, arguments.seconds, arguments.pid)
    time.sleep(1)
    at_end = metrics(arguments.port)
    left = sum(at_end[f"vkv_requests_{what}"] for what in ("queued", "waiting", "running"))
    left += at_end["vkv_sequences"] - at_end["vkv_media_prefixes"]
    half = memory[len(memory) // 2 :]
    print(f"requests: {dict(soak.counts)}")
    print(f"resident: {memory[0]:.1f} MiB at first; second half {min(half):.1f} to {max(half):.1f}")
    print(f"left behind: {left:.0f}")
    wrong = set(soak.counts) - {"right", "429", "cancelled"}
    sys.exit(0 if left == 0 and not wrong else 1)


if __name__ == "__main__":
    main()
