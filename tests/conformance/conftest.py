"""A sandbox for the whole run, and connected clients of the official SDK."""

import asyncio
import os
import queue
import subprocess
import threading

import pytest
from rocketride import RocketRideClient

KEY = 'conformance-key'
START_LIMIT = 30  # seconds until the sandbox must have said where it listens


class Sandbox:
    """The program under test, started as a person would start it."""

    def __init__(self, threads=8):
        program = os.environ['ROCKETRIDE_INGEST_BIN']
        command = [program, 'sandbox', '--listen', '127.0.0.1:0', '--api-key', KEY, '--threads', str(threads)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = queue.Queue()
        threading.Thread(target=lambda: lines.put(self.process.stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=START_LIMIT)
        except queue.Empty:
            self.process.kill()
            raise RuntimeError('the sandbox said nothing') from None
        prefix = 'sandbox listening on '
        assert line.startswith(prefix), f'first line of the sandbox: {line!r}'
        self.uri = line[len(prefix) :].strip()
        self.key = KEY

    def client(self, auth=KEY, **options):
        return RocketRideClient(uri=self.uri, auth=auth, env={}, **options)

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope='session')
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.stop()


def run(coroutine, limit=60):
    """A test's coroutine, with an end: the SDK waits for ever on its own."""

    async def bounded():
        return await asyncio.wait_for(coroutine, limit)

    return asyncio.run(bounded())
