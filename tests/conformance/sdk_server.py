"""A server made of the official SDK's own server side, for our program to talk to.

The socket, the frames and the messages are the SDK's (`TransportWebSocket.accept` under FastAPI, `DAPBase`); what a
command does is written here, independently of the sandbox. So neither side of the wire is only ours.
"""

import asyncio
import hashlib
import random
import threading
import time
import uuid
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, WebSocket
from rocketride.core import DAPBase, TransportWebSocket

MAX_MESSAGE = 262_144_000  # bytes, as on the real server
START_LIMIT = 30  # seconds until it must listen
STOP_LIMIT = 30  # seconds until it must have ended


class Pipe:
    """One object on its way."""

    def __init__(self, obj, mime_type):
        self.object = obj
        self.mime_type = mime_type
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.writes = 0
        self.busy = False


class Task:
    """A started pipeline with its pipes, by their ids."""

    def __init__(self, pipeline, arguments):
        self.project = pipeline['project_id']
        self.source = arguments.get('source') or pipeline['source']
        self.slots = arguments.get('threads') or 64
        self.token = 'tk_' + uuid.uuid5(uuid.NAMESPACE_URL, f'{self.project}/{self.source}').hex
        self.started = time.time()
        self.pipes = {}
        self.freed = asyncio.Condition()

    async def open(self, obj, mime_type):
        async with self.freed:
            await self.freed.wait_for(lambda: len(self.pipes) < self.slots)
            pipe_id = next(number for number in range(self.slots) if number not in self.pipes)
            self.pipes[pipe_id] = Pipe(obj, mime_type)
            return pipe_id

    async def close(self, pipe_id):
        async with self.freed:
            pipe = self.pipes.pop(pipe_id)
            self.freed.notify()
            return pipe


class Engine:
    """What all connections share, and what a test looks at afterwards."""

    def __init__(self, key):
        self.key = key
        self.tasks = {}
        self.clients = []
        self.delivered = []
        self.violations = []

    def task(self, token):
        if token not in self.tasks:
            raise RuntimeError('Your pipeline is not running')
        return self.tasks[token]


class Connection(DAPBase):
    """One client. Every message is a task of its own, as the SDK's transport makes it."""

    def __init__(self, engine):
        super().__init__('CONFORMANCE', transport=TransportWebSocket())
        self.engine = engine
        self.known = False

    async def on_receive(self, message):
        arguments = message.get('arguments') or {}
        command = message.get('command')
        try:
            if command != 'auth' and not self.known:
                raise PermissionError('Not authenticated')
            handler = getattr(self, f'on_{command}', None)
            if handler is None:
                raise RuntimeError(f'Unknown command: {command}')
            reply = self.build_response(message, body=await handler(arguments))
        except Exception as error:
            reply = self.build_exception(message, error)
        await self._transport.send(reply)
        if not self.known:
            self._transport.disconnect()

    async def on_auth(self, arguments):
        if arguments.get('auth') != self.engine.key:
            raise PermissionError('Invalid API key')
        self.known = True
        self.engine.clients.append(arguments.get('clientName'))
        return {'userToken': arguments['auth'], 'userId': 'conformance'}

    async def on_rrext_ping(self, arguments):
        return {'pong': True}

    async def on_execute(self, arguments):
        task = Task(arguments['pipeline'], arguments)
        if task.token in self.engine.tasks and not arguments.get('useExisting'):
            raise RuntimeError('Pipeline is already running.')
        task = self.engine.tasks.setdefault(task.token, task)
        # Something unasked first: events may come at any time.
        body = {'action': 'begin', 'name': task.source, 'projectId': task.project, 'source': task.source}
        await self._transport.send(self.build_event('apaevt_task', id=f'{task.project}.{task.source}', body=body))
        return {
            'id': f'{task.project}.{task.source}',
            'token': task.token,
            'publicToken': 'pk_' + task.token[3:],
            'projectId': task.project,
            'source': task.source,
            'provider': 'webhook',
        }

    async def on_rrext_get_task_status(self, arguments):
        task = self.engine.task(arguments.get('token'))
        return {'state': 3, 'status': 'Running', 'completed': False, 'exitCode': 0, 'startTime': task.started}

    async def on_terminate(self, arguments):
        del self.engine.tasks[self.engine.task(arguments.get('token')).token]

    async def on_rrext_process(self, arguments):
        task = self.engine.task(arguments.get('token'))
        if arguments['subcommand'] == 'open':
            return {'pipe_id': await task.open(arguments['object'], arguments['mimeType'])}
        pipe = task.pipes.get(arguments['pipe_id'])
        if pipe is None:
            self.engine.violations.append(f'{arguments["subcommand"]} of a pipe that is not open')
            return None
        name = pipe.object['name']
        if pipe.busy:
            self.engine.violations.append(f'two requests of one pipe at a time: {name}')
        pipe.busy = True
        # Long enough for a client that does not await its replies to be caught, short enough for hundreds of writes.
        await asyncio.sleep(random.uniform(0, 0.01))
        pipe.busy = False
        if arguments['subcommand'] == 'write':
            return self.write(pipe, arguments['data'])
        return self.result(await task.close(arguments['pipe_id']))

    def write(self, pipe, data):
        if pipe.mime_type.startswith('text/'):
            try:
                data.decode()
            except UnicodeDecodeError:
                self.engine.violations.append(f'a write of text that is no UTF-8 by itself: {pipe.object["name"]}')
        pipe.digest.update(data)
        pipe.bytes += len(data)
        pipe.writes += 1

    def result(self, pipe):
        digest = {'sha256': pipe.digest.hexdigest(), 'bytes': pipe.bytes, 'writes': pipe.writes, 'mime': pipe.mime_type}
        self.engine.delivered.append((pipe.object, digest))
        return {
            'name': pipe.object['name'],
            'path': '',
            'objectId': pipe.object['objectId'],
            'result_types': {'digest': 'json', 'text': 'text'},
            'digest': digest,
            'text': [f'{pipe.object["name"]}: {pipe.bytes} bytes'],
        }


@contextmanager
def serving(key):
    """Runs the server in a thread of its own; gives its URI and its engine."""
    engine = Engine(key)
    app = FastAPI()

    @app.websocket('/task/service')
    async def service(websocket: WebSocket):
        await Connection(engine)._transport.accept(websocket)

    config = uvicorn.Config(
        app, host='127.0.0.1', port=0, log_level='warning', lifespan='off', ws='websockets-sansio', ws_max_size=MAX_MESSAGE
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + START_LIMIT
    while not server.started:
        assert thread.is_alive() and time.monotonic() < end, 'the server did not start'
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f'http://127.0.0.1:{port}', engine
    finally:
        server.should_exit = True
        thread.join(STOP_LIMIT)
