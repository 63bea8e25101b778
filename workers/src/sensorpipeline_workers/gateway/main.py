"""Runs the gateway."""

import signal
import sys

import uvicorn
from prometheus_client import start_http_server
from sensorpipeline_api.configuration import GatewayConfiguration

from sensorpipeline_workers.gateway.application import build_application
from sensorpipeline_workers.runtime.garbage import look_seldom


def run() -> None:
    """Runs until SIGTERM; requests under way are answered first."""
    configuration = GatewayConfiguration.load()
    start_http_server(configuration.metrics_port)  # health is told at the application's port
    # The server raises the signal again when it has ended in good order, which is then no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    application = build_application(configuration)
    look_seldom()
    uvicorn.run(
        application, host="0.0.0.0", port=configuration.port, log_level="warning",
        timeout_graceful_shutdown=15, server_header=False,
    )  # fmt: skip
