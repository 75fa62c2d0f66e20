"""What the official SDK does with the sandbox: the ordinary ways, and the quirks that the real server has."""

import asyncio
import hashlib
import json
import os
import uuid

import pytest
from conftest import run


def pipeline(project=None):
    return {
        'project_id': project or str(uuid.uuid4()),
        'source': 'webhook_1',
        'components': [
            {'id': 'webhook_1', 'provider': 'webhook', 'config': {}},
            {
                'id': 'response_1',
                'provider': 'response',
                'config': {},
                'input': [{'from': 'webhook_1', 'lane': 'text'}],
            },
        ],
    }


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def with_task(sandbox, test, **use):
    """Runs `test(client, token)` on a task of its own."""

    async def body():
        async with sandbox.client() as client:
            started = await client.use(pipeline=pipeline(), **use)
            return await test(client, started['token'])

    return run(body())


# --- connecting -----------------------------------------------------------------------------------------------


def test_connect_tells_who_we_are(sandbox):
    async def body():
        client = sandbox.client()
        account = await client.connect()
        assert account['userToken'] == sandbox.key
        assert account['userId']
        await client.ping()
        await client.disconnect()
        assert not client.is_connected()

    run(body())


def test_a_wrong_key_is_refused(sandbox):
    async def body():
        with pytest.raises(Exception, match='Invalid API key'):
            await sandbox.client(auth='wrong').connect()

    run(body())


def test_an_unknown_task_key_is_a_bad_request(sandbox):
    async def body():
        for key in ('tk_unknown', 'pk_unknown'):
            with pytest.raises(Exception, match='Bad request'):
                await sandbox.client(auth=key).connect()

    run(body())


def test_a_wrong_path_is_forbidden(sandbox):
    async def body():
        with pytest.raises(ConnectionError, match='403'):
            client = sandbox.client()
            client._uri = client._uri.replace('/task/service', '/models')
            await client.connect()

    run(body())


def test_connections_beyond_the_login_can_be_many(sandbox):
    async def body():
        clients = [sandbox.client() for _ in range(25)]
        for client in clients:
            await client.connect()
        await asyncio.gather(*(client.ping() for client in clients))
        for client in clients:
            await client.disconnect()

    run(body())


# --- tasks ----------------------------------------------------------------------------------------------------


def test_use_starts_a_pipeline_of_a_dictionary(sandbox):
    async def body():
        async with sandbox.client() as client:
            project = str(uuid.uuid4())
            started = await client.use(pipeline=pipeline(project), name='invoices')
            assert started['projectId'] == project
            assert started['source'] == 'webhook_1'
            assert started['provider'] == 'webhook'
            assert started['token'].startswith('tk_')
            assert started['publicToken'].startswith('pk_')
            status = await client.get_task_status(started['token'])
            assert (status['state'], status['completed'], status['name']) == (3, False, 'invoices')
            assert status['startTime'] > 0

    run(body())


@pytest.mark.parametrize('wrapped', [False, True])
def test_use_starts_a_pipe_file(sandbox, tmp_path, wrapped):
    path = tmp_path / 'scan.pipe'
    path.write_text(json.dumps({'pipeline': pipeline()} if wrapped else pipeline()))

    async def body():
        async with sandbox.client() as client:
            token = (await client.use(filepath=str(path)))['token']
            assert (await client.get_task_status(token))['name'] == 'scan'

    run(body())


def test_a_running_pipeline_is_used_again_only_when_asked(sandbox):
    async def body():
        async with sandbox.client() as client:
            config = pipeline()
            first = await client.use(pipeline=config)
            with pytest.raises(RuntimeError, match='Pipeline is already running.'):
                await client.use(pipeline=config)
            again = await client.use(pipeline=config, use_existing=True)
            assert again['token'] == first['token']
            await client.terminate(first['token'])
            third = await client.use(pipeline=config)
            assert third['token'] == first['token'], 'the token follows from user, project and source'
            assert await client.get_task_token(config['project_id'], 'webhook_1') == first['token']

    run(body())


def test_terminate_ends_a_task(sandbox):
    async def test(client, token):
        await client.terminate(token)
        status = await client.get_task_status(token)
        assert (status['state'], status['completed'], status['exitCode']) == (6, True, 0)
        with pytest.raises(Exception) as caught:
            await client.send(token, 'late', mimetype='text/plain')
        assert 'Failed to open a data pipe' in str(caught.value), 'the server says nothing but an empty message'

    with_task(sandbox, test)


