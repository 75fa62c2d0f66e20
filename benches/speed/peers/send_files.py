"""The official SDK's `send_files`, as its user would call it: URI KEY FOLDER. Prints seconds and CPU as a line of JSON."""

import asyncio
import json
import os
import resource
import sys
import time

from rocketride import RocketRideClient

PIPELINE = {
    'project_id': 'speed',
    'source': 'webhook_1',
    'components': [{'id': 'webhook_1', 'provider': 'webhook', 'config': {}}],
}


async def main(uri, key, folder):
    files = sorted(os.path.join(folder, name) for name in os.listdir(folder))
    # It opens every file that it is given at once.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with RocketRideClient(uri=uri, auth=key) as client:
        token = (await client.use(pipeline=PIPELINE, use_existing=True))['token']
        began, cpu = time.perf_counter(), time.process_time()
        results = await client.send_files(files, token)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    failed = [result for result in results if result['action'] != 'complete']
    assert not failed, failed[:3]
    print(json.dumps({'files': len(results), 'bytes': sum(r['bytes_sent'] for r in results), 'seconds': seconds, 'cpu': cpu}))


asyncio.run(main(*sys.argv[1:]))
