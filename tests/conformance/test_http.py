"""The sandbox over HTTP: curl and Python's own client, beside the official SDK on the same port."""

import asyncio
import hashlib
import json
import os
import subprocess
import urllib.error
import urllib.request
import uuid

import pytest
from conftest import run

LIMIT = 60  # seconds that one transfer may take
JSON = ['--header', 'Content-Type: application/json', '--data']


def pipeline(*providers):
    components = [{'id': 'webhook_1', 'provider': 'webhook', 'config': {}}]
    for provider in providers:
        components.append({'id': provider, 'provider': provider, 'config': {'message': 'no model'}})
    return {'project_id': str(uuid.uuid4()), 'source': 'webhook_1', 'components': components}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def curl(sandbox, path, *arguments, key=None):
    """The status and the JSON of one request."""
    command = ['curl', '--silent', '--show-error', '--max-time', str(LIMIT), '--write-out', '\n%{http_code}']
    if key != '':
        command += ['--header', f'Authorization: Bearer {key or sandbox.key}']
    done = subprocess.run(
        [*command, *arguments, sandbox.uri + path], capture_output=True, text=True, check=True, timeout=LIMIT
    )
    body, _, status = done.stdout.rpartition('\n')
    return int(status), json.loads(body)


def start(sandbox, *providers):
    """A task of its own, started over HTTP."""
    body = json.dumps(pipeline(*providers))
    status, reply = curl(sandbox, '/task', *JSON, body)
    assert (status, reply['status']) == (200, 'OK'), reply
    return reply['data']['token']


def objects(reply):
    assert reply['status'] == 'OK', reply
    return reply['data']['objects']


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / 'scan.pdf'
    path.write_bytes(b'%PDF-1.7\n' + os.urandom(300_000))
    return path


# --- uploads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('path', ['/task/data', '/webhook'])
def test_a_raw_body(sandbox, scan, path):
    headers = ['Content-Type: application/pdf', 'Content-Disposition: attachment; filename="scan.pdf"']
    headers = [part for header in headers for part in ('--header', header)]
    token = start(sandbox)
    status, reply = curl(sandbox, f'{path}?token={token}', *headers, '--data-binary', f'@{scan}')
    assert status == 200
    assert (reply['data']['objectsRequested'], reply['data']['objectsCompleted']) == (1, 1)
    assert reply['data']['resultTypes'] == {'sandbox': 'json'}
    body = objects(reply)['body']
    assert (body['status'], body['name']) == ('OK', 'scan.pdf')
    assert body['objectId'] == str(uuid.uuid5(uuid.NAMESPACE_URL, 'null://Stream/scan.pdf')), 'HTTP carries none'
    assert (body['sandbox']['sha256'], body['sandbox']['mime']) == (sha256(scan.read_bytes()), 'application/pdf')


def test_a_large_body_of_unknown_length(sandbox, tmp_path):
    path = tmp_path / 'large.bin'
    path.write_bytes(os.urandom(20 * 1024 * 1024 + 1))
    chunked = ['--request', 'POST', '--header', 'Transfer-Encoding: chunked', '--upload-file', str(path)]
    status, reply = curl(sandbox, f'/task/data?token={start(sandbox)}', *chunked)
    seen = objects(reply)['body']['sandbox']
    assert (status, seen['sha256']) == (200, sha256(path.read_bytes()))


def test_a_form(sandbox, scan, tmp_path):
    other = tmp_path / 'other.txt'
    other.write_text('other text')
    fields = ['--form', f'file=@{scan};type=application/pdf', '--form', 'note=Grüße', '--form', f'file=@{other}']
    status, reply = curl(sandbox, f'/task/data?token={start(sandbox)}', *fields)
    assert status == 200
    assert (reply['data']['objectsRequested'], reply['data']['objectsCompleted']) == (3, 3)
    parts = objects(reply)
    assert set(parts) == {'file_0', 'note', 'file_1'}
    assert parts['file_0']['sandbox']['sha256'] == sha256(scan.read_bytes())
    assert (parts['file_1']['name'], parts['file_1']['text']) == ('other.txt', ['other text\n\n'])
    assert parts['note']['text'] == ['Grüße\n\n']