def test_the_public_key_of_a_task_sends_and_does_nothing_else(sandbox):
    async def body():
        async with sandbox.client() as owner:
            started = await owner.use(pipeline=pipeline())
            async with sandbox.client(auth=started['publicToken']) as guest:
                result = await guest.send('whatever token', b'data', {'name': 'a.bin'})
                assert result['sandbox']['sha256'] == sha256(b'data')
                for refused in (guest.use(pipeline=pipeline()), guest.terminate(started['token'])):
                    with pytest.raises(RuntimeError, match='Permission'):
                        await refused
            async with sandbox.client(auth=started['token']) as holder:
                assert (await holder.get_task_status('whatever'))['state'] == 3

    run(body())


# --- sending --------------------------------------------------------------------------------------------------


def test_send_text(sandbox):
    async def test(client, token):
        text = 'Grüße aus dem Sandkasten\nzweite Zeile'
        result = await client.send(token, text, {'name': 'a.txt'}, 'text/plain')
        assert result['name'] == 'a.txt'
        assert result['objectId'] == str(uuid.uuid5(uuid.NAMESPACE_URL, 'null://Stream/a.txt'))
        assert result['text'] == [text + '\n\n']
        assert set(result['result_types']) == {'text', 'sandbox'}
        assert all(field in result for field in result['result_types'])
        seen = result['sandbox']
        assert seen['sha256'] == sha256(text.encode())
        assert (seen['bytes'], seen['lines'], seen['words'], seen['writes']) == (len(text.encode()), 2, 6, 1)

    with_task(sandbox, test)


def test_send_bytes(sandbox):
    async def test(client, token):
        data = bytes(range(256)) * 4096
        result = await client.send(token, data, {'name': 'a.bin', 'objectId': 'my-own-id'})
        assert result['sandbox']['sha256'] == sha256(data)
        assert result['objectId'] == 'my-own-id'
        assert 'text' not in result

    with_task(sandbox, test)


def test_a_pipe_takes_chunk_after_chunk(sandbox):
    async def test(client, token):
        chunks = [os.urandom(100_000) for _ in range(12)]
        pipe = await client.pipe(token, {'name': 'stream.bin'}, 'application/octet-stream')
        await pipe.open()
        assert pipe.pipe_id == 0
        for chunk in chunks:
            await pipe.write(chunk)
        result = await pipe.close()
        assert result['sandbox']['sha256'] == sha256(b''.join(chunks))
        assert result['sandbox']['writes'] == 12

    with_task(sandbox, test)


def test_the_lowest_free_pipe_is_used_again(sandbox):
    async def test(client, token):
        pipes = [await (await client.pipe(token)).open() for _ in range(3)]
        assert [pipe.pipe_id for pipe in pipes] == [0, 1, 2]
        await pipes[1].close()
        assert (await (await client.pipe(token)).open()).pipe_id == 1

    with_task(sandbox, test)


def test_send_files_takes_three_hundred_files_through_eight_slots(sandbox, tmp_path):
    contents = {}
    for number in range(300):
        path = tmp_path / f'file-{number:03}.bin'
        path.write_bytes(os.urandom(number * 37))
        contents[str(path)] = path.read_bytes()

    events = []

    async def on_event(event):
        events.append(event)

    async def body():
        async with sandbox.client(on_event=on_event) as client:
            token = (await client.use(pipeline=pipeline()))['token']
            files = [(path, None, 'application/octet-stream') for path in contents]
            return await client.send_files(files, token)

    results = run(body(), limit=120)
    assert [result['filepath'] for result in results] == list(contents)
    for result in results:
        data = contents[result['filepath']]
        assert result['action'] == 'complete', result
        assert result['bytes_sent'] == len(data)
        assert result['result']['sandbox']['sha256'] == sha256(data)
    actions = [event['body']['action'] for event in events if event['event'] == 'apaevt_status_upload']
    assert actions.count('open') == actions.count('complete') == 300


def test_a_large_file_arrives_whole(sandbox, tmp_path):
    path = tmp_path / 'large.pdf'
    path.write_bytes(os.urandom(20 * 1024 * 1024 + 1))

    async def test(client, token):
        [result] = await client.send_files([str(path)], token)
        seen = result['result']['sandbox']
        assert seen['sha256'] == sha256(path.read_bytes())
        assert (seen['mime'], seen['writes']) == ('application/pdf', 21)

    with_task(sandbox, test)


