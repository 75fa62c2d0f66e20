"""Our program against the server made of the SDK's own server side: what arrives there is what lay in the folder."""

import asyncio
import gzip
import hashlib
import json
import os
import subprocess

import pytest
from conftest import run
from rocketride import RocketRideClient
from sdk_server import serving

KEY = 'second-key'
PROGRAM_LIMIT = 120  # seconds that a run of the program may take

PIPELINE = {
    'project_id': 'conformance',
    'source': 'webhook_1',
    'components': [{'id': 'webhook_1', 'provider': 'webhook', 'config': {}}],
}

FILES = {
    'plain.txt': ('text/plain', b'one line\nanother\n'),
    'empty.txt': ('text/plain', b''),
    'umlauts.txt': ('text/plain', 'Grüße, größer, 東京\n'.encode() * 70_000),
    'one-long-line.txt': ('text/plain', ('€' * 600_000).encode()),
    'table.csv': ('text/csv', b'a;b\r\n1;2\r\n' * 1000),
    'data.json': ('application/json', json.dumps({'list': list(range(1000))}).encode()),
    'page.html': ('text/html', b'<!doctype html><title>x</title>\n'),
    'scan.pdf': ('application/pdf', b'%PDF-1.7\n' + os.urandom(300_000)),
    'photo.png': ('image/png', b'\x89PNG\r\n\x1a\n' + os.urandom(100_000)),
    'video.mp4': ('video/mp4', os.urandom(5 * 1024 * 1024 + 3)),
    'packed.tar.gz': ('application/x-tar', gzip.compress(b'text' * 1000)),
    'no extension': ('application/octet-stream', b'\x00\n\x00\n'),
    'Größe 東京.bin': ('application/octet-stream', os.urandom(1024 * 1024)),
    'deep/er/inside.xml': ('text/xml', b'<a/>'),
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def server():
    with serving(KEY) as (uri, engine):
        yield uri, engine


def environment():
    """Of the person who runs this nothing but what a program needs."""
    return {'PATH': os.environ['PATH'], 'HOME': os.environ.get('HOME', '/')}


def daemon(folder, uri, inbox, key=KEY):
    """The daemon, until everything in the inbox is done."""
    (folder / 'api-key').write_text(key)
    (folder / 'api-key').chmod(0o600)
    (folder / 'p.pipe').write_text(json.dumps(PIPELINE))
    config = folder / 'config.toml'
    config.write_text(
        f"""
        [server]
        uri = "{uri}"
        api_key_file = "api-key"
        chunk_size = "256KiB"
        [state]
        directory = "{folder / 'state'}"
        min_free = "1MiB"
        [retry]
        max = "5s"
        initial = "100ms"
        [pipelines.p]
        file = "{folder / 'p.pipe'}"
        [[watch]]
        path = "{inbox}"
        pipeline = "p"
        settle = "100ms"
        """
    )
    command = [os.environ['ROCKETRIDE_INGEST_BIN'], '--config', str(config), 'run', '--once']
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PROGRAM_LIMIT)


def fill(folder):
    for name, (_, data) in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_the_server_is_one_to_the_official_client(server):
    uri, engine = server

    async def body():
        async with RocketRideClient(uri=uri, auth=KEY, env={}) as client:
            token = (await client.use(pipeline=PIPELINE))['token']
            result = await client.send(token, b'data', {'name': 'a.bin', 'objectId': 'mine'})
            assert result['digest']['sha256'] == sha256(b'data')
            await client.terminate(token)

    run(body())
    assert engine.violations == []


def test_the_official_client_is_caught_where_it_is_wrong(server):
    # That the server notices at all: the same checks hold for our program below.
    uri, engine = server

    async def body():
        async with RocketRideClient(uri=uri, auth=KEY, env={}) as client:
            token = (await client.use(pipeline=PIPELINE))['token']
            pipe = await (await client.pipe(token, {'name': 'a.txt', 'objectId': 'x'}, 'text/plain')).open()
            await asyncio.gather(pipe.write('é'.encode()[:1]), pipe.write('é'.encode()[1:]))
            await pipe.close()

    run(body())
    assert any('two requests' in violation for violation in engine.violations)
    assert any('no UTF-8' in violation for violation in engine.violations)


def test_the_daemon_delivers_a_folder(server, tmp_path):
    uri, engine = server
    inbox = tmp_path / 'inbox'
    fill(inbox)
    ended = daemon(tmp_path, uri, inbox)
    assert ended.returncode == 0, ended.stderr
    assert len(engine.delivered) == len(FILES)
    assert engine.violations == []
    identifiers = set()
    for name, (mime_type, data) in FILES.items():
        assert (inbox / name).read_bytes() == data, 'the input is left alone'
        written = json.loads((inbox / f'{name}.result.json').read_text())
        result = written['result']
        assert result['digest'] == {
            'sha256': sha256(data),
            'bytes': len(data),
            'writes': result['digest']['writes'],
            'mime': mime_type,
        }
        assert result['name'] == os.path.basename(name)
        assert written['action'] == 'complete'
        assert written['sha256'] == sha256(data)
        assert written['bytes_sent'] == written['file_size'] == len(data)
        assert written['object_id'] == result['objectId']
        identifiers.add(result['objectId'])
    assert len(identifiers) == len(FILES)
    # Nothing is sent a second time.
    assert daemon(tmp_path, uri, inbox).returncode == 0
    assert len(engine.delivered) == len(FILES)


def test_a_refused_login_leaves_the_files_for_later(server, tmp_path):
    uri, engine = server
    inbox = tmp_path / 'inbox'
    inbox.mkdir()
    (inbox / 'a.txt').write_text('text')
    ended = daemon(tmp_path, uri, inbox, key='wrong')
    assert ended.returncode == 69, ended.stderr
    assert 'wrong' not in ended.stderr
    assert engine.delivered == []
    assert os.listdir(inbox) == ['a.txt']
    assert daemon(tmp_path, uri, inbox).returncode == 0
    assert len(engine.delivered) == 1


def test_send_delivers_the_same_files(server, tmp_path):
    uri, engine = server
    fill(tmp_path / 'files')
    (tmp_path / 'p.pipe').write_text(json.dumps(PIPELINE))
    command = [os.environ['ROCKETRIDE_INGEST_BIN'], 'send', '--json', '--pipeline', 'p.pipe', 'files']
    secrets = {'ROCKETRIDE_URI': uri, 'ROCKETRIDE_APIKEY': KEY}
    ended = subprocess.run(
        command, cwd=tmp_path, env={**environment(), **secrets}, capture_output=True, text=True, timeout=PROGRAM_LIMIT
    )
    assert ended.returncode == 0, ended.stderr
    assert engine.violations == []
    results = {os.path.relpath(line['filepath'], 'files'): line for line in map(json.loads, ended.stdout.splitlines())}
    assert set(results) == set(FILES)
    for name, (mime_type, data) in FILES.items():
        assert results[name]['action'] == 'complete'
        assert results[name]['bytes_sent'] == len(data)
        assert results[name]['result']['digest']['sha256'] == sha256(data)
        assert results[name]['result']['digest']['mime'] == mime_type
