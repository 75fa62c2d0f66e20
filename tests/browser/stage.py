"""A sandbox engine and a daemon with a status page, as a person would start them."""

import json
import os
import pathlib
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
import time

KEY = 'browser-test-key'
TOKEN = 'a-token-of-the-browser-test'
START_LIMIT = 60  # seconds until a program must have said that it is ready
PIPELINE = {
    'source': 'webhook_1',
    'components': [{'id': 'webhook_1', 'provider': 'webhook', 'config': {}}],
}


def free_port():
    """A port of the loopback that nobody had a moment ago."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        return taken.getsockname()[1]


def environment():
    """Of the person who runs this nothing but what a program needs."""
    return {'PATH': os.environ['PATH'], 'HOME': os.environ.get('HOME', '/')}


class Stage:
    """Watches `inbox` (takes files up to 1 KiB at first) and `slow` (64 KiB a second), and `away` of a server that is not."""

    def __init__(self):
        self.program = os.environ['ROCKETRIDE_INGEST_BIN']
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix='browser-stage-'))
        self.engine = self.daemon = None
        self.port = free_port()
        self.address = f'127.0.0.1:{self.port}'
        for folder in ('inbox', 'slow', 'away'):
            (self.dir / folder).mkdir()
        for name in ('inbox', 'slow', 'away'):
            (self.dir / f'{name}.pipe').write_text(json.dumps({'pipeline': {'project_id': name, **PIPELINE}}))
        for name, content in (('key', KEY), ('token', TOKEN)):
            (self.dir / name).write_text(content)
            (self.dir / name).chmod(0o600)
        self.uri = self._start_engine()
        self.configure(max_size='1KiB')

    def _start_engine(self):
        command = [self.program, 'sandbox', '--listen', '127.0.0.1:0', '--api-key', KEY]
        self.engine = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        lines = queue.Queue()
        threading.Thread(target=lambda: lines.put(self.engine.stdout.readline()), daemon=True).start()
        line = lines.get(timeout=START_LIMIT)
        prefix = 'sandbox listening on '
        assert line.startswith(prefix), f'first line of the sandbox: {line!r}'
        return line[len(prefix) :].strip()

    def configure(self, max_size):
        """Writes the configuration; a running daemon does not learn of it."""
        (self.dir / 'config.toml').write_text(
            f"""
            [server]
            uri = "{self.uri}"
            api_key_file = "key"
            chunk_size = "16KiB"
            [state]
            directory = "{self.dir / 'state'}"
            min_free = "0"
            [admin]
            socket = "{self.dir / 'admin.sock'}"
            listen = "{self.address}"
            token_file = "token"
            [log]
            format = "json"
            [pipelines.inbox]
            file = "inbox.pipe"
            [pipelines.slow]
            file = "slow.pipe"
            limits = {{ bytes_per_second = "64KiB" }}
            [pipelines.away]
            file = "away.pipe"
            uri = "http://127.0.0.1:{free_port()}"
            [[watch]]
            path = "{self.dir / 'inbox'}"
            pipeline = "inbox"
            settle = "100ms"
            max_size = "{max_size}"
            [[watch]]
            path = "{self.dir / 'slow'}"
            pipeline = "slow"
            settle = "100ms"
            [[watch]]
            path = "{self.dir / 'away'}"
            pipeline = "away"
            settle = "100ms"
            """
        )

    def start(self):
        """Starts the daemon and waits until its page is served."""
        with open(self.dir / 'daemon.log', 'a') as log:
            command = [self.program, '--config', str(self.dir / 'config.toml'), 'run']
            self.daemon = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                socket.create_connection(('127.0.0.1', self.port), 1).close()
                return
            except OSError:
                assert self.daemon.poll() is None and time.monotonic() < deadline, self.log()
                time.sleep(0.05)

    def stop(self):
        """Ends the daemon as a crash does: it may be in the midst of a slow upload."""
        self.daemon.kill()
        self.daemon.wait()

    def log(self):
        """What the daemon said."""
        return (self.dir / 'daemon.log').read_text()

    def drop(self, folder, name, content):
        """Puts a file into a watched folder, whole."""
        hidden = self.dir / 'new'
        hidden.write_bytes(content)
        hidden.rename(self.dir / folder / name)

    def result(self, folder, name):
        """Whether the file has its result."""
        return (self.dir / folder / f'{name}.result.json').exists()

    def command(self, *arguments):
        """Runs a command of the program against the daemon."""
        command = [self.program, '--config', str(self.dir / 'config.toml'), *arguments]
        subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=START_LIMIT)

    def close(self):
        """Ends everything."""
        for process in (self.daemon, self.engine):
            if process:
                process.kill()
                process.wait()
        if self.engine:
            self.engine.stdout.close()
        shutil.rmtree(self.dir, ignore_errors=True)