def test_a_queued_open_does_not_hold_up_the_rest(sandbox):
    async def test(client, token):
        first = await (await client.pipe(token, {'name': 'first'})).open()
        waiting = asyncio.create_task(client.send(token, b'second', {'name': 'second'}))
        await asyncio.sleep(0.2)
        await client.ping()
        assert (await client.get_task_status(token))['state'] == 3
        assert not waiting.done(), 'the only slot is taken'
        await first.close()
        assert (await waiting)['sandbox']['sha256'] == sha256(b'second')

    with_task(sandbox, test, threads=1)


def test_a_dropped_connection_does_not_close_its_pipes(sandbox):
    async def body():
        async with sandbox.client() as owner:
            token = (await owner.use(pipeline=pipeline(), threads=2))['token']
            async with sandbox.client() as other:
                assert (await (await other.pipe(token)).open()).pipe_id == 0
            assert (await (await owner.pipe(token)).open()).pipe_id == 1

    run(body())


# --- refusals and quirks --------------------------------------------------------------------------------------


def test_a_wrong_token_is_refused(sandbox):
    async def body():
        async with sandbox.client() as client:
            with pytest.raises(Exception, match='Your pipeline is not running'):
                await client.send('tk_unknown', 'text')
            with pytest.raises(RuntimeError, match='Your pipeline is not running'):
                await client.get_task_status('tk_unknown')

    run(body())


def test_a_wrong_provider_is_refused(sandbox):
    async def test(client, token):
        pipe = await client.pipe(token, provider='chat')
        with pytest.raises(Exception, match='You are looking for a "chat", but this pipeline isn\'t it'):
            await pipe.open()

    with_task(sandbox, test)


@pytest.mark.parametrize('key', ['path', 'url', 'flags'])
def test_a_refused_open_is_masked_and_send_says_all_is_well(sandbox, key):
    async def test(client, token):
        assert await client.send(token, 'text', {'name': 'a.txt', key: 'x'}, 'text/plain') == {}

    with_task(sandbox, test)


def test_a_split_character_is_lost_and_the_sdk_says_complete(sandbox, tmp_path):
    # The SDK cuts at 1 MiB, here in the middle of a two-byte character.
    before, after = b'a' * (1024 * 1024 - 1), b'after'
    path = tmp_path / 'split.txt'
    path.write_bytes(before + 'é'.encode() + after)

    async def test(client, token):
        [result] = await client.send_files([str(path)], token)
        assert result['action'] == 'complete'
        assert result['bytes_sent'] == len(path.read_bytes())
        seen = result['result']['sandbox']
        assert seen['bytes'] == 0, 'both halves are no UTF-8 by themselves'
        assert seen['writes'] == 2

    with_task(sandbox, test)


def test_every_cut_shows_in_the_text(sandbox):
    async def test(client, token):
        pipe = await (await client.pipe(token, {'name': 'a.txt'}, 'text/plain')).open()
        await pipe.write(b'one')
        await pipe.write(b'two')
        assert (await pipe.close())['text'] == ['one\n\ntwo\n\n']

    with_task(sandbox, test)


def test_a_close_commits_what_has_arrived(sandbox):
    async def test(client, token):
        pipe = await (await client.pipe(token, {'name': 'cut.bin', 'size': 1000})).open()
        await pipe.write(b'the first half')
        assert (await pipe.close())['sandbox']['sha256'] == sha256(b'the first half')

    with_task(sandbox, test)


def test_a_size_of_zero_is_skipped_as_empty(sandbox):
    async def test(client, token):
        pipe = await (await client.pipe(token, {'name': 'a.txt', 'size': 0}, 'text/plain')).open()
        await pipe.write(b'content')
        result = await pipe.close()
        assert result['name'] == 'a.txt'
        assert 'result_types' not in result and 'text' not in result

    with_task(sandbox, test)


def test_writes_to_a_pipe_that_is_gone_look_like_success(sandbox):
    async def test(client, token):
        pipe = await (await client.pipe(token, {'name': 'a.bin'})).open()
        await pipe.close()
        await pipe.write(b'late')
        pipe._closed = False
        assert await pipe.close() == {}

    with_task(sandbox, test)


def test_pipelined_writes_of_one_pipe_keep_no_order(sandbox):
    async def test(client, token):
        chunks = [bytes([number]) * 64 for number in range(200)]
        pipe = await (await client.pipe(token, {'name': 'a.bin'})).open()
        await asyncio.gather(*(pipe.write(chunk) for chunk in chunks))
        seen = (await pipe.close())['sandbox']
        assert (seen['bytes'], seen['writes']) == (64 * 200, 200), 'nothing is lost'
        assert seen['sha256'] != sha256(b''.join(chunks)), 'but the order is'

    with_task(sandbox, test)
