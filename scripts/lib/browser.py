"""Headless Chromium on SwiftShader's WebGPU, and a server for the pages that it opens."""

import base64
import contextlib
import functools
import http.server
import json
import socket
import subprocess
import threading
import time
import urllib.request

# Without the last three the device is lost within the first frames.
FLAGS = [
    "--headless", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--window-size=1280,800",
    "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
    "--use-vulkan=swiftshader", "--enable-features=Vulkan", "--use-angle=swiftshader",
]


def free_port():
    with contextlib.closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


class Driver:
    """A browser, through the WebDriver protocol."""

    def __init__(self, home):
        self.port = free_port()
        self.process = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL)
        options = {"args": FLAGS + [f"--user-data-dir={home}"]}
        capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        for _ in range(100):
            try:
                self.call("GET", "/status")
                break
            except OSError:
                time.sleep(0.1)
        self.session = "/session/" + self.call("POST", "/session", capabilities)["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, address):
        self.call("POST", self.session + "/url", {"url": address})

    def run(self, script):
        return self.call("POST", self.session + "/execute/sync", {"script": script, "args": []})

    def before(self, script):
        """Runs a script in every page that is opened from here on, before the page's own; what `never` takes."""
        given = self.call("POST", self.session + "/goog/cdp/execute",
                          {"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": {"source": script}})
        return given["identifier"]

    def never(self, identifier):
        self.call("POST", self.session + "/goog/cdp/execute",
                  {"cmd": "Page.removeScriptToEvaluateOnNewDocument", "params": {"identifier": identifier}})

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("GET", self.session + "/screenshot")))

    def close(self):
        with contextlib.suppress(OSError):
            self.call("DELETE", self.session)
        self.process.terminate()
