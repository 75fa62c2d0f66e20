"""What the official SDK hears of the server when it subscribes."""

import asyncio
import time
import uuid

import pytest
from conftest import run

LIMIT = 30  # seconds in which an event must come
NEVER = 1  # seconds in which an event that must not come would have


def pipeline(project):
    return {
        'project_id': project,
        'source': 'webhook_1',
        'components': [{'id': 'webhook_1', 'provider': 'webhook', 'config': {}}],
    }


class Ear:
    """An event callback that remembers."""

    def __init__(self):
        self.events = []

    async def __call__(self, event):
        self.events.append(event)

    def of(self, project, name=None):
        """Events of one pipeline: other tests of this run share the server."""
        its = [event for event in self.events if project in str(event['body']) and event['event'] == (name or event['event'])]
        return [event['body'] for event in its]

    async def until(self, heard):
        end = time.monotonic() + LIMIT
        while not heard():
            assert time.monotonic() < end, f'not heard among {self.events}'
            await asyncio.sleep(0.02)


def with_ear(sandbox, test, limit=60):
    async def body():
        ear = Ear()
        async with sandbox.client(on_event=ear) as client:
            await test(client, ear, str(uuid.uuid4()))

    run(body(), limit)


def test_the_life_of_a_task_and_its_counts(sandbox):
    async def test(client, ear, project):
        await client.add_monitor({'token': '*'}, ['task', 'summary'])
        assert ear.events[0]['body']['action'] == 'running'
        token = (await client.use(pipeline=pipeline(project), name='invoices'))['token']
        for number in range(3):
            await client.send(token, b'data', {'name': f'{number}.bin'})
        await ear.until(lambda: any(body.get('completedCount') == 3 for body in ear.of(project)))
        await client.terminate(token)
        await ear.until(lambda: any(body.get('action') == 'end' for body in ear.of(project)))
        tasks = ear.of(project, 'apaevt_task')
        assert [body['action'] for body in tasks] == ['begin', 'end']
        assert tasks[0] == {'action': 'begin', 'name': 'invoices', 'projectId': project, 'source': 'webhook_1'}
        states = [body['state'] for body in ear.of(project, 'apaevt_status_update')]
        assert states == sorted(states) and {1, 2, 3, 4, 6} <= set(states)
        assert ear.of(project, 'apaevt_status_update')[-1]['completedCount'] == 3

    with_ear(sandbox, test)


def test_an_envelope_as_the_sdk_makes_it(sandbox):
    async def test(client, ear, project):
        await client.add_monitor({'project_id': project, 'source': 'webhook_1'}, ['summary'])
        assert ear.of(project)[0]['state'] == 0, 'not running yet, and said at once'
        await client.use(pipeline=pipeline(project))
        await ear.until(lambda: any(body['state'] == 3 for body in ear.of(project)))
        assert set(ear.events[-1]) == {'type', 'seq', 'event', 'id', 'body'}
        assert ear.events[-1]['id'] == f'{project}.webhook_1'

    with_ear(sandbox, test)


def test_a_subscription_by_token_hears_of_that_task_alone(sandbox):
    async def test(client, ear, project):
        mine = (await client.use(pipeline=pipeline(project)))['token']
        await client.add_monitor({'token': mine}, ['detail', 'summary'])
        other = str(uuid.uuid4())
        theirs = (await client.use(pipeline=pipeline(other)))['token']
        await client.send(theirs, b'data')
        await client.send(mine, b'data')
        await ear.until(lambda: any(body['completedCount'] == 1 for body in ear.of(project)))
        assert ear.of(other) == []

    with_ear(sandbox, test)


def test_who_has_cancelled_hears_nothing_more(sandbox):
    async def test(client, ear, project):
        token = (await client.use(pipeline=pipeline(project)))['token']
        await client.add_monitor({'token': token}, ['summary'])
        await client.remove_monitor({'token': token}, ['summary'])
        await asyncio.sleep(NEVER)
        before = len(ear.events)
        await client.send(token, b'data')
        await asyncio.sleep(NEVER)
        assert len(ear.events) == before

    with_ear(sandbox, test)


def test_the_public_key_of_a_task_hears_nothing(sandbox):
    async def test(client, ear, project):
        started = await client.use(pipeline=pipeline(project))
        async with sandbox.client(auth=started['publicToken']) as guest:
            with pytest.raises(RuntimeError, match='Permission'):
                await guest.add_monitor({'token': '*'}, ['task'])

    with_ear(sandbox, test)


def test_an_unknown_token_cannot_be_subscribed_to(sandbox):
    async def test(client, ear, project):
        with pytest.raises(RuntimeError, match='not running'):
            await client.add_monitor({'token': 'tk_unknown'}, ['task'])

    with_ear(sandbox, test)