def test_the_public_key_of_a_task_needs_no_token(sandbox):
    async def body():
        async with sandbox.client() as client:
            started = await client.use(pipeline=pipeline())
            for key in (started['publicToken'], started['token']):
                status, reply = curl(sandbox, '/webhook', '--data-binary', 'x', key=key)
                assert (status, objects(reply)['body']['status']) == (200, 'OK')
                status, _ = curl(sandbox, '/task', *JSON, json.dumps(pipeline()), key=key)
                assert status == 400

    run(body())


def test_pythons_own_client(sandbox):
    data = os.urandom(1000)
    headers = {'Authorization': f'Bearer {sandbox.key}', 'Content-Type': 'application/octet-stream'}
    request = urllib.request.Request(f'{sandbox.uri}/webhook?token={start(sandbox)}', data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=LIMIT) as reply:
        body = objects(json.load(reply))['body']
    assert body['name'].startswith('stream-')
    assert body['sandbox']['sha256'] == sha256(data)


# --- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('key', ['', 'wrong', 'tk_unknown', 'pk_unknown'])
@pytest.mark.parametrize('path', ['/task/data', '/webhook', '/task'])
def test_a_bad_credential_is_unauthorized(sandbox, key, path):
    status, reply = curl(sandbox, f'{path}?token=x', '--data-binary', 'x', key=key)
    assert (status, reply['status']) == (401, 'Error')


def test_a_wrong_token_is_http_200_and_an_error(sandbox):
    status, reply = curl(sandbox, '/task/data?token=tk_unknown', '--data-binary', 'x')
    assert (status, reply['data']['objectsCompleted']) == (200, 0)
    body = objects(reply)['body']
    assert (body['status'], body['error']['message']) == ('Error', 'Your pipeline is not running')


def test_a_stopped_task_is_http_200_and_an_error(sandbox):
    token = start(sandbox)
    curl(sandbox, f'/task?token={token}', '--request', 'DELETE')
    status, reply = curl(sandbox, f'/task/data?token={token}', '--data-binary', 'x')
    assert (status, reply['data']['objectsCompleted']) == (200, 0)
    assert objects(reply)['body']['error']['message'] == 'Failed to open a data pipe.'


def test_a_failure_of_a_node_is_ok_with_an_error(sandbox):
    status, reply = curl(sandbox, f'/task/data?token={start(sandbox, "sandbox_failing")}', '--data-binary', 'x')
    assert (status, reply['data']['objectsCompleted']) == (200, 1)
    body = objects(reply)['body']
    assert (body['status'], body['error']['message']) == ('OK', 'no model')


def test_a_refused_open_is_ok_with_nothing(sandbox):
    status, reply = curl(sandbox, f'/task/data?token={start(sandbox, "sandbox_refusing")}', '--data-binary', 'x')
    assert (status, reply['data']['objectsCompleted']) == (200, 1)
    assert objects(reply)['body'] == {'status': 'OK'}


# --- tasks ----------------------------------------------------------------------------------------------------


def test_a_task_starts_is_looked_at_and_stops(sandbox):
    config = json.dumps(pipeline())
    status, reply = curl(sandbox, '/task', *JSON, config)
    assert status == 200
    token = reply['data']['token']
    status, reply = curl(sandbox, '/task', *JSON, config)
    assert (status, reply['error']['message']) == (400, 'Pipeline is already running.')
    status, reply = curl(sandbox, f'/task?token={token}')
    assert (status, reply['data']['state'], reply['data']['completedCount']) == (200, 3, 0)
    curl(sandbox, f'/task/data?token={token}', '--data-binary', 'x')
    assert curl(sandbox, f'/task?token={token}')[1]['data']['completedCount'] == 1
    assert curl(sandbox, f'/task?token={token}', '--request', 'DELETE') == (200, {'status': 'OK'})
    assert curl(sandbox, f'/task?token={token}')[1]['data']['state'] == 6
    assert curl(sandbox, '/task?token=tk_unknown')[0] == 400


def test_both_doors_lead_to_the_same_task(sandbox):
    token = start(sandbox)

    async def body():
        async with sandbox.client() as client:
            pipes = [await (await client.pipe(token)).open() for _ in range(4)]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for((await client.pipe(token)).open(), 0.3)
            # The open that nobody waits for any more gets the first slot that is freed, the upload the second.
            await pipes[0].close()
            await pipes[1].close()
            await asyncio.to_thread(curl, sandbox, f'/webhook?token={token}', '--data-binary', 'x')
            assert (await client.get_task_status(token))['completedCount'] == 3

    run(body())
