"""A webhook receiver that records what is posted to it; GET answers everything recorded so far."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RECORDED: list[object] = []


class Recorder(BaseHTTPRequestHandler):
    """Keeps the bodies of POST requests in memory."""

    def do_POST(self) -> None:
        """Records one JSON body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        RECORDED.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        """Answers the list of recorded bodies."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(RECORDED).encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8000), Recorder).serve_forever()
